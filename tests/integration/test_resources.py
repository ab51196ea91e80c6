"""What the tuner makes of real memory and real neighbours."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections import Counter

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine import staffing
from tests import payloads

pytestmark = pytest.mark.slow

MIB = 1 << 20
_kept: list[bytes] = []


def hoard(number):
    """Keep 16 MiB for good, and say by which process."""
    _kept.append(b"\1" * (16 * MIB))
    return number, os.getpid()


def end_late(fifo):
    """Have this process wait for somebody before it ends; return its id."""
    atexit.register(fifo.read_bytes)
    return os.getpid()


def crunch(count):
    """Compute for a millisecond or two."""
    return sum(number * number for number in range(count))


@pytest.mark.parametrize("isolate", [True, False])
def test_workers_that_have_grown_are_replaced(isolate):
    """Between chunks, once they have grown past their share of ``max_memory``; no call is lost by it."""
    with AdaptiveExecutor(max_workers=2, max_memory=96 * MIB, chunksize=1, isolate=isolate) as executor:
        if not isolate:
            executor.submit(payloads.square, 1).result()
        results = [future.result() for future in [executor.submit(hoard, number) for number in range(30)]]
        numbers, places = zip(*results)
        assert numbers == tuple(range(30))
        by_workers = Counter(place for place in places if place != os.getpid())
        assert all(count <= 8 for count in by_workers.values()), by_workers
        assert by_workers.total() == 30 or not isolate
        assert executor.stats()["workers_retired"] >= len(by_workers) - 2  # two at a time, of whom the last may go on
    _kept.clear()


def test_workers_that_end_have_a_line_still(monkeypatch):
    """Their successors wait for it, if there is no other one, instead of breaking the executor."""
    monkeypatch.setattr(staffing, "MOST_AT_ONCE", 4)
    with AdaptiveExecutor(4, min_workers=4, isolate=True, max_tasks_per_child=1) as executor:
        del executor._engine.backend._spawner._free_slots[4:]
        assert list(executor.map(payloads.square, range(30))) == [number * number for number in range(30)]


def test_workers_that_end_are_not_counted(tmp_path):
    """A worker that takes no more calls is none of the pool's processes, however long its end takes."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with AdaptiveExecutor(1, isolate=True, max_tasks_per_child=1) as executor:
        first = executor.submit(end_late, fifo).result()
        try:
            second = executor.submit(os.getpid).result()
            assert first != second
            assert first not in executor._processes
            os.kill(first, 0)  # it is there still
        finally:
            fifo.write_bytes(b"")


@pytest.mark.slow
def test_a_busy_neighbour_breeds_no_workers():
    """Work that only computes stands in line beside others; that is no waiting, so nobody joins it."""
    cores = len(os.sched_getaffinity(0))
    burn = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(burn) for _ in range(2 * cores)]
    try:
        with AdaptiveExecutor(isolate=True) as executor:
            assert sum(executor.map(crunch, [20_000] * 600)) == 600 * crunch(20_000)
            workers = [decision for decision in executor.decisions() if decision.what == "workers"]
            assert executor.stats()["workers_started"] <= cores, workers
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
