"""Circuit breaker: a service that is down is left alone for a while, then tried with one call at a time.

    CLOSED ──failures──► OPEN ──timeout──► HALF_OPEN ──successes──► CLOSED
                          ▲                    │
                          └──────failure───────┘

Every change of state begins an *era*. A call carries the era that it entered in, and counts only there: outcomes
of calls that began before the breaker opened say nothing about its probes.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar, overload

from amorsize_executor.clock import Clock, SystemClock
from amorsize_executor.errors import CircuitBreakerError, InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.events import CircuitChanged, log, logger
from amorsize_executor.middleware.base import (
    Admission,
    Answered,
    Call,
    Deliver,
    Hold,
    Middleware,
    Notice,
    Outcome,
    Run,
    Settlement,
)
from amorsize_executor.middleware.shared import Shared
from amorsize_executor.parameters import check_callable, check_choice, check_count, check_seconds, check_types
from amorsize_executor.wire.decorated import decorate
from amorsize_executor.wording import describe_error

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_POLL_S = 1.0  # what others do, a reset or another executor's probe, is asked after at least so often


class CircuitState(str, Enum):
    """What a breaker does with calls: lets all through, none, or one at a time."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class CircuitBreakerPolicy:
    """When to leave a service alone, and when to try it again.

    Attributes:
        failure_threshold: Consecutive failures that open the circuit, >= 1.
        success_threshold: Successful probes, one after the other, that close it again, >= 1.
        timeout: Seconds that it stays open before the first probe, > 0.
        expected_exceptions: Types that count as failures; None for every ``Exception``.
        excluded_exceptions: Types that do not; None for none. They change nothing but that a probe makes room for
            the next one.
        on_open: Called as ``on_open(failures, last_exception)``; None for nothing. What callbacks raise is logged; no
            lock is held meanwhile, so they may use the breaker.
        on_close: Called without arguments.
        on_half_open: Called without arguments.
        failure_rate: Share of the last ``window`` calls, > 0 and <= 1, whose failing opens the circuit too; None
            to look at consecutive failures alone.
        window: Calls that the rate is taken of, >= 1; fewer say nothing.
        while_open: ``"fail"`` refuses calls with ``CircuitBreakerError``, ``"hold"`` lets them wait.

    Raises:
        ValueError: A value is out of its range, or a type is both expected and excluded.
        TypeError: A value has the wrong type.
    """

    failure_threshold: int = 5
    success_threshold: int = 2
    timeout: float = 60.0
    expected_exceptions: tuple[type[BaseException], ...] | None = None
    excluded_exceptions: tuple[type[BaseException], ...] | None = None
    on_open: Callable[[int, BaseException | None], object] | None = None
    on_close: Callable[[], object] | None = None
    on_half_open: Callable[[], object] | None = None
    failure_rate: float | None = None
    window: int = 20
    while_open: str = "fail"

    def __post_init__(self) -> None:
        check_count("failure_threshold", self.failure_threshold, optional=False)
        check_count("success_threshold", self.success_threshold, optional=False)
        check_seconds("timeout", self.timeout)
        check_types("expected_exceptions", self.expected_exceptions)
        check_types("excluded_exceptions", self.excluded_exceptions)
        if set(self.expected_exceptions or ()) & set(self.excluded_exceptions or ()):
            rule = "must not name a type that expected_exceptions names too"
            raise InvalidParameterError("excluded_exceptions", self.excluded_exceptions, rule)
        for name in ("on_open", "on_close", "on_half_open"):
            check_callable(name, getattr(self, name), optional=True)
        if self.failure_rate is not None:
            check_share("failure_rate", self.failure_rate)
        check_count("window", self.window, optional=False)
        check_choice("while_open", self.while_open, ("fail", "hold"))

    def counts(self, error: BaseException) -> bool:
        """Tell whether an exception is a failure of the service."""
        wanted = Exception if self.expected_exceptions is None else self.expected_exceptions
        return isinstance(error, wanted) and not isinstance(error, self.excluded_exceptions or ())


