"""A worker that will soon have done its chunk has the next one in hand already."""

from __future__ import annotations

from functools import partial

import pytest

from amorsize_executor import AdaptiveExecutor
from tests import payloads
from tests.processes import poll_until

LIMIT_S = 30
_kept: list[bytes] = []


def in_hand(executor):
    """Return how many calls are with workers."""
    return executor.stats()["calls_running"]


@pytest.fixture
def blocking(tmp_path):
    """Return a call that is known to be cheap and waits for a file now, with the file."""
    present, absent = tmp_path / "present", tmp_path / "absent"
    present.touch()
    return present, absent


@pytest.mark.parametrize(("options", "expected"), [({}, 4), ({"max_tasks_per_child": 1000}, 2)])
def test_two_chunks_are_with_a_worker(blocking, options, expected):
    """But not where workers end after a number of calls, which those on their way do not count for."""
    present, absent = blocking
    with AdaptiveExecutor(1, isolate=True, chunksize=2, **options) as executor:
        assert list(executor.map(payloads.wait_for_file, [present] * 20)) == [None] * 20
        results = executor.map(payloads.wait_for_file, [absent] * 10)
        assert poll_until(lambda: in_hand(executor) == expected, LIMIT_S)
        assert executor.stats()["calls_waiting"] == 10 - expected
        absent.touch()
        assert list(results) == [None] * 10


def test_long_calls_stay_for_whoever_is_free_first(tmp_path):
    """What takes longer than the dispatcher looks away is not sent ahead."""
    with AdaptiveExecutor(1, isolate=True, chunksize=1) as executor:
        assert list(executor.map(payloads.sleep_return, [0.1, 0.1])) == [None, None]
        absent = tmp_path / "absent"
        futures = [executor.submit(payloads.sleep_return, 0.1) for _ in range(3)]
        futures.append(executor.submit(payloads.wait_for_file, absent))
        assert futures[0].result() is None
        assert in_hand(executor) <= 1
        absent.touch()
        assert all(future.result() is None for future in futures)


@pytest.mark.parametrize("chunksize", [2, 9])
def test_what_was_sent_ahead_is_taken_back(blocking, chunksize):
    """Whoever has nothing to do gets all that another one holds and does not begin, of both chunks, half by half."""
    present, absent = blocking
    with AdaptiveExecutor(2, isolate=True, chunksize=chunksize) as executor:
        assert list(executor.map(payloads.wait_for_file, [present] * 40)) == [None] * 40
        paths = [absent] + [present] * 30
        results = executor.imap_unordered(partial(payloads.wait_for_file), paths, range(31))
        assert {next(results) for _ in range(30)} == set(range(1, 31))
        absent.touch()
        assert list(results) == [0]


def hoard_after(path, mib):
    """Wait for a file, and keep so much for good."""
    payloads.wait_for_file(path)
    _kept.append(b"\1" * (mib << 20))


def test_a_worker_that_has_grown_retires_once(blocking):
    """Though it runs what was sent ahead before it ends."""
    present, absent = blocking
    with AdaptiveExecutor(1, isolate=True, chunksize=1, max_memory=32 << 20) as executor:
        assert list(executor.map(hoard_after, [present] * 20, [0] * 20)) == [None] * 20
        results = executor.map(hoard_after, [absent] * 2, [64, 0])
        assert poll_until(lambda: in_hand(executor) == 2, LIMIT_S)
        absent.touch()
        assert list(results) == [None] * 2
    assert executor.stats()["workers_retired"] == 1


def test_each_call_runs_once_where_workers_die(tmp_path):
    """What a dead worker had in hand runs elsewhere, of both chunks, and only the call that ran is suspected."""
    counts = tmp_path / "counts"
    with AdaptiveExecutor(2, isolate=True, chunksize=3, worker_death_retries=0) as executor:
        list(executor.map(payloads.count_execution, [counts] * 30, ["warm"] * 30))
        keys = [str(number) for number in range(60)]
        results = executor.map(payloads.count_execution, [counts] * 60, keys)
        fatal = executor.options(priority=1).submit(payloads.kill_self)
        assert list(results) == keys
        assert fatal.exception() is not None
    ran = [key for key in payloads.read_executions(counts) if key != "warm"]
    assert set(ran) == set(keys)
