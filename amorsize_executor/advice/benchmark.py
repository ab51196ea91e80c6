"""``validate_optimization``: does the prediction hold? Measured, in turns, on the lane that would run the work."""

from __future__ import annotations

import itertools
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import TimeoutError as FuturesTimeoutError
from typing import Any

from amorsize_executor.advice.arguments import check_flags, check_task, take_first
from amorsize_executor.advice.diagnosis import WIDTH
from amorsize_executor.advice.narration import Narration
from amorsize_executor.advice.optimization import OptimizationResult
from amorsize_executor.advice.optimize import advise
from amorsize_executor.advice.outlook import Wishes
from amorsize_executor.advice.supply import spread
from amorsize_executor.errors import AmorsizeError, InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.executor import AdaptiveExecutor
from amorsize_executor.parameters import check_count, check_seconds
from amorsize_executor.wording import say_error, say_seconds

_ROUNDS = 3
_SAMPLE = 5
_LOOK_EVERY_S = 0.01
_EXCELLENT, _GOOD, _MODERATE = 90.0, 75.0, 60.0
_HARDLY = 1.2
_FAR_ABOVE, _FAR_BELOW = 1.3, 0.7


class ExecutionError(AmorsizeError, RuntimeError):
    """A call failed while work was being measured; its error is the cause.

    Attributes:
        what: What was measured.
        problem: The error, as text.
    """

    def __init__(self, what: str, problem: str) -> None:
        self.what, self.problem = what, problem
        super().__init__(f"{what} execution failed: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.problem)


class BenchmarkResult:
    """A prediction beside what was measured.

    Attributes:
        optimization: The recommendation.
        serial_time: Seconds of plain serial code, the median of the runs.
        parallel_time: Seconds of the recommended setting; for a serial one, ``serial_time``.
        actual_speedup: Times faster than serial code; 1.0 for serial code.
        predicted_speedup: What the recommendation said.
        accuracy_percent: 0 to 100: (1 - |actual - predicted| / max(actual, predicted)) * 100.
        error_percent: (actual - predicted) / predicted * 100.
        recommendations: What to make of it.
        cache_hit: False: what is validated is always run.
        two_workers_time: Seconds with two workers, where the recommendation is to stay serial; None otherwise.
    """

    def __init__(
        self,
        optimization: OptimizationResult,
        serial_time: float,
        parallel_time: float,
        actual_speedup: float,
        predicted_speedup: float,
        accuracy_percent: float,
        error_percent: float,
        recommendations: list[str] | None = None,
        cache_hit: bool = False,  # noqa: FBT001, FBT002 - the contract's order
        *,
        two_workers_time: float | None = None,
    ) -> None:
        self.optimization = optimization
        self.serial_time = serial_time
        self.parallel_time = parallel_time
        self.actual_speedup = actual_speedup
        self.predicted_speedup = predicted_speedup
        self.accuracy_percent = accuracy_percent
        self.error_percent = error_percent
        self.recommendations = recommendations or []
        self.cache_hit = cache_hit
        self.two_workers_time = two_workers_time

    def is_accurate(self, threshold: float = 75.0) -> bool:
        """Tell whether the accuracy is at least ``threshold`` percent."""
        return self.accuracy_percent >= threshold

    def __str__(self) -> str:
        verdict = "low: the work is unlike its sample, or the machine is busy"
        for least, word in ((_EXCELLENT, "excellent"), (_GOOD, "good"), (_MODERATE, "moderate")):
            if self.accuracy_percent >= least:
                verdict = word
                break
        lines = [
            "=== Optimization Validation Report ===",
            "",
            "Performance Measurements:",
            f"  Serial execution time:    {say_seconds(self.serial_time)}",
            f"  Parallel execution time:  {say_seconds(self.parallel_time)}",
            f"  Actual speedup:           {self.actual_speedup:.2f}x",
            f"  Predicted speedup:        {self.predicted_speedup:.2f}x",
        ]
        if self.two_workers_time is not None:
            lines.append(f"  With two workers:         {say_seconds(self.two_workers_time)}")
        lines += [
            "",
            f"Accuracy: {self.accuracy_percent:.1f}%",
            f"Prediction error: {self.error_percent:+.1f}%",
            f"Verdict: {verdict}",
        ]
        if self.recommendations:
            lines += ["", "Recommendations:"]
        for text in self.recommendations:
            lines += textwrap.wrap(f"  - {text}", WIDTH, subsequent_indent="    ")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"BenchmarkResult(actual_speedup={self.actual_speedup:.2f}, "
            f"predicted_speedup={self.predicted_speedup:.2f}, accuracy_percent={self.accuracy_percent:.1f})"
        )


