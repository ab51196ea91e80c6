"""Threads that run calls beside a helping caller, where nobody can tell and the interpreter's lock is let go."""

import hashlib
import threading
import time

import numpy as np
import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine import company, helper
from amorsize_executor.records import Lane
from amorsize_executor.tuning.machine import Machine

BLOCKS = [bytes([number]) * 400_000 for number in range(64)]
DIGESTS = [hashlib.sha256(block).hexdigest() for block in BLOCKS]


def digest(data):
    """Leave no trace, and let go of the interpreter's lock."""
    return hashlib.sha256(data).hexdigest()


def total(array):
    """The same, with an array."""
    return float(array.sum())


def dot(array):
    """Add something to the argument, in place: but what is another call's stays as it is."""
    array += 1
    return int(array[0]) + 1 // int(array[1])


@pytest.fixture
def at_once(monkeypatch):
    """Have company called after the first batch, on a machine with four cores, and call it good."""
    monkeypatch.setattr(helper, "PATIENCE_S", 0.0)
    monkeypatch.setattr(company, "_LEAST_SHARE", 0.0)

    def executor(**options):
        made = AdaptiveExecutor(**options)
        made._engine.tuner.machine = Machine(4, 4, 1 << 33, 1 << 33)
        return made

    return executor


def companies_of(executor):
    """Return how many threads share the calls of each stream that had company, its caller among them."""
    return [made.callers for made in executor._engine.helper._companies if made.callers > 1]


def test_calls_are_shared(at_once):
    """By as many threads as there are cores; results come in order, and no thread is left."""
    with at_once() as executor:
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
        assert companies_of(executor) == [4]
        assert [(each.before, each.after) for each in executor.decisions()] == [("caller", "threads")]
        assert executor.plan.lane is Lane.THREADS
        assert executor.plan.workers == 4
        assert executor.stats()["calls_run_by_the_caller"] == len(BLOCKS)
        assert not executor._engine.is_started
        assert "lock" in executor.report()
    assert not any(thread.name.startswith("amorsize") for thread in threading.enumerate())


def test_arrays_are_shared(at_once):
    """As long as no two of them have memory in common."""
    arrays = [np.full(50_000, number) for number in range(64)]
    with at_once() as executor:
        assert list(executor.map(total, arrays)) == [50_000.0 * number for number in range(64)]
        assert companies_of(executor) == [4]


@pytest.mark.parametrize(
    ("options", "items"),
    [
        ({}, [np.ones(50_000)] * 64),
        ({}, [np.ones(50_000)[::2] for _ in range(64)]),
        ({}, [np.ones(50_000, dtype=object) for _ in range(8)]),
        ({"max_workers": 1}, [np.ones(50_000) for _ in range(64)]),
        ({"isolate": True}, [np.ones(50_000) for _ in range(64)]),
        ({"backend": "caller"}, [np.ones(50_000) for _ in range(64)]),
        ({"backend": "thread"}, [np.ones(50_000) for _ in range(64)]),
    ],
    ids=["the same", "scattered", "objects", "one worker", "isolated", "caller", "threads"],
)
def test_calls_are_not_shared(at_once, options, items):
    """Where what they do could be told, or the user wants fewer at a time, or another place."""
    with at_once(**options) as executor:
        assert list(executor.map(total, items)) == [float(item.sum()) for item in items]
        assert companies_of(executor) == []


def test_calls_of_other_functions_are_not_shared(at_once):
    """Those that keep the lock, and those of which code does not tell that they leave no trace."""
    with at_once() as executor:
        assert list(executor.map(lambda number: 7**number % 5, range(1000))) == [7**n % 5 for n in range(1000)]
        assert list(executor.map(lambda block: [digest(block)], BLOCKS)) == [[each] for each in DIGESTS]
        assert companies_of(executor) == []


def test_streams_are_not_shared(at_once):
    """What they pull may be anything, and it comes in small portions."""
    with at_once() as executor:
        assert list(executor.imap(digest, iter(BLOCKS))) == DIGESTS
        assert companies_of(executor) == []


def test_errors_stay_with_their_calls(at_once):
    """Whichever thread has run them; what others change in their arguments is their own."""
    arrays = [np.array([number, number % 5 - 1]) for number in range(40)]
    with at_once() as executor:
        results = executor.map(dot, arrays)
        taken = []
        while len(taken) < 40:
            try:
                taken.append(next(results))
            except ZeroDivisionError:
                taken.append("error")
        assert companies_of(executor) == [4]
    wanted = ["error" if n % 5 == 0 else n + 1 + 1 // (n % 5) for n in range(40)]
    assert taken == wanted


def test_those_that_stand_in_line_for_the_lock_go(at_once, monkeypatch):
    """They are of no use, and are not asked again for that function."""
    monkeypatch.setattr(company, "_LEAST_SHARE", 1e9)
    monkeypatch.setattr(company, "_TRIAL_S", 0.0)
    with at_once() as executor:
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
        assert companies_of(executor) == [4]
        assert all(made.is_over for made in executor._engine.helper._companies)
        executor._engine.helper._companies.clear()
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
        assert companies_of(executor) == []


def test_those_that_proved_useful_come_at_once(at_once, monkeypatch):
    """The next map of the same function does not wait until it has taken long."""
    monkeypatch.setattr(company, "_TRIAL_S", 0.0)
    with at_once() as executor:
        assert list(executor.map(digest, BLOCKS)) == DIGESTS
        monkeypatch.setattr(helper, "PATIENCE_S", 0.001)
        stream = executor.map(digest, BLOCKS)
        assert next(stream) == DIGESTS[0]
        assert companies_of(executor)[-1] == 4
        assert list(stream) == DIGESTS[1:]


def test_results_that_nobody_asks_for_end_with_the_executor(at_once):
    """No thread goes on behind a shutdown, or behind a closed iterator; what was not begun never will be."""
    with at_once() as executor:
        results = executor.map(digest, BLOCKS * 20)
        assert next(results) == DIGESTS[0]
        results.close()
        others = executor.map(digest, BLOCKS * 20)
        assert next(others) == DIGESTS[0]
    assert not any(thread.name.startswith("amorsize") for thread in threading.enumerate())
    assert list(others) == (DIGESTS * 20)[1:]  # its caller runs them, as ever
    assert executor.stats()["calls_done"] < 2 * 20 * len(BLOCKS)


def test_where_there_is_no_room_for_threads(at_once, monkeypatch):
    """The caller runs its calls alone."""

    def refuse(_thread):
        message = "can't start new thread"
        raise RuntimeError(message)

    with at_once() as executor:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert list(executor.map(digest, BLOCKS)) == DIGESTS


def test_many_maps_at_once(at_once):
    """Of several consumers, each with company of its own."""
    with at_once() as executor:
        results = {}

        def consume(number):
            results[number] = list(executor.map(digest, BLOCKS[number:]))

        threads = [threading.Thread(target=consume, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {number: DIGESTS[number:] for number in range(5)}


def test_workers_and_company_share_a_map(at_once):
    """Where the executor was started for something else, workers take what waits; no call is lost or run twice."""
    with at_once() as executor:
        assert executor.submit(time.sleep, 0).result() is None
        for _ in range(5):
            assert list(executor.map(digest, BLOCKS * 2)) == DIGESTS * 2
        assert executor.stats()["calls_done"] == 1 + 10 * len(BLOCKS)
