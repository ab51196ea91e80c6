"""When executors end by themselves: dropped, at interpreter exit, and in children of a user's own fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from amorsize_executor.engine.dispatcher import Engine

_engines: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()
_is_exiting = False
_pid = os.getpid()


def enroll(executor: Executor, engine: Engine) -> None:
    """Have an engine finish its work and end when its executor is dropped, or when the interpreter exits."""
    _engines[id(engine)] = engine
    weakref.finalize(executor, _dropped, engine).atexit = False


def is_ours(engine: Engine) -> bool:
    """Tell whether the engine was made in this process, not in one that this is a fork of."""
    return engine.pid == _pid


def require_alive(engine: Engine) -> None:
    """Raise RuntimeError if the interpreter exits, or if this is a child of a fork of the engine's process."""
    if _is_exiting:
        message = "cannot schedule new futures after interpreter shutdown"
        raise RuntimeError(message)
    if not is_ours(engine):
        message = "this executor belongs to the process that this one was forked from; make a new one here"
        raise RuntimeError(message)


def _dropped(engine: Engine) -> None:
    if is_ours(engine):
        engine.shut_down(cancel=False)


def _finish_all() -> None:
    """Let every executor finish what it has, as the standard library does at interpreter exit."""
    global _is_exiting  # noqa: PLW0603
    _is_exiting = True
    engines = (reference() for reference in _engines.valuerefs())  # in one step: other threads make some meanwhile
    ours = [engine for engine in engines if engine is not None and is_ours(engine)]
    threads = [engine.thread for engine in ours]
    for engine in ours:
        engine.shut_down(cancel=False)
    for thread in threads:
        if thread is not None:
            thread.join()


def _note_fork() -> None:
    global _pid  # noqa: PLW0603
    _pid = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)

# Before the interpreter joins its threads, as concurrent.futures has it; there is no public way.
threading._register_atexit(_finish_all)  # type: ignore[attr-defined]  # noqa: SLF001
