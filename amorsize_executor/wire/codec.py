"""Objects to bytes and back: plain pickle first, by value where that is not enough.

``pickle`` is asked first, because cloudpickle costs ten times as much. Two things it cannot do: what it
refuses (lambdas, nested functions), and what it would wrongly send by name, namely ``__main__``.
"""

from __future__ import annotations

import io
import itertools
import pickle
import types
from collections.abc import Callable, Iterable
from typing import Any

from amorsize_executor.wire import main_module
from amorsize_executor.wire.bindings import MISSING, helped
from amorsize_executor.wire.main_module import MainSnapshot
from amorsize_executor.wire.reach import is_dispatcher, main_namespace, name_in_main, name_of_sentinel

PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None)))
"""Types whose pickles contain nothing of a user's, so that many travel in one pickle and none can fail."""

OUT_OF_BAND_BYTES = 16_384
"""Buffers of at least this size travel beside the pickle instead of inside it."""


class _NeedsValueError(Exception):
    """Something of ``__main__`` cannot go by name."""


def are_plain(items: Iterable[Any]) -> bool:
    """Tell whether all items are of exactly the builtin scalar types."""
    kinds = map(type, items)
    try:
        while some := list(itertools.islice(kinds, 4096)):  # in parts: memory that was used before costs much less
            # Most often they are of one type: a third faster than to look up each.
            if not (some[0] in PLAIN and some.count(some[0]) == len(some)) and not PLAIN.issuperset(some):
                return False
    except Exception:  # noqa: BLE001 - see ``is_exactly``
        return False
    return True


class Codec:
    """One side's way of pickling.

    Args:
        snapshot: The ``__main__`` that both sides share since a fork, or None.
        into_worker: True in the parent: functions by value then join the worker's ``__main__``.
    """

    def __init__(self, snapshot: MainSnapshot | None, *, into_worker: bool) -> None:
        self._snapshot = snapshot
        self.into_worker = into_worker

    def dumps(self, item: Any, buffers: list[pickle.PickleBuffer] | None = None) -> bytes:
        """Pickle ``item``; with ``buffers`` given, large buffers are appended there instead.

        Raises:
            Exception: Whatever the item's own reduction raises, or ``pickle.PicklingError``/``TypeError``.
        """
        callback = _collector(buffers)
        try:
            data = pickle.dumps(item, 5, buffer_callback=callback)
        except Exception:  # noqa: BLE001 - any reason to refuse is a reason to try by value, which raises its own
            return self._by_value(item, buffers)
        if b"__main__" not in data:
            return data
        return self._checked(item, buffers)

    def loads(self, data: Any, buffers: Iterable[Any] = ()) -> Any:
        """Unpickle; names of ``__main__`` mean what they meant when the workers were forked."""
        if self._snapshot is not None and self.into_worker and b"__main__" in bytes(data):
            return _SnapshotUnpickler(io.BytesIO(data), self._snapshot, buffers).load()
        return pickle.loads(data, buffers=buffers)

    def goes_by_name(self, item: Any, name: str | None = None) -> bool:
        """Tell whether the other side knows ``item`` by its name in ``__main__``.

        Args:
            item: Whatever pickles as a name: a function, a class, ...
            name: The name; None for its own.
        """
        name = name_in_main(item) if name is None else name
        if self._snapshot is None or name is None:
            return False
        return self._snapshot.holds(item, name) if self.into_worker else self._snapshot.has(item, name)

    def _checked(self, item: Any, buffers: list[pickle.PickleBuffer] | None) -> bytes:
        if self._snapshot is None:
            return self._by_value(item, buffers)
        if buffers is not None:
            buffers.clear()
        out = io.BytesIO()
        try:
            _ByNamePickler(out, self, _collector(buffers)).dump(item)
        except _NeedsValueError:
            return self._by_value(item, buffers)
        return out.getvalue()

    def _by_value(self, item: Any, buffers: list[pickle.PickleBuffer] | None) -> bytes:
        if buffers is not None:
            buffers.clear()
        out = io.BytesIO()
        by_value_pickler()(out, self, _collector(buffers)).dump(item)
        return out.getvalue()

    def reduce_function(self, function: types.FunctionType, reduced: Any) -> Any:
        """Turn cloudpickle's reduction of a function of ``__main__`` into ours, which shares the worker's globals."""
        if function.__globals__ is not main_namespace():
            return reduced
        (code, _globals, _name, _defaults, closure), (attributes, slots) = reduced[1], reduced[2]
        bindings = {name: helped.get(name) for name in slots["__globals__"]}
        slots["__globals__"] = {
            name: value
            for name, value in bindings.items()
            if value is not MISSING and (self._travels(name, value) or not self.into_worker)
        }
        if not self.into_worker:
            return reduced
        arguments = (code, function.__name__, closure)
        state = (attributes, slots)
        return main_module.make_main_function, arguments, state, None, None, main_module.set_main_function_state

    def _travels(self, name: str, value: Any) -> bool:
        """Tell whether a global must go along with a function: the workers do not have it as it is."""
        return self._snapshot is None or not self._snapshot.is_bound_as_before(name) or self._is_stale(value)

    def _is_stale(self, value: Any) -> bool:
        return name_in_main(value) is not None and not self.goes_by_name(value)


