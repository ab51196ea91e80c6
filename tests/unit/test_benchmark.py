"""Validation and comparison: what is measured, in which order, and what is made of it."""

import itertools
import math
from functools import partial

import pytest

from amorsize_executor import (
    BenchmarkResult,
    ComparisonConfig,
    ComparisonResult,
    ExecutionError,
    OptimizationResult,
    compare_strategies,
    compare_with_optimizer,
    quick_validate,
    validate_optimization,
)
from amorsize_executor.advice import benchmark
from amorsize_executor.advice.benchmark import Stopwatch
from tests.payloads import (
    exit_now,
    interrupt_when_there,
    kill_self,
    raise_system_exit,
    raise_value_error,
    square,
    start_and_hang,
)

pytestmark = pytest.mark.slow

TWO = OptimizationResult(2, 10, "", 1.9)
ONE = OptimizationResult(1, 1, "")


@pytest.fixture
def timed(monkeypatch):
    """Replace what is measured by what the test says; return the settings that were run, in order."""
    order = []

    def say(serial_s, parallel_s):
        serial, parallel = itertools.cycle(serial_s), itertools.cycle(parallel_s)
        monkeypatch.setattr(Stopwatch, "time_serial", lambda _watch: order.append("serial") or next(serial))
        monkeypatch.setattr(Stopwatch, "time_workers", lambda _watch, *setting: order.append(setting) or next(parallel))
        return order

    return say


@pytest.mark.parametrize("run", [validate_optimization, quick_validate])
@pytest.mark.parametrize(("name", "value"), [("func", 5), ("data", None), ("data", []), ("verbose", 1)])
def test_a_wrong_parameter_is_named(run, name, value):
    """Each is a ValueError."""
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        run(**{"func": square, "data": [1], name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", math.nan),
        ("max_items", 0),
        ("max_items", 1.5),
        ("max_items", 10**30),
        ("use_cache", 1),
        ("optimization", 2),
    ],
)
def test_validate_refuses(name, value):
    """What belongs to it alone."""
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        validate_optimization(square, [1], **{name: value})


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_quick_validate_refuses(value):
    """A sample of nothing is refused, not divided by."""
    with pytest.raises(ValueError, match=r"Invalid parameter.*sample_size"):
        quick_validate(square, range(10), value)


def test_runs_take_turns_and_medians_count(timed):
    """Serial first, then parallel first, then serial first again."""
    order = timed([2.0, 9.0, 2.0], [1.0, 1.0, 8.0])
    result = validate_optimization(square, range(40), TWO)
    setting = (2, 10, "process")
    assert order == ["serial", setting, setting, "serial", "serial", setting]
    assert (result.serial_time, result.parallel_time) == (2.0, 1.0)
    assert (result.actual_speedup, result.predicted_speedup) == (2.0, 1.9)
    assert result.accuracy_percent == pytest.approx(95.0)
    assert result.error_percent == pytest.approx(5.263, abs=1e-3)
    assert result.optimization is TWO
    assert result.is_accurate()
    assert not result.is_accurate(96)


def test_a_single_round_where_time_is_short(timed):
    """What two more rounds would take has to fit into the timeout."""
    order = timed([50.0], [25.0])
    validate_optimization(square, range(40), TWO, timeout=60)
    assert len(order) == 2


def test_the_advice_to_stay_serial_is_checked_by_two_workers(timed):
    """It is right where they are no faster; where they are, the accuracy says so."""
    order = timed([1.0], [1.5])
    right = validate_optimization(square, range(40), ONE)
    assert (2, 10, "process") in order
    assert (right.actual_speedup, right.parallel_time, right.accuracy_percent) == (1.0, 1.0, 100.0)
    assert right.two_workers_time == 1.5
    assert "optimal" in right.recommendations[0]
    timed([1.0], [0.5])
    wrong = validate_optimization(square, range(40), ONE)
    assert wrong.accuracy_percent == 50.0
    assert "2.00 times as fast" in wrong.recommendations[0]


def test_what_cannot_travel_is_not_sent(timed):
    """There is nothing to compare with."""
    order = timed([1.0], [0.5])
    result = validate_optimization(square, range(4), OptimizationResult(1, 1, "", stays_here=True))
    assert set(order) == {"serial"}
    assert (result.actual_speedup, result.accuracy_percent, result.two_workers_time) == (1.0, 100.0, None)


