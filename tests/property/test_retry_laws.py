"""Laws of retry: how long a back-off is, how often a call runs, and what is left of the budget."""

from __future__ import annotations

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor.clock import ManualClock
from amorsize_executor.errors import CircuitBreakerError, RateLimitExceeded, WorkerDiedError
from amorsize_executor.middleware.base import Again, Call, Outcome
from amorsize_executor.middleware.retry import Retry, RetryPolicy, retry_call, with_retry
from tests import payloads

delays = st.floats(1e-6, 1e6)


@st.composite
def policies(draw, **fixed):
    """Draw a policy of sane figures."""
    initial = draw(delays)
    return RetryPolicy(
        initial_delay=initial,
        max_delay=draw(st.floats(initial, 1e7)),
        exponential_base=draw(st.floats(1, 10)),
        jitter=draw(st.sampled_from([True, False, "full"])),
        **fixed,
    )


def waiting(policy, rand=lambda: 0.5):
    """Return a retry whose sleeps move its clock, and the list of them."""
    clock, slept = ManualClock(), []

    def sleep(seconds):
        slept.append(seconds)
        clock.advance(seconds)

    return Retry(policy, clock=clock, rand=rand, sleep=sleep), slept, clock


@given(policies(), st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_above_the_most(policy, attempt, drawn):
    """Whatever the attempt and the draw: from 0 to max_delay, and from 0.75 to 1.25 of the bare delay."""
    delay = policy.calculate_delay(attempt, lambda: drawn)
    assert 0 <= delay <= policy.max_delay
    bare = RetryPolicy(
        initial_delay=policy.initial_delay,
        max_delay=policy.max_delay,
        exponential_base=policy.exponential_base,
        jitter=False,
    ).calculate_delay(attempt)
    if policy.jitter is True:
        assert 0.75 * bare <= delay <= 1.25 * bare
    elif policy.jitter is False:
        assert delay == bare


@given(policies())
def test_bare_delays_grow_to_the_most(policy):
    """Without a draw, each delay is at least the one before."""
    shown = [policy.calculate_delay(attempt, lambda: 0.5) for attempt in range(1, 50)]
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(shown))


def test_delays_double():
    """The schedule that the parameters spell out."""
    policy = RetryPolicy(initial_delay=0.05, exponential_base=2.0, jitter=False, max_delay=0.3)
    assert [policy.calculate_delay(attempt) for attempt in range(1, 6)] == [0.05, 0.1, 0.2, 0.3, 0.3]


def test_extreme_figures_do_not_overflow():
    """A policy may span more than floats do, and run for ever."""
    policy = RetryPolicy(initial_delay=1e-300, max_delay=1e300, exponential_base=1e10, jitter=False, max_retries=-1)
    assert policy.calculate_delay(10**12) == 1e300
    assert policy.should_retry(ValueError(), 10**12)


@given(st.integers(0, 20), st.integers(0, 25))
def test_a_call_runs_once_more_than_retries_are_allowed(max_retries, failures):
    """N retries are at most N + 1 calls, and as few as it takes."""
    retry, slept, _clock = waiting(RetryPolicy(max_retries=max_retries))
    attempts = []

    def flaky():
        attempts.append(len(attempts))
        if len(attempts) <= failures:
            raise ValueError(len(attempts))
        return "done"

    if failures <= max_retries:
        assert retry.call(flaky) == "done"
        assert len(attempts) == failures + 1
    else:
        with pytest.raises(ValueError, match=str(max_retries + 1)) as caught:
            retry.call(flaky)
        assert len(attempts) == max_retries + 1
        noted = getattr(caught.value, "__notes__", [])
        assert noted == ([f"after {max_retries + 1} attempts"] if max_retries else [])
    assert len(slept) == len(attempts) - 1


