"""Functions are pickled once and shipped once per worker.

A function of a module goes by its name. A lambda, a closure or a function of ``__main__`` that is not what it
was at the fork goes by value. A callable with state (partial, bound method, instance, closure) is a snapshot; below
``FRESH_BYTES`` each call gets its own copy, as in ``ProcessPoolExecutor``, above it each worker keeps one.
"""

from __future__ import annotations

import itertools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from amorsize_executor.wire.codec import PLAIN, Codec, are_plain
from amorsize_executor.wire.decorated import (
    DEPTH,
    Decorated,
    Stripped,
    find_decorated,
    guards_of,
    has_inner_guards,
    is_bound,
    strip,
)
from amorsize_executor.wire.reach import CACHED, NAMED, globals_bound_by, is_exactly, is_named, name_in_main
from amorsize_executor.wire.state import has_state
from amorsize_executor.wire.traceless import are_arrays, are_small, leaves_no_trace, lets_go
from amorsize_executor.wire.weight import weigh

FRESH_BYTES = 8192
"""Unpickling so much takes 20 us; generators of random numbers, which calls change, are smaller."""
TABLE_SIZE = 512
"""Functions that the parent remembers; a worker keeps as many, if they are small."""
KEPT_BYTES = 64 << 20
"""A worker keeps functions of at most so many pickled bytes, besides those of its present chunk."""

ONE, STAR, FULL = 0, 1, 2
"""How an item becomes a call: ``f(item)``, ``f(*item)``, ``f(*item[0], **item[1])``."""


class Function:
    """A callable on its way to the workers.

    Attributes:
        given: The user's object.
        callable: The same without the guards at its outside, which the parent keeps.
        guards: These, outermost first.
        has_inner_guards: Whether it has guards below other decorators, which stay with it.
        is_guarded: Whether it has any guards, outside or below other decorators.
        number: Its name on the wire, unique in this process.
        key: What measurements are kept under: the code, not the instance.
        weight: About how many bytes it is on the wire.
        overlaps: Whether threads were seen to run its calls at the same time; None before.
    """

    __slots__ = (
        "__weakref__",
        "_binds",
        "_changes_nothing",
        "_codec",
        "_has_state",
        "_image",
        "_is_snapshot",
        "_leaves_no_trace",
        "_leaves_no_trace_on_arrays",
        "callable",
        "given",
        "guards",
        "has_inner_guards",
        "is_guarded",
        "key",
        "number",
        "overlaps",
        "weight",
    )

    def __init__(self, function: Callable[..., Any], number: int, image: bytes | None, codec: Codec | None) -> None:
        self.given = function
        self.guards = guards_of(function)
        self.callable = strip(function)
        self.has_inner_guards = has_inner_guards(self.callable)
        self.is_guarded = bool(self.guards) or self.has_inner_guards
        self.number = number
        self.key = measured_under(self.callable)
        self.weight = weigh(self.callable) if image is None else len(image)
        self.overlaps: bool | None = None
        self._changes_nothing: bool | None = None
        self._image = image
        self._codec = codec
        self._is_snapshot = image is not None
        self._has_state: bool | None = None
        self._binds: tuple[str, ...] | None = None
        self._leaves_no_trace: bool | None = None
        self._leaves_no_trace_on_arrays: bool | None = None

    def binds(self, item: Any, style: int) -> tuple[str, ...]:
        """Return the globals of ``__main__`` that calls like that with ``item`` may bind."""
        if self._binds is None:
            self._binds = globals_bound_by(self.callable)
        kinds = [kind for kind in map(type, arguments_of(item, style)) if kind.__module__ == "__main__"]
        return (*self._binds, *globals_bound_by(*kinds)) if kinds else self._binds

    def look_again(self) -> None:
        """Forget whether calls leave traces: what names of its code mean may have changed."""
        self._leaves_no_trace = self._leaves_no_trace_on_arrays = self._changes_nothing = None

    @property
    def leaves_no_trace(self) -> bool:
        """Whether a call with plain values certainly leaves nothing behind."""
        if self._leaves_no_trace is None:
            self._leaves_no_trace = not self.is_guarded and leaves_no_trace(self.callable)
        return self._leaves_no_trace

    def leaves_no_trace_on(self, items: list[Any]) -> bool:
        """Tell whether calls with these items certainly leave nothing behind, and take no more than a few passes."""
        if not self.leaves_no_trace:
            return False
        return are_plain(items) or (are_arrays(items) and are_small(items) and self._is_for_arrays)

    def may_be_shared(self, items: list[Any]) -> bool:
        """Tell whether threads may run calls with these items at the same time, and it may be of use."""
        if self.overlaps is False or not items or not self.leaves_no_trace:
            return False
        is_plain = is_exactly(items[0], PLAIN)
        if is_plain and not lets_go(self.callable):
            return False
        if self._changes_nothing is None:
            from amorsize_executor.wire import sharing  # noqa: PLC0415 - takes milliseconds, and few functions need it

            self._changes_nothing = sharing.changes_nothing(self.callable)
        if not self._changes_nothing:
            return False
        return are_plain(items) if is_plain else are_arrays(items) and self._is_for_arrays

    @property
    def _is_for_arrays(self) -> bool:
        if self._leaves_no_trace_on_arrays is None:
            self._leaves_no_trace_on_arrays = leaves_no_trace(self.callable, on_arrays=True)
        return self._leaves_no_trace_on_arrays

    def image(self, codec: Codec) -> bytes:
        """Return the pickled callable; pickled at the first time of asking. Raises what pickling raises.

        An image is good for workers of one ancestry: others may not know what it leaves out. A snapshot is pickled for
        them as it was, whatever has become of the callable.
        """
        if self._image is None or self._codec is not codec:
            self._image, self._codec = self._pickled(codec), codec
        return self._image

    def _pickled(self, codec: Codec) -> bytes:
        if self._is_snapshot and self._codec is not None:
            return codec.dumps(self._codec.loads(self._image))
        return codec.dumps(travelling(self.given, codec))

    @property
    def snapshot(self) -> bytes | None:
        """The pickled callable, if it was pickled already."""
        return self._image

    @property
    def is_fresh_per_call(self) -> bool:
        """Whether each call gets a copy of its own. Asked after ``image``."""
        if self._image is None or len(self._image) >= FRESH_BYTES:
            return False
        if self._has_state is None:
            self._has_state = has_state(self.callable)
        return self._has_state


