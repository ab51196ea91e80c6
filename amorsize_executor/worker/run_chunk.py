"""Running calls one after the other, wherever that is: a worker process, a thread, a cluster's task.

The loop knows nothing of pipes: it asks a control line where to stop and tells a recorder what came out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from amorsize_executor.worker.control_word import FINISHED, RUNNING, STARTED_NS, STOP

FRAMES_OF_OURS = 1
"""Frames of this module at the top of a call's traceback."""


class Recorder(Protocol):
    """Takes what calls end with, in the order of their numbers."""

    def value(self, value: Any, started_ns: int) -> int:
        """Note a call's result; return the time at which the next call may start (monotonic ns)."""
        ...

    def error(self, error: BaseException, started_ns: int) -> int:
        """Note a call's exception; return the time at which the next call may start (monotonic ns)."""
        ...


def run_chunk(
    invoke: Callable[[Any], Any],
    items: Iterator[Any],
    first: int,
    count: int,
    line: Any,
    recorder: Recorder,
    stop_after_errors: int = 0,
) -> int:
    """Call ``invoke(item)`` for each item until the line says stop; return the number of calls that ran.

    Args:
        invoke: The function.
        items: Their arguments; where ``next`` raises, that call ends with the error, and the next one goes on.
        first: The first call's number.
        count: How many calls.
        line: The worker's control line.
        recorder: Where outcomes go.
        stop_after_errors: End after so many consecutive errors; 0 means never.
    """
    errors_in_a_row = 0
    note = recorder.value
    started = time.monotonic_ns()
    for number in range(first, first + count):
        line[STARTED_NS] = started  # first, so that nobody takes the last call's start for this one's
        line[RUNNING] = number
        if number >= line[STOP]:
            return number - first
        try:
            value = invoke(next(items))
        except BaseException as error:  # noqa: BLE001 - a call may end with anything, SystemExit included
            started = recorder.error(error, started)
            errors_in_a_row += 1
        else:
            started = note(value, started)
            errors_in_a_row = 0
            del value
        line[FINISHED] = number + 1
        if stop_after_errors and errors_in_a_row >= stop_after_errors:
            return number + 1 - first
    return count
