"""What calls cost in pickles, bytes, system calls, wake-ups and processes: counted, since counts tell no noise.

Bounds lie half-way to the double of what is: whoever makes it twice as bad sees a test fail. Where a count depends a
little on the moment (a worker sends what it has after some milliseconds of work), many chunks are counted at once.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections import Counter

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine.reactor import EventLoop
from tests import payloads
from tests.conftest import HAS_PROC
from tests.processes import descendants

CHUNKS, CALLS = 200, 100
pytestmark = pytest.mark.skipif(not HAS_PROC, reason="counts what a zygote and its workers need, found through /proc")
LARGE = 200_000  # bytes: such a callable stays loaded in a worker


@pytest.fixture
def counts(monkeypatch):
    """Count this process's calls of sockets, with their bytes, its dispatcher's wake-ups, and what it starts."""
    counted = Counter()
    owner = os.getpid()

    def wrap(holder, name, key, *, bytes_too=False):
        original = getattr(holder, name)

        def counting(*args, **kwargs):
            if os.getpid() != owner:
                return original(*args, **kwargs)
            counted[key] += 1
            answer = original(*args, **kwargs)
            if bytes_too:
                counted[f"{key} bytes"] += answer[0] if isinstance(answer, tuple) else answer
            return answer

        monkeypatch.setattr(holder, name, counting)

    for name in ("sendmsg", "send", "recv_into"):
        wrap(socket.socket, name, name, bytes_too=True)
    wrap(socket.socket, "recvmsg_into", "recv_into", bytes_too=True)
    wrap(EventLoop, "wait", "wake-up")
    wrap(os, "fork", "process")
    wrap(subprocess.Popen, "__init__", "process")
    wrap(threading.Thread, "start", "thread")
    return counted


@pytest.fixture
def counted(monkeypatch):
    """Return the class of callables that count their pickles, at zero."""
    monkeypatch.setattr(payloads.Counted, "pickled", 0)
    return payloads.Counted


# --- Functions --------------------------------------------------------------------------------------------------


def test_a_map_pickles_its_function_once(counted):
    """However many workers and chunks a map has, its function is pickled once, and unpickled once a worker."""
    with AdaptiveExecutor(2, isolate=True, min_workers=2, chunksize=5) as executor:
        answers = list(executor.map(counted(LARGE), range(400)))
    assert counted.pickled == 1
    assert {loads for _, loads in answers} == {1}


def test_a_map_in_the_caller_pickles_nothing(counted):
    """Cheap calls that stay in the caller's thread need no pickle."""
    function = counted(LARGE)
    with AdaptiveExecutor() as executor:
        assert list(executor.map(function, range(200))) == [(os.getpid(), 0)] * 200
    assert counted.pickled == 0


def test_a_large_function_ships_once_a_worker(counted, counts):
    """A callable that is submitted again and again, unchanged, travels once to a worker."""
    function = counted(LARGE)
    with AdaptiveExecutor(1, isolate=True) as executor:
        for number in range(20):
            assert executor.submit(function, number).result()[1] == 1
    assert counted.pickled == 20  # each time a snapshot is taken
    assert LARGE < counts["sendmsg bytes"] < 1.1 * LARGE


# --- The wire ---------------------------------------------------------------------------------------------------


@pytest.fixture
def map_counts(counts):
    """Return what a map of 200 chunks of 100 tiny calls costs that finds its worker warm."""
    with AdaptiveExecutor(1, isolate=True, chunksize=CALLS) as executor:
        list(executor.map(payloads.square, range(CALLS)))
        counts.clear()
        assert list(executor.map(abs, range(CHUNKS * CALLS)))[-1] == CHUNKS * CALLS - 1
        steady = Counter(counts)
        assert executor.stats()["chunks"] == CHUNKS + 1
    return steady


def test_bytes_of_a_tiny_call(map_counts):
    """A small integer takes three to five bytes on its way, and its chunk's frame less than one a call."""
    calls = CHUNKS * CALLS
    assert calls < map_counts["sendmsg bytes"] < 5.5 * calls
    assert calls < map_counts["recv_into bytes"] < 6.5 * calls


