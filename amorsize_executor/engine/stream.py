"""Streams: the many calls of one ``map`` or ``imap``.

Outcomes arrive in runs of consecutive calls and are kept as such; no future is made per call. An ordered stream
hands out the run that starts at its head; an unordered one whatever is there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from functools import cached_property
from typing import TYPE_CHECKING, Any

from amorsize_executor.engine.span import Span
from amorsize_executor.wire.functions import Function

if TYPE_CHECKING:
    from amorsize_executor.engine.company import Company
    from amorsize_executor.engine.dispatcher import Engine
    from amorsize_executor.engine.pipeline import Pipeline


class Stream:
    """The calls of one map: the source of their spans and the keeper of their outcomes.

    Args:
        engine: Runs the calls.
        function: What is called.
        style: How an item becomes a call.
        priority: Higher runs earlier.
        is_ordered: Results come in the order of the items.
        chunksize: Calls that travel together, or None for the tuner's choice.
        pipeline: The layers of middleware that the calls pass, or None.
        key: What the user names the map by.
        ordinal: Which map of its executor it is, counted from 0.
    """

    def __init__(
        self,
        engine: Engine,
        function: Function,
        style: int,
        priority: int,
        *,
        is_ordered: bool,
        chunksize: int | None,
        pipeline: Pipeline | None = None,
        key: Any = None,
        ordinal: int | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.key = key
        self.ordinal = ordinal
        self.engine = engine
        self.function = function
        self.style = style
        self.priority = priority
        self.chunksize = chunksize
        self.is_ordered = is_ordered
        self.is_lazy = False
        self.is_held = False
        self.is_closed = False
        self._is_abandoned = False
        self._is_waited_for = False  # by a consumer that may help
        self._is_called_back = False
        self.listens = True  # for being called back
        self.asked = 0  # calls handed to the engine
        self.batch = 1  # calls that a helping caller claims next
        self.helped_s = 0.0  # of processor time that callers have spent on it
        self._cancelled: list[tuple[int, int]] = []
        self.was_judged = False  # by the dispatcher, after its caller had helped for a while
        self.company: Company | None = None  # of the helping caller
        self.had_company = False
        self.spans: deque[Span] = deque()  # where the helping caller finds calls
        self._runs: dict[int, tuple[list[Any], dict[int, BaseException]]] = {}
        self._loose: deque[tuple[list[Any], dict[int, BaseException]]] = deque()
        self._head = 0
        self._lock = threading.RLock()  # taken in one step: Ctrl-C inside a condition's own ``with`` leaves it locked
        self._changed = threading.Condition(self._lock)

    # --- as a source; runs in the dispatcher thread, or in the helping caller's ---

    def is_wanted(self) -> bool:
        """Tell whether the consumer still wants results."""
        return not self.is_closed

    def begin(self) -> bool:
        """Tell whether the consumer still wants results."""
        return not self.is_closed

    def note_place(self, span: Span) -> None:
        """Nothing to do: a call of a map is not cancelled by itself."""

    def deliver(self, position: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Keep a run of outcomes and wake the consumer if it waits for it."""
        with self._lock:
            if self.is_closed or self._is_abandoned:
                return
            if self.is_ordered:
                self._runs[position] = values, errors
                if position != self._head:
                    return
            else:
                self._loose.append((values, errors))
            self._changed.notify_all()

    def cancel_calls(self, position: int, count: int) -> None:
        """Note that calls will never run."""
        with self._lock:
            self._cancelled.append((position, position + count))
            self._changed.notify_all()

    # --- for the consumer ---

    def ask(self, items: list[Any]) -> None:
        """Hand calls to the engine."""
        if not (self.engine.is_started or self.function.leaves_no_trace_on(items)):
            self.engine.start()
        span = Span(self, self.asked, items)
        while self.spans and not len(self.spans[0]):
            self.spans.popleft()
        self.engine.enqueue(span)
        self.spans.append(span)  # now that it was not refused: what is here, the helping caller runs
        self.asked += len(items)

    @cached_property
    def may_be_shared(self) -> bool:
        """Whether threads of this process may run the calls at the same time. Under the engine's lock."""
        spans = [span for span in self.spans if len(span)]
        if self.is_lazy or not self.function.may_be_shared([span.items[span.low] for span in spans]):
            return False
        return all(self.function.may_be_shared(span.arguments()) for span in spans)

    def has_ready(self) -> bool:
        """Tell whether ``take`` would return at once."""
        return self._head in self._runs if self.is_ordered else bool(self._loose)

    def wait_for_run(self) -> bool:
        """Wait until ``take`` would return or raise at once, and then return True; False if the caller is to help."""
        with self._lock:
            self._is_waited_for = True
            try:
                while not (self.has_ready() or self.is_closed or self._is_cancelled()):
                    if self._is_called_back:
                        return False
                    self._changed.wait()
                return True
            finally:
                self._is_waited_for = self._is_called_back = False

    def call_back(self) -> bool:
        """Have a consumer that only waits help instead; tell whether there is one. Runs in: the dispatcher thread."""
        with self._lock:
            self._is_called_back = self._is_waited_for and self.listens
            self._changed.notify_all()
            return self._is_called_back

    def take(self, deadline: float | None) -> tuple[list[Any], dict[int, BaseException]]:
        """Wait for the next run of outcomes and remove it.

        Raises:
            concurrent.futures.TimeoutError: It was not there before ``deadline`` (monotonic seconds).
            CancelledError: The executor was shut down with ``cancel_futures`` before the calls ran.
        """
        with self._lock:
            while not self.has_ready():
                if self.is_closed or self._is_cancelled():
                    raise CancelledError
                if not self._changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    raise FuturesTimeoutError
            values, errors = self._runs.pop(self._head) if self.is_ordered else self._loose.popleft()
            self._head += len(values)
            return values, errors

    def _is_cancelled(self) -> bool:
        """Tell whether what the consumer waits for was cancelled."""
        if self.is_ordered:
            return any(begin <= self._head < end for begin, end in self._cancelled)
        return self._head + sum(end - begin for begin, end in self._cancelled) == self.asked

    def close(self, *, wake: bool = True) -> None:
        """Forget what is there and what comes; calls that have not started never will. Never blocks for long.

        Runs in: any thread, ``__del__`` included; so it takes no lock unless ``wake`` is asked for.
        """
        self.is_closed = True
        for span in list(self.spans):
            self.engine.note_closed(span)
        if not wake:
            self._forget()
            return
        with self._lock:  # another thread may be about to take what is there
            self._forget()
            self._changed.notify_all()

    def abandon(self) -> None:
        """Run what was asked for, but keep no results. Takes no lock, for ``__del__``."""
        self._is_abandoned = True
        self._forget()

    def _forget(self) -> None:
        self._runs.clear()
        self._loose.clear()
