"""Laws of the token bucket: never above rate * time + burst, and no wait longer than it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor.clock import ManualClock
from amorsize_executor.errors import RateLimitExceeded
from amorsize_executor.middleware.base import RUN, Answered, Call, Hold
from amorsize_executor.middleware.rate_limit import RateLimiter, RateLimitPolicy, with_rate_limit

rates = st.floats(0.01, 1e4)
bursts = st.integers(1, 100)


@given(rates, bursts, st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20)), max_size=60))
def test_any_stretch_of_time_has_at_most_rate_times_time_plus_burst(rate, burst, steps):
    """Between any two grants, the first included."""
    clock = ManualClock()
    limiter = RateLimiter(RateLimitPolicy(rate, burst), clock=clock)
    granted = []
    for pause, wishes in steps:
        clock.advance(pause)
        granted += [clock.monotonic() for _ in range(wishes) if limiter.try_acquire()]
    for first, begin in enumerate(granted):
        for last in range(first, len(granted)):
            assert last - first + 1 <= rate * (granted[last] - begin) + burst + 1e-6


@given(rates, bursts, st.integers(1, 200))
def test_waiting_as_told_is_enough_and_no_more(rate, burst, calls):
    """Calls that wait as they are told take as long as the rate says."""
    clock = ManualClock()
    limiter = RateLimiter(RateLimitPolicy(rate, burst), clock=clock, sleep=clock.advance)
    for _ in range(calls):
        assert limiter.call(abs, -1) == 1
    assert clock.monotonic() == pytest.approx(max(0, calls - burst) / rate, rel=1e-6, abs=1e-6)


def test_what_did_not_run_gives_its_token_back():
    """Except where a worker died of it, since the call was made then."""
    limiter, call = RateLimiter(RateLimitPolicy(1, 1), clock=ManualClock()), Call(abs, (), {})
    for reason, is_free in (("taken back", True), ("cancelled", True), ("worker died", False)):
        assert limiter.admit(call) is RUN
        limiter.retract(call, reason)
        assert (limiter.get_available_tokens() == 1) is is_free
    assert limiter.admit(call) == Hold(1.0, is_for_all=True)


def test_without_waiting_it_refuses():
    """The error says when there is room, here and in an executor."""
    policy = RateLimitPolicy(2, 1, wait_on_limit=False)
    limiter = RateLimiter(policy, clock=ManualClock())
    with limiter:
        assert not limiter.try_acquire()
    with pytest.raises(RateLimitExceeded) as caught:
        limiter.acquire()
    assert caught.value.retry_after == 0.5
    answer = limiter.admit(Call(abs, (), {}))
    assert isinstance(answer, Answered)
    assert answer.outcome.error.retry_after == 0.5


def test_on_wait_hears_how_long(caplog):
    """It is told before each wait; what it raises is logged."""
    clock, heard = ManualClock(), []

    def on_wait(seconds):
        heard.append(seconds)
        raise LookupError

    limited = with_rate_limit(
        abs, limiter=RateLimiter(RateLimitPolicy(4, 1, on_wait=on_wait), clock=clock, sleep=clock.advance)
    )
    assert [limited(-2), limited(-3)] == [2, 3]
    assert heard == [0.25]
    assert "on_wait failed" in caplog.text


@pytest.mark.parametrize("tokens", [0, -1, 3, float("nan"), float("inf")])
def test_more_tokens_than_can_be_there_are_refused(tokens):
    """Instead of waiting for ever."""
    with pytest.raises(ValueError, match="tokens"):
        RateLimiter(RateLimitPolicy(10, 2)).acquire(tokens)


def test_the_burst_is_a_second_by_default():
    """At least one."""
    assert [RateLimitPolicy(rate).burst_size for rate in (0.1, 1, 2.9, 50)] == [1, 1, 2, 50]


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests_per_second": 0},
        {"requests_per_second": 10**400},
        {"burst_size": 0},
        {"burst_size": 10**400},
        {"wait_on_limit": 1},
    ],
)
def test_wrong_parameters_are_named(wrong):
    """The error names the parameter."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RateLimitPolicy(**wrong)


@pytest.mark.parametrize(
    ("use", "named"),
    [
        (RateLimiter, "policy=5"),
        (lambda policy: with_rate_limit(policy=policy), "policy=5"),
        (lambda _policy: with_rate_limit(policy=0), "policy=0"),
        (lambda limiter: with_rate_limit(limiter=limiter), "limiter=5"),
    ],
)
def test_what_is_no_policy_or_limiter_is_named(use, named):
    """Before anything is called."""
    with pytest.raises(TypeError, match=named):
        use(5)
