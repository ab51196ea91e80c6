"""Measure efficiency against call duration: the curve that says when parallel work pays.

    python -m tests.benchmarks.efficiency [--runs 3] [--who adaptive,ppe,joblib,mpire] [--quick]

Efficiency is serial time / (cores * elapsed time), from the making of the pool to its end, for a second of work a core;
of calls so short that this would be more than 100,000, for 100,000. Serial code has 1 / cores: above that line parallel
work pays. The results join the record for ``report``.
"""

from __future__ import annotations

from typing import Any

import loky

from tests.benchmarks import race, record
from tests.benchmarks.contest import CONTESTANTS, is_installed

DURATIONS_US = 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000
WORK_A_CORE_US = 1_000_000
MOST_CALLS = 100_000
LEAST_CALLS_A_CORE = 2
QUICK_US = 10, 1_000


def calls_of(duration_us: int, cores: int, *, share: float = 1.0) -> int:
    """Return how many calls of a duration are made: as many for each core."""
    wanted = min(MOST_CALLS / cores, WORK_A_CORE_US / duration_us) * share
    return cores * max(LEAST_CALLS_A_CORE, int(wanted))


def main() -> None:
    """Measure, print and record."""
    options = record.parser("Measure efficiency against call duration.")
    options.add_argument("--runs", type=int, default=3, help="of each contestant at each duration (%(default)s)")
    options.add_argument("--who", default="adaptive,ppe,joblib,mpire", help="contestants (%(default)s)")
    chosen = options.parse_args()
    durations, runs, share = (QUICK_US, 1, 0.02) if chosen.quick else (DURATIONS_US, chosen.runs, 1.0)
    whos = [who for who in chosen.who.split(",") if is_installed(who)]
    cores = loky.cpu_count()
    about: dict[str, Any] = {**record.describe(), "runs": runs, "share": share}
    points: list[dict[str, Any]] = []
    for duration_us in durations:
        calls = calls_of(duration_us, cores, share=share)
        row = race.measure(f"uniform:{duration_us}:{calls}", ["serial", *whos], runs=runs, share=1.0)
        serial_s = row["serial"]
        assert serial_s is not None, "a list comprehension failed"
        # Of the work as it was, not as it was meant: a loop's rounds cost a little more or less in another process.
        efficiency = {who: None if row[who] is None else serial_s / (cores * row[who]) for who in whos}
        points.append({"call_s": serial_s / calls, "calls": calls, "efficiency": efficiency})
        shown = "  ".join(f"{who} {'failed' if value is None else f'{value:.3f}'}" for who, value in efficiency.items())
        print(f"{serial_s / calls * 1e6:>12.1f} µs x {calls:<7} {shown}", flush=True)
    about["contestants"] = {who: CONTESTANTS[who].what for who in whos}
    record.save(chosen.json, "efficiency", {"about": about, "points": points})


if __name__ == "__main__":
    main()
