"""``amorsize``: reads the arguments, runs a verb, and turns what goes wrong into one line and an exit status.

Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. A traceback is shown with ``--debug`` only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import NoReturn, TextIO

from amorsize_executor.cli.render import ESCAPED, Renderer
from amorsize_executor.errors import AmorsizeError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

VERBS = "optimize", "execute", "validate", "compare", "doctor", "config", "checkpoint", "dlq", "completion"
"""Modules of this package: each has ``add_to(verbs, common)``, which adds a parser that sets ``run``.

``run(arguments, renderer)`` returns the exit status, or None for 0.
"""


class UsageError(AmorsizeError, ValueError):
    """The arguments make no sense together; the text says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    Args:
        argv: Arguments without the program's name; None for those of this process.
    """
    _open_streams()
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("amorsize: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return FAILED
    status = [DONE]
    is_alone = arguments.json or getattr(arguments, "is_alone", False)
    with reporting(status, is_debugging=arguments.debug), warning(), answering(is_alone=is_alone) as out:
        status[0] = arguments.run(arguments, make_renderer(arguments, out)) or DONE
        out.flush()
    return status[0]


def make_renderer(arguments: argparse.Namespace, out: TextIO) -> Renderer:
    """Return what shows the answer as the arguments have it; verbs that have no such options show text or JSON."""
    return Renderer(
        out,
        "json" if arguments.json else getattr(arguments, "format", "text"),
        may_colour=not getattr(arguments, "no_color", False),
        export_to=getattr(arguments, "export", None),
        export_form=getattr(arguments, "export_format", "auto"),
    )


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(USAGE, f"{self.prog}: error: {message} (see --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with all verbs."""
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON and nothing else")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser = Parser(prog="amorsize", description="Run functions over many items fast, and look after what runs leave.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    for name in VERBS:
        import_module(f"{__package__}.{name}").add_to(verbs, common)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_rest: object) -> None:
        from amorsize_executor import __version__  # noqa: PLC0415

        print(f"amorsize {__version__}")
        parser.exit()


def _open_streams() -> None:
    """Let output that was closed lead nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # also lest a file is opened in its place
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


@contextlib.contextmanager
def answering(*, is_alone: bool) -> Iterator[TextIO]:
    """Yield where the answer goes: stdout, which takes any text from now on.

    Args:
        is_alone: Let nothing else go there: what is printed meanwhile, in workers too, goes to stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPED)
    if not is_alone:
        yield sys.stdout
        return
    out, is_the_processes = sys.stdout, sys.stdout is sys.__stdout__
    if not is_the_processes:  # somebody collects it; there is no descriptor to hand to workers
        with contextlib.redirect_stdout(sys.stderr):
            yield out
        return
    out.flush()
    with os.fdopen(os.dup(out.fileno()), "w", encoding=out.encoding, errors=ESCAPED) as kept:
        os.dup2(sys.stderr.fileno(), out.fileno())
        try:
            yield kept
        finally:
            out.flush()
            os.dup2(kept.fileno(), out.fileno())


@contextlib.contextmanager
def warning() -> Iterator[None]:
    """Turn the library's warnings into one line on stderr each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        yield


def _show_warning(message: Warning | str, *_rest: object) -> None:
    print(f"amorsize: warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextlib.contextmanager
def reporting(status: list[int], *, is_debugging: bool) -> Iterator[None]:
    """Turn what is raised inside into one line on stderr, and into the exit status in ``status[0]``."""
    try:
        yield
    except BrokenPipeError:  # the reader, such as head, has seen enough
        status[0] = DONE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # noqa: BLE001 - the user sees what it was, and with --debug where
        status[0] = USAGE if isinstance(error, UsageError) else FAILED
        if is_debugging:
            import traceback  # noqa: PLC0415

            traceback.print_exc()
        known = isinstance(error, (AmorsizeError, OSError, ValueError)) and str(error)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.strerror is not None and not isinstance(error, AmorsizeError):
            text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
        print(f"amorsize: error: {' '.join(text.split())}", file=sys.stderr)
