"""Numbers in arguments: what is out of range is wrong usage, and is told by the option's name."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable


def natural(text: str) -> int:
    """Read a number >= 0 that a range can have."""
    return _read_whole(text, 0)


def count(text: str) -> int:
    """Read a number >= 1."""
    return _read_whole(text, 1)


def count_up_to(most: int) -> Callable[[str], int]:
    """Return what reads a number from 1 to ``most``."""
    return lambda text: _read_whole(text, 1, most)


def seconds(text: str) -> float:
    """Read a finite number > 0."""
    return _read_seconds(text)


def seconds_up_to(most: float) -> Callable[[str], float]:
    """Return what reads a number > 0 and <= ``most``."""
    return lambda text: _read_seconds(text, most)


def _read_whole(text: str, least: int, most: int = sys.maxsize) -> int:
    try:
        number = int(text)
    except ValueError:
        message = f"must be a whole number, not {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    if not least <= number <= most:
        message = f"must be at least {least}" if number < least else f"must be at most {most}"
        raise argparse.ArgumentTypeError(message)
    return number


def _read_seconds(text: str, most: float = math.inf) -> float:
    rule = "must be a number of seconds above 0" + (f", at most {most:g}" if most < math.inf else "")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (0 < number <= most and math.isfinite(number)):
        message = f"{rule}, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return number
