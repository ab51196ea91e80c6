"""``execute``: every item once, in order, through the executor."""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from amorsize_executor import (
    DeadLetterQueue,
    DLQPolicy,
    HookEvent,
    HookManager,
    OptimizationResult,
    RetryPolicy,
    WorkerDiedError,
    execute,
    with_retry,
)
from tests.payloads import count_execution, exit_now, identity, kill_self, read_executions, square, wait_for_file
from tests.pretending import Pretence


@pytest.fixture
def pretend(monkeypatch):
    """Calls that take what the test says."""
    return Pretence(monkeypatch)


def raise_cancelled(_item):
    """End as a cancelled task does."""
    raise asyncio.CancelledError


def even_only(number):
    """Return a number, if it is even."""
    if number % 2:
        message = f"{number} is odd"
        raise ValueError(message)
    return number


@pytest.mark.parametrize(
    "make", [list, tuple, iter, lambda items: (item for item in items), lambda items: items], ids=str
)
def test_results_come_in_order(make):
    """For every kind of iterable, one result an item."""
    assert execute(square, make(range(100))) == [number * number for number in range(100)]


@pytest.mark.parametrize("data", [[], iter(()), {}])
def test_no_items_no_results(data):
    """Empty data is an empty list."""
    assert execute(square, data) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 40])
@pytest.mark.parametrize("shape", [list, iter])
def test_no_item_is_run_twice(tmp_path, count, shape):
    """Sampled calls are part of the work."""
    marks = tmp_path / "marks"
    keys = [str(number) for number in range(count)]
    assert execute(lambda key: count_execution(marks, key), shape(keys)) == keys
    assert sorted(read_executions(marks)) == sorted(keys)


@pytest.mark.parametrize("sample_size", [1, 7, 1000, 10_000])
def test_a_sample_of_any_size_stands_at_its_places(sample_size):
    """Its results are put between the others on the way, so that a large one costs no more time than a small one."""
    assert execute(identity, range(5000), sample_size) == list(range(5000))
    assert execute(identity, iter(range(5000)), sample_size) == list(range(5000))


def test_a_function_that_cannot_travel_runs_here(pretend):
    """What holds a lock is executed in this process, however long its calls take."""
    lock = threading.Lock()

    def guarded(number):
        with lock:
            return number + 1

    pretend.calls(0.1)
    assert execute(guarded, range(50)) == list(range(1, 51))


def test_threads_where_they_were_asked_for(pretend):
    """Waiting calls run in threads of this process."""
    pretend.calls(0.02, waiting=0.99)
    results, advice = execute(
        lambda _item: threading.get_ident(), range(200), prefer_threads_for_io=True, return_optimization_result=True
    )
    assert advice.executor_type == "thread"
    assert len(results) == 200


def test_a_failed_call_of_the_sample_says_nothing_of_the_others(pretend):
    """Where the work goes on after errors, the lane is chosen by the calls that ended well."""
    pretend.calls(0.02, waiting=0.99)
    options = {"on_error": "skip", "return_optimization_result": True}
    results, advice = execute(even_only, range(1, 201), prefer_threads_for_io=True, **options)
    assert (len(results), advice.executor_type, advice.n_jobs > 1) == (100, "thread", True)
    assert "item 0 raised" in advice.warnings[0]
    lock = threading.Lock()
    results, advice = execute(lambda number: (lock, even_only(number)), range(1, 201), **options)
    assert (len(results), advice.backend) == (100, "caller")


def test_max_workers_bounds_the_recommendation(pretend):
    """What may not be used is not recommended."""
    pretend.calls(0.02, waiting=0.99)
    for bound in (3, 1):
        results, advice = execute(square, range(200), max_workers=bound, return_optimization_result=True)
        assert len(results) == 200
        assert advice.n_jobs == bound