@given(st.floats(0.1, 100), st.floats(0.1, 10))
def test_no_back_off_passes_the_deadline(deadline, initial_delay):
    """Retries without number end with the deadline, and not much before it."""
    policy = RetryPolicy(max_retries=-1, initial_delay=initial_delay, max_delay=10.0, deadline=deadline, jitter=False)
    retry, slept, clock = waiting(policy)
    with pytest.raises(ValueError, match="no"):
        retry.call(payloads.raise_value_error, "no")
    assert clock.monotonic() <= deadline
    assert clock.monotonic() + policy.calculate_delay(len(slept) + 1) > deadline


@given(st.integers(0, 30), st.lists(st.integers(0, 6), max_size=20))
def test_all_calls_together_keep_to_the_budget(budget, failures):
    """What is granted never exceeds the budget, and is granted while there is some."""
    retry, slept, _clock = waiting(RetryPolicy(max_retries=5, budget=budget))
    for count in failures:
        left = iter(range(count))
        try:
            retry.call(lambda left=left: payloads.raise_value_error("no") if next(left, None) is not None else None)
        except ValueError:
            continue
    assert len(slept) == min(budget, sum(min(count, 5) for count in failures))


@pytest.mark.parametrize(
    ("asked", "delay"),
    [(None, 1.0), (0.2, 1.0), (7, 7.0), (99.5, 99.5), (-3, 1.0), (float("nan"), 1.0), ("soon", 1.0), (True, 1.0)],
)
def test_retry_after_on_the_exception_is_obeyed(asked, delay):
    """The service's word counts, where it is a sensible number, above max_delay too."""
    error = ValueError()
    error.retry_after = asked
    policy = RetryPolicy(initial_delay=1.0, max_delay=5.0, jitter=False)
    assert Retry(policy).decide(error, 1, 0.0) == delay


@pytest.mark.parametrize(
    ("wanted", "error", "retried"),
    [
        (None, ValueError(), True),
        (None, KeyboardInterrupt(), False),
        (None, CircuitBreakerError("open"), False),
        (None, WorkerDiedError(1, -9, 2), False),
        ((Exception,), CircuitBreakerError("open"), False),
        ((CircuitBreakerError,), CircuitBreakerError("open"), True),
        ((OSError,), ConnectionError(), True),
        ((OSError,), ValueError(), False),
        ((KeyboardInterrupt,), KeyboardInterrupt(), True),
        ((), ValueError(), False),
    ],
)
def test_what_is_retried(wanted, error, retried):
    """Any Exception, or what is listed; a refusal or a death only where it is listed itself."""
    assert RetryPolicy(retry_on_exceptions=wanted).should_retry(error, 1) is retried


def test_on_retry_is_told_before_each_back_off_and_may_fail(caplog):
    """It hears exception, attempt and delay; what it raises is logged and stops nothing."""
    heard = []

    def on_retry(error, attempt, delay):
        heard.append((str(error), attempt, delay))
        raise LookupError

    retry, slept, _clock = waiting(RetryPolicy(max_retries=2, initial_delay=1.0, jitter=False, on_retry=on_retry))
    with pytest.raises(ValueError, match="no"):
        retry.call(payloads.raise_value_error, "no")
    assert heard == [("no", 1, 1.0), ("no", 2, 2.0)]
    assert slept == [1.0, 2.0]
    assert caplog.text.count("on_retry failed") == 2


def test_as_a_layer_it_answers_as_around_a_function():
    """The same decisions, as Again and nothing, per call."""
    policy = RetryPolicy(max_retries=1, initial_delay=1.0, jitter=False)
    retry, first, second = Retry(policy), Call(abs, (), {}), Call(abs, (), {})
    failed = Outcome(error=ValueError())
    for call in (first, second):
        assert isinstance(retry.settle(call, failed), Again)
    assert retry.settle(first, failed) is None
    assert retry.settle(second, Outcome(3)) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": -2},
        {"max_retries": True},
        {"initial_delay": 0},
        {"initial_delay": 2.0, "max_delay": 1.0},
        {"exponential_base": 0.9},
        {"jitter": "half"},
        {"retry_on_exceptions": [ValueError]},
        {"on_retry": 3},
        {"deadline": -1.0},
        {"budget": -1},
        {"initial_delay": 10**400},
        {"max_delay": 10**400},
        {"deadline": 10**400},
        {"exponential_base": 10**400},
    ],
)
def test_wrong_parameters_are_named(wrong):
    """The error names a parameter that was given, and is a ValueError."""
    with pytest.raises(ValueError, match="|".join(wrong)):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    "use", [Retry, lambda policy: with_retry(policy=policy), lambda policy: retry_call(abs, (1,), None, policy)]
)
def test_what_is_no_policy_is_named(use):
    """Before anything is called."""
    with pytest.raises(TypeError, match="policy=0"):
        use(0)
    with pytest.raises(TypeError, match="policy=5"):
        use(5)


