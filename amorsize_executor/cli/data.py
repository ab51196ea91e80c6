"""Items from the command line: a range, a file, or standard input, read as they are asked for."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from amorsize_executor.cli.number import natural
from amorsize_executor.errors import AmorsizeError

FORMATS = "auto", "lines", "jsonl", "json"
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
_SHOWN = 40


class DataError(AmorsizeError, ValueError):
    """Items cannot be read; the text says where, and what to do."""

    def __init__(self, name: str, problem: str) -> None:
        self.name, self.problem = name, problem
        super().__init__(f"{name}: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.problem)


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what the items are."""
    group = parser.add_argument_group("items (one of these)")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--data-range", type=natural, metavar="N", help="the numbers 0 to N - 1")
    source.add_argument("--data-file", type=Path, metavar="FILE", help="a file's lines or JSON values")
    source.add_argument("--data-stdin", action="store_true", help="the same from standard input")
    group.add_argument(
        "--input-format",
        choices=FORMATS,
        default="auto",
        help="lines: text; jsonl: a JSON value a line; json: one list; auto: by the suffix, else lines",
    )


def items_of(arguments: argparse.Namespace) -> Source | range:
    """Return the items that the options name.

    Raises:
        DataError: There is no such file, it cannot be read, or is empty.
    """
    if arguments.data_range is not None:
        return range(arguments.data_range)
    path: Path | None = arguments.data_file
    form = arguments.input_format
    if form == "auto":
        form = "lines" if path is None else _SUFFIXES.get(path.suffix.lower(), "lines")
    source = Source(path, form)
    source.check()
    return source


def take_stdin() -> IO[bytes]:
    """Return standard input, and leave an empty one in its place: no program that a call starts is to read items."""
    taken = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), sys.stdin.fileno())
    return taken


class Source(Iterable[Any]):
    """Items of a file, which can be iterated again, or of standard input, which cannot.

    Args:
        path: The file; None for standard input.
        form: ``"lines"`` (stripped, without blank ones), ``"jsonl"`` or ``"json"``.

    Attributes:
        error: Why reading ended early; None if it did not.
    """

    def __init__(self, path: Path | None, form: str) -> None:
        self.error: Exception | None = None
        self._path = path
        self._form = form
        self._name = "standard input" if path is None else str(path)

    def check(self) -> None:
        """Raise DataError for a file that is not there, or holds nothing, before anything starts.

        Pipes are left alone: what is read of them is gone.
        """
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # said below
            if self._path.is_fifo() or self._path.is_char_device():
                return
        with self._open() as file:
            if not file.read(1):
                raise DataError(self._name, "is empty; give a file with an item a line")

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._read()
        except Exception as error:
            self.error = error
            raise

    def raise_error(self) -> None:
        """Raise what ended the reading, where somebody has swallowed it."""
        if self.error is not None:
            raise self.error

    def _open(self) -> IO[bytes]:
        if self._path is None:
            if sys.stdin is None:
                raise DataError(self._name, "is closed; pipe the items into it, or name a file with --data-file")
            return take_stdin()
        try:
            return self._path.open("rb")
        except OSError as error:
            raise DataError(self._name, f"cannot be read: {error.strerror or error}") from error

    def _read(self) -> Iterator[Any]:
        count = 0
        with self._open() as file:
            for item in self._parse_all(file) if self._form == "json" else self._parse_lines(file):
                count += 1
                yield item
        if not count:
            raise DataError(self._name, "holds no items; give an item a line, or a JSON list with --input-format json")

    def _parse_lines(self, file: IO[bytes]) -> Iterator[Any]:
        for number, line in enumerate(file, 1):
            text = self._decode(line, f"line {number}").strip()
            if text:
                yield self._parse(text, f"line {number}: ") if self._form == "jsonl" else text

    def _parse_all(self, file: IO[bytes]) -> list[Any]:
        found = self._parse(self._decode(file.read(), "it"), "")
        if not isinstance(found, list):
            problem = f"holds a JSON {type(found).__name__} where a list of items is expected"
            raise DataError(self._name, f"{problem}; for a value a line use --input-format jsonl")
        return found

    def _decode(self, data: bytes, where: str) -> str:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise DataError(self._name, f"{where} is no UTF-8 text; items are lines of text, or JSON")
        return text

    def _parse(self, text: str, where: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
            problem = f"{where}not valid JSON, or cut: {error} in {shown!r}"
            hint = "; for plain lines use --input-format lines" if self._form == "jsonl" else ""
            raise DataError(self._name, problem + hint) from error
