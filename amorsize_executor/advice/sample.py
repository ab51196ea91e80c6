"""The sample: a few calls, run and timed in the caller's thread, each once, with results that are kept."""

from __future__ import annotations

import contextvars
import cProfile
import pickle
import pstats
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from amorsize_executor.advice.arguments import LAYERS_OF_EVERY_BACKEND, OF_EVERY_BACKEND
from amorsize_executor.engine.claim import queued_since_last_s
from amorsize_executor.records import Lane, Measurement
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.functions import travelling
from amorsize_executor.worker.recorder import cpu_seconds, peak_bytes, resident_bytes

LONGEST_S = 0.25
"""No more calls are sampled after this time: what comes then, workers may run side by side."""

WARM_UP_S = 1.0
"""A first call up to here is not counted in that time: it may be slow by imports and caches, unlike all others."""

_TRIALS = 3
_LEAST_CALL_S = 5e-8  # no call of Python takes less
_WARM_UP = 2.0
_LEAST_FOR_WARM_UP = 3
_LEAST_WAITING = 0.1
_LEAST_TELLING_S = 1e-3  # of shorter calls the processor's clock tells nothing


class Outcome(NamedTuple):
    """How a call ended: with a value, or with an error."""

    value: Any = None
    error: BaseException | None = None


class Travel(NamedTuple):
    """What pickling something took: seconds, bytes, and the error where it does not pickle."""

    seconds: float
    nbytes: int
    error: Exception | None = None


class Sample(NamedTuple):
    """Measured calls.

    Attributes:
        outcomes: How the calls ended, by the position of their items.
        durations_s: Seconds of each call that ended well, in the order of running.
        measurements: The same for a tuner; a first call that took much longer than all others (imports, caches) is
            left out.
        function: How the function pickles.
        arguments: How the items pickle, those that were run or were to be, by position.
        results: How the results pickle.
        statistics: What cProfile saw in the last call, where that was asked for.
    """

    outcomes: dict[int, Outcome]
    durations_s: list[float]
    measurements: list[Measurement]
    function: Travel
    arguments: dict[int, Travel]
    results: list[Travel]
    statistics: pstats.Stats | None = None

    @property
    def error(self) -> BaseException | None:
        """The first error of a call, or None."""
        return next((outcome.error for outcome in self.outcomes.values() if outcome.error is not None), None)


def take_sample(
    func: Callable[[Any], Any],
    ahead: list[tuple[int, Any]],
    *,
    longest_s: float = LONGEST_S,
    warm_up_s: float = WARM_UP_S,
    goes_on: bool = False,
    with_profile: bool = False,
) -> Sample:
    """Call ``func`` with each item, in this thread; stop at an error, or when ``longest_s`` have passed.

    Args:
        func: What is called.
        ahead: (position, item) of the items.
        longest_s: Seconds after which no more calls are begun.
        warm_up_s: Seconds of a first call that are not counted, if it takes no more.
        goes_on: Go on after an error.
        with_profile: Run the last call under cProfile; its time counts only where there is no other.
    """
    codec = Codec(None, into_worker=True)
    function = try_pickling(travelling(func, codec), codec)
    arguments = {position: try_pickling(item, codec) for position, item in ahead}
    overhead_s = min(_Run(return_nothing, None, None).wall_s for _ in range(_TRIALS))
    resident, peak = resident_bytes(), peak_bytes()
    outcomes: dict[int, Outcome] = {}
    runs: list[tuple[int, _Run]] = []
    profiler: cProfile.Profile | None = None
    began = time.perf_counter()
    for place, (position, item) in enumerate(ahead):
        if outcomes and time.perf_counter() - began > longest_s:
            break
        if with_profile and place == len(ahead) - 1:
            profiler = find_profiler()
        run = _Run(func, item, profiler, overhead_s)
        outcomes[position] = run.outcome
        if place == 0 and run.wall_s <= warm_up_s:
            began = time.perf_counter()
        if run.outcome.error is None:
            runs.append((position, run))
        elif not goes_on:
            break
    growth = max(0, resident_bytes() - resident)
    if peak_bytes() > peak:
        growth = max(growth, peak_bytes() - (resident or peak))  # where the one is not known, the other is all there is
    timed = runs[:-1] if profiler is not None and len(runs) > 1 else runs
    results = [try_pickling(run.outcome.value, codec) for _, run in runs]
    mean_out = sum(result.nbytes for result in results) // len(results) if results else 0
    measured = [run.measure(arguments[place].nbytes, mean_out, growth) for place, run in leave_out_warm_up(timed)]
    return Sample(
        outcomes,
        [run.wall_s for _, run in timed],
        measured,
        function,
        arguments,
        results,
        pstats.Stats(profiler) if profiler is not None else None,
    )


