"""Retry: calls that fail run again after a back-off, which occupies no worker.

delay of the n-th retry = min(initial_delay * exponential_base ** (n - 1), max_delay), spread by jitter,
                          and at least what the exception's ``retry_after`` asks for
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar, overload

from amorsize_executor.clock import Clock, SystemClock
from amorsize_executor.errors import (
    CircuitBreakerError,
    InvalidParameterError,
    InvalidParameterTypeError,
    RateLimitExceeded,
    WorkerDiedError,
)
from amorsize_executor.events import logger
from amorsize_executor.middleware.base import RUN, Admission, Again, Call, Middleware, Outcome, Settlement
from amorsize_executor.middleware.shared import Shared
from amorsize_executor.parameters import (
    check_callable,
    check_count,
    check_number,
    check_seconds,
    check_types,
    is_finite,
)
from amorsize_executor.wire.decorated import decorate

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

FINAL = (CircuitBreakerError, WorkerDiedError)
"""Not retried unless a policy names them: a refusal is no attempt, and deaths have a budget of their own."""

REFUSALS = (CircuitBreakerError, RateLimitExceeded)
"""Ends of calls that nothing was tried for; no attempts, whether they are retried or not."""

_LARGEST_EXPONENT = 700.0  # e to the power of it is still a float
_LEAST_JITTER, _MOST_JITTER = 0.75, 1.25


@dataclass(frozen=True)
class RetryPolicy:
    """When to run a failed call again, and how long to wait before.

    Attributes:
        max_retries: Runs after the first one, >= 0; -1 for as many as it takes.
        initial_delay: Seconds before the first retry, > 0.
        max_delay: Most seconds that a back-off takes, jitter included, >= ``initial_delay``.
        exponential_base: What the delay grows by, >= 1.
        jitter: True to spread each delay evenly from 0.75 to 1.25 times itself, ``"full"`` from 0 to itself, False to
            take it as it is.
        retry_on_exceptions: Types that are retried; None for every ``Exception`` but ``CircuitBreakerError`` and
            ``WorkerDiedError``, which have to be named themselves.
        on_retry: Called as ``on_retry(exception, attempt, delay)`` before each back-off; the first has attempt 1, delay
            is in seconds. What it raises is logged.
        deadline: Seconds after a call's first attempt began past which no back-off goes on; None for no limit.
        budget: Most retries of all calls together, in the whole run, >= 0; None for no limit.

    Raises:
        ValueError: A value is out of its range.
        TypeError: A value has the wrong type.
    """

    max_retries: int = 3
    initial_delay: float = 0.1
    max_delay: float = 60.0
    exponential_base: float = 2.0
    jitter: bool | str = True
    retry_on_exceptions: tuple[type[BaseException], ...] | None = None
    on_retry: Callable[[BaseException, int, float], object] | None = None
    deadline: float | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        check_count("max_retries", self.max_retries, least=-1, optional=False)
        check_seconds("initial_delay", self.initial_delay)
        check_seconds("max_delay", self.max_delay)
        if self.max_delay < self.initial_delay:
            rule = f"must not be below initial_delay={self.initial_delay!r}"
            raise InvalidParameterError("max_delay", self.max_delay, rule)
        check_number("exponential_base", self.exponential_base, least=1.0)
        if not isinstance(self.jitter, bool) and self.jitter != "full":
            raise InvalidParameterError("jitter", self.jitter, "must be True, False or 'full'")
        check_types("retry_on_exceptions", self.retry_on_exceptions)
        check_callable("on_retry", self.on_retry, optional=True)
        if self.deadline is not None:
            check_seconds("deadline", self.deadline)
        check_count("budget", self.budget, least=0)

    def calculate_delay(self, attempt: int, rand: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait before a retry.

        Args:
            attempt: Which retry, counted from 1.
            rand: Draws the jitter, a float in 0..1.

        Returns:
            A number above 0 (or 0 with full jitter) and never above ``max_delay``.
        """
        delay = self._bare_delay(attempt)
        if self.jitter == "full":
            return delay * rand()
        if not self.jitter:
            return delay
        low, high = _LEAST_JITTER * delay, min(_MOST_JITTER * delay, self.max_delay)
        return min(low + (high - low) * rand(), high)

    def _bare_delay(self, attempt: int) -> float:
        # Compared as exponents: base ** attempt overflows long before retries without limit end.
        room = math.log(self.max_delay) - math.log(self.initial_delay)
        if (attempt - 1) * math.log(self.exponential_base) >= min(room, _LARGEST_EXPONENT):
            return self.max_delay
        return min(self.initial_delay * self.exponential_base ** (attempt - 1), self.max_delay)

    def should_retry(self, exception: BaseException, attempt: int) -> bool:
        """Tell whether a call may run again after its ``attempt``-th failure, counted from 1."""
        if 0 <= self.max_retries < attempt:
            return False
        wanted = self.retry_on_exceptions
        if isinstance(exception, FINAL):
            return wanted is not None and any(
                issubclass(kind, FINAL) and isinstance(exception, kind) for kind in wanted
            )
        return isinstance(exception, Exception if wanted is None else wanted)


