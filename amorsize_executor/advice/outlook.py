"""What calls are predicted to take: the executor's own tuner, fed with a sample and what workers cost here."""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from amorsize_executor import system
from amorsize_executor.advice.lane_cost import known_costs, measure_costs, measure_load
from amorsize_executor.backends.context import START_UP_S
from amorsize_executor.records import Lane, Measurement
from amorsize_executor.tuning.cost_model import Costs
from amorsize_executor.tuning.machine import Machine
from amorsize_executor.tuning.planner import CLEARLY, Forecast, Limits, Tuner, find_most_workers
from amorsize_executor.wire.functions import measured_under

if TYPE_CHECKING:
    from amorsize_executor.advice.diagnosis import DiagnosticProfile
    from amorsize_executor.advice.sample import Sample

_INNER_THREADS = 1.5  # processor seconds a second from which on a call runs in parallel by itself
_MEASURE_ABOVE_S = 0.5
"""Work below this is predicted with the initial costs, since measuring them would take a good part of it."""
_SLOW_START_S = 0.04
"""Workers that take longer to start are not forked from this process, so they import the function's module."""
_LEAST_ERROR = 0.1
_MOST_ERROR = 0.75
_COST_ERROR = 1.5
_ALONE_S = 5e-6
"""Seconds that pickling takes longer for anything alone than for one of many, at most."""
_NEIGHBOURS = 0.85
"""What is left of a speed-up where cores share caches, clock and memory."""
_THREAD_COSTS = Costs(ship_call_s=6e-6, ship_byte_s=1e-12, start_up_s=1e-3, fork_s=2e-4)


class Wishes(NamedTuple):
    """What the user asked of a recommendation; see ``optimize``, and for ``max_workers``, the executor."""

    target_chunk_duration: float = 0.2
    use_spawn_benchmark: bool = True
    use_chunking_benchmark: bool = True
    auto_adjust_for_nested_parallelism: bool = True
    prefer_threads_for_io: bool = False
    use_cache: bool = True
    enable_memory_tracking: bool = True
    adjust_for_system_load: bool = False
    max_workers: int | None = None


class Outlook:
    """Predictions for so many calls of one function in one kind of worker, by the executor's own tuner.

    Attributes:
        costs: What workers cost.
        most_by_cpu: Workers that processors and waiting are worth.
        most_by_memory: Workers that fit into memory, as far as there may be so many.
        is_bound_by_memory: Whether it is memory that allows no more than that.
        taken_cores: Processors that other programs keep busy, as far as that is to count.
        load_s: Seconds that each worker needs to load the function, where it does not inherit it.
        problem: Why workers cannot be had, or cannot load the function; None where they can.
        inner_threads: Processors that a call keeps busy by itself, >= 1.
    """

    def __init__(
        self,
        func: Callable[[Any], Any],
        sample: Sample,
        wishes: Wishes,
        machine: Machine,
        executor_type: str,
        profile: DiagnosticProfile,
        calls: int,
    ) -> None:
        self._key = measured_under(func)
        self._measurements = sample.measurements
        self._grows = wishes.enable_memory_tracking
        self._function_bytes = sample.function.nbytes if executor_type == "process" else 0
        self._is_process = executor_type == "process"
        self.taken_cores = 0
        if wishes.adjust_for_system_load:
            self.taken_cores = min(round(os.getloadavg()[0]), machine.cores - 1)
        cores = machine.cores - self.taken_cores
        if not self._is_process and not is_free_threaded():
            cores = 1  # threads take turns with the interpreter's lock
        self._machine = machine._replace(cores=cores, physical_cores=min(cores, machine.physical_cores))
        self.inner_threads = profile.cpu_time_ratio if profile.cpu_time_ratio > _INNER_THREADS else 1.0
        most = wishes.max_workers
        if wishes.auto_adjust_for_nested_parallelism and self.inner_threads > 1:
            most = min(most or cores, max(1, int(cores / self.inner_threads)))
        self._limits = Limits(max_workers=most, target_chunk_duration=wishes.target_chunk_duration)
        self.costs, self.load_s = choose_constants(executor_type), 0.0
        self.problem: Exception | None = None
        try:
            self.costs = choose_costs(executor_type, profile.avg_execution_time * calls, wishes)
            if self._is_process and wishes.use_spawn_benchmark and self.costs.start_up_s > _SLOW_START_S:
                self.load_s = measure_load(func, self._key, again=not wishes.use_cache)
        except Exception as error:  # noqa: BLE001 - whatever keeps workers from starting is the answer
            self.problem = error
        if self._is_process:
            self.costs = add_pickling(self.costs, sample)
        tuner = self._tuner()
        self.most_by_memory = tuner.most_workers if most is None else self._most_by_memory()
        self.is_bound_by_memory = self.most_by_memory < find_most_workers(None, cores)
        share = min(profile.cpu_time_ratio, 1.0)
        self.most_by_cpu = most or min(find_most_workers(None, cores), max(cores, int(cores / max(share, 1e-3))))

    def forecast(self, calls: int, workers: int | None = None, chunksize: int | None = None) -> Forecast:
        """Predict; see ``Tuner.forecast``."""
        return self._tuner().forecast(self._key, calls, workers=workers, chunksize=chunksize, load_s=self.load_s)

    def range_of(self, calls: int, forecast: Forecast) -> tuple[float, float]:
        """Return the least and the most speed-up that a forecast may turn out to have.

        From two standard errors of the sampled mean, a tenth at least, costs half as high again or less, and what
        cores that share caches, clock and memory take from each other.
        """
        durations = [m.wall_s / m.calls for m in self._measurements]
        mean_s = statistics.fmean(durations)
        error = _MOST_ERROR
        if len(durations) > 1 and mean_s > 0:
            error = 2 * statistics.stdev(durations) / math.sqrt(len(durations)) / mean_s
        error = min(max(error, _LEAST_ERROR), _MOST_ERROR)
        low = self._scaled(1 - error, _COST_ERROR, calls, forecast)
        high = self._scaled(1 + error, 1 / _COST_ERROR, calls, forecast)
        expected = min(forecast.speedup, float(forecast.workers))
        return min(_NEIGHBOURS * low, expected), max(high, expected)

    def _scaled(self, call_factor: float, cost_factor: float, calls: int, forecast: Forecast) -> float:
        costs = Costs(*(cost * cost_factor for cost in self.costs))
        seen = self._tuner(call_factor, costs).forecast(
            self._key, calls, workers=forecast.workers, chunksize=forecast.chunksize, load_s=cost_factor * self.load_s
        )
        return min(seen.speedup, float(forecast.workers))

    def find_break_even(self, calls: int) -> int:
        """Return about how many items it takes for workers to pay, at most ``calls``, where they do."""
        tuner = self._tuner()
        low, high = 1, calls
        while low < high:
            middle = (low + high) // 2
            seen = tuner.forecast(self._key, middle, load_s=self.load_s)
            if seen.workers > 1 and seen.parallel_s <= CLEARLY * seen.serial_s:
                high = middle
            else:
                low = middle + 1
        return low

    def _tuner(self, call_factor: float = 1.0, costs: Costs | None = None) -> Tuner:
        """Return a tuner that has seen the sample, with calls that take ``call_factor`` times as long."""
        lane = Lane.PROCESSES if self._is_process else Lane.THREADS
        tuner = Tuner(self._machine, self._limits, costs=costs or self.costs, lane=lane, started_s=0.0)
        seen = add_up(self._measurements, call_factor)
        seen = seen if self._grows else seen._replace(memory_growth=0)
        tuner.observe(self._key, seen, now_s=0.0, function_bytes=self._function_bytes)
        return tuner

    def _most_by_memory(self) -> int:
        limits, self._limits = self._limits, self._limits._replace(max_workers=None)
        try:
            return self._tuner().most_workers
        finally:
            self._limits = limits


