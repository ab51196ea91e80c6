"""Law: calls that are taken back from a busy worker run once, whoever runs them."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine.span import Span
from amorsize_executor.worker.control_word import FINISHED, NEVER, RUNNING, STARTED_NS, STOP
from amorsize_executor.worker.run_chunk import run_chunk
from tests import payloads

RUNS = int(os.environ.get("AMORSIZE_TAKE_BACK_RUNS", "6"))
CALLS = 240
WORKERS = 4


# --- Real workers ---------------------------------------------------------------------------------------------


def count_and_work(item):
    """Count the execution, take so many microseconds, return the index. The sleep is the work: a call that waits."""
    path, index, microseconds, is_waiting = item
    payloads.count_execution(path, str(index))
    if is_waiting:
        time.sleep(microseconds * 1e-6)
    else:
        payloads.spin(microseconds)
    return index


def unequal_items(rng: random.Random, path: Any) -> list[tuple[Any, int, float, bool]]:
    """Return calls most of which are cheap, some long, in an order that piles the long ones up."""
    shape = rng.choice(["heavy tail", "long first", "long last", "bursts"])
    durations = {
        "heavy tail": lambda _n: min(20_000, 50 * rng.paretovariate(1.1)),
        "long first": lambda n: 15_000 if n < 6 else 30,
        "long last": lambda n: 15_000 if n >= CALLS - 6 else 30,
        "bursts": lambda n: 8_000 if n // 5 % 8 == 0 else 20,
    }
    return [(path, n, durations[shape](n), rng.random() < 0.5) for n in range(CALLS)]


@pytest.fixture(scope="module")
def taken_back() -> Iterator[list[int]]:
    """Gather how often chunks were taken back; over the whole module it must have happened."""
    return []


@pytest.mark.timeout(60, method="signal")
@pytest.mark.parametrize(
    "options", [{"isolate": True}, {}, {"backend": "thread"}], ids=["isolate", "default", "thread"]
)
@pytest.mark.parametrize("seed", range(RUNS))
def test_every_call_runs_once(options, seed, tmp_path, taken_back):
    """With very unequal calls in chunks far too large, every call runs exactly once and every result is right."""
    rng = random.Random(seed)
    log = tmp_path / "log"
    items = unequal_items(rng, log)
    with AdaptiveExecutor(max_workers=WORKERS, min_workers=WORKERS, **options) as executor:
        chunksize = rng.choice([20, 60, CALLS])
        method = rng.choice(["map", "imap", "imap_unordered", "submit"])
        if method == "submit":
            results = [future.result() for future in [executor.submit(count_and_work, item) for item in items]]
        else:
            results = list(getattr(executor, method)(count_and_work, items, chunksize=chunksize))
        taken_back.append(executor.stats()["chunks_taken_back"])
    if method == "imap_unordered":
        results.sort()
    assert results == list(range(CALLS))
    counts = Counter(map(int, payloads.read_executions(log)))
    assert {index: count for index, count in counts.items() if count != 1} == {}
    assert len(counts) == CALLS


def test_something_was_taken_back(taken_back):
    """The runs above did take chunks back, or they have shown nothing."""
    if not taken_back:
        pytest.skip("the runs above were not selected")
    assert sum(taken_back) > 0


# --- The protocol, step by step -------------------------------------------------------------------------------
#
# The worker's side is the real run_chunk, stopped at each access to its line; the parent's side is the protocol of
# the control word: store STOP, wait until the store must have been seen, load RUNNING, take back what is at or
# behind the stop and behind what runs. Every order of the two sides' steps is tried. Stores are seen at once,
# which is what the wait between the two provides.


class _Pause(Exception):  # noqa: N818
    """The worker's steps are used up."""


@dataclass
class _Line:
    """A control line that lets a schedule interrupt the worker before each access."""

    parent_acts: Any
    words: dict[int, int] = field(default_factory=lambda: {RUNNING: -1, STARTED_NS: 0, STOP: NEVER, FINISHED: 0})
    steps: int = 0

    def __getitem__(self, word: int) -> int:
        self._step()
        return self.words[word]

    def __setitem__(self, word: int, value: int) -> None:
        self._step()
        self.words[word] = value

    def _step(self) -> None:
        self.parent_acts(self.steps)
        self.steps += 1


