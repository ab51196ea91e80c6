"""Functions whose calls threads of one process may share, and for which that may be of use.

What leaves no trace (``traceless``) may still change an array that it was given, and others may see that. So what is
shared changes nothing: of that, too, code tells, and what is not sure counts as changing something.
"""

from __future__ import annotations

import dis
import inspect
import math
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from amorsize_executor.wire.traceless import is_of_numpy, look_up

_CHANGING = frozenset(("out", "overwrite_input", "copy"))
"""Parameters of NumPy's functions by which these change what they are given."""

_SILENT = frozenset(("CACHE", "EXTENDED_ARG", "PRECALL", "PUSH_NULL", "RESUME"))

_OUT_AT = {"choose": 1, "dot": 1, "take": 2, "clip": 2}
_OUT_AT |= dict.fromkeys(("all", "any", "argmax", "argmin", "max", "min", "ptp", "round"), 1)
_OUT_AT |= dict.fromkeys(("cumprod", "cumsum", "mean", "prod", "std", "sum", "var"), 2)
"""Methods of arrays: how many arguments by position come before ``out``."""

_UNTOLD = {"concatenate": 2.0}
_UNTOLD |= dict.fromkeys(("arange", "array", "asarray", "bincount", "empty", "where", "zeros"), math.inf)
"""The same of functions that have no signature in some versions."""


def changes_nothing(function: Callable[..., Any]) -> bool:
    """Tell whether a function that leaves no trace certainly changes no argument either, NumPy's arrays included.

    It must not do anything in place, and its calls must have too few arguments for one to be what NumPy fills.
    """
    if not isinstance(function, types.FunctionType):  # which gets one argument, and what it could change comes later
        return True
    constants = function.__code__.co_consts
    names = {name for constant in constants if isinstance(constant, tuple) for name in constant}
    steps = [step for step in dis.get_instructions(function) if step.opname not in _SILENT]
    rooms = (_room_in(function, before, step) for before, step in zip([None, *steps], steps))
    return (
        _CHANGING.isdisjoint(names)
        and not any(map(_is_in_place, steps))
        and _most_by_position(steps, constants) <= min(rooms, default=math.inf)
    )


def _is_in_place(step: dis.Instruction) -> bool:
    return step.opname.startswith("INPLACE_") or (step.opname == "BINARY_OP" and step.argrepr.endswith("="))


def _most_by_position(steps: list[dis.Instruction], constants: tuple[Any, ...]) -> int:
    """Return the most arguments by position that any call has."""
    most = by_name = 0
    for before, step in zip([None, *steps], steps):
        count = step.arg or 0
        if step.opname == "KW_NAMES":
            by_name = len(constants[count])
        elif step.opname in ("CALL_FUNCTION_KW", "CALL_KW") and before is not None:
            most = max(most, count - len(before.argval))
        elif step.opname.startswith("CALL"):
            most, by_name = max(most, count - by_name), 0
    return most


def _room_in(function: types.FunctionType, before: dis.Instruction | None, step: dis.Instruction) -> float:
    """Return how many arguments by position a call may have of what a step looks up, as ``_room_of`` does."""
    if step.opname == "LOAD_GLOBAL":
        return _room_of(look_up(function, step.argval))
    if step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
        return math.inf
    owner = look_up(function, before.argval) if before is not None and before.opname == "LOAD_GLOBAL" else None
    if isinstance(owner, types.ModuleType):
        return _room_of(getattr(owner, step.argval, None))
    return -1 if step.argval == "sort" else _OUT_AT.get(step.argval, math.inf)


def _room_of(found: Any) -> float:
    """Return how many arguments by position something takes before one that it may change; -1 where it must not be."""
    numpy = sys.modules.get("numpy")
    if found is operator or getattr(found, "__module__", None) == "_operator":
        return -1
    if numpy is None or isinstance(found, type) or not is_of_numpy(found) or found is numpy:
        return math.inf
    if isinstance(found, numpy.ufunc):
        return int(found.nin)
    if not callable(found):
        return math.inf
    try:
        parameters = list(inspect.signature(found).parameters)
    except (TypeError, ValueError):  # it tells nothing
        return _UNTOLD.get(getattr(found, "__name__", ""), 1)
    return next((place for place, name in enumerate(parameters) if name in _CHANGING), math.inf)
