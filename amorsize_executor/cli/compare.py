"""``amorsize compare``: several settings side by side, measured."""

from __future__ import annotations

import argparse
from itertools import islice
from typing import Any

from amorsize_executor.cli import task
from amorsize_executor.cli.main import UsageError
from amorsize_executor.cli.number import count, seconds
from amorsize_executor.cli.render import Renderer
from amorsize_executor.wording import say_seconds

_LEAST = 2
_KINDS = "process", "thread", "serial"


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parser."""
    parser = task.make_parser(verbs, common, "compare", "measure several settings side by side")
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--configs",
        nargs="+",
        default=[],
        type=setting,
        metavar="SETTING",
        help="workers,chunksize[,process|thread|serial], with NAME: before it if you like",
    )
    group.add_argument("--include-optimizer", action="store_true", help="with the recommendation")
    group.add_argument("--no-baseline", action="store_true", help="without serial code")
    group.add_argument("--max-items", type=count, metavar="N", help="with the first N items")
    group.add_argument("--timeout", type=seconds, default=120.0, metavar="S", help="seconds (default: %(default)s)")
    parser.set_defaults(run=run)


def setting(text: str) -> tuple[str, int, int, str]:
    """Read ``name:workers,chunksize,kind``; name and kind may be missing."""
    name, _, rest = text.rpartition(":")
    parts = rest.split(",")
    try:
        workers, chunksize, kind = int(parts[0]), int(parts[1]), (*parts[2:], "process")[0]
    except (ValueError, IndexError):
        workers, chunksize, kind = 0, 0, ""
    if workers < 1 or chunksize < 1 or kind not in _KINDS or len(parts) > 3:  # noqa: PLR2004
        message = f"{text!r} is no setting; write workers,chunksize[,{'|'.join(_KINDS)}], such as 2,100"
        raise argparse.ArgumentTypeError(message)
    return name or f"{workers} x {chunksize}, {kind}", workers, chunksize, kind


def run(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Measure all settings, and show them, the fastest first."""
    with_optimizer = arguments.include_optimizer or not arguments.configs
    number = len(arguments.configs) + with_optimizer + (not arguments.no_baseline)
    if number < _LEAST:
        message = "compare needs two settings: --configs 2,100 4,100, or --include-optimizer"
        raise UsageError(message)
    from amorsize_executor import ComparisonConfig, compare_strategies, optimize  # noqa: PLC0415 - loads the executor

    function, items = task.task_of(arguments)
    configs = [] if arguments.no_baseline else [ComparisonConfig("Serial", 1, 1, "serial")]
    kept: Any = items[: arguments.max_items] if isinstance(items, range) else list(islice(items, arguments.max_items))
    if with_optimizer:
        result = optimize(function, kept, verbose=arguments.verbose)
        kind = "serial" if result.n_jobs == 1 else result.executor_type
        configs.append(ComparisonConfig("Optimizer", result.n_jobs, result.chunksize, kind))
    configs += [ComparisonConfig(*given) for given in arguments.configs]
    found = compare_strategies(
        function,
        kept,
        configs,
        timeout=arguments.timeout,
        verbose=arguments.verbose,
    )
    strategies: list[dict[str, Any]] = [
        {
            "name": config.name,
            "n_jobs": config.n_jobs,
            "chunksize": config.chunksize,
            "executor_type": config.executor_type,
            "time": seconds,
            "speedup": speedup,
        }
        for config, seconds, speedup in found.get_sorted_configs()
    ]
    answer = {
        "mode": "compare",
        "function": arguments.function,
        "strategies": strategies,
        "best_strategy": strategies[0],
        "recommendations": list(found.recommendations or ()),
    }
    best = strategies[0]
    if arguments.quiet:
        renderer.show(answer, f"best={best['name']} time={best['time']:.4g}s speedup={best['speedup']:.2f}x")
        return
    head = "time", "speed-up", "workers", "chunksize", "executor", "name"
    rows = [
        (
            say_seconds(entry["time"]),
            f"{entry['speedup']:.2f}x",
            entry["n_jobs"],
            entry["chunksize"],
            entry["executor_type"],
            entry["name"],
        )
        for entry in strategies
    ]
    lines = [
        *renderer.lines_of(head, rows),
        *([""] if found.recommendations else []),
        *task.bullets(answer["recommendations"]),
    ]
    renderer.show(answer, *lines)
