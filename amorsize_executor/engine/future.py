"""The future of one submitted call: a ``concurrent.futures.Future`` whose waiting caller may help."""

from __future__ import annotations

import threading
from _thread import RLock
from collections import deque
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, NoReturn

from amorsize_executor.wire.functions import FULL, Function

if TYPE_CHECKING:
    from amorsize_executor.engine.dispatcher import Engine
    from amorsize_executor.engine.pipeline import Pipeline
    from amorsize_executor.engine.span import Span


class LightCondition(RLock, threading.Condition):  # type: ignore[misc]
    """A condition that is its own lock, and keeps no list of waiters before there is one.

    Half of what a flood of submitted calls takes is garbage collection: a plain condition is eight tracked objects.
    """

    _waiters: deque[Any] | tuple[()] = ()

    def __init__(self) -> None:
        """Make no other lock."""

    def wait(self, timeout: float | None = None) -> bool:
        """See ``threading.Condition.wait``."""
        if not self._waiters:
            self._waiters = deque()
        return threading.Condition.wait(self, timeout)

    def __repr__(self) -> str:
        return f"<LightCondition with {len(self._waiters)} waiters>"


class CallFuture(Future):  # type: ignore[type-arg]
    """A future that is the source of its own, single call.

    PENDING until its chunk ships, then RUNNING for good. ``result()`` without a timeout may run the call in the
    calling thread, if it has not started and no worker is ready; see the page "What runs where".
    """

    style = FULL
    pipeline: Pipeline | None = None
    key: Any = None
    ordinal: int | None = None

    def __init__(self, engine: Engine, function: Function, priority: int) -> None:
        # As Future's own, which would make a condition to be thrown away.
        self._condition = LightCondition()
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self.function = function
        self.priority = priority
        self._engine = engine
        self._span: Span | None = None
        self.is_held = False  # in a back-off, where a running call can be cancelled; guarded by _condition

    def __reduce__(self) -> NoReturn:
        message = "a future cannot be pickled: it belongs to its executor's process"
        raise TypeError(message)

    def result(self, timeout: float | None = None) -> Any:
        """Return the call's value, waiting for it at most ``timeout`` seconds (None: for ever).

        Raises:
            CancelledError: The call was cancelled.
            TimeoutError: It has not ended in time.
            BaseException: What the call raised.
        """
        if timeout is None and self._state == PENDING:
            self._engine.helper.run_future(self)
        try:
            value = super().result(timeout)
            if self._exception is not None:  # one whose truth value is false (cpython#132063)
                raise self._exception
            return value
        finally:
            del self  # the exception's traceback holds this frame, and the future holds the exception

    def cancel(self) -> bool:
        """Cancel the call if it has not begun to travel, or backs off; return whether it is cancelled."""
        with self._condition:
            if self.is_held and self._state == RUNNING:
                self._state = PENDING
        cancelled = super().cancel()
        if cancelled and self._state == CANCELLED:
            self._engine.note_cancelled(self)
        return cancelled

    # --- as a source ---

    def is_wanted(self) -> bool:
        """Tell whether the call was not cancelled."""
        return not self.cancelled()

    def begin(self) -> bool:
        """Go to RUNNING unless cancelled; a call that travels again is RUNNING already."""
        with self._condition:  # not acquire() and a try: Ctrl-C between the two would leave it locked for good
            self.is_held = False
            if self._state == PENDING:
                self._state = RUNNING
            if self._state in (RUNNING, CANCELLED_AND_NOTIFIED):
                return self._state == RUNNING
        return self.set_running_or_notify_cancel()

    def note_place(self, span: Span) -> None:
        """Note in which span the call waits, for cancelling it."""
        self._span = span

    def deliver(self, position: int, values: list[Any], errors: dict[int, BaseException]) -> None:  # noqa: ARG002
        """Resolve the future; a caller that was interrupted in a callback has done so."""
        self._span = None
        if self._state == FINISHED:
            return
        if errors:
            self.set_exception(errors[0])
        else:
            self.set_result(values[0])

    def tell_of_cancellation(self) -> None:
        """Wake those who wait for a future that was cancelled; once."""
        if self._state == CANCELLED:
            self.set_running_or_notify_cancel()

    def cancel_calls(self, position: int, count: int) -> None:  # noqa: ARG002
        """Cancel for the engine: the call will never run."""
        self._span = None
        with self._condition:
            if self.is_held and self._state == RUNNING:
                self._state = PENDING
        if super().cancel():
            self.tell_of_cancellation()