class Retry(Shared, Middleware):
    """A policy at work, in an executor's middleware or around a function; its budget is what it has left.

    Args:
        policy: What to do; None for the default policy.
        clock: Tells when a deadline is over.
        rand: Draws the jitter, a float in 0..1.
        sleep: Waits so many seconds, where a function is called without an executor.
    """

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        clock: Clock | None = None,
        rand: Callable[[], float] = random.random,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if policy is not None and not isinstance(policy, RetryPolicy):
            raise InvalidParameterTypeError("policy", policy, "must be a RetryPolicy or None")
        self.policy = policy or RetryPolicy()
        self._clock = clock or SystemClock()
        self._rand = rand
        self._sleep = sleep
        self._lock = threading.Lock()
        self._left = self.policy.budget

    def decide(self, error: BaseException, failures: int, began_s: float) -> float | None:
        """Return the seconds to back off after a call's latest failure, or None to give it up.

        A retry that is granted is taken from the budget. Any thread.

        Args:
            error: What the attempt ended with.
            failures: How often the call has failed, >= 1.
            began_s: When its first attempt began (monotonic seconds).
        """
        policy = self.policy
        if not policy.should_retry(error, failures):
            return None
        delay = max(policy.calculate_delay(failures, self._rand), asked_delay(error))
        if policy.deadline is not None and self._clock.monotonic() + delay > began_s + policy.deadline:
            return None
        if self._left is not None:
            with self._lock:
                if self._left <= 0:
                    return None
                self._left -= 1
        return delay

    # --- around a function ---

    def call(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Return what the function returns, calling it again as the policy says; this thread sleeps meanwhile.

        Raises:
            BaseException: What the last attempt raised, as it was, with the number of attempts noted on it.
        """
        began_s, failures, made = self._clock.monotonic(), 0, 0
        while True:
            try:
                return func(*args, **kwargs)
            except BaseException as error:
                failures += 1
                made += not isinstance(error, REFUSALS)
                delay = self.decide(error, failures, began_s)
                if delay is None:
                    note_attempts(error, made)
                    raise
                self._tell(error, failures, delay)
            self._sleep(min(delay, threading.TIMEOUT_MAX))

    def _tell(self, error: BaseException, attempt: int, delay: float) -> None:
        on_retry = self.policy.on_retry
        if on_retry is None:
            return
        try:
            on_retry(error, attempt, delay)
        except Exception:  # noqa: BLE001 - the call is not at fault and goes on; the callback's author is told
            logger.exception("on_retry failed")

    # --- around an executor's calls ---

    def admit(self, call: Call) -> Admission:
        """Note when a call's first attempt begins, where there is a deadline."""
        if self.policy.deadline is not None and self not in call.state:
            call.state[self] = 0, 0, self._clock.monotonic()
        return RUN

    def settle(self, call: Call, outcome: Outcome) -> Settlement:
        """Have a failed call run again, or let its last error pass."""
        error = outcome.error
        if error is None:
            return None
        failures, made, began_s = call.state.get(self, (0, 0, 0.0))
        failures += 1
        made += not isinstance(error, REFUSALS)
        delay = self.decide(error, failures, began_s)
        if delay is None:
            note_attempts(error, made)
            return None
        call.state[self] = failures, made, began_s
        return Again(delay, self.policy.on_retry and partial(self._tell, error, failures, delay))

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{field.name}={getattr(self.policy, field.name)!r}"
            for field in fields(self.policy)
            if getattr(self.policy, field.name) != field.default
        )
        return f"Retry({shown})"


