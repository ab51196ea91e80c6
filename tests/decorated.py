"""Functions and methods with guards, which every start method can import."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from amorsize_executor import (
    CircuitBreaker,
    CircuitBreakerPolicy,
    RetryPolicy,
    with_circuit_breaker,
    with_rate_limit,
    with_retry,
)
from amorsize_executor.middleware.rate_limit import RateLimitPolicy
from tests import payloads

breaker = CircuitBreaker(CircuitBreakerPolicy(failure_threshold=5, timeout=3600.0))


@with_retry(max_retries=2, initial_delay=0.001)
def flaky(path: Path, key: Any = "x") -> Any:
    """Note an execution, and fail the first two times."""
    payloads.count_execution(path, str(key))
    if payloads.read_executions(path).count(str(key)) <= 2:
        raise ConnectionError(key)
    return key


@with_circuit_breaker(breaker)
def dead(path: Path, key: Any = "x") -> None:
    """Note an execution and fail."""
    payloads.count_execution(path, str(key))
    raise ConnectionError(key)


@with_retry(RetryPolicy(max_retries=2, initial_delay=0.001))
@with_circuit_breaker(CircuitBreakerPolicy(failure_threshold=100))
@with_rate_limit(RateLimitPolicy(1e6))
def guarded(path: Path, key: Any = "x") -> None:
    """Note an execution and fail."""
    payloads.count_execution(path, str(key))
    raise ConnectionError(key)


def shouting(function: Any) -> Any:
    """Decorate a function as others do."""

    @functools.wraps(function)
    def shout(*args: Any) -> Any:
        return function(*args)

    return shout


@shouting
@with_retry(max_retries=2, initial_delay=0.001)
def flaky_inside(path: Path) -> str:
    """Note an execution, and fail the first two times."""
    payloads.count_execution(path)
    if len(payloads.read_executions(path)) <= 2:
        raise ConnectionError
    return "done"


@with_circuit_breaker(CircuitBreakerPolicy(failure_threshold=100))
@shouting
@with_retry(max_retries=2, initial_delay=0.001)
def flaky_inside_guarded(path: Path) -> str:
    """Note an execution, and fail the first two times."""
    payloads.count_execution(path)
    if len(payloads.read_executions(path)) <= 2:
        raise ConnectionError
    return "done"


class Service:
    """Has a method with a guard."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @with_retry(max_retries=2, initial_delay=0.001)
    def fetch(self, key: str) -> str:
        """Note an execution, and fail the first two times."""
        payloads.count_execution(self.path, key)
        if payloads.read_executions(self.path).count(key) <= 2:
            raise ConnectionError(key)
        return key


called = with_retry(max_retries=1, initial_delay=0.001)(payloads.raise_value_error)
