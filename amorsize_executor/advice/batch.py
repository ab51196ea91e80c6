"""Batches: data of any length through memory that is bounded."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from amorsize_executor.advice.arguments import check_flags, check_share, check_task
from amorsize_executor.advice.collecting import Watch, collect, outcomes_of_calls, raise_error
from amorsize_executor.advice.narration import Narration
from amorsize_executor.advice.sample import choose_backend
from amorsize_executor.advice.supply import spread
from amorsize_executor.errors import InvalidParameterError
from amorsize_executor.executor import AdaptiveExecutor
from amorsize_executor.parameters import check_callable, check_choice, check_count, check_number
from amorsize_executor.tuning.machine import probe_machine
from amorsize_executor.wire.weight import weigh
from amorsize_executor.wording import say_count

MOST_IN_BATCH = 1_000_000
_WEIGHED = 32
_GROWTH = 8
"""A batch is at most so many times as large as the one before: what was measured so far stands for no more."""
_WITHOUT_EFFECT = frozenset(
    (
        "use_spawn_benchmark",
        "use_chunking_benchmark",
        "profile",
        "auto_adjust_for_nested_parallelism",
        "progress_callback",
        "enable_function_profiling",
        "use_cache",
        "enable_memory_tracking",
        "adjust_for_system_load",
    )
)
"""Keywords of ``optimize`` that are about its prediction: here the executor measures the real run."""


def process_in_batches(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    batch_size: int | None = None,
    max_memory_percent: float = 0.5,
    sample_size: int = 5,
    verbose: bool = False,  # noqa: FBT001, FBT002 - the contract's order
    *,
    on_batch: Callable[[list[Any]], object] | None = None,
    on_error: str = "raise",
    prefer_threads_for_io: bool = False,
    **options: Any,
) -> list[Any]:
    """Call ``func`` with each item, batch after batch, so that no more than one batch is in memory.

    Items are pulled when their batch begins. One executor runs all batches, so workers stay and what it has learned
    too. Without ``batch_size`` the first batch is small; what its items and results weigh gives the size of the next,
    and a batch whose results turn out to be too heavy for the memory is handed out in parts.

    A function that does not pickle runs here, as with ``execute``. Blocks until all calls have ended.

    Args:
        func: What is called with each item.
        data: Any iterable, endless ones too if ``on_batch`` ends them by raising.
        batch_size: Items in a batch, >= 1; None for as many as memory allows, by what is measured.
        max_memory_percent: Share of the available memory that a batch's items and results may take, > 0 and <= 1.
        sample_size: Items in the first batch where there is no ``batch_size``, >= 1.
        verbose: Write a line to stderr for each batch.
        on_batch: Takes each batch's results, in order, and nothing is kept; None to return all results.
        on_error: As for ``execute``: ``"raise"``, ``"return"`` or ``"skip"``.
        prefer_threads_for_io: Run the calls in threads; the function has to be thread-safe.
        options: For ``AdaptiveExecutor``: retry, max_workers, ...; keywords of ``optimize`` that are about its
            prediction are accepted and have no effect.

    Returns:
        All results in the order of the items; an empty list where ``on_batch`` took them.

    Raises:
        ValueError: A parameter is out of its range or of the wrong type.
        Exception: What the function, ``on_batch`` or the source raised; earlier batches were handed out.
    """
    check_task(func, data)
    check_count("batch_size", batch_size, most=sys.maxsize)
    check_share("max_memory_percent", max_memory_percent)
    check_count("sample_size", sample_size, optional=False)
    check_flags(verbose=verbose, prefer_threads_for_io=prefer_threads_for_io)
    check_callable("on_batch", on_batch, optional=True)
    check_choice("on_error", on_error, ("raise", "return", "skip"))
    wanted = {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}
    if wanted.get("checkpoint") is not None and batch_size is None:
        rule = "batch_size must be given with checkpoint=, so that a rerun makes the same batches"
        raise InvalidParameterError("batch_size", batch_size, rule)
    if prefer_threads_for_io:
        wanted["backend"] = "thread"
    wanted |= choose_backend(func, wanted, prefers_threads=False)
    size = BatchSize(batch_size, max_memory_percent, sample_size)
    kept: list[Any] = []
    narration = Narration(verbose=verbose)
    with AdaptiveExecutor(**wanted) as executor, contextlib.closing(batches(data, size)) as parts:
        for number, items in enumerate(parts):
            item_bytes = mean_weight(items)
            for results in results_of(executor, func, items, on_error, size.room_for(items, item_bytes)):
                narration.say(f"Batch {number}: {say_count(len(results), 'result')}; {executor!r}")
                size.learn(results, item_bytes)
                if on_batch is None:
                    kept += results
                else:
                    on_batch(results)
                del results
    return kept


def results_of(
    executor: AdaptiveExecutor, func: Callable[[Any], Any], items: list[Any], on_error: str, most_bytes: int | None
) -> Iterator[list[Any]]:
    """Yield a batch's results: all at once, or in parts of about ``most_bytes`` where these are heavier."""
    if most_bytes is None:
        stream = executor.map(func, items)
        items.clear()
        yield collect(stream, None, {}, on_error, Watch(None, None))
        return
    results: list[Any] = []
    nbytes, is_in_parts = 0, False
    # Not map, which would let all results of the batch come, whatever they weigh.
    with contextlib.closing(executor.imap(func, items)) as stream:  # type: ignore[type-var]
        for outcome in outcomes_of_calls(stream, None):
            if on_error == "raise":
                raise_error(outcome)
            if outcome.error is None or on_error == "return":
                results.append(outcome.value if outcome.error is None else outcome.error)
                nbytes += weigh(results[-1])
            if nbytes > most_bytes:
                yield results
                results, nbytes, is_in_parts = [], 0, True
    if results or not is_in_parts:
        yield results


