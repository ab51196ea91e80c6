"""Spans and the queue of waiting calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor.engine.span import Span, WorkQueue
from tests.interrupts import interrupt, points_of


class Source:
    """Where calls come from, as the queue sees it."""

    def __init__(self, priority=0):
        self.priority = priority


def everything(queue: WorkQueue, step: int = 1) -> list[str]:
    """Take all calls from a queue, a few at a time."""
    taken = []
    while (head := queue.head()) is not None:
        taken += queue.take(head, step).arguments()
    return taken


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(0, 4), st.booleans()), max_size=12), st.integers(1, 5))
def test_priority_then_first_come(pushed, step):
    """Higher priority first, first come first served inside, what is put in front before all of its class."""
    queue, expected = WorkQueue(), {}
    for number, (priority, count, is_front) in enumerate(pushed):
        items = [f"{number}.{index}" for index in range(count)]
        queue.push(Span(Source(priority), 0, items), front=is_front)
        waiting = expected.setdefault(priority, [])
        waiting[:] = items + waiting if is_front else waiting + items
    assert queue.count == sum(count for _, count, _ in pushed)
    assert everything(queue, step) == [
        item for priority in sorted(expected, reverse=True) for item in expected[priority]
    ]
    assert queue.count == 0


@given(st.integers(1, 20), st.lists(st.integers(1, 7), max_size=20))
def test_taking_splits_without_loss(count, steps):
    """Taking from a span gives consecutive calls with their positions, and the span keeps the rest."""
    source = Source()
    span = Span(source, 100, list(range(count)))
    taken = [span.take(step) for step in steps]
    numbers = [value for part in taken for value in part.arguments()] + span.arguments()
    assert numbers == list(range(count))
    assert all(part.start == 100 + part.arguments()[0] for part in taken if len(part))


def test_a_part_leaves_the_span():
    """``part`` describes calls without taking them."""
    span = Span(Source(), 10, list("abcdef"))
    assert span.part(1, 3).arguments() == ["b", "c"]
    assert span.part(1, 3).start == 11
    assert len(span) == 6


def test_draining():
    """``drain`` gives everything in order and leaves an empty queue that can be used again."""
    queue = WorkQueue()
    for priority in (0, 5, 0):
        queue.push(Span(Source(priority), 0, [priority, priority]))
    assert [part.arguments() for part in queue.drain()] == [[5, 5], [0, 0], [0, 0]]
    assert queue.count == 0
    assert queue.head() is None
    queue.push(Span(Source(), 0, ["x"]))
    assert everything(queue) == ["x"]


def test_taking_from_what_is_not_queued():
    """The count is of queued calls only."""
    queue = WorkQueue()
    loose, queued = Span(Source(), 0, [1, 2]), Span(Source(), 0, [3, 4])
    queue.push(queued)
    queue.take(loose, 1)
    assert queue.count == 2
    queue.take(queued, 5)
    assert queue.count == 0


@pytest.mark.parametrize("count", [1, 2])
def test_an_interrupt_while_calls_are_taken(count):
    """Wherever it comes, a recount finds all calls that are there, and those that come after them."""

    def queue_of_two():
        queue = WorkQueue()
        span = Span(Source(), 0, ["a", "b"])
        queue.push(span)
        return queue, span

    def take():
        queue, span = queue_of_two()
        queue.take(span, count)

    points = points_of(take, 4)
    assert len(points) >= 4
    for point in points:
        queue, span = queue_of_two()
        interrupt(lambda: queue.take(span, count), point)  # noqa: B023
        queue.recount()
        left = span.arguments()
        assert queue.count == len(left), point
        queue.push(Span(Source(), 0, ["c"]))
        assert everything(queue) == [*left, "c"], point
        assert queue.count == 0, point