def asked_delay(error: BaseException) -> float:
    """Return the seconds that an exception's ``retry_after`` asks to wait; 0 where it asks for nothing sensible."""
    try:
        asked = getattr(error, "retry_after", None)
    except Exception:  # noqa: BLE001 - a property of the user's, and the call's own error is what counts
        return 0.0
    if isinstance(asked, bool) or not isinstance(asked, (int, float)) or not is_finite(asked):
        return 0.0
    return max(0.0, float(asked))


def note_attempts(error: BaseException, attempts: int) -> None:
    """Note on an exception how often its call was tried, where that was more than once.

    On Python 3.10, which has no ``add_note``, the note is kept where later versions keep it, in ``__notes__``. In
    threads one exception object may end many calls; it does not collect the same note from each.
    """
    if attempts > 1:
        note = f"after {attempts} attempts"
        with suppress(Exception):  # some refuse notes, and the error itself is what counts
            notes = getattr(error, "__notes__", ())
            if note in notes:
                return
            if hasattr(error, "add_note"):
                error.add_note(note)
            else:
                vars(error)["__notes__"] = [*notes, note]


@overload
def with_retry(
    func: RetryPolicy | None = None, *, policy: RetryPolicy | None = None, **keywords: Any
) -> Callable[[F], F]: ...
@overload
def with_retry(func: F, *, policy: RetryPolicy | None = None, **keywords: Any) -> F: ...
def with_retry(func: Any = None, *, policy: RetryPolicy | None = None, **keywords: Any) -> Any:
    """Make a function run again when it fails; with or without parentheses, with a policy or its fields.

    It works in any thread or process, where the calling thread sleeps between attempts. An executor that the function
    is given to backs off in the parent instead, and its workers run the bare function.

    Args:
        func: The function, or the policy.
        policy: What to do; the keywords are ignored then.
        keywords: The fields of ``RetryPolicy``, where no policy is given.

    Raises:
        ValueError: A value is out of its range.
        TypeError: A value has the wrong type.
    """
    if isinstance(func, RetryPolicy):
        func, policy = None, func
    retry = Retry(RetryPolicy(**keywords) if policy is None else policy)
    if func is None:
        return lambda function: decorate(function, retry)
    return decorate(func, retry)


def retry_call(
    func: Callable[..., T],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    policy: RetryPolicy | None = None,
    **keywords: Any,
) -> T:
    """Return ``func(*args, **kwargs)``, called again as the policy, or the keywords of one, say."""
    check_callable("func", func)
    return Retry(RetryPolicy(**keywords) if policy is None else policy).call(func, *args, **(kwargs or {}))


def layer_of(value: object) -> Middleware:
    """Return the layer for what ``retry=`` was given."""
    if isinstance(value, Retry):
        return value
    if isinstance(value, RetryPolicy):
        return Retry(value)
    raise InvalidParameterTypeError("retry", value, "must be a RetryPolicy, a Retry, or None")
