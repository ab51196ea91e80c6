"""What the benchmarks ask workers to run. It imports next to nothing, since workers may have to import it too."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

POLL_S = 0.001
ROUND_US = "AMORSIZE_BENCHMARK_ROUND_US"
"""Environment variable: microseconds of one round of ``compute``, measured once for all that is compared."""


def inc(number: int) -> int:
    """Return ``number + 1``: as little work as there is."""
    return number + 1


def give_back(value: Any) -> Any:
    """Return what was given."""
    return value


def compute(rounds: int) -> int:
    """Add so many squares: work whose length does not depend on the clock."""
    total = 0
    for number in range(rounds):
        total += number * number
    return total


def nap(seconds: float) -> float:
    """Wait without using a processor."""
    time.sleep(seconds)
    return seconds


def meet(place: tuple[str, int, int]) -> int:
    """Return this process's id once ``count`` calls run at the same time; ``place`` is (folder, who, count)."""
    folder, who, count = place
    Path(folder, str(who)).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(POLL_S)
    return os.getpid()


def meet_with_numpy(place: tuple[str, int, int]) -> int:
    """Import NumPy, then do as ``meet``."""
    import numpy as np

    assert np.__name__ == "numpy"
    return meet(place)


def take(array: Any) -> float:
    """Return an array's last number."""
    return float(array[-1])


_kept: dict[int, Any] = {}


def hand_out(count: int) -> Any:
    """Return an array of so many numbers, the same one each time."""
    if count not in _kept:
        import numpy as np

        _kept[count] = np.arange(count, dtype=np.float64)
    return _kept[count]


def measure_round() -> float:
    """Return the microseconds that one round of ``compute`` takes on this machine."""
    rounds = 20_000
    best = min(_time_of(rounds) for _ in range(7))
    return best / rounds * 1e6


def rounds_of(microseconds: float) -> int:
    """Return how many rounds of ``compute`` take so long; at least one."""
    return max(1, int(microseconds / float(os.environ.get(ROUND_US) or measure_round())))


def _time_of(rounds: int) -> float:
    began = time.perf_counter()
    compute(rounds)
    return time.perf_counter() - began
