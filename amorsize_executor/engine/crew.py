"""The workers as the dispatcher sees them: what each one has in hand, and what can be taken back from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator

from amorsize_executor.backends.base import Chunk, Group, WorkerLink
from amorsize_executor.engine.span import Span


class Worker:
    """One worker. Guarded by the engine's lock."""

    def __init__(self, number: int, link: WorkerLink, asked_at: float) -> None:
        self.number = number
        self.link = link
        self.asked_at = asked_at
        self.is_ready = False
        self.is_retiring = False
        self.is_killed = False
        self.is_stopped = False  # killed because of a call that overran its timeout
        self.ends: deque[int] = deque()  # of the chunks that are with the worker: the number after each one's last call
        self.pid = 0
        self.next_number = 0
        self.ran = 0
        self.stop: int | None = None
        self.memory_growth = 0
        self.sent_at = 0.0
        self.had_backlog = False
        self.stop_after_errors = 0  # of the present chunk; 0 for never
        self.timeout_s = 0.0  # the shortest one in the present chunk; 0 for none
        self.in_hand: deque[tuple[int, Span]] = deque()
        self.keys: dict[int, Hashable] = {}
        self.failure: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a chunk is with the worker."""
        return bool(self.in_hand or self.ends)

    @property
    def calls_in_hand(self) -> int:
        """How many calls are with the worker, those between the first and the last that were taken back included."""
        if not self.in_hand:
            return 0
        last, span = self.in_hand[-1]
        return last + len(span) - self.in_hand[0][0]

    @property
    def errors_in_hand(self) -> int:
        """How many errors nobody has heard of yet a chunk with a bound may have made, or may still make."""
        return min(self.stop_after_errors, self.calls_in_hand) if self.ends else 0

    @property
    def is_free(self) -> bool:
        """Whether the worker is ready and has nothing to do."""
        return self.is_ready and not self.is_busy and not self.is_retiring

    @property
    def takes_more(self) -> bool:
        """Whether a second chunk may be sent while the first one runs; a stop concerns all that there are."""
        return (
            len(self.ends) == 1 and bool(self.in_hand) and self.stop is None and self.is_ready and not self.is_retiring
        )

    @property
    def is_giving_back(self) -> bool:
        """Whether calls are in hand that the worker was told not to start. It may be told so again, of more calls."""
        if self.stop is None or not self.in_hand:
            return False
        last, span = self.in_hand[-1]
        return last + len(span) > self.stop

    def pack(self, spans: list[Span], number: int, stop_after_errors: int, flush_ns: int) -> Chunk:
        """Put spans in the worker's hands and return them as a chunk; calls of one function are grouped."""
        first = self.next_number
        groups: list[Group] = []
        if not self.ends:
            self.keys = {}
        for span in spans:
            source = span.source
            last = groups[-1] if groups else None
            if last is not None and last.function.number == source.function.number and last.style == source.style:
                last.items.extend(span.arguments())
            else:
                groups.append(Group(source.function, source.style, self.next_number, span.arguments()))
                self.keys[source.function.number] = source.function.key
            self.in_hand.append((self.next_number, span))
            self.next_number += len(span)
        self.ends.append(self.next_number)
        return Chunk(number, first, groups, stop_after_errors, flush_ns)

    def claim(self, first: int, count: int) -> Iterator[tuple[int, Span]]:
        """Remove the calls ``first`` to ``first + count`` and yield them as (number, span), skipping missing ones."""
        end = first + count
        kept: list[tuple[int, Span]] = []
        while self.in_hand and self.in_hand[0][0] < end:
            number, span = self.in_hand.popleft()
            if first <= number and number + len(span) <= end:  # as a rule
                yield number, span
                continue
            low, high = max(first, number), min(end, number + len(span))
            if low >= high:
                kept.append((number, span))
                continue
            if number < low:
                kept.append((number, span.part(0, low - number)))
            if high < number + len(span):
                self.in_hand.appendleft((high, span.part(high - number, len(span))))
            yield low, span if high - low == len(span) else span.part(low - number, high - number)
        self.in_hand.extendleft(reversed(kept))

    def end_chunk(self) -> list[Span]:
        """Note that the oldest chunk has ended; remove and return its calls that did not run."""
        return [span for _number, span in self.claim(0, self.ends.popleft())]

    def claim_from(self, first: int) -> list[Span]:
        """Remove and return all calls with numbers >= ``first``."""
        return [span for _number, span in self.claim(first, self.next_number - first)]

    def unstarted(self) -> int:
        """Return how many calls in hand have certainly not been started yet, or will not be reached soon."""
        if not self.in_hand:
            return 0
        first, (last, span) = self.in_hand[0][0], self.in_hand[-1]
        running = max(self.link.progress()[0], first)
        return max(0, min(last + len(span), self.stop or self.next_number) - running - 1)