class _Run:
    """One call, and what it took."""

    def __init__(
        self, func: Callable[[Any], Any], item: Any, profiler: cProfile.Profile | None, overhead_s: float = 0.0
    ) -> None:
        context = contextvars.copy_context()  # as for calls that a waiting caller runs: what they set does not stay
        queued_since_last_s()
        cpu, began = cpu_seconds(), time.perf_counter()
        try:
            value = context.run(func, item) if profiler is None else context.run(profiler.runcall, func, item)
            self.outcome = Outcome(value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a call may end with anything, SystemExit included
            self.outcome = Outcome(error=error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        self.wall_s = max(time.perf_counter() - began - overhead_s, _LEAST_CALL_S)
        self.cpu_s = cpu_seconds() - cpu
        if self.wall_s < _LEAST_TELLING_S:
            self.cpu_s = self.wall_s
        waiting_s = max(0.0, self.wall_s - self.cpu_s)
        if waiting_s > _LEAST_WAITING * self.wall_s:  # standing in line for a processor is no waiting
            waiting_s = max(0.0, waiting_s - queued_since_last_s())
        self.waiting_s = waiting_s

    def measure(self, bytes_in: int, bytes_out: int, growth: int) -> Measurement:
        return Measurement(
            1,
            self.wall_s,
            self.cpu_s,
            self.waiting_s,
            self.wall_s * self.wall_s,
            self.wall_s,
            bytes_in,
            bytes_out,
            growth,
            Lane.CALLER,
        )


def return_nothing(_item: Any) -> None:
    """Take no time: what measuring it takes is the measuring's own."""


def find_profiler() -> cProfile.Profile | None:
    """Return a profiler; None where another one is at work, of which there can be one only."""
    profiler = cProfile.Profile()
    try:
        profiler.enable()
    except ValueError:
        return None
    profiler.disable()
    profiler.clear()
    return profiler


def leave_out_warm_up(runs: list[tuple[int, _Run]]) -> list[tuple[int, _Run]]:
    """Leave out a first call that took more than twice as long as each of at least two others."""
    if len(runs) < _LEAST_FOR_WARM_UP:
        return runs
    longest_s = max(run.wall_s for _, run in runs[1:])
    return runs[1:] if runs[0][1].wall_s > _WARM_UP * longest_s else runs


def choose_backend(func: Callable[..., Any], options: Collection[str], *, prefers_threads: bool) -> dict[str, str]:
    """Return the ``backend`` for calls of which there is no sample; nothing where the executor is to choose.

    It is threads where they are preferred, and this process for what does not pickle, unless options of the executor
    with these names have their own say.
    """
    if not set(options) <= OF_EVERY_BACKEND | LAYERS_OF_EVERY_BACKEND:
        return {}
    if prefers_threads:
        return {"backend": "thread"}
    codec = Codec(None, into_worker=True)
    return {} if try_pickling(travelling(func, codec), codec).error is None else {"backend": "caller"}


def try_pickling(item: Any, codec: Codec) -> Travel:
    """Pickle as the executor does, large buffers aside; return what it took, or why it cannot be done."""
    buffers: list[pickle.PickleBuffer] = []
    began = time.perf_counter()
    try:
        data = codec.dumps(item, buffers)
    except Exception as error:  # noqa: BLE001 - what the user's own reduction raises is the answer
        return Travel(time.perf_counter() - began, 0, error)
    took_s = time.perf_counter() - began
    return Travel(took_s, len(data) + sum(buffer.raw().nbytes for buffer in buffers))
