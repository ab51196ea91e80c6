"""The tuner on a virtual clock, from 2 to 10,000 workers."""

import random
from functools import cache

import pytest

from amorsize_executor.tuning.planner import Limits
from tests.simulation.pool import Prices, Result, Workload, simulate

# By workers: seconds a call, calls a worker, spread of the heavy tail (sigma of the lognormal distribution). Each
# worker gets some ten chunks at least; a dispatcher with 6 µs for a call can be half busy with 10,000 workers only if
# calls take 0.12 s.
SCALES = {
    2: (1e-3, 5000, 1.0),
    8: (1e-3, 5000, 1.0),
    64: (1e-2, 800, 1.0),
    1000: (0.2, 40, 0.4),
    10_000: (2.5, 6, 0.3),
}
DRIFTING = SCALES | {10_000: (3.0, 9, 0.0)}
WAITING = SCALES | {10_000: (0.6, 20, 0.0)}
KINDS = ("constant", "heavy-tailed", "cheap then slow", "slow then cheap", "waiting")
LARGE = 1000
BY_SCALE = [pytest.param(workers, marks=[pytest.mark.slow] * (workers >= LARGE)) for workers in SCALES]
CLUSTER = Prices(start_up_s=1e-3, worker_s=1e-5)  # its workers are there and only have to be told


def make_workload(kind, workers):
    """Give every worker its due: as many calls for each number of workers."""
    scales = WAITING if kind == "waiting" else DRIFTING if "then" in kind else SCALES
    call_s, calls, sigma = scales[workers]
    count = calls * workers
    if kind == "constant":
        return Workload([call_s] * count)
    if kind == "heavy-tailed":
        draw = random.Random(workers).lognormvariate
        return Workload([call_s * draw(-sigma * sigma / 2, sigma) for _ in range(count)])
    if kind == "waiting":
        return Workload([call_s] * count, waiting_share=0.9)
    half, other = [call_s / 10] * (count // 2), [call_s] * (count - count // 2)
    return Workload(half + other if kind == "cheap then slow" else other + half)


@cache
def run(kind, workers) -> Result:
    """Simulate once for all the tests that look at it."""
    cores = -(-workers // 4) if kind == "waiting" else workers
    prices = CLUSTER if workers >= LARGE else Prices()
    limits = Limits(max_workers=workers, most_at_once=max(SCALES))
    return simulate(make_workload(kind, workers), cores=cores, limits=limits, prices=prices)


@pytest.mark.parametrize("workers", BY_SCALE)
@pytest.mark.parametrize("kind", KINDS)
def test_efficiency(kind, workers):
    """A pool takes at most a ninth longer than one without costs, and its dispatcher is at most half busy."""
    result = run(kind, workers)
    assert result.executed == len(make_workload(kind, workers).durations_s)
    assert result.efficiency >= 0.9
    assert result.dispatcher_busy <= 0.5
    assert result.peak_workers == workers


@pytest.mark.parametrize("workers", BY_SCALE[:-1])
@pytest.mark.parametrize("kind", KINDS)
def test_utilisation(kind, workers):
    """Up to 1,000 workers, 90 % of the workers' time is work.

    With 10,000, the single longest call of a test that may take two seconds is too long a part of the whole.
    """
    assert run(kind, workers).utilisation >= 0.9


@pytest.mark.parametrize("workers", SCALES)
def test_equal_inputs_give_equal_results(workers):
    """Nothing but the inputs decides: a second run is the first one again."""
    if workers >= LARGE:
        workers = 64
    again = run.__wrapped__("heavy-tailed", workers)
    first = run("heavy-tailed", workers)
    assert again.makespan_s == first.makespan_s
    assert list(again.tuner.decisions) == list(first.tuner.decisions)


def test_sleeps_get_more_workers_than_cores():
    """300 sleeps of 20 ms on 2 cores are shared by 16 to 32 workers, and take a twentieth of the serial time."""
    result = simulate(Workload([0.02] * 300, waiting_share=0.995), cores=2)
    assert 16 <= result.peak_workers <= 32
    assert result.makespan_s <= 6.0 / 20


def test_long_sleeps_do_not_wait_for_round_after_round():
    """100 sleeps of 1 s on 2 cores take 6 s at most: the workers double before the first round is over."""
    assert simulate(Workload([1.0] * 100, waiting_share=0.999), cores=2).makespan_s <= 6.0


def test_few_sleeps_get_few_workers():
    """Three sleeps of 1 ms are not worth a single fork beyond the cores."""
    assert simulate(Workload([1e-3] * 3, waiting_share=0.99), cores=2).peak_workers == 2


def test_cpu_work_stays_on_the_cores():
    """Work that never waits gets no more workers than cores, without any cap by the user."""
    assert simulate(Workload([5e-3] * 2000), cores=4).peak_workers == 4


def test_tails_move_to_idle_workers():
    """Slow calls that lie in one large chunk are taken back from the worker that has them, by all the others."""
    workload = Workload([1e-4] * 3500 + [0.02] * 500)
    result = simulate(workload, cores=8, limits=Limits(max_workers=8, chunksize=500))
    assert result.taken_back > 0
    assert result.efficiency >= 0.7


def test_fixed_chunks_take_the_same_way():
    """A chunk size given by the user is used for every chunk, the last one excepted."""
    result = simulate(Workload([1e-3] * 1000), cores=4, limits=Limits(max_workers=4, chunksize=10))
    assert result.chunks - result.taken_back == 100
