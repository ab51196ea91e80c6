"""``amorsize config list|show``: saved plans, and whether they suit this machine."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

from amorsize_executor.advice.config import list_configs, load_config
from amorsize_executor.cli.render import Renderer
from amorsize_executor.errors import AmorsizeError


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parsers."""
    parser = verbs.add_parser("config", help="saved configs: plans to begin a run with")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = actions.add_parser("list", parents=[common], help="list the configs of a directory")
    listing.add_argument("--directory", metavar="DIR", type=Path, help="where they are (default: ~/.amorsize/configs)")
    listing.set_defaults(run=run_list)

    showing = actions.add_parser("show", parents=[common], help="check a config and show what it holds")
    showing.add_argument("file")
    showing.set_defaults(run=run_show)


def run_list(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Show a table of files; one that cannot be used is listed with its problem."""
    directory = arguments.directory or Path.home() / ".amorsize" / "configs"
    answer: list[dict[str, Any]] = []
    for path in list_configs(directory):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # shown by ``config show``
            try:
                answer.append({"file": path.name, **load_config(path).to_dict()})
            except (AmorsizeError, OSError) as error:
                answer.append({"file": path.name, "error": getattr(error, "problem", str(error))})
    rows = [
        (
            entry["file"],
            entry.get("n_jobs", "-"),
            entry.get("chunksize", "-"),
            entry.get("executor_type", "-"),
            entry["error"] if "error" in entry else entry["function_name"] or "any function",
        )
        for entry in answer
    ]
    renderer.table(answer, ("file", "n_jobs", "chunksize", "executor", "for"), rows, f"no configs in {directory}")


def run_show(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Show all that a config holds."""
    config = load_config(arguments.file).to_dict()
    system = config["system_info"]
    facts = {name: value for name, value in config.items() if name != "system_info" and value is not None}
    renderer.facts(config, {**facts, **system})
