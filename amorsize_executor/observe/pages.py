"""Reports in full: as JSON for programs, as Markdown for tickets and chats, as HTML for a browser."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from amorsize_executor.records import Decision
from amorsize_executor.wording import say_seconds

_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "th,td{border-bottom:1px solid #8884;padding:.2rem .7rem;text-align:left;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}}"
)
_TITLE = "AdaptiveExecutor"

Table = tuple[str, Sequence[str], list[list[str]]]
"""A heading, the names of the columns, and rows of as many cells."""


def as_json(facts: dict[str, Any], decisions: Sequence[Decision]) -> str:
    """Return an object with ``stats``, ``functions`` and ``decisions``; numbers are in seconds and bytes."""
    rest = {name: value for name, value in facts.items() if name != "functions"}
    entries = [entry._asdict() for entry in decisions]
    return json.dumps({"stats": rest, "functions": facts["functions"], "decisions": entries}, indent=2)


def as_markdown(facts: dict[str, Any], decisions: Sequence[Decision]) -> str:
    """Return headings and tables."""
    lines = [f"# {_TITLE}: {facts['state']}", "", _escape_markdown(facts["reason"])]
    for heading, columns, rows in _tables(facts, decisions):
        lines += ["", f"## {heading}", "", _markdown_row(columns), _markdown_row(["---"] * len(columns))]
        lines += [_markdown_row(map(_escape_markdown, row)) for row in rows]
    return "\n".join(lines)


def as_html(facts: dict[str, Any], decisions: Sequence[Decision]) -> str:
    """Return a page that stands alone: no script, nothing is loaded."""
    title = html.escape(f"{_TITLE}: {facts['state']}")
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{html.escape(facts['reason'])}</p>",
    ]
    for heading, columns, rows in _tables(facts, decisions):
        parts += [f"<h2>{heading}</h2>\n<table>", _html_row("th", columns)]
        parts += [_html_row("td", row) for row in rows]
        parts.append("</table>")
    return "\n".join([*parts, "</body></html>"])


RENDERERS: dict[str, Callable[[dict[str, Any], Sequence[Decision]], str]] = {
    "json": as_json,
    "markdown": as_markdown,
    "html": as_html,
}


def _tables(facts: dict[str, Any], decisions: Sequence[Decision]) -> list[Table]:
    """Return the tables that have rows."""
    plain = [
        [name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)]
        for name, value in facts.items()
        if name not in ("functions", "reason", "state")
    ]
    functions = [
        [
            entry["function"],
            f"{entry['calls']:,}",
            f"{say_seconds(entry['mean_s'])} ± {say_seconds(entry['deviation_s'])}",
            f"{entry['waiting_share']:.0%}",
            f"{entry['bytes_in'] + entry['bytes_out']:,.0f}",
            entry["lane"],
        ]
        for entry in facts["functions"]
    ]
    changes = [
        [f"{entry.at_s:.3f} s", entry.function, entry.what, f"{entry.before} → {entry.after}", entry.reason]
        for entry in decisions
    ]
    found: list[Table] = [
        ("Counts", ("what", "value"), plain),
        ("Functions", ("function", "calls", "each", "waiting", "bytes a call", "lane"), functions),
        ("Decisions", ("at", "function", "what", "change", "why"), changes),
    ]
    return [table for table in found if table[2]]


def _escape_markdown(text: str) -> str:
    """Let nothing in a name or reason end a cell or become markup."""
    for sign in "\\`*_<>[]|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _html_row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
