"""Law: a breaker lets all calls through, none, or one at a time, as its state says; and only its own era counts."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from amorsize_executor.clock import ManualClock
from amorsize_executor.errors import CircuitBreakerError
from amorsize_executor.middleware.base import Answered, Call, Hold, Outcome, Run
from amorsize_executor.middleware.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakerPolicy,
    CircuitState,
    circuit_breaker_call,
    with_circuit_breaker,
)
from tests import payloads

CLOSED, OPEN, HALF_OPEN = CircuitState


class BreakerMachine(RuleBasedStateMachine):
    """A breaker beside a plain model of it."""

    @initialize(threshold=st.integers(1, 4), successes=st.integers(1, 3), hold=st.booleans())
    def begin(self, threshold, successes, hold):
        """Start with a closed breaker."""
        self.heard: list = []
        self.policy = CircuitBreakerPolicy(
            failure_threshold=threshold,
            success_threshold=successes,
            timeout=10.0,
            excluded_exceptions=(LookupError,),
            while_open="hold" if hold else "fail",
            on_open=lambda count, _error: self.heard.append((OPEN, count, self.breaker.get_state()[0])),
            on_close=lambda: self.heard.append((CLOSED, None, self.breaker.get_state()[0])),
            on_half_open=lambda: self.heard.append((HALF_OPEN, None, self.breaker.get_state()[0])),
        )
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(self.policy, clock=self.clock)
        self.state, self.era, self.failures, self.successes, self.opened = CLOSED, 0, 0, 0, 0.0
        self.probe: Call | None = None
        self.running: list[tuple[Call, int]] = []
        self.expected: list = []

    def turn(self, state):
        """Change the model's state."""
        self.expected.append((state, self.failures if state is OPEN else None, state))
        self.state, self.era, self.probe, self.successes = state, self.era + 1, None, 0
        if state is OPEN:
            self.opened = self.clock.monotonic()
        else:
            self.failures = 0

    def notify(self, answer):
        """Do what the dispatcher does with a notice."""
        if answer is not None and answer.then is not None:
            answer.then()

    @rule()
    def admit(self):
        """A call comes."""
        call = Call(abs, (), {})
        due = self.clock.monotonic() >= self.opened + 10.0
        if self.state is OPEN and due:
            self.turn(HALF_OPEN)
        answer = self.breaker.admit(call)
        self.notify(answer)
        if self.state is CLOSED or (self.state is HALF_OPEN and self.probe is None):
            assert isinstance(answer, Run)
            left = self.policy.failure_threshold - self.failures
            assert answer.stop_after_errors == (left if self.state is CLOSED else 1)
            self.running.append((call, self.era))
            if self.state is HALF_OPEN:
                self.probe = call
        elif self.policy.while_open == "hold":
            assert isinstance(answer, Hold)
            assert answer.is_for_all
            assert 0 < answer.seconds <= 10.0
        else:
            assert isinstance(answer, Answered)
            error = answer.outcome.error
            assert isinstance(error, CircuitBreakerError)
            assert error.state is self.state
            assert 0 <= error.retry_after <= 10.0

    @precondition(lambda self: self.running)
    @rule(data=st.data(), error=st.sampled_from([None, ValueError("down"), KeyError("none"), KeyboardInterrupt()]))
    def settle(self, data, error):
        """A running call ends; some began before the state changed."""
        call, era = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.notify(self.breaker.settle(call, Outcome(error=error)))
        if era != self.era:
            return
        if self.state is HALF_OPEN:
            self.probe = None
        if isinstance(error, ValueError):
            self.failures += 1
            if self.state is HALF_OPEN or self.failures >= self.policy.failure_threshold:
                self.turn(OPEN)
        elif error is None and self.state is CLOSED:
            self.failures = 0
        elif error is None:
            self.successes += 1
            if self.successes >= self.policy.success_threshold:
                self.turn(CLOSED)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def retract(self, data):
        """A running call ends without an outcome."""
        call, _era = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.breaker.retract(call, "cancelled")
        if call is self.probe:
            self.probe = None

    @rule(seconds=st.sampled_from([0.5, 9.5, 10.0]))
    def wait(self, seconds):
        """Time passes."""
        self.clock.advance(seconds)

    @rule()
    def reset(self):
        """Somebody closes it by hand."""
        self.breaker.reset()
        self.turn(CLOSED)

    @invariant()
    def states_agree(self):
        """State, counts and callbacks are the model's; callbacks saw the new state, under no lock."""
        if not hasattr(self, "breaker"):
            return
        state, failures, successes, opened_at = self.breaker.get_state()
        assert (state, successes) == (self.state, self.successes)
        assert failures == self.failures
        assert (opened_at is None) is (state is CLOSED)
        left = {CLOSED: self.policy.failure_threshold - self.failures, OPEN: 0, HALF_OPEN: 1}
        assert self.breaker.errors_left() == left[state]
        assert self.heard == self.expected


TestBreakerMachine = BreakerMachine.TestCase


def breaker_of(**policy):
    """Return a breaker and its clock."""
    clock = ManualClock()
    return CircuitBreaker(CircuitBreakerPolicy(**policy), clock=clock), clock


