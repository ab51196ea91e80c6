"""Maps of calls that leave no trace start nothing: their caller runs them, as long as that is best."""

import asyncio
import concurrent.futures
import itertools
import os
import time
from types import SimpleNamespace

import numpy as np
import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine import results as iterators
from amorsize_executor.engine.helper import PATIENCE_S
from amorsize_executor.tuning import cost_model


def double(number):
    """Leave no trace."""
    return 2 * number


def power(number):
    """Leave no trace either, but take some milliseconds."""
    return 7**number % 1_000_003


def is_dozing(executor):
    """Tell whether the executor has started neither thread nor process."""
    return not executor._engine.is_started and executor._engine.thread is None and not executor._processes


def test_nothing_is_started_for_cheap_calls():
    """Not by a map, an imap, or one that is closed."""
    with AdaptiveExecutor() as executor:
        assert list(executor.map(double, range(1000))) == [2 * number for number in range(1000)]
        assert list(executor.imap(double, iter(range(1000)))) == [2 * number for number in range(1000)]
        assert sorted(executor.imap_unordered(double, range(100))) == [2 * number for number in range(100)]
        closed = executor.imap(double, range(1000))
        assert next(closed) == 0
        closed.close()
        assert is_dozing(executor)
        assert executor.stats()["calls_run_by_the_caller"] >= 2100
        assert executor.stats()["calls_waiting"] == 0


def test_nothing_is_started_for_small_arrays():
    """Nor for functions that make them."""
    arrays = [np.full(1000, number) for number in range(20)]
    with AdaptiveExecutor() as executor:
        assert list(executor.map(lambda array: int(array.sum()), arrays)) == [1000 * number for number in range(20)]
        assert list(executor.map(lambda number: int(number) + 1, arrays[3][:5])) == [4] * 5
        assert [made.nbytes for made in executor.imap(np.zeros, [1, 2])] == [8, 16]
        assert is_dozing(executor)


def wait_for(data):
    """Take some time with much."""
    time.sleep(0.02)
    return len(data)


def test_calls_that_are_too_dear_to_send_come_back(monkeypatch):
    """Long ones too: once some were sent it is known, and the caller, which only waits by then, is called back."""
    items = [bytes(100_000 + number) for number in range(40)]
    monkeypatch.setattr(cost_model, "byte_cost", lambda *_: 1.0)
    with AdaptiveExecutor(2) as executor:
        assert list(executor.map(wait_for, items)) == [len(item) for item in items]
        assert executor.stats()["calls_run_by_the_caller"] >= 30
    monkeypatch.setattr(cost_model, "byte_cost", lambda *_: 1e-12)
    with AdaptiveExecutor(2) as executor:
        assert list(executor.map(wait_for, items)) == [len(item) for item in items]
        assert executor.stats()["calls_run_by_the_caller"] < 30


def test_a_slow_source_is_not_pulled_until_the_window_is_full(monkeypatch):
    """Who may help does so with what is there, after a millisecond."""
    pulled, clock = [], itertools.count(0, 10)
    monkeypatch.setattr(iterators, "time", SimpleNamespace(monotonic=lambda: next(clock)))  # ten seconds an item
    with AdaptiveExecutor() as executor:
        results = executor.imap(double, (pulled.append(number) or number for number in itertools.count()))
        for number in range(50):
            assert next(results) == 2 * number
            assert len(pulled) == number + 1


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_results_do_not_wait_when_a_quick_source_turns_slow(monkeypatch, method):
    """A backlog that is there at once, and then an item now and then: one of these is waited for, not sixteen."""
    pulled, now_s = [], [0.0]
    monkeypatch.setattr(iterators, "time", SimpleNamespace(monotonic=lambda: now_s[0]))

    def pull():
        for number in itertools.count():
            now_s[0] += 10 * (number >= 5)
            pulled.append(number)
            yield number

    with AdaptiveExecutor() as executor:
        results = getattr(executor, method)(double, map(abs, pull()))
        assert next(results) == 0
        assert len(pulled) == 6
        for number in range(1, 50):
            before = len(pulled)
            assert next(results) == 2 * number
            assert len(pulled) <= before + 1


def test_arrays_of_objects_start_it():
    """What they hold may run anybody's code."""
    arrays = [np.array([1, "a"], dtype=object)]
    with AdaptiveExecutor() as executor:
        assert list(executor.map(lambda array: array.size, arrays)) == [2]
        assert executor._engine.is_started


