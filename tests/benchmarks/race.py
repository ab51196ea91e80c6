"""Race contestants over workloads: interleaved, each run in a fresh process.

    python -m tests.benchmarks.race [--runs 3] [--who serial,adaptive] [--workloads small,io] [--quick]

Prints a line for each workload: median milliseconds, and in parentheses the ratio to the best. 5 ms are added to every
time before a ratio is taken, since nobody feels less. The results join the record for ``report``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.benchmarks import record
from tests.benchmarks.contest import CONTESTANTS, is_installed
from tests.benchmarks.workloads import KNOWN, WORKLOADS

GRACE_S = 0.005
LONG_S = 20.0  # who takes longer runs once: it is far from the best, and its noise is small beside that
QUICK_SHARE = 0.02

Row = Mapping[str, "float | None"]


class Standing(NamedTuple):
    """How a contestant did over some workloads.

    Attributes:
        mean: Geometric mean of the ratios to the best, >= 1.
        worst: The highest ratio.
        workload: Where that was.
        ran: Workloads that it finished.
    """

    mean: float
    worst: float
    workload: str
    ran: int


def ratios(row: Row) -> dict[str, float]:
    """Return each contestant's ratio to the best of a row, >= 1; those that failed are left out."""
    finished = {who: seconds + GRACE_S for who, seconds in row.items() if seconds is not None}
    best = min(finished.values(), default=GRACE_S)
    return {who: seconds / best for who, seconds in finished.items()}


def standing(rows: Mapping[str, Row], who: str) -> Standing | None:
    """Sum up a contestant over the rows; None if it finished none."""
    own = {name: ratios(row)[who] for name, row in rows.items() if row.get(who) is not None}
    if not own:
        return None
    worst = max(own, key=own.__getitem__)
    return Standing(math.exp(sum(map(math.log, own.values())) / len(own)), own[worst], worst, len(own))


def measure(name: str, whos: list[str], *, runs: int, share: float) -> dict[str, float | None]:
    """Return the median seconds of each contestant; None for one that failed, which is told on stderr."""
    times: dict[str, list[float]] = {who: [] for who in whos}
    failed: set[str] = set()
    for _ in range(runs):
        for who in whos:
            if who in failed or max(times[who], default=0.0) > LONG_S:
                continue
            try:
                times[who].append(float(record.run_fresh("contest", who, name, share)))
            except record.FailedRunError as error:
                failed.add(who)
                print(f"  {who} failed on {name}: {error}", file=sys.stderr)
    return {who: None if who in failed else record.median(times[who]) for who in whos}


def show(name: str, row: Row) -> str:
    """Return a line about a workload."""
    shares = ratios(row)
    parts = [
        f"{who} failed" if seconds is None else f"{who} {seconds * 1e3:.0f}ms({shares[who]:.2f})"
        for who, seconds in row.items()
    ]
    return f"{name:<16} {'  '.join(parts)}"


def main() -> None:
    """Race, print and record."""
    options = record.parser("Race contestants over workloads.")
    options.add_argument("--runs", type=int, default=3, help="of each contestant on each workload (%(default)s)")
    options.add_argument("--who", default=",".join(CONTESTANTS), help="contestants (%(default)s)")
    options.add_argument("--workloads", default=",".join(WORKLOADS), help="(%(default)s)")
    chosen = options.parse_args()
    names, whos = chosen.workloads.split(","), [who for who in chosen.who.split(",") if is_installed(who)]
    runs, share = (1, QUICK_SHARE) if chosen.quick else (chosen.runs, 1.0)
    about: dict[str, Any] = {**record.describe(), "runs": runs, "share": share}
    rows: dict[str, Row] = {}
    for name in names:
        rows[name] = measure(name, whos, runs=runs, share=share)
        print(show(name, rows[name]), flush=True)
    for title, part in (("of the known workloads", known_of(rows)), ("of all workloads", rows)):
        for who in whos:
            result = standing(part, who)
            if result is not None:
                print(f"{who:<18} geometric mean {title} {result.mean:8.2f}, worst {result.worst:8.2f} "
                      f"({result.workload}), ran {result.ran}/{len(part)}")  # fmt: skip
    what = {name: WORKLOADS[name].__doc__ or name for name in names}
    measured = {"about": about, "seconds": rows, "what": what}
    record.save(chosen.json, "race", join(record.load(chosen.json).get("race"), measured))


def join(before: Mapping[str, Any] | None, measured: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what was measured now, with the rows of other workloads that were measured in the same way before."""
    if before is None or not is_alike(before, measured):
        return measured
    names = [name for name in WORKLOADS if name in before["seconds"] or name in measured["seconds"]]
    parts = {part: {**before[part], **measured[part]} for part in ("seconds", "what")}
    return {"about": measured["about"], **{part: {name: rows[name] for name in names} for part, rows in parts.items()}}


def is_alike(before: Mapping[str, Any], measured: Mapping[str, Any]) -> bool:
    """Tell whether two races had the same contestants, on the same machine, as often, with as much work."""
    abouts = [{**race["about"], "load_before": None} for race in (before, measured)]
    contestants = [{tuple(row) for row in race["seconds"].values()} for race in (before, measured)]
    return abouts[0] == abouts[1] and contestants[0] == contestants[1]


def known_of(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Return the rows that have a target."""
    known = {make.__name__ for make in KNOWN}
    return {name: row for name, row in rows.items() if name in known}


if __name__ == "__main__":
    main()
