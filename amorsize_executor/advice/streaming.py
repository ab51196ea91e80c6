"""``optimize_streaming``: a recommendation for results that are used as they come, which can run the stream itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

from amorsize_executor.advice.arguments import check_flags, check_sampling, check_task
from amorsize_executor.advice.collecting import Source, outcomes_of_calls, raise_error, weave
from amorsize_executor.advice.narration import Narration
from amorsize_executor.advice.optimization import OptimizationResult, outcomes_of, supply_of
from amorsize_executor.advice.optimize import advise
from amorsize_executor.advice.outlook import Wishes
from amorsize_executor.advice.sample import Outcome
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.executor import AdaptiveExecutor
from amorsize_executor.parameters import check_choice, check_count, check_flag
from amorsize_executor.tuning.machine import Machine, probe_machine

if TYPE_CHECKING:
    from amorsize_executor.advice.diagnosis import DiagnosticProfile

_BUFFER_PER_WORKER = 3
_BUFFER_OF_SERIAL = 256
_BUFFER_SHARE = 0.1
_UNEVEN = 0.3
_MOST_GROWTH = 4
_NO_CHECKPOINT = (
    "does not know the sampled calls: use execute(checkpoint=...), or imap of an executor with a checkpoint"
)


class StreamingOptimizationResult:
    """A recommendation for a stream.

    Attributes:
        n_jobs: Workers, >= 1; 1 means plain serial code.
        chunksize: Calls that travel together, >= 1.
        use_ordered: True: ``imap``, results in the order of the items; False: ``imap_unordered``.
        reason: Why, in a sentence or two.
        estimated_speedup: Times faster than serial code.
        warnings: What to know beside it.
        data: All items, the sampled ones too; see ``OptimizationResult``.
        profile: Everything it rests on; None unless asked for.
        use_adaptive_chunking: Whether ``run`` leaves the chunk size to the executor.
        adaptive_chunking_params: Within what bounds; empty where it is fixed.
        buffer_size: Most results that wait to be taken, with the calls that are asked for, >= 1; None for enough to
            keep the workers busy.
        memory_backpressure_enabled: Whether a default buffer was bounded by a threshold of memory in use.
    """

    def __init__(
        self,
        n_jobs: int,
        chunksize: int,
        use_ordered: bool,  # noqa: FBT001 - the contract's order
        reason: str,
        estimated_speedup: float = 1.0,
        warnings: list[str] | None = None,
        data: Iterable[Any] | None = None,
        profile: DiagnosticProfile | None = None,
        use_adaptive_chunking: bool = False,  # noqa: FBT001, FBT002 - as above
        adaptive_chunking_params: dict[str, Any] | None = None,
        buffer_size: int | None = None,
        memory_backpressure_enabled: bool = False,  # noqa: FBT001, FBT002 - as above
    ) -> None:
        self.n_jobs = n_jobs
        self.chunksize = chunksize
        self.use_ordered = use_ordered
        self.reason = reason
        self.estimated_speedup = estimated_speedup
        self.warnings = warnings or []
        self.data = data
        self.profile = profile
        self.use_adaptive_chunking = use_adaptive_chunking
        self.adaptive_chunking_params = adaptive_chunking_params or {}
        self.buffer_size = buffer_size
        self.memory_backpressure_enabled = memory_backpressure_enabled
        self._func: Callable[[Any], Any] | None = None
        self._advice: OptimizationResult | None = None
        self._has_run = False

    def run(
        self, *, executor: AdaptiveExecutor | None = None, on_error: str = "raise", **executor_options: Any
    ) -> Generator[Any, None, None]:
        """Yield the results, bounded: no more than ``buffer_size`` calls are asked for and not taken.

        Sampled calls are not run again, unless they failed and there are layers (a retry, dead letters). Items are
        pulled inside ``next``, in the consumer's thread. Closing or dropping the generator stops what has not started.
        A stream whose source cannot begin anew runs once.

        Args:
            executor: Runs the calls; None for one of this stream's own, which ends with it.
            on_error: ``"raise"`` the first error, ``"return"`` errors as values, or ``"skip"`` them.
            executor_options: For the stream's own executor: retry, timeout, ...

        Raises:
            ValueError: This result was not made by ``optimize_streaming``; ``on_error`` is none of the three; or,
                from the generator, there is a checkpoint, which would have to know the sampled calls.
            RuntimeError: It was run before, and its source cannot begin anew.
        """
        check_choice("on_error", on_error, ("raise", "return", "skip"))
        func, advice = self._func, self._advice
        if func is None or advice is None:
            message = "this result was not made by optimize_streaming(), so there is nothing that it could run"
            raise ValueError(message)
        if self._has_run and not supply_of(advice).begins_anew:
            message = "this stream was run already, and its source cannot begin anew: ask optimize_streaming() again"
            raise RuntimeError(message)
        self._has_run = True
        return self._run(func, advice, executor, on_error, executor_options)

    def _run(
        self,
        func: Callable[[Any], Any],
        advice: OptimizationResult,
        executor: AdaptiveExecutor | None,
        on_error: str,
        options: dict[str, Any],
    ) -> Generator[Any, None, None]:
        own = None
        if executor is None:
            own = executor = AdaptiveExecutor(**{"backend": advice.backend, **options})
        stream: Any = iter(())
        try:
            kinds = {kind for kind, _layer in executor._options.layers}  # noqa: SLF001 - the layers that calls will pass
            if "checkpoint" in kinds:
                raise InvalidParameterError("checkpoint", options.get("checkpoint"), _NO_CHECKPOINT)
            # Below layers a sampled call that failed begins again: it may be retried, or become a dead letter.
            sampled = {at: each for at, each in outcomes_of(advice).items() if each.error is None or not kinds}
            source = Source(supply_of(advice).without(sampled.keys()))
            ask = executor.imap if self.use_ordered else executor.imap_unordered
            chunksize = None if self.use_adaptive_chunking or self.n_jobs == 1 else self.chunksize
            stream = ask(func, source, buffersize=self.buffer_size, chunksize=chunksize)
            come = outcomes_of_calls(stream, source)
            for outcome in weave(come, sampled) if self.use_ordered else first(sampled, come):
                if outcome.error is None:
                    yield outcome.value
                elif on_error == "return":
                    yield outcome.error
                elif on_error == "raise":
                    raise_error(outcome)
        except KeyboardInterrupt:
            if own is not None:
                own.kill_workers()  # as at the end of a with block: nobody waits for calls that run
            raise
        finally:
            getattr(stream, "close", int)()
            if own is not None:
                own.shutdown(cancel_futures=True)

    def explain(self) -> str:
        """Return the profile's report; without a profile, this recommendation."""
        return str(self) if self.profile is None else self.profile.explain_decision()

    def __str__(self) -> str:
        method = "imap" if self.use_ordered else "imap_unordered"
        settings = f"n_jobs={self.n_jobs}, chunksize={self.chunksize}, buffer_size={self.buffer_size}"
        lines = [
            f"Recommended: {method}() with {settings}",
            f"Reason: {self.reason}",
            f"Estimated speedup: {self.estimated_speedup:.2f}x",
        ]
        if self.use_adaptive_chunking:
            lines.append("Chunks are sized on the way.")
        if self.warnings:
            lines += ["Warnings:", *(f"  - {warning}" for warning in self.warnings)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"StreamingOptimizationResult(n_jobs={self.n_jobs}, chunksize={self.chunksize}, "
            f"use_ordered={self.use_ordered}, estimated_speedup={self.estimated_speedup:.2f})"
        )


