"""``amorsize dlq list|show|replay|export|purge``: look at dead letters, run them again, keep them, let them go."""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

from amorsize_executor.cli.main import FAILED, UsageError
from amorsize_executor.cli.number import count
from amorsize_executor.cli.render import Renderer, when, wrap
from amorsize_executor.cli.target import load_function
from amorsize_executor.storage.dead_letter import DLQPolicy
from amorsize_executor.storage.dead_letter_queue import DeadLetterQueue

_ID = 8  # characters of an id that are shown; any beginning that is unique will do
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parsers."""
    place = argparse.ArgumentParser(add_help=False, parents=[common])
    place.add_argument(
        "--directory", metavar="DIR", default=".amorsize_dlq", help="of the queue (default: %(default)s)"
    )
    parser = verbs.add_parser("dlq", help="dead letters: calls that have failed for good")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = actions.add_parser("list", parents=[place], help="list the stored calls, the oldest first")
    listing.add_argument("--error-type", help="only those that failed with this class of error")
    listing.add_argument("--limit", type=count, help="only the newest so many")
    listing.set_defaults(run=run_list)

    showing = actions.add_parser("show", parents=[place], help="show a call with its traceback")
    showing.add_argument("id", help="its id, or the beginning of it")
    showing.set_defaults(run=run_show)

    replaying = actions.add_parser("replay", parents=[place], help="run calls again; those that succeed are removed")
    replaying.add_argument("function", help="what to run: module:function")
    replaying.add_argument("--all", action="store_true", help="also calls of functions with other names")
    replaying.add_argument("--workers", type=count, help="most workers")
    replaying.set_defaults(run=run_replay)

    exporting = actions.add_parser("export", parents=[place], help="write the calls to a file")
    exporting.add_argument("file", help="JSON lines (.jsonl), JSON (.json) or pickle (.pkl); it is replaced")
    exporting.set_defaults(run=run_export)

    purging = actions.add_parser("purge", parents=[place], help="remove calls for good")
    purging.add_argument("--all", action="store_true", help="all of them")
    purging.add_argument("--older-than", type=age, metavar="AGE", help="those that failed before: 90s, 5m, 2h, 7d, 4w")
    purging.add_argument("--error-type", help="those that failed with this class of error")
    purging.set_defaults(run=run_purge)


def age(text: str) -> float:
    """Read a span of time; return seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        message = f"{text!r} is no age such as 90s, 5m, 2h, 7d or 4w"
        raise argparse.ArgumentTypeError(message)
    return float(match[1]) * _UNITS_S[match[2]]


def open_queue(arguments: argparse.Namespace) -> DeadLetterQueue:
    """Return the queue; nothing is made where there is none."""
    return DeadLetterQueue(DLQPolicy(arguments.directory, max_entries=0, auto_persist=False))


def function_of(metadata: dict[str, Any]) -> str:
    """Return the name of the function that was called, without its module; empty if it is not known."""
    name = metadata.get("function")
    return name.rpartition(":")[2] if isinstance(name, str) else ""


def run_list(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Show a table of what is stored."""
    with open_queue(arguments) as queue:
        rows = queue.stored()
    if arguments.error_type:
        rows = [row for row in rows if row["error_type"] == arguments.error_type]
    if arguments.limit:
        rows = rows[-arguments.limit :]
    head = "id", "failed at", "error", "retries", "function", "arguments"
    table = [
        (
            row["entry_id"][:_ID],
            when(row["timestamp"]),
            row["error_type"],
            row["retry_count"],
            function_of(row["metadata"]) or "-",
            row["shown"],
        )
        for row in rows
    ]
    renderer.table(rows, head, table, "no dead letters")


def run_show(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Show all that is known of one call."""
    with open_queue(arguments) as queue:
        rows = [row for row in queue.stored() if row["entry_id"].startswith(arguments.id)]
    if len(rows) != 1:
        message = f"{len(rows)} calls have an id that begins with {arguments.id!r}"
        raise ValueError(message)
    (row,) = rows
    facts = {
        "id": row["entry_id"],
        "failed at": when(row["timestamp"]),
        "error": f"{row['error_type']}: {row['error_message']}",
        "retries": row["retry_count"],
        "arguments": row["shown"],
    }
    for name, value in row["metadata"].items():
        facts[f"metadata {name}" if name in facts else name] = value
    renderer.facts(row, facts, "", row["traceback"] or "(no traceback was kept)")


def run_replay(arguments: argparse.Namespace, renderer: Renderer) -> int | None:
    """Run calls again, in parallel."""
    from amorsize_executor.advice.replay import replay_failed_items  # noqa: PLC0415 - listing needs no executor
    from amorsize_executor.executor import AdaptiveExecutor  # noqa: PLC0415

    function = load_function(arguments.function)
    wanted = arguments.function.rpartition(":" if ":" in arguments.function else ".")[2]
    with open_queue(arguments) as queue:
        queue.load()
        entries = [
            entry for entry in queue.get_entries() if arguments.all or function_of(entry.metadata) in ("", wanted)
        ]
        others = queue.size() - len(entries)
        with AdaptiveExecutor(arguments.workers) as executor:
            replay = replay_failed_items(queue, function, executor=executor, entries=entries)
    answer = {
        "replayed": len(entries),
        "succeeded": len(replay.results),
        "still_failed": len(replay.still_failed),
        "left_alone": others,
    }
    line = (
        f"{answer['replayed']} calls replayed: {answer['succeeded']} succeeded, {answer['still_failed']} failed again"
    )
    left = f"; {others} of other functions were left alone (--all)" if others else ""
    renderer.show(answer, *wrap(line + left))
    return FAILED if replay.still_failed else None


def run_export(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Write the stored calls to a file."""
    with open_queue(arguments) as queue:
        number = queue.load()
        path = queue.save(arguments.file)
    renderer.show({"exported": number, "file": path}, f"{number} calls written to {path}")


def run_purge(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Remove calls."""
    chosen = arguments.older_than is not None or arguments.error_type is not None
    if chosen == arguments.all:
        message = "say what to purge: --older-than AGE, --error-type TYPE, or else --all"
        raise UsageError(message)
    before = None if arguments.older_than is None else time.time() - arguments.older_than
    with open_queue(arguments) as queue:
        number = queue.purge(before=before, error_type=arguments.error_type)
    renderer.show({"purged": number}, f"{number} calls removed")
