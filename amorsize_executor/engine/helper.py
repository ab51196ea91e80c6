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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amorsize_executor.engine.claim import OVERRUN_S, Claim, next_batch, run_batch
from amorsize_executor.engine.company import Company
from amorsize_executor.engine.stream import Stream
from amorsize_executor.wire.bindings import helped
from amorsize_executor.wire.functions import invoker_of
from amorsize_executor.wire.traceless import treats_errors_as_usual

if TYPE_CHECKING:
    from amorsize_executor.engine.dispatcher import Engine
    from amorsize_executor.engine.future import CallFuture
    from amorsize_executor.engine.span import Source, Span

PATIENCE_S = 0.003
"""How long fresh work waits for its caller to help before workers are started."""

_MOMENT_S = 5e-5

_SLICE_S = 0.05
"""How long a caller with company goes on although there are results: then all wait for the last of them."""

_local = threading.local()


class Helper:
    """Lets waiting callers run calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: set[int] = set()
        self._last_s = 0.0

    def run_stream(self, stream: Stream) -> tuple[list[Any], dict[int, BaseException]]:
        """Return the stream's next run of outcomes; while it is not there, run calls of the stream.

        Runs in: the consumer's thread.
        """
        if stream.pipeline is not None or stream.has_ready():
            return stream.take(None)
        if not self._may_help():
            self._engine.rouse()
            return stream.take(None)
        self._run_until_ready(stream)
        while not stream.wait_for_run():
            if not self._run_until_ready(stream):
                stream.listens = False  # else who calls back and who is called could wait for each other
        return stream.take(None)

    def _run_until_ready(self, stream: Stream) -> bool:
        """Run calls of the stream until there are outcomes to take, or others had better run the rest.

        Returns:
            Whether any was run.
        """
        engine, me = self._engine, threading.get_ident()
        began_s, helped_s = time.thread_time(), stream.helped_s
        has_run = False
        try:
            self._waiting.add(me)
            while not stream.has_ready():
                threads = self._company_for(stream, helped_s)
                if not (self._run_in_company(stream, threads) if threads else self._run_batch(stream)):
                    break
                has_run = True
                helped_s = stream.helped_s + time.thread_time() - began_s
                if helped_s <= PATIENCE_S:
                    continue
                if engine.is_started:
                    self._let_dispatcher(stream)
                elif not self._company_for(stream, helped_s):
                    engine.reconsider(stream)
        finally:
            self._waiting.discard(me)
            stream.helped_s += time.thread_time() - began_s
        return has_run

    def _let_dispatcher(self, stream: Stream) -> None:
        """Step aside for a moment where the dispatcher has to judge what was run, or to see to workers that start.

        It would get the interpreter's lock 5 ms late otherwise, for each thing that it does.
        """
        crew = list(self._engine.workers.values())
        if not stream.was_judged or (crew and not any(worker.is_ready for worker in crew)):
            stream.was_judged = True
            self._engine.loop.wake()
            time.sleep(_MOMENT_S)

    def would_run(self, stream: Stream) -> bool:
        """Tell whether ``run_stream`` would run calls of the stream here and now."""
        if stream.pipeline is not None or not self._may_help():
            return False
        with self._engine.lock:
            span = self.pick(stream)
            return span is not None and self._is_for_caller(span)

    def run_future(self, future: CallFuture) -> None:
        """Run a future's own call here if it has not started and no worker is ready for it."""
        span = future._span  # noqa: SLF001
        if span is None or future.pipeline is not None or not self._may_help():
            return
        me = threading.get_ident()
        try:
            self._waiting.add(me)
            self.help(lambda: span if len(span) else None, 1)
        finally:
            self._waiting.discard(me)

    def is_left_to_caller(self) -> bool:
        """Tell whether a calling thread is about to run what waits, or does already and had better go on."""
        engine = self._engine
        if not engine.settings.may_help or engine.losses.suspects:
            return False
        head = engine.queue.head()
        if head is None or engine.is_shut_down or head.source.pipeline is not None:
            return False
        now = time.monotonic()
        ready = sum(worker.is_ready for worker in engine.workers.values())
        is_fresh = engine.fresh_since is not None and now - engine.fresh_since < PATIENCE_S
        profile = engine.tuner.profile(head.source.function.key)
        call_s = 0.0 if profile is None else profile.call_s
        if profile is not None and profile.byte_s is not None and self._is_too_dear_to_send(head, ready, now):
            return True
        if any(claim.crawls(now, call_s) for claim in engine.claims):
            return False
        if self._is_active(now) or (is_fresh and (not ready or isinstance(head.source, Stream))):
            return engine.tuner.prefers_caller(
                head.source.function.key,
                remaining=engine.remaining(head),
                ready_workers=ready,
                callers=self._callers_of(head.source),
            )
        return False

    def _is_too_dear_to_send(self, head: Span, ready: int, now_s: float) -> bool:
        """Tell whether a caller had better run calls itself, long ones too; one that only waits is called back."""
        stream, engine = head.source, self._engine
        return (
            isinstance(stream, Stream)
            and engine.tuner.prefers_caller(stream.function.key, remaining=engine.remaining(head), ready_workers=ready)
            and (stream.call_back() or self._is_active(now_s))
        )

    def _is_active(self, now_s: float) -> bool:
        """Tell whether a caller runs calls, or did a moment ago and is likely to come back for more."""
        return bool(self._waiting) or now_s - self._last_s < OVERRUN_S

    def _callers_of(self, source: Source) -> int:
        """Return how many threads of this process share a source's calls, or would if it were left to them."""
        if not isinstance(source, Stream):
            return 1
        if source.company is not None:
            return source.company.callers
        return self._most_callers() if source.function.overlaps and source.may_be_shared else 1

    def _company_for(self, stream: Stream, helped_s: float) -> int:
        """Return how many threads had better run calls of the stream beside its caller, who has helped for so long."""
        engine, function = self._engine, stream.function
        if function.overlaps is False or not (function.overlaps or helped_s > PATIENCE_S):
            return 0
        with engine.lock:
            left = sum(map(len, stream.spans))
            profile = engine.tuner.profile(function.key)
            if profile is None or profile.call_s * left < PATIENCE_S or not stream.may_be_shared:
                return 0
            threads = min(self._most_callers(), left) - 1
            if threads <= 0 or not treats_errors_as_usual():
                return 0
            engine.tuner.note_callers(function.key, threads + 1)
            return threads

    def _run_in_company(self, stream: Stream, threads: int) -> bool:
        """Run calls of the stream together with other threads for a while; tell whether that has led anywhere."""
        has_run, until_s = False, time.monotonic() + _SLICE_S
        with Company(self, stream, threads) as company:
            while not (company.is_over or (stream.has_ready() and time.monotonic() > until_s)):
                if not self._run_batch(stream):
                    break
                has_run = True
        return has_run or stream.has_ready()

    def _run_batch(self, stream: Stream) -> bool:
        """Run some calls of the stream, if there are any for us; tell whether there were."""
        helped = self.help(lambda: self.pick(stream), stream.batch)
        if helped is not None:
            stream.batch = next_batch(*helped)
        return helped is not None

    def _most_callers(self) -> int:
        tuner = self._engine.tuner
        return min(tuner.machine.cores, tuner.most_workers) if self._engine.backend.capabilities.isolates else 1

    def pick(self, stream: Stream) -> Span | None:
        """Return calls of the stream that wait. Under the lock."""
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

    def help(self, pick: Callable[[], Span | None], count: int) -> tuple[int, float] | None:
        """Claim calls, run and deliver them; return (calls, seconds), or None where there are none for us.

        Args:
            pick: Returns calls that wait, or None; called under the lock.
            count: Most calls to claim.
        """
        engine = self._engine
        claim = Claim(engine.clock)
        outer: Claim | None = getattr(_local, "claim", None)
        try:
            with engine.lock:
                span = pick()
                if span is None or not self._is_for_caller(span):
                    return None
                engine.claims.append(claim)
                callers = self._callers_of(span.source)
                if callers > 1:  # so that all end at about the same time
                    claim.is_shared = isinstance(span.source, Stream) and span.source.had_company
                    count = min(count, -(-len(span) // (2 * callers)))
                wanted = span.part(0, min(count, len(span)))
                try:
                    claim.begin(engine.queue.take(span, count))
                except BaseException:  # Ctrl-C between the two
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
        except BaseException as error:
            # Wherever Ctrl-C came: the dispatcher, which it cannot reach, finishes the books.
            engine.command(lambda: self._finish_for(claim))
            if not isinstance(error, KeyboardInterrupt):  # which ends the map; else its results are waited for
                engine.rouse()
            raise

    def _is_for_caller(self, span: Span) -> bool:
        """Tell whether the caller had better run calls of ``span`` than wait for the workers."""
        engine = self._engine
        if engine.broken is not None:
            return False
        ready = sum(worker.is_ready for worker in engine.workers.values())
        profile = engine.tuner.profile(span.source.function.key)
        is_heavy = profile is not None and profile.byte_s is not None
        if ready < max(1, len(engine.workers)) and not is_heavy:
            # A long call would share the processors with the workers, which will be ready long before it ends.
            is_long = profile is not None and profile.call_s > OVERRUN_S
            return not (is_long and len(engine.workers) >= engine.tuner.machine.cores)
        return engine.tuner.prefers_caller(
            span.source.function.key,
            remaining=engine.remaining(span),
            ready_workers=ready,
            callers=self._callers_of(span.source),
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
        if engine.is_shut_down or took > OVERRUN_S:  # the processor that it had is a worker's now
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
