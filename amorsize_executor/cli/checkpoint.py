"""``amorsize checkpoint list|show|delete``: what runs have left behind, and how far they came."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from amorsize_executor.advice import checkpoint_inventory
from amorsize_executor.cli.render import Renderer, size, when


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parsers."""
    place = argparse.ArgumentParser(add_help=False, parents=[common])
    place.add_argument(
        "--directory", metavar="DIR", default="checkpoints", help="of the checkpoints (default: %(default)s)"
    )
    parser = verbs.add_parser("checkpoint", help="checkpoints: journals of runs, and snapshots")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    listing = actions.add_parser("list", parents=[place], help="list all checkpoints")
    listing.set_defaults(run=run_list)

    showing = actions.add_parser("show", parents=[place], help="show what a checkpoint holds")
    showing.add_argument("name")
    showing.set_defaults(run=run_show)

    deleting = actions.add_parser("delete", parents=[place], help="remove a checkpoint, all versions of it")
    deleting.add_argument("name")
    deleting.set_defaults(run=run_delete)


def run_list(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Show a table of names."""
    found = checkpoint_inventory.list_all(Path(arguments.directory))
    head = "kind", "last written", "size", "name"
    rows = [(entry["kind"], when(entry["modified_at"]), size(entry["bytes"]), entry["name"]) for entry in found]
    renderer.table(found, head, rows, "no checkpoints")


def run_show(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Show a journal's maps and a snapshot's versions. Nothing is unpickled."""
    found = checkpoint_inventory.describe(Path(arguments.directory), arguments.name)
    rows = [
        (entry["place"], entry["results"], size(entry["bytes"]), when(entry["first_at"]), entry["function"])
        for entry in found["maps"]
    ]
    rows += [
        (f"version {entry['version']}", "whole" if entry["is_whole"] else "DAMAGED", size(entry["bytes"]),
         when(entry["modified_at"]), entry["file"])
        for entry in found["snapshots"]
    ]  # fmt: skip
    renderer.table(found, ("what", "results", "size", "since", "of"), rows, "it holds nothing")


def run_delete(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Remove a journal and snapshots of a name."""
    files = checkpoint_inventory.delete_all(Path(arguments.directory), arguments.name)
    renderer.show({"deleted": files}, *(f"deleted {name}" for name in files))
