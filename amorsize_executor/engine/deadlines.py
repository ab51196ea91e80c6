"""Deadlines of running calls: a call that overruns its timeout is stopped with its worker, and only it fails.

The control line tells which call runs and since when. It cannot tell of both at one moment, so the worker is first
asked not to start another call; if the same call still runs when it must have seen that, it is the right one to stop.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING

from amorsize_executor.engine.balance import SETTLE_S
from amorsize_executor.errors import CallTimeoutError
from amorsize_executor.events import CallTimedOut

if TYPE_CHECKING:
    from amorsize_executor.engine.crew import Worker
    from amorsize_executor.engine.dispatcher import Engine


class Deadlines:
    """Watches calls with a timeout, with one timer for all. Guarded by the engine's lock."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._due_s = math.inf  # when the timer rings; monotonic

    def watch(self, seconds: float) -> None:
        """Look at the workers before a call that starts now, or later, could overrun so many seconds."""
        due_s = time.monotonic() + seconds
        if due_s < self._due_s:
            self._due_s = due_s
            self._engine.call_later(seconds, self._look)

    def _look(self) -> None:
        self._due_s = math.inf
        left_s = [self._left_s(worker) for worker in list(self._engine.workers.values()) if is_timed(worker)]
        if left_s:
            self.watch(max(0.0, min(left_s)))

    def _left_s(self, worker: Worker) -> float:
        """Return the seconds until a call of a worker can overrun; one that has is about to be stopped."""
        running, started_ns, finished = worker.link.progress()
        limit_s = limit_of(worker, running) if running >= finished else 0.0
        if not limit_s:
            return worker.timeout_s
        left_s = limit_s - (time.monotonic_ns() - started_ns) * 1e-9
        if left_s > 0:
            return left_s
        worker.stop = running + 1
        worker.link.stop_before(worker.stop)
        self._engine.call_later(SETTLE_S, partial(self._stop, worker, running, limit_s))
        return worker.timeout_s

    def _stop(self, worker: Worker, number: int, limit_s: float) -> None:
        """Stop a worker if it still runs the call that has overrun; it starts no other one."""
        engine = self._engine
        running, _started_ns, finished = worker.link.progress()
        if running != number or finished > number or worker.number not in engine.workers or worker.is_killed:
            return
        engine.requeue(worker.claim_from(number + 1), "taken back")
        overdue = list(worker.claim(number, 1))
        if not overdue:  # its outcome came just now
            return
        pid = worker.pid
        worker.is_killed = worker.is_retiring = worker.is_stopped = True
        worker.link.kill()
        engine.counts["timed out"] += 1
        engine.emit(CallTimedOut(worker.number, pid, limit_s))
        engine.fail(overdue[0][1], lambda: CallTimeoutError(limit_s, pid))


def is_timed(worker: Worker) -> bool:
    """Tell whether a worker has calls with a timeout."""
    return bool(worker.timeout_s and worker.in_hand and not worker.is_killed)


def limit_of(worker: Worker, number: int) -> float:
    """Return the seconds that a call in a worker's hands may run; 0 where it is not there, or has no limit."""
    for first, span in worker.in_hand:
        if first <= number < first + len(span):
            return span.call.timeout_s if span.call is not None else 0.0
    return 0.0
