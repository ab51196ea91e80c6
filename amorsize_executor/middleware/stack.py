"""The order of the layers around a call, in one place.

    checkpoint ─► dead letters ─► retry ─► circuit breaker ─► rate limit ─► timeout ─► worker

Checkpoint and dead letters see only how a call ended for good. Retry stands outside the breaker, so that the breaker
admits and counts attempts, and outside the rate limit, so that each attempt takes a token. The timeout is the worker's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from amorsize_executor.errors import InvalidParameterTypeError
from amorsize_executor.middleware.base import Middleware

ORDER = ("checkpoint", "dead_letters", "retry", "circuit_breaker", "rate_limit", "timeout")
"""Layers that have a place, outermost first; each lives in the module of its name."""

_PACKAGE = __name__.rpartition(".")[0]

_STORES = {
    "amorsize_executor.storage.dead_letter": "dead_letters",
    "amorsize_executor.storage.dead_letter_queue": "dead_letters",
}
"""Where the policies and objects of a place live that have a module apart from its layer."""

Layer = tuple[str | None, Middleware]
"""A layer with its place in ``ORDER``; None for a user's own."""


def kind_of(value: object) -> str | None:
    """Return the place in ``ORDER`` of a policy, a layer or another object of one of our modules; None for others."""
    for kind in type(value).__mro__:
        package, _dot, module = kind.__module__.rpartition(".")
        if package == _PACKAGE and module in ORDER:
            return module
        if kind.__module__ in _STORES:
            return _STORES[kind.__module__]
    return None


def layer_of(kind: str, value: object) -> Layer:
    """Return the layer for what a user gave for the place ``kind``.

    Raises:
        InvalidParameterTypeError: It is nothing that this place takes.
    """
    layer: Middleware = import_module(f"{_PACKAGE}.{kind}").layer_of(value)
    return kind, layer


def arrange(values: Mapping[str, object]) -> tuple[Layer, ...]:
    """Return the layers of what was given by place, in canonical order; None is left out."""
    return tuple(layer_of(kind, values[kind]) for kind in ORDER if values.get(kind) is not None)


def take_as_given(middleware: Iterable[object]) -> tuple[Layer, ...]:
    """Return the layers of a list, in its own order; it may hold policies and a user's own layers.

    Raises:
        InvalidParameterTypeError: It holds something else.
    """
    if not isinstance(middleware, Iterable):
        raise InvalidParameterTypeError("middleware", middleware, "must be an iterable of policies and layers, or None")
    layers: list[Layer] = []
    for value in middleware:
        kind = kind_of(value)
        if isinstance(value, Middleware):
            layers.append((kind, value))
        elif kind is not None:
            layers.append(layer_of(kind, value))
        else:
            rule = "must hold policies, or objects of classes derived from Middleware"
            raise InvalidParameterTypeError("middleware", value, rule)
    return tuple(layers)


def overlay(layers: Iterable[Layer], instead: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Return the layers with others in some places, so that none of a kind stand around each other.

    Args:
        layers: What there is, outermost first.
        instead: Layers by place; None for none there. Where the place is empty, the layer goes before the first
            one that has a later place, or innermost.
    """
    result = list(layers)
    for kind in ORDER:
        if kind not in instead:
            continue
        where = [index for index, layer in enumerate(result) if layer[0] == kind]
        later = ORDER[ORDER.index(kind) + 1 :]
        place = next((index for index, layer in enumerate(result) if layer[0] in later), len(result))
        for index in reversed(where):
            place = index
            del result[index]
        if instead[kind] is not None:
            result.insert(place, (kind, instead[kind]))
    return tuple(result)
