"""Checks of what users pass in: a clear error that names the parameter and the value, before anything starts."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from typing import Any

from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError


def check_count(name: str, value: Any, *, least: int = 1, most: int = sys.maxsize, optional: bool = True) -> None:
    """Raise unless ``value`` is an int, no bool, from ``least`` to ``most``, or None where that is allowed.

    What is counted fits into a machine's word: larger integers are refused by floats, slices and databases alike.
    """
    if value is None and optional:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        rule = f"{name} must be an integer >= {least}" + (" or None" if optional else "")
        raise InvalidParameterTypeError(name, value, rule)
    if value < least:
        rule = "greater than 0" if least == 1 else f">= {least}"  # the first in the standard library's words
        raise InvalidParameterError(name, value, f"{name} must be {rule}")
    if value > most:
        raise InvalidParameterError(name, value, f"{name} must be <= {most}")


def is_finite(value: float) -> bool:
    """Tell whether a number is one that a float can hold; some integers are too large."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_seconds(name: str, value: Any, *, most: float = math.inf) -> None:
    """Raise unless ``value`` is a number of seconds > 0, <= ``most`` and finite."""
    rule = "must be a finite number of seconds > 0" + (f" and <= {most:g}" if most < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterTypeError(name, value, rule)
    if not (0 < value <= most) or not is_finite(value):
        raise InvalidParameterError(name, value, rule)


def check_timeout(name: str, value: Any) -> None:
    """Raise unless ``value`` is None or a number that is not NaN; like the standard library's, it may be <= 0."""
    if value is None:
        return
    rule = "must be a number of seconds or None"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterTypeError(name, value, rule)
    if value != value:  # noqa: PLR0124 - NaN; some integers are too large for math.isnan
        raise InvalidParameterError(name, value, rule)


def check_wait(name: str, value: Any) -> None:
    """Raise unless ``value`` is a number that a clock can be set by: no NaN, and no integer that no float holds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterTypeError(name, value, "must be a number of seconds")
    if value != math.inf and not is_finite(value):
        raise InvalidParameterError(name, value, "must be a number of seconds")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise unless ``value`` is one of the words in ``choices``."""
    rule = "must be one of " + ", ".join(map(repr, choices))
    if not isinstance(value, str):
        raise InvalidParameterTypeError(name, value, rule)
    if value not in choices:
        raise InvalidParameterError(name, value, rule)


def check_flag(name: str, value: Any) -> None:
    """Raise unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise InvalidParameterTypeError(name, value, "must be True or False")


def check_callable(name: str, value: Any, *, optional: bool = False) -> None:
    """Raise unless ``value`` can be called, or is None where that is allowed."""
    if not (callable(value) or (optional and value is None)):
        raise InvalidParameterTypeError(name, value, "must be callable" + (" or None" if optional else ""))


def check_types(name: str, value: Any) -> None:
    """Raise unless ``value`` is None or a tuple of exception types."""
    if value is None:
        return
    kinds = value if isinstance(value, tuple) else (None,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise InvalidParameterTypeError(name, value, "must be a tuple of exception types or None")


def check_number(name: str, value: Any, *, least: float) -> None:
    """Raise unless ``value`` is a finite number >= ``least``."""
    rule = f"must be a finite number >= {least:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterTypeError(name, value, rule)
    if not (least <= value and is_finite(value)):
        raise InvalidParameterError(name, value, rule)


def check_plain_callable(name: str, value: Any) -> None:
    """Raise for what cannot be called, and for coroutine functions, whose calls end before they have begun."""
    import inspect  # noqa: PLC0415 - 8 ms, and only decorators ask

    check_callable(name, value)
    if inspect.iscoroutinefunction(value):
        raise InvalidParameterTypeError(name, value, "must not be a coroutine function")
