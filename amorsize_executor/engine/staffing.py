"""How many workers there are: they come and go as the tuner wishes, and join those that only wait."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from amorsize_executor import events as ev
from amorsize_executor.engine.crew import Worker
from amorsize_executor.engine.relief import BlockWatch
from amorsize_executor.tuning.concurrency import MOST_AT_ONCE

if TYPE_CHECKING:
    from amorsize_executor.engine.dispatcher import Engine


class Staffing:
    """Starts and retires workers. Guarded by the engine's lock.

    Attributes:
        workers: All that there are, by number, those that are starting or ending included.
    """

    def __init__(self, engine: Engine) -> None:
        self.workers: dict[int, Worker] = {}
        self._engine = engine
        self._last = 0
        self._room = MOST_AT_ONCE
        self._blocked = BlockWatch()
        self._is_watching = False
        self._relieved = 0

    def idle(self) -> list[Worker]:
        """Return workers that can take a chunk; those that are starting only when no caller helps meanwhile."""
        engine = self._engine
        takes_early = engine.is_shut_down or not engine.settings.may_help
        return [
            worker
            for worker in self.workers.values()
            if not (worker.is_busy or worker.is_retiring) and (worker.is_ready or takes_early)
        ]

    def adjust(self) -> None:
        """Have as many workers as the tuner thinks right for what waits and runs."""
        engine = self._engine
        busy = sum(worker.is_busy for worker in self.workers.values())
        in_hand = sum(worker.calls_in_hand for worker in self.workers.values())
        head = engine.queue.head()
        backlog = None if head is not None and engine.remaining(head) is None else engine.queue.count + in_hand
        current = sum(not worker.is_retiring for worker in self.workers.values())
        now = time.monotonic()
        wanted = engine.tuner.wanted_workers(now_s=now, current=current, busy=busy, backlog=backlog)
        if current < wanted <= engine.tuner.machine.cores:  # a caller in a long call has a processor of its own
            occupied = sum(claim.overruns(now) for claim in engine.claims)
            wanted = max(wanted - occupied, current, engine.tuner.limits.min_workers)
        losses = engine.losses
        wanted = min(max(wanted, self._relieved, min(1, len(losses.suspects))), losses.room(self._room))
        for _ in range(wanted - current):
            self.spawn()
        if wanted < current:
            idle = [worker for worker in self.idle() if worker.is_ready]
            for worker in idle[: current - wanted]:
                self.retire(worker, "fewer workers do the work as fast")

    def relieve(self) -> None:
        """Start more workers where calls wait and all that there are only wait inside theirs."""
        if any(not (worker.is_busy or worker.is_retiring) for worker in self.workers.values()):
            return
        engine = self._engine
        crew = [worker for worker in self.workers.values() if not worker.is_retiring]
        waiting = engine.queue.count + len(engine.losses.suspects) + sum(worker.unstarted() for worker in crew)
        if not waiting:
            return
        room = min(min(engine.tuner.most_workers, self._room) - len(crew), len(crew), waiting)
        if room <= 0:
            return
        if self._blocked.all_blocked(crew, time.monotonic()):
            self._relieved = len(crew) + room  # which stay while calls wait, whatever the tuner says
            for _ in range(room):
                self.spawn()
        if not self._is_watching:
            self._is_watching = True
            engine.call_later(self._blocked.pause_s, self._watched)

    def _watched(self) -> None:
        self._is_watching = False

    def end_relief(self) -> None:
        """Let the tuner alone say again how many workers there are: nothing waits."""
        self._relieved = 0

    def spawn(self) -> None:
        """Start a worker; where the system has no room for one more, those that are there do the work.

        Where there are none, what waits fails with the system's error, and the next call tries anew.
        """
        if len(self.workers) >= MOST_AT_ONCE:  # one that ends makes room, and we look again
            return
        engine = self._engine
        self._last += 1
        number = self._last
        try:
            link = engine.backend.spawn(number)
        except (OSError, RuntimeError) as error:  # RuntimeError: threads, and forks while the interpreter exits
            if self.workers:
                self.limit_room(len(self.workers), str(error))
            elif not engine.is_started:  # in the caller's thread, which hears of it at once
                raise
            else:
                kind, args = type(error), error.args
                for span in engine.take_waiting():
                    engine.fail(span, lambda: kind(*args))
        else:
            self.workers[number] = Worker(number, link, time.monotonic())

    def limit_room(self, room: int, reason: str) -> None:
        """Have no more workers than so many from now on."""
        if self._room > room:
            self._room = room
            level = logging.INFO if self._engine.is_shut_down else logging.WARNING
            ev.logger.log(level, "amorsize_executor: no room for more than %d workers: %s", room, reason)

    def retire(self, worker: Worker, reason: str) -> None:
        """Ask a worker to end once it is idle."""
        worker.is_retiring = True
        worker.link.retire()
        self._engine.counts["workers retired"] += 1
        self._engine.emit(ev.WorkerRetired(worker.number, worker.pid, reason))
