"""Taking unstarted calls back from busy workers, for those that have nothing to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amorsize_executor.engine.crew import Worker
    from amorsize_executor.engine.dispatcher import Engine

SETTLE_S = 0.0002
"""After this long a store to shared memory has been seen by every core."""

_WORTH_S = 0.001
"""A tail that takes longer is worth moving."""

_SLOW_START_S = 0.005
"""A worker that has not begun a chunk after so long loses part of it."""


class Balance:
    """Shortens chunks. Guarded by the engine's lock."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def even_out(self) -> None:
        """Ask the most loaded workers for half of what they have not started, where others could do it sooner."""
        engine = self._engine
        if engine.queue.count or not engine.backend.capabilities.can_stop_early:
            return
        loaded = [worker for worker in engine.workers.values() if not worker.is_giving_back and worker.unstarted() > 0]
        if not loaded:
            return
        idle = sum(worker.is_free for worker in engine.workers.values())
        if not idle and not self._could_grow(loaded):  # neither changes while nobody tells us anything
            return
        engine.tick()
        loaded.sort(key=lambda worker: worker.unstarted(), reverse=True)
        for worker in loaded[: max(1, idle)]:
            if self._is_worth_taking(worker):
                self._ask_back(worker)

    def _could_grow(self, loaded: list[Worker]) -> bool:
        """Tell whether more workers would be started if calls were taken back for them."""
        engine = self._engine
        current = len(engine.workers)
        backlog = sum(worker.unstarted() for worker in loaded) + current
        wanted = engine.tuner.wanted_workers(now_s=time.monotonic(), current=current, busy=current, backlog=backlog)
        return wanted > current

    def _is_worth_taking(self, worker: Worker) -> bool:
        """Tell whether a worker's tail will take longer than moving it, or its running call already does."""
        running, started_ns, _finished = worker.link.progress()
        if running < worker.in_hand[0][0]:
            return time.monotonic() - worker.sent_at > _SLOW_START_S
        if time.monotonic_ns() - started_ns > _WORTH_S * 1e9:
            return True
        spans = (span for number, span in worker.in_hand if number + len(span) > running)
        profiles = (self._engine.tuner.profile(span.source.function.key) for span in spans)
        call_s = next((profile.call_s for profile in profiles if profile is not None), 0.0)
        return worker.unstarted() * call_s > _WORTH_S

    def recall(self, worker: Worker) -> None:
        """Take back all that a worker has not started."""
        running, _started_ns, _finished = worker.link.progress()
        stop = max(running + 1, worker.in_hand[0][0])
        if worker.stop is None or stop < worker.stop:
            self._stop_before(worker, stop)

    def _ask_back(self, worker: Worker) -> None:
        """Take back half of what a worker has not started."""
        first, (last, span) = worker.in_hand[0][0], worker.in_hand[-1]
        end = last + len(span)
        self._stop_before(worker, end - (end - max(worker.link.progress()[0], first)) // 2)

    def _stop_before(self, worker: Worker, stop: int) -> None:
        """Tell a worker where to stop; the calls from there on come back a moment later."""
        worker.stop = stop
        worker.link.stop_before(stop)
        self._engine.counts["taken back"] += 1
        self._engine.call_later(SETTLE_S, lambda: self._get_back(worker, stop))

    def _get_back(self, worker: Worker, stop: int) -> None:
        """Requeue what a worker has certainly not started: beyond the stop, and beyond what it runs."""
        if worker.stop == stop and worker.in_hand:
            running = worker.link.progress()[0]
            self._engine.requeue(worker.claim_from(max(stop, running + 1)), "taken back")
