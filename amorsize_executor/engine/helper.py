"""The caller that helps: a thread that waits for results runs waiting calls itself while no worker is ready.

So small and cheap work never pays for processes, and the start of the pool costs nothing on large work. The
caller claims calls in batches and makes no hand-off per call. A batch is a list that the caller iterates; when a
call in it takes long, the dispatcher shortens the list from its end, and the rest goes to the workers.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable, Iterator
from operator import length_hint
from typing import TYPE_CHECKING, Any

from amorsize_executor.records import Lane, Measurement
from amorsize_executor.wire.bindings import helped
from amorsize_executor.wire.functions import invoker_of
from amorsize_executor.wire.weight import weigh

if TYPE_CHECKING:
    from amorsize_executor.engine.dispatcher import Engine
    from amorsize_executor.engine.future import CallFuture
    from amorsize_executor.engine.span import Span
    from amorsize_executor.engine.stream import Stream

PATIENCE_S = 0.003
"""How long fresh work waits for its caller to help before workers are started."""

_BATCH_S = 0.003
"""How long a batch of cheap calls should take."""

_MOST_CALLS = 65_536
_LEAST_WAITING = 0.1
_SHORT_S = 0.001
"""Calls that take less are not taken for waiting ones before a worker has measured them."""

_OVERRUN_S = 3 * _BATCH_S
"""A batch that takes longer is shortened."""

_MUCH_LONGER = 4.0
"""Calls that take so many times what calls have taken so far are not what they were."""

_local = threading.local()


class Claim:
    """Calls in a caller's hands. The dispatcher may shorten it, under the engine's lock."""

    def __init__(self) -> None:
        self.span: Span | None = None
        self.items: list[Any] = []
        self.iterator: Iterator[Any] = iter(())
        self.values: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.limit = 0
        self.began = 0.0
        self.cpu = 0.0
        self.is_settled = False
        self.is_delivered = False

    def begin(self, span: Span) -> None:
        """Put calls in the caller's hands."""
        self.items = span.arguments()
        self.limit = len(self.items)
        self.iterator = iter(self.items)
        self.cpu = time.thread_time()
        self.began = time.monotonic()
        self.span = span

    def drop(self) -> None:
        """Let go of calls that nobody wants."""
        self.items.clear()
        self.limit = 0

    def measurement(self, took_s: float) -> Measurement:
        """Return what the calls cost that were run."""
        ran, cpu_s = len(self.values), time.thread_time() - self.cpu
        mean_s = took_s / ran
        waiting_s = max(0.0, took_s - cpu_s)
        if mean_s < _SHORT_S:  # not told from waiting for the interpreter, which our own threads have now and then
            waiting_s = 0.0
        elif waiting_s > _LEAST_WAITING * took_s:  # standing in line for a processor is no waiting
            waiting_s = max(0.0, waiting_s - queued_since_last_s())
        # The bytes that these calls would have been on the wire: one call stands for all.
        bytes_in, bytes_out = weigh(self.items[0]) * ran, weigh(self.values[0]) * ran
        return Measurement(
            ran, took_s, cpu_s, waiting_s, mean_s * took_s, mean_s, bytes_in, bytes_out, lane=Lane.CALLER
        )

    def overruns(self, now: float) -> bool:
        """Tell whether the batch takes much longer than batches should."""
        return self.span is not None and now - self.began > _OVERRUN_S

    def crawls(self, now: float, call_s: float) -> bool:
        """Tell whether the batch has overrun because of its calls, and not because of a pause for garbage, say.

        One call that takes long always does, known to take long or not: others need not wait for it.
        """
        return self.overruns(now) and now - self.began > _MUCH_LONGER * (len(self.values) + 1) * min(call_s, _SHORT_S)

    def take_back(self) -> Span | None:
        """Shorten the batch to what the caller has begun and return the rest, or None.

        A list iterator never goes back: if it has not passed the new end after the list was shortened, the calls
        behind that end were not begun and never will be. If it has run out meanwhile, who ran what is told by
        the number of values, when the caller settles.
        """
        if self.span is None or self.is_settled or not _HAS_GIL:
            return None
        end = len(self.items) - length_hint(self.iterator)
        if end >= len(self.items):
            return None
        del self.items[end:]
        state: Any = self.iterator.__reduce__()
        if len(state) < 3 or state[2] > end:  # noqa: PLR2004 - (iter, (list,), index)
            return None
        rest = self.span.part(end, self.limit)
        self.limit = end
        return rest


