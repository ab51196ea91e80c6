"""Worker processes that a multiprocessing context starts: fork, forkserver, spawn or loky, as the user asked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from amorsize_executor import events as ev
from amorsize_executor.backends.base import Reactor, WorkerEvents
from amorsize_executor.backends.pipe_link import PipeLink
from amorsize_executor.system import interrupts_blocked
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.main_module import MainSnapshot
from amorsize_executor.wire.spawning import Initializer
from amorsize_executor.worker.context_main import start_in_context
from amorsize_executor.worker.control_word import SLOTS, ControlBoard

START_UP_S = {"fork": 0.015, "forkserver": 0.075, "spawn": 0.2, "loky": 0.2}
"""About what the first worker of a context takes to start, before any was measured."""


class ContextSpawner:
    """Starts workers as ``Process`` objects of a context.

    Args:
        mp_context: The context; None for loky's, which needs no main guard.
        initializer: Runs in each worker; None for none.
        initargs: Its arguments.
        depth: How many executors are above this process.
    """

    def __init__(
        self,
        mp_context: Any,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        depth: int,
    ) -> None:
        if mp_context is None:
            from loky.backend import get_context  # noqa: PLC0415 - costs a tenth of a second

            mp_context = get_context("loky")
        self._context = mp_context
        self._method = mp_context.get_start_method(allow_none=False)
        self._initializer = Initializer(initializer, initargs)
        self._depth = depth
        self.how = f"started by multiprocessing's {self._method} context"
        self.suspicion = ""
        if self._method in ("spawn", "forkserver"):
            self.suspicion = (
                f"The start method {self._method!r} imports the main script again in each worker: "
                "what starts work there has to stand under 'if __name__ == \"__main__\":'."
            )
        self.codec = Codec(None, into_worker=True)
        self._processes: dict[int, Any] = {}
        self._links: dict[int, PipeLink] = {}
        self._slots: dict[int, int] = {}
        self._free_slots = list(range(SLOTS))

    def open(self, reactor: Reactor, events: WorkerEvents, emit: ev.Listener) -> None:
        """See ``Backend``."""
        self._reactor, self._events = reactor, events
        self._board = ControlBoard()
        self._life, self._life_writer = self._context.Pipe(duplex=False)
        self._snapshot = MainSnapshot() if self._method == "fork" else None
        self.codec = Codec(self._snapshot, into_worker=True)
        emit(ev.PoolStarted(self.how))

    def spawn(self, worker: int) -> PipeLink:
        """Start a worker; returns when the operating system has begun with it."""
        ours, theirs = socket.socketpair()
        slot = self._free_slots.pop()
        link = PipeLink(worker, ours, self._board.line(slot), self.codec, self._reactor, self._events)
        process = self._context.Process(
            target=start_in_context,
            name=f"AmorsizeWorker-{worker}",
            args=(
                theirs,
                self._board,
                slot,
                self._snapshot,
                self._initializer,
                self._depth,
                self._life,
                self._descriptors(link) if self._method == "fork" else [],
                multiprocessing.get_start_method(allow_none=True),
            ),
        )
        try:
            with interrupts_blocked():
                process.start()
        except BaseException:  # whatever it was, there is no process that the link and its line could belong to
            link.close()
            self._free_slots.append(slot)
            raise
        finally:
            theirs.close()
        self._links[worker] = link
        self._slots[worker], self._processes[worker] = slot, process
        link.pid = process.pid
        link.kill = lambda: kill(process)
        if sys.platform == "win32":
            link.hung_up = lambda: self._ended(worker)
        else:
            self._reactor.watch(process.sentinel, lambda _events: self._ended(worker))
        return link

    def foresee_start_up(self) -> float | None:
        """See ``Backend``."""
        return START_UP_S.get(self._method)

    def forsake(self) -> None:
        """Do nothing: each worker starts by itself."""

    def processes(self) -> dict[int, Any]:
        """Return the workers' processes by process id. Any thread."""
        return {process.pid: process for process in list(self._processes.values())}

    def _descriptors(self, newest: PipeLink) -> list[int]:
        """Return the parent's ends of all pipes."""
        links = [link.fileno() for link in [*self._links.values(), newest] if link.is_open]
        return [*links, self._life_writer.fileno()]

    def _ended(self, worker: int) -> None:
        process = self._processes.pop(worker, None)
        if process is None:
            return
        if sys.platform != "win32":
            self._reactor.unwatch(process.sentinel)
        process.join()
        link = self._links.pop(worker)
        link.read()
        link.close()
        self._free_slots.append(self._slots.pop(worker))
        self._events.worker_died(worker, process.exitcode, by_itself=True)

    def close(self, then: Callable[[], None]) -> None:
        """See ``Backend``."""
        self._board.close()
        self._life.close()
        self._life_writer.close()
        self._initializer = Initializer(None, ())
        then()


def kill(process: Any) -> None:
    """Kill a process at once. Not by ``process.kill``, which loky's processes do not have."""
    if sys.platform == "win32":
        process.terminate()
    elif process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
