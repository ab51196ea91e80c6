"""How durations, counts and functions are put into words: alike in reasons, reports and logs."""

from __future__ import annotations

import os
from collections.abc import Callable

_LARGE = 999.5  # from here on three digits are not enough, or the next unit begins


def say_seconds(seconds: float) -> str:
    """Write a duration with the unit that suits it: ``'3.2 ms'``."""
    if seconds >= _LARGE:
        return f"{seconds:,.0f} s"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if 1000 * seconds * factor >= _LARGE:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def say_count(number: int, noun: str) -> str:
    """Write a number of things: ``'1 worker'``, ``'2,000 workers'``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def say_error(error: BaseException, form: Callable[[BaseException], str] = repr) -> str:
    """Write an error by its ``repr`` or ``str``, or by its class alone where that fails itself."""
    try:
        return form(error)
    except Exception:  # noqa: BLE001 - whatever it is, it is no reason to lose what goes on
        return type(error).__name__


def describe_error(error: BaseException) -> str:
    """Write an error with its class: ``'ValueError: too long'``."""
    return f"{type(error).__name__}: {say_error(error, str)}"


def make_sentence(text: str) -> str:
    """Return ``text`` as a sentence; a parameter's name at its beginning is not capitalised."""
    first = text.partition(" ")[0]
    return f"{text}." if "_" in first else f"{text[:1].upper()}{text[1:]}."


def name_function(key: object) -> str:
    """Name a function by what its measurements are kept under.

    A lambda is named with its place: ``'<lambda> (script.py:12)'``.

    Args:
        key: What ``wire.functions.measured_under`` returns.
    """
    if isinstance(key, tuple):
        return str(key[1])
    for attribute in ("co_qualname", "__qualname__", "co_name"):
        name = getattr(key, attribute, None)
        if isinstance(name, str):
            break
    else:
        return repr(key)
    path = getattr(key, "co_filename", None)
    if name.endswith("<lambda>") and isinstance(path, str):
        return f"<lambda> ({os.path.basename(path)}:{getattr(key, 'co_firstlineno', 0)})"  # noqa: PTH119 - text only
    return name