@pytest.mark.parametrize(
    ("parallel_s", "texts"),
    [
        (2.0, ["slower than serial", "more to do", "off", "less than predicted"]),
        (0.9, ["hardly anything", "off", "less than predicted"]),
        (0.35, ["off", "more than predicted"]),
        (0.55, []),
    ],
)
def test_recommendations(timed, parallel_s, texts):
    """Two below 1, one below 1.2, and two where the prediction is far off."""
    timed([1.0], [parallel_s])
    result = validate_optimization(square, range(40), TWO)
    found = result.recommendations
    assert max(map(len, str(result).splitlines())) < 80
    assert len(found) == len(texts)
    assert all(text in line for text, line in zip(texts, found))


@pytest.mark.parametrize(("accuracy", "word"), [(95, "excellent"), (80, "good"), (65, "moderate"), (10, "low")])
def test_text_of_a_result(accuracy, word):
    """Measurements, accuracy with the signed error, and a verdict."""
    text = str(BenchmarkResult(TWO, 2.0, 1.0, 2.0, 1.9, accuracy, 5.26, ["use it"]))
    for part in ("2 s", "1 s", "2.00x", "1.90x", f"{accuracy:.1f}%", "+5.3%", word, "- use it"):
        assert part in text
    assert "actual_speedup=2.00" in repr(BenchmarkResult(TWO, 2.0, 1.0, 2.0, 1.9, accuracy, 5.26))


def test_max_items_bounds_both_sides():
    """The same first items are run serially and in workers; a generator is pulled no further."""
    seen = []
    source = iter(range(100))
    result = validate_optimization(seen.append, source, ONE, max_items=7)
    assert seen == list(range(7)) * 3
    assert next(source) == 7
    assert result.two_workers_time > 0


def test_real_workers_are_measured():
    """Without a recommendation ``optimize`` is asked."""
    result = validate_optimization(square, range(20))
    assert isinstance(result.optimization, OptimizationResult)
    assert result.serial_time > 0
    assert validate_optimization(square, range(20), TWO).actual_speedup > 0


def test_quick_validate_spreads_its_sample(monkeypatch):
    """At most so many items, from the first to the last; all where there are fewer."""
    chosen = []
    monkeypatch.setattr(benchmark, "validate_optimization", lambda _func, items, **_flags: chosen.append(items))
    quick_validate(square, (number for number in range(101)), 5)
    quick_validate(square, range(3))
    quick_validate(square, range(10**15 + 1), 3)
    assert chosen == [[0, 25, 50, 75, 100], [0, 1, 2], [0, 10**15 // 2, 10**15]]


@pytest.mark.parametrize("advice", [ONE, TWO])
def test_a_failing_call_is_a_runtime_error(advice):
    """It says that the execution failed; the call's error is the cause."""
    with pytest.raises(RuntimeError, match="execution failed") as caught:
        validate_optimization(raise_value_error, ["x"], advice)
    assert isinstance(caught.value, ExecutionError)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("setting", [None, (1, 1, "process"), (1, 1, "thread")])
def test_a_call_that_exits_is_a_runtime_error(setting):
    """It does not end the program that measures it, which might seem to have done its work."""
    watch = Stopwatch(raise_system_exit, [0], 60)
    with pytest.raises(ExecutionError, match=r"execution failed: SystemExit\(0\)"):
        watch.time_serial() if setting is None else watch.time_workers(*setting)


def test_a_dying_worker_is_a_runtime_error():
    """Also where only workers fail."""
    watch = Stopwatch(kill_self, [9], 60)
    with pytest.raises(ExecutionError, match="Parallel execution failed"):
        watch.time_workers(1, 1, "process")
    watch = Stopwatch(exit_now, [3], 60)
    with pytest.raises(ExecutionError):
        watch.time_workers(1, 1, "process")


def test_time_runs_out_in_workers(tmp_path):
    """Workers that do not come back are stopped."""
    from tests.payloads import wait_for_file

    watch = Stopwatch(wait_for_file, [str(tmp_path / "never")], 0.05)
    with pytest.raises(TimeoutError, match=r"timeout of 0\.05 s"):
        watch.time_workers(1, 1, "process")


def test_an_interrupt_stops_calls_that_run(tmp_path):
    """Nobody waits for them."""
    watch = Stopwatch(start_and_hang, [tmp_path / "started"], 60)
    with interrupt_when_there(tmp_path / "started"), pytest.raises(KeyboardInterrupt):
        watch.time_workers(1, 1, "process")


def test_time_runs_out_in_serial_code():
    """It is looked at between calls."""
    watch = Stopwatch(square, list(range(100)), 60)
    watch._deadline = 0.0
    with pytest.raises(TimeoutError, match="Serial execution did not end"):
        watch.time_serial()


# --- comparison ---


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("n_jobs", {"n_jobs": 0}),
        ("n_jobs", {"n_jobs": True}),
        ("chunksize", {"chunksize": 0}),
        ("executor_type", {"executor_type": "gpu"}),
    ],
)
def test_a_setting_is_checked(name, fields):
    """Each is a ValueError."""
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        ComparisonConfig("x", **fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [("func", 1), ("data", None), ("data", []), ("configs", []), ("configs", [5]), ("timeout", 0), ("max_items", 0)],
)
def test_a_comparison_is_checked(name, value):
    """Each is a ValueError."""
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        compare_strategies(**{"func": square, "data": [1], "configs": [ComparisonConfig("x")], name: value})


