"""How many workers: the rule and the steps towards it."""

import pytest

from amorsize_executor.records import Lane, Measurement
from amorsize_executor.tuning.concurrency import (
    Bounds,
    ConcurrencyController,
    Mix,
    choose_worker_count,
    find_ceiling,
    find_start,
)

TWO = Bounds(cores=2, physical_cores=2)
HYPERTHREADS = Bounds(cores=8, physical_cores=4)


def mix(waiting=0.0, queued=0.0, call_s=0.02):
    """Make a second of calls."""
    return Mix(wall_s=1.0, waiting_s=waiting, queued_s=queued, calls=1 / call_s)


def measure(call_s, *, waiting=0.0, cpu=None, calls=1, lane=Lane.PROCESSES):
    """Measure equal calls; what is neither waiting nor on a processor stood in line."""
    wall_s = call_s * calls
    cpu_s = wall_s * (1 - waiting) if cpu is None else wall_s * cpu
    return Measurement(calls, wall_s, cpu_s, wall_s * waiting, call_s * call_s * calls, call_s, lane=lane)


class Pool:
    """A controller with a pool around it that starts workers at once and is always busy."""

    def __init__(self, bounds, *, backlog=10**6):
        self.controller = ConcurrencyController()
        self.bounds = bounds
        self.backlog = backlog
        self.now_s = 0.0
        self.reference_s = None
        self.step()

    @property
    def level(self):
        """Workers at the moment."""
        return self.controller.level

    def step(self):
        """Ask once; every worker is there and has work."""
        return self.controller.step(
            self.bounds,
            now_s=self.now_s,
            current=self.level,
            busy=self.level,
            backlog=self.backlog,
        )

    def round(self, measurement, *, reference_s=None):
        """Let every worker finish one run of calls."""
        self.now_s += measurement.wall_s
        for _ in range(self.level):
            call_s = measurement.wall_s / measurement.calls
            self.controller.observe(measurement, reference_s or call_s, now_s=self.now_s)
        for _ in range(4):
            self.step()


@pytest.mark.parametrize(("share", "workers"), [(0.5, 4), (0.75, 8), (0.9, 20), (0.99, 64), (1.0, 64)])
def test_waiting_asks_for_more(share, workers):
    """Wanted is cores * wall / (wall - waiting), up to 32 a core."""
    wish = choose_worker_count(mix(waiting=share), TWO, backlog=None)
    assert wish.workers == pytest.approx(workers, abs=1)


def test_a_little_waiting_asks_for_nothing():
    """Below a tenth, waiting is noise."""
    assert choose_worker_count(mix(waiting=0.09), TWO, backlog=None).workers == 2


def test_busy_neighbour_asks_for_nothing():
    """Time spent in line for a processor is not waiting and never asks for workers, hyperthreads included."""
    assert choose_worker_count(mix(queued=0.6), TWO, backlog=None).workers == 2
    assert choose_worker_count(mix(queued=0.6), HYPERTHREADS, backlog=None).workers == 4


def test_hyperthreads_are_tried():
    """Calls that neither wait nor stand in line may try all logical cores."""
    assert find_start(HYPERTHREADS).workers == 4
    assert choose_worker_count(mix(), HYPERTHREADS, backlog=None).workers == 8


def test_max_workers_caps():
    """No measurement asks for more than ``max_workers``."""
    bounds = Bounds(cores=2, physical_cores=2, max_workers=5)
    assert choose_worker_count(mix(waiting=1.0), bounds, backlog=None).workers == 5
    assert find_start(Bounds(cores=8, physical_cores=8, max_workers=3)).workers == 3


def test_min_workers_holds():
    """No bound goes below ``min_workers``."""
    bounds = Bounds(cores=2, physical_cores=2, min_workers=6, max_memory=1, worker_bytes=1 << 30)
    assert find_start(bounds).workers == 6
    assert choose_worker_count(mix(), bounds, backlog=None).workers == 6


def test_memory_caps():
    """Workers times the memory that one grows by stay within the bound, and the reason says so."""
    bounds = Bounds(cores=8, physical_cores=8, max_memory=10 << 30, worker_bytes=3 << 30)
    assert find_start(bounds).workers == 3
    assert "memory" in find_ceiling(bounds).reason


def test_no_more_are_wanted_than_there_can_be():
    """A machine may have cores for more, and a user may allow more."""
    for bounds in (Bounds(cores=128, physical_cores=64), Bounds(cores=2, physical_cores=2, max_workers=5000)):
        assert find_ceiling(bounds) == (1000, "more than 1,000 workers are not started")


def test_rest_has_to_repay_forks():
    """Few calls left get fewer workers: each has to save four times what it costs."""
    assert choose_worker_count(mix(waiting=1.0), TWO, backlog=300).workers == 30
    assert choose_worker_count(mix(waiting=1.0), TWO, backlog=3).workers == 3


