"""Rate limit: a token bucket for all workers together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

from amorsize_executor.clock import Clock, SystemClock
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError, RateLimitExceeded
from amorsize_executor.events import logger
from amorsize_executor.middleware.base import RUN, Admission, Answered, Call, Hold, Middleware, Outcome
from amorsize_executor.middleware.shared import Shared
from amorsize_executor.parameters import check_callable, check_count, check_flag, is_finite
from amorsize_executor.wire.decorated import decorate

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_POLL_S = 1.0  # whether the bucket was filled by a reset is asked at least so often


@dataclass(frozen=True)
class RateLimitPolicy:
    """How many calls may begin.

    Attributes:
        requests_per_second: Calls a second in the long run, > 0.
        burst_size: Calls that may begin at once after a pause, >= 1; None for what a second brings, at least 1.
        wait_on_limit: True to wait for room, False to fail with ``RateLimitExceeded``.
        on_wait: Called as ``on_wait(seconds)`` before waiting; None for nothing. What it raises is logged.

    Raises:
        ValueError: A value is out of its range.
        TypeError: A value has the wrong type.
    """

    requests_per_second: float = 10.0
    burst_size: int | None = None
    wait_on_limit: bool = True
    on_wait: Callable[[float], object] | None = None

    def __post_init__(self) -> None:
        rate = self.requests_per_second
        if isinstance(rate, bool) or not isinstance(rate, (int, float)):
            raise InvalidParameterTypeError("requests_per_second", rate, "must be a finite number > 0")
        if not (rate > 0 and is_finite(rate)):
            raise InvalidParameterError("requests_per_second", rate, "must be a finite number > 0")
        check_count("burst_size", self.burst_size)
        if self.burst_size is None:
            object.__setattr__(self, "burst_size", max(1, int(rate)))
        check_flag("wait_on_limit", self.wait_on_limit)
        check_callable("on_wait", self.on_wait, optional=True)


class RateLimiter(Shared, Middleware):
    """A bucket of tokens, full at the start, of which each call takes one. It locks itself, so it may be shared.

    In any stretch of t seconds at most ``requests_per_second * t + burst_size`` tokens are taken.

    Args:
        policy: What to do; None for the default policy.
        clock: Tells how many tokens have come since.
        sleep: Waits so many seconds, where a function is called without an executor.
    """

    def __init__(
        self,
        policy: RateLimitPolicy | None = None,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if policy is not None and not isinstance(policy, RateLimitPolicy):
            raise InvalidParameterTypeError("policy", policy, "must be a RateLimitPolicy or None")
        self.policy = policy or RateLimitPolicy()
        self._burst = float(self.policy.burst_size or 1)
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._lock = threading.Lock()
        self.reset()

    def try_acquire(self, tokens: float = 1.0) -> bool:
        """Take tokens if they are there; never waits.

        Raises:
            ValueError: ``tokens`` is not above 0, or above what the bucket holds.
        """
        return not self._take(self._checked(tokens))

    def acquire(self, tokens: float = 1.0) -> None:
        """Take tokens, waiting for them where the policy says so.

        Raises:
            RateLimitExceeded: They are not there, and the policy says not to wait.
            ValueError: ``tokens`` is not above 0, or above what the bucket holds.
        """
        self._checked(tokens)
        while wait_s := self._take(tokens):
            if not self.policy.wait_on_limit:
                raise RateLimitExceeded(wait_s)
            self._tell(wait_s)
            self._sleep(min(wait_s, threading.TIMEOUT_MAX))

    def get_available_tokens(self) -> float:
        """Return how many tokens are there, 0 to ``burst_size``."""
        with self._lock:
            self._refill()
            return self._tokens

    def reset(self) -> None:
        """Fill the bucket."""
        with self._lock:
            self._tokens, self._at = self._burst, self._clock.monotonic()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_error: object) -> None:
        """Leave; a token that was taken is used up."""

    def call(self, func: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Return ``func(*args, **kwargs)`` once there is a token for it."""
        self.acquire()
        return func(*args, **kwargs)

    # --- around an executor's calls ---

    def admit(self, call: Call) -> Admission:
        """Take a token for an attempt; hold all until there is one."""
        wait_s = self._take(1.0)
        if not wait_s:
            call.state.pop(self, None)
            return RUN
        if not self.policy.wait_on_limit:
            return Answered(Outcome(error=RateLimitExceeded(wait_s)))
        is_told = self in call.state  # asked again before its time, it goes on waiting
        call.state[self] = True
        tell = None if is_told or self.policy.on_wait is None else partial(self._tell, wait_s)
        return Hold(min(wait_s, _POLL_S), is_for_all=True, then=tell)

    def retract(self, call: Call, reason: str) -> None:
        """Put the token of an attempt back that was not made."""
        del call
        if reason != "worker died":
            with self._lock:
                self._tokens = min(self._burst, self._tokens + 1.0)

    # --- the bucket ---

    def _take(self, tokens: float) -> float:
        """Take tokens and return 0.0, or take none and return the seconds until they are there."""
        with self._lock:
            self._refill()
            if self._tokens >= tokens:
                self._tokens -= tokens
                return 0.0
            return max((tokens - self._tokens) / self.policy.requests_per_second, 1e-9)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self.policy.requests_per_second)
        self._at = now

    def _checked(self, tokens: float) -> float:
        rule = f"must be above 0 and not above burst_size={self._burst:g}"
        if isinstance(tokens, bool) or not isinstance(tokens, (int, float)):
            raise InvalidParameterTypeError("tokens", tokens, rule)
        if not 0 < tokens <= self._burst:
            raise InvalidParameterError("tokens", tokens, rule)
        return tokens

    def _tell(self, wait_s: float) -> None:
        on_wait = self.policy.on_wait
        if on_wait is None:
            return
        try:
            on_wait(wait_s)
        except Exception:  # noqa: BLE001 - the call is not at fault and goes on; the callback's author is told
            logger.exception("on_wait failed")

    def __repr__(self) -> str:
        return f"<RateLimiter {self.policy.requests_per_second:g} a second, {self.get_available_tokens():.3g} at once>"


