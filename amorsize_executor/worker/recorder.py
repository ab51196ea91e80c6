"""What a worker process remembers of finished calls until it sends them home.

Results are pickled at once, because a call may return the same mutable object again; plain scalars are kept
as they are and pickled together. What is finished goes home when a chunk ends, every ``flush_ns`` of work,
and, by a thread that sleeps otherwise, at least every ``LATEST_S`` seconds while a long call runs.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
from array import array
from collections.abc import Sequence
from importlib import import_module
from operator import mul
from typing import Any

from amorsize_executor.wire import framing
from amorsize_executor.wire.buffers import Layout, gather, set_aside
from amorsize_executor.wire.codec import PLAIN, Codec, are_plain
from amorsize_executor.wire.reach import is_exactly
from amorsize_executor.wire.segments import Placed, SegmentPool
from amorsize_executor.wire.tracebacks import encode_error
from amorsize_executor.worker.run_chunk import FRAMES_OF_OURS

NUMBERS = PLAIN - {str, bytes}

resource: Any = None  # Windows has no such module
with contextlib.suppress(ImportError):
    resource = import_module("resource")

VALUE, ERROR, UNREADABLE = 0, 1, 2
"""How a call ended: well, with an exception, or not at all, because its arguments did not unpickle."""

LATEST_S = 0.06  # later than the main thread does it between calls
MOST_BYTES = 1 << 20
_SHORT_S = 5e-4
"""A group of calls that ends sooner is too short to tell waiting from standing in line."""

_NUMBER_BYTES = 5  # of a small one in a pickle

_LEAST_WAITING = 0.1  # less changes nothing
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class Encoded:
    """An outcome that is already bytes."""

    __slots__ = ("blobs", "layout", "placed")

    def __init__(self, layout: Layout, blobs: list[framing.Bytes], placed: Sequence[Placed] = ()) -> None:
        self.layout = layout
        self.blobs = blobs
        self.placed = placed


class PipeRecorder:
    """Sends outcomes through the worker's socket, with measurements at the end of each chunk.

    The main thread appends and measures; flushing may be done by either thread, under the lock.
    """

    def __init__(self, send: Any, codec: Codec, pool: SegmentPool | None = None) -> None:
        self._send = send
        self._codec = codec
        self._pool = pool
        self._lock = threading.Lock()
        self._out: list[Any] = []
        self._first = 0
        self._pending_bytes = 0
        self._flush_ns = self._flushed_ns = 0
        self._statm = open_statm()
        self._baseline = read_resident_bytes(self._statm)
        self._meter = Meter()
        self._add = self._meter.walls.append
        self._measures: list[tuple[Any, ...]] = []
        self._is_running_chunk = threading.Event()
        self._flusher: threading.Thread | None = None
        self.unreadable: BaseException | None = None

    # --- what run_chunk asks for ---

    def value(self, value: Any, started_ns: int) -> int:
        """Note a result."""
        now = time.monotonic_ns()
        self._add(now - started_ns)
        if is_exactly(value, NUMBERS):
            self._out.append(value)
        elif type(value) is str or type(value) is bytes:
            self._out.append(value)
            self._count_bytes(len(value))
        else:
            self._out.append(self._encode(value))
            now = time.monotonic_ns()
        if now - self._flushed_ns < self._flush_ns and self._pending_bytes < MOST_BYTES:
            return now
        self.flush()
        return time.monotonic_ns()

    def error(self, error: BaseException, started_ns: int) -> int:
        """Note an exception."""
        self._add(time.monotonic_ns() - started_ns)
        kind, self.unreadable = (UNREADABLE if error is self.unreadable else ERROR), None
        self._out.append(self._encode_error(error, FRAMES_OF_OURS, kind))
        if time.monotonic_ns() - self._flushed_ns >= self._flush_ns or self._pending_bytes >= MOST_BYTES:
            self.flush()
        return time.monotonic_ns()

    # --- what the worker's loop asks for ---

    def note_unpickling(self, nanoseconds: int) -> None:
        """Note that a call's arguments took so long to unpickle, which is not the call's own time."""
        self._meter.unpickling_ns += nanoseconds

    def begin_chunk(self, first: int, calls: int, flush_ns: int) -> None:
        """Start a chunk whose first call has the number ``first``."""
        with self._lock:
            self._first = first
        self._flush_ns = flush_ns
        self._flushed_ns = time.monotonic_ns()
        if calls > 1:
            self._is_running_chunk.set()
            if self._flusher is None:
                flusher = threading.Thread(target=self._flush_now_and_then, name="amorsize-flusher", daemon=True)
                with contextlib.suppress(RuntimeError):  # no room for a thread: outcomes go home between calls only
                    flusher.start()
                    self._flusher = flusher

    def begin_group(self, first: int) -> None:
        """Go on with calls of one function; the first has the number ``first``."""
        if first != self._first + len(self._out):
            self.flush()
            with self._lock:
                self._first = first
        self._meter.start()

    def end_group(self, function: int) -> None:
        """Close the measurement of the group's function."""
        if self._meter.walls:
            self._measures.append((function, *self._meter.read()))

    def end_chunk(self, chunk: int, next_number: int, gap_ns: int) -> None:
        """Send what is left and say that the chunk has ended before the call ``next_number``."""
        self._is_running_chunk.clear()
        growth = max(0, read_resident_bytes(self._statm) - self._baseline)
        peak = max(growth, peak_bytes() - self._baseline)
        measures, self._measures = self._measures, []
        self._flush((chunk, next_number, measures, growth, peak, gap_ns), self._pool)

    def flush(self) -> None:
        """Send what is finished."""
        self._flush(None, self._pool)

    def _flush(self, end: tuple[Any, ...] | None, pool: SegmentPool | None) -> None:
        """Send what is finished. Any thread; only the main one has a ``pool``, whose segments go out in their order."""
        with self._lock:
            count = len(self._out)
            if not count and end is None:
                return
            batch = self._out[:count]
            del self._out[:count]
            layout, blobs, placed = lay_out(batch)
            blobs, are_apart = gather(blobs, placed, pool)
            first, self._first = self._first, self._first + count
            self._pending_bytes = 0
            self._flushed_ns = time.monotonic_ns()
            pieces = framing.frame(framing.OUTCOMES, (first, count, layout, end, placed, are_apart), blobs)
            self._send(pieces, self._pool.descriptors(placed) if placed and self._pool is not None else ())

    def _flush_now_and_then(self) -> None:
        while True:
            self._is_running_chunk.wait()
            left_s = LATEST_S - (time.monotonic_ns() - self._flushed_ns) * 1e-9
            if left_s > 0:
                time.sleep(left_s)
            else:
                self._flush(None, None)
                self._flushed_ns = time.monotonic_ns()  # even if there was nothing

    def _encode(self, value: Any) -> Encoded:
        buffers: list[pickle.PickleBuffer] = []
        try:
            data = self._codec.dumps(value, buffers)
            if not buffers:  # as a rule
                self._count_bytes(len(data))
                return Encoded((VALUE, len(data)), [data])
            aside = set_aside(buffers, self._pool)
            # A call may go on with what it has returned, and write under a read-only view: what travels later is
            # copied now, as a pickle would.
            raws = [bytes(raw) for raw in aside.raws]
        except BaseException as error:  # noqa: BLE001 - a result that cannot travel is the call's error
            return self._encode_error(error, 0, ERROR)
        self._count_bytes(len(data) + aside.nbytes)
        return Encoded((VALUE, len(data), *aside.layout), [data, *raws], aside.placed)

    def _encode_error(self, error: BaseException, skip_frames: int, kind: int) -> Encoded:
        data = encode_error(self._codec, error, skip_frames)
        self._count_bytes(len(data))
        return Encoded((kind, len(data)), [data])

    def _count_bytes(self, size: int) -> None:
        """Count what an outcome that is no number weighs, for its function and until the next flush."""
        self._pending_bytes += size
        self._meter.weighed += 1
        self._meter.bytes_out += size