def choose_constants(executor_type: str) -> Costs:
    """Return what workers cost as long as nothing was measured."""
    return Costs() if executor_type == "process" else _THREAD_COSTS


def choose_costs(executor_type: str, serial_s: float, wishes: Wishes) -> Costs:
    """Return what workers cost: measured where the work is worth measuring, else constants."""
    initial = choose_constants(executor_type)
    measured = known_costs(executor_type) if wishes.use_cache else None
    if (
        measured is None
        and (wishes.use_spawn_benchmark or wishes.use_chunking_benchmark)
        and (serial_s > _MEASURE_ABOVE_S)
    ):
        measured = measure_costs(executor_type, again=not wishes.use_cache)
    costs = measured or initial
    if not wishes.use_spawn_benchmark:
        start_up_s = initial.start_up_s
        if executor_type == "process" and not system.has("zygote"):
            start_up_s = START_UP_S[name_start_method()]
        costs = costs._replace(start_up_s=start_up_s, fork_s=initial.fork_s)
    if not wishes.use_chunking_benchmark:
        costs = costs._replace(ship_chunk_s=initial.ship_chunk_s, dispatch_s=initial.dispatch_s)
    return costs if executor_type == "process" else costs._replace(ship_byte_s=initial.ship_byte_s)


def add_pickling(costs: Costs, sample: Sample) -> Costs:
    """Return costs whose calls take this process at least what pickling an item and a result takes.

    It pickles the one and loads the other, which takes about as long. The cost of a byte is that of bytes that are only
    copied: those of a list of numbers take many times as long.
    """
    parts = [part for part in ([*sample.arguments.values()], sample.results) if part]
    pickling_s = sum(max(0.0, statistics.median(travel.seconds for travel in part) - _ALONE_S) for part in parts)
    copied = sum(statistics.median(travel.nbytes for travel in part) for part in parts)
    return costs._replace(ship_call_s=max(costs.ship_call_s, pickling_s - costs.ship_byte_s * copied))


def add_up(measurements: list[Measurement], factor: float) -> Measurement:
    """Return one measurement for several, as if each call had taken ``factor`` times as long.

    Fed one by one, calls of a sorted sequence would look like a function that changes, and the last would count most.
    """
    return Measurement(
        sum(m.calls for m in measurements),
        factor * sum(m.wall_s for m in measurements),
        factor * sum(m.cpu_s for m in measurements),
        factor * sum(m.waiting_s for m in measurements),
        factor * factor * sum(m.squares_s2 for m in measurements),
        factor * max(m.longest_s for m in measurements),
        sum(m.bytes_in for m in measurements),
        sum(m.bytes_out for m in measurements),
        max(m.memory_growth for m in measurements),
        Lane.CALLER,
    )


def name_start_method() -> str:
    """Return multiprocessing's start method without fixing it, which asking for it plainly would do."""
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def is_free_threaded() -> bool:
    """Tell whether threads of this interpreter run side by side."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()