def optimize_streaming(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    sample_size: int = 5,
    target_chunk_duration: float = 0.2,
    prefer_ordered: bool | None = None,  # noqa: FBT001 - the contract's order
    buffer_size: int | None = None,
    verbose: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    *,
    use_spawn_benchmark: bool = True,
    use_chunking_benchmark: bool = True,
    profile: bool = False,
    enable_adaptive_chunking: bool = False,
    adaptation_rate: float = 0.3,
    enable_memory_backpressure: bool = False,
    memory_threshold: float = 0.8,
    prefer_threads_for_io: bool = False,
) -> StreamingOptimizationResult:
    """Recommend how to run a stream of calls; ``result.run()`` does it.

    Sampling and prediction are those of ``optimize``. The order is kept unless ``prefer_ordered=False``.

    Args:
        func: What is called with each item.
        data: Any iterable, also an endless one.
        sample_size: Items to sample, 1 to 10,000.
        target_chunk_duration: Seconds of work that a chunk aims at, > 0 and <= 3600.
        prefer_ordered: False for results as they come; None and True for the order of the items.
        buffer_size: Most calls that are asked for and whose results are not taken, >= 1; None for three chunks a
            worker, less where their items and results would take more than a tenth of the available memory.
        verbose: Write to stderr what was found.
        use_spawn_benchmark: As for ``optimize``.
        use_chunking_benchmark: As for ``optimize``.
        profile: As for ``optimize``.
        enable_adaptive_chunking: Let the executor size the chunks on the way, where sampled calls take times that
            differ much.
        adaptation_rate: Kept in ``adaptive_chunking_params``, 0 to 1.
        enable_memory_backpressure: Bound the default buffer also to what is left below ``memory_threshold``.
        memory_threshold: Share of the machine's memory in use that is not to be exceeded, 0 to 1.
        prefer_threads_for_io: As for ``optimize``.

    Raises:
        ValueError: A parameter is out of its range or of the wrong type; nothing was called then.
    """
    check_task(func, data)
    check_sampling(sample_size, target_chunk_duration)
    if prefer_ordered is not None:
        check_flag("prefer_ordered", prefer_ordered)
    check_count("buffer_size", buffer_size)
    check_flags(
        verbose=verbose,
        use_spawn_benchmark=use_spawn_benchmark,
        use_chunking_benchmark=use_chunking_benchmark,
        profile=profile,
        enable_adaptive_chunking=enable_adaptive_chunking,
        enable_memory_backpressure=enable_memory_backpressure,
        prefer_threads_for_io=prefer_threads_for_io,
    )
    check_part("adaptation_rate", adaptation_rate)
    check_part("memory_threshold", memory_threshold)
    wishes = Wishes(
        target_chunk_duration,
        use_spawn_benchmark,
        use_chunking_benchmark,
        prefer_threads_for_io=prefer_threads_for_io,
    )
    advice = advise(func, data, sample_size, wishes, Narration(verbose=verbose))
    seen: Any = advice.profile
    adapts = enable_adaptive_chunking and advice.n_jobs > 1 and seen.coefficient_of_variation > _UNEVEN
    params = {
        "initial_chunksize": advice.chunksize,
        "target_chunk_duration": target_chunk_duration,
        "adaptation_rate": adaptation_rate,
        "min_chunksize": 1,
        "max_chunksize": _MOST_GROWTH * advice.chunksize,
        "enable_adaptation": True,
    }
    if buffer_size is None:
        threshold = memory_threshold if enable_memory_backpressure else None
        most_bytes = choose_buffer_bytes(probe_machine(), threshold)
        buffer_size = choose_buffer(advice, seen.return_size_bytes + seen.data_size_bytes, most_bytes)
    result = StreamingOptimizationResult(
        advice.n_jobs,
        advice.chunksize,
        prefer_ordered is not False,
        advice.reason,
        advice.estimated_speedup,
        advice.warnings,
        advice.data,
        seen if profile else None,
        adapts,
        params if adapts else None,
        buffer_size,
        enable_memory_backpressure,
    )
    result._func, result._advice = func, advice  # noqa: SLF001 - the other half of the record
    return result


