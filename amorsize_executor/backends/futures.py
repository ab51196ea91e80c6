"""Any ``concurrent.futures.Executor`` as the place where calls run.

Its workers are its own: as many chunks are with it as the tuner wants workers, each a single call of ``run_remote``
there. A ``ThreadPoolExecutor`` is given the caller's objects; to all others everything travels pickled, since
nobody knows where they run it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from amorsize_executor.backends.base import Capabilities, Chunk, ChunkReport, Group, Reactor, WorkerEvents
from amorsize_executor.events import Listener, PoolStarted
from amorsize_executor.records import Lane
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.tracebacks import decode_error
from amorsize_executor.worker.remote import RemoteGroup, run_here, run_remote

_LANES: dict[type[Executor], Lane] = {ThreadPoolExecutor: Lane.THREADS, ProcessPoolExecutor: Lane.PROCESSES}


class FuturesBackend:
    """Runs chunks on a user's executor, which stays the user's: it is not shut down.

    Args:
        executor: Where chunks are submitted.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.name = type(executor).__name__
        self.lane = next((lane for kind, lane in _LANES.items() if isinstance(executor, kind)), Lane.CLUSTER)
        self.how = f"the workers of a {self.name}"
        is_here = isinstance(executor, ThreadPoolExecutor)
        self.capabilities = Capabilities(isolates=not is_here, shares_memory=is_here)
        self.codec = Codec(None, into_worker=False)

    @property
    def most_workers(self) -> int | None:
        """How many calls the executor runs at once, where it says so."""
        most = getattr(self._executor, "_max_workers", None)
        return most if isinstance(most, int) else None

    def open(self, reactor: Reactor, events: WorkerEvents, emit: Listener) -> None:
        """See ``Backend``."""
        self._reactor, self._events = reactor, events
        emit(PoolStarted(self.how))

    def spawn(self, worker: int) -> FuturesLink:
        """See ``Backend``. A worker is a place in the executor's queue."""
        link = FuturesLink(worker, self._executor, self.codec, self._reactor, self._events)
        self._reactor.call_soon(lambda: self._events.worker_ready(worker, 0))
        return link

    def foresee_start_up(self) -> None:
        """Say nothing: its workers are somebody else's."""

    def forsake(self) -> None:
        """Do nothing: there is nothing that could still have workers."""

    def processes(self) -> dict[int, Any]:
        """The processes are not ours to name."""
        return {}

    def close(self, then: Callable[[], None]) -> None:
        """See ``Backend``."""
        then()


class FuturesLink:
    """At most one chunk at a time on the user's executor."""

    pid = 0
    account = None

    def __init__(self, worker: int, executor: Executor, codec: Codec, reactor: Reactor, events: WorkerEvents) -> None:
        self._worker = worker
        self._executor = executor
        self._codec = codec
        self._reactor = reactor
        self._events = events
        self._sent_at = 0.0
        self._is_killed = self._is_retired = False

    def send(self, chunk: Chunk) -> list[tuple[int, BaseException]]:
        """Submit a chunk; calls that do not pickle are returned with their errors."""
        failures: list[tuple[int, BaseException]] = []
        self._sent_at = time.monotonic()
        if isinstance(self._executor, ThreadPoolExecutor):
            self._submit(run_here, chunk, chunk)
            return failures
        groups = [part for group in chunk.groups for part in self._encode(group, failures)]
        if groups:
            self._submit(run_remote, chunk, groups, chunk.stop_after_errors)
        return failures

    def _encode(self, group: Group, failures: list[tuple[int, BaseException]]) -> list[RemoteGroup]:
        """Return the parts of a group between the calls that do not pickle."""
        try:
            image = group.function.image(self._codec)
        except BaseException as error:  # noqa: BLE001 - a function that does not pickle fails its calls
            failures += [(group.first + index, error) for index in range(len(group.items))]
            return []
        fresh = group.function.is_fresh_per_call
        parts = [RemoteGroup(group.function.number, group.style, group.first, image, fresh, [])]
        for index, item in enumerate(group.items):
            try:
                parts[-1].items.append(self._codec.dumps(item))
            except BaseException as error:  # noqa: BLE001 - arguments that do not pickle fail their call
                failures.append((group.first + index, error))
                first = group.first + index + 1
                parts.append(RemoteGroup(group.function.number, group.style, first, image, fresh, []))
        return [part for part in parts if part.items]

    def _submit(self, function: Callable[..., Any], chunk: Chunk, *args: Any) -> None:
        try:
            future = self._executor.submit(function, *args)
        except BaseException as error:  # noqa: BLE001 - a user's executor may refuse with anything
            refusal = error
            self._reactor.call_soon(lambda: self._fail(chunk, refusal))
            return
        future.add_done_callback(lambda done: self._reactor.call_soon(lambda: self._arrived(chunk, done)))

    def _arrived(self, chunk: Chunk, future: Future[Any]) -> None:
        """Hand in what a chunk brought. Runs in: the dispatcher thread."""
        if self._is_killed:
            return
        try:
            next_number, runs, measures = future.result()
        except BaseException as error:  # noqa: BLE001 - the executor failed the chunk as a whole
            self._fail(chunk, error)
            return
        for first, values, errors in runs:
            self._events.outcomes_arrived(self._worker, first, *self._decode(values, errors))
        ran_s = sum(measure.wall_s for _function, measure in measures)
        gap_s = max(0.0, time.monotonic() - self._sent_at - ran_s)
        report = ChunkReport(chunk.number, next_number, measures, 0, gap_s)
        self._events.chunk_ended(self._worker, report)

    def _decode(self, values: list[Any], errors: dict[int, Any]) -> tuple[list[Any], dict[int, BaseException]]:
        if isinstance(self._executor, ThreadPoolExecutor):
            return values, errors
        decoded: list[Any] = []
        failed = {index: decode_error(self._codec, data) for index, data in errors.items()}
        for index, data in enumerate(values):
            try:
                decoded.append(None if index in failed else self._codec.loads(data))
            except BaseException as error:  # noqa: BLE001 - a result that does not unpickle fails its call
                failed[index] = error
                decoded.append(None)
        return decoded, failed

    def _fail(self, chunk: Chunk, error: BaseException) -> None:
        last = chunk.groups[-1]
        end = last.first + len(last.items)
        count = end - chunk.first
        self._events.outcomes_arrived(self._worker, chunk.first, [None] * count, dict.fromkeys(range(count), error))
        self._events.chunk_ended(self._worker, ChunkReport(chunk.number, end))

    def stop_before(self, number: int) -> None:
        """Nothing can be taken back from here."""

    def clear_stop(self) -> None:
        """Nothing can be taken back from here."""

    def progress(self) -> tuple[int, int, int]:
        """Nobody knows which call runs."""
        return -1, 0, 0

    def retire(self) -> None:
        """Give up the place; once."""
        if self._is_retired:
            return
        self._is_retired = True
        self._reactor.call_soon(lambda: self._events.worker_died(self._worker, 0, by_itself=False))

    def kill(self) -> None:
        """Give up the place; what it runs there runs on, and its outcomes are dropped."""
        self._is_killed = True
        self.retire()