def test_starts_at_physical_cores():
    """The first step goes to the physical cores, without any measurement."""
    assert Pool(HYPERTHREADS).level == 4


def test_waiting_doubles_and_goes_on():
    """With calls that wait half of their time, each round that proves itself doubles up to the wish."""
    pool = Pool(Bounds(cores=4, physical_cores=4))
    pool.round(measure(0.02, waiting=0.8))
    assert pool.level == 8
    for _ in range(3):
        pool.round(measure(0.02, waiting=0.8))
    assert pool.level in (19, 20)


def test_pure_waiting_leaps():
    """Calls that only wait get 8 workers a core before the first verdict, the rest after it."""
    pool = Pool(TWO)
    pool.round(measure(1.0, waiting=1.0))
    assert pool.level == 16
    pool.round(measure(1.0, waiting=1.0))
    assert pool.level == 32


def test_step_without_gain_is_taken_back():
    """Where twice the workers take twice as long a call, the step goes back, and is not tried again at once."""
    pool = Pool(Bounds(cores=4, physical_cores=4))
    pool.round(measure(0.02, waiting=0.5), reference_s=0.02)
    assert pool.level == 8
    pool.round(measure(0.04, waiting=0.5), reference_s=0.02)
    assert pool.level == 4
    pool.round(measure(0.02, waiting=0.5), reference_s=0.02)
    assert pool.level == 4


def test_back_off_doubles():
    """After a failed step the next one waits 1 s, after another 2 s."""
    pool = Pool(Bounds(cores=4, physical_cores=4))
    grown_s = []
    for _ in range(3):
        while pool.level == 4:
            pool.round(measure(0.02, waiting=0.5), reference_s=0.02)
        grown_s.append(pool.now_s)
        pool.round(measure(0.04, waiting=0.5), reference_s=0.02)
        assert pool.level == 4
    assert grown_s[1] - grown_s[0] == pytest.approx(1.05, abs=0.05)
    assert grown_s[2] - grown_s[1] == pytest.approx(2.05, abs=0.05)


def test_caller_proves_nothing():
    """What the caller's thread measures during a trial says nothing about the workers."""
    pool = Pool(Bounds(cores=4, physical_cores=4))
    pool.round(measure(0.02, waiting=0.5))
    assert pool.controller.trial is not None
    for _ in range(100):
        pool.now_s += 0.02
        pool.controller.observe(measure(0.02, waiting=0.5), 0.02, now_s=pool.now_s, is_helped=True)
        pool.step()
    assert pool.controller.trial is not None


def test_idle_workers_mean_no_growth():
    """While workers are idle and little is queued, more workers bring nothing."""
    controller = ConcurrencyController()
    controller.step(TWO, now_s=0.0, current=0, busy=0, backlog=None)
    controller.observe(measure(1.0, waiting=1.0), 1.0, now_s=1.0)
    for busy, backlog in ((1, None), (1, 3)):
        assert controller.step(TWO, now_s=1.0, current=2, busy=busy, backlog=backlog) is None


def test_workers_on_their_way_are_awaited():
    """No step is taken before the workers of the last one are there."""
    controller = ConcurrencyController()
    controller.step(TWO, now_s=0.0, current=0, busy=0, backlog=None)
    controller.observe(measure(1.0, waiting=1.0), 1.0, now_s=1.0)
    assert controller.step(TWO, now_s=1.0, current=1, busy=2, backlog=None) is None


def test_cpu_work_after_waiting_shrinks():
    """When calls cease to wait, the pool goes back to the cores after a few rounds, not after one run."""
    pool = Pool(TWO)
    for _ in range(4):
        pool.round(measure(1.0, waiting=1.0))
    assert pool.level == 64
    pool.controller.observe(measure(1.0), 1.0, now_s=pool.now_s + 1.0)
    pool.step()
    assert pool.level == 64
    for _ in range(8):
        pool.round(measure(1.0, cpu=0.1), reference_s=1.0)
    assert pool.level == 2


def test_neighbour_never_breeds_workers():
    """Hundreds of rounds of CPU-bound calls in line behind a neighbour leave the pool as it is."""
    pool = Pool(HYPERTHREADS)
    for _ in range(200):
        pool.round(measure(0.05, cpu=0.4))
    assert pool.level == 4


def test_memory_found_out_later_shrinks_at_once():
    """When calls turn out to need more memory, the pool shrinks with the next question."""
    pool = Pool(Bounds(cores=8, physical_cores=8, max_memory=8 << 30))
    pool.bounds = Bounds(cores=8, physical_cores=8, max_memory=8 << 30, worker_bytes=4 << 30)
    assert pool.step().workers == 2
