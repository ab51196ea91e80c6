"""The least code that could do the same work: what no pool in Python can be faster than.

Run by ``probes``, each in a process of its own; each function returns seconds.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.benchmarks import tasks

if TYPE_CHECKING:
    from tests.benchmarks.probes import Amount

ARRAY_BYTES = 4_000_000
PAIR = 2
CREW = 16


def fork_and_serve(serve: Callable[[socket.socket], None]) -> tuple[socket.socket, int]:
    """Fork a process that serves one end of a pair of sockets; return the other end and the process's id."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        serve(theirs)
        os._exit(0)
    theirs.close()
    return ours, pid


def end(connection: socket.socket, pid: int) -> None:
    """Hang up, and wait for the process to end."""
    connection.close()
    os.waitpid(pid, 0)


def median_time(action: Callable[[], object], count: int) -> float:
    """Return the median seconds of ``count`` repetitions."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return median(times)


def socket_round_trip(amount: Amount) -> float:
    """One pickled call to a forked process and its result back, no thread anywhere."""

    def serve(connection: socket.socket) -> None:
        while data := connection.recv(4096):
            function, number = pickle.loads(data)
            connection.sendall(pickle.dumps(function(number), 5))

    connection, pid = fork_and_serve(serve)

    def ask() -> Any:
        connection.sendall(pickle.dumps((tasks.inc, 1), 5))
        return pickle.loads(connection.recv(4096))

    assert ask() == 2
    median_time(ask, amount(300))
    seconds = median_time(ask, amount(3000))
    end(connection, pid)
    return seconds


def futures_alone(amount: Amount) -> float:
    """A ``Future`` a call that is made, resolved in the same thread and read: no call, no other process."""
    count = amount(20_000)

    def turn() -> None:
        futures: list[Future[int]] = [Future() for _ in range(count)]
        for number, future in enumerate(futures):
            future.set_result(number)
        for future in futures:
            future.result()

    turn()
    return median_time(turn, 3) / count


def forked_pair(_amount: Amount) -> float:
    """Two forked processes that answer once and end."""
    began = time.perf_counter()
    crew = [fork_and_serve(lambda connection: connection.sendall(connection.recv(16))) for _ in range(PAIR)]
    for connection, _ in crew:
        connection.sendall(b"?")
    for connection, pid in crew:
        assert connection.recv(16) == b"?"
        end(connection, pid)
    return time.perf_counter() - began


def forked_crew(_amount: Amount) -> float:
    """Sixteen times ``os.fork`` of a process of this size, ``os._exit`` and ``os.waitpid``."""
    began = time.perf_counter()
    pids = []
    for _ in range(CREW):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return time.perf_counter() - began


def forked_crew_with_numpy(amount: Amount) -> float:
    """Import NumPy once, then fork sixteen times."""
    began = time.perf_counter()
    import numpy as np

    assert np.__name__ == "numpy"
    return time.perf_counter() - began + forked_crew(amount)


def memory_copy(amount: Amount) -> float:
    """Copy an array of 4 MB into memory that was used before."""
    import numpy as np

    source, target = np.ones(ARRAY_BYTES, np.uint8), np.ones(ARRAY_BYTES, np.uint8)
    median_time(lambda: np.copyto(target, source), amount(50))
    return median_time(lambda: np.copyto(target, source), amount(1000))


def segment_copy(amount: Amount) -> float:
    """Copy an array of 4 MB into a mapped memfd that was used before."""
    import numpy as np

    descriptor = os.memfd_create("floor")
    os.ftruncate(descriptor, ARRAY_BYTES)
    mapped = mmap.mmap(descriptor, ARRAY_BYTES)
    source, target = np.ones(ARRAY_BYTES, np.uint8), np.frombuffer(mapped, np.uint8)
    median_time(lambda: np.copyto(target, source), amount(50))
    return median_time(lambda: np.copyto(target, source), amount(1000))


def fresh_segment_copy(amount: Amount) -> float:
    """Copy an array of 4 MB into a memfd that is made, mapped and let go of each time."""
    import numpy as np

    source = np.ones(ARRAY_BYTES, np.uint8)

    def copy() -> None:
        descriptor = os.memfd_create("floor")
        os.ftruncate(descriptor, ARRAY_BYTES)
        with mmap.mmap(descriptor, ARRAY_BYTES) as mapped:
            mapped[:] = source.data
        os.close(descriptor)

    return median_time(copy, amount(200))


def segment_round_trip(amount: Amount) -> float:
    """Copy an array of 4 MB into a mapped memfd, tell a forked process by a byte, and hear back, no pickle."""
    import numpy as np

    descriptor = os.memfd_create("floor")
    os.ftruncate(descriptor, ARRAY_BYTES)
    mapped = mmap.mmap(descriptor, ARRAY_BYTES)

    def serve(connection: socket.socket) -> None:
        array = np.frombuffer(mapped, np.uint8)
        while connection.recv(1):
            connection.sendall(bytes([array[-1]]))

    source, target = np.ones(ARRAY_BYTES, np.uint8), np.frombuffer(mapped, np.uint8)
    connection, pid = fork_and_serve(serve)

    def ask() -> bytes:
        np.copyto(target, source)
        connection.sendall(b"?")
        return connection.recv(1)

    assert ask() == b"\1"
    median_time(ask, amount(50))
    seconds = median_time(ask, amount(1000))
    end(connection, pid)
    return seconds


FLOORS: dict[str, Callable[[Amount], float]] = {
    f"floor.{measure.__name__}": measure
    for measure in (
        *(socket_round_trip, futures_alone, forked_pair, forked_crew, forked_crew_with_numpy),
        *(memory_copy, segment_copy, fresh_segment_copy, segment_round_trip),
    )
}
