"""The parent's side of the zygote: who forks workers, who reaps them, and who takes over when it dies."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from amorsize_executor import events as ev
from amorsize_executor.backends.base import Reactor, WorkerEvents
from amorsize_executor.backends.pipe_link import PipeLink, send_signal
from amorsize_executor.system import interrupts_blocked
from amorsize_executor.wire import framing
from amorsize_executor.wire.buffers import NO_SIGNAL, send_message
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.imports import imports_ahead
from amorsize_executor.wire.main_module import MainSnapshot
from amorsize_executor.worker.control_word import SLOTS, ControlBoard
from amorsize_executor.worker.main import flush_stdio
from amorsize_executor.worker.zygote import CANNOT_SHARE, REAPED, REFUSED, SPAWN, TWIN, Ancestry, become_zygote

_TWIN_AFTER_S = 0.1  # an executor that has ended by then was spared a process
_CLEAN_START_S = 0.075
"""About what an interpreter takes to start and to import what a zygote needs."""
_TWIN = -1  # the worker id under which a zygote reports its twin
_MOST_FRUITLESS = 100
_LARGE_HEAP = 4 << 30  # bytes; above it, copying page tables costs more than a clean start
_MANY_OBJECTS = 2_000_000
"""Whoever goes through them afterwards counts references, and so copies their pages: 250 ms for eight million."""


class _Zygote:
    def __init__(
        self,
        control: socket.socket,
        pid: int = 0,
        pidfd: int = -1,
        *,
        popen: subprocess.Popen[bytes] | None = None,
        is_child: bool = False,
    ) -> None:
        self.control = control
        self.pid = pid
        self.pidfd = pidfd
        self.popen = popen
        self.is_child = is_child
        self.pending = b""
        self.pidfds: list[int] = []
        self.orders: deque[tuple[bytes, socket.socket]] = deque()
        self.hear: Callable[[int], None] = lambda _events: None
        self.has_orders = self.has_reported = False


class WorkerProcess:
    """A worker as ``multiprocessing`` shows processes; it is not our child, so its zygote reaps it."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.exitcode: int | None = None
        self._pidfd = pidfd
        self._ended = threading.Event()

    def note_end(self, exitcode: int | None) -> None:
        """Say that the process has ended. Runs in: the dispatcher thread."""
        self.exitcode = exitcode
        self._ended.set()

    def is_alive(self) -> bool:
        """Tell whether the process runs."""
        return not self._ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, at most ``timeout`` seconds."""
        self._ended.wait(timeout)

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self.is_alive():
            send_signal(self._pidfd, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.is_alive():
            send_signal(self._pidfd, signal.SIGKILL)


class ZygoteSpawner:
    """Has workers forked by a zygote.

    Args:
        initializer: Runs in each worker; None for none.
        initargs: Its arguments; inherited by memory when forked, pickled when started clean.
        depth: How many executors are above this process.
    """

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...], depth: int) -> None:
        self._initializer = initializer
        self._initargs = initargs
        self._depth = depth
        self.how = "not started"
        self.codec = Codec(None, into_worker=True)
        self._links: dict[int, PipeLink] = {}
        self._slots: dict[int, int] = {}
        self._free_slots = list(range(SLOTS))
        self._pidfds: dict[int, int] = {}
        self._processes: dict[int, WorkerProcess] = {}
        self._zygote: _Zygote | None = None
        self._twin: _Zygote | None = None
        self._twin_is_due = False
        self._orphans: set[int] = set()  # pidfds of workers whose zygote died before them
        self._may_import_ahead = True
        self._fruitless = 0  # zygotes in a row that forked nothing
        self._is_closing = False
        self._then: Callable[[], None] | None = None

    def open(self, reactor: Reactor, events: WorkerEvents, emit: ev.Listener) -> None:
        """Make the zygote if it is to be forked. Runs in: the caller's thread, before any thread of ours exists.

        One that is started clean inherits nothing, so it can wait until a worker is wanted. But what is wrong with an
        initializer is raised here.
        """
        self._reactor, self._events, self._emit = reactor, events, emit
        self._board = ControlBoard()
        if self._initializer is not None or may_fork():
            try:
                self._begin()
            except BaseException:  # whatever it was, the next call opens anew
                self._board.close()
                raise

    def _begin(self) -> _Zygote:
        self._zygote = self._start()
        self._watch(self._zygote)
        self._emit(ev.PoolStarted(self.how))
        return self._zygote

    def _start(self) -> _Zygote:
        if not may_fork():
            try:
                return self._start_clean()
            except (TypeError, AttributeError, RuntimeError, ValueError, OSError):
                if not self._initargs:
                    raise
                # Locks of a fork context, say, can only be inherited: do as ProcessPoolExecutor does.
        return self._fork()

    def _fork(self) -> _Zygote:
        flush_stdio()
        snapshot = MainSnapshot()
        ours, theirs = socket.socketpair()
        parent_pidfd = os.pidfd_open(os.getpid())
        ancestry = Ancestry(
            os.getpid(), parent_pidfd, self._board, snapshot, self._initializer, self._initargs, self._depth
        )
        try:
            with interrupts_blocked():
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    become_zygote(theirs, ancestry, None if self._initargs else {*tracker(), *queue_ends()})
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(parent_pidfd)
        self.codec = Codec(snapshot, into_worker=True)
        self.how = "forked from this process"
        return _Zygote(ours, pid, os.pidfd_open(pid), is_child=True)

    def _start_clean(self) -> _Zygote:
        from amorsize_executor.wire.spawning import pickle_for_child  # noqa: PLC0415

        payload, descriptors = pickle_for_child((self._initializer, self._initargs))
        function = self._events.function_in_sight() if self._may_import_ahead else None
        ahead = [] if function is None else imports_ahead(function)
        ours, theirs = socket.socketpair()
        code = f"from amorsize_executor.worker.zygote import main; main({theirs.fileno()})"
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        command = f"import sys; sys._amorsize_zygote = True; sys.path.insert(0, {root!r}); {code}"
        try:
            with interrupts_blocked():
                popen = subprocess.Popen(  # noqa: S603 - our own interpreter and code
                    [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", command],  # type: ignore[attr-defined]
                    pass_fds=[theirs.fileno(), self._board.handle, *descriptors, *tracker()],
                    stdin=subprocess.DEVNULL,
                    env={**one_thread_each(), **os.environ},
                )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        authkey = bytes(multiprocessing.current_process().authkey)
        meta: tuple[Any, ...] = (
            os.getpid(),
            sys.path,
            sys.argv,
            authkey,
            self._depth,
            self._board.handle,
            tracker(),
            ahead,
        )
        ours.setblocking(True)  # noqa: FBT003 - whatever socket.setdefaulttimeout says
        with contextlib.suppress(OSError):  # it was killed at once: its pidfd tells
            for piece in framing.frame(framing.READY, meta, [payload]):
                ours.sendall(piece, NO_SIGNAL)
        if self._zygote is not None:  # which this one replaces, and which may have been forked
            self.codec = Codec(None, into_worker=True)
        self.how = "started clean, because this process has threads or a large heap"
        return _Zygote(ours, popen.pid, os.pidfd_open(popen.pid), popen=popen, is_child=True)

    # --- workers ---

    def processes(self) -> dict[int, WorkerProcess]:
        """Return the workers' processes by process id. Any thread."""
        return {process.pid: process for process in list(self._processes.values())}

    def spawn(self, worker: int) -> PipeLink:
        """Order a worker; its link takes chunks at once."""
        zygote = self._zygote or self._begin()
        ours, theirs = socket.socketpair()
        slot = self._free_slots.pop()
        link = PipeLink(worker, ours, self._board.line(slot), self.codec, self._reactor, self._events)
        self._links[worker], self._slots[worker] = link, slot
        self._order(zygote, SPAWN, worker, slot, theirs)
        if self._twin is None and not self._twin_is_due:
            self._twin_is_due = True
            self._reactor.call_later(_TWIN_AFTER_S, self._bring_twin)
        return link

    def foresee_start_up(self) -> float | None:
        """See ``Backend``."""
        is_clean = not may_fork() if self._zygote is None else self._zygote.popen is not None
        return _CLEAN_START_S if is_clean else None

    def forsake(self) -> None:
        """See ``Backend``. Workers that are forked at this very moment find their connections closed, and end."""
        zygote = self._zygote
        if zygote is None or zygote.popen is None or zygote.has_reported:
            return
        send_signal(zygote.pidfd, signal.SIGKILL)
        for worker in list(self._links):
            self._ended(worker, None, by_itself=False)

    def _bring_twin(self) -> None:
        self._twin_is_due = False
        if self._twin is None and self._zygote is not None and not self._is_closing:
            self._make_twin(self._zygote)

    def _make_twin(self, zygote: _Zygote) -> None:
        try:
            ours, theirs = socket.socketpair()
        except OSError:  # no descriptor is left: the next spawn tries again
            return
        self._twin = _Zygote(ours)
        self._order(zygote, TWIN, _TWIN, 0, theirs)

    def _order(self, zygote: _Zygote, command: int, worker: int, slot: int, endpoint: socket.socket) -> None:
        zygote.has_orders = True
        zygote.orders.append((f"{command} {worker} {slot}".encode().ljust(32), endpoint))
        self._send_orders(zygote)

    def _send_orders(self, zygote: _Zygote) -> None:
        """Send what the socket takes; the rest goes when it is ready for more."""
        control, orders = zygote.control, zygote.orders
        while orders:
            message, endpoint = orders[0]
            try:
                send_message(control, [message], [endpoint.fileno()])
            except BlockingIOError:
                break
            except OSError:  # it is gone: its pidfd tells, and the worker is found missing then
                pass
            orders.popleft()[1].close()
        self._reactor.watch(control.fileno(), zygote.hear, write=bool(orders))

    def _watch(self, zygote: _Zygote) -> None:
        zygote.hear = lambda _events: self._hear(zygote)
        zygote.control.setblocking(False)  # noqa: FBT003
        self._reactor.watch(zygote.control.fileno(), zygote.hear)
        self._reactor.watch(zygote.pidfd, lambda _events: self._zygote_ended(zygote))

    def _hear(self, zygote: _Zygote) -> None:
        """Read a zygote's reports until there are no more; send it what it had no room for."""
        if zygote.orders:
            self._send_orders(zygote)
        while True:
            try:
                data, descriptors, _flags, _address = socket.recv_fds(zygote.control, 4096, 8)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._reactor.unwatch(zygote.control.fileno())
                return
            zygote.has_reported = True
            zygote.pidfds += descriptors
            *lines, zygote.pending = (zygote.pending + data).split(b"\n")
            for report in lines:
                self._take_report(zygote, *map(int, report.split()))

    def _take_report(self, zygote: _Zygote, kind: int, worker: int, value: int) -> None:
        if kind == REAPED:
            self._ended(worker, value, by_itself=True)
        elif kind == REFUSED:
            self._refused(worker, value)
        elif zygote.pidfds:
            self._spawned(worker, value, zygote.pidfds.pop(0))
        elif worker == _TWIN:
            self._twin_is_gone()
        elif worker in self._links:  # there was no descriptor left for it, and it may have begun: its end will be told
            with contextlib.suppress(ProcessLookupError):
                os.kill(value, signal.SIGKILL)
            self._events.spawn_refused(worker, os.strerror(errno.EMFILE))

    def _spawned(self, worker: int, pid: int, pidfd: int) -> None:
        if worker == _TWIN:
            if self._twin is None or self._is_closing:
                os.close(pidfd)
                return
            self._twin.pid, self._twin.pidfd = pid, pidfd
            return
        link = self._links.get(worker)
        if link is None:
            send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            return
        self._fruitless = 0
        link.pid = pid
        self._pidfds[worker] = pidfd
        link.kill = lambda: send_signal(pidfd, signal.SIGKILL)
        self._processes[worker] = WorkerProcess(pid, pidfd)
        if link.is_killed:
            link.kill()
        self._reactor.watch(pidfd, lambda _events: self._pidfd_ready(worker))

    def _pidfd_ready(self, worker: int) -> None:
        """The worker has ended. How, its zygote will tell; or it died with the zygote, and nobody will."""
        self._reactor.unwatch(self._pidfds[worker])
        self._reactor.call_later(1.0, lambda: self._ended(worker, None, by_itself=False))

    def _ended(self, worker: int, status: int | None, *, by_itself: bool) -> None:
        if worker == _TWIN:
            self._twin_ended()
            return
        link = self._links.pop(worker, None)
        if link is None:
            return
        link.read()
        link.close()
        self._free_slots.append(self._slots.pop(worker))
        pidfd = self._pidfds.pop(worker, None)
        if pidfd is not None:
            self._processes.pop(worker).note_end(status)
            if status is None:
                self._orphans.add(pidfd)
                self._reactor.watch(pidfd, lambda _events: self._orphan_ended(pidfd))
            else:
                self._reactor.unwatch(pidfd)
                os.close(pidfd)
        self._events.worker_died(worker, status, by_itself=by_itself)

    def _orphan_ended(self, pidfd: int) -> None:
        self._orphans.remove(pidfd)
        self._reactor.unwatch(pidfd)
        reap(pidfd)
        os.close(pidfd)
        self._finish_when_alone()

    def _refused(self, worker: int, reason: int) -> None:
        """The system has no room for another process."""
        if worker == _TWIN:
            self._twin_is_gone()  # the next spawn tries again
            return
        self._events.spawn_refused(worker, os.strerror(reason))
        self._ended(worker, None, by_itself=True)

    # --- the zygote's own death ---

    def _twin_ended(self) -> None:
        was_known = self._twin is not None
        self._twin_is_gone()
        if was_known and self._zygote is not None and not self._is_closing:
            self._make_twin(self._zygote)

    def _twin_is_gone(self) -> None:
        twin, self._twin = self._twin, None
        if twin is not None:
            _let_go(twin)
        if self._is_closing:
            self._close_zygote()

    def _zygote_ended(self, zygote: _Zygote) -> None:
        self._hear(zygote)
        self._forget(zygote)
        if zygote is not self._zygote:
            return
        if self._is_closing:
            self._zygote = None
            self._finish_when_alone()
            return
        status = 0 if zygote.popen is None else zygote.popen.returncode
        if zygote.popen is not None and not zygote.has_reported:  # it may be one of its imports that has ended it
            self._may_import_ahead = False
        # One that was killed may be somebody's doing; one that ended by itself will do so again.
        if status != CANNOT_SHARE:
            self._fruitless += 20 if status > 0 else 1
        orphans = list(self._links)
        for worker in orphans:  # they die with it: the kernel sees to that
            self._links[worker].kill()
        try:
            self._zygote = self._take_over()
        except BaseException:  # the engine breaks down over it
            self._zygote = None
            raise
        else:
            self._emit(ev.ZygoteLost(zygote.pid, "its twin" if self._zygote.popen is None else "a new one"))
        finally:
            for worker in orphans:  # when zygotes keep dying before they fork, the engine must hear of it and give up
                self._ended(worker, None, by_itself=self._fruitless > _MOST_FRUITLESS)

    def _take_over(self) -> _Zygote:
        twin, self._twin = self._twin, None
        if twin is not None and twin.pidfd >= 0 and _is_alive(twin.pidfd):
            self._watch(twin)
            return twin
        if twin is not None:
            _let_go(twin)
        zygote = self._start()
        self._watch(zygote)
        return zygote

    def _forget(self, zygote: _Zygote) -> None:
        self._reactor.unwatch(zygote.control.fileno())
        self._reactor.unwatch(zygote.pidfd)
        if zygote.popen is not None:
            zygote.popen.wait()
        elif zygote.is_child:
            with contextlib.suppress(ChildProcessError):  # somebody else in this process waited for any child
                os.waitpid(zygote.pid, 0)
        else:
            reap(zygote.pidfd)
        _let_go(zygote)

    # --- the end ---

    def close(self, then: Callable[[], None]) -> None:
        """End twin and zygote, in this order, so that the zygote reaps its twin."""
        self._is_closing, self._then = True, then
        if self._twin is not None:
            hang_up(self._twin.control)
        else:
            self._close_zygote()

    def _close_zygote(self) -> None:
        if self._zygote is None:
            self._finish_when_alone()
        elif self._zygote.has_orders:
            hang_up(self._zygote.control)
        else:  # it has nothing to clean up, and may not even be up
            send_signal(self._zygote.pidfd, signal.SIGKILL)

    def _finish_when_alone(self) -> None:
        if self._zygote is not None or self._orphans or self._then is None:
            return
        then, self._then = self._then, None
        if self._twin is not None:
            _let_go(self._twin)
            self._twin = None
        self._board.close()
        self._initargs = ()
        then()


