"""Where calls meet the middleware: on the way to a worker, on the way back, and while they are held.

A call passes the layers of its source's pipeline, alone: its span is split off when it is asked for. Where a layer
holds all calls, the pipeline's *door* is shut: the rest waits behind it in whole spans and nobody is asked, until the
time is up or a call of the same pipeline has ended. Then one span after the other goes back to the queue.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from amorsize_executor.engine.deadlines import Deadlines
from amorsize_executor.engine.pipeline import Pipeline, asked, passage_of
from amorsize_executor.engine.span import Source, Span
from amorsize_executor.events import logger
from amorsize_executor.middleware.base import Again, Hold, Middleware, Outcome

if TYPE_CHECKING:
    from amorsize_executor.engine.crew import Worker
    from amorsize_executor.engine.dispatcher import Engine

_MOST_ASKED = 1024
"""After so many calls that did not travel, what they were answered with is delivered before others are asked."""

_BOUNDED_FLUSH_NS = 2_000_000
"""Where errors are counted, outcomes go home after so much work."""

_SHORT_S = 0.1
"""Where calls may run no longer than this, outcomes go home at once, before their worker may have to be stopped."""


class Run:
    """Outcomes of consecutive calls that are about to be delivered together; more may join them until then."""

    __slots__ = ("errors", "source", "start", "values")

    def __init__(self, source: Source, start: int) -> None:
        self.source = source
        self.start = start
        self.values: list[Any] = []
        self.errors: dict[int, BaseException] = {}

    def __call__(self) -> None:
        """Deliver them. Runs in: the dispatcher thread, without the lock."""
        self.source.deliver(self.start, self.values, self.errors)


class Door:
    """What waits behind a layer that holds all calls of a pipeline.

    Args:
        counts: Where calls are counted that are dropped, as ``"cancelled"``.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self.is_shut = True
        self.due_s = math.inf  # when a timer opens it; monotonic
        self.in_queue: Span | None = None  # what was let go last
        self._waiting: list[tuple[int, int, Span]] = []
        self._back, self._front = itertools.count(), itertools.count(-1, -1)

    def add(self, span: Span, *, front: bool) -> None:
        """Let calls wait, by priority, first come first served."""
        ticket = next(self._front if front else self._back)
        heapq.heappush(self._waiting, (-span.source.priority, ticket, span))

    def first(self) -> Span | None:
        """Return the calls whose turn it is, leaving them here; those that nobody wants are dropped."""
        while self._waiting:
            span = self._waiting[0][2]
            if span.low < span.high and span.source.is_wanted():
                return span
            heapq.heappop(self._waiting)
            self._counts["cancelled"] += len(span)
        return None

    def pop(self) -> Span | None:
        """Remove and return the calls whose turn it is."""
        span = self.first()
        if span is not None:
            heapq.heappop(self._waiting)
        return span

    @property
    def calls(self) -> int:
        """How many calls wait. Without the lock."""
        return sum(len(entry[2]) for entry in self._waiting.copy())

    def release(self) -> list[Span]:
        """Remove and return all calls."""
        spans = [entry[2] for entry in sorted(self._waiting) if len(entry[2])]
        self._waiting.clear()
        return spans


