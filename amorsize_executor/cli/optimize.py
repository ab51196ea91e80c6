"""``amorsize optimize``: how many workers, what chunk size, is it worth it at all?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from amorsize_executor.cli import task
from amorsize_executor.cli.main import FAILED
from amorsize_executor.cli.render import Renderer
from amorsize_executor.wording import describe_error


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parser."""
    parser = task.make_parser(verbs, common, "optimize", "recommend how many workers and what chunk size")
    task.add_sampling_to(parser)
    parser.add_argument("--save-config", type=Path, metavar="FILE", help="save the plan; a file that is there stays")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, renderer: Renderer) -> int | None:
    """Show the recommendation, and save it."""
    from amorsize_executor.advice.optimization import outcomes_of  # noqa: PLC0415 - loads the executor

    function, items = task.task_of(arguments)
    result = task.recommend(arguments, function, items)
    answer = {"mode": "optimize", "function": arguments.function, **task.facts_of(arguments, result)}
    renderer.show(answer, *task.lines_of(arguments, result, renderer))
    failed = [outcome.error for outcome in outcomes_of(result).values() if outcome.error is not None]
    if failed:
        told = describe_error(failed[0])
        advice = "mend it, or leave out the items that it cannot take"
        print(f"amorsize: error: {arguments.function} raised {told} for a sampled item; {advice}", file=sys.stderr)
        return FAILED
    if arguments.save_config is not None:
        result.save_config(arguments.save_config, function_name=arguments.function)
        if not arguments.quiet:
            print(f"amorsize: the plan is saved in {arguments.save_config}", file=sys.stderr)
    return None
