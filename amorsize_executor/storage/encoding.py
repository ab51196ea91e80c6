"""Values as bytes and as JSON: pickle for what comes back to the same program, JSON for what people read.

JSON alone would change what it holds: tuples become lists, integers as keys become text, NaN is no JSON at all. Here
such values are objects with one key that starts with ``$`` and names their type, so that what is read equals what was
written. What JSON cannot hold in any form is a pickle beside its repr.
"""

from __future__ import annotations

import base64
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amorsize_executor.errors import AmorsizeError

_SHOWN = 200  # characters of a repr
_LONG_BITS = 4096  # Python refuses to write much longer integers in decimal


class NotJsonError(AmorsizeError, TypeError):
    """JSON cannot hold a value of this type."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(f"JSON cannot hold a value of type {kind}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind,)


class PickleRefusedError(AmorsizeError, ValueError):
    """A pickle was found where none may be read: it could run any code."""


@dataclass(frozen=True)
class Unrestorable:
    """Stands for a value that cannot be had here: it did not pickle, or its class is not to be found.

    Attributes:
        shown: Its repr.
        pickled: Its pickle in base64, for where it can be had; None where there is none.
    """

    shown: str
    pickled: str | None = None


def show(value: object) -> str:
    """Return a repr of at most 200 characters; never raises."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001 - a broken __repr__ must not hide the value
        text = f"<{type(value).__qualname__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def to_pickle(value: object) -> bytes:
    """Pickle a value; by value what pickle refuses.

    Raises:
        Exception: What the value's own reduction raises.
    """
    try:
        return pickle.dumps(value, 5)
    except Exception:  # noqa: BLE001 - any reason to refuse is a reason to try by value, which raises its own
        import cloudpickle  # noqa: PLC0415 - only what is local or of a lambda needs it

        return bytes(cloudpickle.dumps(value, 5))


from_pickle = pickle.loads


def unpickle_or_stand_in(data: bytes, shown: str) -> Any:
    """Return what a pickle of ours holds, or an ``Unrestorable`` where it does not unpickle here."""
    try:
        return from_pickle(data)
    except Exception:  # noqa: BLE001 - a class that is gone must not hide what else there is
        return Unrestorable(shown, base64.b64encode(data).decode("ascii"))


def is_whole(value: object) -> bool:
    """Tell whether no part of what ``from_json`` returned is ``Unrestorable``."""
    if isinstance(value, dict):
        return all(map(is_whole, value)) and all(map(is_whole, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(is_whole, value))
    return not isinstance(value, Unrestorable)


def to_json(value: object, *, indent: int | None = None, pickles: bool = False) -> str:
    """Return a value as JSON that ``from_json`` turns into an equal one.

    Args:
        value: The value.
        indent: As in ``json.dumps``.
        pickles: Keep as pickle, beside its repr, what JSON cannot hold.

    Raises:
        NotJsonError: ``pickles`` is false, and JSON cannot hold a part of the value.
    """
    try:
        form = _form(value, pickles=pickles)
    except RecursionError as error:
        if not pickles:
            raise NotJsonError(type(value).__qualname__) from error
        form = _pickled(value)
    return json.dumps(form, indent=indent, allow_nan=False)


def from_json(text: str | bytes, *, pickles: bool = False) -> Any:
    """Return what ``to_json`` was given.

    Raises:
        PickleRefusedError: ``pickles`` is false and there is one.
        ValueError: It is no such JSON.
    """
    try:
        return _value(json.loads(text), pickles=pickles)
    except (TypeError, KeyError, RecursionError) as error:
        message = f"is no JSON of ours: {error}"
        raise ValueError(message) from error


def _form(value: Any, *, pickles: bool) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    if kind is list:
        return [_form(item, pickles=pickles) for item in value]
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]: [_form(item, pickles=pickles) for item in value]}
    if kind is dict:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: _form(item, pickles=pickles) for key, item in value.items()}
        return {"$dict": [[_form(part, pickles=pickles) for part in pair] for pair in value.items()]}
    if pickles or kind is Unrestorable:
        return _pickled(value)
    raise NotJsonError(kind.__qualname__)


def _pickled(value: object) -> dict[str, str]:
    if isinstance(value, Unrestorable):
        return {"$repr": value.shown} if value.pickled is None else {"$pickle": value.pickled, "repr": value.shown}
    try:
        data = to_pickle(value)
    except Exception:  # noqa: BLE001 - for whatever reason: then there is its repr
        return {"$repr": show(value)}
    return {"$pickle": base64.b64encode(data).decode("ascii"), "repr": show(value)}


def _value(form: Any, *, pickles: bool) -> Any:
    if isinstance(form, list):
        return [_value(item, pickles=pickles) for item in form]
    if not isinstance(form, dict):
        return form
    mark = next((key for key in form if key.startswith("$")), None)
    if mark is None:
        return {key: _value(item, pickles=pickles) for key, item in form.items()}
    content = form[mark]
    if mark == "$pickle":
        if not pickles:
            message = f"a pickle of {form.get('repr', 'something')} is not read from here"
            raise PickleRefusedError(message)
        return unpickle_or_stand_in(base64.b64decode(content, validate=True), str(form.get("repr")))
    if mark not in _READERS:
        message = f"there is no form {mark!r}"
        raise ValueError(message)
    return _READERS[mark](_value(content, pickles=pickles))


def _itself(value: Any) -> Any:
    return value


_SCALARS: dict[type, Callable[[Any], Any]] = {
    type(None): _itself,
    bool: _itself,
    str: _itself,
    int: lambda value: value if value.bit_length() < _LONG_BITS else {"$int": hex(value)},
    float: lambda value: value if math.isfinite(value) else {"$float": repr(value)},
    bytes: lambda value: {"$bytes": base64.b64encode(value).decode("ascii")},
}
_SEQUENCES: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}
_READERS: dict[str, Callable[[Any], Any]] = {
    "$int": lambda digits: int(digits, 16),
    "$float": float,
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$repr": Unrestorable,
}
