"""``optimize``: sample a few calls, predict with the executor's own cost model, and say what is best and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from amorsize_executor.advice.arguments import check_flags, check_sampling, check_task
from amorsize_executor.advice.judgement import Judgement
from amorsize_executor.advice.narration import COMPLETE, SAMPLED, SAMPLING, START, Narration, ProgressCallback
from amorsize_executor.advice.optimization import OptimizationResult, keep_sample
from amorsize_executor.advice.outlook import Wishes
from amorsize_executor.advice.sample import LONGEST_S, WARM_UP_S, take_sample
from amorsize_executor.advice.supply import Supply
from amorsize_executor.parameters import check_callable


def optimize(
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
    prefer_threads_for_io: bool = False,
    enable_function_profiling: bool = False,
    use_cache: bool = True,
    enable_memory_tracking: bool = True,
    adjust_for_system_load: bool = False,
) -> OptimizationResult:
    """Recommend how many workers to use and how many calls to send together, or to stay with plain serial code.

    Up to ``sample_size`` calls are run here, each once; their results are in the answer, so that nobody needs to run
    them again. Sampling ends early after 0.25 s, a first call of up to 1 s not counted. What workers cost is measured
    once a process (0.1 s), unless the whole work takes less than half a second.

    Runs in: the caller's thread.

    Args:
        func: What is to be called with each item. Lambdas and closures are welcome.
        data: Any iterable. Of sequences the sample is spread from the first item to the last, since data is often
            sorted; of all else it is the first items.
        sample_size: Items to sample, 1 to 10,000.
        target_chunk_duration: Seconds of work that a chunk aims at, > 0 and <= 3600.
        verbose: Write to stderr what was found.
        use_spawn_benchmark: Measure how long workers take to start; False for constants by start method.
        use_chunking_benchmark: Measure what a chunk costs; False for constants.
        profile: Keep everything that was measured in ``result.profile``.
        auto_adjust_for_nested_parallelism: Count calls that use several threads for several workers.
        progress_callback: Called with (phase, fraction), 0.0 to 1.0.
        prefer_threads_for_io: Recommend threads for calls that mostly wait. The function has to be thread-safe.
        enable_function_profiling: Run the last sampled call under cProfile.
        use_cache: Use what workers cost as it was measured before in this process; False to measure anew.
        enable_memory_tracking: Bound the workers by the memory that the sample took.
        adjust_for_system_load: Leave out the processors that other programs keep busy.

    Returns:
        A result with ``n_jobs >= 1`` and ``chunksize >= 1``. Whatever fails (a call, the source, pickling) makes it
        serial, with the reason; ``result.data`` is complete in every case.

    Raises:
        ValueError: A parameter is out of its range or of the wrong type; nothing was called then.
    """
    check_task(func, data)
    check_sampling(sample_size, target_chunk_duration)
    check_flags(
        verbose=verbose,
        use_spawn_benchmark=use_spawn_benchmark,
        use_chunking_benchmark=use_chunking_benchmark,
        profile=profile,
        auto_adjust_for_nested_parallelism=auto_adjust_for_nested_parallelism,
        prefer_threads_for_io=prefer_threads_for_io,
        enable_function_profiling=enable_function_profiling,
        use_cache=use_cache,
        enable_memory_tracking=enable_memory_tracking,
        adjust_for_system_load=adjust_for_system_load,
    )
    check_callable("progress_callback", progress_callback, optional=True)
    wishes = Wishes(
        target_chunk_duration,
        use_spawn_benchmark,
        use_chunking_benchmark,
        auto_adjust_for_nested_parallelism,
        prefer_threads_for_io,
        use_cache,
        enable_memory_tracking,
        adjust_for_system_load,
    )
    narration = Narration(verbose=verbose, progress=progress_callback)
    result = advise(func, data, sample_size, wishes, narration, with_profile=enable_function_profiling)
    if not profile:
        result.profile = None
    return result


def advise(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int,
    wishes: Wishes,
    narration: Narration,
    *,
    longest_s: float = LONGEST_S,
    warm_up_s: float = WARM_UP_S,
    goes_on: bool = False,
    with_profile: bool = False,
) -> OptimizationResult:
    """Do what ``optimize`` does, with checked arguments; the result has a profile.

    Args:
        func: What is called.
        data: The items.
        sample_size: How many to sample.
        wishes: What the user asked for.
        narration: Where to tell of it.
        longest_s: Seconds after which no more calls are sampled.
        warm_up_s: Seconds of a first call that are not counted, if it takes no more.
        goes_on: Sample on after an error, and judge by the calls that end well.
        with_profile: Run the last sampled call under cProfile.
    """
    narration.enter(START)
    supply = Supply(data, sample_size)
    narration.enter(SAMPLING)
    sample = take_sample(
        func, supply.ahead, longest_s=longest_s, warm_up_s=warm_up_s, goes_on=goes_on, with_profile=with_profile
    )
    narration.enter(SAMPLED)
    result = Judgement(func, supply, sample, wishes, narration, goes_on=goes_on).pass_sentence()
    result.function_profiler_stats = sample.statistics
    keep_sample(result, supply, sample.outcomes)
    result.data = supply.complete()
    narration.say(str(result))
    narration.enter(COMPLETE)
    return result
