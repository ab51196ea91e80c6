"""How good are predictions? What ``optimize`` says of each workload, beside what is measured.

    python -m tests.benchmarks.accuracy WORKLOADS.py                     # prints the page
    python -m tests.benchmarks.accuracy WORKLOADS.py --out docs/explanation/accuracy.md
    python -m tests.benchmarks.accuracy WORKLOADS.py --names tiny_few io --workers 2 --chunksizes 16

The file of workloads has ``NAMES`` and ``make(name)``, which returns (function, items). Every setting is run in turns
with all others, three times where there is time, and medians count. Workers are started anew for each run.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from amorsize_executor import ComparisonConfig, OptimizationResult, compare_strategies, optimize
from amorsize_executor.tuning.machine import probe_machine

WORKERS = (2, 4, 8)
WAITING_WORKERS = (2, 8, 16, 32, 64)
CHUNKSIZES = (1, 16, 256)
TIMEOUT_S = 600.0
NEAR_BEST = 90.0
HEAD = """# How good the predictions are

This page is written by `python -m tests.benchmarks.accuracy`; see there for what is run and how.

- **predicted** is the speed-up over serial code that `optimize` states beforehand, with its range; **measured** is the
  one that the recommended setting had. Their **accuracy** is (1 - |difference| / the larger one).
- **best of the grid** is the fastest of all settings that were tried, serial code and the recommended one included, and
  **of best** is what its time is of the recommended one's: 100 % where nothing was faster.
- Advice to stay serial is checked by running two workers: it is accurate as far as they were no faster.
"""


class Row(NamedTuple):
    """What was predicted and measured of a workload; speed-ups are times serial code."""

    name: str
    advice: OptimizationResult
    measured: float
    accuracy: float
    best: ComparisonConfig
    of_best: float
    is_in_range: bool


def load(path: Path) -> Any:
    """Import the file of workloads in a way in which workers can import it too."""
    sys.path.insert(0, str(path.resolve().parent))
    return importlib.import_module(path.stem)


def grid(advice: OptimizationResult, count: int, options: argparse.Namespace) -> list[ComparisonConfig]:
    """Return the settings to try: serial, the recommended one, and workers by chunk sizes."""
    seen: Any = advice.profile
    workers = options.workers or (WORKERS if seen.workload_type == "cpu_bound" else WAITING_WORKERS)
    settings = {(n, min(size, max(1, count // n))) for n in workers for size in options.chunksizes}
    settings.discard((advice.n_jobs, advice.chunksize))
    kind = "serial" if advice.n_jobs == 1 else advice.executor_type
    return [
        ComparisonConfig("serial", executor_type="serial"),
        ComparisonConfig("recommended", advice.n_jobs, advice.chunksize, kind),
        *(ComparisonConfig(f"{n} workers, chunks of {size}", n, size) for n, size in sorted(settings)),
    ]


def measure(name: str, workloads: Any, options: argparse.Namespace) -> Row:
    """Ask ``optimize``, run the grid, and compare."""
    func, items = workloads.make(name)
    advice = optimize(func, items, profile=True)
    result = compare_strategies(func, items, grid(advice, len(items), options), timeout=options.timeout, verbose=True)
    serial_s, recommended_s = result.execution_times[:2]
    if advice.n_jobs == 1:
        recommended_s = serial_s = min(serial_s, recommended_s)  # one and the same, measured twice
        two = [seconds for config, seconds in zip(result.configs, result.execution_times) if config.n_jobs == 2]
        accuracy = 100.0 * min(1.0, min(two) / serial_s) if two else 100.0
    else:
        actual, predicted = serial_s / recommended_s, advice.estimated_speedup
        accuracy = 100.0 * (1.0 - abs(actual - predicted) / max(actual, predicted))
    measured = serial_s / recommended_s
    low, high = advice.speedup_range
    of_best = 100.0 * min(1.0, result.best_time / recommended_s)
    return Row(name, advice, measured, accuracy, result.best_config, of_best, low <= measured <= high)


def render(rows: list[Row]) -> str:
    """Return the page."""
    machine = probe_machine()
    version = ".".join(map(str, sys.version_info[:2]))
    lines = [
        HEAD,
        f"Measured on {machine.physical_cores} physical and {machine.cores} logical cores, Python {version}.",
        "",
        "| workload | recommended | predicted | measured | accuracy | best of the grid | of best |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        advice = row.advice
        low, high = advice.speedup_range
        setting = "serial" if advice.n_jobs == 1 else f"{advice.n_jobs} workers, chunks of {advice.chunksize}"
        best = setting if row.best.name in ("recommended", "serial" if advice.n_jobs == 1 else "") else row.best.name
        span = "" if advice.n_jobs == 1 else f" ({low:.2f} to {high:.2f})"
        lines.append(
            f"| `{row.name}` | {setting} | {advice.estimated_speedup:.2f}{span} | {row.measured:.2f} "
            f"| {row.accuracy:.0f} % | {best} | {row.of_best:.0f} % |"
        )
    median = statistics.median(row.accuracy for row in rows)
    in_range, near_best = sum(row.is_in_range for row in rows), sum(row.of_best >= NEAR_BEST for row in rows)
    summary = (
        f"Median accuracy: {median:.0f} %. Within the stated range: {in_range} of {len(rows)}. "
        f"Within 10 % of the best of the grid: {near_best} of {len(rows)}."
    )
    return "\n".join([*lines, "", summary, ""])


def main() -> None:
    """Measure the workloads and print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", type=Path, help="the file of workloads")
    parser.add_argument("--names", nargs="+", help="only these workloads")
    parser.add_argument("--workers", nargs="+", type=int, help="numbers of workers in the grid")
    parser.add_argument("--chunksizes", nargs="+", type=int, default=CHUNKSIZES, help="chunk sizes in the grid")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds for one workload")
    parser.add_argument("--out", type=Path, help="the file to write; stdout if it is not given")
    options = parser.parse_args()
    workloads = load(options.workloads)
    rows = []
    for name in options.names or workloads.NAMES:
        sys.stderr.write(f"--- {name}\n")
        rows.append(measure(name, workloads, options))
    page = render(rows)
    if options.out is None:
        sys.stdout.write(page)
    else:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
