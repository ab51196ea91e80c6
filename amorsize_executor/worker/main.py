"""A worker process: reads frames, runs chunks, sends outcomes, until it is told to end or its parent is gone."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from amorsize_executor.system import let_interrupts_through
from amorsize_executor.wire import framing, main_module
from amorsize_executor.wire.buffers import blobs_of, bring_back, check_all_came, send_all
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.functions import FunctionCache
from amorsize_executor.wire.segments import SegmentMap, SegmentPool
from amorsize_executor.wire.tracebacks import encode_error
from amorsize_executor.worker.control_word import flags_of
from amorsize_executor.worker.recorder import PipeRecorder
from amorsize_executor.worker.run_chunk import run_chunk

depth = 0
"""Executors above this process: 0 in a user's program, 1 in its workers."""

_OOM_SCORE = 300  # how much sooner than its parent the kernel kills a worker


def work(
    connection: socket.socket,
    line: Any,
    snapshot: main_module.MainSnapshot | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    parent_depth: int = 0,
) -> None:
    """Serve one parent until it says EXIT or hangs up.

    Args:
        connection: A stream socket.
        line: The control line.
        snapshot: The ``__main__`` that this process was forked with, or None.
        initializer: Called once before anything else; its failure is reported and ends the worker.
        initargs: Its arguments.
        parent_depth: The depth of the process that this one works for.
    """
    global depth  # noqa: PLW0603
    depth = parent_depth + 1
    connection.setblocking(True)  # noqa: FBT003 - whatever socket.setdefaulttimeout says
    signal.signal(signal.SIGINT, _ignore_interrupt)
    let_interrupts_through()
    settle_in(snapshot)
    codec = Codec(snapshot, into_worker=False)

    def send(pieces: list[framing.Bytes], descriptors: Sequence[int] = ()) -> None:
        send_all(connection, pieces, list(descriptors))

    with contextlib.suppress(ConnectionError):  # the parent is gone: nothing is left to do
        if initializer is not None:
            try:
                initializer(*initargs)
            except BaseException as error:
                import logging  # noqa: PLC0415 - most workers never need it

                logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
                send(framing.frame(framing.INITIALIZER_FAILED, (), [encode_error(codec, error, 1)]))
                return
        send(framing.frame(framing.READY, (os.getpid(),)))
        _Worker(connection, line, codec, send).serve()


def settle_in(snapshot: main_module.MainSnapshot | None) -> None:
    """Make the process its own: fresh random seeds, last in line for memory, what it inherited of ``__main__``."""
    main_module.inherit(snapshot)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    try:
        with open("/proc/self/oom_score_adj", "r+b", 0) as file:  # a codec would be imported
            score = int(file.read())
            file.seek(0)
            file.write(b"%d" % min(1000, score + _OOM_SCORE))
    except OSError:  # not Linux, or not allowed: the kernel chooses as it does for all
        return


def _ignore_interrupt(_number: int, _frame: object) -> None:
    """Ctrl-C is the parent's business. Not SIG_IGN: subprocesses would inherit that."""


class _Worker:
    def __init__(self, connection: socket.socket, line: Any, codec: Codec, send: Callable[[Any], None]) -> None:
        self._connection = connection
        self._line = line
        self._codec = codec
        self._send = send
        self._functions = FunctionCache(codec)
        self._map = SegmentMap(flags_of(line, into_worker=True))
        self._pool = SegmentPool(flags_of(line, into_worker=False))
        self._recorder = PipeRecorder(send, codec, self._pool)

    def serve(self) -> None:
        idle_since = time.monotonic_ns()
        receive_into = partial(self._map.receive_into, self._connection)
        for kind, meta, blobs in frames_from(receive_into, framing.FrameReader()):
            if kind == framing.CALLS:
                self._run(meta, blobs, time.monotonic_ns() - idle_since)
                flush_stdio()
                idle_since = time.monotonic_ns()
            elif kind == framing.FUNCTION:
                number, fresh = meta
                self._functions.store(number, bytes(blobs), fresh=fresh)
            elif kind == framing.FORGET:
                self._functions.drop(meta[0])
            elif kind == framing.TRIM:
                self._map.drop(meta[0])
                self._send(framing.frame(framing.TRIMMED, (self._pool.trim(),)))
            elif kind == framing.EXIT:
                return

    def _run(self, meta: tuple[Any, ...], blobs: memoryview, gap_ns: int) -> None:
        """Run a chunk: groups of calls, each group of one function."""
        chunk, flush_ns, stop_after_errors, groups, placed, are_apart = meta
        first = groups[0][2]
        last = groups[-1]
        self._recorder.begin_chunk(first, last[2] + last[3] - first, flush_ns)
        arrived = self._map.open(placed)
        blobs = blobs_of(blobs, arrived, are_apart=are_apart)
        offset, number = 0, first
        for function, style, number, count, layout, size in groups:
            data = blobs[offset : offset + size]
            items = (
                iter(pickle.loads(data))
                if layout is None
                else _Items(self._codec, layout, data, arrived, self._recorder)
            )
            offset += size
            self._recorder.begin_group(number)
            ran = run_chunk(
                self._functions.safe_invoker(function, style),
                items,
                number,
                count,
                self._line,
                self._recorder,
                stop_after_errors,
            )
            self._recorder.end_group(function)
            number += ran  # noqa: PLW2901
            if ran < count:
                break
        self._recorder.end_chunk(chunk, number, gap_ns)


def frames_from(receive_into: Callable[[memoryview], int], reader: framing.FrameReader) -> Iterator[framing.Frame]:
    """Yield frames until the other side hangs up."""
    while True:
        count = receive_into(reader.target())
        if not count:
            return
        yield from reader.received(count)


class _Items(Iterator[Any]):
    """A group's arguments, each unpickled when its call is about to start, so that a failure is that call's.

    The layout tells per item the pickle's size and those of its buffers, as ``buffers`` has them.
    """

    def __init__(
        self,
        codec: Codec,
        layout: list[Any],
        blobs: memoryview,
        arrived: deque[memoryview | None],
        recorder: PipeRecorder,
    ) -> None:
        self._recorder = recorder
        self._codec = codec
        self._layout = iter(layout)
        self._blobs = blobs
        self._arrived = arrived
        self._offset = 0

    def __next__(self) -> Any:
        size, *beside = next(self._layout)
        began_ns = time.monotonic_ns()
        begin, end = self._offset, self._offset + size
        buffers: list[memoryview | None] = []
        self._offset = end
        if beside:
            buffers, self._offset = bring_back(beside, self._blobs, end, self._arrived)
        try:
            check_all_came(buffers)
            return self._codec.loads(self._blobs[begin:end], buffers)
        except BaseException as error:
            self._recorder.unreadable = error
            raise
        finally:
            self._recorder.note_unpickling(time.monotonic_ns() - began_ns)


def flush_stdio() -> None:
    """Let what a call printed be seen now."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed or replaced by the user
            stream.flush()
