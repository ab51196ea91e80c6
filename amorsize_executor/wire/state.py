"""Which callables have state: something that one call may change and a later one would see."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from amorsize_executor.wire.decorated import Decorated
from amorsize_executor.wire.reach import CACHED, NAMED, cells_bound_in, contents_of, is_dispatcher, is_exactly, is_named

_UNCHANGING = frozenset(
    (int, float, complex, bool, str, bytes, range, type(None), type(...), type(NotImplemented), types.ModuleType)
)


def has_state(function: Any) -> bool:
    """Tell whether calls of ``function`` may leave something behind in it.

    A function has state if its closure or its defaults hold what can change, if it binds ``nonlocal`` names, or if it
    has attributes. What a module binds under its name counts as having none, and what a cache holds is no state.
    """
    return _has_state(function, set())


def _has_state(item: Any, seen: set[int]) -> bool:
    if id(item) in seen or is_named(item):
        return False
    seen.add(id(item))
    if isinstance(item, (CACHED, Decorated)):  # what guards keep, each worker has for itself
        return _has_state(item.__wrapped__, seen)  # type: ignore[attr-defined]
    if isinstance(item, types.FunctionType):
        return _has_state_of_function(item, seen)
    if isinstance(item, types.BuiltinFunctionType):
        return not (item.__self__ is None or isinstance(item.__self__, (types.ModuleType, type)))
    return not isinstance(item, (*NAMED, types.MethodDescriptorType))


def _has_state_of_function(function: types.FunctionType, seen: set[int]) -> bool:
    if is_dispatcher(function):
        return any(_has_state(each, seen) for each in function.registry.values())  # type: ignore[attr-defined]
    if cells_bound_in(function.__code__) or vars(function).keys() - {"__wrapped__"}:
        return True
    return any(_can_change(held, seen) for held in _held_by(function))


def _held_by(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        yield from contents_of(cell)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _can_change(held: Any, seen: set[int]) -> bool:
    if is_exactly(held, _UNCHANGING):
        return False
    if type(held) is tuple or type(held) is frozenset:
        return any(_can_change(item, seen) for item in held)
    return _has_state(held, seen)
