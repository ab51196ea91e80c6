"""Pickling for a child that is about to start: multiprocessing's locks and queues go along, with descriptors."""

from __future__ import annotations

import io
import sys
from collections import ChainMap
from collections.abc import Callable
from multiprocessing import context, get_start_method
from multiprocessing.reduction import ForkingPickler
from typing import Any

from amorsize_executor.wire.codec import Codec, by_value_pickler


class _Descriptors:
    """Stands where multiprocessing expects the process that is being started; notes what it must inherit."""

    def __init__(self) -> None:
        self.inherited: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        """Note a descriptor; it keeps its number in the child."""
        self.inherited.append(descriptor)
        return descriptor

    def DupFd(self, descriptor: int) -> Any:  # noqa: N802 - what multiprocessing calls
        """Return what stands for a descriptor in the pickle."""
        from multiprocessing.popen_spawn_posix import _DupFd  # noqa: PLC0415 - not on Windows

        return _DupFd(descriptor)


def pickle_for_child(item: Any) -> tuple[bytes, list[int]]:
    """Return the pickle of ``item`` and the descriptors that the child must inherit under the same numbers.

    Raises:
        Exception: ``item`` holds something that can only be inherited by a fork, or does not pickle.
    """
    popen, out = _Descriptors(), io.BytesIO()
    before = context.get_spawning_popen()
    context.set_spawning_popen(popen)  # type: ignore[arg-type]
    try:
        _child_pickler()(out, Codec(None, into_worker=True), None).dump(item)
    finally:
        context.set_spawning_popen(before)
    if sys.version_info < (3, 11) and b"multiprocessing.synchronize" in out.getvalue() and get_start_method() == "fork":
        message = "a lock of a fork context can only be inherited"  # Python 3.10 pickles it, and nobody can open it
        raise RuntimeError(message)
    return out.getvalue(), popen.inherited


class Initializer:
    """An initializer and its arguments on their way to a process that a multiprocessing context starts.

    What belongs to ``__main__`` goes by value, into the ``__main__`` of the worker, where the calls will look for it.
    """

    def __init__(self, function: Callable[..., object] | None, args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        out = io.BytesIO()
        _child_pickler()(out, Codec(None, into_worker=True), None).dump((self.function, self.args))
        return _load_initializer, (out.getvalue(),)


def _load_initializer(data: bytes) -> Initializer:
    return Initializer(*Codec(None, into_worker=False).loads(data))


def _child_pickler() -> Any:
    base = by_value_pickler()

    class ChildPickler(base):  # type: ignore[misc, valid-type]
        dispatch_table = ChainMap(  # noqa: RUF012 - the pickle module looks for it in the class
            ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
            base.dispatch_table,
        )

        def reducer_override(self, item: Any) -> Any:
            """Refuse locks without a name, which Python 3.10 would pickle as an address of this process."""
            synchronize = sys.modules.get("multiprocessing.synchronize")
            if synchronize is not None and isinstance(item, synchronize.SemLock) and item._semlock.name is None:
                message = f"a {type(item).__name__} of the fork context can only be inherited by a fork"
                raise RuntimeError(message)
            return super().reducer_override(item)

    return ChildPickler
