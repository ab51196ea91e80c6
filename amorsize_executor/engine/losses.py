"""What is lost when a worker dies: at most the call that it ran, and only if that call kills again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amorsize_executor import events as ev
from amorsize_executor.errors import WorkerDiedError, describe_exit

if TYPE_CHECKING:
    from amorsize_executor.engine.crew import Worker
    from amorsize_executor.engine.dispatcher import Engine
    from amorsize_executor.engine.span import Span

_STILLBORN = 10
"""So many workers in a row may die before they are ready; then the executor gives up."""

_FIRST_STILLBORN = 3
"""The same as long as no worker was ever ready: then they all die of the same."""


_SIGKILLED = -9


class Losses:
    """Decides what becomes of a dead worker's calls. Guarded by the engine's lock.

    Attributes:
        suspects: Calls that were running when their worker died; each runs again alone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.suspects: deque[Span] = deque()
        self._deaths: dict[tuple[Any, int], int] = {}
        self._stillborn = 0
        self._was_alive = False

    def note_life(self) -> None:
        """Note that a worker got ready, or has run a chunk."""
        self._stillborn, self._was_alive = 0, True

    def room(self, most: int) -> int:
        """Return how many workers there may be: where the first ones die, or may well, one shows what becomes of all.

        Args:
            most: As many as there may be otherwise.
        """
        if self._was_alive or not (self._stillborn or self._suspicion):
            return most
        return 1 if self._stillborn else min(most, _FIRST_STILLBORN)

    @property
    def _suspicion(self) -> str:
        """Of what workers may die that never get ready, in sentences."""
        return str(getattr(self._engine.backend, "suspicion", ""))

    def forget(self, span: Span) -> None:
        """Forget the deaths that delivered calls have caused."""
        if self._deaths:
            for position in range(span.start, span.start + len(span)):
                self._deaths.pop((span.source, position), None)

    def bury(self, worker: Worker, exit_status: int | None, *, by_itself: bool) -> None:
        """Put a dead worker's calls back, but for the one that may have killed it."""
        engine, settings = self._engine, self._engine.settings
        running, _started, finished = worker.link.progress()
        suspect = running if running >= finished else -1
        if suspect < 0 and worker.is_ready and worker.in_hand and exit_status is not None and exit_status > 0:
            suspect = worker.in_hand[0][0]  # it has ended itself over what it was sent: there may be no room for it
        is_suspect = any(number <= suspect < number + len(span) for number, span in worker.in_hand)
        if not worker.is_killed and worker.failure is None:
            engine.counts["workers lost"] += 1
            engine.emit(ev.WorkerLost(worker.number, worker.link.pid, exit_status, by_itself, is_suspect))
        if engine.broken is not None:
            engine.fail_all(worker.claim_from(0))
            return
        if by_itself and self._is_the_end(worker, exit_status):
            engine.fail_all(worker.claim_from(0))
            return

        def died(deaths: int) -> Callable[[], BaseException]:
            return lambda: WorkerDiedError(worker.link.pid, exit_status, deaths)

        if settings.on_worker_death == "fail":
            begun = max(running, suspect) + 1
            for _number, span in list(worker.claim(0, begun)):
                engine.fail(span, died(1))
        elif is_suspect and by_itself and not worker.is_killed:
            for _number, span in list(worker.claim(suspect, 1)):
                self._suspect(span, died)
        engine.requeue(worker.claim_from(0), "worker died")

    def _is_the_end(self, worker: Worker, exit_status: int | None) -> bool:
        """Break the executor down if workers never get ready, or if the user wants it; tell whether it was done."""
        engine, how = self._engine, describe_exit(exit_status)
        self._stillborn += not worker.is_ready
        # One that the system had no room for, or that somebody killed, says nothing of the others.
        was_killed = worker.is_killed or exit_status == _SIGKILLED
        most = _STILLBORN if self._was_alive or was_killed else _FIRST_STILLBORN
        if self._stillborn >= most:
            told = f"{self._stillborn} workers in a row died before they were ready; the last one {how}"
            engine.break_down(f"{told}. {self._suspicion}".removesuffix(". "))
        elif engine.settings.on_worker_death == "break" and not worker.is_stopped:
            engine.break_down(f"A worker process {how} while the future was running or pending")
        return engine.broken is not None

    def _suspect(self, span: Span, died: Callable[[int], Callable[[], BaseException]]) -> None:
        """Run a call again alone, or give it up if it has taken too many workers with it."""
        key = (span.source, span.start)
        deaths = self._deaths[key] = self._deaths.get(key, 0) + 1
        if deaths > self._engine.settings.worker_death_retries:
            self._engine.fail(span, died(deaths))
        else:
            self._engine.retract(span, "worker died")
            self.suspects.append(span)
