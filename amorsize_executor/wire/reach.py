"""What an object is to ``pickle``, and what its code can reach in ``__main__``."""

from __future__ import annotations

import functools
import opcode
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from amorsize_executor.wire.decorated import Decorated, leads_to

CACHED: type = type(functools.lru_cache(lambda: None))
"""What ``functools.lru_cache`` and ``functools.cache`` make."""

NAMED = (
    types.FunctionType,
    type,
    CACHED,
    Decorated,
    *(
        getattr(typing, name)
        for name in ("NewType", "TypeVar", "ParamSpec", "TypeVarTuple", "TypeAliasType")
        if hasattr(typing, name)
    ),
)
"""Types whose instances pickle as a name."""

_STORE_GLOBAL, _STORE_DEREF = opcode.opmap["STORE_GLOBAL"], opcode.opmap["STORE_DEREF"]
_DISPATCH_CODE = functools.singledispatch(lambda _item: None).__code__  # type: ignore[attr-defined]
FUNCTIONLESS = frozenset((int, float, complex, bool, str, bytes, type(None), list, dict, types.ModuleType))
"""Types of objects that ``functions_in`` finds nothing in."""

_PARTS: dict[type, tuple[str, ...]] = {
    CACHED: ("__wrapped__",),
    Decorated: ("__wrapped__",),
    types.MethodType: ("__func__", "__self__"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset", "fdel"),
    functools.cached_property: ("func",),
    functools.singledispatchmethod: ("dispatcher",),
}
"""Where things made of functions hold them."""


def is_exactly(item: Any, kinds: frozenset[Any]) -> bool:
    """Tell whether the type of ``item`` is one of ``kinds``. A metaclass may not let its classes be looked up."""
    try:
        return type(item) in kinds
    except Exception:  # noqa: BLE001 - its __hash__ or __eq__ may raise anything, or be missing
        return False


def main_namespace() -> dict[str, Any]:
    """Return the dictionary of ``__main__``."""
    return sys.modules["__main__"].__dict__


def name_in_main(item: Any) -> str | None:
    """Return the name of ``__main__`` under which ``pickle`` looks for ``item``; None for what is pickled otherwise."""
    if not (isinstance(item, NAMED) and getattr(item, "__module__", None) == "__main__"):
        return None
    name = getattr(item, "__qualname__", None) or getattr(item, "__name__", None)
    return name if isinstance(name, str) else None


def name_of_sentinel(item: Any) -> str | None:
    """Return the name that ``__reduce__`` of a class of ``__main__`` gives its instance; None if it gives none."""
    kind: Any = type(item)
    if kind.__module__ != "__main__":
        return None
    if kind.__reduce__ is object.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__:
        return None
    reduced = item.__reduce_ex__(5)
    return reduced if isinstance(reduced, str) else None


def is_named(item: Any) -> bool:
    """Tell whether ``item`` is a function, class, cache, ... that its module binds under its name."""
    return isinstance(item, NAMED) and leads_to(item)


def is_dispatcher(function: types.FunctionType) -> bool:
    """Tell whether ``functools.singledispatch`` made the function."""
    return function.__code__ is _DISPATCH_CODE


def functions_in(item: Any) -> Iterator[types.FunctionType]:
    """Yield the functions that ``item`` is made of.

    Looks into closures and decorators, caches, partials, methods, and classes of ``__main__``, not into the state of
    instances or into what code reaches by a global name.
    """
    kind = type(item)
    if kind is types.FunctionType and item.__closure__ is None:  # nearly all
        yield item
        return
    if is_exactly(item, FUNCTIONLESS):
        return
    parts, seen = [item], {}
    while parts:
        part = parts.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part  # held, or another part might get the same id
        if isinstance(part, types.FunctionType):
            yield part
        parts += _parts_of(part)


def _parts_of(item: Any) -> list[Any]:
    if isinstance(item, types.FunctionType):
        if is_dispatcher(item):
            return list(item.registry.values())  # type: ignore[attr-defined]
        return [content for cell in item.__closure__ or () for content in contents_of(cell)]
    if isinstance(item, type):
        return [*vars(item).values(), *item.__bases__] if getattr(item, "__module__", None) == "__main__" else []
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    for kind, names in _PARTS.items():
        if isinstance(item, kind):
            return [getattr(item, name, None) for name in names]
    return [type(item)] if getattr(type(item), "__module__", None) == "__main__" else []


def contents_of(cell: types.CellType) -> tuple[Any, ...]:
    """Return what a closure's cell holds: one object, or none if it is empty."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


@functools.lru_cache(2048)
def names_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that ``code``, and the code nested in it, looks up by name."""
    names = dict.fromkeys(code.co_names)
    for nested in _codes_in(code):
        names.update(dict.fromkeys(names_in(nested)))
    return tuple(names)


@functools.lru_cache(2048)
def names_bound_in(code: types.CodeType) -> frozenset[str]:
    """Return the names that ``code``, and the code nested in it, binds as globals."""
    return _names_of(code, _STORE_GLOBAL).union(*map(names_bound_in, _codes_in(code)))


@functools.lru_cache(2048)
def cells_bound_in(code: types.CodeType) -> frozenset[str]:
    """Return the names that ``code``, and the code nested in it, binds in the functions around it (``nonlocal``)."""
    bound = _names_of(code, _STORE_DEREF).union(*map(cells_bound_in, _codes_in(code)))
    return bound.intersection(code.co_freevars)


def _names_of(code: types.CodeType, operation: int) -> frozenset[str]:
    if operation not in code.co_code[::2]:
        return frozenset()
    import dis  # noqa: PLC0415 - few functions need it

    return frozenset(step.argval for step in dis.get_instructions(code) if step.opcode == operation)


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, types.CodeType))


def globals_bound_by(*items: Any) -> tuple[str, ...]:
    """Return the globals of ``__main__`` that calls of the items may bind, as far as code tells.

    What is bound by other means (``globals()``, ``setattr``), or through objects that only data leads to, is not seen.
    """
    namespace = main_namespace()
    bound: set[str] = set()
    seen: set[types.FunctionType] = set()
    left = list(items)
    while left:
        for function in functions_in(left.pop()):
            if function.__globals__ is namespace and function not in seen:
                seen.add(function)
                bound |= names_bound_in(function.__code__)
                left += [namespace[name] for name in names_in(function.__code__) if name in namespace]
    return tuple(bound)
