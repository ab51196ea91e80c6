"""The zygote: a process with one thread whose only job is to fork workers when asked.

It is forked from the user's process while that has a single thread, or started clean. It reaps its workers and
reports how they ended. A twin, forked from it after a while, sleeps with the same memory and takes over if it dies.
Workers die with their zygote (the kernel signals them when its end of a pipe closes), the zygote with its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import multiprocessing
import os
import select
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from amorsize_executor.wire import framing
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.main_module import MainSnapshot
from amorsize_executor.worker.control_word import ControlBoard

with contextlib.suppress(ImportError):  # Windows, where this module is loaded for its names alone
    import fcntl

# Commands, each with one descriptor; and reports.
SPAWN, TWIN = 64, 65
SPAWNED, REAPED, REFUSED = 80, 81, 82

CANNOT_SHARE = 3
"""The exit status of a zygote whose workers had better import for themselves: imports have started threads, beside
which nobody forks, or have something to do at exit, which the first worker that ends would do to all."""

_MOST_IMPORTING_S = 20.0
"""What takes longer may never end, and then no worker would ever be there whose call could time out."""


class Ancestry(NamedTuple):
    """What a zygote knows from its parent and leaves to its workers."""

    parent_pid: int
    parent_pidfd: int
    board: ControlBoard
    snapshot: MainSnapshot | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    depth: int


def become_zygote(control: socket.socket, ancestry: Ancestry, keep: set[int] | None) -> NoReturn:
    """Serve as a zygote in a process that was forked just now; never return to the frames above.

    Args:
        control: The zygote's end of its socket.
        ancestry: What it leaves to its workers.
        keep: Foreign descriptors that stay open; None where initargs may need any, so that all stay.
    """
    try:
        ours = {control.fileno(), ancestry.board.handle, ancestry.parent_pidfd}
        leave_the_parent_behind(None if keep is None else keep | ours)
        _Zygote(control, ancestry).serve()
    except BaseException:  # noqa: BLE001 - nobody above may see it: those frames belong to the parent
        traceback.print_exc()
    finally:
        os._exit(0)


def leave_the_parent_behind(keep: set[int] | None) -> None:
    """Undo what a fork inherits and must not use: signals, atexit, finalizers, stdin, foreign pipes and sockets.

    Args:
        keep: Descriptors that stay; None for all.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    _leave_interrupts_to_the_parent()
    atexit._clear()
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._finalizer_registry.clear()
        util._run_after_forkers()
    null = os.open(os.devnull, os.O_RDONLY)  # so that who writes to a foreign pipe hears of it
    os.dup2(null, 0)
    if keep is not None:
        _silence_foreign_descriptors(keep | {null}, null)
    os.close(null)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    gc.freeze()


