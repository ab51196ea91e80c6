"""The port between the engine and the places where workers live.

A backend makes workers and carries chunks to them. Everything it has to tell, it tells ``WorkerEvents`` in the
dispatcher's thread: from a callback of the ``Reactor``, or through ``Reactor.call_soon`` from any other thread.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from amorsize_executor.events import Listener
from amorsize_executor.records import Lane, Measurement
from amorsize_executor.wire.functions import Function


class Capabilities(NamedTuple):
    """What a backend can do; an option that needs more is refused at construction.

    Attributes:
        can_kill: A worker can be stopped in the middle of a call.
        can_stop_early: Calls of a chunk that have not started can be taken back.
        isolates: A call that crashes the interpreter leaves the others unharmed.
        reports_running: It is known which call of a chunk runs.
        shares_memory: Calls see the caller's objects themselves; nothing is pickled.
        can_recycle: Workers can be replaced after a number of calls.
    """

    can_kill: bool = False
    can_stop_early: bool = False
    isolates: bool = False
    reports_running: bool = False
    shares_memory: bool = False
    can_recycle: bool = False


class Group(NamedTuple):
    """Consecutive calls of a chunk that share a function and a way of being called."""

    function: Function
    style: int
    first: int
    items: list[Any]


FLUSH_NS = 50_000_000
"""Work after which finished calls go home: each time, who hears of them takes a processor from those who work."""


class Chunk(NamedTuple):
    """Calls that travel together to one worker, numbered in the order of their running."""

    number: int
    first: int
    groups: list[Group]
    stop_after_errors: int = 0
    flush_ns: int = FLUSH_NS


class ChunkReport(NamedTuple):
    """What a worker says at the end of a chunk."""

    number: int
    next_number: int
    measures: Sequence[tuple[int, Measurement]] = ()
    memory_growth: int = 0
    gap_s: float = 0.0


class WorkerEvents(Protocol):
    """What the engine wants to hear. Runs in: the dispatcher thread, or a thread that holds the engine's lock."""

    def function_in_sight(self) -> Callable[..., Any] | None:
        """Return the function that workers will call first, if it is known."""

    def worker_ready(self, worker: int, pid: int) -> None:
        """The worker's initializer has ended; it takes chunks."""

    def outcomes_arrived(self, worker: int, first: int, values: list[Any], errors: dict[int, BaseException]) -> None:
        """Calls ``first``, ``first + 1``, ... have ended; ``errors`` holds those without a value, by offset."""

    def chunk_ended(self, worker: int, report: ChunkReport) -> None:
        """The worker is idle; calls from ``report.next_number`` on have not run."""

    def initializer_failed(self, worker: int, error: BaseException) -> None:
        """The worker's initializer raised; the worker ends."""

    def unreadable(self, worker: int, error: BaseException) -> None:
        """A call's arguments or its result could not be unpickled; its outcome, an error, follows."""

    def spawn_refused(self, worker: int, reason: str) -> None:
        """The system has no room for a worker; its death follows."""

    def worker_died(self, worker: int, exit_status: int | None, *, by_itself: bool) -> None:
        """The worker is gone; ``by_itself`` is False where it was killed with its ancestor or by us."""


class Reactor(Protocol):
    """The dispatcher's event loop."""

    def watch(self, descriptor: int, callback: Callable[[int], None], *, write: bool = False) -> None:
        """Call ``callback(events)`` when the descriptor is ready; a second call changes what is watched."""

    def unwatch(self, descriptor: int) -> None:
        """Forget a descriptor; unknown ones are ignored."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` in the dispatcher's thread. Any thread; never blocks."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Run ``callback`` in the dispatcher's thread after ``seconds``. Dispatcher only."""


class WorkerLink(Protocol):
    """The parent's end of one worker.

    ``account`` is the process id and thread id under which the system accounts for the worker; None where it does not.
    """

    @property
    def pid(self) -> int: ...  # noqa: D102

    @property
    def account(self) -> tuple[int, int] | None: ...  # noqa: D102

    def send(self, chunk: Chunk) -> list[tuple[int, BaseException]]:
        """Ship a chunk without blocking; return (number, error) of the calls that could not be encoded."""

    def stop_before(self, number: int) -> None:
        """Ask the worker not to start the call ``number`` or any later one; takes effect at once."""

    def clear_stop(self) -> None:
        """Take back ``stop_before``; only while no chunk is with the worker."""

    def progress(self) -> tuple[int, int, int]:
        """Return (running call, its start in monotonic ns, one past the last finished call)."""

    def retire(self) -> None:
        """Ask the worker to end once it is idle."""

    def kill(self) -> None:
        """End the worker now."""


class Backend(Protocol):
    """A place where workers live."""

    name: str
    lane: Lane
    capabilities: Capabilities

    def open(self, reactor: Reactor, events: WorkerEvents, emit: Listener) -> None:
        """Get ready. Runs in: the caller's thread, before the dispatcher's thread exists."""

    def spawn(self, worker: int) -> WorkerLink:
        """Start a worker and return its link at once; chunks may be sent before it is ready."""

    def foresee_start_up(self) -> float | None:
        """Return about how many seconds the first worker takes to be ready; None where that is next to nothing."""

    def forsake(self) -> None:
        """End at once what is only about to have workers, and report their deaths; nobody needs them any more.

        Does nothing where a user's code may be running, or some worker has begun.
        """

    def processes(self) -> dict[int, Any]:
        """Return the workers' processes by process id, with ``join``, ``terminate``, ``kill`` and ``is_alive``."""

    def close(self, then: Callable[[], None]) -> None:
        """Let go of everything; all workers have ended.

        Calls ``then`` in the dispatcher's thread when nothing is left.
        """
