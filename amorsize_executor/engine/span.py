"""Spans: consecutive calls of one source, as they wait, travel and come back.

A source is what calls were asked through and what wants their outcomes: the future of a ``submit``, the stream
of a ``map``. A span refers to a stretch of its source's items without copying them, so that a map over a
million items is one object until its calls travel.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from amorsize_executor.wire.functions import Function


class Source(Protocol):
    """Where calls come from and outcomes go.

    Attributes:
        function: What is called.
        style: How an item becomes a call: ``ONE``, ``STAR`` or ``FULL`` of ``wire.functions``.
        priority: Higher runs earlier.
        pipeline: The layers of middleware that its calls pass, or None.
        key: What the user names it by.
        ordinal: Which map of its executor it is, counted from 0; None for a submitted call.
        is_held: A call of it waits in the middleware.
    """

    function: Function
    style: int
    priority: int
    pipeline: Any
    key: Any
    ordinal: int | None
    is_held: bool

    def is_wanted(self) -> bool:
        """Tell whether anybody still wants outcomes; changes nothing."""

    def begin(self) -> bool:
        """Note that calls of this source start to travel; False where nobody wants them any more."""

    def note_place(self, span: Span) -> None:
        """Note in which span a call waits from now on."""

    def deliver(self, position: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Take outcomes of consecutive calls; ``errors`` holds those without a value, by offset.

        Runs in: the dispatcher thread, without the engine's lock; may run a user's callbacks.
        """

    def cancel_calls(self, position: int, count: int) -> None:
        """Note that consecutive calls will never run. Runs in: as ``deliver``."""


class Span:
    """Calls ``items[low:high]`` of a source; the first has the position ``start`` there.

    ``take`` is called under the engine's lock only, so a call is in one span at a time.
    """

    __slots__ = ("call", "has_begun", "high", "is_queued", "items", "low", "source", "start")

    def __init__(self, source: Source, start: int, items: list[Any], low: int = 0, high: int | None = None) -> None:
        self.source = source
        self.start = start
        self.items = items
        self.low = low
        self.high = len(items) if high is None else high
        self.is_queued = False
        self.has_begun = False  # to travel: its calls are running to the world, and came back unrun if they wait again
        self.call: Any = None  # the middleware's view of the call, where there is middleware

    def __len__(self) -> int:
        return self.high - self.low

    def take(self, count: int) -> Span:
        """Split off the first ``count`` calls (all of them where there are fewer)."""
        count = min(count, self.high - self.low)
        taken = Span(self.source, self.start, self.items, self.low, self.low + count)
        taken.call, taken.has_begun = self.call, self.has_begun
        self.low += count
        self.start += count
        if self.low == self.high:
            self.items = []  # an empty span may stay in the queue for long, its arguments need not
            self.low = self.high = 0
        return taken

    def singly(self) -> Iterator[Span]:
        """Yield the calls one by one, each in a span of its own, leaving this span as it is."""
        if self.high - self.low == 1:
            yield self
            return
        source, items, shift = self.source, self.items, self.start - self.low
        for index in range(self.low, self.high):
            single = Span(source, index + shift, items, index, index + 1)
            single.has_begun = self.has_begun
            yield single

    def part(self, begin: int, end: int) -> Span:
        """Return the calls from offset ``begin`` to ``end``, leaving this span as it is."""
        part = Span(self.source, self.start + begin, self.items, self.low + begin, self.low + end)
        part.call, part.has_begun = self.call, self.has_begun
        return part

    def arguments(self) -> list[Any]:
        """Return the items, in order."""
        return self.items[self.low : self.high]


class WorkQueue:
    """Calls that wait: strictly by priority, first come first served inside, retries at the front.

    Guarded by the engine's lock.
    """

    def __init__(self) -> None:
        self._classes: dict[int, deque[Span]] = {}
        self._order: list[int] = []  # ascending
        self.count = 0

    def push(self, span: Span, *, front: bool = False) -> None:
        """Add a span; empty ones are ignored."""
        if span.low == span.high:
            return
        priority = span.source.priority
        waiting = self._classes.get(priority)
        if waiting is None:
            waiting = self._classes[priority] = deque()
            insort(self._order, priority)
        span.is_queued = True  # first, for ``recount``
        if front:
            waiting.appendleft(span)
        else:
            waiting.append(span)
        self.count += span.high - span.low

    def head(self) -> Span | None:
        """Return the span whose calls come next, or None; classes that have none any more are dropped."""
        while self._order:
            waiting = self._classes[self._order[-1]]
            while waiting:
                span = waiting[0]
                if span.low < span.high:
                    return span
                span.is_queued = False
                waiting.popleft()
            del self._classes[self._order.pop()]
        return None

    def take(self, span: Span, count: int) -> Span:
        """Take the first ``count`` calls of a span, queued or not."""
        taken = span.take(count)
        if span.is_queued:
            self.count -= len(taken)
            if span.low == span.high:
                self.head()  # lets go of it, and so of the call's arguments, if its turn has come
        return taken

    def recount(self) -> None:
        """Put in order what an interrupt in the middle of another method has left half done."""
        self._order = sorted(self._classes)
        self.count = sum(len(span) for waiting in self._classes.values() for span in waiting)

    def drain(self) -> list[Span]:
        """Remove and return everything."""
        spans = [span for priority in reversed(self._order) for span in self._classes[priority] if len(span)]
        taken = [self.take(span, len(span)) for span in spans]
        self._classes.clear()
        self._order = []
        return taken