class Stopwatch:
    """Measures ways to run the same calls, within one time limit for all.

    Args:
        func: What is called.
        items: With what.
        timeout: Seconds for everything, > 0.
    """

    def __init__(self, func: Callable[[Any], Any], items: Sequence[Any], timeout: float) -> None:
        self._func = func
        self._items = items
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout

    def has_time_for(self, seconds: float) -> bool:
        """Tell whether so much time is left."""
        return time.monotonic() + seconds < self._deadline

    def time_serial(self) -> float:
        """Return the seconds of plain serial code.

        Raises:
            ExecutionError: A call failed.
            TimeoutError: The time is used up; looked at between calls.
        """
        results: list[Any] = []
        source = iter(self._items)
        batch = 1
        began = time.perf_counter()
        while len(results) < len(self._items):
            batch_began = time.monotonic()
            try:
                results.extend(map(self._func, itertools.islice(source, batch)))
            except (Exception, SystemExit) as error:
                raise ExecutionError("Serial", say_error(error)) from error
            now = time.monotonic()
            if now > self._deadline:
                raise self._too_slow("Serial")
            batch = 2 * batch if now - batch_began < _LOOK_EVERY_S else max(1, batch // 2)
        return time.perf_counter() - began

    def time_workers(self, n_jobs: int, chunksize: int, executor_type: str) -> float:
        """Return the seconds of so many workers, from before they are started to the last result.

        Raises:
            ExecutionError: A call failed.
            TimeoutError: The time is used up; the workers are stopped.
        """
        name = "Parallel" if executor_type == "process" else "Threaded"
        began = time.perf_counter()
        # With isolation, or else with an initializer, nothing is run by this thread instead of by a worker.
        where: dict[str, Any] = {"isolate": True} if executor_type == "process" else {"backend": "thread"}
        if executor_type == "thread":
            where["initializer"] = int
        executor = AdaptiveExecutor(n_jobs, min_workers=n_jobs, chunksize=chunksize, **where)
        try:
            left = max(self._deadline - time.monotonic(), 1e-3)
            for _ in executor.map(self._func, self._items, timeout=left):
                pass
            return time.perf_counter() - began
        except (TimeoutError, FuturesTimeoutError) as error:  # one from Python 3.11 on
            if time.monotonic() < self._deadline:  # a call's own
                raise ExecutionError(name, say_error(error)) from error
            executor.kill_workers()
            raise self._too_slow(name) from error
        except (Exception, SystemExit) as error:
            raise ExecutionError(name, say_error(error)) from error
        except KeyboardInterrupt:
            executor.kill_workers()
            raise
        finally:
            executor.shutdown(cancel_futures=True)

    def _too_slow(self, what: str) -> TimeoutError:
        return TimeoutError(f"{what} execution did not end within the timeout of {self._timeout:g} s")


def validate_optimization(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    optimization: OptimizationResult | None = None,
    max_items: int | None = None,
    timeout: float = 60.0,
    verbose: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    *,
    use_cache: bool = True,
) -> BenchmarkResult:
    """Measure a recommendation: serial code and the recommended setting in turns, up to three rounds, medians.

    Every item is run several times. The advice to stay serial is checked by running two workers. Workers are started
    anew for every run, as for a program that runs the work once.

    Args:
        func: What is called with each item.
        data: Any finite iterable; it is collected.
        optimization: What to validate; None to ask ``optimize``.
        max_items: Use this many items, the first ones; None for all.
        timeout: Seconds for everything, > 0; fewer rounds are run where there is no time for more.
        verbose: Write to stderr what is measured.
        use_cache: As for ``optimize``. What is measured here is never taken from a cache.

    Raises:
        ValueError: A parameter is out of its range or of the wrong type, or there are no items.
        ExecutionError: A call failed (a ``RuntimeError``; the call's error is its cause).
        TimeoutError: Not even one round ended in time.
    """
    check_task(func, data)
    check_count("max_items", max_items, most=sys.maxsize)
    check_seconds("timeout", timeout)
    check_flags(verbose=verbose, use_cache=use_cache)
    if not (optimization is None or isinstance(optimization, OptimizationResult)):
        raise InvalidParameterTypeError("optimization", optimization, "must be what optimize() returns, or None")
    items = take_first(data, max_items)
    if not items:
        raise InvalidParameterError("data", data, "must not be empty")
    narration = Narration(verbose=verbose)
    if optimization is None:
        optimization = advise(func, items, _SAMPLE, Wishes(use_cache=use_cache), narration)
    watch = Stopwatch(func, items, timeout)
    n_jobs, chunksize, kind = optimization.n_jobs, optimization.chunksize, optimization.executor_type
    is_serial = n_jobs == 1
    if is_serial:
        n_jobs, chunksize, kind = 2, max(1, len(items) // 4), "process"
    can_leave = not optimization.stays_here
    serial, parallel = alternate(watch, (n_jobs, chunksize, kind) if can_leave else None, narration)
    serial_s = statistics.median(serial)
    parallel_s = statistics.median(parallel) if parallel else serial_s
    if is_serial:
        return judge_serial(optimization, serial_s, parallel_s if parallel else None)
    return judge_parallel(optimization, serial_s, parallel_s)


def alternate(
    watch: Stopwatch, setting: tuple[int, int, str] | None, narration: Narration
) -> tuple[list[float], list[float]]:
    """Run serial code and a setting in turns, the order changing; return the seconds of each."""
    serial: list[float] = []
    parallel: list[float] = []
    for number in range(_ROUNDS):
        if number and not watch.has_time_for(1.5 * (max(serial) + max(parallel, default=0.0))):
            break
        for is_parallel in (number % 2 == 1, number % 2 == 0):
            if not is_parallel:
                serial.append(watch.time_serial())
                narration.say(f"Serial run {number + 1}: {say_seconds(serial[-1])}")
            elif setting is not None:
                parallel.append(watch.time_workers(*setting))
                narration.say(f"Run {number + 1} with n_jobs={setting[0]}: {say_seconds(parallel[-1])}")
    return serial, parallel


def judge_serial(optimization: OptimizationResult, serial_s: float, two_s: float | None) -> BenchmarkResult:
    """Return what two workers say of the advice to stay serial."""
    gain = 1.0 if two_s is None else serial_s / two_s
    accuracy = 100.0 * min(1.0, 1.0 / gain)
    if two_s is None:
        text = "Serial execution is optimal: the calls cannot go to other processes."
    elif gain <= _HARDLY:
        text = f"Serial execution is optimal: two workers took {say_seconds(two_s)}."
    else:
        text = f"Two workers were {gain:.2f} times as fast as serial code: the sample was unlike the rest."
    return BenchmarkResult(
        optimization,
        serial_s,
        serial_s,
        1.0,
        optimization.estimated_speedup,
        accuracy,
        100.0 * (max(gain, 1.0) - 1.0),
        [text],
        two_workers_time=two_s,
    )


def judge_parallel(optimization: OptimizationResult, serial_s: float, parallel_s: float) -> BenchmarkResult:
    """Return what was measured beside what was predicted."""
    actual, predicted = serial_s / max(parallel_s, 1e-9), optimization.estimated_speedup
    accuracy = 100.0 * (1.0 - abs(actual - predicted) / max(actual, predicted))
    advice: list[str] = []
    if actual < 1.0:
        advice += ["Workers are slower than serial code: use n_jobs=1.", "Or give each call more to do."]
    elif actual < _HARDLY:
        advice.append("Workers bring hardly anything: serial code is simpler.")
    if accuracy < _GOOD:
        advice.append("The prediction is off: a larger sample_size sees more of the work.")
        if actual > _FAR_ABOVE * predicted:
            advice.append("The work gains more than predicted; the sampled calls were cheaper than most.")
        elif actual < _FAR_BELOW * predicted:
            advice.append("The work gains less than predicted: other programs, or shared caches and memory, take part.")
    error = 100.0 * (actual - predicted) / predicted
    return BenchmarkResult(optimization, serial_s, parallel_s, actual, predicted, accuracy, error, advice)


def quick_validate(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int = 100,
    verbose: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    *,
    timeout: float = 60.0,
) -> BenchmarkResult:
    """Validate on at most ``sample_size`` items, spread evenly over all; see ``validate_optimization``."""
    check_task(func, data)
    check_count("sample_size", sample_size, optional=False)
    items = data if isinstance(data, Sequence) else list(data)
    chosen = [items[position] for position in spread(len(items), sample_size)]
    return validate_optimization(func, chosen, timeout=timeout, verbose=verbose)
