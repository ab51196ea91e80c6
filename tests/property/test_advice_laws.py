"""Laws of recommendations, and of running what they recommend."""

from hypothesis import given, settings
from hypothesis import strategies as st

from amorsize_executor import execute
from amorsize_executor.advice.judgement import Judgement
from amorsize_executor.advice.narration import Narration
from amorsize_executor.advice.outlook import Wishes
from amorsize_executor.advice.sample import Outcome, Sample, Travel
from amorsize_executor.advice.supply import Supply
from amorsize_executor.records import Lane, Measurement

SECONDS = st.floats(1e-7, 10.0)
SHARE = st.floats(0.0, 1.0)
CONSTANTS = Wishes(use_spawn_benchmark=False, use_chunking_benchmark=False)


def make_sample(durations, waiting, nbytes):
    """Return a sample of calls that took so long."""
    measured = [
        Measurement(1, wall, wall * (1 - waiting), wall * waiting, wall * wall, wall, nbytes, nbytes, 0, Lane.CALLER)
        for wall in durations
    ]
    travel = Travel(1e-6, nbytes)
    outcomes = {position: Outcome(0) for position in range(len(durations))}
    return Sample(outcomes, durations, measured, travel, dict.fromkeys(outcomes, travel), [travel] * len(durations))


@given(st.lists(SECONDS, min_size=1, max_size=8), SHARE, st.integers(1, 1 << 24), st.integers(8, 10**9), st.booleans())
def test_recommendations_keep_their_promises(durations, waiting, nbytes, total, threads):
    """A speed-up lies in its range and never above the workers; serial is 1, 1 and 1.0, and parallel saves a tenth."""
    supply = Supply(range(total), len(durations))
    wishes = CONSTANTS._replace(prefer_threads_for_io=threads)
    judgement = Judgement(abs, supply, make_sample(durations, waiting, nbytes), wishes, Narration())
    result = judgement.pass_sentence()
    low, high = result.speedup_range
    assert low <= result.estimated_speedup <= high <= result.n_jobs
    assert result.chunksize >= 1
    assert result.reason.endswith(".")
    if result.n_jobs == 1:
        assert (result.chunksize, result.estimated_speedup) == (1, 1.0)
        assert judgement.profile.rejection_reasons
    else:
        assert result.estimated_speedup > 1.1
        assert result.chunksize * (result.n_jobs - 1) < total
    assert result.executor_type == "process" or threads
    assert 0 <= judgement.profile.speedup_efficiency <= 1


def tenth(number):
    """Return ten divided by a number."""
    return 10 // number


def expect(items, on_error):
    """Return what ``execute`` has to return, with errors as their type."""
    results = [10 // item if item else ZeroDivisionError for item in items]
    return [result for result in results if result is not ZeroDivisionError or on_error == "return"]


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 4), max_size=40),
    st.sampled_from([list, tuple, iter]),
    st.sampled_from(["return", "skip"]),
    st.integers(1, 10),
)
def test_execute_is_a_loop(items, shape, on_error, sample_size):
    """Whatever is sampled, the results are those of a plain loop."""
    results = execute(tenth, shape(items), sample_size, on_error=on_error)
    assert [type(each) if isinstance(each, Exception) else each for each in results] == expect(items, on_error)
