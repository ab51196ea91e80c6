"""Survey the standard library: parse every module of the running interpreter and find the heaviest ones.

    python examples/survey_stdlib.py               the survey
    python examples/survey_stdlib.py --compare     and the same with plain serial code and ProcessPoolExecutor

Some two thousand files of very unequal size: half of them take a few milliseconds, some a hundred times as long.
Nothing is tuned: the executor chooses where files are parsed, by how many workers, and how many travel together.
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import platform
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from amorsize_executor import AdaptiveExecutor

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Figures:
    """What one file looks like.

    Attributes:
        module: Its dotted name.
        lines: Lines of text.
        functions: Functions and methods, nested ones included.
        branches: Places where the flow may go two ways.
        nesting: Deepest nesting of statements with a body, 0 if there is none.
        longest: Name of the longest function, ``""`` if there is none.
        longest_lines: Its lines.
        problem: Why the file could not be parsed, ``""`` if it could.
        seconds: What reading, parsing and counting took; plays no part in comparisons.
    """

    module: str
    lines: int = 0
    functions: int = 0
    branches: int = 0
    nesting: int = 0
    longest: str = ""
    longest_lines: int = 0
    problem: str = ""
    seconds: float = field(default=0.0, compare=False)


def survey(path: str, module: str) -> Figures:
    """Return a file's figures, with the time that they took."""
    started = time.perf_counter()
    figures = parse(path, module)
    return replace(figures, seconds=time.perf_counter() - started)


def parse(path: str, module: str) -> Figures:
    """Parse a file and count; a file that does not parse says why."""
    source = Path(path).read_bytes()
    lines = source.count(b"\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in strings, which the tests of the library are full of
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Figures(module, lines, problem=type(error).__name__)
    return count(tree, module, lines)


def count(tree: ast.Module, module: str, lines: int) -> Figures:
    """Walk a tree without recursion, since some files nest deeper than Python calls may."""
    functions = branches = nesting = longest_lines = 0
    longest = ""
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, FUNCTIONS):
            functions += 1
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > longest_lines:
                longest, longest_lines = node.name, length
        elif isinstance(node, BRANCHES):
            branches += 1
        elif isinstance(node, ast.BoolOp):
            branches += len(node.values) - 1
        if isinstance(node, BLOCKS):
            depth += 1
            nesting = max(nesting, depth)
        waiting.extend((child, depth) for child in ast.iter_child_nodes(node))
    return Figures(module, lines, functions, branches, nesting, longest, longest_lines)


def find_modules(limit: int | None) -> tuple[list[str], list[str]]:
    """Return the paths and dotted names of the standard library's files; with a limit, evenly spread ones."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    if limit is not None:
        paths = paths[:: max(1, len(paths) // limit)][:limit]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in paths]
    return [str(path) for path in paths], names


def run_adaptive(paths: list[str], names: list[str]) -> list[Figures]:
    """Survey with nothing chosen by hand."""
    with AdaptiveExecutor() as executor:
        return list(executor.map(survey, paths, names))


def run_serial(paths: list[str], names: list[str]) -> list[Figures]:
    """Survey with plain code."""
    return list(map(survey, paths, names))


def run_pool(paths: list[str], names: list[str], chunksize: int = 1) -> list[Figures]:
    """Survey with the standard library's pool."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(survey, paths, names, chunksize=chunksize))


WAYS: dict[str, Callable[[list[str], list[str]], list[Figures]]] = {
    "AdaptiveExecutor": run_adaptive,
    "serial code": run_serial,
    "ProcessPoolExecutor": run_pool,
    "ProcessPoolExecutor, chunksize=16": partial(run_pool, chunksize=16),
}


def show_modules(figures: list[Figures], most: int) -> None:
    """Print what was found, the heaviest modules first."""
    parsed = [each for each in figures if not each.problem]
    problems = [each.module for each in figures if each.problem]
    print(
        f"{len(figures):,} files: {sum(each.lines for each in figures):,} lines, "
        f"{sum(each.functions for each in parsed):,} functions, {sum(each.branches for each in parsed):,} branches"
    )
    if problems:
        print(f"{len(problems)} do not parse: {', '.join(problems[:2])}{', ...' if problems[2:] else ''}")
    seconds = sorted(each.seconds for each in figures)
    if seconds:
        half, longest = seconds[len(seconds) // 2], seconds[-1]
        print(f"half of them took less than {half * 1e3:.1f} ms, the slowest one {longest * 1e3:.0f} ms")
    print(f"\n{'the heaviest modules':30}{'branches':>9}{'functions':>10}{'nesting':>8}{'ms':>6}  longest function")
    for each in sorted(parsed, key=lambda each: each.branches, reverse=True)[:most]:
        row = f"{each.module[:29]:30}{each.branches:>9,}{each.functions:>10,}{each.nesting:>8}"
        print(f"{row}{each.seconds * 1e3:>6.0f}  {each.longest[:27]} ({each.longest_lines} lines)")


def compare(paths: list[str], names: list[str], expected: list[Figures], rounds: int) -> None:
    """Print how long each way takes from start to end, the best of some rounds; all have to give the same figures."""
    best = dict.fromkeys(WAYS, math.inf)
    for _ in range(rounds):
        for title, way in WAYS.items():  # in turn, so that a busy neighbour hits all alike
            started = time.perf_counter()
            figures = way(paths, names)
            best[title] = min(best[title], time.perf_counter() - started)
            if figures != expected:
                sys.exit(f"{title} gave other figures than before")
    adaptive_s = best["AdaptiveExecutor"]
    what = "all with equal results" if rounds == 1 else f"best of {rounds}, all with equal results"
    print(f"\n{'start to end, ' + what:46}{'seconds':>9}{'/ AdaptiveExecutor':>20}")
    for title, seconds in best.items():
        print(f"{title:46}{seconds:>9.2f}{seconds / adaptive_s:>20.2f}")


def main() -> None:
    """Run the survey as the command line says."""
    parser = argparse.ArgumentParser(description="Parse the standard library and find its heaviest modules.")
    parser.add_argument("--compare", action="store_true", help="run serial code and ProcessPoolExecutor too")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="compare N times, and take the best (1)")
    parser.add_argument("--limit", type=int, metavar="N", help="only N files, evenly spread")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many modules to print (10)")
    options = parser.parse_args()
    paths, names = find_modules(options.limit)
    megabytes = sum(len(Path(path).read_bytes()) for path in paths) / 1e6  # also warms the file cache, for all alike
    print(f"Python {platform.python_version()}'s standard library: {len(paths):,} files, {megabytes:.1f} MB, ", end="")
    print(f"{os.cpu_count()} cores\n")

    started = time.perf_counter()
    with AdaptiveExecutor() as executor:
        figures = list(executor.map(survey, paths, names))
    took_s = time.perf_counter() - started

    show_modules(figures, options.top)
    serial_s = sum(each.seconds for each in figures)  # measured where the calls ran
    print(f"\ntook {took_s:.2f} s, start and end of the workers included")
    print(f"predicted for serial code: {serial_s:.2f} s, {serial_s / took_s:.2f} times as long")
    print(f"\nexecutor.report():\n{executor.report()}")
    if options.compare:
        compare(paths, names, figures, options.rounds)


if __name__ == "__main__":
    main()
