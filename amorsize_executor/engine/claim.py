"""Calls in a caller's hands: a batch that it iterates, and that the dispatcher may shorten from its end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Any

from amorsize_executor.engine.span import Span
from amorsize_executor.records import Lane, Measurement
from amorsize_executor.wire.codec import PLAIN
from amorsize_executor.wire.reach import is_exactly
from amorsize_executor.wire.weight import weigh

_BATCH_S = 0.003
"""How long a batch of cheap calls should take."""

_MOST_CALLS = 16_384  # more would need memory that was not used before, which costs more
_MOST_GROWTH = 16
_LEAST_WAITING = 0.1
_SHORT_S = 0.001
"""Calls that take less are not taken for waiting ones before a worker has measured them."""

OVERRUN_S = 3 * _BATCH_S
"""A batch that takes longer is shortened."""

_MUCH_LONGER = 4.0
"""Calls that take so many times what calls have taken so far are not what they were."""

_HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()

_local = threading.local()


class Claim:
    """Calls in a caller's hands. The dispatcher may shorten it, under the engine's lock.

    Args:
        clock: That of the dispatcher's processor time; None for none.
    """

    def __init__(self, clock: int | None = None) -> None:
        self._clock = clock
        self._others_s = 0.0
        self.span: Span | None = None
        self.items: list[Any] = []
        self.iterator: Iterator[Any] = iter(())
        self.values: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.limit = 0
        self.began = 0.0
        self.cpu = 0.0
        self.is_shared = False  # with other threads
        self.is_settled = False
        self.is_delivered = False

    def begin(self, span: Span) -> None:
        """Put calls in the caller's hands."""
        self.items = span.arguments()
        self.limit = len(self.items)
        self.iterator = iter(self.items)
        self._others_s = read_clock(self._clock)
        self.cpu = time.thread_time()
        self.began = time.monotonic()
        self.span = span

    def drop(self) -> None:
        """Let go of calls that nobody wants."""
        self.items.clear()
        self.limit = 0

    def measurement(self, took_s: float) -> Measurement:
        """Return what the calls cost that were run."""
        ran, cpu_s = len(self.values), time.thread_time() - self.cpu
        lane = Lane.CALLER
        if self._clock is not None:  # our own thread had the interpreter's lock, which is neither work nor waiting
            took_s -= min(max(0.0, took_s - cpu_s), max(0.0, read_clock(self._clock) - self._others_s))
        if self.is_shared:  # such calls wait for nothing but the interpreter's lock
            lane, took_s = Lane.THREADS, min(took_s, cpu_s)
        mean_s = took_s / ran
        waiting_s = max(0.0, took_s - cpu_s)
        if mean_s < _SHORT_S:  # not told from waiting for the interpreter, which our own threads have now and then
            waiting_s = 0.0
        elif waiting_s > _LEAST_WAITING * took_s:  # standing in line for a processor is no waiting
            waiting_s = max(0.0, waiting_s - queued_since_last_s())
        # What these calls would have been on the wire: one call stands for all.
        item, value = self.items[0], self.values[0]
        bytes_in, bytes_out = weigh(item) * ran, weigh(value) * ran
        is_plain = is_exactly(item, PLAIN) and is_exactly(value, PLAIN)
        squares_s2 = mean_s * took_s
        return Measurement(
            ran, took_s, cpu_s, waiting_s, squares_s2, mean_s, bytes_in, bytes_out, lane=lane, is_plain=is_plain
        )

    def overruns(self, now: float) -> bool:
        """Tell whether the batch takes much longer than batches should."""
        return self.span is not None and now - self.began > OVERRUN_S

    def crawls(self, now: float, call_s: float) -> bool:
        """Tell whether the batch has overrun because of its calls, and not because of a pause for garbage, say.

        One call that takes long always does, known to take long or not: others need not wait for it.
        """
        return self.overruns(now) and now - self.began > _MUCH_LONGER * (len(self.values) + 1) * min(call_s, _SHORT_S)

    def take_back(self) -> Span | None:
        """Shorten the batch to what the caller has begun and return the rest, or None.

        A list iterator never goes back: if it has not passed the new end after the list was shortened, the calls
        behind that end were not begun and never will be. If it has run out meanwhile, who ran what is told by
        the number of values, when the caller settles.
        """
        if self.span is None or self.is_settled or not _HAS_GIL:
            return None
        end = len(self.items) - length_hint(self.iterator)
        if end >= len(self.items):
            return None
        del self.items[end:]
        state: Any = self.iterator.__reduce__()
        if len(state) < 3 or state[2] > end:  # noqa: PLR2004 - (iter, (list,), index)
            return None
        rest = self.span.part(end, self.limit)
        self.limit = end
        return rest


def clock_of_this_thread() -> int | None:
    """Return the number of the clock that counts this thread's processor time; None where there is none."""
    return time.pthread_getcpuclockid(threading.get_ident()) if hasattr(time, "pthread_getcpuclockid") else None


def read_clock(clock: int | None) -> float:
    """Return the seconds of a thread's clock; 0 without one, or where its thread has ended."""
    try:
        return 0.0 if clock is None else time.clock_gettime(clock)
    except OSError:
        return 0.0


def queued_since_last_s() -> float:
    """Return the seconds that this thread has stood in line for a processor since it asked last, at most."""
    try:
        with open("/proc/thread-self/schedstat", "rb", 0) as file:
            queued_ns = int(file.read().split()[1])
    except OSError:
        return 0.0
    before_ns, _local.queued_ns = getattr(_local, "queued_ns", 0), queued_ns
    return (queued_ns - before_ns) * 1e-9


def run_batch(invoke: Callable[[Any], Any], claim: Claim) -> None:
    """Run a claim's calls in this thread. A real Ctrl-C ends the batch and goes on to the caller."""
    values = claim.values
    iterator = claim.iterator
    while True:
        try:
            for item in iterator:
                values.append(invoke(item))
        except KeyboardInterrupt as interrupt:
            if len(values) < len(claim.items) - length_hint(iterator):  # a call had begun
                claim.errors[len(values)] = interrupt
                values.append(None)
            raise
        except BaseException as error:  # noqa: BLE001 - the call's own end, SystemExit included
            trace = error.__traceback__
            claim.errors[len(values)] = error.with_traceback(trace.tb_next if trace is not None else None)
            values.append(None)
        else:
            return


def next_batch(ran: int, took_s: float) -> int:
    """Return how many calls the next batch should have: grow fast while cheap, shrink at once."""
    if took_s < _BATCH_S / 4:
        return min(max(1, ran) * int(min(_BATCH_S / max(took_s, 1e-9), _MOST_GROWTH)), _MOST_CALLS)
    return max(1, int(ran * _BATCH_S / took_s))
