"""Worker processes of this machine, forked by a zygote or started by a multiprocessing context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amorsize_executor import events as ev
from amorsize_executor import system
from amorsize_executor.backends.base import Capabilities, Reactor, WorkerEvents, WorkerLink
from amorsize_executor.records import Lane
from amorsize_executor.wire.codec import Codec
from amorsize_executor.worker import main as worker_main


class ProcessBackend:
    """Worker processes with a pipe each.

    Args:
        mp_context: A multiprocessing context that starts workers; None for the fastest safe way here.
        initializer: Runs in each worker; None for none.
        initargs: Its arguments.
    """

    name = "process"
    lane = Lane.PROCESSES
    capabilities = Capabilities(
        can_kill=True, can_stop_early=True, isolates=True, reports_running=True, can_recycle=True
    )

    def __init__(
        self,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self._has_initializer = initializer is not None
        self._spawner: Any
        if mp_context is None and system.has("zygote"):
            from amorsize_executor.backends.zygote import ZygoteSpawner  # noqa: PLC0415

            self._spawner = ZygoteSpawner(initializer, initargs, worker_main.depth)
        else:
            from amorsize_executor.backends.context import ContextSpawner  # noqa: PLC0415

            self._spawner = ContextSpawner(mp_context, initializer, initargs, worker_main.depth)

    @property
    def codec(self) -> Codec:
        """How calls are pickled."""
        return self._spawner.codec  # type: ignore[no-any-return]

    @property
    def how(self) -> str:
        """How workers are started, in words."""
        return self._spawner.how  # type: ignore[no-any-return]

    @property
    def suspicion(self) -> str:
        """Of what workers may die that never get ready, in sentences; empty where nobody can tell."""
        causes = [getattr(self._spawner, "suspicion", "")]
        if self._has_initializer:
            causes.append("The initializer may have ended them.")
        return " ".join(filter(None, causes))

    def open(self, reactor: Reactor, events: WorkerEvents, emit: ev.Listener) -> None:
        """See ``Backend``."""
        self._spawner.open(reactor, events, emit)

    def spawn(self, worker: int) -> WorkerLink:
        """See ``Backend``."""
        return self._spawner.spawn(worker)  # type: ignore[no-any-return]

    def foresee_start_up(self) -> float | None:
        """See ``Backend``."""
        return self._spawner.foresee_start_up()  # type: ignore[no-any-return]

    def forsake(self) -> None:
        """See ``Backend``."""
        if not self._has_initializer:
            self._spawner.forsake()

    def close(self, then: Callable[[], None]) -> None:
        """See ``Backend``."""
        self._spawner.close(then)

    def processes(self) -> dict[int, Any]:
        """Return the workers' processes by process id. Any thread."""
        return self._spawner.processes()  # type: ignore[no-any-return]
