"""Time as a parameter: whatever waits or measures takes a ``Clock``, so that no test sleeps."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of monotonic time."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary, fixed moment; never less than the call before."""
        ...


class SystemClock:
    """The machine's own monotonic clock."""

    monotonic = staticmethod(time.monotonic)


class ManualClock:
    """A clock that moves only when told to, for tests and simulations."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def monotonic(self) -> float:
        """Return the time that the clock was set to, in seconds."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds`` >= 0."""
        if seconds < 0:
            message = f"a monotonic clock cannot go back (advance by {seconds!r})"
            raise ValueError(message)
        self._now_s += seconds