@overload
def with_rate_limit(
    func: RateLimitPolicy | RateLimiter | None = None, *, policy: RateLimitPolicy | None = None, **keywords: Any
) -> Callable[[F], F]: ...
@overload
def with_rate_limit(func: F, *, policy: RateLimitPolicy | None = None, **keywords: Any) -> F: ...
def with_rate_limit(
    func: Any = None, *, policy: RateLimitPolicy | None = None, limiter: RateLimiter | None = None, **keywords: Any
) -> Any:
    """Let a function be called no more often than a limit says, in the way of ``with_retry``.

    Args:
        func: The function, or a policy or limiter.
        policy: What to do; the keywords are ignored then.
        limiter: A limiter, which several functions may share; policy and keywords are ignored then.
        keywords: The fields of ``RateLimitPolicy``, where no policy is given.

    Raises:
        ValueError: A value is out of its range.
        TypeError: A value has the wrong type.
    """
    if isinstance(func, RateLimiter):
        func, limiter = None, func
    elif isinstance(func, RateLimitPolicy):
        func, policy = None, func
    if limiter is not None and not isinstance(limiter, RateLimiter):
        raise InvalidParameterTypeError("limiter", limiter, "must be a RateLimiter or None")
    shared = limiter or RateLimiter(RateLimitPolicy(**keywords) if policy is None else policy)
    if func is None:
        return lambda function: _decorate(function, shared)
    return _decorate(func, shared)


def _decorate(function: Callable[..., Any], limiter: RateLimiter) -> Any:
    decorated: Any = decorate(function, limiter)
    decorated._rate_limiter = limiter  # noqa: SLF001 - a name that users know
    return decorated


def layer_of(value: object) -> Middleware:
    """Return the layer for what ``rate_limit=`` was given."""
    if isinstance(value, RateLimiter):
        return value
    if isinstance(value, RateLimitPolicy):
        return RateLimiter(value)
    raise InvalidParameterTypeError("rate_limit", value, "must be a RateLimitPolicy, a RateLimiter, or None")
