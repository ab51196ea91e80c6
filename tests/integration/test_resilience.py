"""A real service that is busy, broken, silent and down for a while, called through all the layers at once."""

from __future__ import annotations

import random

import pytest

from amorsize_executor import (
    AdaptiveExecutor,
    CircuitBreaker,
    CircuitBreakerPolicy,
    CircuitState,
    RateLimitPolicy,
    RetryPolicy,
)
from tests.service import BROKEN, BUSY, OK, SILENT, GoneError, Service, fetch

pytestmark = pytest.mark.slow

CALLS = 2000


def make_plan(seed: int) -> tuple[dict[int, list[int]], set[int]]:
    """Return the moods of a service: a few bad answers here and there, some silence, and numbers that always fail."""
    draw = random.Random(seed)
    plan = {
        number: [draw.choice((BUSY, BROKEN)) for _ in range(draw.randint(1, 2))]
        for number in draw.sample(range(CALLS), CALLS // 12)
    }
    plan.update((number, [SILENT]) for number in draw.sample(range(CALLS), 6))
    return plan, set(draw.sample(range(CALLS), 5))


def test_every_call_ends_as_the_plan_says():
    """Results and errors are as many as calls: each number's square, but for those that never succeed."""
    plan, doomed = make_plan(seed=4)
    opened = []
    policy = CircuitBreakerPolicy(
        failure_threshold=10,
        success_threshold=1,
        timeout=0.02,
        while_open="hold",
        excluded_exceptions=(GoneError,),
        on_open=lambda failures, _error: opened.append(failures),
    )
    breaker = CircuitBreaker(policy)
    with (
        Service(plan, doomed, outage=range(900, 920)) as service,
        AdaptiveExecutor(
            max_workers=4,
            retry=RetryPolicy(max_retries=30, initial_delay=0.001, max_delay=0.01),
            circuit_breaker=breaker,
            rate_limit=RateLimitPolicy(20_000, 50),
            timeout=0.3,
        ) as executor,
    ):
        results = list(executor.imap(fetch, [service.port] * CALLS, range(CALLS), on_error="return", buffersize=CALLS))
        facts = executor.stats()
    failed = {number for number, result in enumerate(results) if isinstance(result, BaseException)}
    assert failed == doomed
    assert {type(results[number]) for number in doomed} == {GoneError}
    assert [result for number, result in enumerate(results) if number not in doomed] == [
        number * number for number in range(CALLS) if number not in doomed
    ]
    assert len(results) == CALLS
    assert service.answers[OK] == CALLS - len(doomed)
    assert facts["calls_timed_out"] == service.answers[SILENT] == 6
    assert facts["calls_retried"] == service.answers.total() - CALLS
    assert facts["calls_held"] > 0
    assert opened
    assert opened[0] == 10
    assert breaker.state is not CircuitState.OPEN