class CircuitBreaker(Shared, Middleware):
    """One service's breaker. It may stand around several functions and in several executors, and locks itself.

    Args:
        policy: What to do; None for the default policy.
        clock: Tells when the circuit has been open for long enough.

    Attributes:
        policy: What it was made with.
        failure_count: Consecutive failures while closed.
        success_count: Successful probes while half open.
        opened_at: When it opened, in seconds of its clock; None unless it is open or half open.
        last_failure_time: When a call failed last, in seconds of its clock; None before the first.
        last_exception: What that call raised, without its traceback; None before the first.
    """

    def __init__(self, policy: CircuitBreakerPolicy | None = None, *, clock: Clock | None = None) -> None:
        if policy is not None and not isinstance(policy, CircuitBreakerPolicy):
            raise InvalidParameterTypeError("policy", policy, "must be a CircuitBreakerPolicy or None")
        self.policy = policy or CircuitBreakerPolicy()
        self.failure_count = self.success_count = 0
        self.opened_at: float | None = None
        self.last_failure_time: float | None = None
        self.last_exception: BaseException | None = None
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # a probe has ended, or the state is another
        self._state = CircuitState.CLOSED
        self._era = 1
        self._has_probe = False
        self._recent: deque[bool] = deque(maxlen=self.policy.window)  # True for a failure
        self._run = Run(self._until_open())  # what a call is told while the circuit is closed

    @property
    def state(self) -> CircuitState:
        """What the breaker does now; it turns half open with the first call after its timeout."""
        return self._state

    def get_state(self) -> tuple[CircuitState, int, int, float | None]:
        """Return (state, failure_count, success_count, opened_at), all of one moment."""
        with self._lock:
            return self._state, self.failure_count, self.success_count, self.opened_at

    def reset(self) -> None:
        """Close the circuit and forget all failures; calls ``on_close``."""
        with self._lock:
            notice = self._turn(CircuitState.CLOSED)
        notice()

    # --- around a function ---

    def call(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Return ``func(*args, **kwargs)``, if the circuit lets it through; with ``"hold"``, wait until it does.

        Raises:
            CircuitBreakerError: The circuit is open, and its policy says ``"fail"``.
        """
        era = self._enter_or_wait()
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            self._leave(era, error)()
            raise
        except BaseException:  # Ctrl-C and the like tell nothing of the service
            self._give_back(era)
            raise
        self._leave(era, None)()
        return result

    def _enter_or_wait(self) -> int:
        while True:
            with self._lock:
                era, wait_s, notice = self._enter()
                if not era and self.policy.while_open == "hold":
                    self._changed.wait(min(wait_s, threading.TIMEOUT_MAX))
                    continue
            if notice is not None:
                try:
                    notice()
                except BaseException:  # such as Ctrl-C in a callback: the call is not made
                    self._give_back(era)
                    raise
            if era:
                return era
            raise self._refusal(wait_s)

    # --- around an executor's calls ---

    def admit(self, call: Call) -> Admission:
        """Let a call through, refuse it, or hold it."""
        with self._lock:
            if self._state is CircuitState.CLOSED:
                call.state[self] = self._era
                return self._run
            era, wait_s, notice = self._enter()
            if era:
                call.state[self] = era
                return Run(self._until_open(), then=notice)
        if self.policy.while_open == "hold":
            return Hold(min(wait_s, _POLL_S), is_for_all=True, then=notice)
        return Answered(Outcome(error=self._refusal(wait_s)), notice)

    def settle(self, call: Call, outcome: Outcome) -> Settlement:
        """Count an outcome."""
        notice = self._leave(call.state.pop(self), outcome.error)
        return None if notice is _nothing else Deliver(outcome, notice)

    def retract(self, call: Call, reason: str) -> None:
        """Give a probe's place back."""
        del reason
        self._give_back(call.state.pop(self))

    def errors_left(self) -> int:
        """Return how many failures in a row would open the circuit; 0 while it is open."""
        with self._lock:
            return 0 if self._state is CircuitState.OPEN else self._until_open()

    # --- the machine ---

    def _enter(self) -> tuple[int, float, Notice | None]:
        """Let a call in if the state allows. Under the lock.

        Returns:
            (era, or 0 for a refusal; seconds after which to ask again; what to call under no lock).
        """
        if self._state is CircuitState.CLOSED:
            return self._era, 0.0, None
        notice = None
        if self._state is CircuitState.OPEN:
            left_s = (self.opened_at or 0.0) + self.policy.timeout - self._clock.monotonic()
            if left_s > 0:
                return 0, left_s, None
            notice = self._turn(CircuitState.HALF_OPEN)
        if self._has_probe:
            return 0, self.policy.timeout, notice
        self._has_probe = True
        return self._era, 0.0, notice

    def _leave(self, era: int, error: BaseException | None) -> Notice:
        """Count how a call ended, and return what to call under no lock."""
        counts = error is not None and self.policy.counts(error)
        kept = without_traceback(error) if counts and error is not None else None
        with self._lock:
            if era != self._era:
                return _nothing
            is_closed = self._state is CircuitState.CLOSED
            if not is_closed:
                self._free_probe()
            if counts:
                self.last_failure_time, self.last_exception = self._clock.monotonic(), kept
                self._count(1)
                return self._turn(CircuitState.OPEN) if not is_closed or self._until_open() <= 0 else _nothing
            if error is not None:
                return _nothing
            if is_closed:
                if self.failure_count or self.policy.failure_rate is not None:
                    self._count(0)
                return _nothing
            self.success_count += 1
            return self._turn(CircuitState.CLOSED) if self.success_count >= self.policy.success_threshold else _nothing

    def _give_back(self, era: int) -> None:
        """Forget a call that has no outcome."""
        with self._lock:
            if era == self._era and self._state is CircuitState.HALF_OPEN:
                self._free_probe()

    def _free_probe(self) -> None:
        self._has_probe = False
        self._changed.notify_all()

    def _count(self, failures: int) -> None:
        """Count a failure, or a success as 0. Under the lock."""
        self.failure_count = self.failure_count + failures if failures else 0
        self._recent.append(bool(failures))
        self._run = Run(self._until_open())

    def _until_open(self) -> int:
        """Return how many failures in a row would open the circuit now; 1 for a probe. Under the lock."""
        if self._state is not CircuitState.CLOSED:
            return 1
        left = self.policy.failure_threshold - self.failure_count
        if self.policy.failure_rate is not None:
            recent, window = self._recent, self.policy.window
            enough = math.ceil(self.policy.failure_rate * window)
            left = min(left, max(enough - sum(recent), window - len(recent)))
        return left

    def _turn(self, state: CircuitState) -> Notice:
        """Begin an era, and return what to call under no lock. Under the lock."""
        before, self._state = self._state, state
        self._era += 1
        self._has_probe = False
        self._recent.clear()
        failures, error = self.failure_count, self.last_exception
        self.success_count = 0
        if state is CircuitState.OPEN:
            self.opened_at = self._clock.monotonic()
        else:
            self.failure_count = 0
        if state is CircuitState.CLOSED:
            self.opened_at = None
        self._run = Run(self._until_open())
        self._changed.notify_all()
        return partial(self._tell, before, state, failures, error)

    def _tell(self, before: CircuitState, after: CircuitState, failures: int, error: BaseException | None) -> None:
        """Tell the log and the user. Under no lock."""
        if after is not before:  # a closed one may be reset
            log(CircuitChanged(str(before), str(after), failures))
        policy = self.policy
        try:
            if after is CircuitState.OPEN and policy.on_open is not None:
                policy.on_open(failures, error)
            elif after is CircuitState.CLOSED and policy.on_close is not None:
                policy.on_close()
            elif after is CircuitState.HALF_OPEN and policy.on_half_open is not None:
                policy.on_half_open()
        except Exception:  # noqa: BLE001 - no call is at fault; the callback's author is told
            logger.exception("a callback of %r failed", self)

    def _refusal(self, wait_s: float) -> CircuitBreakerError:
        state, _failures, _successes, opened_at = self.get_state()
        if state is CircuitState.OPEN:
            from amorsize_executor.storage.encoding import show  # noqa: PLC0415 - only refusals need it

            message = f"the circuit is open after {show(self.last_exception)}; it is tried again in {wait_s:.3g} s"
            return CircuitBreakerError(message, state, opened_at, wait_s)
        message = "the circuit is half open, and another call is trying it"
        return CircuitBreakerError(message, state, opened_at, 0.0)

    def __repr__(self) -> str:
        state, failures, successes, _opened_at = self.get_state()
        return f"<CircuitBreaker {state}: {failures} failures, {successes} successful probes>"


def _nothing() -> None:
    """No notice."""


def without_traceback(error: BaseException) -> BaseException:
    """Return an exception of the same type and content that keeps no frames alive. Its own ``__init__`` is not run."""
    base: Any = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    try:
        _kind, args, *state = base.__reduce__(error)  # with what some builtin types keep beside args and __dict__
        copy = type(error).__new__(type(error), *args)
        base.__init__(copy, *args)
        copy.args = error.args
        for name in (state[0] or {}).keys() - error.__dict__.keys() if state else ():
            setattr(copy, name, state[0][name])
        copy.__dict__.update(error.__dict__)
    except Exception:  # noqa: BLE001 - one that is not made like others: what it says is all that is kept
        return RuntimeError(describe_error(error))
    return copy


def check_share(name: str, value: Any) -> None:
    """Raise unless ``value`` is a number > 0 and <= 1."""
    rule = "must be a number > 0 and <= 1, or None"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterTypeError(name, value, rule)
    if not 0 < value <= 1:
        raise InvalidParameterError(name, value, rule)


@overload
def with_circuit_breaker(breaker: CircuitBreaker | CircuitBreakerPolicy | None = None) -> Callable[[F], F]: ...
@overload
def with_circuit_breaker(breaker: F) -> F: ...
def with_circuit_breaker(breaker: Any = None) -> Any:
    """Put a breaker around a function; it is the function's ``_circuit_breaker``.

    It works in any thread; in processes of their own, each has one. An executor that the function is given to asks
    this process's breaker for all of its workers, which run the bare function.

    Args:
        breaker: A breaker, which several functions may share; a policy for a new one; None for a new one with
            the default policy; or the function, where the decorator stands without parentheses.

    Raises:
        TypeError: It is none of these.
    """
    if breaker is None or isinstance(breaker, (CircuitBreaker, CircuitBreakerPolicy)):
        shared = breaker if isinstance(breaker, CircuitBreaker) else CircuitBreaker(breaker)
        return lambda function: _decorate(function, shared)
    return _decorate(breaker, CircuitBreaker())


def circuit_breaker_call(
    func: Callable[..., T],
    *args: Any,
    policy: CircuitBreakerPolicy | None = None,
    breaker: CircuitBreaker | None = None,
    **kwargs: Any,
) -> T:
    """Return ``func(*args, **kwargs)``, called through a breaker: the one given, or a new one with the policy.

    Raises:
        CircuitBreakerError: The circuit is open.
        ValueError: Both a policy and a breaker are given.
    """
    check_callable("func", func)
    if breaker is None:
        return CircuitBreaker(policy).call(func, *args, **kwargs)
    if not isinstance(breaker, CircuitBreaker):
        raise InvalidParameterTypeError("breaker", breaker, "must be a CircuitBreaker or None")
    if policy is not None:
        raise InvalidParameterError("policy", policy, "must be None where a breaker is given, which has its own")
    return breaker.call(func, *args, **kwargs)


def _decorate(function: Callable[..., Any], breaker: CircuitBreaker) -> Any:
    decorated: Any = decorate(function, breaker)
    decorated._circuit_breaker = breaker  # noqa: SLF001 - a name that users know
    return decorated


def layer_of(value: object) -> Middleware:
    """Return the layer for what ``circuit_breaker=`` was given."""
    if isinstance(value, CircuitBreaker):
        return value
    if isinstance(value, CircuitBreakerPolicy):
        return CircuitBreaker(value)
    raise InvalidParameterTypeError(
        "circuit_breaker", value, "must be a CircuitBreakerPolicy, a CircuitBreaker, or None"
    )
