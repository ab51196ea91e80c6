"""What a worker knows of ``__main__``.

A worker that was forked from this process has this ``__main__``, as it was at the fork. What has not been
bound anew since then can travel by name, like anything else of a module. All the rest of ``__main__`` must
travel by value: ``pickle`` would send a name that means nothing, or something older, on the other side.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from amorsize_executor.wire.bindings import MISSING, deref, helped, hold
from amorsize_executor.wire.reach import (
    FUNCTIONLESS,
    functions_in,
    is_dispatcher,
    is_exactly,
    main_namespace,
    name_in_main,
    names_in,
)

_MOST_VOUCHED = 256


class _Voucher(NamedTuple):
    """By what a function holds: the globals of ``__main__`` that it can reach, and the code of its functions."""

    item: Any
    name: str
    bindings: tuple[tuple[str, Any], ...]
    codes: tuple[tuple[types.FunctionType, types.CodeType], ...]

    def is_valid(self) -> bool:
        """Tell whether nothing of it was bound anew."""
        namespace = main_namespace()
        return (
            helped.is_quiet
            and all(namespace.get(name, MISSING) is value for name, value in self.bindings)
            and all(function.__code__ is code for function, code in self.codes)
        )


class MainSnapshot:
    """The bindings of ``__main__`` at the moment when the workers' ancestor was forked.

    Taken in the parent just before the fork, so both sides hold the same one. Values that can be referred to
    weakly are, so that the snapshot keeps no large array alive; functions, classes and the rest are held.
    """

    def __init__(self) -> None:
        bindings = helped.all()
        self._bindings = {name: hold(value) for name, value in bindings.items()}
        self._registries = {
            function: dict(function.registry)  # type: ignore[attr-defined]
            for function in bindings.values()
            if isinstance(function, types.FunctionType) and is_dispatcher(function)
        }

        self._vouched: dict[int, _Voucher] = {}

    def resolve(self, qualname: str) -> Any:
        """Return the object that ``qualname`` meant at the fork.

        Raises:
            AttributeError: There was none.
        """
        first, *rest = qualname.split(".")
        found = self._at_fork(first)
        if found is MISSING:
            message = f"__main__ had no attribute {first!r} when the workers were started"
            raise AttributeError(message)
        for name in rest:
            found = getattr(found, name)
        return found

    def has(self, item: Any, name: str) -> bool:
        """Tell whether ``item`` had its name at the fork."""
        try:
            return self.resolve(name) is item
        except AttributeError:
            return False

    def is_bound_as_before(self, name: str) -> bool:
        """Tell whether the global ``name`` of ``__main__`` is what it was at the fork."""
        now = helped.get(name)
        return now is not MISSING and now is self._at_fork(name)

    def holds(self, item: Any, name: str | None) -> bool:
        """Tell whether ``item``, by its name, and every global that its code names are what they were at the fork."""
        known = self._vouched.get(id(item))
        if known is not None and known.item is item and known.name == name and known.is_valid():
            return True
        holds = self._holds(item, name, set())
        if holds and name is not None and "." not in name:
            self._vouch(item, name)
        return holds

    def _vouch(self, item: Any, name: str) -> None:
        """Note by what ``item`` holds, where that is soon seen: functions without closures, and plain globals."""
        bindings = {name: item}
        codes: dict[types.FunctionType, types.CodeType] = {}
        left = [item]
        while left:
            function = left.pop()
            if type(function) is not types.FunctionType or function.__closure__ or is_dispatcher(function):
                return
            if function not in codes:
                codes[function] = function.__code__
                bindings.update(globals_of(function))
                left += [value for _name, value in globals_of(function) if not is_exactly(value, FUNCTIONLESS)]
        if len(self._vouched) >= _MOST_VOUCHED:
            self._vouched.clear()
        self._vouched[id(item)] = _Voucher(item, name, tuple(bindings.items()), tuple(codes.items()))

    def _holds(self, item: Any, name: str | None, seen: set[int]) -> bool:
        if id(item) in seen:
            return True
        seen.add(id(item))
        if name is not None and not (self.has(item, name) and self.is_bound_as_before(name.partition(".")[0])):
            return False
        return all(self._code_holds(function, seen) for function in functions_in(item))

    def _code_holds(self, function: types.FunctionType, seen: set[int]) -> bool:
        registry = self._registries.get(function) if self._registries else None
        if registry is not None and registry != function.registry:  # type: ignore[attr-defined]
            return False
        return all(
            self.is_bound_as_before(name)
            and (is_exactly(value, FUNCTIONLESS) or self._holds(value, name_in_main(value), seen))
            for name, value in globals_of(function)
        )

    def _at_fork(self, name: str) -> Any:
        return deref(self._bindings.get(name, MISSING), MISSING)


def globals_of(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the (name, value) pairs of ``__main__`` that the code of ``function`` may name."""
    if function.__globals__ is main_namespace():
        for name in names_in(function.__code__):
            value = helped.get(name)
            if value is not MISSING:
                yield name, value


# --- The worker's side: functions of __main__ that came by value live in the worker's own __main__. ---

_adopted: dict[str, Any] = {}


def _nothing(_name: str) -> Any:
    return MISSING


_inherited: Callable[[str], Any] = _nothing


def inherit(snapshot: MainSnapshot | None) -> None:
    """Say which bindings this process had from its ancestor. Called once in a worker, before any call."""
    global _inherited  # noqa: PLW0603
    helped.undo()
    if snapshot is not None:
        _inherited = snapshot._at_fork  # noqa: SLF001


def make_main_function(code: types.CodeType, name: str, closure: tuple[Any, ...] | None) -> types.FunctionType:
    """Build a function whose globals are this process's ``__main__``, so that an initializer's globals reach it."""
    return types.FunctionType(code, main_namespace(), name, None, closure)


def adopt_globals(bindings: dict[str, Any]) -> None:
    """Bind the globals that came with a function, except those that this process has bound anew itself.

    So ``global model`` in an initializer, or a counter in a function, is kept; a function that was redefined
    in the parent arrives in its new form.
    """
    namespace = main_namespace()
    for name, value in bindings.items():
        current = namespace.get(name, MISSING)
        if current is MISSING or current is _adopted.get(name, MISSING) or current is _inherited(name):
            namespace[name] = _adopted[name] = value


def set_main_function_state(function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Fill a function made by ``make_main_function``."""
    attributes, slots = state
    adopt_globals(slots.pop("__globals__"))
    cells = slots.pop("__closure__")
    for cell, source in zip(function.__closure__ or (), cells or ()):
        try:
            cell.cell_contents = source.cell_contents
        except ValueError:  # an empty cell stays empty
            continue
    slots.pop("_cloudpickle_submodules", None)
    function.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(function, name, value)