def test_the_recommendation_can_be_had():
    """A pair of results and what ``optimize`` would have said; the profile on request."""
    results, advice = execute(square, range(10), return_optimization_result=True, profile=True)
    assert results == [number * number for number in range(10)]
    assert isinstance(advice, OptimizationResult)
    assert advice.profile.sample_count == 5
    assert advice.data == range(10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_size", 0),
        ("target_chunk_duration", 0),
        ("verbose", 1),
        ("profile", 1),
        ("return_optimization_result", 1),
        ("prefer_threads_for_io", 1),
        ("hooks", print),
        ("on_error", "ignore"),
        ("progress", 1),
        ("progress_callback", 1),
        ("max_workers", 0),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_runs(name, value):
    """Also the executor's own."""
    seen = []
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        execute(seen.append, [1, 2], **{name: value})
    assert seen == []


def test_an_unknown_keyword_is_a_type_error():
    """As for any function, and before anything runs."""
    seen = []
    with pytest.raises(TypeError, match="no_such_option"):
        execute(seen.append, [1, 2], no_such_option=1)
    assert seen == []


# --- errors ---


@pytest.mark.parametrize("data", [[2, 3, 4], [0, 2, 4, 6, 8, 10, 11, 12, 14, 16, 18]])
@pytest.mark.parametrize("shape", [list, iter])
def test_an_error_is_raised(data, shape):
    """In the sample or behind it, the call's own error comes out."""
    with pytest.raises(ValueError, match="is odd"):
        execute(even_only, shape(data))


@pytest.mark.parametrize("watched", [False, True])
def test_after_an_error_nothing_more_begins(tmp_path, watched):
    """The rest of the work is not run for nobody."""
    marks = tmp_path / "marks"

    def fail_at_ten(number):
        count_execution(marks, str(number))
        return even_only(11 if number == 10 else 0)

    hooks = {"progress": lambda _done, _total: None} if watched else {}
    with pytest.raises(ValueError, match="is odd"):
        execute(fail_at_ten, range(5_000), **hooks)
    assert len(read_executions(marks)) < 5_000


@pytest.mark.parametrize("shape", [list, iter])
def test_errors_as_values_stand_at_their_places(shape):
    """With ``on_error="return"``."""
    results = execute(even_only, shape(range(21)), on_error="return")
    assert len(results) == 21
    assert results[::2] == list(range(0, 21, 2))
    assert [str(error) for error in results[1::2]] == [f"{number} is odd" for number in range(1, 21, 2)]


@pytest.mark.parametrize("shape", [list, iter])
def test_errors_are_left_out(shape):
    """With ``on_error="skip"`` the order stays."""
    assert execute(even_only, shape(range(21)), on_error="skip") == list(range(0, 21, 2))


def test_exceptions_that_are_results_stay():
    """A returned exception is no failure."""
    results = execute(LookupError, ["a", "b"], on_error="skip")
    assert [type(result) for result in results] == [LookupError, LookupError]


@pytest.mark.parametrize("on_error", ["raise", "return", "skip"])
@pytest.mark.parametrize("good", [2, 30])
def test_an_error_of_the_source_is_raised(on_error, good):
    """It is nobody's result, whatever becomes of calls' errors."""

    def source():
        yield from range(good)
        message = "the file ends here"
        raise OSError(message)

    with pytest.raises(OSError, match="ends here"):
        execute(square, source(), on_error=on_error)


def test_a_call_that_raises_stop_iteration_does_not_end_the_work():
    """As in a generator, it becomes a RuntimeError."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        execute(next, [iter(())])


@pytest.mark.parametrize("shape", [list, iter])
def test_what_a_signals_handler_raises_is_no_result(tmp_path, shape):
    """It ends the work, as a time limit is meant to; taken for a call's error it would move all results behind it."""
    pid, released = os.getpid(), tmp_path / "released"

    class TimeIsUpError(Exception):
        pass

    def handle(_number, _frame):
        released.touch()
        raise TimeIsUpError

    def call(_item):
        os.kill(pid, signal.SIGUSR1)
        return wait_for_file(str(released))

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with pytest.raises(TimeIsUpError):
            execute(call, shape([0]), on_error="return", isolate=True)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("isolate", [True, False])
def test_a_call_may_end_with_any_error(isolate):
    """With those too that are no ``Exception``, such as a cancelled task's."""
    results = execute(raise_cancelled, [1, 2], on_error="return", isolate=isolate)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2


class MuteError(Exception):
    """Cannot tell what it is."""

    def __str__(self):
        """Fail."""
        raise RuntimeError

    __repr__ = __str__


def raise_mute(_item):
    """Fail in a way that cannot be written."""
    raise MuteError


def test_errors_that_cannot_be_written_are_errors_like_others():
    """They are named by their class, and end nothing that goes on after errors."""
    manager, seen = HookManager(), []
    manager.register(HookEvent.ON_ERROR, lambda context: seen.append(context.error_message))
    assert execute(raise_mute, range(3), on_error="skip", hooks=manager) == []
    assert seen == ["MuteError"] * 3
    assert execute(raise_mute, range(3), on_error="skip", return_optimization_result=True)[1].warnings == [
        "A sampled call failed: item 0 raised MuteError."
    ]


def test_a_killed_worker_fails_one_call():
    """The error is the call's; the others have their results."""
    results = execute(lambda number: kill_self() if number == 3 else number, range(6), on_error="return", isolate=True)
    assert [result for result in results if not isinstance(result, Exception)] == [0, 1, 2, 4, 5]
    assert isinstance(results[3], WorkerDiedError)


def test_a_broken_executor_is_raised():
    """Where the executor itself is broken, nothing is called a result."""
    with pytest.raises(BrokenProcessPool):
        execute(identity, range(6), on_error="return", initializer=exit_now, initargs=(3,))


# --- middleware ---


def test_sampled_calls_are_retried_too(tmp_path):
    """With a retry every call passes it, from the first on."""
    marks = tmp_path / "marks"

    def fail_first(key):
        count_execution(marks, key)
        if read_executions(marks).count(key) < 2:
            raise LookupError
        return key

    assert execute(fail_first, ["a", "b"], retry=RetryPolicy(max_retries=1, initial_delay=1e-6)) == ["a", "b"]
    assert sorted(read_executions(marks)) == ["a", "a", "b", "b"]


def test_dead_letters_are_written_by_every_call(tmp_path):
    """Those of the first items too."""
    queue = DeadLetterQueue(DLQPolicy(directory=str(tmp_path)))
    try:
        assert execute(even_only, [1, 2, 3], on_error="skip", dead_letters=queue) == [2]
        assert sorted(entry.item for entry in queue.get_entries()) == [1, 3]
    finally:
        queue.close()


def test_a_rerun_with_a_checkpoint_repeats_nothing(tmp_path, monkeypatch):
    """The whole work is one map, whatever the sample was."""
    monkeypatch.chdir(tmp_path)
    marks = tmp_path / "marks"
    keys = [str(number) for number in range(12)]
    for _ in range(2):
        assert execute(lambda key: count_execution(str(marks), key), keys, checkpoint="work") == keys
    assert sorted(read_executions(marks)) == sorted(keys)


def test_layers_do_not_change_where_calls_can_run():
    """What cannot travel runs here, and in threads where they are preferred; a timeout needs processes."""
    lock = threading.Lock()

    def guarded(_item):
        with lock:
            return os.getpid(), threading.current_thread().name, time.sleep(0.01)

    retry = RetryPolicy()
    assert {pid for pid, *_rest in execute(guarded, range(30), retry=retry)} == {os.getpid()}
    results = execute(guarded, range(30), prefer_threads_for_io=True, retry=retry)
    assert {pid for pid, *_rest in results} == {os.getpid()}
    assert threading.main_thread().name not in {name for _pid, name, _none in results}
    with pytest.raises(TypeError, match="pickle"):
        execute(guarded, range(30), prefer_threads_for_io=True, retry=retry, timeout=20)


def test_decorated_functions_keep_their_policies():
    """A retry that a function brings along is the executor's, not the sample's."""
    results, advice = execute(with_retry(RetryPolicy(max_retries=1))(square), range(9), return_optimization_result=True)
    assert results == [number * number for number in range(9)]
    assert advice.n_jobs >= 1
    assert advice.reason


# --- what is told ---


@pytest.mark.parametrize("options", [{}, {"isolate": True}], ids=["sampled", "unsampled"])
@pytest.mark.parametrize("shape", [list, iter])
def test_hooks_hear_of_everything(options, shape):
    """PRE comes first, POST last, chunks are numbered, and progress never goes back."""
    manager, seen = HookManager(), []
    for event in HookEvent:
        manager.register(event, seen.append)
    execute(square, shape(range(100)), hooks=manager, **options)
    events = [context.event for context in seen]
    assert events[0] is HookEvent.PRE_EXECUTE
    assert events[-1] is HookEvent.POST_EXECUTE
    assert events.count(HookEvent.PRE_EXECUTE) == events.count(HookEvent.POST_EXECUTE) == 1
    assert seen[0].n_jobs >= 1
    assert set(seen[0].metadata) == {"executor_type", "estimated_speedup"}
    assert (seen[-1].results_count, seen[-1].items_completed, seen[-1].percent_complete) == (100, 100, 100.0)
    assert seen[-1].elapsed_time > 0
    chunks = [context for context in seen if context.event is HookEvent.ON_CHUNK_COMPLETE]
    assert [chunk.chunk_id for chunk in chunks] == list(range(len(chunks)))
    assert sum(chunk.chunk_size for chunk in chunks) == 100
    done = [context.items_completed for context in seen if context.event is HookEvent.ON_PROGRESS]
    assert done == sorted(done)
    assert done[-1] == 100


def test_hooks_hear_of_errors():
    """Each failed call, with its error and traceback."""
    manager, seen = HookManager(), []
    manager.register(HookEvent.ON_ERROR, seen.append)
    execute(even_only, range(4), hooks=manager, on_error="skip")
    assert [context.error_message for context in seen] == ["1 is odd", "3 is odd"]
    assert all("even_only" in context.error_traceback for context in seen)


def test_hooks_hear_of_the_error_that_ends_the_run():
    """Also where it was a call of the sample; the end is not told then."""
    manager, seen = HookManager(), []
    for event in HookEvent:
        manager.register(event, lambda context: seen.append((context.event, context.error_message)))
    with pytest.raises(ValueError, match="1 is odd"):
        execute(even_only, range(4), hooks=manager)
    assert seen[:2] == [(HookEvent.PRE_EXECUTE, None), (HookEvent.ON_ERROR, "1 is odd")]
    assert HookEvent.POST_EXECUTE not in dict(seen)


def test_empty_data_has_no_chunks():
    """Beginning and end, and nothing between."""
    manager, seen = HookManager(), []
    for event in HookEvent:
        manager.register(event, lambda context: seen.append(context.event))
    execute(square, [], hooks=manager)
    assert seen == [HookEvent.PRE_EXECUTE, HookEvent.POST_EXECUTE]


def test_progress_counts_calls():
    """Up to the total, which is None where nobody knows it."""
    seen = []
    execute(square, range(50), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (50, 50)
    execute(square, iter(range(50)), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (50, None)


def test_a_callback_that_fails_costs_no_results(caplog):
    """As with hooks, and the phases of a recommendation: what it raises is logged."""
    assert execute(square, range(50), progress=lambda done, _total: done / 0) == [n * n for n in range(50)]
    assert "a progress callback failed" in caplog.text


def test_phases_of_the_recommendation():
    """From 0.0 to 1.0."""
    parts = []
    execute(square, range(10), progress_callback=lambda _phase, part: parts.append(part))
    assert (parts[0], parts[-1]) == (0.0, 1.0)
    assert parts == sorted(parts)
