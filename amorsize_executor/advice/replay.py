"""Replaying dead letters: run failed calls again, in parallel, and keep only those that fail again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from amorsize_executor.errors import InvalidParameterTypeError, WorkerDiedError
from amorsize_executor.executor import AdaptiveExecutor, CallingExecutor
from amorsize_executor.parameters import check_callable, check_flag
from amorsize_executor.storage.dead_letter import DLQEntry
from amorsize_executor.storage.dead_letter_queue import DeadLetterQueue

if TYPE_CHECKING:
    from typing_extensions import Self

_WINDOW = 1000
"""Calls that are submitted and have not ended."""


class Replay(tuple[list[Any], list[DLQEntry]]):  # noqa: SLOT001 - its third part is an attribute
    """What came of a replay: the pair ``(results, still_failed)``, and whose results these are.

    Attributes:
        succeeded: The entry of each result.
    """

    succeeded: list[DLQEntry]

    def __new__(cls, results: list[Any], still_failed: list[DLQEntry], succeeded: list[DLQEntry]) -> Self:
        """Make the pair; a tuple's content is set here."""
        replay = super().__new__(cls, (results, still_failed))
        replay.succeeded = succeeded
        return replay

    @property
    def results(self) -> list[Any]:
        """Values of the calls that succeeded, in the order of the entries."""
        return self[0]

    @property
    def still_failed(self) -> list[DLQEntry]:
        """Entries of calls that failed again, with the new error, or whose arguments are not to be had here."""
        return self[1]


def replay_failed_items(
    dlq: DeadLetterQueue,
    func: Callable[..., Any],
    clear_on_success: bool = True,  # noqa: FBT001, FBT002
    *,
    executor: Executor | None = None,
    entries: Iterable[DLQEntry] | None = None,
) -> Replay:
    """Run a queue's failed calls again, in parallel; block until all have ended.

    An entry leaves the store when its call has succeeded, and not before: if the program is killed half-way, what had
    not succeeded is still there. What is added meanwhile stays.

    Args:
        dlq: Whose entries; call its ``load()`` first for those of earlier runs.
        func: Called with each entry's arguments.
        clear_on_success: Remove what succeeded and update what failed again; False to leave the queue as it is.
        executor: Runs the calls, without its own dead letters; None for an ``AdaptiveExecutor`` of this function's own.
        entries: Those to replay; None for all that the queue has.

    Returns:
        A pair ``(results, still_failed)`` with the attribute ``succeeded``: as many results as succeeded entries, in
        their order.

    Raises:
        BrokenExecutor: The executor broke; what has not succeeded is still in the queue.
    """
    if not isinstance(dlq, DeadLetterQueue):
        raise InvalidParameterTypeError("dlq", dlq, "must be a DeadLetterQueue")
    check_callable("func", func)
    check_flag("clear_on_success", clear_on_success)
    if executor is not None and not isinstance(executor, Executor):
        raise InvalidParameterTypeError("executor", executor, "must be a concurrent.futures.Executor or None")
    chosen = dlq.get_entries() if entries is None else list(entries)
    results: dict[int, Any] = {}
    still_failed: dict[int, DLQEntry] = {}
    with contextlib.ExitStack() as stack:
        if executor is None:
            executor = stack.enter_context(AdaptiveExecutor())
        elif isinstance(executor, CallingExecutor):  # what fails again is there already
            executor = executor.options(dead_letters=None)
        for index, future in _run(executor, func, chosen):
            error = _failure_of(future) if future is not None else None
            if future is None:
                still_failed[index] = chosen[index]
            elif error is not None:
                include_traceback = dlq.policy.include_traceback
                still_failed[index] = chosen[index].failed_again(error, include_traceback=include_traceback)
                if clear_on_success:
                    dlq.update(still_failed[index])
            else:
                results[index] = future.result()
                if clear_on_success:
                    dlq.remove(chosen[index])
    return Replay(
        [results[index] for index in sorted(results)],
        [still_failed[index] for index in sorted(still_failed)],
        [chosen[index] for index in sorted(results)],
    )


def _failure_of(future: Future[Any]) -> BaseException | None:
    """Wait for a call; return how it failed, or raise if it never ran."""
    error = future.exception()
    if isinstance(error, BrokenExecutor) and not isinstance(error, WorkerDiedError):
        raise error
    return error


def _run(
    executor: Executor, func: Callable[..., Any], entries: list[DLQEntry]
) -> Iterator[tuple[int, Future[Any] | None]]:
    """Yield the number of each entry when its call has ended, with its future; None where the arguments are missing."""
    running: dict[Future[Any], int] = {}
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    try:
        for index, entry in enumerate(entries):
            if not entry.can_rerun:
                yield index, None
                continue
            args, kwargs = entry.arguments()
            future = executor.submit(func, *args, **kwargs)
            running[future] = index
            future.add_done_callback(ended.put)
            if len(running) >= _WINDOW:
                future = ended.get()
                yield running.pop(future), future
        while running:
            future = ended.get()
            yield running.pop(future), future
    finally:
        for future in running:
            future.cancel()
