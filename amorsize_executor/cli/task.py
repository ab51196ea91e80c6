"""What the verbs about a function and its items have in common: their options, and how they ask and answer."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amorsize_executor.cli import data
from amorsize_executor.cli.main import UsageError
from amorsize_executor.cli.number import count_up_to, seconds_up_to
from amorsize_executor.cli.render import FORMATS, Renderer, wrap
from amorsize_executor.cli.target import load_function
from amorsize_executor.errors import StorageError

if TYPE_CHECKING:
    from amorsize_executor.advice.optimization import OptimizationResult

_BAR = 30
_OPTIONS = {
    "prefer_threads_for_io=True": "--threads",
    "process_in_batches(on_batch=...) or optimize_streaming()": "execute, which writes them as they come",
}


def make_parser(verbs: Any, common: argparse.ArgumentParser, name: str, text: str) -> argparse.ArgumentParser:
    """Add a verb that takes a function and items; return its parser."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, parents=[common], help=text, description=f"{text}.")
    parser.add_argument("function", help="module:function, module.function or path/to/file.py:function")
    data.add_to(parser)
    answer = parser.add_argument_group("answer")
    answer.add_argument("--format", choices=FORMATS, default="text", help="how to print it (default: %(default)s)")
    answer.add_argument("--export", type=Path, metavar="FILE", help="write it to a file too, which is replaced")
    answer.add_argument("--export-format", choices=("auto", "json", "yaml"), default="auto", help="auto: by the suffix")
    answer.add_argument("-q", "--quiet", action="store_true", help="one line, and no messages")
    answer.add_argument("-v", "--verbose", action="store_true", help="tell on stderr what is being found out")
    answer.add_argument("--no-color", action="store_true", help="no colour on terminals either")
    parser.set_defaults(is_alone=True)
    return parser


