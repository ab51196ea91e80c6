"""Functions with guards around them, such as a retry: how they are called, pickled, and freed of their guards.

A guard works wherever its function is called. In an executor the outermost guards are lifted into the parent, and
what travels is the function without them; ``Stripped`` sends it by the name that leads to the decorated one.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, Protocol

from amorsize_executor.parameters import check_plain_callable

DEPTH = 32  # decorators that are looked through; some objects have every attribute, without end


class Guard(Protocol):
    """What stands around a function."""

    def call(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return what ``func(*args, **kwargs)`` returns, in the guard's way."""


class Decorated:
    """A function with a guard around it. It pickles by its own name, or by value where that does not lead to it.

    Attributes:
        guard: The guard.
    """

    __wrapped__: Callable[..., Any]
    __qualname__: str

    def __init__(self, function: Callable[..., Any], guard: Guard) -> None:
        functools.update_wrapper(self, function)
        self.guard = guard

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function in the guard's way."""
        return self.guard.call(self.__wrapped__, *args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __reduce__(self) -> str | tuple[Any, ...]:
        return self.__qualname__ if leads_to(self) else self.by_value()

    def by_value(self) -> tuple[Any, ...]:
        """Return the reduction that takes function and guard along."""
        return Decorated, (self.__wrapped__, self.guard)

    def __repr__(self) -> str:
        return f"<{getattr(self, '__qualname__', self.__wrapped__)!s} with {self.guard!r}>"


class Stripped:
    """Pickles as a decorated callable and unpickles as the bare one."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return strip, (self._function,)


def decorate(function: Callable[..., Any], guard: Guard) -> Decorated:
    """Return a function with a guard around it.

    Raises:
        TypeError: It cannot be called, or is a coroutine function.
    """
    check_plain_callable("func", function)
    return Decorated(function, guard)


def leads_to(item: Any) -> bool:
    """Tell whether an object's own name leads to it."""
    found: Any = sys.modules.get(getattr(item, "__module__", None) or "")
    qualname = getattr(item, "__qualname__", None)
    if not isinstance(qualname, str):
        return False
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found is item


def find_decorated(function: Callable[..., Any]) -> Decorated | None:
    """Return the decorated function at the outside of a callable, through partials and bound methods."""
    seen = _below_partials(function)
    if isinstance(seen, types.MethodType):
        seen = seen.__func__
    return seen if isinstance(seen, Decorated) else None


def is_bound(function: Callable[..., Any]) -> bool:
    """Tell whether a callable is a bound method, or a partial of one."""
    return isinstance(_below_partials(function), types.MethodType)


def _below_partials(function: Any) -> Any:
    while type(function) is functools.partial:
        function = function.func
    return function


def guards_of(function: Callable[..., Any]) -> tuple[Guard, ...]:
    """Return the outermost guards of a callable, outermost first, one of a kind at most."""
    guards: list[Guard] = []
    inner: Any = find_decorated(function)
    while isinstance(inner, Decorated) and type(inner.guard) not in map(type, guards):
        guards.append(inner.guard)
        inner = inner.__wrapped__
    return tuple(guards)


def strip(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable without the guards that ``guards_of`` tells of."""
    if find_decorated(function) is None:
        return function
    if isinstance(function, functools.partial):
        return functools.partial(strip(function.func), *function.args, **function.keywords)
    if isinstance(function, types.MethodType):
        return types.MethodType(strip(function.__func__), function.__self__)
    inner: Any = function
    for _ in guards_of(function):
        inner = inner.__wrapped__
    return inner  # type: ignore[no-any-return]


def has_inner_guards(bare: Callable[..., Any]) -> bool:
    """Tell whether guards are left inside a callable, below decorators that are not ours."""
    seen: Any = bare
    for _ in range(DEPTH):
        if isinstance(seen, Decorated):
            return True
        seen = getattr(seen, "__wrapped__", None) or getattr(seen, "__func__", None) or getattr(seen, "func", None)
    return False
