"""``amorsize validate``: is the prediction true? Runs the items serially and in parallel, and compares."""

from __future__ import annotations

import argparse
from typing import Any

from amorsize_executor.cli import data, task
from amorsize_executor.cli.number import count, seconds
from amorsize_executor.cli.render import Renderer


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parser."""
    parser = task.make_parser(verbs, common, "validate", "measure whether a recommendation holds")
    parser.add_argument("--quick", action="store_true", help="with a hundred of the items, evenly spread")
    parser.add_argument("--max-items", type=count, metavar="N", help="with the first N items, or N with --quick")
    parser.add_argument("--timeout", type=seconds, default=60.0, metavar="S", help="seconds (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Measure, and show prediction and truth."""
    from amorsize_executor import quick_validate, validate_optimization  # noqa: PLC0415 - loads the executor

    function, items = task.task_of(arguments)
    try:
        if arguments.quick:
            found = quick_validate(
                function, items, arguments.max_items or 100, arguments.verbose, timeout=arguments.timeout
            )
        else:
            found = validate_optimization(
                function, items, max_items=arguments.max_items, timeout=arguments.timeout, verbose=arguments.verbose
            )
    finally:
        if isinstance(items, data.Source):
            items.raise_error()
    result = found.optimization
    answer = {
        "mode": "validate",
        "function": arguments.function,
        "serial_time": found.serial_time,
        "parallel_time": found.parallel_time,
        "actual_speedup": found.actual_speedup,
        "predicted_speedup": found.predicted_speedup,
        "accuracy_percent": found.accuracy_percent,
        "error_percent": found.error_percent,
        "is_accurate": found.is_accurate(),
        "recommendations": list(found.recommendations),
        "optimization": {
            "n_jobs": result.n_jobs,
            "chunksize": result.chunksize,
            "executor_type": result.executor_type,
            "estimated_speedup": result.estimated_speedup,
            "reason": result.reason,
            "warnings": list(result.warnings),
        },
    }
    line = f"accuracy={found.accuracy_percent:.0f}% actual={found.actual_speedup:.2f}x"
    lines = [line + f" predicted={found.predicted_speedup:.2f}x"] if arguments.quiet else str(found).splitlines()
    renderer.show(answer, *lines)
