"""What is known of one function from its measured calls."""

import random

import pytest

from amorsize_executor.records import Lane, Measurement
from amorsize_executor.tuning.measurement import FunctionProfile


def measure(call_s, calls=1, **fields):
    """Measure ``calls`` equal calls."""
    given = {"cpu_s": call_s * calls, "waiting_s": 0.0, "longest_s": call_s} | fields
    return Measurement(calls=calls, wall_s=call_s * calls, squares_s2=call_s * call_s * calls, **given)


def profile_of(*measurements):
    """Observe all of them."""
    profile = FunctionProfile()
    for measurement in measurements:
        profile.observe(measurement)
    return profile


def test_equal_calls():
    """Equal calls give their time as the mean, no variance, and no surprise."""
    profile = profile_of(*[measure(1e-3, calls) for calls in (1, 2, 4, 8)])
    assert profile.call_s == pytest.approx(1e-3)
    assert profile.variance_s2 == pytest.approx(0.0, abs=1e-12)
    assert (profile.calls, profile.proven, profile.surprises) == (15, 8, 0)


def test_slow_calls_after_many_cheap_ones():
    """One slow call after 20,000 cheap ones is believed at once."""
    profile = profile_of(measure(1e-6, 10_000), measure(1e-6, 10_000), measure(1e-2))
    assert profile.call_s > 5e-3
    assert profile.proven == 1


def test_cheap_calls_after_slow_ones():
    """A few cheap runs after 300 slow calls bring the estimate down by as much as chunks may grow."""
    profile = profile_of(*[measure(1e-2, 20) for _ in range(15)])
    for calls in (20, 40, 80, 160):
        profile.observe(measure(1e-6, calls))
    assert profile.call_s < 1e-3


def test_known_heavy_tail_is_no_surprise():
    """Outliers of a distribution known for them leave the mean where it belongs."""
    draw = random.Random(7).lognormvariate
    profile = profile_of(*[measure(1e-3 * draw(-0.5, 1.0)) for _ in range(2000)])
    assert profile.call_s == pytest.approx(1e-3, rel=0.5)
    assert profile.surprises < 40


def test_two_speeds_do_not_erase_each_other():
    """Where fast and slow calls take turns, the estimate settles between them instead of jumping."""
    profile = profile_of(*[measure(1e-2 if i % 2 else 1e-6) for i in range(200)])
    assert profile.call_s == pytest.approx(5e-3, rel=0.5)
    assert profile.surprises < 10


def test_shares_and_bytes():
    """Waiting, processor time and bytes are kept per second and per call."""
    profile = profile_of(measure(0.1, 4, cpu_s=0.1, waiting_s=0.3, bytes_in=400, bytes_out=80))
    assert profile.waiting_share == pytest.approx(0.75)
    assert profile.cpu_share == pytest.approx(0.25)
    assert (profile.bytes_in, profile.bytes_out, profile.call_bytes) == (100, 20, 120)


def test_waiting_is_part_of_the_wall_time():
    """A waiting time that includes what is around the calls counts for the calls' time at most."""
    assert profile_of(measure(1e-3, waiting_s=5.0)).waiting_share == 1.0


def test_memory_peak_fades_slowly():
    """The peak of memory is kept, and forgotten over hundreds of runs."""
    profile = profile_of(measure(1e-3, memory_growth=1 << 30), measure(1e-3, memory_growth=0))
    assert profile.memory_growth > 0.9 * (1 << 30)
    for _ in range(500):
        profile.observe(measure(1e-3, memory_growth=0))
    assert profile.memory_growth < 0.01 * (1 << 30)


def test_last_lane_and_longest():
    """The lane is the last one, the longest call the longest of all."""
    profile = profile_of(measure(0.5, lane=Lane.CALLER), measure(0.1))
    assert (profile.last_lane, profile.longest_s) == (Lane.PROCESSES, 0.5)


def test_nothing_measured():
    """An empty profile has zeros, not errors."""
    profile = FunctionProfile()
    assert (profile.call_s, profile.variance_s2, profile.waiting_share, profile.cpu_share) == (0, 0, 0, 0)
    assert (profile.bytes_in, profile.bytes_out, profile.call_bytes) == (0, 0, 0)


def test_calls_without_any_time():
    """A clock too coarse to see a call breaks nothing."""
    profile = profile_of(measure(0.0, 5), measure(0.0, 5))
    assert profile.call_s == 0.0
    assert repr(profile).startswith("<FunctionProfile 10 calls")
