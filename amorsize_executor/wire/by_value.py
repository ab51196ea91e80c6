"""How goes by value what ``pickle`` and cloudpickle would send as a name, or not at all.

Caches of ``functools.lru_cache`` go without what they hold. Where an object has an identity that code may rely on
(a cache, a sentinel, a ``NewType``), a token goes along: both sides know by it what they have already.
"""

from __future__ import annotations

import copyreg
import functools
import os
import types
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from amorsize_executor.wire.bindings import deref, hold
from amorsize_executor.wire.decorated import Decorated
from amorsize_executor.wire.reach import CACHED, NAMED, is_named

_NO_FILE = "<dynamic-code>"
"""What cloudpickle puts in a file name's place, from 3.1.2 on."""

_by_token: dict[str, Any] = {}
_tokens: dict[int, tuple[Any, str, bool]] = {}
"""By identity: the object, its token, and whether that was given here."""
_own: weakref.WeakKeyDictionary[type, int] = weakref.WeakKeyDictionary()
"""Classes that were pickled here and came from nowhere else, with the process that "here" is."""
_foreign: weakref.WeakSet[type] = weakref.WeakSet()


def reduce_other(item: Any, name: str | None, table: Mapping[type, Any], *, shares_globals: bool) -> Any:
    """Return what rebuilds an object that is no function and no class, or NotImplemented where pickle does well.

    Args:
        item: The object.
        name: What it is called in ``__main__``; None if it is not of ``__main__``.
        table: Cloudpickle's reducers.
        shares_globals: Whether functions on the other side live in its ``__main__``, so that one which is there
            already sees what arrives there later.
    """
    if type(item) is not types.CodeType:
        return _reduce_named(item, name, shares_globals)
    make, arguments = table[types.CodeType](item)  # which file it is from, tracebacks and warnings have to know
    return make, tuple(item.co_filename if type(each) is str and each == _NO_FILE else each for each in arguments)


def _reduce_named(item: Any, name: str | None, shares_globals: bool) -> Any:  # noqa: FBT001
    if isinstance(item, CACHED):
        return NotImplemented if name is None and is_named(item) else _reduce_cache(item, name, shares_globals)
    if isinstance(item, Decorated):
        return NotImplemented if name is None else item.by_value()
    if type(item) is functools.cached_property:  # holds a lock, before Python 3.12
        return functools.cached_property, (item.func,), {"attrname": item.attrname, "__doc__": item.__doc__}
    if type(item) is functools.singledispatchmethod:  # holds weak references, from Python 3.13 on
        return functools.singledispatchmethod, (item.func,), {"dispatcher": item.dispatcher}
    if name is None or type(item).__name__ == "TypeVar":  # which cloudpickle knows
        return NotImplemented
    return known_or_made, (token_of(item), *_making_of(item)), getattr(item, "__dict__", None) or None


def _reduce_cache(cache: Any, name: str | None, shares_globals: bool) -> Any:  # noqa: FBT001
    lasts = name is not None and "<locals>" not in name and shares_globals
    token = token_of(cache) if lasts else _token_from_elsewhere(cache)
    how = cache.cache_parameters()
    made = {"__wrapped__", "cache_parameters"}
    attributes = {key: value for key, value in vars(cache).items() if key not in made}
    making = (make_cached, cache.__wrapped__, how["maxsize"], how["typed"])
    return known_or_made, (token, *making), attributes


def _making_of(item: Any) -> tuple[Any, ...]:
    kind = type(item)
    if not isinstance(item, NAMED):
        return copyreg.__newobj__, kind  # type: ignore[attr-defined]
    if kind.__name__ == "NewType":
        return make_in_main, kind, item.__name__, item.__supertype__
    if kind.__name__ == "TypeAliasType":
        return make_in_main, kind, item.__name__, item.__value__, item.__type_params__
    return make_in_main, kind, item.__name__


def make_in_main(kind: type, name: str, *args: Any) -> Any:
    """Build a thing of ``typing``; it takes its module from the globals of the function that calls it."""
    code = (_call_with_parameters if len(args) > 1 else _call).__code__
    return types.FunctionType(code, {"__name__": "__main__"})(kind, name, *args)


def _call(kind: Callable[..., Any], *args: Any) -> Any:
    return kind(*args)


def _call_with_parameters(kind: Callable[..., Any], name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return kind(name, value, type_params=parameters)


def make_cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:  # noqa: FBT001
    """Build an empty cache around a function."""
    return functools.lru_cache(maxsize, typed)(function)


def reduce_dispatcher(function: Any) -> Any:
    """Return what rebuilds a function of ``functools.singledispatch``."""
    made = {"register", "dispatch", "registry", "_clear_cache", "__wrapped__"}
    attributes = {key: value for key, value in vars(function).items() if key not in made}
    state = dict(function.registry), attributes
    return functools.singledispatch, (function.__wrapped__,), state, None, None, set_dispatcher_state


def set_dispatcher_state(dispatcher: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    """Register the implementations."""
    registry, attributes = state
    for kind, implementation in registry.items():
        dispatcher.register(kind, implementation)
    vars(dispatcher).update(attributes)


def reduce_class(kind: type, reduced: Any) -> Any:
    """Turn cloudpickle's reduction of a class into one that leaves the class alone where it comes from."""
    if kind not in _foreign:
        _own[kind] = os.getpid()
    return *reduced[:2], (reduced[5], reduced[2]), None, None, set_class_state


def set_class_state(kind: type, state: tuple[Callable[[type, Any], Any], Any]) -> None:
    """Fill a class that came from another process. One that only comes home is as it is."""
    if _own.get(kind) == os.getpid():
        return
    _foreign.add(kind)
    fill, content = state
    fill(kind, content)


def token_of(item: Any) -> str:
    """Return what identifies an object in this process and in those that it was sent to."""
    entry = _tokens.get(id(item))
    if entry is None or deref(entry[0]) is not item:
        return _remember(item, uuid.uuid4().hex, is_own=True)
    return entry[1]


def _token_from_elsewhere(item: Any) -> str | None:
    """Return the token that an object came with, or None."""
    held, token, is_own = _tokens.get(id(item), (None, None, True))
    return None if is_own or deref(held) is not item else token


def known_or_made(token: str | None, make: Callable[..., Any], *args: Any) -> Any:
    """Return the object that ``token`` identifies; where there is none, ``make(*args)`` from now on."""
    if token is None:
        return make(*args)
    known = deref(_by_token.get(token))
    if known is None:
        known = make(*args)
        _remember(known, token, is_own=False)
    return known


def _remember(item: Any, token: str, *, is_own: bool) -> str:
    key = id(item)

    def forget(reference: Any) -> None:
        if _by_token.get(token) is reference:
            del _by_token[token]
        if _tokens.get(key, (None,))[0] is reference:
            del _tokens[key]

    held = hold(item, forget)
    _by_token[token] = held
    _tokens[key] = held, token, is_own
    return token