@pytest.mark.parametrize(("name", "value"), [("timeout", 0), ("timeout", math.nan), ("max_items", 0), ("verbose", 1)])
def test_a_comparison_with_the_optimizer_is_checked_before_anything_runs(name, value):
    """A sample is not run for nothing."""
    seen = []
    with pytest.raises(ValueError, match=f"Invalid parameter.*{name}"):
        compare_with_optimizer(seen.append, [1], **{name: value})
    assert seen == []


def test_settings_take_turns(timed):
    """Every other round goes backwards; speed-ups are relative to the first."""
    order = timed([2.0], [1.0])
    serial, two = ComparisonConfig("Serial", executor_type="serial"), ComparisonConfig("Two", 2, 5)
    result = compare_strategies(square, range(10), [serial, two])
    assert order == ["serial", (2, 5, "process"), (2, 5, "process"), "serial", "serial", (2, 5, "process")]
    assert (result.execution_times, result.speedups, result.best_config_index) == ([2.0, 1.0], [1.0, 2.0], 1)
    assert (result.best_config, result.best_time) == (two, 1.0)
    assert result.get_sorted_configs() == [(two, 1.0, 2.0), (serial, 2.0, 1.0)]
    assert "* Two" in str(result)
    assert "best='Two'" in repr(result)
    assert "Two is fastest" in result.recommendations[0]


def test_recommendations_name_what_is_simpler(timed):
    """Serial code where it is fastest, wherever it stands; fewer workers where they are as good."""
    timed([1.0], [2.0])
    settings = [ComparisonConfig("Two", 2), ComparisonConfig("Plain")]
    assert "plain serial code is fastest" in compare_strategies(square, [1], settings).recommendations[0]
    timed([9.0], [1.01, 1.0, 1.0, 1.01])
    settings = [ComparisonConfig("Two", 2), ComparisonConfig("Four", 4)]
    assert "Two is within 5 %" in compare_strategies(square, [1], settings).recommendations[1]


def test_real_settings_are_measured():
    """Serial, what ``optimize`` says, and one of threads; a failing call is a RuntimeError."""
    extra = [ComparisonConfig("Threads", 2, 5, "thread")]
    result, advice = compare_with_optimizer(square, range(20), extra)
    assert isinstance(result, ComparisonResult)
    assert [config.name for config in result.configs] == ["Serial", "Optimizer", "Threads"]
    assert result.configs[1].n_jobs == advice.n_jobs
    with pytest.raises(RuntimeError, match="failed"):
        compare_strategies(raise_value_error, ["x"], extra)


@pytest.mark.parametrize(
    "measure", [validate_optimization, partial(compare_strategies, configs=[ComparisonConfig("a")])]
)
def test_the_timeout_holds_for_ranges_of_any_length(measure):
    """They are not made into lists, which would take all memory first."""
    with pytest.raises(TimeoutError):
        measure(square, range(10**12), timeout=0.2)
