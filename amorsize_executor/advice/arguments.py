"""Checks of what the functions of advice are given, alike in all of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.parameters import check_callable, check_count, check_flag, check_seconds

MOST_SAMPLED = 10_000
LONGEST_CHUNK_S = 3600
OF_EVERY_BACKEND = frozenset(("max_workers", "chunksize", "target_chunk_duration", "config", "memory"))
"""Options of the executor that mean something wherever calls run."""
LAYERS_OF_EVERY_BACKEND = frozenset(("retry", "circuit_breaker", "rate_limit", "checkpoint", "dead_letters"))
"""Layers that can be around a call wherever it runs."""


def check_task(func: Any, data: Any) -> None:
    """Raise unless ``func`` can be called and ``data`` iterated."""
    check_callable("func", func)
    if data is None:
        raise InvalidParameterTypeError("data", data, "must be an iterable, not None")
    if not hasattr(type(data), "__iter__") and not hasattr(type(data), "__getitem__"):
        raise InvalidParameterTypeError("data", data, "must be an iterable")


def check_sampling(sample_size: Any, target_chunk_duration: Any) -> None:
    """Raise unless there are 1 to 10,000 items to sample, and chunks of up to an hour."""
    check_count("sample_size", sample_size, optional=False)
    if sample_size > MOST_SAMPLED:
        raise InvalidParameterError("sample_size", sample_size, f"must be <= {MOST_SAMPLED:,}")
    check_seconds("target_chunk_duration", target_chunk_duration, most=LONGEST_CHUNK_S)


def check_flags(**flags: Any) -> None:
    """Raise unless each is True or False."""
    for name, value in flags.items():
        check_flag(name, value)


def check_share(name: str, value: Any) -> None:
    """Raise unless ``value`` is a number > 0 and <= 1."""
    rule = "must be a number > 0 and <= 1"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterTypeError(name, value, rule)
    if not 0 < value <= 1:
        raise InvalidParameterError(name, value, rule)


def take_first(data: Iterable[Any], most: int | None) -> Sequence[Any]:
    """Return the first items, all for None; a range stays one, however long it is."""
    if isinstance(data, (list, tuple, range)):
        return data[:most]
    return list(itertools.islice(data, most))


def count_items(data: Any) -> int | None:
    """Return how many items there are, or None where nobody knows."""
    if not isinstance(data, Sized):
        return None
    try:
        return len(data)
    except (TypeError, OverflowError):  # a wrapper whose inner object has no length; a range beyond any machine
        return None
