"""The control word: a line of shared memory per worker that says which call runs and where to stop.

The worker stores ``RUNNING`` and then loads ``STOP``; the parent stores ``STOP``, waits until the worker must
have seen it, and then loads ``RUNNING``. So of any two, at least one sees the other's store, and a call that
is taken back has not started. Numbers count the calls that were ever sent to the worker.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from typing import Any

from amorsize_executor.system import has
from amorsize_executor.wire.segments import MOST

RUNNING, STARTED_NS, STOP, FINISHED = 0, 1, 2, 3
"""Words of a line: the call that runs or ran last; when it started (monotonic ns); the first call not to
start; one past the last finished call."""

NEVER = 1 << 62
LINE_WORDS = 16  # cache lines of its own for each worker: the words, and the flags of segments
SLOTS = 1024
_FLAGS_AT = 64  # bytes


def new_line() -> memoryview:
    """Return a line for a worker that shares this process's memory."""
    return reset(memoryview(bytearray(LINE_WORDS * 8)).cast("q"))


def copy_of(line: memoryview) -> memoryview:
    """Return a line with the same words that shares nothing with the worker."""
    return memoryview(bytearray(line)).cast("q")


def reset(line: memoryview) -> memoryview:
    """Make a line ready for a new worker."""
    line[RUNNING], line[STARTED_NS], line[STOP], line[FINISHED] = -1, 0, NEVER, 0
    return line


def flags_of(line: memoryview, *, into_worker: bool) -> memoryview:
    """Return the flags of the segments that are filled by the parent, or by the worker; a byte each."""
    begin = _FLAGS_AT + (0 if into_worker else MOST)
    return line.cast("B")[begin : begin + MOST]


class ControlBoard:
    """Shared memory with a line for each of ``SLOTS`` workers.

    On POSIX it is an anonymous file whose descriptor is inherited or sent; on Windows a named mapping.
    """

    def __init__(self, handle: Any = None) -> None:
        size = SLOTS * LINE_WORDS * 8
        if sys.platform == "win32":
            self.handle = handle or f"amorsize-{os.getpid()}-{id(self)}"
            self._map = mmap.mmap(-1, size, tagname=self.handle)
        else:
            self.handle = handle if handle is not None else _anonymous_file(size)
            self._map = mmap.mmap(self.handle, size)
        self._words = memoryview(self._map).cast("q")

    def line(self, slot: int) -> memoryview:
        """Return the line of a worker: ``LINE_WORDS`` signed 64-bit words."""
        return self._words[slot * LINE_WORDS : (slot + 1) * LINE_WORDS]

    def close(self) -> None:
        """Let go of the memory and its descriptors; all lines have been let go of."""
        self._words.release()
        self._map.close()
        if sys.platform != "win32" and self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def __reduce__(self) -> tuple[Any, ...]:
        if sys.platform == "win32":
            return ControlBoard, (self.handle,)
        from multiprocessing.reduction import DupFd  # noqa: PLC0415 - only when a start method pickles it

        return _from_descriptor, (DupFd(self.handle),)


def _from_descriptor(descriptor: Any) -> ControlBoard:
    return ControlBoard(descriptor.detach())


def _anonymous_file(size: int) -> int:
    if has("memfd"):
        descriptor = os.memfd_create("amorsize-control", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
