"""What is made of a sample: workers or plain serial code, and why, in words that say what to do."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

from amorsize_executor import system
from amorsize_executor.advice.diagnosis import DiagnosticProfile
from amorsize_executor.advice.narration import ANALYSING, COMPUTING, ESTIMATING, Narration
from amorsize_executor.advice.optimization import OptimizationResult
from amorsize_executor.advice.outlook import Outlook, Wishes, name_start_method
from amorsize_executor.advice.sample import Sample
from amorsize_executor.advice.supply import Supply
from amorsize_executor.tuning.machine import Machine, probe_machine
from amorsize_executor.tuning.planner import CLEARLY, Forecast
from amorsize_executor.wire.functions import Function
from amorsize_executor.wire.weight import weigh
from amorsize_executor.wording import describe_error, say_count, say_error, say_seconds
from amorsize_executor.worker import main as worker_main

CPU_BOUND, MIXED, IO_BOUND = "cpu_bound", "mixed", "io_bound"
_SAID = {CPU_BOUND: "CPU-bound", MIXED: "mixed", IO_BOUND: "I/O-bound"}

_LEAST_CPU_SHARE = 0.7  # of calls that are bound by the processor
_LEAST_MIXED_SHARE = 0.3
_UNEVEN = 0.5
_ASSUMED_S = 1.0
"""Where nobody knows how many items there are, the answer is for this much work or more."""
_LARGE_RESULTS = 0.5
_HEAVY = 10_000  # bytes of a call from which on they are most of what it costs to ship it
_FEWEST = 2  # workers that run side by side


class Judgement:
    """What is made of one sample.

    Args:
        func: What is called.
        supply: The items, some of them taken ahead.
        sample: How those calls went.
        wishes: What the user asked for.
        narration: Where to tell of it.
        goes_on: Judge by the calls that ended well, where others failed.
    """

    def __init__(
        self,
        func: Callable[[Any], Any],
        supply: Supply,
        sample: Sample,
        wishes: Wishes,
        narration: Narration,
        *,
        goes_on: bool = False,
    ) -> None:
        self._func = func
        self._supply = supply
        self._sample = sample
        self._wishes = wishes
        self._narration = narration
        self._goes_on = goes_on
        self._warnings: list[str] = []
        self._machine = probe_machine()
        self.profile = describe_sample(supply, sample, self._machine, wishes)

    def pass_sentence(self) -> OptimizationResult:
        """Return the recommendation, without data."""
        obstacle = self._find_obstacle()
        if obstacle is not None:
            refusal = self._find_refusal() if self._sample.outcomes else None  # true of the calls that follow, too
            reason = obstacle if refusal is None else f"{obstacle} {refusal}"
            return self._stay_serial(reason, stays_here=refusal is not None, is_predicted=False)
        self._narration.enter(ANALYSING)
        profile = self.profile
        executor_type = "process"
        if self._wishes.prefer_threads_for_io and profile.workload_type == IO_BOUND:
            executor_type = "thread"
        total = self._supply.total
        calls = total if total is not None else self._assume_calls()
        if executor_type == "process":
            refusal = self._find_refusal()
            if refusal is not None:
                return self._stay_serial(refusal + self._say_threads(calls), stays_here=True, is_predicted=False)
        outlook = Outlook(self._func, self._sample, self._wishes, self._machine, executor_type, profile, calls)
        if outlook.problem is not None:
            problem = describe_error(outlook.problem)
            return self._stay_serial(
                f"A worker could not be started, or could not load the function ({problem}), so the calls stay here.",
                stays_here=True,
                is_predicted=False,
            )
        self._narration.enter(COMPUTING)
        forecast = outlook.forecast(calls)
        self._describe(outlook, forecast, calls)
        self._narration.enter(ESTIMATING)
        if total is None:
            self._warnings.append(self._say_unknown(outlook, forecast, calls))
        self._weigh_results(total)
        if forecast.workers < _FEWEST or forecast.parallel_s > CLEARLY * forecast.serial_s:
            reason = self._say_serial(outlook, forecast, calls) + self._say_threads(calls, executor_type)
            reason += self._say_company(total)
            return self._stay_serial(reason, executor_type=executor_type)
        speedup = min(forecast.speedup, float(forecast.workers))
        profile.estimated_speedup = speedup
        profile.speedup_efficiency = min(1.0, speedup / profile.theoretical_max_speedup)
        if profile.is_heterogeneous:
            profile.recommendations.append(
                "The calls take very different times: AdaptiveExecutor sizes chunks by what it measures on the way."
            )
        reason = self._say_parallel(forecast, calls, executor_type) + self._say_threads(calls, executor_type)
        return OptimizationResult(
            forecast.workers,
            forecast.chunksize,
            reason,
            speedup,
            self._warnings,
            profile=profile,
            executor_type=executor_type,
            speedup_range=outlook.range_of(calls, forecast),
        )

    def _find_obstacle(self) -> str | None:
        """Say why nothing can be predicted, or None."""
        supply, sample = self._supply, self._sample
        if not supply.ahead and supply.error is None:
            return "There are no items, so there is nothing to run in parallel."
        if supply.error is not None:
            self._warnings.append(
                f"The source of the items raised {say_error(supply.error)} after {len(supply.ahead):,} items."
            )
            return (
                f"The source of the items raised {type(supply.error).__name__} while the sample was taken; "
                "data raises it again at the same place."
            )
        if not sample.measurements:
            position, error = next((at, each.error) for at, each in sample.outcomes.items() if each.error is not None)
            self._warnings.append(f"A sampled call failed: item {position} raised {say_error(error)}.")
            return (
                f"The function raised {type(error).__name__} for the sampled item {position}, "
                "so there is nothing to predict from."
            )
        if sample.error is not None:
            position = next(at for at, each in sample.outcomes.items() if each.error is not None)
            self._warnings.append(f"A sampled call failed: item {position} raised {say_error(sample.error)}.")
            if not self._goes_on:
                return f"The function raised {type(sample.error).__name__} for the sampled item {position}."
        if worker_main.depth > 0:
            return "This process is a worker of another executor, which keeps the processors busy already."
        return None

    def _find_refusal(self) -> str | None:
        """Say what cannot travel to another process, and what to do, or None."""
        error = self._sample.function.error
        if error is not None:
            return (
                f"The function cannot be pickled ({describe_error(error)}), so it cannot go to another "
                "process: make what it holds (an open file, a lock, a connection) inside the call, or once a worker "
                "in an initializer."
            )
        for position, travel in self._sample.arguments.items():
            if travel.error is not None:
                return (
                    f"Item {position} cannot be pickled ({describe_error(travel.error)}): pass what it "
                    "is made from (a path, a key) and make it inside the call."
                )
        for travel in self._sample.results:
            if travel.error is not None:
                return (
                    f"A result cannot be pickled ({describe_error(travel.error)}): return plain values "
                    "instead of the object."
                )
        return None

    def _assume_calls(self) -> int:
        call_s = statistics.fmean(self._sample.durations_s)
        return max(len(self._supply.ahead), math.ceil(_ASSUMED_S / max(call_s, 1e-7)))

    def _describe(self, outlook: Outlook, forecast: Forecast, calls: int) -> None:
        """Write the prediction into the profile."""
        profile, costs = self.profile, outlook.costs
        chunks = math.ceil(calls / forecast.chunksize)
        call_bytes = profile.data_size_bytes + profile.return_size_bytes
        profile.spawn_cost = costs.start_up_s
        profile.overhead_spawn = costs.start_up_s + outlook.load_s * max(1.0, forecast.workers / self._machine.cores)
        profile.chunking_overhead = costs.ship_chunk_s + costs.dispatch_s
        profile.optimal_chunksize = forecast.chunksize
        profile.estimated_serial_time = forecast.serial_s
        profile.overhead_ipc = calls * (costs.ship_call_s + costs.ship_byte_s * call_bytes)
        profile.overhead_chunking = chunks * profile.chunking_overhead
        profile.parallel_compute_time = forecast.serial_s / forecast.workers
        profile.theoretical_max_speedup = float(forecast.workers)
        profile.max_workers_cpu, profile.max_workers_memory = outlook.most_by_cpu, outlook.most_by_memory
        if outlook.is_bound_by_memory and outlook.most_by_memory <= forecast.workers:
            profile.constraints.append(
                f"memory: a worker grows by {profile.format_bytes(profile.peak_memory_bytes)}, and "
                f"{say_count(outlook.most_by_memory, 'worker')} fit"
            )
        if outlook.taken_cores:
            profile.constraints.append(f"other programs keep {say_count(outlook.taken_cores, 'processor')} busy")
        if outlook.inner_threads > 1:
            profile.constraints.append(
                f"a call keeps {outlook.inner_threads:.1f} processors busy by itself, so fewer workers are used"
            )

    def _weigh_results(self, total: int | None) -> None:
        """Warn of results that would fill the memory if they were all kept."""
        profile = self.profile
        profile.estimated_result_memory = profile.return_size_bytes * (total or 0)
        if profile.estimated_result_memory > _LARGE_RESULTS * profile.available_memory:
            text = (
                f"All results together take {profile.format_bytes(profile.estimated_result_memory)} of "
                f"{profile.format_bytes(profile.available_memory)} memory: use process_in_batches(on_batch=...) or "
                "optimize_streaming()"
            )
            self._warnings.append(text)
            profile.constraints.append(text)

    def _say_serial(self, outlook: Outlook, forecast: Forecast, calls: int) -> str:
        profile = self.profile
        call_s = profile.avg_execution_time
        times = f"{say_seconds(forecast.serial_s)} here and {say_seconds(forecast.parallel_s)} in workers"
        about = f"{say_count(calls, 'call')} of {say_seconds(call_s)} would take {times}"
        if calls < _FEWEST:
            why = "one call cannot be shared"
        elif self._wishes.max_workers == 1:
            why = "max_workers is 1"
        elif profile.max_workers_memory < _FEWEST:
            size = profile.format_bytes(profile.peak_memory_bytes)
            why = f"there is memory for one worker only, as a call takes {size}"
        elif self._machine.cores < _FEWEST and profile.workload_type == CPU_BOUND:
            why = "there is one processor only"
        elif self._machine.cores - outlook.taken_cores < _FEWEST and profile.workload_type == CPU_BOUND:
            why = "other programs keep the other processors busy"
        elif any("by itself" in constraint for constraint in profile.constraints):
            why = "the calls keep all processors busy by themselves"
        elif profile.overhead_ipc > forecast.serial_s / 2:
            call_bytes = profile.data_size_bytes + profile.return_size_bytes
            weight = f"item and result of a call take {profile.format_bytes(call_bytes)}"
            what = weight if call_bytes > _HEAVY else "the calls are too cheap"
            why = f"shipping the calls costs about as much as running them, or more; {what}"
        elif forecast.serial_s < 2 * profile.overhead_spawn:
            why = "starting workers takes about as long as all the work"
        else:
            why = "the overhead takes what the workers bring"
        return f"Stay serial: {about}, because {why}."

    def _say_parallel(self, forecast: Forecast, calls: int, executor_type: str) -> str:
        noun = "worker" if executor_type == "process" else "thread"
        return (
            f"{say_count(calls, 'call')} of {say_seconds(self.profile.avg_execution_time)} would take "
            f"{say_seconds(forecast.serial_s)} here and {say_seconds(forecast.parallel_s)} in "
            f"{say_count(forecast.workers, noun)} ({_SAID[self.profile.workload_type]}; {forecast.reason})."
        )

    def _say_threads(self, calls: int, executor_type: str = "process") -> str:
        """Say what threads would give to calls that wait, or nothing."""
        profile = self.profile
        if executor_type == "thread" or profile.workload_type == CPU_BOUND:
            return ""
        outlook = Outlook(self._func, self._sample, self._wishes, self._machine, "thread", profile, calls)
        threads = outlook.forecast(calls)
        if threads.workers < _FEWEST or threads.parallel_s > CLEARLY * threads.serial_s:
            return ""
        text = (
            f"If the function is thread-safe, {threads.workers} threads would be {threads.speedup:.1f} times as fast "
            "as serial code: prefer_threads_for_io=True."
        )
        profile.recommendations.append(text)
        return f" {text}"

    def _say_company(self, total: int | None) -> str:
        """Say that threads beside a waiting caller may share the calls, or nothing."""
        callers = min(self._machine.cores, self._wishes.max_workers or self._machine.cores, total or 1)
        items = [item for _position, item in self._supply.ahead]
        if callers < _FEWEST or not Function(self._func, 0, None, None).may_be_shared(items):
            return ""
        text = (
            f"The calls leave no trace and may let go of the interpreter's lock: execute() and map() of an executor "
            f"try {callers} threads at once while they wait, which this prediction leaves out."
        )
        self.profile.recommendations.append(text)
        return f" {text}"

    def _say_unknown(self, outlook: Outlook, forecast: Forecast, calls: int) -> str:
        start = f"Nobody knows how many items there are; the prediction is for {say_count(calls, 'item')}"
        if forecast.parallel_s > CLEARLY * forecast.serial_s:
            return f"{start}."
        return f"{start}, and workers pay from about {outlook.find_break_even(calls):,} items on."

    def _stay_serial(
        self, reason: str, *, executor_type: str = "process", stays_here: bool = False, is_predicted: bool = True
    ) -> OptimizationResult:
        profile, total = self.profile, self._supply.total
        profile.rejection_reasons.append(reason)
        profile.estimated_speedup = 1.0
        profile.optimal_chunksize = 1
        if stays_here:
            self._warnings.append(reason)
        if total == 0:
            profile.recommendations.append("Nothing to do.")
        return OptimizationResult(
            1,
            1,
            reason,
            1.0,
            self._warnings,
            profile=profile,
            executor_type=executor_type,
            stays_here=stays_here,
            is_predicted=is_predicted,
        )


def describe_sample(supply: Supply, sample: Sample, machine: Machine, wishes: Wishes) -> DiagnosticProfile:
    """Return a profile of what was measured."""
    profile = DiagnosticProfile(
        sample_count=len(sample.durations_s),
        is_picklable=not any(travel.error for travel in (sample.function, *sample.arguments.values())),
        physical_cores=machine.physical_cores,
        logical_cores=machine.cores,
        available_memory=machine.available_memory,
        multiprocessing_start_method="zygote" if system.has("zygote") else name_start_method(),
        total_items=-1 if supply.total is None else supply.total,
        target_chunk_duration=wishes.target_chunk_duration,
    )
    measured = sample.measurements
    if not measured:
        return profile
    walls = [m.wall_s for m in measured]
    profile.avg_execution_time = mean_s = statistics.fmean(walls)
    profile.cpu_time_ratio = ratio = (sum(walls) - sum(m.waiting_s for m in measured)) / max(sum(walls), 1e-12)
    inner = sum(m.cpu_s for m in measured) / max(sum(walls), 1e-12)
    if inner > 1:
        profile.cpu_time_ratio = inner
    profile.workload_type = (
        CPU_BOUND if ratio >= _LEAST_CPU_SHARE else MIXED if ratio >= _LEAST_MIXED_SHARE else IO_BOUND
    )
    if len(walls) > 1 and mean_s > 0:
        profile.coefficient_of_variation = statistics.stdev(walls) / mean_s
        profile.is_heterogeneous = profile.coefficient_of_variation > _UNEVEN
    profile.avg_data_pickle_time = statistics.fmean(travel.seconds for travel in sample.arguments.values())
    profile.data_size_bytes = int(statistics.fmean(travel.nbytes for travel in sample.arguments.values()))
    profile.avg_pickle_time = statistics.fmean(travel.seconds for travel in sample.results)
    values = [outcome.value for outcome in sample.outcomes.values() if outcome.error is None]
    sizes = [travel.nbytes or weigh(value) for travel, value in zip(sample.results, values)]
    profile.return_size_bytes = int(statistics.fmean(sizes))
    if wishes.enable_memory_tracking:
        profile.peak_memory_bytes = max(m.memory_growth for m in measured)
    return profile
