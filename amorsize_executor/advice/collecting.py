"""Results as they come: put into the order of the items, counted, and told to hooks."""

from __future__ import annotations

import contextlib
import itertools
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

from amorsize_executor.advice.hooks import HookContext, HookEvent, HookManager
from amorsize_executor.advice.narration import tell_progress
from amorsize_executor.advice.optimization import OptimizationResult
from amorsize_executor.advice.sample import Outcome
from amorsize_executor.engine.results import Failed, ResultIterator
from amorsize_executor.errors import NO_CALLS_OWN, WorkerDiedError
from amorsize_executor.executor import AdaptiveExecutor
from amorsize_executor.wording import say_error

_RUN_S = 0.1
_RUNS = 20
_RUN_OF_UNKNOWN = 64

Progress = Callable[[int, "int | None"], object]


class Watch:
    """Counts outcomes, and tells hooks and a callback of them in runs.

    A run of results ends after as many as a chunk has, or a twentieth of all, and after 0.1 s.
    """

    def __init__(self, hooks: HookManager | None, progress: Progress | None) -> None:
        self._hooks = hooks
        self._progress = progress
        self._total: int | None = None
        self._result: OptimizationResult | None = None
        self._run = self._in_run = self._runs = 0
        self._began_s = self._run_began_s = 0.0
        self.done = 0

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants to know of single outcomes."""
        return self._progress is not None or (self._hooks is not None and self._hooks.get_hook_count() > 0)

    def begin(self, result: OptimizationResult, total: int | None) -> None:
        """The calls begin, as many as ``total``; None where nobody knows."""
        self._result, self._total = result, total
        is_parallel = result.n_jobs > 1
        few = _RUN_OF_UNKNOWN if total is None else max(1, total // _RUNS)
        self._run = result.chunksize if is_parallel else few
        self._began_s = self._run_began_s = time.monotonic()
        self._tell(HookEvent.PRE_EXECUTE)

    def note(self, outcome: Outcome) -> None:
        """A call has ended."""
        self.done += 1
        self._in_run += 1
        error = outcome.error
        if error is not None:
            text = "".join(traceback.format_exception(error))
            self._tell(HookEvent.ON_ERROR, error=error, error_message=say_error(error, str), error_traceback=text)
        if self._in_run >= self._run or time.monotonic() - self._run_began_s >= _RUN_S:
            self._end_run()

    def count(self, number: int) -> None:
        """So many calls have ended, of which nobody wants to know one by one."""
        self.done += number

    def end(self, results: int) -> None:
        """All calls have ended; there are so many results."""
        if self._in_run:
            self._end_run()
        self._tell(HookEvent.POST_EXECUTE, results_count=results)

    def _end_run(self) -> None:
        now = time.monotonic()
        self._tell(
            HookEvent.ON_CHUNK_COMPLETE,
            chunk_id=self._runs,
            chunk_size=self._in_run,
            chunk_time=now - self._run_began_s,
        )
        self._runs, self._in_run, self._run_began_s = self._runs + 1, 0, now
        self._tell(HookEvent.ON_PROGRESS)
        if self._progress is not None:
            tell_progress(self._progress, self.done, self._total)

    def _tell(self, event: HookEvent, **fields: Any) -> None:
        hooks, result = self._hooks, self._result
        if hooks is None or result is None or not hooks.has_hooks(event):
            return
        total, done = self._total, self.done
        elapsed_s = max(time.monotonic() - self._began_s, 1e-9) if event is not HookEvent.PRE_EXECUTE else 0.0
        rate = done / elapsed_s if elapsed_s else 0.0
        left = 0 if total is None else total - done
        percent = 100.0 if event is HookEvent.POST_EXECUTE else 0.0
        if total:
            percent = 100.0 * done / total
        hooks.trigger(
            HookContext(
                event,
                n_jobs=result.n_jobs,
                chunksize=result.chunksize,
                total_items=total,
                items_completed=done,
                items_remaining=left,
                percent_complete=percent,
                elapsed_time=elapsed_s,
                estimated_time_remaining=left / rate if rate else 0.0,
                throughput_items_per_sec=rate,
                avg_item_time=1 / rate if rate else 0.0,
                metadata={"executor_type": result.executor_type, "estimated_speedup": result.estimated_speedup},
                **fields,
            )
        )


class Source(Iterator[Any]):
    """An iterator that remembers whether it was asked to its end.

    Attributes:
        is_at_end: Whether it was.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self.is_at_end = False

    def __next__(self) -> Any:
        try:
            return next(self._items)
        except StopIteration:
            self.is_at_end = True
            raise


