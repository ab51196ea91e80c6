"""What calls carry: their priority, their key, and the layers of middleware that they pass."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from amorsize_executor.backends.base import Backend
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError, UnsupportedOptionError

if TYPE_CHECKING:
    from amorsize_executor.engine.pipeline import Pipeline
    from amorsize_executor.middleware.stack import Layer
    from amorsize_executor.wire.functions import Function


class Inherit:
    """Stands for what was not given, since None says that there is to be no such layer."""

    def __repr__(self) -> str:
        return "INHERIT"


INHERIT: Any = Inherit()
_MOST_KEPT = 256  # pipelines of decorated functions


class Options:
    """The options of an executor, or of a view of it.

    Attributes:
        priority: Higher runs earlier.
        key: What the user names calls by; None for nothing.
        layers: Around every call, outermost first.
        fixed: Places in the order that calls have a say over, so that a decorated function has not.
        is_plain: Whether calls pass no layers of the executor's, and have no key.
    """

    def __init__(
        self,
        priority: int = 0,
        key: Any = None,
        layers: tuple[Layer, ...] = (),
        fixed: frozenset[str] = frozenset(),
    ) -> None:
        self.priority = priority
        self.key = key
        self.layers = layers
        self.fixed = fixed
        self.is_plain = not layers and key is None
        self._pipelines: dict[Hashable, Pipeline] = {}
        self._warned: set[Hashable] = set()

    def __repr__(self) -> str:
        named = [f"priority={self.priority}", *([] if self.key is None else [f"key={self.key!r}"])]
        return ", ".join([*named, *(f"{kind}={layer!r}" for kind, layer in self.layers if kind in self.fixed)])

    def but_with(self, priority: Any, key: Any, places: Mapping[str, Any], backend: Backend) -> Options:
        """Return these options with others in their place; ``INHERIT`` leaves one as it is."""
        if priority is not INHERIT and (isinstance(priority, bool) or not isinstance(priority, int)):
            raise InvalidParameterTypeError("priority", priority, "must be an integer; higher runs earlier")
        given = {kind: value for kind, value in places.items() if value is not INHERIT}
        layers = self.layers
        if given:
            from amorsize_executor.middleware import stack  # noqa: PLC0415 - most calls have none

            wanted = {kind: None if value is None else stack.layer_of(kind, value)[1] for kind, value in given.items()}
            layers = stack.overlay(layers, wanted)
        check_abilities(layers, backend)
        return Options(
            self.priority if priority is INHERIT else priority,
            self.key if key is INHERIT else key,
            layers,
            self.fixed | given.keys(),
        )

    def pipeline_for(self, function: Function, backend: Backend, stacklevel: int) -> Pipeline | None:
        """Return the layers that a function's calls pass: these, and where they leave a place open, its own.

        Frame ``stacklevel`` above is the user's, as ``warnings.warn`` counts them.
        """
        if function.has_inner_guards:
            self._warn(function, backend, stacklevel + 1)
        if not (self.layers or function.guards):
            return None
        found = self._pipelines.get(function.guards)
        if found is None:
            from amorsize_executor.engine.pipeline import Pipeline  # noqa: PLC0415 - most calls have none
            from amorsize_executor.middleware import stack  # noqa: PLC0415

            own = {stack.kind_of(guard): guard for guard in function.guards}
            lifted = {kind: guard for kind, guard in own.items() if kind is not None and kind not in self.fixed}
            layers = stack.overlay(self.layers, lifted)
            if len(self._pipelines) >= _MOST_KEPT:
                self._pipelines.clear()
            found = self._pipelines[function.guards] = Pipeline([layer for _kind, layer in layers])
        return found if found.layers else None

    def _warn(self, function: Function, backend: Backend, stacklevel: int) -> None:
        """Warn, once for a function, of guards that cannot be lifted."""
        if not backend.capabilities.isolates or function.key in self._warned:
            return
        self._warned.add(function.key)
        message = (
            f"{function.given!r} has a retry, circuit breaker or rate limit below another decorator, so each worker "
            "process has one of its own; make it the outermost decorator, or give it to the executor"
        )
        warnings.warn(message, stacklevel=stacklevel)


def choose_layers(
    middleware: Iterable[object] | None, places: Mapping[str, Any], backend: Backend
) -> tuple[Layer, ...]:
    """Return an executor's layers: a list's in its own order, or those given by place in the canonical order.

    Raises:
        InvalidParameterError: Both were given.
        InvalidParameterTypeError: Something is neither a policy nor a layer.
        UnsupportedOptionError: There is a timeout, and the backend cannot stop a call.
    """
    given = {name: value for name, value in places.items() if value is not None}
    if not given and middleware is None:
        return ()
    from amorsize_executor.middleware import stack  # noqa: PLC0415 - most executors have none

    if middleware is None:
        layers = stack.arrange(given)
    elif given:
        names = ", ".join(f"{name}=" for name in given)
        raise InvalidParameterError("middleware", middleware, f"gives the whole order: put {names} into it as policies")
    else:
        layers = stack.take_as_given(middleware)
    check_abilities(layers, backend)
    return layers


def check_abilities(layers: Iterable[Layer], backend: Backend) -> None:
    """Raise where a layer needs what the backend cannot do."""
    if not backend.capabilities.can_kill and any(kind == "timeout" for kind, _layer in layers):
        raise UnsupportedOptionError("timeout", backend.name, "stops a call that runs")