def test_threads_that_ask_at_once_drop_nothing_of_each_other():
    """Between the look at what nobody wants any more and its removal another thread may ask for calls."""
    with AdaptiveExecutor() as executor, concurrent.futures.ThreadPoolExecutor(1) as other:
        assert list(executor.map(double, range(10))) == [2 * number for number in range(10)]
        engine, others = executor._engine, []
        looks = engine._is_wanted

        def look(entry):
            engine._is_wanted = looks
            is_wanted = looks(entry)
            others.append(other.submit(executor.map, double, range(10, 20)).result())
            return is_wanted

        engine._is_wanted = look
        mine = executor.map(double, range(10))
        assert executor.stats()["calls_waiting"] == 20
        assert list(mine) == [2 * number for number in range(10)]
        assert list(others[0]) == [2 * number for number in range(10, 20)]


@pytest.mark.parametrize("items", [[1, [2]], [object()], [1, True, b"", "", 1.5, None, (1,)]])
def test_items_that_are_not_plain_start_it(items):
    """Operators on anything else may run anybody's code."""
    with AdaptiveExecutor() as executor:
        assert list(executor.map(str, items)) == list(map(str, items))
        assert executor._engine.is_started


def test_calls_that_fail_go_on():
    """An error is raised in its place, and the rest comes after it."""
    with AdaptiveExecutor() as executor:
        numbers = executor.imap(int, ["1", "x", "3"], on_error="return")
        assert [type(value) for value in numbers] == [int, ValueError, int]
        results = executor.map(int, ["1", "x", "3"])
        assert next(results) == 1
        with pytest.raises(ValueError, match="invalid literal"):
            next(results)
        assert list(results) == [3]
        assert is_dozing(executor)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core is the caller's own")
def test_costly_calls_wake_it():
    """What takes longer than a caller should work alone gets workers."""
    with AdaptiveExecutor() as executor:
        assert list(executor.map(power, [100_000 + number for number in range(200)])) == [
            pow(7, 100_000 + number, 1_000_003) for number in range(200)
        ]
        assert executor._engine.is_started
        assert executor.stats()["workers_started"] > 0
    assert PATIENCE_S < 0.01


def test_a_submitted_call_wakes_it():
    """And takes along what was asked for before."""
    with AdaptiveExecutor() as executor:
        results = executor.map(double, range(100))
        assert executor.submit(double, 1).result() == 2
        assert list(results) == [2 * number for number in range(100)]


def test_a_deadline_wakes_it():
    """A caller that may not help has others do it."""
    with AdaptiveExecutor() as executor:
        assert list(executor.map(double, range(10), timeout=30)) == [2 * number for number in range(10)]
        assert executor._engine.is_started


def test_inside_an_event_loop():
    """Where callers do not help, it is woken when results are wanted."""

    async def collect(executor):
        return list(executor.map(double, range(10)))

    with AdaptiveExecutor() as executor:
        assert asyncio.run(collect(executor)) == [2 * number for number in range(10)]
        assert executor._engine.is_started


@pytest.mark.parametrize("wait", [True, False])
def test_results_come_after_a_shutdown(wait):
    """Whoever asks runs what is left, in an event loop too."""

    async def collect(results):
        return list(results)

    executor = AdaptiveExecutor()
    first, second, lazy = (executor.map(double, range(10)) for _ in range(3))
    lazy = executor.imap(double, range(100), buffersize=4)
    assert next(lazy) == 0
    executor.shutdown(wait=wait)
    assert list(first) == [2 * number for number in range(10)]
    assert asyncio.run(collect(second)) == [2 * number for number in range(10)]
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(lazy)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(double, range(10))
    assert is_dozing(executor)


def test_what_was_not_asked_for_is_cancelled_on_request():
    """As for any map."""
    executor = AdaptiveExecutor()
    results = executor.map(double, range(10))
    executor.shutdown(cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        list(results)


def test_threads_share_it():
    """Two maps in two threads, and one map in two."""
    with AdaptiveExecutor() as executor, concurrent.futures.ThreadPoolExecutor(4) as threads:
        shared = executor.map(double, range(10_000))
        parts = [threads.submit(lambda: list(iter(shared.__next__, None))) for _ in range(2)]
        own = [threads.submit(lambda: list(executor.map(double, range(10_000)))) for _ in range(2)]
        expected = [2 * number for number in range(10_000)]
        assert all(future.result() == expected for future in own)
        got = []
        for part in parts:
            error = part.exception()
            assert error is None or isinstance(error, StopIteration)
            got += [] if error else part.result()
        assert set(got) <= set(expected)


def test_maps_that_are_done_are_forgotten():
    """A thousand of them leave one entry at most."""
    with AdaptiveExecutor() as executor:
        for _ in range(1000):
            list(executor.map(double, range(3)))
        assert len(executor._engine._intake) <= 1
        assert is_dozing(executor)