class FunctionTable:
    """The parent's functions. Callers register in their own threads; dictionary operations are atomic.

    Args:
        codec: How to pickle; its ``goes_by_name`` says what of ``__main__`` needs no snapshot.
    """

    def __init__(self, codec: Callable[[], Codec]) -> None:
        self._codec = codec
        self._by_identity: OrderedDict[int, Function] = OrderedDict()
        self._by_digest: OrderedDict[bytes, int] = OrderedDict()
        self._latest: Callable[[], Function | None] = lambda: None  # the last snapshot that somebody still holds
        self._numbers = itertools.count(1)  # callers register in their own threads: this is atomic

    def register(self, function: Callable[..., Any], *, snapshot: bool) -> Function:
        """Return the record of ``function``; with ``snapshot``, state is frozen now instead of at shipping.

        Raises:
            Exception: What pickling the state raises; the caller turns it into the call's error.
        """
        known = self._by_identity.get(id(function))
        if known is not None and (known.given is function) and self._needs_no_snapshot(function):
            if not snapshot:
                known.look_again()
            return known
        if self._needs_no_snapshot(function):
            record = self._new(function)
            self._remember(self._by_identity, id(function), record)
            return record
        if not snapshot:
            return self._new(function)
        codec = self._codec()
        image = codec.dumps(travelling(function, codec))
        latest = self._latest()
        if latest is not None and latest.snapshot == image:  # most often: faster than a digest, and one copy for all
            number, image = latest.number, latest.snapshot
        else:
            number = self._number_of(image)
        record = Function(function, number, image, codec)
        self._latest = weakref.ref(record)
        return record

    def _number_of(self, image: bytes) -> int:
        """Return the number of the callables that pickle so."""
        from hashlib import blake2b  # noqa: PLC0415 - takes milliseconds, and most functions go by name

        digest = blake2b(image, digest_size=16).digest()
        number = self._by_digest.get(digest) or next(self._numbers)
        self._remember(self._by_digest, digest, number)
        return number

    def _needs_no_snapshot(self, function: Callable[..., Any]) -> bool:
        if isinstance(function, NAMED):
            return goes_by_name(function, self._codec())
        return isinstance(function, types.BuiltinFunctionType) and (
            function.__self__ is None or isinstance(function.__self__, types.ModuleType)
        )

    def _new(self, function: Callable[..., Any]) -> Function:
        return Function(function, next(self._numbers), None, None)

    @staticmethod
    def _remember(table: OrderedDict[Any, Any], key: Hashable, entry: object) -> None:
        table[key] = entry
        while len(table) > TABLE_SIZE:
            table.popitem(last=False)