def test_system_calls_of_a_chunk(map_counts):
    """A chunk leaves in one system call; its outcomes come in one, or with those of the chunk that was sent ahead."""
    assert CHUNKS <= map_counts["sendmsg"] < 1.5 * CHUNKS
    assert CHUNKS / 2 <= map_counts["recv_into"] < 1.5 * CHUNKS
    assert map_counts["send"] == 0


def test_wake_ups_of_a_chunk(map_counts):
    """The dispatcher wakes once a chunk: the outcomes of one make it send the next."""
    assert map_counts["wake-up"] < 1.5 * CHUNKS


def test_what_a_single_call_costs(counts):
    """A call alone costs one system call out, three in, two wake-ups, and less than 300 bytes both ways."""
    trips = 200
    with AdaptiveExecutor(1, isolate=True) as executor:
        executor.submit(payloads.square, 2).result()
        counts.clear()
        for number in range(trips):
            executor.submit(payloads.square, number).result()
        steady = Counter(counts)
    assert trips <= steady["sendmsg"] < 1.5 * trips
    assert trips <= steady["recv_into"] < 1.5 * trips
    assert steady["wake-up"] < 3 * trips
    assert steady["sendmsg bytes"] + steady["recv_into bytes"] < 300 * trips


def test_what_an_array_costs_the_socket(counts):
    """A large array travels beside the socket: once its segment is known, it costs there what any call does."""
    import numpy as np

    trips, array = 50, np.arange(100_000)
    with AdaptiveExecutor(1, isolate=True) as executor:
        for number in range(trips + 5):
            if number == 5:
                counts.clear()
            assert executor.submit(payloads.identity, array).result()[-1] == 99_999
        steady = Counter(counts)
    assert steady["sendmsg"] < 1.5 * trips
    assert steady["recv_into"] < 1.5 * trips
    assert steady["sendmsg bytes"] + steady["recv_into bytes"] < 1200 * trips


# --- Processes and threads --------------------------------------------------------------------------------------


def test_small_and_cheap_work_starts_no_worker(counts):
    """A map of tiny calls makes at most the zygote, starts at most the dispatcher, and sends nothing."""
    with AdaptiveExecutor() as executor:
        assert list(executor.map(abs, range(200))) == list(range(200))
        assert executor.stats()["workers_started"] == 0
    assert counts["process"] <= 1
    assert counts["thread"] <= 1
    assert counts["sendmsg"] == 0


def test_small_and_cheap_work_starts_nothing(counts):
    """A map of tiny calls starts no process and no thread."""
    with AdaptiveExecutor() as executor:
        assert list(executor.map(abs, range(200))) == list(range(200))
    assert (counts["process"], counts["thread"]) == (0, 0)


def test_two_workers_take_four_processes(counts):
    """Two workers, their zygote and soon its twin are all; this process makes one of them, and one thread."""
    before = set(descendants())
    with AdaptiveExecutor(2, isolate=True, min_workers=2) as executor:
        for _ in range(3):
            list(executor.map(payloads.square, range(100)))
        assert executor.stats()["workers_started"] == 2
        assert len(set(descendants()) - before) <= 4
    assert counts["process"] == 1
    assert counts["thread"] == 1


def test_beside_threads_cheap_calls_start_no_process(counts):
    """A clean zygote inherits nothing, so it is started when the first worker is; and then there is one."""
    hold = threading.Event()
    beside = threading.Thread(target=hold.wait)
    beside.start()
    try:
        with AdaptiveExecutor() as executor:
            assert list(executor.map(payloads.identity, [[1]] * 100)) == [[1]] * 100
        assert counts["process"] == 0
        with AdaptiveExecutor(2, isolate=True) as executor:
            assert list(executor.map(payloads.identity, range(10))) == list(range(10))
        assert counts["process"] == 1
    finally:
        hold.set()
        beside.join()
