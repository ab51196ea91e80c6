"""Hooks: callbacks at the beginning, the progress, the errors and the end of ``execute``."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from amorsize_executor.advice.narration import whisper
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.events import logger


class HookEvent(Enum):
    """When hooks are called. Workers of ``execute`` are the executor's: the log tells of their lives."""

    PRE_EXECUTE = "pre_execute"
    POST_EXECUTE = "post_execute"
    ON_WORKER_START = "on_worker_start"
    ON_WORKER_END = "on_worker_end"
    ON_CHUNK_COMPLETE = "on_chunk_complete"
    ON_ERROR = "on_error"
    ON_PROGRESS = "on_progress"


@dataclass
class HookContext:
    """What a hook is told; fields that mean nothing for an event keep their defaults.

    Attributes:
        event: Why it is called.
        timestamp: Seconds since 1970.
        n_jobs: Workers that were recommended.
        chunksize: Calls a chunk that were recommended.
        total_items: Number of items, or None where nobody knows.
        items_completed: Calls that have ended.
        items_remaining: Those that have not, where the total is known.
        percent_complete: 0 to 100, where the total is known.
        elapsed_time: Seconds since the calls began; what came before (the sample) is not in it.
        estimated_time_remaining: Seconds, where the total is known.
        throughput_items_per_sec: Calls a second.
        avg_item_time: Seconds of wall time for each call.
        worker_id: Not used by ``execute``.
        worker_count: Not used by ``execute``.
        chunk_id: Which run of results it is, from 0.
        chunk_size: How many results it has.
        chunk_time: Seconds since the run before.
        error: Of a call that failed.
        error_message: The same as text.
        error_traceback: The same with its traceback.
        results_count: Results at the end.
        results_size_bytes: Not used by ``execute``.
        metadata: ``executor_type`` and ``estimated_speedup``.
    """

    event: HookEvent
    timestamp: float = field(default_factory=time.time)
    n_jobs: int | None = None
    chunksize: int | None = None
    total_items: int | None = None
    items_completed: int = 0
    items_remaining: int = 0
    percent_complete: float = 0.0
    elapsed_time: float = 0.0
    estimated_time_remaining: float = 0.0
    throughput_items_per_sec: float = 0.0
    avg_item_time: float = 0.0
    worker_id: int | None = None
    worker_count: int = 0
    chunk_id: int | None = None
    chunk_size: int | None = None
    chunk_time: float = 0.0
    error: BaseException | None = None
    error_message: str | None = None
    error_traceback: str | None = None
    results_count: int = 0
    results_size_bytes: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)


Hook = Callable[[HookContext], object]