class _Recorder:
    def __init__(self) -> None:
        self.values: list[Any] = []

    def value(self, value: Any, started_ns: int) -> int:
        self.values.append(value)
        return started_ns

    def error(self, error: BaseException, _started_ns: int) -> int:
        raise AssertionError from error


def run_schedule(calls: int, first: int, stop_offset: int, store_at: int, load_at: int) -> tuple[list[int], list[int]]:
    """Run one chunk with the parent storing STOP and loading RUNNING before the worker's steps of these numbers.

    Returns:
        (numbers that the worker ran, numbers that the parent took back while the worker went on).
    """
    taken: list[int] = []
    recorder = _Recorder()
    stop = first + stop_offset

    def parent_acts(step: int) -> None:
        if step == store_at:
            line.words[STOP] = stop
        if step == load_at:
            taken.extend(range(max(stop, line.words[RUNNING] + 1, first), first + calls))

    line = _Line(parent_acts)
    items = iter(range(first, first + calls))
    ran = run_chunk(lambda item: item, items, first, calls, line, recorder)
    assert recorder.values == list(range(first, first + ran))
    return recorder.values, taken


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [0, 7])
def test_all_orders_of_both_sides_steps(calls, first):
    """In every order of steps no call is run by the worker and taken back too; the chunk's end tells the rest."""
    longest = calls * 4 + 2
    for stop_offset in range(calls + 1):
        for store_at in range(longest):
            for load_at in range(store_at, longest):
                ran, taken = run_schedule(calls, first, stop_offset, store_at, load_at)
                everything = set(range(first, first + calls))
                assert not set(ran) & set(taken), (stop_offset, store_at, load_at, ran, taken)
                # What neither ran nor was taken is behind the chunk's end, which gives it back.
                left = everything - set(ran) - set(taken)
                assert all(number >= first + len(ran) for number in left)


def test_loading_before_storing_would_be_wrong():
    """The model can tell a wrong protocol: RUNNING loaded before STOP is stored doubles a call in some order."""
    orders = [(load_at, store_at) for store_at in range(14) for load_at in range(store_at)]
    doubled = [order for order in orders if is_doubled_when_loading_first(*order)]
    assert doubled


def is_doubled_when_loading_first(load_at: int, store_at: int) -> bool:
    """Tell whether the wrong order of the parent's steps runs a call twice."""
    taken: list[int] = []
    recorder = _Recorder()

    def parent_acts(step: int) -> None:
        if step == load_at:
            taken.extend(range(max(1, line.words[RUNNING] + 1), 3))
        if step == store_at:
            line.words[STOP] = 1

    line = _Line(parent_acts)
    run_chunk(lambda item: item, iter(range(3)), 0, 3, line, recorder)
    return bool(set(recorder.values) & set(taken))


# --- Spans and what a worker has in hand ----------------------------------------------------------------------


class _StubSource:
    priority = 0


@pytest.mark.parametrize("seed", range(50))
def test_claiming_from_a_workers_hands_loses_nothing(seed):
    """However outcomes and tails are claimed, each call leaves the worker's hands once."""
    from amorsize_executor.engine.crew import Worker

    rng = random.Random(seed)
    worker = Worker(1, None, 0.0)
    source: Any = _StubSource()
    given = 0
    for _ in range(rng.randint(1, 5)):
        count = rng.randint(1, 6)
        worker.in_hand.append((worker.next_number, Span(source, given, list(range(given, given + count)))))
        worker.next_number += count
        given += count
    claimed: list[int] = []
    while worker.in_hand:
        if rng.random() < 0.3:
            for span in worker.claim_from(rng.randint(0, given)):
                claimed += span.arguments()
        else:
            first = rng.randint(0, given)
            for number, span in list(worker.claim(first, rng.randint(1, 4))):
                assert span.arguments()[0] == number
                assert span.start == number
                claimed += span.arguments()
    assert sorted(claimed) == list(range(given))
