"""``execute``: optimize and run, in one line, through the executor."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from amorsize_executor.advice.arguments import (
    LAYERS_OF_EVERY_BACKEND,
    OF_EVERY_BACKEND,
    check_flags,
    check_sampling,
    check_task,
    count_items,
)
from amorsize_executor.advice.collecting import Progress, Watch, begin, collect, raise_error
from amorsize_executor.advice.diagnosis import DiagnosticProfile
from amorsize_executor.advice.hooks import HookManager
from amorsize_executor.advice.narration import COMPLETE, START, Narration, ProgressCallback
from amorsize_executor.advice.optimization import OptimizationResult, outcomes_of, supply_of
from amorsize_executor.advice.optimize import advise
from amorsize_executor.advice.outlook import Wishes
from amorsize_executor.advice.sample import choose_backend
from amorsize_executor.errors import InvalidParameterTypeError
from amorsize_executor.executor import AdaptiveExecutor
from amorsize_executor.parameters import check_callable, check_choice
from amorsize_executor.wire.decorated import guards_of

_SAMPLE_S = 0.05
"""Seconds after which ``execute`` samples no more: what is left, workers may run side by side."""
_OWN_PLACE = frozenset(("isolate", "initializer", "mp_context", "max_tasks_per_child", "backend"))
_LAYERS = LAYERS_OF_EVERY_BACKEND | {"timeout", "middleware"}


def execute(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int = 5,
    target_chunk_duration: float = 0.2,
    verbose: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    *,
    use_spawn_benchmark: bool = True,
    use_chunking_benchmark: bool = True,
    profile: bool = False,
    auto_adjust_for_nested_parallelism: bool = True,
    progress_callback: ProgressCallback | None = None,
    return_optimization_result: bool = False,
    prefer_threads_for_io: bool = False,
    hooks: HookManager | None = None,
    on_error: str = "raise",
    progress: Progress | None = None,
    **executor_options: Any,
) -> Any:
    """Call ``func`` with each item, as fast as can be, and return the results.

    No item is run twice: the sampled calls are part of the work. The prediction chooses between threads and
    processes; from then on the executor goes by what it measures. Where calls may not run in the calling thread, or
    pass layers (a retry, a checkpoint, ...), the executor's own first calls are the sample. With layers, threads that
    are preferred are taken unless something needs processes, such as a timeout.

    Blocks until all calls have ended.

    Args:
        func: What is called with each item.
        data: Any iterable, consumed here.
        sample_size: As for ``optimize``; ``execute`` samples for 0.05 s at most.
        target_chunk_duration: As for ``optimize``.
        verbose: As for ``optimize``.
        use_spawn_benchmark: As for ``optimize``.
        use_chunking_benchmark: As for ``optimize``.
        profile: As for ``optimize``.
        auto_adjust_for_nested_parallelism: As for ``optimize``.
        progress_callback: As for ``optimize``: phases of the recommendation.
        return_optimization_result: Return the pair (results, recommendation); what workers cost is measured for it.
        prefer_threads_for_io: As for ``optimize``.
        hooks: Called at the beginning, the progress, errors and the end.
        on_error: ``"raise"`` the first error, ``"return"`` errors as values, or ``"skip"`` them.
        progress: Called with (calls that have ended, total or None), about ten times a second and at the end. What it
            raises is logged.
        executor_options: For ``AdaptiveExecutor``: retry, checkpoint, max_workers, ...

    Returns:
        A list in the order of the items, of their number unless ``on_error="skip"``.

    Raises:
        ValueError: A parameter is out of its range or of the wrong type.
        Exception: What the function raised, with ``on_error="raise"``; what the source of the items raised.
    """
    check_task(func, data)
    check_sampling(sample_size, target_chunk_duration)
    check_flags(
        verbose=verbose,
        use_spawn_benchmark=use_spawn_benchmark,
        use_chunking_benchmark=use_chunking_benchmark,
        profile=profile,
        auto_adjust_for_nested_parallelism=auto_adjust_for_nested_parallelism,
        return_optimization_result=return_optimization_result,
        prefer_threads_for_io=prefer_threads_for_io,
    )
    check_callable("progress_callback", progress_callback, optional=True)
    check_callable("progress", progress, optional=True)
    check_choice("on_error", on_error, ("raise", "return", "skip"))
    if hooks is not None and not isinstance(hooks, HookManager):
        raise InvalidParameterTypeError("hooks", hooks, "must be a HookManager or None")
    measures = return_optimization_result or verbose or profile
    wishes = Wishes(
        target_chunk_duration,
        use_spawn_benchmark and measures,
        use_chunking_benchmark and measures,
        auto_adjust_for_nested_parallelism,
        prefer_threads_for_io,
        max_workers=executor_options.get("max_workers"),
    )
    narration = Narration(verbose=verbose, progress=progress_callback)
    options = {"target_chunk_duration": target_chunk_duration, **executor_options}
    watch = Watch(hooks, progress)
    given = {name for name, value in executor_options.items() if value is not None and value is not False}
    if given & (_OWN_PLACE | _LAYERS) or guards_of(func):
        options |= choose_backend(func, given, prefers_threads=prefer_threads_for_io)
        result, results = run_unsampled(func, data, options, on_error, watch, narration)
    else:
        with AdaptiveExecutor(**options) as executor:  # refuses wrong options before any call
            # Before the sample: if that leaves threads behind, workers could not be forked from here any more.
            executor._accepting().start()  # noqa: SLF001 - what the first submit would do
            goes_on = on_error != "raise"
            result = advise(
                func, data, sample_size, wishes, narration, longest_s=_SAMPLE_S, warm_up_s=0.0, goes_on=goes_on
            )
            results = run_sampled(func, result, executor, options, on_error, watch)
    if not profile:
        result.profile = None
    return (results, result) if return_optimization_result else results


def run_sampled(
    func: Callable[[Any], Any],
    result: OptimizationResult,
    executor: AdaptiveExecutor,
    options: dict[str, Any],
    on_error: str,
    watch: Watch,
) -> list[Any]:
    """Run what the sample has left, and return all results."""
    sampled = outcomes_of(result)
    supply = supply_of(result)
    watch.begin(result, supply.total)
    if on_error == "raise":
        for failed in (outcome for outcome in sampled.values() if outcome.error is not None):
            watch.note(failed)
            raise_error(failed)
    with contextlib.ExitStack() as stack:
        if result.backend != "auto":
            own = {name: value for name, value in options.items() if name in OF_EVERY_BACKEND}
            own |= {"max_workers": result.n_jobs, "backend": result.backend}
            executor = stack.enter_context(AdaptiveExecutor(**own))
        stream, source = begin(executor, func, supply.without(sampled.keys()), supply.total)
        results = collect(stream, source, sampled, on_error, watch)
    watch.end(len(results))
    return results


def run_unsampled(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    options: dict[str, Any],
    on_error: str,
    watch: Watch,
    narration: Narration,
) -> tuple[OptimizationResult, list[Any]]:
    """Run everything through the executor; the recommendation is what it came to do."""
    narration.enter(START)
    total = count_items(data)
    with AdaptiveExecutor(**options) as executor:
        watch.begin(describe_run(executor, 0, 0.0), total)
        began = time.perf_counter()
        stream, source = begin(executor, func, data, total)
        results = collect(stream, source, {}, on_error, watch)
        result = describe_run(executor, watch.done, time.perf_counter() - began)
    watch.end(len(results))
    result.data = data
    narration.say(str(result))
    narration.enter(COMPLETE)
    return result, results


def describe_run(executor: AdaptiveExecutor, calls: int, took_s: float) -> OptimizationResult:
    """Return what an executor came to do as a recommendation; the speed-up is the measured one."""
    plan, facts = executor.plan, executor.stats()
    call_s = max((entry["mean_s"] for entry in facts["functions"]), default=0.0)
    n_jobs = max(1, plan.workers)
    speedup = min(float(n_jobs), max(1.0, calls * call_s / took_s)) if took_s > 0 else 1.0
    profile = DiagnosticProfile(
        avg_execution_time=call_s,
        sample_count=calls,
        is_picklable=True,
        total_items=calls,
        estimated_serial_time=calls * call_s,
        optimal_chunksize=plan.chunksize,
        estimated_speedup=speedup,
    )
    executor_type = "thread" if plan.lane.value == "threads" else "process"
    return OptimizationResult(
        n_jobs, plan.chunksize, plan.reason, speedup, profile=profile, executor_type=executor_type
    )
