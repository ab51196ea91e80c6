"""The facts that travel between the layers, as frozen records.

Words: a *call* is one invocation; a *chunk* is what travels together; an *outcome* is a value or an
error with its timing; a *lane* is where calls run (caller, threads, processes, cluster); a *plan* is
lane, workers and chunk size with the reason.
"""

from enum import Enum
from typing import NamedTuple


class Lane(str, Enum):
    """Where calls run."""

    CALLER = "caller"
    THREADS = "threads"
    PROCESSES = "processes"
    CLUSTER = "cluster"

    def __str__(self) -> str:
        return self.value


class Measurement(NamedTuple):
    """A run of calls of one function, measured where it ran.

    Attributes:
        calls: Number of calls, at least 1.
        wall_s: Seconds from the first call's start to the last call's end.
        cpu_s: Seconds of processor time, of the process and of the children that it waited for.
        waiting_s: Seconds neither on a processor nor in line for one: wall - cpu - run-queue delay, >= 0.
        squares_s2: Sum over the calls of the squared wall time, in square seconds (for the variance).
        longest_s: The longest call's wall time, in seconds.
        bytes_in: Bytes of pickled arguments.
        bytes_out: Bytes of pickled results.
        memory_growth: Peak bytes of resident memory above the worker's baseline; 0 when unknown.
        lane: Where the calls ran.
        beside_s: Seconds that the worker spent beside the calls, on what they took and what came out; 0 when unknown.
        is_plain: Items and results are of builtin scalar types, many of which travel in one pickle; False when unknown.
    """

    calls: int
    wall_s: float
    cpu_s: float
    waiting_s: float
    squares_s2: float
    longest_s: float
    bytes_in: int = 0
    bytes_out: int = 0
    memory_growth: int = 0
    lane: Lane = Lane.PROCESSES
    beside_s: float = 0.0
    is_plain: bool = False


class Plan(NamedTuple):
    """What the executor is doing at the moment, and why.

    Attributes:
        lane: Where calls run of the function that was asked for last.
        workers: Number of workers wanted as soon as there are calls for them; 0 in the caller lane.
        chunksize: Calls per chunk, at least 1; within a factor of two, as decisions are.
        reason: One sentence.
        predicted_s: Predicted seconds for the rest of the work, or None where its length is unknown or nothing is left.
        serial_s: Predicted seconds of plain serial code for the same, or None.
    """

    lane: Lane
    workers: int
    chunksize: int
    reason: str
    predicted_s: float | None = None
    serial_s: float | None = None


class Decision(NamedTuple):
    """A change of plan.

    Attributes:
        at_s: Seconds since the executor started.
        what: The thing that changed: ``"lane"``, ``"workers"`` or ``"chunksize"``.
        before: Its value before, as text.
        after: Its value after, as text.
        reason: One sentence.
        function: The function that it is about, by name; empty for ``"workers"``, which all functions share.

    Of one function (and of the workers), each decision's ``before`` is the ``after`` of the one before it.
    """

    at_s: float
    what: str
    before: str
    after: str
    reason: str
    function: str = ""


class Experience(NamedTuple):
    """What is known of a function before its first call here: from an earlier run, or from a saved plan.

    Attributes:
        source: Where it is from, as the beginning of a sentence: ``"A saved plan"``.
        measured: Some of its calls in sum; None where none were measured.
        workers: Workers that served it, >= 1; None where it needed none, or nobody knows.
        chunksize: Calls a chunk that it had, >= 1; None where nobody knows.
    """

    source: str
    measured: Measurement | None = None
    workers: int | None = None
    chunksize: int | None = None


class Profile(NamedTuple):
    """What is known of one function from its calls of late.

    Attributes:
        function: Its name.
        calls: Calls measured in this run.
        mean_s: Mean seconds a call.
        deviation_s: Standard deviation of a call's seconds.
        longest_s: Seconds of the longest call.
        waiting_share: Share of the time neither on a processor nor in line for one, 0 to 1.
        cpu_share: Processor seconds per second of wall time; above 1 where calls use several threads.
        bytes_in: Mean bytes of a call's arguments.
        bytes_out: Mean bytes of a call's result.
        memory_growth: Peak bytes by which a worker grew.
        surprises: How often the function turned out to be unlike before.
        lane: Where it was measured last.
    """

    function: str
    calls: int
    mean_s: float
    deviation_s: float
    longest_s: float
    waiting_share: float
    cpu_share: float
    bytes_in: float
    bytes_out: float
    memory_growth: int
    surprises: int
    lane: Lane