def lay_out(batch: list[Any]) -> tuple[Any, list[framing.Bytes], list[Placed]]:
    """Return (layout, blobs, buffers in segments) of outcomes; the layout is None where all travel in one pickle."""
    if are_plain(batch):
        return None, [pickle.dumps(batch, 5)], []
    layout: list[Layout] = []
    blobs: list[framing.Bytes] = []
    placed: list[Placed] = []
    for item in batch:
        if type(item) is not Encoded:
            data = pickle.dumps(item, 5)
            item = Encoded((VALUE, len(data)), [data])  # noqa: PLW2901
        layout.append(item.layout)
        blobs += item.blobs
        placed += item.placed
    return layout, blobs, placed


class Meter:
    """Measures the calls of a group: wall per call, processor time and waiting per group.

    Attributes:
        walls: What the group's calls took, in ns. Looking at each at the end costs less than after every call.
        weighed: How many outcomes ``bytes_out`` counts; the others are numbers.
        unpickling_ns: Of what ``walls`` says, the time that arguments took to arrive as objects.
    """

    def __init__(self) -> None:
        self.walls = array("q")
        self.weighed = self.bytes_out = self.unpickling_ns = 0
        self._schedstat = open_schedstat()
        self._was_short = False
        self._queued_ns: int | None = None
        self._delayed_ns = 0

    def start(self) -> None:
        """Begin a group. After a short one, time in line is not looked at: that costs more than such a group."""
        del self.walls[:]
        self.weighed = self.bytes_out = self.unpickling_ns = 0
        self._queued_ns = None if self._was_short else self._run_delay_ns()
        self._cpu, self._from = cpu_seconds(), time.monotonic_ns()

    def read(self) -> tuple[float, ...]:
        """Return (calls, wall_s, cpu_s, waiting_s, squares_s2, longest_s, bytes_out, beside_s)."""
        window = (time.monotonic_ns() - self._from) * 1e-9
        cpu = cpu_seconds() - self._cpu
        self._was_short = window < _SHORT_S
        waiting = 0.0  # where nobody knows how much of the time it stood in line
        if self._queued_ns is not None and not self._was_short:
            waiting = max(0.0, window - cpu - (self._run_delay_ns() - self._queued_ns) * 1e-9)
            if waiting > _LEAST_WAITING * window:
                waiting = max(0.0, waiting - self._others_delay_ns() * 1e-9)
        walls, whole = self.walls, sum(self.walls)
        share = max(0.0, 1.0 - self.unpickling_ns / whole) if self.unpickling_ns and whole else 1.0
        wall = whole * share * 1e-9
        return (
            len(walls),
            wall,
            max(0.0, cpu - self.unpickling_ns * 1e-9),
            waiting,
            sum(map(mul, walls, walls)) * share * share * 1e-18,
            max(walls) * share * 1e-9,
            self.bytes_out + _NUMBER_BYTES * (len(walls) - self.weighed),
            max(0.0, window - wall),
        )

    def _run_delay_ns(self) -> int:
        """Return how long this thread has stood in line for a processor; 0 where that is not known."""
        return 0 if self._schedstat is None else int(os.pread(self._schedstat, 64, 0).split()[1])

    def _others_delay_ns(self) -> int:
        """Return how long other threads, which may hold the interpreter, have stood in line since it was asked last."""
        if self._schedstat is None:
            return 0
        delay, own = 0, str(threading.get_native_id())
        for name in os.listdir("/proc/self/task"):
            if name != own:
                with contextlib.suppress(OSError), open(f"/proc/self/task/{name}/schedstat", "rb", 0) as file:
                    delay += int(file.read().split()[1])
        before, self._delayed_ns = self._delayed_ns, delay
        return max(0, delay - before)


def cpu_seconds() -> float:
    """Return this process's processor seconds, with those of reaped children where the system counts them."""
    if resource is None:
        return time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + float(children.ru_utime + children.ru_stime)


def open_schedstat() -> int | None:
    """Open the scheduler's account of this thread, where there is one."""
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def open_statm() -> int | None:
    """Open the kernel's account of this process's memory, where there is one."""
    try:
        return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def read_resident_bytes(statm: int | None) -> int:
    """Return this process's resident memory, as ``open_statm`` has it; 0 where it cannot be told cheaply."""
    return 0 if statm is None else int(os.pread(statm, 128, 0).split()[1]) * PAGE


def resident_bytes() -> int:
    """Return this process's resident memory; 0 where it cannot be told cheaply."""
    statm = open_statm()
    if statm is None:
        return 0
    try:
        return read_resident_bytes(statm)
    finally:
        os.close(statm)


def peak_bytes() -> int:
    """Return the most resident memory that this process has had; 0 where it cannot be told cheaply."""
    if resource is None:
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
