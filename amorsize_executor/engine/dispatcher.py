"""The engine: one dispatcher thread owns all state, and this is its loop.

    caller's threads                     dispatcher thread                          workers
    submit/map ─► span ─► _intake ─────► _take_in ─► queue
                                         _assign  ─► tuner: lane, workers, chunk
                                                     chunk ─► link.send ──pipe──►   run_chunk
    result()/next() ◄── deliver ◄─────── outcomes_arrived ◄──────────────pipe────   recorder
    (may help: claim, run, settle)       chunk_ended, worker_died, timers

Everything below is guarded by ``lock``: the dispatcher holds it while it works and never while it waits or runs
a user's callbacks; a caller that helps takes it for the moment of claiming calls and of handing in outcomes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from amorsize_executor import events as ev
from amorsize_executor.backends.base import FLUSH_NS, Backend, ChunkReport
from amorsize_executor.engine.balance import Balance
from amorsize_executor.engine.claim import Claim, clock_of_this_thread
from amorsize_executor.engine.crew import Worker
from amorsize_executor.engine.helper import Helper
from amorsize_executor.engine.interrupts import interrupts_waiting
from amorsize_executor.engine.lifetime import is_ours
from amorsize_executor.engine.losses import Losses
from amorsize_executor.engine.reactor import EventLoop
from amorsize_executor.engine.span import Span, WorkQueue
from amorsize_executor.engine.staffing import Staffing
from amorsize_executor.engine.stream import Stream
from amorsize_executor.records import Measurement
from amorsize_executor.tuning.planner import Tuner
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.functions import Function, FunctionTable

if TYPE_CHECKING:
    from amorsize_executor.engine.gate import Gate
    from amorsize_executor.engine.pipeline import Pipeline

_TICK_S = 0.005
_AHEAD_S = 1.2e-9 * FLUSH_NS
"""A worker that will be done so soon gets its next chunk: it is heard of again when it has worked for ``FLUSH_NS``."""

_AHEAD_BYTES = 65_536
"""Calls with more bytes are not sent ahead: the memory that they pass through had better be the same again."""


class Settings(NamedTuple):
    """What the user asked for."""

    may_help: bool = True
    max_tasks_per_child: int | None = None
    on_worker_death: str = "retry"
    worker_death_retries: int = 1
    prestart: int = 0


class Engine:
    """Runs calls on a backend's workers, as many and in such chunks as the tuner says.

    Args:
        backend: Where workers live.
        tuner: Decides; only ever asked under ``lock``.
        settings: What the user asked for.
        emit: Hears events.

    Attributes:
        at_end: Called once by the dispatcher when all is done, if it was ever started; what it raises is logged.
    """

    def __init__(self, backend: Backend, tuner: Tuner, settings: Settings, emit: ev.Listener) -> None:
        self.backend = backend
        self.tuner = tuner
        self.settings = settings
        self.emit = emit
        self.lock = threading.Lock()
        self.helper = Helper(self)
        self._no_codec = Codec(None, into_worker=True)  # for backends that pickle nothing
        self.functions = FunctionTable(lambda: self.codec)
        self.queue = WorkQueue()
        self.staffing = Staffing(self)
        self.workers = self.staffing.workers
        self.claims: list[Claim] = []
        self.counts: Counter[str] = Counter()
        self.broken: str | None = None
        self._broken_cause: BaseException | None = None
        self.pid = os.getpid()
        self.loop = EventLoop()
        self.is_shut_down = False
        self.has_ended = False
        self.is_started = False
        self.thread: threading.Thread | None = None
        self.clock: int | None = None  # of the dispatcher's processor time
        self.ended = threading.Event()
        self.at_end: Callable[[], None] | None = None
        self._start_lock = threading.RLock()
        self._is_starting = False
        self._foresees = False
        self._intake: deque[Span | Callable[[], None]] = deque()
        self._deliveries: list[Callable[[], object]] = []
        self.losses = Losses(self)
        self._balance = Balance(self)
        self._gate: Gate | None = None
        self._first: Callable[..., Any] | None = None
        self._last_chunk = 0
        self.fresh_since: float | None = None
        self._is_ticking = False
        self._is_closing = False
        self.is_cancelling = False

    # --- for callers: any thread ---

    def adopt(self) -> bool:
        """Make a copy that came with a fork this process's own, if nothing was started or waits; return whether."""
        waits = any(map(self._is_wanted, self._intake)) or bool(self.claims) or self._gate is not None
        if self.is_started or self._is_starting or waits or self.lock.locked():
            return False
        self.pid, self._start_lock = os.getpid(), threading.RLock()
        return True

    @property
    def codec(self) -> Codec:
        """How calls are pickled: what of ``__main__`` goes by name depends on how workers were started."""
        return getattr(self.backend, "codec", self._no_codec)

    def start(self, first: Callable[..., Any] | None = None) -> None:
        """Open the backend in this thread and start the dispatcher; at the first call only.

        Args:
            first: The function that is about to be called; None where its calls were enqueued.
        """
        if self.is_started:
            return
        with self._start_lock, interrupts_waiting():
            # In one line: a signal handler that submits may come between any two.
            was_starting, self._is_starting = self._is_starting, True
            if self.is_started or was_starting:
                return
            try:
                if self.is_shut_down:
                    message = "cannot schedule new futures after shutdown"
                    raise RuntimeError(message)
                self._first = first
                self.tuner.look_at_machine()  # here: each read costs a dispatcher whose caller computes the lock
                self.loop.open()
                try:
                    self.backend.open(self, self, self.emit)
                except BaseException:  # the next call tries anew
                    self.loop.close()
                    raise
                self._foresee_start_up()
                thread = threading.Thread(target=self._run, name="amorsize-dispatcher")
                try:
                    for _ in range(self.settings.prestart):
                        self.staffing.spawn()
                    thread.start()
                except BaseException:  # no dispatcher will ever end what the backend has begun
                    self.is_shut_down = True
                    self.loop.wake()
                    self._run()  # here and now, to let go of the backend
                    raise
                self.thread, self.is_started = thread, True
                self.loop.wake()  # for what a signal handler has submitted meanwhile
            finally:
                self._is_starting, self._first = False, None

    def open(self, pipeline: Pipeline) -> None:
        """Open the layers that calls are about to pass. Runs in: the caller's thread.

        Raises:
            Exception: What a layer raises that cannot be opened.
        """
        with self._start_lock:
            if self._gate is None:
                self._gate = make_gate(self)
        self._gate.open(pipeline)

    def may_doze(self, function: Function) -> bool:
        """Tell whether nothing has to be started yet for calls of a function that a ``map`` asks for.

        They leave no trace, so nobody can tell whether they run now or when their results are wanted. Their caller
        runs them; as soon as the tuner wants workers for them, it starts everything.
        """
        return self.is_started or (
            self.settings.may_help and self.backend.capabilities.isolates and function.leaves_no_trace
        )

    def enqueue(self, span: Span) -> None:
        """Take in calls. Never blocks; safe in signal handlers and ``__del__``.

        Raises:
            RuntimeError: The executor has ended meanwhile; a ``BrokenProcessPool`` if it was broken.
        """
        for entry in () if self.is_started else self._intake.copy():
            if self._is_wanted(entry):
                break
            with contextlib.suppress(ValueError):  # another thread has removed it
                self._intake.remove(entry)
        self._intake.append(span)
        if self._is_closing or self.has_ended:
            try:
                self._intake.remove(span)
            except ValueError:  # the dispatcher's last look found it and has resolved it
                return
            if self.broken is not None:
                raise self._broken_error()
            message = "cannot schedule new futures after shutdown"
            raise RuntimeError(message)
        self.loop.wake()

    @staticmethod
    def _is_wanted(entry: Span | Callable[[], None]) -> bool:
        return not isinstance(entry, Span) or (len(entry) > 0 and entry.source.is_wanted())

    def rouse(self) -> None:
        """Start what dozes, unless it was shut down: then callers do what is left."""
        if not self.is_shut_down:
            self.start()

    def reconsider(self, stream: Stream) -> None:
        """Start what dozes if the tuner thinks that the stream's caller had better not go on alone."""
        with self.lock:
            self._foresee_start_up()
            left = None if stream.is_lazy else sum(map(len, stream.spans))
            if left == 0:
                return
            stays = self.tuner.prefers_caller(stream.function.key, remaining=left, ready_workers=0)
        if not stays:
            self.rouse()

    def _foresee_start_up(self) -> None:
        """Have the tuner know what starting workers will take, once."""
        if not self._foresees:
            self._foresees = True
            seconds = self.backend.foresee_start_up()
            if seconds is not None:
                self.tuner.expect_start_up(seconds)

    def command(self, action: Callable[[], None]) -> None:
        """Have ``action`` done by the dispatcher, under the lock, after what was enqueued before."""
        if is_ours(self):  # a child of a fork has no dispatcher, and a thread that it has not may hold a lock of ours
            self._intake.append(action)
            self.loop.wake()

    def note_cancelled(self, future: Any) -> None:
        """A future was cancelled before its call travelled: forget the call and tell who waits."""
        self.command(lambda: self._drop_cancelled(future))

    def note_closed(self, span: Span) -> None:
        """Nobody wants a span's calls any more."""
        if self.is_started:
            self.command(lambda: self._discard(span))

    def shut_down(self, *, cancel: bool) -> None:
        """Accept no more; end when all is done, or at once with what has started."""
        self.is_shut_down = True
        with self._start_lock:  # nobody is half-way through start, except a frame below this signal handler
            if not self.is_started and not self._is_starting:
                self.has_ended = True
                if cancel:
                    self.is_cancelling = True
                    self._leave_nothing()  # else who asks for results of calls that leave no trace still gets them
                self.ended.set()
                return
        if self.has_ended:
            return
        if cancel:
            self.command(self._cancel_waiting)
        self.loop.wake()

    def kill_workers(self, reason: str) -> None:
        """End all workers now; what they run fails, what waits is cancelled."""
        self.command(self._cancel_waiting)
        self.command(lambda: self.break_down(reason))

    def processes(self) -> dict[int, Any]:
        """Return the workers' processes by process id, for white-box readers: those that still take calls.

        Where calls need a process and there is none yet, wait for it.
        """
        while self.is_started and not self.has_ended and self.backend.capabilities.isolates:
            has_work = bool(self._intake or self.queue.count or self.workers)
            if not has_work or self.backend.processes():
                break
            self.ended.wait(0.001)
        going = {worker.pid for worker in list(self.workers.values()) if worker.is_retiring}
        return {pid: process for pid, process in self.backend.processes().items() if pid not in going}

    def calls_waiting(self) -> int:
        """Count the calls that nobody has: just submitted, queued, held, or about to run again. Without the lock."""
        new = sum(len(entry) for entry in self._intake.copy() if isinstance(entry, Span) and entry.source.is_wanted())
        held = 0 if self._gate is None else self._gate.held_calls
        return new + self.queue.count + len(self.losses.suspects) + held

    def calls_running(self) -> int:
        """Count the calls that workers or helping callers have in hand. Without the lock."""
        sent = sum(len(span) for worker in list(self.workers.values()) for _, span in worker.in_hand.copy())
        return sent + sum(claim.limit for claim in self.claims.copy() if not claim.is_settled)

    def window(self, stream: Stream) -> int:
        """Return how many calls an ``imap`` keeps asked for and not taken, to keep the workers busy."""
        workers = max(len(self.workers), 1)
        chunk = stream.chunksize or self.tuner.foresee_chunk(stream.function.key, workers=workers)
        return min(max(4 * workers * chunk, 16), 65_536)

    # --- the reactor, as backends see it ---

    def watch(self, descriptor: int, callback: Callable[[int], None], *, write: bool = False) -> None:
        """See ``Reactor``."""
        self.loop.watch(descriptor, callback, write=write)

    def unwatch(self, descriptor: int) -> None:
        """See ``Reactor``."""
        self.loop.unwatch(descriptor)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """See ``Reactor``."""
        self.loop.call_soon(callback)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """See ``Reactor``."""
        self.loop.call_later(seconds, callback)

    # --- the dispatcher's thread ---

    def _run(self) -> None:
        self.clock = clock_of_this_thread()
        try:
            while not self.has_ended:
                try:
                    self._deliver(self._step(self.loop.wait()))
                except BaseException as error:
                    if self.broken is not None:
                        raise
                    ev.logger.exception("amorsize_executor: the dispatcher failed")
                    with self.lock:
                        self.break_down(f"the dispatcher failed: {error!r}", error)
        finally:
            self.clock, self.has_ended = None, True
            self._leave_nothing()
            if self._gate is not None:
                self._gate.close()
            if self.at_end is not None:
                self._deliver([self.at_end])
            self.loop.close()
            self.thread = None  # an engine lives until it is collected; its thread need not
            self.ended.set()

    def _step(self, ready: list[Any]) -> list[Callable[[], object]]:
        """Do all that there is to do; return what is to be delivered when the lock is free."""
        with self.lock:
            self.loop.run(ready)
            self._take_in()
            self._assign()
            self._maybe_end()
            deliveries, self._deliveries = self._deliveries, []
            return deliveries

    @staticmethod
    def _deliver(deliveries: list[Callable[[], object]]) -> None:
        """Deliver outcomes, in a frame of its own: what was delivered must not stay alive while we wait."""
        for deliver in deliveries:
            try:
                deliver()
            except BaseException:  # noqa: BLE001 - a callback raised what Future does not catch: no reason to end all others
                ev.logger.exception("amorsize_executor: a callback failed")

    def _take_in(self) -> None:
        while self._intake:
            entry = self._intake.popleft()
            if isinstance(entry, Span):
                if self.broken is not None:
                    self.fail_all([entry])
                    continue
                if not self.queue.count:
                    self.fresh_since = time.monotonic()
                self.queue.push(entry)
            else:
                entry()

    def _assign(self) -> None:
        """Start workers, fill idle ones, and take tails back for those that have nothing to do."""
        if self.broken is not None or self._is_closing:
            return
        if not self.queue.count and not self.losses.suspects:
            self.fresh_since = None
            self.staffing.end_relief()
            self.staffing.relieve()
            self._balance.even_out()
            return
        if self.helper.is_left_to_caller():
            self.tick()
            return
        idle = self.staffing.idle()
        if len(idle) < self.queue.count or self.losses.suspects or not idle[0].is_ready:
            self.staffing.adjust()
            idle = self.staffing.idle()
        for worker in idle:
            if not (self.queue.count or self.losses.suspects):
                break
            if self._gate is None or self.losses.suspects or self._gate.has_room(worker):
                self._send(worker)
        self._send_ahead()
        self.staffing.relieve()
        self._balance.even_out()

    def remaining(self, head: Span) -> int | None:
        """Return how many calls are left, or None where an ``imap`` still pulls more."""
        return None if getattr(head.source, "is_lazy", False) else self.queue.count

    def note_helped(self, function: Function, measurement: Measurement, failed: int) -> None:
        """Account for calls that a caller ran. Under the lock."""
        self.counts["done"] += measurement.calls
        self.counts["helped"] += measurement.calls
        self.counts["failed"] += failed
        self.tuner.observe(function.key, measurement, now_s=time.monotonic(), function_bytes=function.weight)

    # --- chunks ---

    def _send(self, worker: Worker) -> None:
        spans = self._next_spans(worker)
        if not spans:
            return
        self._last_chunk += 1
        flush_ns = FLUSH_NS
        stop_after_errors = worker.stop_after_errors = 0
        worker.timeout_s = 0.0
        if self._gate is not None and spans[0].source.pipeline is not None:
            stop_after_errors, flush_ns = self._gate.prepare(worker, spans, flush_ns)
        chunk = worker.pack(spans, self._last_chunk, stop_after_errors, flush_ns)
        worker.stop = None
        worker.link.clear_stop()
        worker.had_backlog = bool(self.queue.count)
        began_s = time.thread_time()  # and not the wall's: others have the interpreter's lock now and then
        failures = worker.link.send(chunk)
        worker.sent_at = time.monotonic()
        self.counts["chunks"] += 1
        sent = getattr(worker.link, "sent_bytes", 0)
        calls = sum(map(len, spans))
        self.tuner.observe_shipping(time.thread_time() - began_s, calls, sent, spans[0].source.function.key)
        for number, error in failures:
            self.outcomes_arrived(worker.number, number, [None], {0: error})
        if len(failures) == calls:  # not one of them could travel, so nothing was sent
            worker.ends.pop()
            self.loop.wake()

    def _send_ahead(self) -> None:
        """Send workers that will soon have done their chunk the next one, so that they need not wait for it."""
        if self._gate is not None or self.settings.max_tasks_per_child or not self.backend.capabilities.can_stop_early:
            return
        for worker in self.workers.values():
            if not self.queue.count or self.losses.suspects:
                return
            if worker.takes_more and self._ends_soon(worker):
                self._send(worker)

    def _ends_soon(self, worker: Worker) -> bool:
        """Tell whether a worker will have run what it has before we are sure to look again."""
        profile = self.tuner.profile(worker.in_hand[-1][1].source.function.key)
        if profile is None or not profile.calls or profile.call_bytes > _AHEAD_BYTES:
            return False
        return (worker.unstarted() + 1) * profile.call_s < _AHEAD_S

    def _next_spans(self, worker: Worker) -> list[Span]:
        """Take the calls for a worker's next chunk from the queue."""
        while self.losses.suspects:
            span = self.losses.suspects.popleft()
            if self._admits(span):
                return [span]
        spans: list[Span] = []
        share = 0.0
        quota = self._quota(worker)
        asking: tuple[Function, int | None] | None = None
        size = 1
        while quota > 0 and share < 1.0:
            head = self.queue.head()
            if head is None or (spans and not travels_with(head, spans[0])):
                break
            function, asked = head.source.function, getattr(head.source, "chunksize", None)
            if asking != (function, asked):
                asking = function, asked
                size = self.tuner.chunk_calls(
                    function.key, remaining=self.remaining(head), workers=max(1, len(self.workers)), asked=asked
                )
            count = min(max(1, int((1.0 - share) * size)), quota)
            if spans and (1.0 - share) * size < 1.0:
                break
            taken = self._take(head, count)
            if not taken and len(head):  # many were asked and none may travel: first deliver what they got
                self.loop.wake()
                break
            for span in taken:
                spans.append(span)
                share += len(span) / size
                quota -= len(span)
        return spans

    def _take(self, head: Span, count: int) -> list[Span]:
        """Take up to ``count`` calls from the head of the queue; fewer, or none, where not all may travel."""
        if self._gate is not None and head.source.pipeline is not None:
            return self._gate.take(head, count)
        span = self.queue.take(head, count)
        return [span] if self.begins(span) else []

    def _admits(self, span: Span) -> bool:
        """Tell whether a span's calls may travel now."""
        if self._gate is None or span.source.pipeline is None:
            return self.begins(span)
        return self._gate.admits(span)

    def begins(self, span: Span) -> bool:
        """Tell a span's source that its calls begin; False where nobody wants them any more."""
        is_wanted = span.has_begun = span.source.begin()
        if not is_wanted:
            self.counts["cancelled"] += len(span)
        return is_wanted

    def _quota(self, worker: Worker) -> int:
        most = self.settings.max_tasks_per_child
        return 1 << 30 if most is None else most - worker.ran

    def outcomes_arrived(self, worker: int, first: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """See ``WorkerEvents``. Outcomes of calls that are not in the worker's hands any more are dropped."""
        record = self.workers[worker]
        for number, span in record.claim(first, len(values)):
            begin = number - first
            if self._gate is not None and span.source.pipeline is not None:
                self._gate.settle(span, values[begin], errors.get(begin))
                continue
            end = begin + len(span)
            some = {index - begin: error for index, error in errors.items() if begin <= index < end} if errors else {}
            self.deliver(span, values if len(span) == len(values) else values[begin:end], some)

    def settle(self, span: Span, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Let the middleware see outcomes, then hand them to their source."""
        if self._gate is None or span.source.pipeline is None:
            self.deliver(span, values, errors)
        else:
            self._gate.settle(span, values[0], errors.get(0))

    def deliver(self, span: Span, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Hand outcomes to their source once the lock is free."""
        self.account(span, len(values), len(errors))
        self.deliver_later(span, values, errors)

    def account(self, span: Span, done: int, failed: int) -> None:
        """Count calls that are about to be delivered."""
        self.counts["done"] += done
        if failed:
            self.counts["failed"] += failed
        self.losses.forget(span)

    def notify(self, notice: Callable[[], object]) -> None:
        """Call ``notice`` once the lock is free."""
        self._deliveries.append(notice)

    def last_delivery(self) -> object:
        """Return what was last asked to be called once the lock is free; None where nothing waits for that."""
        return self._deliveries[-1] if self._deliveries else None

    def deliver_later(self, span: Span, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Hand outcomes to their source once the lock is free; they were accounted for."""
        self._deliveries.append(partial(span.source.deliver, span.start, values, errors))

    def requeue(self, spans: list[Span], reason: str) -> None:
        """Put calls back at the front of the queue; they were not run, or their outcomes are lost."""
        for span in reversed(spans):
            self.retract(span, reason)
            self.give_back(span)

    def give_back(self, span: Span) -> None:
        """Take calls that were not run to the front of the queue, or to their end if nobody will run them."""
        if self.broken is not None:
            self.fail_all([span])
        elif self.is_cancelling and not is_under_way(span):
            self._cancel(span)
        else:
            self.queue.push(span, front=True)

    def _cancel(self, span: Span) -> None:
        """End calls that will never run."""
        self.counts["cancelled"] += len(span)
        self._deliveries.append(partial(span.source.cancel_calls, span.start, len(span)))

    def retract(self, span: Span, reason: str) -> None:
        """Tell the middleware that an attempt ends without an outcome."""
        if self._gate is not None and span.source.pipeline is not None:
            self._gate.retract(span, reason)

    def recall(self, worker: Worker) -> None:
        """Take back what a worker has not started, if it can be had."""
        if self.backend.capabilities.can_stop_early:
            self._balance.recall(worker)

    def chunk_ended(self, worker: int, report: ChunkReport) -> None:
        """See ``WorkerEvents``."""
        record = self.workers[worker]
        self.losses.note_life()
        record.memory_growth = report.memory_growth
        now = time.monotonic()
        ran = 0
        for function, measurement in report.measures:
            ran += measurement.calls
            self.tuner.observe(record.keys.get(function, function), measurement, now_s=now)
        record.ran += ran
        if record.had_backlog and ran:
            self.tuner.observe_gap(report.gap_s)
        self.requeue(record.end_chunk(), "taken back")
        if record.is_retiring:  # since the chunk before this one
            return
        if self._quota(record) <= 0:
            self.staffing.retire(record, "it has run max_tasks_per_child calls")
        elif record.memory_growth > self.tuner.memory_share():
            self.staffing.retire(record, f"it has grown by {record.memory_growth >> 20} MiB, more than its share")

    def tick(self) -> None:
        """Look again soon: somebody works without telling us."""
        if not self._is_ticking:
            self._is_ticking = True
            self.loop.call_later(_TICK_S, self._ticked)

    def _ticked(self) -> None:
        self._is_ticking = False
        now = time.monotonic()
        for claim in self.claims:
            if claim.overruns(now):
                span = claim.take_back()
                if span is not None:
                    self.give_back(span)
                    if isinstance(span.source, Stream):  # its caller may come back for them before a worker is ready
                        span.source.spans.appendleft(span)
        if self.claims:  # a caller that has taken the last calls asks nobody, and nobody else looks at it
            self.tick()

    # --- workers come and go ---

    def function_in_sight(self) -> Callable[..., Any] | None:
        """See ``WorkerEvents``."""
        head = self.queue.head() or next((each for each in self._intake.copy() if isinstance(each, Span)), None)
        return self._first if head is None else head.source.function.callable

    def worker_ready(self, worker: int, pid: int) -> None:
        """See ``WorkerEvents``."""
        record = self.workers[worker]
        record.is_ready, record.pid = True, pid
        self.losses.note_life()
        took = time.monotonic() - record.asked_at
        self.tuner.observe_start_up(took)
        self.counts["workers started"] += 1
        self.emit(ev.WorkerStarted(worker, pid, took))
        if self.is_shut_down:
            self.loop.wake()

    def initializer_failed(self, worker: int, error: BaseException) -> None:
        """See ``WorkerEvents``. As in the standard library, this breaks the executor, once the worker has ended."""
        self.workers[worker].failure = error
        self.workers[worker].is_retiring = True

    def unreadable(self, worker: int, error: BaseException) -> None:
        """See ``WorkerEvents``. Only the call fails, unless the standard library's behaviour was asked for."""
        del worker
        if self.settings.on_worker_death == "break":
            self.break_down("A call's arguments or result could not be unpickled", error)

    def spawn_refused(self, worker: int, reason: str) -> None:
        """See ``WorkerEvents``. From now on there are no more workers than there is room for."""
        self.workers[worker].is_killed = True
        self.staffing.limit_room(max(1, sum(record.is_ready for record in self.workers.values())), reason)

    def worker_died(self, worker: int, exit_status: int | None, *, by_itself: bool) -> None:
        """See ``WorkerEvents``. Unstarted calls go back to the queue; the one that was running is a suspect."""
        record = self.workers.pop(worker)
        if record.failure is not None:
            self.break_down("A worker's initializer failed, so the executor is not usable any more", record.failure)
        if not record.is_retiring or record.in_hand:
            self.losses.bury(record, exit_status, by_itself=by_itself)

    # --- ends ---

    def fail(self, span: Span, make_error: Callable[[], BaseException]) -> None:
        """End calls with errors, one object each."""
        if self.begins(span):
            self.settle(span, [None] * len(span), {index: make_error() for index in range(len(span))})

    def fail_all(self, spans: list[Span]) -> None:
        """End calls because the executor is broken; no middleware is asked about it."""
        for span in spans:
            self.retract(span, "shutdown")
            if self.begins(span):
                self.deliver(span, [None] * len(span), {index: self._broken_error() for index in range(len(span))})

    def _broken_error(self) -> BaseException:
        error = BrokenProcessPool(self.broken or "the executor is broken")
        error.__cause__ = self._broken_cause
        return error

    def break_down(self, reason: str, cause: BaseException | None = None) -> None:
        """Fail everything and end; each future gets an error of its own."""
        if self.broken is not None:
            return
        self.broken, self._broken_cause = reason, cause
        self.fail_all(self.take_waiting())
        for worker in list(self.workers.values()):
            worker.is_killed = True
            self.fail_all(worker.claim_from(0))
            worker.link.kill()
        self.loop.wake()

    def take_waiting(self) -> list[Span]:
        """Take all calls that no worker has: suspects, queued and held ones."""
        waiting = [*self.losses.suspects, *self.queue.drain()]
        self.losses.suspects.clear()
        return waiting if self._gate is None else [*waiting, *self._gate.release()]

    def _drop_cancelled(self, future: Any) -> None:
        span = future._span  # noqa: SLF001
        if span is not None:
            self._discard(span)
        self._deliveries.append(future.tell_of_cancellation)

    def _discard(self, span: Span) -> None:
        self.counts["cancelled"] += len(self.queue.take(span, len(span)))
        if self._gate is not None and span.source.pipeline is not None:
            self._gate.forget(span)

    def _cancel_waiting(self) -> None:
        """Cancel what no worker has had; those that are idle take what came before."""
        self._assign()
        self.is_cancelling = True
        for span in [*self.queue.drain(), *(self._gate.release() if self._gate is not None else ())]:
            if is_under_way(span):
                self.queue.push(span)
                continue
            self.retract(span, "shutdown")
            self._cancel(span)

    def _maybe_end(self) -> None:
        """Begin to close when all is done and nothing more can come; say goodbye when nobody is left."""
        if not (self.is_shut_down or self.broken is not None) or self._is_closing:
            return
        is_anyone_up = any(worker.is_ready for worker in self.workers.values())
        if self.broken is not None and not is_anyone_up:  # what they were to run has failed already
            self.backend.forsake()
        busy = any(worker.is_busy for worker in self.workers.values())
        if (
            self._intake
            or self.queue.count
            or self.losses.suspects
            or busy
            or (self._gate is not None and self._gate.is_holding)
            or self.claims
        ):
            return
        for worker in self.workers.values():
            if not worker.is_retiring:
                worker.is_retiring = True
                worker.link.retire()
        if self.workers and not is_anyone_up:
            self.backend.forsake()
        if not self.workers:
            self._is_closing = True
            if self._intake:  # it came before the flag; who comes now is refused
                self._is_closing = False
                self.loop.wake()
                return
            self.backend.close(self._closed)

    def _closed(self) -> None:
        self.has_ended = True

    def _leave_nothing(self) -> None:
        """Resolve what came in after the last look."""
        while self._intake:
            entry = self._intake.popleft()
            if not isinstance(entry, Span) or not len(entry):
                continue
            if self.broken is not None:
                self.fail_all([entry])
            else:
                self._cancel(entry)
        deliveries, self._deliveries = self._deliveries, []
        self._deliver(deliveries)


def make_gate(engine: Engine) -> Gate:
    """Return a gate to the middleware; where there is none, it is not even imported."""
    from amorsize_executor.engine.gate import Gate  # noqa: PLC0415

    return Gate(engine)


def is_under_way(span: Span) -> bool:
    """Tell whether calls are running to the world: they came back from a worker that did not run them."""
    return span.has_begun and not span.source.is_held


def travels_with(head: Span, first: Span) -> bool:
    """Tell whether calls may join a chunk: of one priority and the same layers, and below layers of one function."""
    source, other = head.source, first.source
    return (
        source.priority == other.priority
        and source.pipeline is other.pipeline
        and (source.pipeline is None or source.function.number == other.function.number)
    )