class BatchSize:
    """How many items the next batch has: fixed, or by what results have weighed so far.

    Args:
        fixed: The size, or None.
        share: Share of the available memory for a batch's items and results.
        first: Size of the first batch.
    """

    def __init__(self, fixed: int | None, share: float, first: int) -> None:
        self._is_fixed = fixed is not None
        self._share = share
        self.items = fixed or first
        self._call_bytes = 0.0

    def room_for(self, items: list[Any], item_bytes: float) -> int | None:
        """Return the bytes that a batch's results may take beside its items; None where its size was given."""
        if self._is_fixed:
            return None
        return max(1, int(self._share * probe_machine().available_memory - item_bytes * len(items)))

    def learn(self, results: list[Any], item_bytes: float = 0.0) -> None:
        """Correct the size by a batch: what is heavier than before counts at once, what is lighter by half.

        Args:
            results: The batch's.
            item_bytes: What one of its items weighed.
        """
        if self._is_fixed or not results:
            return
        mean = mean_weight(results) + item_bytes
        self._call_bytes = max(mean, (self._call_bytes + mean) / 2)
        safe = estimate_safe_batch_size(max(1, int(self._call_bytes)), self._share)
        self.items = max(1, min(safe, _GROWTH * self.items, MOST_IN_BATCH))


def mean_weight(objects: list[Any]) -> float:
    """Return about how many bytes one of some objects has, by up to 32 of them."""
    chosen = spread(len(objects), _WEIGHED)
    return sum(weigh(objects[position]) for position in chosen) / max(1, len(chosen))


def batches(data: Iterable[Any], size: BatchSize) -> Generator[list[Any], None, None]:
    """Yield lists of items, each pulled when it is asked for and of the size that is right then."""
    source = iter(data)
    while items := list(itertools.islice(source, size.items)):
        yield items


def estimate_safe_batch_size(result_size_bytes: float, max_memory_percent: float = 0.5) -> int:
    """Return how many results fit into a share of the available memory; at least 1.

    Args:
        result_size_bytes: Bytes of one result, > 0.
        max_memory_percent: The share, > 0 and <= 1.

    Raises:
        ValueError: A parameter is out of its range or of the wrong type.
    """
    check_number("result_size_bytes", result_size_bytes, least=0)
    if result_size_bytes == 0:
        raise InvalidParameterError("result_size_bytes", result_size_bytes, "must be > 0")
    check_share("max_memory_percent", max_memory_percent)
    return max(1, int(min(max_memory_percent * probe_machine().available_memory / result_size_bytes, sys.maxsize)))
