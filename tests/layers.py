"""Driving middleware without an executor."""

from __future__ import annotations

from typing import Any

from amorsize_executor.middleware.base import RUN, Answered, Call, Middleware, Outcome


def run_call(layer: Middleware, call: Call) -> tuple[Any, bool]:
    """Take a call through one layer as a dispatcher would; return its value and whether the function ran.

    Raises:
        BaseException: What the layer answered with, or what the function raised.
    """
    answer = layer.admit(call)
    if isinstance(answer, Answered):
        outcome, ran = answer.outcome, False
    else:
        assert answer is RUN
        call.attempt += 1
        try:
            outcome = Outcome(call.function(*call.args, **call.kwargs))
        except Exception as error:  # noqa: BLE001 - as a worker catches it
            outcome = Outcome(error=error)
        assert layer.settle(call, outcome) is None  # it passes on as it came, which costs nothing
        ran = True
    if outcome.error is not None:
        raise outcome.error
    return outcome.value, ran
