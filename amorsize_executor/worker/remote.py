"""Running a chunk as one call of somebody else's executor, in a process or a thread that we know nothing of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from amorsize_executor.records import Lane, Measurement
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.functions import FunctionCache, invoker_of
from amorsize_executor.wire.tracebacks import encode_error
from amorsize_executor.worker.control_word import new_line
from amorsize_executor.worker.run_chunk import FRAMES_OF_OURS, run_chunk

Run = tuple[int, list[Any], dict[int, Any]]
"""Outcomes of consecutive calls: the first's number, values, and errors by offset."""


@dataclass(slots=True)
class RemoteGroup:
    """Calls of one function, pickled."""

    function: int
    style: int
    first: int
    image: bytes
    is_fresh: bool
    items: list[bytes]


class ListRecorder:
    """Keeps outcomes in memory until the group has ended, and measures them.

    Args:
        codec: Pickles outcomes; None keeps the objects.
        lane: What the measurement says of where they ran.
    """

    def __init__(self, codec: Codec | None, lane: Lane) -> None:
        self._codec = codec
        self._lane = lane
        self.values: list[Any] = []
        self.errors: dict[int, Any] = {}
        self._began, self._cpu = time.monotonic_ns(), time.thread_time()
        self._squares = self._longest = 0

    def value(self, value: Any, started_ns: int) -> int:
        """Note a result."""
        self._count(started_ns)
        if self._codec is not None:
            try:
                value = self._codec.dumps(value)
            except BaseException as error:  # noqa: BLE001 - a result that cannot travel is the call's error
                return self._keep_error(error, 0)
        self.values.append(value)
        return time.monotonic_ns()

    def error(self, error: BaseException, started_ns: int) -> int:
        """Note an exception."""
        self._count(started_ns)
        return self._keep_error(error, FRAMES_OF_OURS)

    def _count(self, started_ns: int) -> None:
        wall = time.monotonic_ns() - started_ns
        self._squares += wall * wall
        self._longest = max(self._longest, wall)

    def _keep_error(self, error: BaseException, skip_frames: int) -> int:
        if self._codec is not None:
            self.errors[len(self.values)] = encode_error(self._codec, error, skip_frames)
        else:
            trace = error.__traceback__
            self.errors[len(self.values)] = error.with_traceback(trace.tb_next if trace is not None else None)
        self.values.append(None)
        return time.monotonic_ns()

    def measurement(self) -> Measurement:
        """Return what the calls cost, since the recorder was made."""
        wall_s = (time.monotonic_ns() - self._began) * 1e-9
        cpu_s = time.thread_time() - self._cpu
        waiting_s = max(0.0, wall_s - cpu_s)
        return Measurement(
            len(self.values), wall_s, cpu_s, waiting_s, self._squares * 1e-18, self._longest * 1e-9, lane=self._lane
        )


def run_remote(
    groups: list[RemoteGroup], stop_after_errors: int = 0
) -> tuple[int, list[Run], list[tuple[int, Measurement]]]:
    """Run pickled groups; return (number of the first call that did not run, runs of outcomes, measurements).

    Runs in: wherever the user's executor runs its calls.
    """
    codec = Codec(None, into_worker=False)
    line, number = new_line(), 0
    runs: list[Run] = []
    measures: list[tuple[int, Measurement]] = []
    for group in groups:
        functions = FunctionCache(codec)
        functions.store(group.function, group.image, fresh=group.is_fresh)
        recorder = ListRecorder(codec, Lane.CLUSTER)
        ran = run_chunk(
            functions.safe_invoker(group.function, group.style),
            _Unpickled(codec, group.items),
            group.first,
            len(group.items),
            line,
            recorder,
            stop_after_errors,
        )
        number = group.first + ran
        runs.append((group.first, recorder.values, recorder.errors))
        measures.append((group.function, recorder.measurement()))
        if ran < len(group.items):
            break
    return number, runs, measures


def run_here(chunk: Any) -> tuple[int, list[Run], list[tuple[int, Measurement]]]:
    """Run a chunk of objects in this thread; returns like ``run_remote``.

    Runs in: a thread of the user's ``ThreadPoolExecutor``.
    """
    line, number = new_line(), chunk.first
    runs: list[Run] = []
    measures: list[tuple[int, Measurement]] = []
    for group in chunk.groups:
        recorder = ListRecorder(None, Lane.THREADS)
        invoke = invoker_of(group.function.callable, group.style)
        ran = run_chunk(
            invoke, iter(group.items), group.first, len(group.items), line, recorder, chunk.stop_after_errors
        )
        number = group.first + ran
        runs.append((group.first, recorder.values, recorder.errors))
        measures.append((group.function.number, recorder.measurement()))
        if ran < len(group.items):
            break
    return number, runs, measures


class _Unpickled(Iterator[Any]):
    def __init__(self, codec: Codec, items: list[bytes]) -> None:
        self._codec = codec
        self._items = iter(items)

    def __next__(self) -> Any:
        return self._codec.loads(next(self._items))