_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


class Helper:
    """Lets waiting callers run calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: set[int] = set()
        self._last_s = 0.0

    def is_active(self, now_s: float) -> bool:
        """Tell whether a caller runs calls, or did a moment ago and is likely to come back for more."""
        return bool(self._waiting) or now_s - self._last_s < _OVERRUN_S

    def run_stream(self, stream: Stream) -> tuple[list[Any], dict[int, BaseException]]:
        """Return the stream's next run of outcomes; while it is not there, run calls of the stream.

        Runs in: the consumer's thread.
        """
        if stream.pipeline is not None or stream.has_ready():
            return stream.take(None)
        engine = self._engine
        if not self._may_help():
            engine.rouse()
            return stream.take(None)
        me = threading.get_ident()
        began_s = time.thread_time()
        try:
            self._waiting.add(me)
            while not stream.has_ready():
                helped = self._help(lambda: self._pick(stream), stream.batch)
                if helped is None:
                    break
                stream.batch = next_batch(*helped)
                if not engine.is_started:
                    helped_s = stream.helped_s + time.thread_time() - began_s
                    if helped_s > PATIENCE_S or self._pick(stream) is None:
                        engine.reconsider(stream, is_pressing=helped_s > PATIENCE_S)
        finally:
            self._waiting.discard(me)
            stream.helped_s += time.thread_time() - began_s
        return stream.take(None)

    def run_future(self, future: CallFuture) -> None:
        """Run a future's own call here if it has not started and no worker is ready for it."""
        span = future._span  # noqa: SLF001
        if span is None or future.pipeline is not None or not self._may_help():
            return
        me = threading.get_ident()
        try:
            self._waiting.add(me)
            self._help(lambda: span if len(span) else None, 1)
        finally:
            self._waiting.discard(me)

    def _pick(self, stream: Stream) -> Span | None:
        while stream.spans and not self._engine.is_cancelling:
            if len(stream.spans[0]):
                return stream.spans[0]
            stream.spans.popleft()
        return None

    def _may_help(self) -> bool:
        engine = self._engine
        if not engine.settings.may_help:
            return False
        if engine.is_shut_down and not engine.is_started:  # nobody else will run them
            return True
        mine: Claim | None = getattr(_local, "claim", None)
        if mine is not None and not mine.is_settled:  # a helped call waits for calls of its own
            return False
        asyncio = sys.modules.get("asyncio")
        if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001 - the one that does not raise
            return False
        return engine.thread is not threading.current_thread()

    def _help(self, pick: Callable[[], Span | None], count: int) -> tuple[int, float] | None:
        """Claim calls, run and deliver them; return (calls, seconds), or None where there are none for us."""
        engine = self._engine
        claim = Claim()
        outer: Claim | None = getattr(_local, "claim", None)
        try:
            with engine.lock:
                span = pick()
                if span is None or not self._is_for_caller(span):
                    return None
                engine.claims.append(claim)
                wanted = span.part(0, min(count, len(span)))
                try:
                    claim.begin(engine.queue.take(span, count))
                except BaseException:
                    if span.start > wanted.start:  # they have left the queue, so they are this claim's to give back
                        claim.begin(wanted)
                    raise
                if not engine.begins(wanted):
                    claim.drop()
                if claim.limit > 1 and not engine.queue.count and engine.is_started:
                    engine.command(engine.tick)  # these may be costlier than those before: somebody has to look
            try:
                _local.claim = claim
                function, style = span.source.function, span.source.style
                for item in claim.items[:1]:  # one stands for all; the dispatcher may have taken them back
                    helped.begin(claim, function.binds(item, style))
                contextvars.copy_context().run(run_batch, invoker_of(function.callable, style), claim)
            finally:
                _local.claim = outer
                helped.end(claim)
            return self._hand_in(claim)
        except BaseException:  # Ctrl-C, wherever it came: the dispatcher, which it cannot reach, finishes the books
            engine.command(lambda: self._finish_for(claim))
            raise

    def _is_for_caller(self, span: Span) -> bool:
        """Tell whether the caller had better run calls of ``span`` than wait for the workers."""
        engine = self._engine
        if engine.broken is not None:
            return False
        ready = sum(worker.is_ready for worker in engine.workers.values())
        if ready < max(1, len(engine.workers)):
            # A long call would share the processors with the workers, which will be ready long before it ends.
            profile = engine.tuner.profile(span.source.function.key)
            is_long = profile is not None and profile.call_s > _OVERRUN_S
            return not (is_long and len(engine.workers) >= engine.tuner.machine.cores)
        return engine.tuner.prefers_caller(
            span.source.function.key, remaining=engine.remaining(span), ready_workers=ready
        )

    def _hand_in(self, claim: Claim) -> tuple[int, float]:
        """Deliver a claim's outcomes, give back what was not run and let the tuner see the rest.

        Returns:
            (calls that were run, seconds).
        """
        engine = self._engine
        self._last_s = time.monotonic()
        with engine.lock:
            ran, took = self._settle(claim)
            span = claim.span
        if ran and span is not None:
            span.source.deliver(span.start, claim.values, claim.errors)
        claim.is_delivered = True
        with engine.lock:
            engine.claims.remove(claim)
        if engine.is_shut_down or took > _OVERRUN_S:  # the processor that it had is a worker's now
            engine.loop.wake()
        return ran, took

    def _finish_for(self, claim: Claim) -> None:
        """Do what an interrupted caller may have left undone. Runs in: the dispatcher thread, under the lock."""
        engine = self._engine
        engine.queue.recount()
        helped.end(claim)
        if claim not in engine.claims:
            return
        ran, _took = self._settle(claim)
        span = claim.span
        if ran and span is not None and not claim.is_delivered:
            engine.deliver_later(span, claim.values, claim.errors)
        engine.claims.remove(claim)

    def _settle(self, claim: Claim) -> tuple[int, float]:
        """Account for a claim, once. Under the lock.

        Returns:
            (calls that were run, seconds).
        """
        engine, span = self._engine, claim.span
        if span is None:
            return 0, 0.0
        del claim.values[claim.limit :]  # an interrupt after the last call has no call to end
        ran, took = len(claim.values), time.monotonic() - claim.began
        if not claim.is_settled:
            claim.is_settled = True
            if ran < claim.limit:
                engine.give_back(span.part(ran, claim.limit))
                engine.loop.wake()
            if ran:
                engine.note_helped(span.source.function, claim.measurement(took), len(claim.errors))
        return ran, took