def hang_up(control: socket.socket) -> None:
    """End a connection even if a user's forked child holds a copy of its descriptor."""
    with contextlib.suppress(OSError):  # it is closed, or the other side was first
        control.shutdown(socket.SHUT_RDWR)


def _let_go(zygote: _Zygote) -> None:
    hang_up(zygote.control)
    zygote.control.close()
    for _message, endpoint in zygote.orders:
        endpoint.close()
    zygote.orders.clear()
    for pidfd in [zygote.pidfd, *zygote.pidfds]:
        if pidfd >= 0:
            os.close(pidfd)


def reap(pidfd: int) -> None:
    """Take the status of a process that has ended, if it is our child: process 1 of a container inherits orphans."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def _is_alive(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    return True


def may_fork() -> bool:
    """Tell whether a zygote may be forked from this process: one thread, and a heap that costs little to share."""
    try:
        if not has_one_thread() or sys.getallocatedblocks() > _MANY_OBJECTS:
            return False
        with open("/proc/self/statm", "rb", 0) as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") < _LARGE_HEAP
    except OSError:
        return threading.active_count() == 1


def has_one_thread() -> bool:
    """Count the system's threads; one that Python has joined already may take a moment to be gone."""
    for _ in range(20):
        if len(os.listdir("/proc/self/task")) == 1:
            return True
        if threading.active_count() > 1:
            return False
        time.sleep(0.0001)
    return False


def tracker() -> list[int]:
    """Return the descriptor of multiprocessing's resource tracker, if it runs: workers must use the same one."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    descriptor = module._resource_tracker._fd if module is not None else None
    return [] if descriptor is None else [descriptor]


def queue_ends() -> list[int]:
    """Return the descriptors of multiprocessing's queues that there are: whoever inherits their module may use them.

    Nobody waits for such a queue's end to be closed, as the reader of any other pipe may.
    """
    queues: Any = sys.modules.get("multiprocessing.queues")
    if queues is None:
        return []
    known = [each for each in list(multiprocessing.util._afterfork_registry.values()) if isinstance(each, queues.Queue)]  # type: ignore[attr-defined]
    return [end.fileno() for queue in known for end in (queue._reader, queue._writer) if not end.closed]


def one_thread_each() -> dict[str, str]:
    """Return the environment that keeps numeric libraries from starting threads in the zygote."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS")
    return dict.fromkeys(names, "1")