def add_sampling_to(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``optimize``."""
    group = parser.add_argument_group("recommendation")
    group.add_argument(
        "--sample-size", type=count_up_to(10_000), default=5, metavar="N", help="calls to try (default: %(default)s)"
    )
    group.add_argument(
        "--target-chunk-duration",
        type=seconds_up_to(3600),
        default=0.2,
        metavar="S",
        help="seconds a chunk (default: %(default)s)",
    )
    group.add_argument("-p", "--profile", action="store_true", help="with all that was measured")
    group.add_argument("--explain", action="store_true", help="with the decision in words")
    group.add_argument("--tips", action="store_true", help="with what could be done")
    group.add_argument("--show-overhead", action="store_true", help="with what running in parallel costs")
    group.add_argument("--threads", action="store_true", help="threads for calls that wait: they must be thread-safe")
    group.add_argument("--no-spawn-benchmark", action="store_true", help="do not measure what workers cost")
    group.add_argument("--no-chunking-benchmark", action="store_true", help="do not measure what chunks cost")
    group.add_argument("--no-auto-adjust", action="store_true", help="leave threads inside calls out of account")
    group.add_argument("--progress", action="store_true", help="a bar on stderr, where that is a terminal")


def task_of(arguments: argparse.Namespace) -> tuple[Callable[..., Any], data.Source | range]:
    """Return the function and the items that the arguments name.

    Raises:
        ValueError: There is no such function or file.
        UsageError: The answer would be written over something that is read.
        OSError: A file that is to be written cannot be.
    """
    refuse_to_overwrite(arguments, arguments.function.rpartition(":")[0])
    refuse_unwritable(arguments.export, getattr(arguments, "save_config", None))
    function = load_function(arguments.function)
    module = sys.modules.get(getattr(function, "__module__", ""))
    refuse_to_overwrite(arguments, getattr(module, "__file__", None) or "")
    return function, data.items_of(arguments)


def refuse_unwritable(export: Path | None, plan: Path | None) -> None:
    """Raise, before all the work, if an answer could not be written after it."""
    if export is not None and (export.is_dir() or not export.parent.is_dir()):
        raise StorageError(export, f"cannot be written: {'is a' if export.is_dir() else 'there is no such'} directory")
    if plan is not None and plan.exists():
        raise FileExistsError(errno.EEXIST, f"{os.strerror(errno.EEXIST)}; give the plan another name", str(plan))


def refuse_to_overwrite(arguments: argparse.Namespace, source: str) -> None:
    """Raise if what is written would replace what is read, ``source`` too, or the other thing that is written."""
    named = {name: getattr(arguments, name, None) for name in ("data_file", "load_config", "memory", "output")}
    taken = {f"--{name.replace('_', '-')}": path for name, path in named.items() if path not in {None, "-"}}
    taken["the function's module"] = source
    for option, target in (("--output", named["output"]), ("--export", arguments.export)):
        for other, path in taken.items():
            if target is not None and other != option and is_same_file(Path(target), Path(path)):
                message = f"{option} {target} would be written over {other}; give it another name"
                raise UsageError(message)


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file, which need not exist."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def recommend(
    arguments: argparse.Namespace, function: Callable[..., Any], items: Iterable[Any], *, measures: bool = True
) -> OptimizationResult:
    """Return the recommendation, with its profile.

    Raises:
        DataError: The items cannot be read.
    """
    from amorsize_executor.advice.optimize import optimize  # noqa: PLC0415 - loads the executor

    result = optimize(
        function,
        items,
        sample_size=arguments.sample_size,
        target_chunk_duration=arguments.target_chunk_duration,
        verbose=arguments.verbose,
        profile=True,
        use_spawn_benchmark=measures and not arguments.no_spawn_benchmark,
        use_chunking_benchmark=measures and not arguments.no_chunking_benchmark,
        auto_adjust_for_nested_parallelism=not arguments.no_auto_adjust,
        prefer_threads_for_io=arguments.threads,
        progress_callback=create_progress_callback(arguments.verbose) if arguments.progress else None,
    )
    if isinstance(items, data.Source):
        items.raise_error()  # for optimize() it was a reason to stay serial
    result.reason = in_options(result.reason)
    result.warnings = [in_options(text) for text in result.warnings]
    if result.profile is not None:
        for texts in (result.profile.recommendations, result.profile.constraints, result.profile.rejection_reasons):
            texts[:] = map(in_options, texts)
    return result


def in_options(text: str) -> str:
    """Return advice with what it names of the library as what the command line has for it."""
    for name, option in _OPTIONS.items():
        text = text.replace(name, option)
    return text


def facts_of(arguments: argparse.Namespace, result: OptimizationResult) -> dict[str, Any]:
    """Return a recommendation as plain data; with its profile where an option asks for it."""
    answer: dict[str, Any] = {
        "n_jobs": result.n_jobs,
        "chunksize": result.chunksize,
        "estimated_speedup": result.estimated_speedup,
        "speedup_range": list(result.speedup_range),
        "executor_type": result.executor_type,
        "reason": result.reason,
        "warnings": list(result.warnings),
    }
    if wants_profile(arguments) and result.profile is not None:
        profile = result.profile
        answer["profile"] = {
            **vars(profile),
            "available_memory_gb": profile.available_memory / 1024**3,
            "start_method": profile.multiprocessing_start_method,
            "spawn_cost_ms": profile.spawn_cost * 1e3,
            "avg_execution_time_ms": profile.avg_execution_time * 1e3,
        }
    return answer


def wants_profile(arguments: argparse.Namespace) -> bool:
    """Tell whether an option asks for what was measured."""
    return bool(arguments.profile or arguments.explain or arguments.tips or arguments.show_overhead)


def lines_of(arguments: argparse.Namespace, result: OptimizationResult, renderer: Renderer) -> list[str]:
    """Return a recommendation as text."""
    if arguments.quiet:
        line = f"n_jobs={result.n_jobs} chunksize={result.chunksize} speedup={result.estimated_speedup:.2f}x"
        return [line]
    low, high = result.speedup_range
    span = f" ({low:.2f}x to {high:.2f}x)" if math.isfinite(high) and high > low else ""
    facts = {
        "n_jobs": result.n_jobs,
        "chunksize": result.chunksize,
        "executor": result.executor_type,
        "estimated_speedup": f"{result.estimated_speedup:.2f}x{span}",
    }
    lines = [renderer.bold("Recommendation"), *renderer.pairs(facts, indent=2)]
    lines += ["", *wrap(f"Reason: {result.reason}")]
    if result.warnings:
        lines += ["", renderer.bold("Warnings"), *bullets(result.warnings)]
    return lines + more_lines(arguments, result, renderer)


def more_lines(arguments: argparse.Namespace, result: OptimizationResult, renderer: Renderer) -> list[str]:
    """Return the sections that options ask for."""
    profile, lines = result.profile, list[str]()
    if profile is None:
        return lines
    if arguments.show_overhead:
        shares = {name: f"{share:.0f}%" for name, share in profile.get_overhead_breakdown().items()}
        lines += ["", renderer.bold("Overhead"), *renderer.pairs(shares, indent=2)]
    if arguments.tips:
        lines += [
            "",
            renderer.bold("Tips"),
            *(bullets(profile.recommendations) or ["  none" if result.warnings else "  none: it is fine as it is"]),
        ]
    if arguments.explain:
        lines += ["", *result.explain().splitlines()]
    if arguments.profile:
        lines += ["", renderer.bold("Profile"), *renderer.pairs(vars(profile), indent=2)]
    return lines


def bullets(texts: Iterable[str]) -> list[str]:
    """Return texts as a list with dashes, wrapped."""
    lines = []
    for text in texts:
        first, *rest = wrap(text, 76)
        lines += [f"  - {first}", *(f"    {line}" for line in rest)]
    return lines


def create_progress_callback(verbose: bool = False) -> Callable[[str, float], None] | None:  # noqa: FBT001, FBT002
    """Return a callback that draws a bar on stderr; None where that is no terminal.

    Args:
        verbose: Name the phases too.
    """
    if not sys.stderr.isatty():
        return None

    def draw(phase: str, fraction: float) -> None:
        done = round(_BAR * fraction)
        told = f" {phase}" if verbose else ""
        end = "\n" if fraction >= 1 else ""
        print(
            f"\r\033[K[{'#' * done}{'.' * (_BAR - done)}] {fraction:4.0%}{told}", end=end, file=sys.stderr, flush=True
        )

    return draw
