"""``optimize``: the contract's rules for parameters, decisions, reasons and data."""

import contextvars
import cProfile
import math
import os
import subprocess
import sys
import threading
import zlib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from amorsize_executor import AdaptiveExecutor, DiagnosticProfile, OptimizationResult, execute, optimize
from amorsize_executor.advice import judgement, outlook, sample
from amorsize_executor.advice.lane_cost import measure_costs, measure_load
from amorsize_executor.advice.optimization import NoProfileError
from amorsize_executor.advice.sample import Sample, Travel, leave_out_warm_up, take_sample
from amorsize_executor.tuning.cost_model import Costs
from amorsize_executor.tuning.machine import Machine
from amorsize_executor.worker import main as worker_main
from tests.payloads import identity, square, unpicklable_result
from tests.pretending import GIB, MACHINE, Pretence


@pytest.fixture
def pretend(monkeypatch):
    """Calls that take what the test says."""
    return Pretence(monkeypatch)


GONE = "gone"


class Counted:
    """Counts its calls by item."""

    def __init__(self):
        self.seen = []

    def __call__(self, item):
        self.seen.append(item)
        return item * 2


# --- parameters ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_size", 0),
        ("sample_size", -1),
        ("sample_size", 10_001),
        ("sample_size", 2.0),
        ("sample_size", True),
        ("sample_size", "5"),
        ("sample_size", None),
        ("target_chunk_duration", 0),
        ("target_chunk_duration", -0.1),
        ("target_chunk_duration", 3601),
        ("target_chunk_duration", math.nan),
        ("target_chunk_duration", math.inf),
        ("target_chunk_duration", True),
        ("target_chunk_duration", "1"),
        ("verbose", 1),
        ("verbose", None),
        ("use_spawn_benchmark", 1),
        ("use_chunking_benchmark", 0),
        ("profile", "yes"),
        ("auto_adjust_for_nested_parallelism", 1),
        ("prefer_threads_for_io", 1),
        ("enable_function_profiling", 1),
        ("use_cache", 1),
        ("enable_memory_tracking", 1),
        ("adjust_for_system_load", 1),
        ("progress_callback", 5),
    ],
)
def test_a_wrong_parameter_is_named_before_anything_runs(name, value):
    """Each is a ``ValueError`` that says "Invalid parameter" and which."""
    func = Counted()
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        optimize(func, [1, 2], **{name: value})
    assert func.seen == []


@pytest.mark.parametrize(
    ("func", "data", "name"), [(None, [1], "func"), (5, None, "func"), (abs, None, "data"), (abs, 5, "data")]
)
def test_func_is_checked_before_data(func, data, name):
    """The first wrong parameter wins."""
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        optimize(func, data)


@pytest.mark.parametrize("data", ["text", [], range(10_000), {1: 2}, {3, 4}, b"bytes"])
def test_any_iterable_is_accepted(data, pretend):
    """Strings and empty data too."""
    assert optimize(identity, data).data is data


# --- data and the sample ---


def test_each_sampled_item_is_called_once_and_its_result_kept():
    """The results are in the answer, by position, and the rest is what was not run."""
    func = Counted()
    result = optimize(func, list(range(9)))
    assert func.seen == [0, 2, 4, 6, 8]
    assert result.sampled_results == {0: 0, 2: 4, 4: 8, 6: 12, 8: 16}
    assert list(result.remaining()) == [1, 3, 5, 7]


def test_a_generator_is_pulled_for_the_sample_and_no_further():
    """``data`` has everything, in order."""
    pulled = []
    result = optimize(square, (pulled.append(n) or n for n in range(50)), sample_size=7)
    assert pulled == list(range(7))
    assert list(result.data) == list(range(50))


def test_what_a_sampled_call_sets_in_its_context_does_not_stay():
    """As with calls that the executor has a waiting caller run."""
    variable = contextvars.ContextVar("variable", default=0)
    result = optimize(lambda number: (variable.get(), variable.set(number))[0], [1, 2, 3])
    assert set(result.sampled_results.values()) == {0}
    assert variable.get() == 0


