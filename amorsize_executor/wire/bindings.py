"""The globals of ``__main__``, less what helped calls have made of them.

A call that the waiting caller runs belongs in a worker. If it binds a global (``if conn is None: conn = connect()``),
the caller's ``__main__`` has it from then on; the workers must not get it from there, but make their own.
"""

from __future__ import annotations

import os
import threading
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

from amorsize_executor.wire.reach import main_namespace

MISSING = object()


class HelpedBindings:
    """Globals of ``__main__`` that calls have bound, or may be binding, that run in this process.

    To everything that travels, such a global is what it was before, until something else binds it anew. Bindings
    count, not contents: what a call changes inside a list or an object is seen.

    Runs in: ``begin`` and ``end`` in helping callers, the rest in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come between, and help
        self._running: dict[Hashable, tuple[str, ...]] = {}
        self._before: dict[str, Any] = {}
        self._after: dict[str, Any] = {}  # no entry while calls run

    @property
    def is_quiet(self) -> bool:
        """Whether all globals are to what travels what they are here."""
        return not self._before

    def begin(self, run: Hashable, names: tuple[str, ...]) -> None:
        """Note that calls start to run which may bind ``names``. ``run`` identifies them."""
        if not names:
            return
        with self._lock:
            self._running[run] = names
            for name in names:
                current = main_namespace().get(name, MISSING)
                if not self._is_set_by_call(name, current):
                    self._before[name] = current
                self._after.pop(name, None)

    def end(self, run: Hashable) -> None:
        """Note that the calls have ended. Does nothing for unknown ones."""
        if run not in self._running:
            return
        with self._lock:
            for name in self._running.pop(run, ()):
                current = main_namespace().get(name, MISSING)
                if any(name in names for names in self._running.values()):
                    continue
                if current is self._before.get(name, MISSING):
                    self._before.pop(name, None)
                else:
                    self._after[name] = hold(current)

    def get(self, name: str) -> Any:
        """Return what the global is to everything that travels, or ``MISSING``."""
        current = main_namespace().get(name, MISSING)
        if name not in self._before:
            return current
        with self._lock:
            if self._is_set_by_call(name, current):
                return self._before[name]
            self._before.pop(name, None)
            self._after.pop(name, None)
            return current

    def all(self) -> dict[str, Any]:
        """Return all globals as they are to what travels."""
        bindings = {**main_namespace(), **{name: self.get(name) for name in tuple(self._before)}}
        return {name: value for name, value in bindings.items() if value is not MISSING}

    def undo(self) -> None:
        """Bind anew what was there before. Runs in: a worker that was just forked, which so begins without."""
        for name in tuple(self._before):
            value = self.get(name)
            if value is MISSING:
                main_namespace().pop(name, None)
            else:
                main_namespace()[name] = value
        self._running, self._before, self._after = {}, {}, {}

    def begin_anew(self) -> None:
        """Forget who holds the lock and whose calls run: they are in another process. Runs in: a child of a fork."""
        self._lock = threading.RLock()
        for run in tuple(self._running):
            self.end(run)

    def _is_set_by_call(self, name: str, current: Any) -> bool:
        if name not in self._before:
            return False
        return name not in self._after or deref(self._after[name], self) is current


helped = HelpedBindings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=helped.begin_anew)


def hold(value: Any, forget: Callable[[Any], None] | None = None) -> Any:
    """Return what ``deref`` turns into ``value``, as long as that lives.

    Functions, classes, modules and what cannot be referred to weakly are held alive; of all else, ``forget`` is told
    the end.
    """
    if not isinstance(value, (types.FunctionType, type, types.ModuleType, weakref.ref)):
        try:
            return _Weak(value, forget)
        except TypeError:
            pass
    return value


class _Weak(weakref.ref):  # type: ignore[type-arg]
    """Ours, and no reference that a user's global holds."""

    __slots__ = ()


def deref(held: Any, gone: Any = None) -> Any:
    """Return what ``hold`` was given, or ``gone`` if that has ended."""
    if not isinstance(held, _Weak):
        return held
    value = held()
    return gone if value is None else value