def test_ways_to_decorate():
    """Bare, with fields, with a policy by name or position; name and docstring stay."""

    def add(left, right=1):
        """Add."""
        return left + right

    policy = RetryPolicy(max_retries=7)
    for decorated, retries in (
        (with_retry(add), 3),
        (with_retry(max_retries=5)(add), 5),
        (with_retry(add, max_retries=5), 5),
        (with_retry(policy)(add), 7),
        (with_retry(policy=policy)(add), 7),
        (with_retry(add, policy=policy, max_retries=1), 7),
    ):
        assert decorated(2, right=3) == 5
        assert (decorated.__name__, decorated.__doc__) == ("add", "Add.")
        assert decorated.guard.policy.max_retries == retries
    assert retry_call(add, (1,), {"right": 2}) == 3


def test_coroutine_functions_are_refused():
    """Their calls end before anything can fail, so a retry would do nothing."""

    async def fetch():
        """Fetch nothing."""

    with pytest.raises(TypeError, match="coroutine"):
        with_retry(fetch)


def test_copies_in_one_process_share_what_is_left():
    """A retry that was pickled and unpickled here is the same one."""
    retry = Retry(RetryPolicy(budget=3))
    assert pickle.loads(pickle.dumps(retry)) is retry


class UnwillingError(Exception):
    """Neither tells how long to wait nor takes notes."""

    @property
    def retry_after(self):
        raise RuntimeError

    def add_note(self, note):
        raise RuntimeError(note)


def test_an_error_that_refuses_questions_and_notes_is_raised_as_it_was():
    """What its own code raises does not take its place."""
    failing = itertools.repeat(UnwillingError("down"))

    def fail():
        raise next(failing)

    retry, slept, _clock = waiting(RetryPolicy(max_retries=2))
    with pytest.raises(UnwillingError, match="down"):
        retry.call(fail)
    assert len(slept) == 2


def test_an_error_that_ends_many_calls_does_not_collect_their_notes():
    """In threads, one exception object may be raised by all of them."""
    shared = ValueError("down")
    shared.__notes__ = ["theirs"]

    def fail():
        raise shared

    for _ in range(3):
        with pytest.raises(ValueError, match="down"):
            waiting(RetryPolicy(max_retries=1))[0].call(fail)
    assert shared.__notes__ == ["theirs", "after 2 attempts"]


@pytest.mark.parametrize("refusal", [CircuitBreakerError("open", "open", 0.0, 1.0), RateLimitExceeded(1.0)])
def test_refusals_are_no_attempts(refusal):
    """Two attempts are noted, though the call was refused in between; around a function and in an executor."""
    policy = RetryPolicy(max_retries=2, retry_on_exceptions=(CircuitBreakerError, RateLimitExceeded, ValueError))

    def fail_in_turn(endings):
        raise next(endings)

    last = ValueError("last")
    with pytest.raises(ValueError, match="last"):
        waiting(policy)[0].call(fail_in_turn, iter([ValueError(), refusal, last]))
    assert last.__notes__ == ["after 2 attempts"]

    last, retry, call = ValueError("last"), waiting(policy)[0], Call(abs, (1,), {})
    answers = [retry.settle(call, Outcome(error=error)) for error in (ValueError(), refusal, last)]
    assert [isinstance(answer, Again) for answer in answers] == [True, True, False]
    assert last.__notes__ == ["after 2 attempts"]