def _collector(buffers: list[pickle.PickleBuffer] | None) -> Callable[[pickle.PickleBuffer], bool] | None:
    if buffers is None:
        return None

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        try:
            size = buffer.raw().nbytes
        except BufferError:  # not contiguous
            return True
        if size < OUT_OF_BAND_BYTES:
            return True
        buffers.append(buffer)
        return False

    return keep_inside


class _ByNamePickler(pickle.Pickler):
    """Pickles by name, and gives up when something of ``__main__`` is not what it was at the fork."""

    def __init__(self, out: io.BytesIO, codec: Codec, callback: Any) -> None:
        super().__init__(out, 5, buffer_callback=callback)
        self._codec = codec

    def reducer_override(self, item: Any) -> Any:
        name = name_in_main(item) or name_of_sentinel(item)
        if name is not None and not self._codec.goes_by_name(item, name):
            raise _NeedsValueError
        return NotImplemented


class _SnapshotUnpickler(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, snapshot: MainSnapshot, buffers: Iterable[Any]) -> None:
        super().__init__(data, buffers=buffers)
        self._snapshot = snapshot

    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__":
            return self._snapshot.resolve(name)
        return super().find_class(module, name)


_by_value_class: type | None = None


def by_value_pickler() -> Any:
    """Return the cloudpickle-based pickler class; cloudpickle is imported when first needed."""
    global _by_value_class  # noqa: PLW0603
    if _by_value_class is None:
        import cloudpickle  # noqa: PLC0415

        from amorsize_executor.wire import by_value  # noqa: PLC0415

        class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
            def __init__(self, out: io.BytesIO, codec: Codec, callback: Any) -> None:
                super().__init__(out, protocol=5, buffer_callback=callback)
                self._codec = codec

            def reducer_override(self, item: Any) -> Any:
                name = name_in_main(item) or name_of_sentinel(item)
                if name is not None and self._codec.goes_by_name(item, name):
                    return name
                if not isinstance(item, (types.FunctionType, type)):
                    shares_globals = self._codec.into_worker
                    return by_value.reduce_other(item, name, self.dispatch_table, shares_globals=shares_globals)
                reduced = super().reducer_override(item)
                if not isinstance(reduced, tuple) or len(reduced) < _WITH_SETTER:  # by name, or a type such as NoneType
                    return reduced
                if isinstance(item, type):
                    return by_value.reduce_class(item, reduced)
                if is_dispatcher(item):
                    return by_value.reduce_dispatcher(item)
                return self._codec.reduce_function(item, reduced)

        _by_value_class = ByValuePickler
    return _by_value_class


_WITH_SETTER = 6  # parts of a reduction that says how state is set
