"""How a worker begins that a multiprocessing context has started."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from multiprocessing.connection import Connection

from amorsize_executor.wire.main_module import MainSnapshot
from amorsize_executor.wire.spawning import Initializer
from amorsize_executor.worker.control_word import ControlBoard
from amorsize_executor.worker.main import work

if sys.platform == "linux":
    from amorsize_executor.worker.zygote import die_when_closed


def start_in_context(
    connection: socket.socket,
    board: ControlBoard,
    slot: int,
    snapshot: MainSnapshot | None,
    initializer: Initializer,
    depth: int,
    life: Connection,
    foreign: list[int],
    start_method: str | None,
) -> None:
    """Be a worker until the parent hangs up.

    Args:
        connection: The worker's end of its pipe.
        board: The shared memory of control lines.
        slot: Which line is this worker's.
        snapshot: The ``__main__`` of a fork, or None.
        initializer: Runs before anything else, if it holds a function.
        depth: How many executors are above the parent.
        life: A pipe that nobody writes to; its other end is open as long as the parent lives.
        foreign: Descriptors of the parent's pipes that a fork has brought along; silenced here, or no worker would
            notice that the parent is gone.
        start_method: What the parent's multiprocessing starts processes by; None for the system's default. It is that
            of calls that start processes, too, whatever has started this one.
    """
    if multiprocessing.get_start_method(allow_none=True) == "loky":
        multiprocessing.set_start_method(start_method, force=True)
    if foreign:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in foreign:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
    if sys.platform == "linux":
        die_when_closed(os.dup(life.fileno()))
    work(connection, board.line(slot), snapshot, initializer.function, initializer.args, depth)
