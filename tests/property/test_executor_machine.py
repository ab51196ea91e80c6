"""Law: in whatever order: every future resolves, each value is right and delivered once, and nothing stays."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amorsize_executor import AdaptiveExecutor
from tests import payloads
from tests.conftest import Belongings, find_leaks
from tests.processes import descendants, is_gone, poll_until

LIMIT_S = 30
IS_LONG = bool(os.environ.get("AMORSIZE_LONG_PROPERTY"))
RETRIES = 1_000  # no call of these is to blame for a death


def work(number: int, microseconds: int) -> int:
    """Take a moment, then square."""
    payloads.spin(microseconds)
    return number * number


def square_slowly(number: int) -> int:
    """Take a moment, then square; one argument, for maps."""
    return work(number, number % 7 * 100)


class _Mapped:
    """A stream of results and what has been seen of it."""

    def __init__(self, results: Iterator[int], count: int, *, is_ordered: bool) -> None:
        self.results = results
        self.count = count
        self.is_ordered = is_ordered
        self.received: list[int] = []
        self.has_ended = False

    def take(self, count: int) -> None:
        """Take so many results at most, and check each one."""
        for _ in range(count):
            try:
                value = next(self.results)
            except StopIteration:
                self.has_ended = True
                assert len(self.received) == self.count
                return
            except (CancelledError, RuntimeError):
                self.has_ended = True
                return
            self.received.append(value)
            if self.is_ordered:
                assert value == (len(self.received) - 1) ** 2
        assert len(set(self.received)) == len(self.received), "a value was delivered twice"
        assert set(self.received) <= {n * n for n in range(self.count)}


class ExecutorMachine(RuleBasedStateMachine):
    """One executor at a time, used and abused."""

    def __init__(self) -> None:
        super().__init__()
        gc.collect()
        self.before = Belongings.now()
        self.seen: set[int] = set()
        self.old: list[AdaptiveExecutor] = []
        self.begin()

    def begin(self) -> None:
        """Start afresh."""
        self.executor = AdaptiveExecutor(max_workers=3, isolate=True, worker_death_retries=RETRIES)
        self.futures: list[tuple[Future[int], int]] = []
        self.streams: list[_Mapped] = []
        self.is_shut_down = False

    # --- using it ---

    @precondition(lambda self: not self.is_shut_down)
    @rule(count=st.integers(1, 30), microseconds=st.sampled_from([0, 0, 100, 2_000]))
    def submit(self, count, microseconds):
        """Submit calls."""
        start = len(self.futures)
        for number in range(start, start + count):
            self.futures.append((self.executor.submit(work, number, microseconds), number))

    @precondition(lambda self: not self.is_shut_down)
    @rule(
        method=st.sampled_from(["map", "imap", "imap_unordered"]),
        count=st.integers(0, 200),
        buffersize=st.sampled_from([None, 1, 5, 50]),
        chunksize=st.sampled_from([None, 1, 3, 100]),
        taken=st.integers(0, 20),
    )
    def map(self, method, count, buffersize, chunksize, taken):
        """Start a map and take the first results."""
        function = getattr(self.executor, method)
        results = function(square_slowly, iter(range(count)), buffersize=buffersize, chunksize=chunksize)
        self.streams.append(_Mapped(results, count, is_ordered=method != "imap_unordered"))
        self.streams[-1].take(taken)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), taken=st.integers(1, 60))
    def take(self, data, taken):
        """Take more results of some map."""
        stream = data.draw(st.sampled_from(self.streams))
        if not stream.has_ended:
            stream.take(taken)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), how=st.sampled_from(["close", "drop"]))
    def leave(self, data, how):
        """Close or drop a map that may be half consumed."""
        stream = self.streams.pop(data.draw(st.integers(0, len(self.streams) - 1)))
        if how == "close":
            stream.results.close()
        del stream

    @precondition(lambda self: self.futures)
    @rule(seed=st.integers(0, 1_000))
    def cancel(self, seed):
        """Cancel some futures, some of them twice."""
        rng = random.Random(seed)
        for future, _number in rng.choices(self.futures, k=3):
            cancelled = future.cancel()
            assert cancelled == future.cancelled()

    @precondition(lambda self: self.futures)
    @rule(data=st.data())
    def ask(self, data):
        """Wait for a future."""
        future, number = data.draw(st.sampled_from(self.futures))
        self.check(future, number)

    # --- abusing it ---

    @rule(seed=st.integers(0, 1_000))
    def kill_a_worker(self, seed):
        """Kill some worker."""
        self.kill(seed, list(self.executor._processes))

    @rule(victim=st.sampled_from(["_zygote", "_twin"]))
    def kill_an_ancestor(self, victim):
        """Kill the zygote, or its twin."""
        spawner = self.executor._engine.backend._spawner
        self.kill(0, [getattr(getattr(spawner, victim, None), "pid", 0)])

    def kill(self, seed, pids):
        """Kill one of the processes."""
        pids = [pid for pid in pids if pid > 0 and not is_gone(pid)]
        if pids and not self.executor._engine.has_ended:
            pid = random.Random(seed).choice(pids)
            self.seen.add(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    # --- ending it ---

    @precondition(lambda self: not self.is_shut_down)
    @rule(cancel_futures=st.booleans(), is_waiting=st.booleans())
    def shut_down(self, cancel_futures, is_waiting):
        """Shut the executor down."""
        self.is_shut_down = True
        self.executor.shutdown(wait=is_waiting, cancel_futures=cancel_futures)
        with pytest.raises(RuntimeError):
            self.executor.submit(work, 1, 0)

    @precondition(lambda self: self.is_shut_down)
    @rule()
    def start_again(self):
        """Check what there was, and go on with a new executor."""
        self.finish()
        self.begin()

    # --- what holds ---

    @invariant()
    def says_what_it_does(self):
        """``repr`` and ``stats`` can always be asked, and no call fails."""
        assert "\n" not in repr(self.executor)
        assert self.executor.stats()["calls_failed"] == 0
        assert not self.executor._broken
        self.seen.update(self.executor._processes)

    def check(self, future, number):
        """Check one future's outcome."""
        try:
            assert future.result(timeout=LIMIT_S) == number * number
        except CancelledError:
            assert future.cancelled()

    def finish(self):
        """Let everything resolve, and check it."""
        _done, not_done = wait([future for future, _ in self.futures], timeout=LIMIT_S)
        assert not not_done
        for future, number in self.futures:
            self.check(future, number)
        for stream in self.streams:
            while not stream.has_ended:
                stream.take(1_000)
        self.executor.shutdown()

    def teardown(self):
        """Nothing is left: no process, thread or descriptor."""
        self.finish()
        self.futures.clear()
        self.streams.clear()
        assert poll_until(lambda: all(is_gone(pid) for pid in self.seen), 5)
        assert find_leaks(self.before) == ""
        assert threading.active_count() == len(self.before.threads)
        assert set(descendants()) <= self.before.processes


TestExecutorMachine = pytest.mark.timeout(900 if IS_LONG else 120, method="signal")(ExecutorMachine.TestCase)
TestExecutorMachine.settings = settings(
    max_examples=400 if IS_LONG else 25,
    stateful_step_count=40 if IS_LONG else 20,
    deadline=None,
    derandomize=not IS_LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)
