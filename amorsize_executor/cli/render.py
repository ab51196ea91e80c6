"""What the command line shows: text for people, in 80 columns, or JSON, YAML and tables of the same facts."""

from __future__ import annotations

import codecs
import functools
import json
import math
import os
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from amorsize_executor.storage import place, plan_file

WIDTH = 80
FORMATS = "text", "json", "yaml", "table", "markdown"
ESCAPED = "amorsize_executor.escaped"
"""Name of the error handler that writes what an encoding cannot hold as JSON writes it."""


def _escape(error: Any) -> tuple[str, int]:
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPED, _escape)


class Renderer:
    """Prints the one answer of a verb.

    Args:
        out: Where to.
        form: How, one of ``FORMATS``.
        may_colour: False for no colour; there is some on terminals only, and never under ``NO_COLOR``.
        export_to: A file that is to hold the answer too; None for none.
        export_form: ``"json"``, ``"yaml"``, or ``"auto"`` for what its suffix says.
    """

    def __init__(
        self,
        out: TextIO,
        form: str = "text",
        *,
        may_colour: bool = True,
        export_to: Path | None = None,
        export_form: str = "auto",
    ) -> None:
        self.out = out
        self.form = form
        self._export_to = export_to
        self._export_form = export_form
        is_terminal = out.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colour = may_colour and is_terminal and "NO_COLOR" not in os.environ

    def show(self, answer: Any, *lines: str) -> None:
        """Print an answer: ``lines`` as text, else ``answer`` in the wanted form; and export it."""
        self.export(answer)
        for line in lines if self.form == "text" else (render(answer, self.form),):
            print(line, file=self.out)
        self.out.flush()  # before what goes to stderr

    def export(self, answer: Any) -> None:
        """Write an answer to the file that is to hold it, if there is to be one.

        Raises:
            StorageError: It cannot be written.
        """
        if self._export_to is not None:
            form = plan_file.format_of(self._export_to, self._export_form)
            place.write_atomically(self._export_to, (render(answer, form) + "\n").encode(errors=ESCAPED))

    def table(self, answer: Any, head: Sequence[str], rows: Sequence[Sequence[Any]], nothing: str) -> None:
        """Print rows below their heads; the last column is cut where a line would be too long.

        Args:
            answer: The same for programs.
            head: Names of the columns.
            rows: As many cells each.
            nothing: What to say where there are no rows.
        """
        self.show(answer, *(self.lines_of(head, rows) if rows else [nothing]))

    def facts(self, answer: Any, facts: Mapping[str, Any], *below: str) -> None:
        """Print names and values, one a line, and lines below them."""
        self.show(answer, *self.pairs(facts), *below)

    def pairs(self, facts: Mapping[str, Any], *, indent: int = 0) -> list[str]:
        """Return names and values, one a line; long values are wrapped beside their name."""
        width = max(map(len, facts), default=0)
        before = " " * indent
        beside = " " * (indent + width + 2)
        lines = []
        for name, value in facts.items():
            first, *rest = wrap(say_value(value), WIDTH - len(beside))
            lines += [f"{before}{self.bold(name.ljust(width))}  {first}", *(beside + line for line in rest)]
        return lines

    def bold(self, text: str) -> str:
        """Return text that stands out on a terminal."""
        return f"\033[1m{text}\033[0m" if self._has_colour else text

    def lines_of(self, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
        """Return a table's lines, at most 80 columns wide."""
        lines = align([head, *rows])
        return [self.bold(lines[0]), *lines[1:]]


def render(answer: Any, form: str) -> str:
    """Return plain data as ``"json"``, ``"yaml"``, ``"table"`` or ``"markdown"``.

    Raises:
        MissingExtraError: YAML is asked for, and PyYAML is not installed.
    """
    if form == "json":
        return dump_json(answer, indent=2)
    if form == "yaml":
        return plan_file.dump(json.loads(dump_json(answer)), "yaml").rstrip("\n")
    rows = [("name", "value"), *flatten(answer)]
    if form == "table":
        return "\n".join(align(rows))
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], ["---", "---"], *cells[1:]))


_LARGE = 10**4300  # the first number that Python writes to text and reads from it only if it is told to
_DEEPEST = 200


def dump_json(answer: Any, *, indent: int | None = None) -> str:
    """Return data as JSON on one line or several; what JSON does not know becomes text, NaN and infinities null."""
    try:
        text = _encoder(indent).encode(answer)
    except (ValueError, TypeError, RecursionError):  # NaN, keys that are no text, numbers or depths without end
        text = _encoder(indent).encode(_clean(answer))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # half a surrogate pair is an escape in JSON too


@functools.cache
def _encoder(indent: int | None) -> json.JSONEncoder:
    """Return an encoder; json.dumps would make one for every line."""
    return json.JSONEncoder(indent=indent, default=_to_plain, ensure_ascii=False, allow_nan=False)


def _to_plain(value: Any) -> Any:
    """Return what stands for a value in JSON: lists of what is no list and comes as one, else its text."""
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=_say)
    plain = getattr(value, "tolist", None)  # NumPy's arrays and scalars
    return plain() if callable(plain) else _say(value)


def _say(value: Any) -> str:
    """Return the text of any value, also of one that has none."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a class of the user's does
        return object.__repr__(value)


def _clean(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Return what JSON can hold in place of a value; ``above`` has the ids of what it is in."""
    if value is None or isinstance(value, (str, int, float)):
        return _clean_plain(value)
    if id(value) in above or len(above) == _DEEPEST:
        return _say(value)
    within = (*above, id(value))
    if isinstance(value, dict):
        return {key if isinstance(key, str) else _say(key): _clean(part, within) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(part, within) for part in value]
    return _clean(_to_plain(value), within)


def _clean_plain(value: Any) -> Any:
    if isinstance(value, int) and abs(value) >= _LARGE:
        return str(Decimal(value))  # str(int) refuses, and so do readers
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield names and texts of what nested data holds: ``('profile.cores', '2')``."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from flatten(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(part, (Mapping, list, tuple)) for part in value):
        for number, part in enumerate(value):
            yield from flatten(part, f"{name}.{number}" if name else str(number))
    elif isinstance(value, (list, tuple)):
        yield name, ", ".join(map(str, value))
    else:
        yield name, " ".join(str(value).split())


def align(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return rows as lines with columns below each other; the last one is cut where a line would be too long."""
    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]) - 1)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in cells]
    return [line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines]


def say_value(value: Any) -> str:
    """Return a value for people: numbers with six digits at most, lists as what they hold."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return "; ".join(map(say_value, value)) or "none"
    return str(value)


def wrap(text: str, width: int = WIDTH) -> list[str]:
    """Return text as lines of at most ``width`` columns, at least one."""
    return textwrap.wrap(text, max(width, 20), break_on_hyphens=False) or [""]


def when(timestamp: Any) -> str:
    """Return a moment of local time to the second; ``timestamp`` should be in seconds since 1970."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(timestamp)))
    except (TypeError, ValueError, OverflowError, OSError):  # it comes from a file, which may be damaged
        return "unknown"


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