def queued_since_last_s() -> float:
    """Return the seconds that this thread has stood in line for a processor since it asked last, at most."""
    try:
        with open("/proc/thread-self/schedstat", "rb", 0) as file:
            queued_ns = int(file.read().split()[1])
    except OSError:
        return 0.0
    before_ns, _local.queued_ns = getattr(_local, "queued_ns", 0), queued_ns
    return (queued_ns - before_ns) * 1e-9


def run_batch(invoke: Callable[[Any], Any], claim: Claim) -> None:
    """Run a claim's calls in this thread. A real Ctrl-C ends the batch and goes on to the caller."""
    values = claim.values
    iterator = claim.iterator
    while True:
        try:
            for item in iterator:
                values.append(invoke(item))
        except KeyboardInterrupt as interrupt:
            if len(values) < len(claim.items) - length_hint(iterator):  # a call had begun
                claim.errors[len(values)] = interrupt
                values.append(None)
            raise
        except BaseException as error:  # noqa: BLE001 - the call's own end, SystemExit included
            trace = error.__traceback__
            claim.errors[len(values)] = error.with_traceback(trace.tb_next if trace is not None else None)
            values.append(None)
        else:
            return


def next_batch(ran: int, took_s: float) -> int:
    """Return how many calls the next batch should have: grow fast while cheap, shrink at once."""
    if took_s < _BATCH_S / 4:
        return min(max(1, ran) * 4, _MOST_CALLS)
    return max(1, int(ran * _BATCH_S / took_s))