class Gate:
    """Lets calls through as the layers say. Guarded by the engine's lock, except ``open``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._held: dict[int, Span] = {}
        self._doors: dict[Pipeline, Door] = {}
        self._opened: list[Middleware] = []
        self._opening = threading.RLock()
        self._deadlines = Deadlines(engine)
        self._tell = engine.notify

    def open(self, pipeline: Pipeline) -> None:
        """Open the layers that are not open yet, innermost first. Runs in: the caller's thread."""
        with self._opening:
            for layer in reversed(pipeline.layers):
                is_open = any(opened is layer for opened in self._opened)
                if not is_open and (asked(layer, "open") or asked(layer, "close")):
                    layer.open()
                    self._opened.append(layer)
            pipeline.is_open = True

    def close(self) -> None:
        """Close all layers, in the opposite order."""
        while self._opened:
            layer = self._opened.pop()
            try:
                layer.close()
            except BaseException:  # noqa: BLE001 - all results are delivered; the layer's author is told
                logger.exception("%r failed to close", layer)

    @property
    def is_holding(self) -> bool:
        """Whether calls are held or back off."""
        return bool(self._held) or any(door.first() is not None for door in self._doors.values())

    @property
    def held_calls(self) -> int:
        """How many calls are held or back off. Without the lock."""
        return len(self._held) + sum(door.calls for door in list(self._doors.values()))

    # --- on the way to a worker ---

    def take(self, head: Span, count: int) -> list[Span]:
        """Take calls from the head of the queue that may travel now.

        Args:
            head: Calls of one source; those that are asked leave it.
            count: Most calls wanted, >= 1.

        Returns:
            Spans of one call each. Where there are none, and ``head`` is not empty, come again.
        """
        queue, pipeline = self._engine.queue, head.source.pipeline
        door = self._doors.get(pipeline)
        taken: list[Span] = []
        room = _MOST_ASKED
        while len(taken) < count and head.low < head.high and room > 0:
            if door is not None and door.is_shut:
                door.add(queue.take(head, len(head)), front=head is door.in_queue)
                return taken
            batch = queue.take(head, min(count - len(taken), room))
            room -= len(batch)
            for span in batch.singly():
                answer = self._ask(span)
                if answer is None:
                    taken.append(span)
                elif isinstance(answer, Hold):
                    self._hold_all(span, [batch.part(span.low + 1 - batch.low, len(batch)), head], answer.seconds)
                    return taken
        if door is not None and head.low == head.high:
            self._let_next(pipeline, door)
        return taken

    def _hold_all(self, span: Span, rest: list[Span], seconds: float) -> None:
        """Shut the door behind a call; those that came with it wait there too, in their order."""
        head = rest[-1]
        door = self._shut(span.source.pipeline, seconds)
        is_front = head is door.in_queue
        for part in reversed(rest) if is_front else rest:
            if len(part):
                door.add(self._engine.queue.take(part, len(part)), front=is_front)
        self._park(span, door)

    def admits(self, span: Span) -> bool:
        """Tell whether a call may travel now; if not, it was dropped, answered or put on hold."""
        answer = self._ask(span)
        if isinstance(answer, Hold):
            self._park(span, self._shut(span.source.pipeline, answer.seconds))
        return answer is None

    def _ask(self, span: Span) -> Hold | Outcome | None:
        """Ask the layers about a call.

        Returns:
            None: it may travel. A ``Hold``: the door is to be shut behind it. An ``Outcome``: it was seen to.
        """
        source, engine = span.source, self._engine
        passage = passage_of(span)
        if not source.is_wanted():
            self.retract(span, "cancelled")
            engine.begins(span)
            return _SEEN_TO
        answer = source.pipeline.admit(passage, self._tell)
        if isinstance(answer, Hold):
            engine.counts["held"] += 1
            if answer.is_for_all:
                return answer
            self._hold(span, answer.seconds)
            return _SEEN_TO
        if not engine.begins(span):
            self.retract(span, "cancelled")
            return _SEEN_TO
        if isinstance(answer, Outcome):
            engine.counts["answered" if answer.error is None else "refused"] += 1
            self._finish(span, answer)
            return _SEEN_TO
        return None

    def prepare(self, worker: Worker, spans: list[Span], flush_ns: int) -> tuple[int, int]:
        """Set the bounds of a chunk that is about to be sent.

        Returns:
            (errors in a row after which it ends, or 0; nanoseconds of work after which outcomes go home).
        """
        worker.stop_after_errors, worker.timeout_s = 0, 0.0
        bounds = [span.call.stop_after_errors for span in spans if span.call.stop_after_errors]
        if bounds:
            worker.stop_after_errors = self._share(worker, min(bounds))
            flush_ns = min(flush_ns, _BOUNDED_FLUSH_NS)
        limits = [span.call.timeout_s for span in spans if span.call.timeout_s]
        if limits and self._engine.backend.capabilities.can_kill:
            worker.timeout_s = min(limits)
            self._deadlines.watch(worker.timeout_s)
            if worker.timeout_s < _SHORT_S:
                flush_ns = 0
        return worker.stop_after_errors, flush_ns

    def _share(self, worker: Worker, left: int) -> int:
        """Return how many of the errors that are left until a breaker opens may be made in one more chunk."""
        granted = self._granted(worker)
        return max(1, min(left - granted, left // max(1, len(self._engine.workers))))

    def _granted(self, worker: Worker) -> int:
        """Count the errors that other workers may have made, or may still make, that nobody has heard of."""
        return sum(other.errors_in_hand for other in self._engine.workers.values() if other is not worker)

    def has_room(self, worker: Worker) -> bool:
        """Tell whether a worker may have another chunk: with one error in it, no more reach a service than may.

        That is the errors that open the breaker, and one for each other worker, whose call runs already.
        """
        head = self._engine.queue.head()
        pipeline = None if head is None else head.source.pipeline
        left = None if pipeline is None else pipeline.errors_left()
        return not left or self._granted(worker) + 1 <= left + len(self._engine.workers) - 1

    def _cut_short(self, pipeline: Pipeline) -> None:
        """Take back what workers have not started where they could make more errors than are left.

        Each may make one, since its call runs already, or is about to; all but one of these come on top.
        """
        left = pipeline.errors_left()
        if left is None:
            return
        crew = self._engine.workers.values()
        busy = [worker for worker in crew if worker.in_hand and worker.in_hand[0][1].source.pipeline is pipeline]
        surplus = sum(worker.errors_in_hand for worker in busy) + len(crew) - len(busy) - (left + len(crew) - 1)
        for worker in sorted(busy, key=lambda worker: -worker.errors_in_hand):
            if left and (surplus <= 0 or worker.errors_in_hand <= 1):
                return
            surplus -= worker.errors_in_hand - 1
            self._engine.recall(worker)

    # --- on the way back ---

    def settle(self, span: Span, value: object, error: BaseException | None) -> None:
        """Let the layers see how an attempt ended; deliver the call, or keep it for another attempt."""
        pipeline, engine = span.source.pipeline, self._engine
        settled = pipeline.settle(span.call, Outcome(value, error), self._tell)
        if isinstance(settled, Again):
            engine.counts["retried"] += 1
            self._hold(span, settled.seconds)
        else:
            self._finish(span, settled)
        if error is not None:
            self._cut_short(pipeline)
        if self._doors:
            self._open_door(pipeline)

    def retract(self, span: Span, reason: str) -> None:
        """Tell the layers that an attempt ends without an outcome; calls that were never asked have none."""
        if span.call is None:
            return
        pipeline = span.source.pipeline
        pipeline.retract(span.call, reason)
        if self._doors:
            self._open_door(pipeline)

    def _finish(self, span: Span, outcome: Outcome) -> None:
        """Deliver a call; those that follow one another in their map go together."""
        engine, source, error, run = self._engine, span.source, outcome.error, self._engine.last_delivery()
        engine.account(span, 1, int(error is not None))
        if not isinstance(run, Run) or run.source is not source or run.start + len(run.values) != span.start:
            run = Run(source, span.start)
            engine.notify(run)
        if error is not None:
            run.errors[len(run.values)] = error
        run.values.append(outcome.value)

    # --- meanwhile ---

    def release(self) -> list[Span]:
        """Remove and return all calls that are held or wait behind a door."""
        spans = [*self._held.values(), *(span for door in self._doors.values() for span in door.release())]
        self._held.clear()
        self._doors.clear()
        return spans

    def forget(self, span: Span) -> None:
        """Nobody wants these calls, or their source's, any more."""
        source = span.source
        mine = [span] if source.ordinal is None else [held for held in self._held.values() if held.source is source]
        for held in mine:
            if self._held.pop(id(held), None) is not None:
                self.retract(held, "cancelled")
                self._engine.counts["cancelled"] += len(held.take(len(held)))
        for pipeline, door in [*self._doors.items()]:
            if door.is_shut:
                door.first()
            else:
                self._let_next(pipeline, door)

    def _hold(self, span: Span, seconds: float) -> None:
        """Keep a call aside; it occupies no worker, and comes back before others of its priority."""
        engine = self._engine
        span.source.is_held = True
        if engine.is_cancelling or engine.broken is not None:
            self.retract(span, "shutdown")
            engine.give_back(span)
            return
        span.source.note_place(span)
        self._held[id(span)] = span
        engine.call_later(seconds, partial(self._resume, span))

    def _resume(self, span: Span) -> None:
        if self._held.pop(id(span), None) is not None:
            self._engine.queue.push(span, front=True)

    def _park(self, span: Span, door: Door) -> None:
        """Let a call wait behind a door; it comes first when that opens."""
        span.source.is_held = True
        span.source.note_place(span)
        door.add(span, front=True)

    def _shut(self, pipeline: Pipeline, seconds: float) -> Door:
        door = self._doors.get(pipeline)
        if door is None:
            door = self._doors[pipeline] = Door(self._engine.counts)
        door.is_shut = True
        due_s = time.monotonic() + seconds
        if due_s < door.due_s:  # else a timer opens it sooner
            door.due_s = due_s
            self._engine.call_later(seconds, partial(self._rang, pipeline, door))
        return door

    def _rang(self, pipeline: Pipeline, door: Door) -> None:
        door.due_s = math.inf
        if self._doors.get(pipeline) is door:
            self._open_door(pipeline)

    def _open_door(self, pipeline: Pipeline) -> None:
        door = self._doors.get(pipeline)
        if door is not None and door.is_shut:
            door.is_shut = False
            self._let_next(pipeline, door)

    def _let_next(self, pipeline: Pipeline, door: Door) -> None:
        """Let the next calls go to the queue, when those before them have left it."""
        if door.in_queue is not None and len(door.in_queue):
            return
        span = door.in_queue = door.pop()
        if span is None:
            del self._doors[pipeline]
        else:
            span.source.note_place(span)
            self._engine.queue.push(span, front=True)


_SEEN_TO = Outcome()