def fail(breaker, error=None):
    """Make a call through the breaker that fails."""
    with pytest.raises(type(error or ValueError())):
        breaker.call(payloads.raise_value_error if error is None else _raise, error or "down")


def _raise(error):
    raise error


def test_a_failure_rate_opens_it_though_successes_come_between():
    """Half of the last ten calls, which never fail twice in a row; fewer than ten say nothing."""
    breaker, _clock = breaker_of(failure_threshold=3, failure_rate=0.5, window=10)
    for _ in range(4):
        breaker.call(abs, 1)
        fail(breaker)
    breaker.call(abs, 1)
    assert breaker.state is CLOSED
    fail(breaker)
    assert breaker.state is OPEN


@pytest.mark.parametrize("outcomes", ["", "ssssssssss", "sfsfsf", "ssssssssssfsfsf"])
def test_a_chunk_may_fail_no_more_often_than_opens_the_circuit(outcomes):
    """stop_after_errors is so many failures in a row, or fewer, by rate as by count."""
    breaker, _clock = breaker_of(failure_threshold=8, failure_rate=0.6, window=10)
    for outcome in outcomes:
        breaker.call(abs, 1) if outcome == "s" else fail(breaker)
    bound = breaker.admit(Call(abs, (), {})).stop_after_errors
    count = 0
    while breaker.state is CLOSED:
        fail(breaker)
        count += 1
    assert 1 <= bound <= count <= 8


def test_the_last_exception_keeps_no_frames_alive():
    """A breaker lives long; what a failed call had at hand does not."""

    class Large:
        pass

    breaker, _clock = breaker_of()
    held = []

    def hold_something():
        large = Large()
        held.append(weakref.ref(large))
        raise ConnectionError(111, "refused")

    fail_with = pytest.raises(ConnectionError)
    with fail_with:
        breaker.call(hold_something)
    del fail_with
    gc.collect()
    assert held[0]() is None
    assert isinstance(breaker.last_exception, ConnectionError)
    assert breaker.last_exception.errno == 111


def test_expected_and_excluded_types():
    """Only expected ones count; what is not counted changes nothing."""
    breaker, _clock = breaker_of(
        failure_threshold=1, expected_exceptions=(OSError,), excluded_exceptions=(FileNotFoundError,)
    )
    fail(breaker)
    fail(breaker, FileNotFoundError())
    assert breaker.state is CLOSED
    fail(breaker, ConnectionError())
    assert breaker.state is OPEN


def test_a_refusal_pickles_with_its_facts():
    """State, times and message arrive in another process."""
    breaker, clock = breaker_of(failure_threshold=1)
    fail(breaker)
    clock.advance(20)
    with pytest.raises(CircuitBreakerError) as caught:
        breaker.call(abs, 1)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.state, copy.opened_at, copy.retry_after) == (str(caught.value), OPEN, 0.0, 40.0)


def test_a_refusal_says_what_the_circuit_opened_for():
    """Where every call ends with a refusal, nothing else tells what is wrong with the service."""
    breaker, _clock = breaker_of(failure_threshold=1)
    fail(breaker, ConnectionError("no route"))
    with pytest.raises(CircuitBreakerError, match=r"open after ConnectionError\('no route'\); it is tried again"):
        breaker.call(abs, 1)


def test_copies_in_one_process_are_one_breaker():
    """A breaker that travels keeps one state a process."""
    breaker, _clock = breaker_of(failure_threshold=1)
    copy = pickle.loads(pickle.dumps(breaker))
    fail(copy)
    assert breaker.state is OPEN


