"""Worker threads of this process, for work that waits, for interpreters without a GIL, and for the caller lane."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from amorsize_executor import events as ev
from amorsize_executor.backends.base import Capabilities, Chunk, ChunkReport, Reactor, WorkerEvents
from amorsize_executor.records import Lane, Measurement
from amorsize_executor.wire.functions import invoker_of
from amorsize_executor.worker import control_word
from amorsize_executor.worker.run_chunk import run_chunk


class ThreadBackend:
    """Worker threads; calls see the caller's objects themselves."""

    name = "thread"
    lane = Lane.THREADS
    capabilities = Capabilities(can_stop_early=True, reports_running=True, shares_memory=True)
    how = "threads of this process"

    def __init__(
        self,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self._initializer = initializer
        self._initargs = initargs

    def open(self, reactor: Reactor, events: WorkerEvents, emit: ev.Listener) -> None:
        """See ``Backend``."""
        self._reactor, self._events = reactor, events
        emit(ev.PoolStarted(self.how))

    def spawn(self, worker: int) -> ThreadLink:
        """See ``Backend``."""
        return ThreadLink(worker, self._reactor, self._events, self._initializer, self._initargs)

    def foresee_start_up(self) -> None:
        """Say nothing: threads start in no time."""

    def forsake(self) -> None:
        """Do nothing: there is nothing that could still have workers."""

    def close(self, then: Callable[[], None]) -> None:
        """See ``Backend``."""
        then()

    def processes(self) -> dict[int, Any]:
        """There are no processes."""
        return {}


class CallerBackend(ThreadBackend):
    """The caller lane: calls run in the thread that waits for them; unattended ones in a single thread."""

    name = "caller"
    lane = Lane.CALLER
    how = "the caller's own thread"


class ThreadLink:
    """One worker thread and its queue of chunks."""

    def __init__(
        self,
        worker: int,
        reactor: Reactor,
        events: WorkerEvents,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        self.pid = 0
        self.account: tuple[int, int] | None = None
        self._worker = worker
        self._reactor = reactor
        self._events = events
        self._line = control_word.new_line()
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(initializer, initargs), name=f"amorsize-worker-{worker}"
        )
        self._thread.start()

    def send(self, chunk: Chunk) -> list[tuple[int, BaseException]]:
        """Queue a chunk; nothing needs encoding."""
        self._chunks.put(chunk)
        return []

    def stop_before(self, number: int) -> None:
        """Ask the worker not to start the call ``number`` or any later one."""
        self._line[control_word.STOP] = number

    def clear_stop(self) -> None:
        """Let the next chunk run."""
        self._line[control_word.STOP] = control_word.NEVER

    def progress(self) -> tuple[int, int, int]:
        """Return (running call, its start in monotonic ns, one past the last finished call)."""
        line = self._line
        return line[control_word.RUNNING], line[control_word.STARTED_NS], line[control_word.FINISHED]

    def retire(self) -> None:
        """Ask the worker to end once it is idle."""
        self._chunks.put(None)

    def kill(self) -> None:
        """A thread cannot be killed: let it end after the call that it runs."""
        self._line[control_word.STOP] = 0
        self._chunks.put(None)

    # --- the worker's thread ---

    def _run(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        events, worker, soon = self._events, self._worker, self._reactor.call_soon
        self.account = os.getpid(), threading.get_native_id()
        try:
            if initializer is not None:
                try:
                    initializer(*initargs)
                except BaseException as error:  # noqa: BLE001 - whatever it was, the engine must hear of it
                    failure = error
                    soon(lambda: events.initializer_failed(worker, failure))
                    return
            soon(lambda: events.worker_ready(worker, 0))
            idle_since = time.monotonic_ns()
            while (chunk := self._chunks.get()) is not None:
                self._run_groups(chunk, time.monotonic_ns() - idle_since)
                idle_since = time.monotonic_ns()
        finally:
            soon(self._ended)

    def _ended(self) -> None:
        self._thread.join()
        self._events.worker_died(self._worker, 0, by_itself=True)

    def _run_groups(self, chunk: Chunk, gap_ns: int) -> None:
        events, worker = self._events, self._worker
        number = chunk.first
        measures: list[tuple[int, Measurement]] = []
        for group in chunk.groups:
            recorder = _MemoryRecorder(group.first, self._post, chunk.flush_ns)
            invoke = invoker_of(group.function.callable, group.style)
            ran = run_chunk(
                invoke,
                iter(group.items),
                group.first,
                len(group.items),
                self._line,
                recorder,
                chunk.stop_after_errors,
            )
            recorder.flush()
            number = group.first + ran
            if ran:
                measures.append((group.function.number, recorder.measurement()))
            if ran < len(group.items):
                break
        report = ChunkReport(chunk.number, number, measures, 0, gap_ns * 1e-9)
        self._reactor.call_soon(lambda: events.chunk_ended(worker, report))

    def _post(self, first: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        self._reactor.call_soon(lambda: self._events.outcomes_arrived(self._worker, first, values, errors))


class _MemoryRecorder:
    """Keeps outcomes as objects and posts them after every call that is not very short."""

    def __init__(self, first: int, post: Callable[..., None], flush_ns: int) -> None:
        self._first = first
        self._post = post
        self._flush_ns = min(flush_ns, 1_000_000)
        self._values: list[Any] = []
        self._errors: dict[int, BaseException] = {}
        self._flushed_ns = self._began = time.monotonic_ns()
        self._cpu = time.thread_time()
        self._calls = self._squares = self._longest = 0

    def value(self, value: Any, started_ns: int) -> int:
        """Note a result."""
        self._values.append(value)
        return self._count(started_ns)

    def error(self, error: BaseException, started_ns: int) -> int:
        """Note an exception, without the frame of ours at its top."""
        trace = error.__traceback__
        self._errors[len(self._values)] = error.with_traceback(trace.tb_next if trace is not None else None)
        self._values.append(None)
        return self._count(started_ns)

    def _count(self, started_ns: int) -> int:
        now = time.monotonic_ns()
        wall = now - started_ns
        self._calls += 1
        self._squares += wall * wall
        self._longest = max(self._longest, wall)
        if now - self._flushed_ns >= self._flush_ns:
            self.flush()
        return now

    def flush(self) -> None:
        """Post what is finished."""
        values, self._values = self._values, []
        errors, self._errors = self._errors, {}
        first, self._first = self._first, self._first + len(values)
        self._flushed_ns = time.monotonic_ns()
        if values:
            self._post(first, values, errors)

    def measurement(self) -> Measurement:
        """Return what the calls cost."""
        wall_s = (time.monotonic_ns() - self._began) * 1e-9
        cpu_s = time.thread_time() - self._cpu
        waiting_s = max(0.0, wall_s - cpu_s)
        return Measurement(
            self._calls, wall_s, cpu_s, waiting_s, self._squares * 1e-18, self._longest * 1e-9, lane=Lane.THREADS
        )
