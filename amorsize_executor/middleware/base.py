"""The middleware port: what a layer around every call is asked, and what it may answer.

    submit ──► admit (outermost first) ──► worker ──► settle (innermost first) ──► future
                 │ Run      go on inward               │ None      go on outward
                 │ Answered the outcome is known       │ Deliver   go on outward with another outcome
                 │ Hold     ask again in d seconds     │ Again     resume at this layer after d seconds

All methods are called by the dispatcher, one at a time, under its lock, and must not block. What a method raises
becomes the outcome of its call. While a call is held or backs off it occupies no worker and can be cancelled. A user's
callback goes into an answer's ``then``, which runs in the dispatcher thread once no lock is held.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amorsize_executor.errors import InvalidParameterTypeError
from amorsize_executor.parameters import check_seconds, check_wait


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt, or a call, ended.

    Attributes:
        value: The result, where there is no error.
        error: The exception, or None.
    """

    value: Any = None
    error: BaseException | None = None


@dataclass(slots=True, eq=False)
class Call:
    """A call as middleware sees it, the same object from its first ``admit`` to its delivery.

    Attributes:
        function: The user's callable.
        args: Positional arguments.
        kwargs: Keyword arguments.
        position: Its index in its map; 0 for a submitted call.
        attempt: How often it was sent to a worker, >= 0.
        priority: Higher runs earlier.
        key: What ``options(key=…)`` names the call or its map by; None for nothing.
        batch: Which map of its executor the call belongs to, counted from 0; None for a submitted call.
        identity: What a checkpoint around it knows it by, equal in every run of the program; None without one.
        state: For layers to keep what they like, under a key of their own.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    position: int = 0
    attempt: int = 0
    priority: int = 0
    key: Any = None
    batch: int | None = None
    identity: tuple[str, int, int, bytes] | None = None
    state: dict[Any, Any] = field(default_factory=dict)


Notice = Callable[[], object]
"""What an answer asks to be called ``then``: without arguments, in the dispatcher thread, under no lock."""


@dataclass(frozen=True, slots=True)
class Run:
    """Let the call go on inward.

    Attributes:
        stop_after_errors: End the call's chunk after so many consecutive errors and give the rest back; None for
            never. It is shared among the chunks that are on their way.
        timeout_s: Stop the worker, and fail the call, so many seconds after its start there; None for never.
        then: Called soon; None for nothing.
    """

    stop_after_errors: int | None = None
    timeout_s: float | None = None
    then: Notice | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.stop_after_errors, (int, type(None))):
            raise InvalidParameterTypeError("stop_after_errors", self.stop_after_errors, "must be an integer or None")
        if self.timeout_s is not None:
            check_seconds("timeout_s", self.timeout_s)


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome is known; nothing runs. Outer layers settle it."""

    outcome: Outcome
    then: Notice | None = None

    def __post_init__(self) -> None:
        check_outcome(self.outcome)


@dataclass(frozen=True, slots=True)
class Hold:
    """Ask again in so many seconds, >= 0. Outer layers that had admitted the call are retracted and asked again.

    Attributes:
        seconds: How long.
        is_for_all: Any other call would be told the same, so none is asked until then, or until one that passes
            through the same layers has ended.
        then: Called soon; None for nothing.
    """

    seconds: float
    is_for_all: bool = False
    then: Notice | None = None

    def __post_init__(self) -> None:
        check_wait("seconds", self.seconds)


@dataclass(frozen=True, slots=True)
class Deliver:
    """Pass an outcome on outward: the one that came, or another."""

    outcome: Outcome
    then: Notice | None = None

    def __post_init__(self) -> None:
        check_outcome(self.outcome)


@dataclass(frozen=True, slots=True)
class Again:
    """Run the call again in so many seconds, >= 0; it is admitted again by this layer and those further in."""

    seconds: float
    then: Notice | None = None

    def __post_init__(self) -> None:
        check_wait("seconds", self.seconds)


def check_outcome(value: object) -> None:
    """Raise unless a layer answers with an outcome. Checked in the layer, the traceback shows who does not."""
    if not isinstance(value, Outcome):
        raise InvalidParameterTypeError("outcome", value, "must be an Outcome")


Admission = Run | Answered | Hold
Settlement = Deliver | Again | None  # None passes the outcome on as it came
RUN = Run()


class Middleware:
    """A layer that lets everything through. Override what you need."""

    def open(self) -> None:
        """Get ready. Runs in: the caller's thread, at the executor's first call, once workers can be had."""

    def close(self) -> None:
        """Let go of everything. Runs in: the dispatcher thread, when the last call has been delivered."""

    def admit(self, call: Call) -> Admission:
        """Decide whether an attempt may start. Runs in: the dispatcher thread."""
        del call
        return RUN

    def settle(self, call: Call, outcome: Outcome) -> Settlement:
        """Decide what becomes of an attempt that has ended. Runs in: the dispatcher thread."""
        del call, outcome
        return None

    def retract(self, call: Call, reason: str) -> None:
        """Take back an admission whose attempt ends without an outcome. Runs in: the dispatcher thread.

        Args:
            call: The call; it may be admitted again later.
            reason: ``"cancelled"``, ``"taken back"``, ``"held"``, ``"worker died"`` or ``"shutdown"``.
        """

    def errors_left(self) -> int | None:
        """Tell how many errors in a row are borne from now on; 0 while no call is let through, None for any number.

        Asked after an error: chunks on their way that could make more are cut short, and what they have not started
        comes back. Runs in: the dispatcher thread.
        """
        return None
