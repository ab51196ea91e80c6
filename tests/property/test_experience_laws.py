"""Whatever an earlier run or a saved plan says, decisions stay within their bounds, and measurements win."""

from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor.records import Experience, Lane, Measurement
from amorsize_executor.tuning.machine import Machine
from amorsize_executor.tuning.planner import Limits, Tuner

MACHINE = Machine(cores=4, physical_cores=2, available_memory=10 << 30, memory_limit=16 << 30)
COUNTS = st.none() | st.integers(1, 10**6)
SECONDS = st.floats(1e-9, 1e3)


@st.composite
def measurements(draw):
    """Make sums of calls that can have been measured."""
    calls, call_s = draw(st.integers(1, 10**6)), draw(SECONDS)
    wall_s, waiting = calls * call_s, draw(st.floats(0, 1))
    return Measurement(
        calls, wall_s, wall_s * (1 - waiting), wall_s * waiting, wall_s * call_s, call_s,
        draw(st.integers(0, 1 << 40)), draw(st.integers(0, 1 << 40)), draw(st.integers(0, 1 << 40)),
        draw(st.sampled_from(Lane)),
    )  # fmt: skip


EXPERIENCES = st.builds(Experience, st.just("An earlier run"), st.none() | measurements(), COUNTS, COUNTS)


@given(EXPERIENCES, COUNTS, st.integers(1, 64), st.integers(1, 8), COUNTS)
def test_what_is_known_never_leaves_the_bounds(known, remaining, workers, most, backlog):
    """Chunks are no larger than what is left; workers are no more than are allowed, and at least one."""
    tuner = Tuner(MACHINE, Limits(max_workers=most))
    tuner.begin_with("f", known)
    assert 1 <= tuner.chunk_calls("f", remaining=remaining, workers=workers) <= max(1, remaining or 1 << 60)
    assert tuner.foresee_chunk("f", workers=workers) >= 1
    assert 1 <= tuner.wanted_workers(now_s=0.0, current=0, busy=0, backlog=backlog) <= most
    assert tuner.prefers_caller("f", remaining=remaining, ready_workers=0) in (True, False)


@given(measurements())
def test_what_is_learned_comes_back_as_it_was(measured):
    """A run that ends and one that begins have the same profile, up to rounding to whole bytes."""
    first, second = Tuner(MACHINE, Limits()), Tuner(MACHINE, Limits())
    first.observe("f", measured, now_s=1.0)
    learned = first.experience("f")
    second.begin_with("f", learned)
    one, other = first.profile("f"), second.profile("f")
    assert abs(other.call_s - one.call_s) <= 1e-9 * one.call_s
    assert abs(other.waiting_share - one.waiting_share) <= 1e-9
    assert (other.proven, other.memory_growth) == (one.proven, one.memory_growth)


@given(EXPERIENCES, SECONDS)
def test_what_is_measured_wins(known, call_s):
    """After a few hundred calls in workers, a wrong experience is of no consequence."""
    tuner = Tuner(MACHINE, Limits())
    tuner.begin_with("f", known)
    for number in range(20):
        run = Measurement(100, 100 * call_s, 100 * call_s, 0.0, 100 * call_s * call_s, call_s)
        tuner.observe("f", run, now_s=float(number))
    assert 0.75 * call_s <= tuner.profile("f").call_s <= 1.25 * call_s