def _silence_foreign_descriptors(keep: set[int], null: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor <= 2 or descriptor in keep:  # noqa: PLR2004 - stdio stays
            continue
        with contextlib.suppress(OSError):  # listdir's own descriptor is closed by now
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                os.dup2(null, descriptor, inheritable=os.get_inheritable(descriptor))


def _leave_interrupts_to_the_parent() -> None:
    """Ignore Ctrl-C, which was blocked until now. Not by SIG_IGN, which workers would inherit."""
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


class _Zygote:
    def __init__(self, control: socket.socket, ancestry: Ancestry) -> None:
        control.setblocking(True)  # noqa: FBT003 - whatever socket.setdefaulttimeout says
        self._control = control
        self._ancestry = ancestry
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(ancestry.parent_pidfd, select.POLLIN)
        self._children: dict[int, tuple[int, int]] = {}  # pidfd -> (worker id or -1 for the twin, pid)
        self._life, self._life_writer = os.pipe()

    def serve(self) -> None:
        """Fork on command and reap, until the parent hangs up or is gone."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where the parent ignores it, nobody could be reaped
        while True:
            for descriptor, _event in self._poll.poll():
                if descriptor == self._control.fileno():
                    if not self._obey():
                        return
                elif descriptor == self._ancestry.parent_pidfd:
                    return
                else:
                    self._reap(descriptor)

    def _obey(self) -> bool:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._control, 4096, 1)
        except ConnectionError:
            return False
        if not data:
            return False
        command, worker, slot = framing_command(data)
        endpoint = socket.socket(fileno=descriptors[0])
        try:
            pid = os.fork()
        except OSError as error:  # no more processes or memory: say so, and go on with what there is
            endpoint.close()
            self._report(REFUSED, worker, error.errno or 0, [])
            return True
        if pid == 0:
            try:
                self._be_child(command, endpoint, worker, slot)
            except BaseException:  # noqa: BLE001 - the frames above are the zygote's
                traceback.print_exc()
            finally:
                os._exit(1)
        endpoint.close()
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = worker, pid
        self._poll.register(pidfd, select.POLLIN)
        self._report(SPAWNED, worker, pid, [pidfd])
        return True

    def _reap(self, pidfd: int) -> None:
        worker, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _pid, status = os.waitpid(pid, 0)
        self._report(REAPED, worker, os.waitstatus_to_exitcode(status), [])

    def _report(self, kind: int, worker: int, value: int, descriptors: list[int]) -> None:
        message = f"{kind} {worker} {value}\n".encode()
        with contextlib.suppress(ConnectionError):  # the parent is gone; the poll will say so
            socket.send_fds(self._control, [message], descriptors)

    def _be_child(self, command: int, endpoint: socket.socket, worker: int, slot: int) -> None:
        self._control.close()
        os.close(self._life_writer)
        for pidfd in self._children:
            os.close(pidfd)
        if command == TWIN:
            os.close(self._life)
            _Zygote(endpoint, self._ancestry).serve()
            os._exit(0)
        die_when_closed(self._life)
        os.close(self._ancestry.parent_pidfd)
        run_worker(endpoint, self._ancestry, worker, slot)


def framing_command(data: bytes) -> tuple[int, int, int]:
    """Read a command of three numbers."""
    command, worker, slot = map(int, data.split())
    return command, worker, slot


def die_when_closed(pipe: int) -> None:
    """Ask the kernel to kill this process when the pipe's last writer is gone, however busy it is then.

    The descriptor is opened anew, because the owner of its signals belongs to the open file, not to the process.
    """
    own = os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.close(pipe)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([own], [], [], 0)[0]:  # it closed before we asked
        os._exit(1)


_F_SETSIG = 10  # asm-generic/fcntl.h; the fcntl module has no name for it


def run_worker(endpoint: socket.socket, ancestry: Ancestry, worker: int, slot: int) -> None:
    """Be a worker to the end, in a process of its own; finalizers run, then the process ends."""
    from amorsize_executor.worker.main import flush_stdio, work  # noqa: PLC0415

    code = 1
    try:
        name_process(worker, ancestry.parent_pid)
        work(
            endpoint,
            ancestry.board.line(slot),
            ancestry.snapshot,
            ancestry.initializer,
            ancestry.initargs,
            ancestry.depth,
        )
        code = 0
    finally:
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util._exit_function()
        atexit._run_exitfuncs()
        flush_stdio()
        os._exit(code)


def name_process(worker: int, parent_pid: int) -> None:
    """Make ``multiprocessing.current_process()`` and ``parent_process()`` tell the truth."""
    from multiprocessing import process  # noqa: PLC0415

    process._children = set()  # type: ignore[attr-defined]
    current = process.BaseProcess(name=f"AmorsizeWorker-{worker}")
    current._parent_pid = parent_pid  # type: ignore[attr-defined]
    current._popen = None  # type: ignore[attr-defined]
    parent_name = process.current_process().name
    process._current_process = current  # type: ignore[attr-defined]
    process._parent_process = process._ParentProcess(parent_name, parent_pid, None)  # type: ignore[attr-defined]


def load_initializer(codec: Codec, data: Any) -> tuple[Callable[..., object] | None, tuple[Any, ...]]:
    """Unpickle (initializer, initargs); what that raises is raised by the initializer that is returned instead."""
    try:
        initializer, initargs = codec.loads(data)
    except BaseException as error:  # noqa: BLE001 - the parent hears of it as of any failing initializer
        failure = error

        def fail() -> None:
            raise failure

        return fail, ()
    return initializer, initargs


def _import_ahead(names: list[str]) -> None:
    """Import what each worker would import; leave it to them if that is nothing to be shared.

    The kernel ends this process if that takes too long, whoever is still there to see it.
    """
    if not names:
        return
    from amorsize_executor.worker.main import flush_stdio  # noqa: PLC0415

    before = atexit._ncallbacks()
    signal.setitimer(signal.ITIMER_REAL, _MOST_IMPORTING_S)
    for name in names:
        with contextlib.suppress(BaseException):  # whatever it is, a worker's own import will say so to its call
            __import__(name)
    flush_stdio()  # what they print is not each worker's to print
    if len(os.listdir("/proc/self/task")) > 1 or atexit._ncallbacks() != before:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
        flush_stdio()
        os._exit(CANNOT_SHARE)
    signal.setitimer(signal.ITIMER_REAL, 0)


def main(control_descriptor: int) -> NoReturn:
    """Start clean: the first frame on the control socket says what a fork would have inherited."""
    _leave_interrupts_to_the_parent()
    control = socket.socket(fileno=control_descriptor)
    control.setblocking(True)  # noqa: FBT003 - whatever socket.setdefaulttimeout says in the parent
    from amorsize_executor.worker.main import frames_from  # noqa: PLC0415

    _kind, (parent_pid, path, argv, authkey, depth, board, tracker, names), blobs = next(
        frames_from(control.recv_into, framing.FrameReader(ahead=0))  # what follows comes with descriptors
    )
    sys.path[:], sys.argv[:] = path, argv
    multiprocessing.current_process().authkey = authkey
    if tracker:
        from multiprocessing import resource_tracker  # noqa: PLC0415

        resource_tracker._resource_tracker._fd = tracker[0]  # type: ignore[attr-defined]
    initializer, initargs = load_initializer(Codec(None, into_worker=False), blobs)
    _import_ahead(names)
    ancestry = Ancestry(parent_pid, os.pidfd_open(parent_pid), ControlBoard(board), None, initializer, initargs, depth)
    try:
        _Zygote(control, ancestry).serve()
    finally:
        os._exit(0)
