"""The onion of layers, asked without an executor."""

from __future__ import annotations

import pytest

from amorsize_executor.engine.pipeline import Passage, Pipeline
from amorsize_executor.middleware.base import RUN, Again, Call, Middleware, Outcome, Run
from amorsize_executor.middleware.retry import Retry, RetryPolicy
from amorsize_executor.middleware.timeout import Timeout, TimeoutPolicy


class Patient(Middleware):
    """Gives each attempt the next limit."""

    def __init__(self, *limits) -> None:
        self.limits = iter(limits)

    def admit(self, call):
        del call
        seconds = next(self.limits)
        return RUN if seconds is None else Run(timeout_s=seconds)


@pytest.mark.parametrize(
    ("outer", "limits", "expected"),
    [
        (None, [0.5, 5.0, 2.0], [0.5, 5.0, 2.0]),
        (3.0, [0.5, 5.0, 2.0], [0.5, 3.0, 2.0]),
        (None, [0.5, None, 2.0], [0.5, 0.0, 2.0]),
        (3.0, [None, 0.5, None], [3.0, 0.5, 3.0]),
    ],
)
def test_an_attempt_may_run_as_long_as_its_own_admission_says(outer, limits, expected):
    """A layer inside of the retry says it anew for each attempt; one outside of it has said it for all."""
    around = [] if outer is None else [Timeout(TimeoutPolicy(outer))]
    pipeline = Pipeline([*around, Retry(RetryPolicy(max_retries=5)), Patient(*limits)])
    passage = Passage(Call(abs, (1,), {}))
    seen = []
    for _ in limits:
        assert pipeline.admit(passage, print) is RUN
        seen.append(passage.timeout_s)
        assert isinstance(pipeline.settle(passage, Outcome(error=OSError()), print), Again)
    assert seen == expected
