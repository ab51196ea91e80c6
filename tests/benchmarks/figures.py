"""Measure the figures that have a target, each as a ratio within one run.

    python -m tests.benchmarks.figures [--repeats 5] [--only round_trip,idle] [--quick]

The parts of a figure are measured in fresh processes in turn, ``repeats`` times; a figure is the median of the ratios
of the turns, so that a machine that slows down slows all parts of a turn. The results join the record for ``report``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks import record
from tests.benchmarks.floors import FLOORS

Parts = Mapping[str, Any]
MIB = 1 << 20
LIMIT_S = 900.0  # of a probe: ten million calls take their time


class Figure(NamedTuple):
    """One row.

    Attributes:
        what: What is measured.
        unit: Of its value: "ratio" for one without.
        target: Greatest value that is good.
        parts: The probes, first ours.
        value: Of the parts of one turn.
        floors: Probes of the least code that does the same.
        repeats: How often at most; None for as often as asked.
    """

    what: str
    unit: str
    target: float
    parts: tuple[str, ...]
    value: Callable[[Parts], float]
    floors: tuple[str, ...] = ()
    repeats: int | None = None


def ratio(over: str, under: str) -> Callable[[Parts], float]:
    """Return how to divide one part by another."""
    return lambda parts: parts[over] / parts[under]


def mean_ratio(over: str, under: str) -> Callable[[Parts], float]:
    """Return how to divide the mean of two directions by a part that may have two as well."""
    return lambda parts: mean_of(parts[over]) / mean_of(parts[under])


def mean_of(part: Any) -> float:
    """Return the mean of a part's directions."""
    return sum(part.values()) / len(part) if isinstance(part, dict) else part


ARRAY_PARTS = "arrays.adaptive", "arrays.pickled", "floor.memory_copy"
FIGURES = {
    "round_trip": Figure(
        "round trip of one call, workers warm, isolated, against ProcessPoolExecutor",
        *("ratio", 0.55, ("round_trip.adaptive", "round_trip.ppe")),
        ratio("round_trip.adaptive", "round_trip.ppe"),
        ("floor.socket_round_trip",),
    ),
    "flood": Figure(
        "20,000 tiny calls by `submit`, isolated: time per call against ProcessPoolExecutor",
        *("ratio", 0.04, ("flood.adaptive", "flood.ppe")),
        ratio("flood.adaptive", "flood.ppe"),
        ("floor.futures_alone",),
    ),
    "layers_submit": Figure(
        "the same below all layers of middleware (retry, breaker, rate limit, timeout, checkpoint, dead letters): more "
        "time per call",
        *("µs", 15.0, ("flood.layers", "flood.adaptive")),
        lambda parts: (parts["flood.layers"] - parts["flood.adaptive"]) * 1e6,
    ),
    "layers_map": Figure(
        "the same by `map`",
        *("µs", 15.0, ("map.layers", "map.adaptive")),
        lambda parts: (parts["map.layers"] - parts["map.adaptive"]) * 1e6,
    ),
    "cold_start": Figure(
        "first results of 2 isolated workers, from the making of the executor to its end, in a process with one "
        "thread, against ProcessPoolExecutor (fork)",
        *("ratio", 0.6, ("cold_start.adaptive", "cold_start.ppe")),
        ratio("cold_start.adaptive", "cold_start.ppe"),
        ("floor.forked_pair",),
    ),
    "crew": Figure(
        "16 workers ready, in a process with threads, against ProcessPoolExecutor (forkserver)",
        *("ratio", 0.5, ("crew.adaptive", "crew.forkserver")),
        ratio("crew.adaptive", "crew.forkserver"),
        ("floor.forked_crew",),
    ),
    "crew_numpy": Figure(
        "the same with a function that imports NumPy",
        *("ratio", 0.5, ("crew_numpy.adaptive", "crew_numpy.forkserver")),
        ratio("crew_numpy.adaptive", "crew_numpy.forkserver"),
        ("floor.forked_crew_with_numpy",),
    ),
    "tiny_calls": Figure(
        "`map` over 200,000 calls of 1 µs against a list comprehension",
        *("ratio", 1.3, ("tiny_calls.adaptive", "tiny_calls.serial")),
        ratio("tiny_calls.adaptive", "tiny_calls.serial"),
    ),
    "sleeps": Figure(
        "300 sleeps of 20 ms, `max_workers=None`, against ThreadPoolExecutor's default",
        *("ratio", 1.2, ("sleeps.adaptive", "sleeps.threads", "sleeps.a_thread_each")),
        ratio("sleeps.adaptive", "sleeps.threads"),
    ),
    "arrays_copy": Figure(
        "NumPy arrays of 4 MB in and out, isolated, steady: per array and direction against a warm copy in memory",
        *("ratio", 6.0, ARRAY_PARTS),
        mean_ratio("arrays.adaptive", "floor.memory_copy"),
        ("floor.segment_copy", "floor.fresh_segment_copy", "floor.segment_round_trip"),
    ),
    "arrays_pickle": Figure(
        "the same against pickle through a pipe",
        *("ratio", 0.1, ARRAY_PARTS),
        mean_ratio("arrays.adaptive", "arrays.pickled"),
    ),
    "idle_cpu": Figure(
        "10 s with nothing to do, 2 workers: processor time of the process and all below it",
        *("ms", 1.0, ("idle.adaptive", "idle.ppe")),
        lambda parts: parts["idle.adaptive"]["cpu_s"] * 1e3,
        repeats=1,
    ),
    "idle_switches": Figure(
        "the same: context switches",
        *("switches", 0.0, ("idle.adaptive", "idle.ppe")),
        lambda parts: parts["idle.adaptive"]["switches"],
        repeats=1,
    ),
    "growth": Figure(
        "resident memory of the process after 10 million small calls of one `imap`, less that after 1 million",
        *("MiB", 2.0, ("growth.adaptive",)),
        lambda parts: parts["growth.adaptive"] / MIB,
        repeats=1,
    ),
    "growth_isolated": Figure(
        "the same, isolated",
        *("MiB", 2.0, ("growth.isolated",)),
        lambda parts: parts["growth.isolated"] / MIB,
        repeats=1,
    ),
}


