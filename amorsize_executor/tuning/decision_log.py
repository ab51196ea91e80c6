"""What the tuner has decided last, and every change of plan with its reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from amorsize_executor.records import Decision, Lane
from amorsize_executor.wording import name_function

MOST_DECISIONS = 1000


class DecisionLog:
    """Lanes and chunk sizes by function, and how they have changed.

    Of one function, each decision begins where the one before it has ended; what was decided already is no decision.

    Args:
        lane: Where a function is before any decision.
        chunksize: The size of its chunks before any decision.
        started_s: The clock's time when the executor started; None means the first time that is heard of.

    Attributes:
        entries: The last 1,000 changes of plan, oldest first.
    """

    def __init__(self, lane: Lane, chunksize: int, started_s: float | None) -> None:
        self.entries: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self._first_lane, self._first_chunksize = lane, chunksize
        self._lanes: dict[Hashable, Lane] = {}  # where they are not the first ones
        self._chunksizes: dict[Hashable, int] = {}
        self._started_s, self._now_s = started_s, started_s or 0.0

    def tell_time(self, now_s: float) -> None:
        """Note what time it is for the decisions that follow."""
        if self._started_s is None:
            self._started_s = now_s
        self._now_s = now_s

    def lane(self, key: Hashable) -> Lane:
        """Return where a function's calls run."""
        return self._lanes.get(key, self._first_lane)

    def chunksize(self, key: Hashable) -> int:
        """Return how many of a function's calls travel together."""
        return self._chunksizes.get(key, self._first_chunksize)

    def decided_chunksize(self, key: Hashable) -> int | None:
        """Return the same; None where nothing was decided."""
        return self._chunksizes.get(key)

    def decide_lane(self, key: Hashable, lane: Lane, reason: str) -> None:
        """Note where a function's calls run from now on."""
        before = self.lane(key)
        if lane is not before:
            self._lanes[key] = lane
            self.add("lane", before, lane, reason, name_function(key))

    def decide_chunksize(self, key: Hashable, size: int, reason: str) -> None:
        """Note how many of a function's calls travel together from now on."""
        before = self.chunksize(key)
        if size != before:
            self._chunksizes[key] = size
            self.add("chunksize", before, size, reason, name_function(key))

    def forget(self, key: Hashable, reason: str) -> None:
        """Take back what was decided of a function."""
        self.decide_lane(key, self._first_lane, reason)
        self.decide_chunksize(key, self._first_chunksize, reason)
        self._lanes.pop(key, None)
        self._chunksizes.pop(key, None)

    def add(self, what: str, before: object, after: object, reason: str, function: str = "") -> None:
        """Note a change of plan."""
        at_s = max(0.0, self._now_s - (self._started_s or 0.0))
        self.entries.append(Decision(at_s, what, str(before), str(after), reason, function))
