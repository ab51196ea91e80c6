"""Backends by name: the one place where they are loaded, and where a missing package becomes a clear error."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from amorsize_executor import system
from amorsize_executor.backends.base import Backend
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError, UnsupportedOptionError
from amorsize_executor.events import logger
from amorsize_executor.worker import main as worker_main

NAMES = ("auto", "process", "thread", "caller")
_HINTS = {
    "dask": "; for Dask: pip install distributed, and pass backend=client.get_executor()",
    "ray": "; Ray brings no Executor of its own: pass backend= one that submits to it",
}


def choose_backend(
    backend: str | Executor,
    mp_context: Any,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> Backend:
    """Return the backend that a user named or brought along; nothing is started.

    Raises:
        InvalidParameterError: There is no backend of that name.
        UnsupportedOptionError: It cannot run an initializer, or start processes by a context.
    """
    if isinstance(backend, Executor):
        from amorsize_executor.backends.futures import FuturesBackend  # noqa: PLC0415

        _refuse(mp_context is not None, "mp_context", type(backend).__name__, "starts processes")
        _refuse(initializer is not None, "initializer", type(backend).__name__, "starts its workers itself")
        return FuturesBackend(backend)
    if backend in ("thread", "caller"):
        from amorsize_executor.backends.thread import CallerBackend, ThreadBackend  # noqa: PLC0415

        _refuse(mp_context is not None, "mp_context", backend, "starts processes")
        return (CallerBackend if backend == "caller" else ThreadBackend)(initializer, initargs)
    if stays_in_worker(backend, mp_context):
        from amorsize_executor.backends.thread import CallerBackend  # noqa: PLC0415

        return CallerBackend(initializer, initargs)
    if backend in ("auto", "process"):
        from amorsize_executor.backends.process import ProcessBackend  # noqa: PLC0415

        return ProcessBackend(mp_context, initializer, initargs)
    rule = "must be one of " + ", ".join(map(repr, NAMES)) + ", or an Executor" + _HINTS.get(str(backend), "")
    raise (InvalidParameterError if isinstance(backend, str) else InvalidParameterTypeError)("backend", backend, rule)


def choose_context(
    backend: str | Executor,
    mp_context: Any,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> Any:
    """Return the multiprocessing context that starts workers: the user's, or None for the fastest safe way.

    Locks, queues and values of a fork context can only be inherited by a fork. Where they are in ``initargs`` and
    there is no zygote that could inherit them, the workers are forked by that context.
    """
    if mp_context is not None or not initargs or system.has("zygote") or backend not in ("auto", "process"):
        return mp_context
    default = multiprocessing.get_context()
    if stays_in_worker(backend, mp_context) or default.get_start_method() != "fork":
        return None
    from amorsize_executor.wire.spawning import pickle_for_child  # noqa: PLC0415 - few need it

    try:
        pickle_for_child((initializer, initargs))
    except (TypeError, AttributeError, RuntimeError, ValueError, OSError):
        return default
    return None


def stays_in_worker(backend: str | Executor, mp_context: Any) -> bool:
    """Tell whether this process is a worker of another executor, and the user has not named a place for the calls."""
    return backend == "auto" and worker_main.depth > 0 and mp_context is None


def leave_to_worker(**options: object) -> None:
    """Say that options about worker processes mean nothing here; each is given with whether the user set it."""
    given = [name for name, is_given in options.items() if is_given]
    if given:
        logger.debug("amorsize_executor: in a worker of another executor, %s: no effect", ", ".join(given))


def _refuse(condition: bool, option: str, backend: str, capability: str) -> None:  # noqa: FBT001
    if condition:
        raise UnsupportedOptionError(option, backend, capability)