class Watch(NamedTuple):
    """What a process tree has used: by the id of each thread (nanoseconds on a processor, context switches)."""

    threads: dict[str, tuple[int, int]]

    @classmethod
    def look(cls, pid: int) -> Watch:
        """Read the kernel's accounts of a process and of all below it."""
        threads: dict[str, tuple[int, int]] = {}
        waiting = [str(pid)]
        while waiting:
            process = waiting.pop()
            for task in os.listdir(f"/proc/{process}/task"):
                folder = f"/proc/{process}/task/{task}"
                status = Path(folder, "status").read_text(encoding="utf-8").splitlines()
                switches = sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
                threads[task] = int(Path(folder, "schedstat").read_text(encoding="ascii").split()[0]), switches
                waiting += Path(folder, "children").read_text(encoding="ascii").split()
        return cls(threads)

    def used_since(self, before: Watch) -> dict[str, float]:
        """Return processor seconds and context switches; a thread that is new has used all that it has."""
        pairs = [(now, before.threads.get(task, (0, 0))) for task, now in self.threads.items()]
        cpu_ns = sum(now[0] - then[0] for now, then in pairs)
        return {
            "cpu_s": cpu_ns * 1e-9,
            "switches": sum(now[1] - then[1] for now, then in pairs),
            "threads": len(self.threads),
        }


def watch_idle(name: str, *, quick: bool) -> dict[str, float]:
    """Start a probe that works and then does nothing; return what it uses in ten seconds of that."""
    settle_s, idle_s = (0.2, 1.0) if quick else (2.0, 10.0)
    command = [sys.executable, "-m", "tests.benchmarks.probes", name]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=record.ROOT, env=record.environment(), **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "idle\n"
        time.sleep(settle_s)  # what follows the last call is work, not idleness
        before = Watch.look(process.pid)
        time.sleep(idle_s)
        used = Watch.look(process.pid).used_since(before)
        process.communicate("\n", timeout=30)
    return used


def measure(name: str, *, quick: bool) -> Any:
    """Measure one part."""
    if name.startswith("idle."):
        return watch_idle(name, quick=quick)
    return json.loads(record.run_fresh("probes", name, *(["--quick"] if quick else []), limit_s=LIMIT_S))


def middle(values: list[Any]) -> Any:
    """Return the median of numbers, or of each entry of dictionaries."""
    if isinstance(values[0], dict):
        return {key: median(value[key] for value in values) for key in values[0]}
    return median(values)


class Turns:
    """Measures parts in turns, each part once a turn, whichever figures want it."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.turns: dict[tuple[str, ...], list[dict[str, Any]]] = {}

    def of(self, figure: Figure, repeats: int) -> list[dict[str, Any]]:
        """Return the parts of each turn, floors included."""
        known = self.turns.setdefault(figure.parts, [])
        wanted = min(repeats, figure.repeats or repeats)
        while len(known) < wanted:
            known.append({name: measure(name, quick=self.quick) for name in figure.parts})
        for turn in known:
            for name in figure.floors:
                if name not in turn:
                    turn[name] = measure(name, quick=self.quick)
        return known[:wanted]


def describe(figure: Figure, turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a figure as it is recorded."""
    values = [figure.value(turn) for turn in turns]
    shown = (*figure.parts, *figure.floors)
    return {
        "what": figure.what,
        "unit": figure.unit,
        "target": figure.target,
        "value": median(values),
        "lowest": min(values),
        "highest": max(values),
        "parts": {name: middle([turn[name] for turn in turns]) for name in shown},
        "floors": {name: (FLOORS[name].__doc__ or "").rstrip(".") for name in shown if name in FLOORS},
    }


def main() -> None:
    """Measure, print and record."""
    options = record.parser("Measure the figures that have a target.")
    options.add_argument("--repeats", type=int, default=5, help="turns of each figure (%(default)s)")
    options.add_argument("--only", default=",".join(FIGURES), help="(%(default)s)")
    chosen = options.parse_args()
    repeats = 1 if chosen.quick else chosen.repeats
    about = {**record.describe(), "repeats": repeats, "quick": chosen.quick}
    turns = Turns(quick=chosen.quick)
    rows = {}
    for name in chosen.only.split(","):
        try:
            rows[name] = row = describe(FIGURES[name], turns.of(FIGURES[name], repeats))
        except record.FailedRunError as error:
            print(f"{name:<16} failed: {error}", file=sys.stderr)
            continue
        parts = "  ".join(f"{part} {show(value)}" for part, value in row["parts"].items())
        print(f"{name:<16} {row['value']:8.3f} {row['unit']} (target {row['target']:g})  {parts}", flush=True)
    record.save(chosen.json, "figures", {"about": about, "rows": rows})


def show(value: Any) -> str:
    """Return a part for a line of text."""
    if isinstance(value, dict):
        return " ".join(f"{key} {number:.3g}" for key, number in value.items())
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