class HookManager:
    """Keeps hooks and calls them, in the order of their registration. Any thread.

    A hook that raises is counted, logged, and disturbs nothing.

    Args:
        verbose: Write to stderr what hooks raise.
    """

    def __init__(self, verbose: bool = False) -> None:  # noqa: FBT001, FBT002 - the contract's order
        self._verbose = verbose
        self._lock = threading.Lock()
        self._hooks: dict[HookEvent, list[Hook]] = {event: [] for event in HookEvent}
        self._calls: Counter[HookEvent] = Counter()
        self._errors: Counter[HookEvent] = Counter()

    def register(self, event: HookEvent, callback: Hook) -> None:
        """Call ``callback`` at ``event`` from now on; once, however often it is registered."""
        check_event(event)
        if not callable(callback):
            raise InvalidParameterTypeError("callback", callback, "must be callable")
        with self._lock:
            if callback not in self._hooks[event]:
                self._hooks[event].append(callback)

    def unregister(self, event: HookEvent, callback: Hook) -> bool:
        """Forget a hook; return whether it was there."""
        check_event(event)
        with self._lock:
            if callback not in self._hooks[event]:
                return False
            self._hooks[event].remove(callback)
            return True

    def unregister_all(self, event: HookEvent | None = None) -> int:
        """Forget all hooks, or all of one event; return how many there were."""
        chosen = choose_events(event)
        with self._lock:
            count = sum(len(self._hooks[each]) for each in chosen)
            for each in chosen:
                self._hooks[each] = []
            return count

    def trigger(self, context: HookContext | HookEvent, legacy_context: HookContext | None = None) -> None:
        """Call the hooks of ``context.event``; ``trigger(event, context)`` does the same."""
        if isinstance(context, HookEvent):
            if legacy_context is None or legacy_context.event is not context:
                raise InvalidParameterError("context", legacy_context, "must be of the event that is triggered")
            context = legacy_context
        elif not isinstance(context, HookContext):
            raise InvalidParameterTypeError("context", context, "must be a HookContext")
        elif legacy_context is not None:
            raise InvalidParameterError("context", legacy_context, "must be given once")
        event = context.event
        with self._lock:
            hooks = list(self._hooks[event])
        for hook in hooks:
            self._call(hook, context)

    def _call(self, hook: Hook, context: HookContext) -> None:
        failure: Exception | None = None
        try:
            hook(context)
        except Exception as error:  # noqa: BLE001 - a hook's own failure is no reason to stop what it watches
            failure = error
            logger.warning("amorsize_executor: a hook for %s raised %r", context.event.value, error)
            if self._verbose:
                whisper(f"A hook for {context.event.value} raised {error!r}")
        with self._lock:
            self._calls[context.event] += 1
            self._errors[context.event] += failure is not None

    def has_hooks(self, event: HookEvent) -> bool:
        """Tell whether anybody listens."""
        check_event(event)
        return bool(self._hooks[event])

    def get_hook_count(self, event: HookEvent | None = None) -> int:
        """Count the hooks of an event, or all."""
        return sum(len(self._hooks[each]) for each in choose_events(event))

    def get_stats(self) -> dict[str, dict[str, int]]:
        """Return ``hook_counts``, ``call_counts`` and ``error_counts`` by event; of errors only where there are any."""
        with self._lock:
            return {
                "hook_counts": {event.value: len(hooks) for event, hooks in self._hooks.items()},
                "call_counts": {event.value: self._calls[event] for event in HookEvent},
                "error_counts": {event.value: count for event, count in self._errors.items() if count},
            }


def check_event(event: object) -> None:
    """Raise for what is no event."""
    if not isinstance(event, HookEvent):
        raise InvalidParameterTypeError("event", event, "must be a HookEvent")


def choose_events(event: HookEvent | None) -> tuple[HookEvent, ...]:
    """Return one event, or all for None."""
    if event is None:
        return tuple(HookEvent)
    check_event(event)
    return (event,)


def create_progress_hook(callback: Callable[[float, int, int], object], min_interval: float = 1.0) -> Hook:
    """Return a hook that calls ``callback(percent, done, total)``, every ``min_interval`` seconds and at 100."""
    is_due = Interval(min_interval)

    def tell(context: HookContext) -> None:
        if is_due(context) or context.percent_complete >= 100.0:  # noqa: PLR2004 - percent
            callback(context.percent_complete, context.items_completed, context.total_items or 0)

    return tell


def create_timing_hook(callback: Callable[[str, float], object]) -> Hook:
    """Return a hook that calls ``callback(event, elapsed seconds)``."""
    return lambda context: callback(context.event.value, context.elapsed_time)


def create_throughput_hook(callback: Callable[[float], object], min_interval: float = 5.0) -> Hook:
    """Return a hook that calls ``callback(calls a second)``, at most every ``min_interval`` seconds."""
    is_due = Interval(min_interval)

    def tell(context: HookContext) -> None:
        if context.throughput_items_per_sec > 0 and is_due(context):
            callback(context.throughput_items_per_sec)

    return tell


def create_error_hook(callback: Callable[[BaseException, str | None], object]) -> Hook:
    """Return a hook that calls ``callback(error, traceback)`` where there is an error."""

    def tell(context: HookContext) -> None:
        if context.error is not None:
            callback(context.error, context.error_traceback)

    return tell


class Interval:
    """Says yes at most every so many seconds, by the contexts' own times."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: float | None = None

    def __call__(self, context: HookContext) -> bool:
        """Tell whether it is time again."""
        if self._last is not None and context.timestamp - self._last < self._seconds:
            return False
        self._last = context.timestamp
        return True
