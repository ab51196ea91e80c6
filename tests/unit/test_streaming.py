"""``optimize_streaming``: the recommendation, and the stream that it runs."""

import itertools
import math
import threading

import pytest

from amorsize_executor import AdaptiveExecutor, RetryPolicy, StreamingOptimizationResult, optimize_streaming
from amorsize_executor.advice import streaming
from amorsize_executor.advice.streaming import choose_buffer_bytes
from amorsize_executor.tuning.machine import Machine
from tests.payloads import count_execution, identity, interrupt_when_there, read_executions, square, start_and_hang
from tests.pretending import GIB, Pretence

pytestmark = pytest.mark.slow


@pytest.fixture
def pretend(monkeypatch):
    """Calls that take what the test says."""
    return Pretence(monkeypatch)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("func", None),
        ("func", 5),
        ("data", None),
        ("sample_size", 0),
        ("sample_size", 10_001),
        ("sample_size", 2.5),
        ("target_chunk_duration", 0),
        ("target_chunk_duration", 3601),
        ("target_chunk_duration", "1"),
        ("target_chunk_duration", math.nan),
        ("prefer_ordered", 1),
        ("buffer_size", 0),
        ("buffer_size", 1.5),
        ("buffer_size", True),
        ("verbose", 1),
        ("profile", 1),
        ("use_spawn_benchmark", 1),
        ("use_chunking_benchmark", 1),
        ("enable_adaptive_chunking", 1),
        ("adaptation_rate", 1.1),
        ("adaptation_rate", "0.3"),
        ("enable_memory_backpressure", 1),
        ("memory_threshold", -0.1),
        ("memory_threshold", math.nan),
        ("memory_threshold", True),
    ],
)
def test_a_wrong_parameter_is_named(name, value):
    """Each is a ValueError."""
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        optimize_streaming(**{"func": square, "data": [1], name: value})


def test_a_result_has_the_contracts_attributes():
    """Positions and defaults."""
    result = StreamingOptimizationResult(4, 10, False, "because")
    assert (result.n_jobs, result.chunksize, result.use_ordered, result.reason) == (4, 10, False, "because")
    assert (result.estimated_speedup, result.warnings, result.data, result.profile) == (1.0, [], None, None)
    assert (result.use_adaptive_chunking, result.adaptive_chunking_params) == (False, {})
    assert (result.buffer_size, result.memory_backpressure_enabled) == (None, False)
    assert "imap_unordered" in str(result)
    assert "imap()" in str(StreamingOptimizationResult(4, 10, True, ""))
    assert result.explain() == str(result)
    assert "n_jobs=4" in repr(result)
    with pytest.raises(ValueError, match="optimize_streaming"):
        result.run()


@pytest.mark.parametrize("call_s", [1e-6, 0.01])
@pytest.mark.parametrize(("asked", "is_ordered"), [(None, True), (True, True), (False, False)])
def test_the_order_is_kept_unless_asked_otherwise(pretend, call_s, asked, is_ordered):
    """Whether or not workers are worth it."""
    pretend.calls(call_s)
    result = optimize_streaming(square, range(1000), prefer_ordered=asked)
    assert result.use_ordered is is_ordered
    assert (result.n_jobs == 1) == (call_s < 1e-3)


def test_adaptive_chunking_where_calls_differ(pretend):
    """The parameters are filled where it was asked for and calls vary."""
    pretend.calls([0.001, 0.1, 0.001, 0.1, 0.001])
    result = optimize_streaming(square, range(1000), enable_adaptive_chunking=True, adaptation_rate=0.5)
    assert result.use_adaptive_chunking
    assert result.adaptive_chunking_params == {
        "initial_chunksize": result.chunksize,
        "target_chunk_duration": 0.2,
        "adaptation_rate": 0.5,
        "min_chunksize": 1,
        "max_chunksize": 4 * result.chunksize,
        "enable_adaptation": True,
    }
    assert not optimize_streaming(square, range(1000)).use_adaptive_chunking
    pretend.calls(0.01)
    assert not optimize_streaming(square, range(1000), enable_adaptive_chunking=True).use_adaptive_chunking


def test_the_buffer_keeps_workers_busy_and_fits_memory(pretend, monkeypatch):
    """Three chunks a worker; with backpressure no more than fit, and never fewer than workers."""
    pretend.calls(0.01)
    result = optimize_streaming(square, range(1000))
    assert result.buffer_size == 3 * result.n_jobs * result.chunksize
    assert optimize_streaming(square, range(1000), buffer_size=7).buffer_size == 7
    monkeypatch.setattr(streaming, "probe_machine", lambda: Machine(2, 2, 1000, 1000))
    bounded = optimize_streaming(
        lambda number: bytes(10) * (number and 1), range(1000), enable_memory_backpressure=True
    )
    assert bounded.memory_backpressure_enabled
    assert bounded.n_jobs <= bounded.buffer_size < result.buffer_size


def test_the_threshold_leaves_what_it_says():
    """A tenth of what is available, and no more than is left below the threshold."""
    machine = Machine(2, 2, 10 * GIB, 20 * GIB)
    assert choose_buffer_bytes(machine, None) == choose_buffer_bytes(machine, 0.8) == GIB
    assert choose_buffer_bytes(machine, 0.52) == pytest.approx(0.4 * GIB, rel=1e-6)
    assert choose_buffer_bytes(machine, 0.1) == 0