def test_empty_data_is_serial():
    """Nothing to do is nothing to run in parallel."""
    for data in ([], iter([])):
        result = optimize(square, data)
        assert (result.n_jobs, result.chunksize, result.estimated_speedup) == (1, 1, 1.0)
        assert "no items" in result.reason


def test_a_call_that_raises_makes_it_serial():
    """The reason names the error, a warning the item, and data is complete."""
    result = optimize(lambda n: 1 // n, iter([2, 1, 0, 5, 6, 7]))
    assert (result.n_jobs, result.chunksize, result.estimated_speedup) == (1, 1, 1.0)
    assert "ZeroDivisionError" in result.reason
    assert "item 2" in result.warnings[0]
    assert list(result.data) == [2, 1, 0, 5, 6, 7]
    assert result.sampled_results == {0: 0, 1: 1}


def test_a_source_that_raises_makes_it_serial():
    """``data`` gives what came before, and the error at its place."""

    def source():
        yield 1
        yield 2
        raise OSError(GONE)

    result = optimize(square, source())
    assert result.n_jobs == 1
    assert "OSError" in result.reason
    seen = []
    with pytest.raises(OSError, match="gone"):
        seen.extend(result.data)
    assert seen == [1, 2]


def test_the_sample_ends_early_where_calls_are_long():
    """After the time for sampling no more calls are begun; at least one is."""
    func = Counted()
    taken = take_sample(func, list(enumerate(range(5))), longest_s=-1.0)
    assert func.seen == [0]
    assert list(taken.outcomes) == [0]


def test_a_slow_first_call_does_not_use_up_the_time_for_sampling(monkeypatch):
    """It would be all that there is to predict from: of a function that imports what it needs, nothing true."""
    clock = SimpleNamespace(now_s=0.0, perf_counter=lambda: clock.now_s, process_time=lambda: 0.0)
    monkeypatch.setattr(sample, "time", clock)
    seen = []

    def work(took_s):
        seen.append(took_s)
        clock.now_s += took_s

    for durations_s, sampled in (((0.9, 0.1, 0.1, 0.1, 0.1), 4), ((1.1, 0.1, 0.1), 1), ((0.3, 0.3, 0.3), 2)):
        seen.clear()
        taken = take_sample(work, list(enumerate(durations_s)))
        assert len(seen) == len(taken.outcomes) == sampled
    assert take_sample(work, list(enumerate((0.3, 0.1))), warm_up_s=0.0).outcomes.keys() == {0}


def test_cheap_calls_cost_what_they_use():
    """Measuring takes longer than such a call, and is not counted; no share of several processors is seen in it."""
    taken = take_sample(abs, list(enumerate(range(100))))
    assert min(taken.durations_s) < 5e-6
    assert all(m.cpu_s == m.wall_s and m.waiting_s == 0 for m in taken.measurements if m.wall_s < 1e-3)


def test_memory_is_what_the_sample_added_to_the_peak(monkeypatch):
    """Where the resident memory is not known, the process itself is no growth: one worker would be all that fits."""
    monkeypatch.setattr(sample, "resident_bytes", lambda: 0)
    before = sample.peak_bytes()
    taken = take_sample(lambda size: len(b"x" * size), [(0, before)])
    assert 0 < taken.measurements[0].memory_growth <= sample.peak_bytes() - before
    monkeypatch.setattr(sys, "platform", "darwin")
    assert sample.peak_bytes() < before


def test_a_slow_first_call_is_left_out():
    """Imports and caches make a first call slow; it says nothing of the others."""
    runs = [SimpleNamespace(wall_s=wall_s) for wall_s in (1.0, 0.1, 0.2, 0.1)]
    assert leave_out_warm_up(list(enumerate(runs))) == list(enumerate(runs))[1:]
    assert len(leave_out_warm_up(list(enumerate(runs[1:])))) == 3
    assert len(leave_out_warm_up(list(enumerate(runs[:2])))) == 2


# --- decisions ---


def test_cheap_calls_stay_serial(pretend):
    """A million calls of a microsecond are cheaper than shipping them, and the reason says so."""
    result = optimize(pretend.calls(1e-6) and square, range(1_000_000))
    assert (result.n_jobs, result.chunksize, result.estimated_speedup) == (1, 1, 1.0)
    assert "too cheap" in result.reason


@pytest.mark.parametrize(
    ("function", "data", "says_so"),
    [
        (zlib.crc32, [b"abc"] * 50, True),
        (zlib.crc32, [b"abc"], False),
        (zlib.crc32, (b"abc" for _ in range(50)), False),
        (abs, range(50), False),
    ],
)
def test_threads_beside_the_caller_are_told_of(monkeypatch, function, data, says_so):
    """Where an executor's map would try them, which no prediction knows."""
    monkeypatch.setattr(judgement, "probe_machine", lambda: MACHINE)
    result = optimize(function, data, profile=True)
    assert result.n_jobs == 1
    callers = f"try {MACHINE.cores} threads"
    assert (callers in result.reason) == says_so
    assert any(callers in each for each in result.profile.recommendations) == says_so


def test_heavy_results_stay_serial(pretend):
    """The reason says what they weigh, not that the calls are cheap."""
    result = optimize(pretend.calls(1e-6) and bytes, [100_000] * 1000)
    assert result.n_jobs == 1
    assert "item and result of a call take 97.6" in result.reason
    assert "too cheap" not in result.reason


def test_slow_pickling_is_the_callers_work():
    """What it takes counts beyond what the bytes alone would; what is there already does not count twice."""
    light, heavy = Travel(1e-6, 10), Travel(1e-3, 100_000)
    cold = Travel(1.0, 10)
    sample = Sample({}, [], [], light, {0: cold, 1: light, 2: light}, [light, light])
    assert outlook.add_pickling(Costs(), sample) == Costs()
    costs = outlook.add_pickling(Costs(), sample._replace(results=[heavy, heavy, heavy]))
    assert costs.ship_call_s + costs.ship_byte_s * 100_010 == pytest.approx(0.995e-3)
    assert costs._replace(ship_call_s=0) == Costs()._replace(ship_call_s=0)
    assert outlook.add_pickling(Costs(), sample._replace(arguments={}, results=[])) == Costs()


def test_little_work_stays_serial(pretend):
    """Starting workers has to be repaid."""
    pretend.calls(1e-3)
    result = optimize(square, range(8))
    assert result.n_jobs == 1
    assert "starting workers" in result.reason


def test_one_call_is_not_said_to_be_held_up_by_overhead(pretend):
    """There is nothing to share, however long it takes; nor is there where one worker is allowed."""
    pretend.calls(5.0)
    assert "because one call cannot be shared" in optimize(square, [1]).reason
    results, advice = execute(square, range(9), max_workers=1, return_optimization_result=True)
    assert len(results) == 9
    assert "because max_workers is 1" in advice.reason


def test_heavy_calls_use_all_cores(pretend):
    """The speed-up is near the number of cores, within its range, and never above the workers."""
    pretend.calls(0.01)
    result = optimize(square, range(1000))
    assert result.n_jobs == 2
    assert 1.9 < result.estimated_speedup <= 2.0
    low, high = result.speedup_range
    assert low <= result.estimated_speedup <= high <= 2.0
    assert 1 <= result.chunksize <= 250
    assert result.executor_type == "process"
    assert result.warnings == []


def test_long_work_of_few_items_takes_few_workers(pretend):
    """Three items have no use for eight cores."""
    pretend.machine(Machine(8, 8, 10 * GIB, 16 * GIB))
    pretend.calls(1.0)
    assert optimize(square, range(3)).n_jobs == 3


def test_sorted_data_is_judged_by_all_of_it(pretend):
    """The mean of the spread sample counts, not the last calls."""
    pretend.calls([0.0, 0.01, 0.02, 0.03, 0.04])
    result = optimize(square, range(1000), profile=True)
    assert result.profile.avg_execution_time == pytest.approx(0.02)
    assert result.profile.estimated_serial_time == pytest.approx(20.0)


def test_waiting_calls_say_what_threads_would_give(pretend):
    """Threads are not chosen unasked, because a function may not be thread-safe."""
    pretend.calls(0.02, waiting=0.99)
    result = optimize(square, range(300), profile=True)
    assert result.executor_type == "process"
    assert result.n_jobs > 2
    assert "prefer_threads_for_io=True" in result.reason
    assert "(I/O-bound; " in result.reason
    assert result.profile.workload_type == "io_bound"


def test_threads_are_chosen_when_asked(pretend):
    """For calls that mostly wait, and only for these."""
    pretend.calls(0.02, waiting=0.99)
    result = optimize(square, range(300), prefer_threads_for_io=True)
    assert (result.executor_type, result.backend) == ("thread", "thread")
    assert result.n_jobs > 2
    assert result.estimated_speedup > 5
    assert optimize(pretend.calls(0.02) and square, range(300), prefer_threads_for_io=True).executor_type == "process"


def test_threads_need_no_pickling(pretend):
    """A function that holds a lock goes to threads."""
    lock = threading.Lock()
    pretend.calls(0.02, waiting=0.99)
    result = optimize(lambda item: (lock, item)[1], range(300), prefer_threads_for_io=True)
    assert result.executor_type == "thread"
    assert result.n_jobs > 1


def test_a_lambda_is_no_obstacle(pretend):
    """Lambdas and closures travel by value."""
    factor = 3
    pretend.calls(0.01)
    assert optimize(lambda n: n * factor, range(1000)).n_jobs == 2


def test_an_unpicklable_function_is_told_with_the_fix(pretend):
    """The reason says what to do, and the work stays here."""
    lock = threading.Lock()
    pretend.calls(0.01)
    result = optimize(lambda n: (lock, n)[1], range(1000))
    assert (result.n_jobs, result.chunksize, result.estimated_speedup) == (1, 1, 1.0)
    assert "cannot be pickled" in result.reason
    assert "inside the call" in result.reason
    assert result.warnings
    assert result.backend == "caller"


def test_what_cannot_travel_stays_here_after_an_error_too():
    """A call of the sample that failed does not send the others where each of them would fail."""
    lock = threading.Lock()
    result = optimize(lambda n: (lock, 1 // n)[1], range(1000))
    assert "ZeroDivisionError" in result.reason
    assert "cannot be pickled" in result.reason
    assert result.backend == "caller"


def test_an_unpicklable_item_is_told_by_its_index(pretend):
    """The index is the item's own in the data."""
    pretend.calls(0.01)
    data = [1, 2, threading.Lock(), 4, 5]
    result = optimize(type, data)
    assert result.n_jobs == 1
    assert "Item 2 cannot be pickled" in result.reason


def test_an_unpicklable_result_is_told(pretend):
    """Calls whose results cannot come back had better stay."""
    pretend.calls(0.01)
    result = optimize(lambda _n: unpicklable_result(), range(100))
    assert result.n_jobs == 1
    assert "A result cannot be pickled" in result.reason


def test_memory_bounds_the_workers(pretend):
    """With room for one worker there is no parallel run; the reason says memory."""
    pretend.calls(0.1, growth=9 * GIB)
    result = optimize(square, range(100), profile=True)
    assert result.n_jobs == 1
    assert "memory for one worker" in result.reason
    assert result.profile.max_workers_memory == 1
    assert optimize(square, range(100), enable_memory_tracking=False).n_jobs == 2


def test_a_large_machine_is_not_advised_more_workers_than_there_can_be(pretend):
    """The executor could not be made with so many."""
    pretend.machine(MACHINE._replace(cores=128, physical_cores=64, available_memory=1000 * GIB))
    pretend.calls(0.1, waiting=0.999)
    result = optimize(square, range(10**7), profile=True)
    assert result.n_jobs <= result.profile.max_workers_cpu == 1000
    assert result.profile.constraints == []
    AdaptiveExecutor(result.n_jobs, min_workers=result.n_jobs).shutdown()


def test_memory_is_no_constraint_where_something_else_is(pretend):
    """As many threads as are ever started are not said to be all that fit."""
    pretend.calls(0.1, waiting=0.999, growth=GIB)
    assert [text[:6] for text in optimize(square, range(100_000), profile=True).profile.constraints] == ["memory"]
    pretend.calls(0.1, waiting=0.999)
    result = optimize(square, range(100_000), prefer_threads_for_io=True, profile=True)
    assert (result.n_jobs, result.profile.constraints) == (32, [])


def test_large_results_are_warned_of(pretend):
    """Results that fill half of the memory want batches or a stream."""
    pretend.machine(MACHINE._replace(available_memory=1000))
    result = optimize(lambda n: bytes(100) + bytes([n % 7]), range(100), profile=True)
    assert any("process_in_batches" in text for text in result.warnings)
    assert result.profile.constraints


def test_calls_with_threads_of_their_own_take_fewer_workers(pretend):
    """Two processors a call on four cores make two workers."""
    pretend.machine(Machine(4, 4, 10 * GIB, 16 * GIB))
    pretend.calls(0.1, cpu=2.0)
    assert optimize(square, range(100)).n_jobs == 2
    assert optimize(square, range(100), auto_adjust_for_nested_parallelism=False).n_jobs == 4


def test_an_unknown_number_is_told_with_the_break_even(pretend):
    """Heavy calls are recommended workers, with the number of items from which on they pay."""
    pretend.calls(0.01)
    result = optimize(square, iter(range(1000)), profile=True)
    assert result.n_jobs == 2
    assert "Nobody knows how many items" in result.warnings[0]
    assert "items on" in result.warnings[0]
    assert result.profile.total_items == -1


def test_cheap_calls_of_unknown_number_stay_serial(pretend):
    """A trivial function over a generator is not worth workers, however long it is."""
    assert optimize(pretend.calls(1e-7) and square, iter(range(1000))).n_jobs == 1


def test_inside_a_worker_it_is_serial(pretend, monkeypatch):
    """A worker of another executor has no processors to share."""
    monkeypatch.setattr(worker_main, "depth", 1)
    result = optimize(pretend.calls(0.01) and square, range(1000))
    assert result.n_jobs == 1
    assert "worker of another executor" in result.reason


def test_costs_are_measured_only_where_it_matters(pretend):
    """Small work, or a wish not to, leaves the constants."""
    optimize(pretend.calls(1e-3) and square, range(10))
    assert pretend.measured == []
    optimize(pretend.calls(1e-2) and square, range(1000), use_spawn_benchmark=False, use_chunking_benchmark=False)
    assert pretend.measured == []
    optimize(square, range(1000))
    assert pretend.measured == ["process"]


def test_where_no_worker_can_be_had_it_is_serial(pretend, monkeypatch):
    """Whatever keeps workers from starting is the reason, and no error."""

    def refuse(_kind, *, again):
        raise PermissionError(again, "no processes here")

    monkeypatch.setattr(outlook, "measure_costs", refuse)
    pretend.calls(0.01)
    result = optimize(square, range(1000))
    assert (result.n_jobs, result.backend) == (1, "caller")
    assert "no processes here" in result.reason


def test_loading_is_measured_where_workers_import(pretend, monkeypatch):
    """Workers that start slowly import the function's module, each for itself; many of them are not worth it then."""
    asked = []
    monkeypatch.setattr(outlook, "measure_load", lambda func, _key, *, again: asked.append((func, again)) or 0.1)
    pretend.calls(0.02, waiting=0.99)
    few = optimize(square, range(300)).n_jobs
    assert asked == []
    monkeypatch.setattr(outlook, "measure_costs", lambda _kind, *, again: Costs(start_up_s=0.15 + again))
    assert optimize(square, range(300)).n_jobs < few
    assert asked == [(square, False)]


def test_loading_is_measured_in_a_new_worker():
    """The function is not called for it; what a worker cannot load is raised."""
    func = Counted()
    assert measure_load(func, "counted", again=True) >= 0
    assert measure_load(None, "counted") >= 0
    assert func.seen == []


def test_the_start_method_stays_free_to_choose():
    """Asking for it would fix it for the whole program, so that ``set_start_method`` would fail later."""
    code = (
        "import multiprocessing, amorsize_executor\n"
        "amorsize_executor.optimize(abs, range(10), use_spawn_benchmark=False, profile=True)\n"
        "print(multiprocessing.get_start_method(allow_none=True))\n"
    )
    environment = {**os.environ, "AMORSIZE_WITHOUT": "zygote", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "None\n"


def test_system_load_leaves_fewer_processors(pretend, monkeypatch):
    """What others keep busy is not to be had."""
    monkeypatch.setattr("os.getloadavg", lambda: (1.0, 0.0, 0.0))
    pretend.calls(0.01)
    assert optimize(square, range(1000)).n_jobs == 2
    result = optimize(square, range(1000), adjust_for_system_load=True, profile=True)
    assert result.n_jobs == 1
    assert "because other programs keep the other processors busy" in result.reason
    assert result.profile.constraints == ["other programs keep 1 processor busy"]


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_costs_are_measured_on_real_workers(kind):
    """Every cost is above zero, and workers of both kinds start in far less than a minute."""
    costs = measure_costs(kind, again=True)
    assert all(cost > 0 for cost in costs)
    assert costs.start_up_s < 60
    assert measure_costs(kind) is costs


# --- what is told ---


def test_progress_goes_through_all_phases(pretend):
    """From 0.0 to 1.0, never back; what a callback raises disturbs nothing."""
    phases = []
    optimize(
        pretend.calls(0.01) and square, range(1000), progress_callback=lambda phase, part: phases.append((phase, part))
    )
    assert [part for _, part in phases] == [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
    assert all(isinstance(phase, str) and phase for phase, _ in phases)
    optimize(square, [], progress_callback=lambda phase, part: phases.append((phase, part)))
    assert phases[-1][1] == 1.0
    assert optimize(square, [], progress_callback=lambda _phase, _part: 1 / 0).n_jobs == 1


def test_verbose_writes_to_stderr_alone(pretend, capsys):
    """Stdout stays the program's own."""
    optimize(square, range(100), verbose=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Recommended: n_jobs=1" in shown.err
    optimize(square, range(100))
    assert capsys.readouterr() == ("", "")


def test_text_of_a_result():
    """Three lines, then warnings as a list."""
    text = str(OptimizationResult(4, 20, "because", 3.5, ["mind the gap"]))
    assert text.splitlines() == [
        "Recommended: n_jobs=4, chunksize=20, executor=process",
        "Reason: because",
        "Estimated speedup: 3.50x",
        "Warnings:",
        "  - mind the gap",
    ]
    assert "3.50x (cached)" in str(OptimizationResult(4, 20, "because", 3.5, cache_hit=True))
    assert "n_jobs=4, chunksize=20, executor_type='process'" in repr(OptimizationResult(4, 20, ""))


def test_a_result_has_the_contracts_attributes():
    """Positions, defaults and names; no warnings are an empty list."""
    result = OptimizationResult(2, 3, "r", 1.5, None, [1], None, "thread", None, False)
    assert result.warnings == []
    assert (result.n_jobs, result.chunksize, result.reason, result.estimated_speedup) == (2, 3, "r", 1.5)
    assert (result.data, result.profile, result.executor_type) == ([1], None, "thread")
    assert (result.function_profiler_stats, result.cache_hit) == (None, False)
    assert list(result.remaining()) == [1]


# --- the profile ---


def test_a_profile_is_there_when_asked_for(pretend):
    """It tells how much was sampled; without it, ``explain`` says how to get one."""
    assert optimize(square, range(100)).profile is None
    assert "profile=True" in optimize(square, range(100)).explain()
    result = optimize(square, range(100), profile=True)
    profile = result.profile
    assert (profile.sample_count, profile.total_items) == (5, 100)
    assert profile.is_picklable
    assert len(profile.rejection_reasons) >= 1
    assert "REJECTION REASONS" in result.explain()


def test_explain_has_its_sections(pretend):
    """Numbered, and within 79 columns."""
    text = optimize(pretend.calls(0.01) and square, range(1000), profile=True).explain()
    for number, title in enumerate(
        ("WORKLOAD ANALYSIS", "SYSTEM RESOURCES", "OPTIMIZATION DECISION", "PERFORMANCE PREDICTION"), 1
    ):
        assert f"[{number}] {title}" in text
    assert "REJECTION" not in text
    assert max(map(len, text.splitlines())) <= 79


def test_profile_defaults_and_formats():
    """No arguments; units change at 1 ms, 1 s and 1,024."""
    profile = DiagnosticProfile()
    assert (profile.workload_type, profile.cpu_time_ratio, profile.target_chunk_duration) == ("cpu_bound", 1.0, 0.2)
    assert profile.get_overhead_breakdown() == {"spawn": 0.0, "ipc": 0.0, "chunking": 0.0}
    profile.overhead_spawn, profile.overhead_ipc, profile.overhead_chunking = 1.0, 2.0, 1.0
    assert profile.get_overhead_breakdown() == {"spawn": 25.0, "ipc": 50.0, "chunking": 25.0}
    assert [profile.format_time(s) for s in (5e-6, 0.005, 5)] == ["5.0μs", "5.0ms", "5.00s"]
    assert [profile.format_bytes(n) for n in (500, 2048, 3 << 20, 4 << 30)] == ["500B", "2.00KB", "3.00MB", "4.00GB"]


def test_uneven_calls_are_noticed(pretend):
    """A coefficient of variation above 0.5 is heterogeneous."""
    pretend.calls([0.001, 0.1, 0.001, 0.1, 0.001])
    profile = optimize(square, range(100), profile=True).profile
    assert profile.is_heterogeneous
    assert profile.coefficient_of_variation > 0.5
    assert "sizes chunks" in profile.recommendations[0]
    pretend.calls([1e-7, 5e-7, 1e-7, 5e-7, 1e-7])
    assert optimize(square, range(100), profile=True).profile.recommendations == []  # there are no chunks to size


def test_explain_tells_only_what_was_measured():
    """Nothing of calls, where all failed, and nothing of workers, which were not thought of."""
    text = optimize(unpicklable_result, [], profile=True).explain()
    for label in ("execution time", "is picklable", "Start-up", "Workers by"):
        assert label not in text
    assert "Sampled calls:            none that ended well" in text
    assert "Workers by" not in optimize(unpicklable_result, range(20), profile=True).explain()


def test_function_profile(tmp_path, capsys):
    """CProfile's view of one sampled call, on request; nothing runs twice for it."""
    func = Counted()
    result = optimize(func, [1, 2, 3], enable_function_profiling=True)
    assert func.seen == [1, 2, 3]
    result.save_function_profile(tmp_path / "profile.txt")
    assert "__call__" in (tmp_path / "profile.txt").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="enable_function_profiling"):
        optimize(square, [1]).save_function_profile(tmp_path / "none.txt")
    assert not (tmp_path / "none.txt").exists()
    optimize(square, [1]).show_function_profile()
    assert "enable_function_profiling" in capsys.readouterr().err
    assert isinstance(NoProfileError(), ValueError)


def test_another_profiler_at_work_is_left_alone():
    """There can be one only, so the sample goes without."""
    func = Counted()
    with cProfile.Profile():
        result = optimize(func, [1, 2], enable_function_profiling=True)
    assert func.seen == [1, 2]
    assert result.sampled_results == {0: 2, 1: 4}


def test_partials_and_methods_are_functions_too(pretend):
    """Whatever can be called is measured and travels."""
    pretend.calls(0.01)
    assert optimize(partial(max, 3), range(1000)).n_jobs == 2
    assert optimize([1].count, range(1000)).n_jobs == 2


def test_a_result_saves_its_config(tmp_path, pretend):
    """The file holds the plan; an existing one is not overwritten unasked."""
    config = pytest.importorskip("amorsize_executor.advice.config")
    path = tmp_path / "plan.json"
    result = optimize(pretend.calls(1e-6) and square, range(10), profile=True)
    result.save_config(path, function_name="square", notes="n")
    loaded = config.load_config(path)
    assert (loaded.n_jobs, loaded.chunksize, loaded.function_name) == (1, 1, "square")
    with pytest.raises(FileExistsError):
        result.save_config(path)