def begin(
    executor: AdaptiveExecutor, func: Callable[[Any], Any], items: Iterable[Any], total: int | None
) -> tuple[Iterator[Any], Source | None]:
    """Ask for calls: for all at once where their number is known, which tells the executor most, else lazily.

    Returns:
        The results; and where the items come from, None where all were asked for.
    """
    if total is not None:
        return executor.map(func, items), None
    source = Source(items)
    return executor.imap(func, source), source


def collect(
    stream: Iterator[Any], source: Source | None, sampled: dict[int, Outcome], on_error: str, watch: Watch
) -> list[Any]:
    """Return the results of sampled and streamed calls, in the order of the items; calls not begun then never are.

    Args:
        stream: Results of the calls that were not sampled, in order; raises their errors and goes on.
        source: Where the stream takes its items from; None where it has them all.
        sampled: Outcomes that are there already, by position.
        on_error: What becomes of errors: ``"raise"``, ``"return"`` or ``"skip"``.
        watch: Is told of every outcome.
    """
    closing: Any = stream
    results: list[Any] = []
    with contextlib.closing(closing):  # an error's traceback would keep it, and its calls would all be run
        if on_error == "raise" and not watch.is_watched:
            values = iter(stream)
            for position in sorted(sampled):
                results.extend(itertools.islice(values, position - len(results)))
                results.append(sampled[position].value)
            results.extend(values)
            watch.count(len(results))
            return results
        for outcome in weave(outcomes_of_calls(stream, source), sampled):
            watch.note(outcome)
            if on_error == "raise":
                raise_error(outcome)
            if outcome.error is None:
                results.append(outcome.value)
            elif on_error == "return":
                results.append(outcome.error)
        return results


def weave(outcomes: Iterator[Outcome], sampled: dict[int, Outcome]) -> Iterator[Outcome]:
    """Yield outcomes, with sampled ones at their positions."""
    left = dict(sorted(sampled.items()))
    position = 0
    for outcome in outcomes:
        while position in left:
            yield left.pop(position)
            position += 1
        yield outcome
        position += 1
    yield from left.values()


def outcomes_of_calls(stream: Iterator[Any], source: Source | None) -> Iterator[Outcome]:
    """Yield each call's outcome; what ends the stream itself is raised, so that no result is missing silently.

    That is also what a signal's handler raises while this waits: it is nobody's outcome.
    """
    assert isinstance(stream, ResultIterator)  # noqa: S101 - what an executor's map and imap return
    for value in stream.telling():
        if not isinstance(value, Failed):
            yield Outcome(value)
            continue
        error = value.error
        is_end = isinstance(error, (BrokenExecutor, CancelledError, KeyboardInterrupt, *NO_CALLS_OWN))
        if is_end and not isinstance(error, WorkerDiedError):
            raise error
        yield Outcome(error=error)
    if source is not None and not source.is_at_end:
        message = "the stream ended before its items did"
        raise RuntimeError(message)


def raise_error(outcome: Outcome) -> None:
    """Raise the error of a call, if it has one."""
    error = outcome.error
    if isinstance(error, StopIteration):
        message = "a call raised StopIteration"
        raise RuntimeError(message) from error  # noqa: TRY004 - as a generator does
    if error is not None:
        raise error