# --- running it ---


@pytest.mark.parametrize("shape", [list, iter, lambda items: items])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 300])
def test_run_gives_every_result_in_order(shape, count):
    """Sampled ones first where they are first, and none twice."""
    assert list(optimize_streaming(square, shape(range(count))).run()) == [number * number for number in range(count)]


def test_what_cannot_begin_anew_is_not_run_again():
    """There would be the sampled results alone, as if these were all."""
    again = optimize_streaming(square, range(9))
    assert list(again.run()) == list(again.run()) == [number * number for number in range(9)]
    once = optimize_streaming(square, iter(range(9)))
    assert len(list(once.run())) == 9
    with pytest.raises(RuntimeError, match="cannot begin anew"):
        once.run()


def test_run_without_order_gives_every_result(pretend):
    """Each once, as they come."""
    pretend.calls(0.01)
    result = optimize_streaming(square, range(300), prefer_ordered=False)
    assert sorted(result.run()) == [number * number for number in range(300)]


def test_sampled_calls_are_not_run_again(tmp_path):
    """Each item is called once."""
    marks = tmp_path / "marks"
    keys = [str(number) for number in range(20)]
    assert list(optimize_streaming(lambda key: count_execution(marks, key), iter(keys)).run()) == keys
    assert sorted(read_executions(marks)) == sorted(keys)


def test_an_endless_source_is_pulled_as_results_are_taken(pretend):
    """No more is asked for than the buffer allows; closing leaves nothing behind."""
    pretend.calls(0.01)
    pulled = itertools.count()
    results = optimize_streaming(square, (next(pulled) for _ in itertools.repeat(None)), buffer_size=10).run()
    assert list(itertools.islice(results, 30)) == [number * number for number in range(30)]
    assert next(pulled) <= 5 + 30 + 10
    results.close()


def test_errors_are_raised_returned_or_skipped():
    """In the sample and behind it."""
    data = [1, 0, 1, 1, 1, 1, 0, 1]

    def stream():
        return optimize_streaming(lambda number: 1 // number, iter(data))

    assert [type(value) for value in stream().run(on_error="return")].count(ZeroDivisionError) == 2
    assert list(stream().run(on_error="skip")) == [1] * 6
    with pytest.raises(ZeroDivisionError):
        list(stream().run())
    with pytest.raises(ValueError, match="on_error"):
        stream().run(on_error="ignore")


def test_a_sampled_call_that_failed_is_retried_where_there_is_a_retry():
    """Below layers it begins again; a checkpoint would have to know it, and is refused."""
    failed = []

    def fail_once(number):
        if number == 2 and not failed:
            failed.append(number)
            raise LookupError
        return number

    stream = optimize_streaming(fail_once, range(5))
    assert failed == [2]
    retry = RetryPolicy(max_retries=1, initial_delay=1e-6)
    assert list(stream.run(retry=retry, backend="thread")) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="checkpoint"):
        next(stream.run(checkpoint="work"))


def test_an_error_of_the_source_is_raised():
    """After the results of what came before it."""

    def source():
        yield from range(20)
        message = "the file ends here"
        raise OSError(message)

    seen = []
    with pytest.raises(OSError, match="ends here"):
        seen.extend(optimize_streaming(square, source()).run(on_error="skip"))
    assert seen == [number * number for number in range(20)]


def test_what_cannot_travel_streams_here(pretend):
    """A function that holds a lock runs in this process."""
    lock = threading.Lock()
    pretend.calls(0.01)
    result = optimize_streaming(lambda number: (lock, number)[1], iter(range(50)))
    assert (result.n_jobs, result.chunksize, result.buffer_size) == (1, 1, 1)
    assert list(result.run()) == list(range(50))


def test_an_executor_of_your_own_is_used_and_left_open():
    """``run(executor=...)`` shares its workers."""
    with AdaptiveExecutor() as executor:
        assert list(optimize_streaming(identity, range(30)).run(executor=executor)) == list(range(30))
        assert executor.submit(square, 3).result() == 9


def test_an_executor_that_is_shut_down_meanwhile_is_told():
    """Missing results are never left out silently."""
    with AdaptiveExecutor() as executor:
        results = optimize_streaming(identity, iter(range(1000)), buffer_size=10).run(
            executor=executor, on_error="skip"
        )
        taken = list(itertools.islice(results, 20))
        executor.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            taken += list(results)
    assert taken == list(range(len(taken)))


def test_threads_where_they_were_asked_for(pretend):
    """Waiting calls stream through threads of this process."""
    pretend.calls(0.02, waiting=0.99)
    result = optimize_streaming(lambda number: number, range(100), prefer_threads_for_io=True)
    assert result.n_jobs > 2
    assert list(result.run()) == list(range(100))


def test_explain_is_the_profile(pretend):
    """With ``profile=True``."""
    result = optimize_streaming(pretend.calls(0.01) and square, range(1000), profile=True)
    assert "WORKLOAD ANALYSIS" in result.explain()
    assert result.profile.total_items == 1000


def test_an_interrupt_stops_calls_that_run(tmp_path):
    """As at the end of a ``with`` block, nobody waits for them."""
    result = optimize_streaming(start_and_hang, iter([None] * 5 + [tmp_path / "started"]))
    with interrupt_when_there(tmp_path / "started"), pytest.raises(KeyboardInterrupt):
        list(result.run(isolate=True))
