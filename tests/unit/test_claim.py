"""The caller's batch, and the dispatcher that shortens it while it runs."""

from __future__ import annotations

import sys

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine.claim import Claim, next_batch, run_batch
from amorsize_executor.engine.span import Span
from amorsize_executor.engine.stream import Stream
from amorsize_executor.wire.functions import ONE


class Source:
    """Where calls come from."""

    priority = 0


needs_gil = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="without the GIL nothing is taken back from a caller"
)


def begun(count: int) -> Claim:
    """Return a claim of so many calls."""
    claim = Claim()
    claim.begin(Span(Source(), 0, list(range(count))))
    return claim


def account(claim: Claim, taken: list[Span], ran: list[int]) -> list[int]:
    """Return the calls that were run, taken, or would be given back when the caller hands in."""
    left = claim.span.part(len(claim.values), claim.limit).arguments()
    return sorted([*ran, *left, *(value for span in taken for value in span.arguments())])


@needs_gil
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_taking_back_before_during_and_after_each_call(count):
    """At whatever call the dispatcher steps in, and as often, each call is run, taken or left exactly once."""
    for first in range(count + 1):
        for second in range(first, count + 1):
            claim, taken, ran = begun(count), [], []

            def take(claim=claim, taken=taken):
                span = claim.take_back()
                if span is not None:
                    taken.append(span)

            def call(item, ran=ran, take=take, first=first, second=second):
                if item in (first, second):
                    take()
                ran.append(item)
                if item == second:
                    take()

            if first == count:
                take()
            run_batch(call, claim)
            take()
            assert account(claim, taken, ran) == list(range(count))
            assert len(claim.values) == len(ran)


@needs_gil
@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("gap", range(4))
def test_a_caller_that_goes_on_between_the_thiefs_steps(steps, gap):
    """The caller may take items between the moment the thief reads the position and the moment it looks again."""

    class Thief(list):
        """The claim's items; deleting from them lets the caller go on first, as another thread would."""

        def __delitem__(self, key):
            for _ in range(gap):
                advance()
            super().__delitem__(key)

    claim = Claim()
    claim.begin(Span(Source(), 0, list(range(5))))
    claim.items = Thief(claim.items)
    claim.iterator = iter(claim.items)
    ran = []

    def advance():
        for item in claim.iterator:
            ran.append(item)
            claim.values.append(item)
            return

    for _ in range(steps):
        advance()
    span = claim.take_back()
    for _ in range(6):
        advance()
    taken = [] if span is None else [span]
    assert account(claim, taken, ran) == list(range(5))


def test_errors_stand_at_their_calls():
    """Errors are noted by position; ``SystemExit`` is one; a real interrupt ends the batch and goes on."""

    def call(item):
        if item == 1:
            raise SystemExit(3)
        if item == 3:
            raise KeyboardInterrupt
        return item

    claim = begun(5)
    with pytest.raises(KeyboardInterrupt):
        run_batch(call, claim)
    assert claim.values == [0, None, 2, None]
    assert {index: type(error) for index, error in claim.errors.items()} == {1: SystemExit, 3: KeyboardInterrupt}
    assert claim.span.part(len(claim.values), claim.limit).arguments() == [4]


def test_stop_iteration_does_not_end_a_batch():
    """A call that raises ``StopIteration`` is an error like others."""

    def call(item):
        if item == 1:
            raise StopIteration
        return item

    claim = begun(3)
    run_batch(call, claim)
    assert claim.values == [0, None, 2]
    assert list(claim.errors) == [1]


def test_batches_grow_while_calls_are_cheap():
    """A quick batch is followed by a larger one, a slow batch by a smaller, and none is empty."""
    assert next_batch(8, 1e-6) > 8
    assert next_batch(8, 1.0) == 1
    assert next_batch(1, 10.0) == 1


@pytest.mark.parametrize(("mean_s", "share"), [(0.0005, 0.0), (10.0, 1.0)])
def test_short_calls_do_not_count_as_waiting(mean_s, share):
    """This thread may have waited for the interpreter's lock; calls that take long are seen to wait."""
    claim = begun(10)
    run_batch(int, claim)
    measured = claim.measurement(10 * mean_s)
    assert measured.waiting_s / measured.wall_s == pytest.approx(share, abs=0.1)


def test_a_batch_crawls_only_if_its_calls_do():
    """One that was interrupted for a while, with as many calls done as ever, is no reason to start workers."""
    claim = begun(10_000)
    claim.values += [0] * 9_000
    now = claim.began + 0.02  # of which the calls took a half
    assert claim.overruns(now)
    assert not claim.crawls(now, 1e-6)
    assert claim.crawls(now, 1e-7)
    assert claim.crawls(now, 0.0)
    assert not claim.crawls(claim.began, 0.0)
    assert begun(1).crawls(claim.began + 1.0, 100.0)


@needs_gil
def test_what_is_taken_back_from_a_caller_it_may_run_all_the_same():
    """It comes first, so its caller waits for it; and while no worker is ready nobody else would run it."""
    executor = AdaptiveExecutor(1)
    engine = executor._engine
    stream = Stream(engine, engine.functions.register(abs, snapshot=False), ONE, 0, is_ordered=True, chunksize=None)
    claim = Claim()
    claim.begin(Span(stream, 0, list(range(10))))
    claim.began -= 1.0
    assert [next(claim.iterator), next(claim.iterator)] == [0, 1]
    engine.claims.append(claim)
    engine._ticked()
    assert (stream.spans[0].start, len(stream.spans[0]), engine.queue.count) == (2, 8, 8)
    assert stream.spans[0] is engine.queue.head()
    engine.claims.clear()
    executor.shutdown(cancel_futures=True)