def choose_buffer(advice: OptimizationResult, call_bytes: int, most_bytes: int) -> int:
    """Return how many calls may be asked for and not taken: three chunks a worker, or as many as fit, >= workers.

    256 for serial code, which may turn out to be worth workers; 1 where nothing could be predicted.
    """
    wanted = _BUFFER_PER_WORKER * advice.n_jobs * advice.chunksize
    if advice.n_jobs == 1:
        wanted = _BUFFER_OF_SERIAL if advice.is_predicted else 1
    return max(advice.n_jobs, min(wanted, most_bytes // max(1, call_bytes)))


def choose_buffer_bytes(machine: Machine, threshold: float | None) -> int:
    """Return the bytes that calls in the buffer may take: a tenth of what is available, and what a threshold leaves."""
    most = int(_BUFFER_SHARE * machine.available_memory)
    if threshold is None:
        return most
    used = machine.memory_limit - machine.available_memory
    return max(0, min(most, int(threshold * machine.memory_limit) - used))


def check_part(name: str, value: Any) -> None:
    """Raise unless ``value`` is a number from 0 to 1."""
    rule = "must be a number from 0 to 1"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameterTypeError(name, value, rule)
    if not 0 <= value <= 1:
        raise InvalidParameterError(name, value, rule)


def first(sampled: dict[int, Outcome], come: Iterable[Outcome]) -> Generator[Outcome, None, None]:
    """Yield what is there already, then the rest."""
    yield from sampled.values()
    yield from come
