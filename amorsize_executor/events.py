"""What the layers tell the world: frozen events, and the place where listeners hear them.

Nothing in this package prints. Each layer emits an event; logging, ``report()`` and the command line listen.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

from amorsize_executor.errors import describe_exit
from amorsize_executor.wording import say_count, say_seconds

logger = logging.getLogger("amorsize_executor")


class PoolStarted(NamedTuple):
    """Workers can be had from now on; ``how`` says by which means."""

    how: str

    def __str__(self) -> str:
        return f"workers can be had, {self.how}"


class WorkerStarted(NamedTuple):
    """A worker has answered; ``start_up_s`` seconds after it was asked for."""

    worker: int
    pid: int
    start_up_s: float

    def __str__(self) -> str:
        return f"worker {self.worker} (pid {self.pid}) is ready after {say_seconds(self.start_up_s)}"


class WorkerRetired(NamedTuple):
    """A worker was stopped on purpose."""

    worker: int
    pid: int
    reason: str

    def __str__(self) -> str:
        return f"worker {self.worker} (pid {self.pid}) is stopped: {self.reason}"


class WorkerLost(NamedTuple):
    """A worker died: ``by_itself``, or with its zygote. ``suspect`` says whether a call was running in it."""

    worker: int
    pid: int
    exit_status: int | None
    by_itself: bool
    suspect: bool

    def __str__(self) -> str:
        if not self.pid:
            return f"worker {self.worker} could not be started: its zygote died"
        how = describe_exit(self.exit_status) if self.by_itself else "died with its zygote"
        return f"worker {self.worker} (pid {self.pid}) {how}"


class ZygoteLost(NamedTuple):
    """The process that forks workers died; ``replaced_by`` says what forks them now."""

    pid: int
    replaced_by: str

    def __str__(self) -> str:
        return f"the zygote (pid {self.pid}) died; workers are forked by {self.replaced_by} from now on"


class CallTimedOut(NamedTuple):
    """A call ran longer than its timeout, so its worker was stopped."""

    worker: int
    pid: int
    seconds: float

    def __str__(self) -> str:
        return f"worker {self.worker} (pid {self.pid}) is stopped: its call ran longer than {self.seconds:g} s"


class CircuitChanged(NamedTuple):
    """A circuit breaker turned from one state to another, after so many consecutive failures."""

    before: str
    after: str
    failures: int

    def __str__(self) -> str:
        after, before = (state.replace("_", " ") for state in (self.after, self.before))
        return f"a circuit breaker is {after} after it was {before} ({say_count(self.failures, 'failure')})"


Event = PoolStarted | WorkerStarted | WorkerRetired | WorkerLost | ZygoteLost | CallTimedOut | CircuitChanged
Listener = Callable[[Event], None]

LEVELS: dict[type, int] = {
    WorkerLost: logging.WARNING,
    ZygoteLost: logging.WARNING,
    CallTimedOut: logging.WARNING,
    CircuitChanged: logging.WARNING,
}


def log(event: Event) -> None:
    """Write an event to the ``amorsize_executor`` logger: what went wrong as warnings, the rest as debug."""
    # Named in the text too: where a program has configured no logging, nothing but the text is shown.
    logger.log(LEVELS.get(type(event), logging.DEBUG), "amorsize_executor: %s", event)