def test_threads_probe_one_at_a_time():
    """Of sixteen threads that come while it is half open, one calls the service."""
    breaker, clock = breaker_of(failure_threshold=1, success_threshold=1)
    fail(breaker)
    clock.advance(60)
    inside, go_on, refused, lock = threading.Event(), threading.Event(), [], threading.Lock()

    def probe():
        inside.set()
        assert go_on.wait(30)

    def come():
        try:
            breaker.call(probe)
        except CircuitBreakerError as error:
            with lock:
                refused.append(error)

    first = threading.Thread(target=come)
    first.start()
    assert inside.wait(30)
    others = [threading.Thread(target=come) for _ in range(15)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(30)
    assert len(refused) == 15
    go_on.set()
    first.join(30)
    assert breaker.state is CLOSED


def test_holding_threads_go_on_when_the_circuit_closes():
    """With while_open="hold" a call waits instead of failing, and wakes at once."""
    breaker, _clock = breaker_of(failure_threshold=1, while_open="hold", timeout=1e6)
    fail(breaker)
    results: list = []
    threads = [threading.Thread(target=lambda: results.append(breaker.call(abs, -5))) for _ in range(3)]
    for thread in threads:
        thread.start()
    breaker.reset()
    for thread in threads:
        thread.join(30)
    assert results == [5, 5, 5]


def test_ways_to_decorate():
    """Without parentheses, with none, a policy or a breaker; the breaker shows as an attribute."""
    breaker, _clock = breaker_of()
    policy = CircuitBreakerPolicy(failure_threshold=2)
    for decorated in (
        with_circuit_breaker(payloads.square),
        with_circuit_breaker()(payloads.square),
        with_circuit_breaker(policy)(payloads.square),
        with_circuit_breaker(breaker)(payloads.square),
    ):
        assert decorated(3) == 9
        assert decorated.__name__ == "square"
        assert isinstance(decorated._circuit_breaker, CircuitBreaker)
    assert with_circuit_breaker(breaker)(payloads.square)._circuit_breaker is breaker
    with pytest.raises(TypeError, match="func=3"):
        with_circuit_breaker(3)


def test_calls_through_a_breaker_once():
    """Through the one that is given, or one of its own, which nobody else's failures open."""
    breaker, _clock = breaker_of(failure_threshold=1)
    for policy in (None, CircuitBreakerPolicy(failure_threshold=1)):
        for _ in range(2):
            with pytest.raises(ValueError, match="invalid literal"):
                circuit_breaker_call(int, "x", policy=policy)
    with pytest.raises(ValueError, match="invalid literal"):
        circuit_breaker_call(int, "x", breaker=breaker, base=7)
    with pytest.raises(CircuitBreakerError):
        circuit_breaker_call(int, "5", breaker=breaker)
    assert circuit_breaker_call(int, "11", base=7) == 8


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"breaker": CircuitBreaker(), "policy": CircuitBreakerPolicy()}, ValueError),
        ({"breaker": 0}, TypeError),
        ({"policy": 0}, TypeError),
    ],
)
def test_wrong_arguments_of_a_call_are_named(wrong, kind):
    """Before anything is called."""
    with pytest.raises(kind, match="policy=" if "policy" in wrong else "breaker=0"):
        circuit_breaker_call(pytest.fail, "called", **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_threshold": 0},
        {"success_threshold": 0},
        {"timeout": 0},
        {"expected_exceptions": (OSError,), "excluded_exceptions": (OSError,)},
        {"on_open": 1},
        {"failure_rate": 1.1},
        {"window": 0},
        {"window": 10**30},
        {"timeout": 10**400},
        {"while_open": "wait"},
    ],
)
def test_wrong_parameters_are_named(wrong):
    """The error names the parameter."""
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        CircuitBreakerPolicy(**wrong)


def test_resetting_a_closed_breaker_is_no_change_to_log(caplog):
    """Its callback is called all the same."""
    heard = []
    breaker = CircuitBreaker(CircuitBreakerPolicy(on_close=lambda: heard.append("closed")))
    breaker.reset()
    assert heard == ["closed"]
    assert not caplog.records


class NamedError(OSError):
    """Has an ``__init__`` that nobody else can call."""

    def __init__(self, *, name) -> None:
        super().__init__(2, "gone", name)
        self.name = name


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "gone", "here"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "no"),
        ModuleNotFoundError("no", name="missing"),
        StopIteration(3),
        NamedError(name="here"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_last_exception_says_what_the_error_said(error):
    """With what builtin types keep apart from their arguments."""
    breaker = CircuitBreaker()

    def fail():
        raise error

    with pytest.raises(type(error)):
        breaker.call(fail)
    kept = breaker.last_exception
    assert type(kept) is type(error)
    assert (str(kept), kept.args, vars(kept)) == (str(error), error.args, vars(error))
    assert kept.__traceback__ is None
    for name in ("filename", "name", "value"):
        assert getattr(kept, name, None) == getattr(error, name, None)


class MuteError(Exception):
    """Can be made by nobody else, and its text fails."""

    def __new__(cls, *, code):
        return super().__new__(cls, code)

    def __init__(self, *, code) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        raise ValueError


def test_an_error_whose_text_fails_counts_like_others():
    """It reaches the caller as it was, opens the circuit, and as a probe makes room for the next one."""

    def fail():
        raise MuteError(code=1)

    clock = ManualClock()
    breaker = CircuitBreaker(CircuitBreakerPolicy(failure_threshold=1), clock=clock)
    for _ in range(2):  # closed, then half open
        with pytest.raises(MuteError):
            breaker.call(fail)
        assert breaker.state is CircuitState.OPEN
        assert breaker.last_exception.args == ("MuteError: MuteError",)
        clock.advance(60)


def test_a_probe_that_a_callback_interrupts_gives_its_place_back():
    """Ctrl-C in on_half_open ends the call before it is made; the next one probes."""

    def interrupt():
        if not heard:
            heard.append("half open")
            raise KeyboardInterrupt

    heard: list = []
    clock = ManualClock()
    policy = CircuitBreakerPolicy(failure_threshold=1, success_threshold=1, on_half_open=interrupt)
    breaker = CircuitBreaker(policy, clock=clock)
    with pytest.raises(ValueError, match="x"):
        breaker.call(int, "x")
    clock.advance(60)
    with pytest.raises(KeyboardInterrupt):
        breaker.call(abs, -1)
    assert breaker.call(abs, -2) == 2
    assert breaker.state is CircuitState.CLOSED
