"""``OptimizationResult``: how many workers, what chunk size, is it worth it, and why."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amorsize_executor.advice.narration import whisper
from amorsize_executor.errors import AmorsizeError

if TYPE_CHECKING:
    import pstats

    from amorsize_executor.advice.diagnosis import DiagnosticProfile
    from amorsize_executor.advice.sample import Outcome
    from amorsize_executor.advice.supply import Supply


class NoProfileError(AmorsizeError, ValueError):
    """A function profile was asked for that was not made."""

    def __init__(self) -> None:
        super().__init__("no function profile: pass enable_function_profiling=True to optimize()")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class OptimizationResult:
    """A recommendation, with its reasons, and the task's items, none of which is lost.

    Attributes:
        n_jobs: Workers, >= 1; 1 means plain serial code.
        chunksize: Calls that travel together, >= 1.
        reason: Why, in a sentence or two.
        estimated_speedup: Times faster than serial code; 1.0 for serial code.
        speedup_range: The least and the most that it may turn out to be.
        warnings: What to know beside it.
        data: All items, the sampled ones too, in their order. A list, range, dictionary, ... is the very object that
            was given; of what cannot begin anew it is an iterator, good for one use.
        profile: Everything it rests on; None unless asked for.
        executor_type: ``"process"`` or ``"thread"``.
        function_profiler_stats: cProfile's view of a sampled call; None unless asked for.
        cache_hit: Whether this is the answer to an earlier question; ``optimize`` gives none from a cache.
        stays_here: Whether the calls cannot go to other processes, since something of them does not pickle.
        is_predicted: Whether it comes from a prediction; False where there was nothing to predict from.
    """

    def __init__(
        self,
        n_jobs: int,
        chunksize: int,
        reason: str,
        estimated_speedup: float = 1.0,
        warnings: list[str] | None = None,
        data: Iterable[Any] | None = None,
        profile: DiagnosticProfile | None = None,
        executor_type: str = "process",
        function_profiler_stats: pstats.Stats | None = None,
        cache_hit: bool = False,  # noqa: FBT001, FBT002 - the contract's order
        *,
        speedup_range: tuple[float, float] | None = None,
        stays_here: bool = False,
        is_predicted: bool = True,
    ) -> None:
        self.n_jobs = n_jobs
        self.chunksize = chunksize
        self.reason = reason
        self.estimated_speedup = estimated_speedup
        self.speedup_range = speedup_range or (estimated_speedup, estimated_speedup)
        self.warnings = warnings or []
        self.data = data
        self.profile = profile
        self.executor_type = executor_type
        self.function_profiler_stats = function_profiler_stats
        self.cache_hit = cache_hit
        self.stays_here = stays_here
        self.is_predicted = is_predicted
        self._supply: Supply | None = None
        self._outcomes: dict[int, Outcome] = {}

    @property
    def backend(self) -> str:
        """The ``backend`` of an ``AdaptiveExecutor`` for this work."""
        if self.stays_here:
            return "caller"
        return "thread" if self.executor_type == "thread" and self.n_jobs > 1 else "auto"

    @property
    def sampled_results(self) -> dict[int, Any]:
        """The results of the calls that were run already, by the position of their items."""
        return {position: outcome.value for position, outcome in self._outcomes.items() if outcome.error is None}

    def remaining(self) -> Iterator[Any]:
        """Return the items whose calls ``sampled_results`` does not have, in order.

        Use either this or ``data``: where the source cannot begin anew, both take from it.
        """
        if self._supply is None:
            return iter(self.data if self.data is not None else ())
        return self._supply.without(self.sampled_results.keys())

    def save_config(
        self,
        filepath: str | os.PathLike[str],
        function_name: str | None = None,
        notes: str | None = None,
        overwrite: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    ) -> None:
        """Write the recommendation to a JSON or YAML file, for ``load_config``.

        Raises:
            FileExistsError: The file exists, and ``overwrite`` is False.
        """
        from amorsize_executor.advice import config  # noqa: PLC0415 - most recommendations are not saved

        profile = self.profile
        saved = config.ConfigData(
            n_jobs=self.n_jobs,
            chunksize=self.chunksize,
            executor_type="serial" if self.stays_here else self.executor_type,
            estimated_speedup=self.estimated_speedup,
            function_name=function_name,
            data_size=profile.total_items if profile is not None and profile.total_items >= 0 else None,
            avg_execution_time=profile.avg_execution_time if profile is not None else None,
            notes=notes,
            source="optimize",
        )
        config.save_config(saved, filepath, overwrite=overwrite)

    def explain(self) -> str:
        """Return the profile's report; without a profile, how to get one."""
        if self.profile is None:
            return f"{self}\n(no diagnostic profile: pass profile=True to optimize() for the numbers behind this)"
        return self.profile.explain_decision()

    def show_function_profile(self, sort_by: str = "cumulative", limit: int = 20) -> None:
        """Write to stdout what cProfile saw in a sampled call, or how to have it look."""
        if self.function_profiler_stats is None:
            whisper(str(NoProfileError()))
            return
        self.function_profiler_stats.sort_stats(sort_by).print_stats(limit)

    def save_function_profile(
        self, filepath: str | os.PathLike[str], sort_by: str = "cumulative", limit: int = 50
    ) -> None:
        """Write what cProfile saw in a sampled call to a text file.

        Raises:
            NoProfileError: None was made (a ``ValueError``).
        """
        stats: Any = self.function_profiler_stats
        if stats is None:
            raise NoProfileError
        with Path(filepath).open("w", encoding="utf-8") as file:
            was, stats.stream = stats.stream, file
            try:
                stats.sort_stats(sort_by).print_stats(limit)
            finally:
                stats.stream = was

    def __str__(self) -> str:
        low, high = self.speedup_range
        span = f" ({low:.2f}x to {high:.2f}x)" if high > low else ""
        lines = [
            f"Recommended: n_jobs={self.n_jobs}, chunksize={self.chunksize}, executor={self.executor_type}",
            f"Reason: {self.reason}",
            f"Estimated speedup: {self.estimated_speedup:.2f}x{span}{' (cached)' if self.cache_hit else ''}",
        ]
        if self.warnings:
            lines += ["Warnings:", *(f"  - {warning}" for warning in self.warnings)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"OptimizationResult(n_jobs={self.n_jobs}, chunksize={self.chunksize}, "
            f"executor_type={self.executor_type!r}, estimated_speedup={self.estimated_speedup:.2f})"
        )


def keep_sample(result: OptimizationResult, supply: Supply, outcomes: dict[int, Outcome]) -> None:
    """Hand a sample on: from now on the result knows which calls were run."""
    result._supply, result._outcomes = supply, outcomes  # noqa: SLF001 - the other half of the record


def outcomes_of(result: OptimizationResult) -> dict[int, Outcome]:
    """Return how the sampled calls ended, errors included, by position."""
    return result._outcomes  # noqa: SLF001 - as above


def supply_of(result: OptimizationResult) -> Supply:
    """Return where a result's items come from; it has a sample."""
    supply = result._supply  # noqa: SLF001 - as above
    if supply is None:
        message = "this result was not made from a sample"
        raise ValueError(message)
    return supply