def travelling(function: Callable[..., Any], codec: Codec) -> Any:
    """Return what is pickled for a callable, so that it arrives without the guards at its outside."""
    decorated = find_decorated(function)
    if decorated is None:
        return function
    return Stripped(function) if is_bound(function) or goes_by_name(decorated, codec) else strip(function)


def goes_by_name(function: Callable[..., Any], codec: Codec) -> bool:
    """Tell whether workers find a function, class, ... by its own name."""
    return codec.goes_by_name(function) if name_in_main(function) else is_named(function)


def innermost(function: Callable[..., Any]) -> Any:
    """Return what is under partials, bound methods and caches."""
    seen: Any = function
    for _ in range(DEPTH):
        inner = getattr(seen, "__wrapped__" if isinstance(seen, (CACHED, Decorated)) else "func", None)
        inner = inner or getattr(seen, "__func__", None)
        if inner is None or not callable(inner) or inner is seen:
            break
        seen = inner
    return seen


def measured_under(function: Callable[..., Any]) -> Hashable:
    """Return what tells functions apart for the tuner: the innermost one's code.

    Objects count as their type, together with their name if they have one, as NumPy's functions do.
    """
    seen = innermost(function)
    if isinstance(seen, types.FunctionType):
        return seen.__code__
    name = getattr(seen, "__qualname__", None) or getattr(seen, "__name__", None)
    if isinstance(seen, types.BuiltinFunctionType):
        return seen
    kind = seen if isinstance(seen, type) else type(seen)  # not as a key: a metaclass may have no hash
    if isinstance(name, str) and kind is not seen:
        return kind.__qualname__, name
    return kind.__module__, kind.__qualname__


class FunctionCache:
    """The worker's functions, by number. The parent says what to keep and what to drop."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._images: dict[int, tuple[bytes, bool]] = {}
        self._loaded: dict[int, Callable[..., Any]] = {}

    def store(self, number: int, image: bytes, *, fresh: bool) -> None:
        """Keep a function; it is unpickled when first called, so that its failure is that call's."""
        self._images[number] = image, fresh

    def drop(self, number: int) -> None:
        """Forget a function."""
        self._images.pop(number, None)
        self._loaded.pop(number, None)

    def invoker(self, number: int, style: int) -> Callable[[Any], Any]:
        """Return ``invoke(item)``, which calls the function. Raises what unpickling the function raises."""
        image, fresh = self._images[number]
        if fresh:
            load = self._codec.loads
            if style == ONE:
                return lambda item: load(image)(item)  # noqa: PLW0108 - a fresh copy for each call
            if style == STAR:
                return lambda item: load(image)(*item)
            return lambda item: load(image)(*item[0], **item[1])
        function = self._loaded.get(number)
        if function is None:
            function = self._loaded[number] = self._codec.loads(image)
            self._images[number] = b"", False
        return invoker_of(function, style)

    def safe_invoker(self, number: int, style: int) -> Callable[[Any], Any]:
        """Return ``invoke(item)``; where the function does not unpickle, one that raises why for every call."""
        try:
            return self.invoker(number, style)
        except BaseException as error:  # noqa: BLE001 - a function that does not unpickle fails its calls
            failure = error

            def refuse(_item: Any) -> Any:
                raise failure

            return refuse


def arguments_of(item: Any, style: int) -> tuple[Any, ...]:
    """Return the arguments that an item becomes, those by keyword last."""
    if style == ONE:
        return (item,)
    return item if style == STAR else (*item[0], *item[1].values())


def invoker_of(function: Callable[..., Any], style: int) -> Callable[[Any], Any]:
    """Return ``invoke(item)`` for a function at hand."""
    if style == ONE:
        return function
    if style == STAR:
        return lambda item: function(*item)
    return lambda item: function(*item[0], **item[1])
