"""Timeout: seconds that a call may run. The engine stops the worker, since only it sees calls run."""

from __future__ import annotations

from dataclasses import dataclass

from amorsize_executor.errors import InvalidParameterTypeError
from amorsize_executor.middleware.base import Admission, Call, Middleware, Run
from amorsize_executor.parameters import check_seconds


@dataclass(frozen=True)
class TimeoutPolicy:
    """How long a call may run.

    Attributes:
        seconds: From its start in the worker, > 0.
    """

    seconds: float

    def __post_init__(self) -> None:
        check_seconds("timeout", self.seconds)


class Timeout(Middleware):
    """A policy at work.

    Args:
        policy: What to do.
    """

    def __init__(self, policy: TimeoutPolicy) -> None:
        self.policy = policy
        self._run = Run(timeout_s=policy.seconds)

    def admit(self, call: Call) -> Admission:
        """Let the call run for so long."""
        del call
        return self._run


def layer_of(value: object) -> Middleware:
    """Return the layer for what ``timeout=`` was given."""
    if isinstance(value, Timeout):
        return value
    if isinstance(value, TimeoutPolicy):
        return Timeout(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterTypeError("timeout", value, "must be a finite number of seconds > 0, or None")
    return Timeout(TimeoutPolicy(value))
