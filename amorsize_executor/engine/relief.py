"""Relief for workers that all wait in calls which go on: measured while they run, since they may never end.

A call that waits for another call, which is still queued, must not wait for ever: as long as ``max_workers`` allows,
blocked workers are joined by others, as they would have been there from the start in ``ProcessPoolExecutor``.
"""

import math
import os
from collections.abc import Iterable
from typing import NamedTuple

from amorsize_executor.engine.crew import Worker

WINDOW_S = 0.03
"""How long a worker is watched before it counts as blocked."""

_LONGEST_PAUSE_S = 1.0
_MOST_BUSY = 0.1
"""Share of the time that nobody else took from it, up to which a worker on a processor counts as blocked."""


class Account(NamedTuple):
    """What the system has counted for a worker and the processes below it.

    Attributes:
        ran_ns: On a processor.
        queued_ns: In line for one; what still lasts is not counted yet.
        is_runnable: Whether one of them is on a processor, or in line for one, right now.
    """

    ran_ns: int
    queued_ns: int
    is_runnable: bool


class _Sample(NamedTuple):
    call: int
    taken_s: float
    account: Account
    is_blocked: bool | None = None


class BlockWatch:
    """Samples the processor time of busy workers, with that of their children. Guarded by the engine's lock.

    Attributes:
        pause_s: Seconds until it is worth looking again; longer while workers are seen to be at work.
    """

    def __init__(self) -> None:
        self.pause_s = WINDOW_S
        self._samples: dict[int, _Sample] = {}
        self._looked_s = -math.inf

    def all_blocked(self, workers: Iterable[Worker], now_s: float) -> bool:
        """Tell whether every worker has run the same call for a while and hardly used a processor meanwhile."""
        if now_s - self._looked_s < WINDOW_S / 2:
            return False
        self._looked_s = now_s
        verdicts = [self._is_blocked(worker, now_s) for worker in workers]
        if all(verdicts):
            self._samples.clear()
            self.pause_s = WINDOW_S
            return True
        self.pause_s = min(2 * self.pause_s, _LONGEST_PAUSE_S) if False in verdicts else WINDOW_S
        return False

    def _is_blocked(self, worker: Worker, now_s: float) -> bool | None:
        """Return the verdict on a worker, or None while too little is known."""
        running, _started_ns, finished = worker.link.progress()
        account = None
        if worker.link.account is not None and running >= finished:
            account = read_account(*worker.link.account)
        if account is None:
            return False
        sample = self._samples.get(worker.number)
        if sample is None or sample.call != running:
            self._samples[worker.number] = _Sample(running, now_s, account)
            return None
        span_s = now_s - sample.taken_s
        if span_s < WINDOW_S:
            return sample.is_blocked
        is_blocked = _has_waited(sample.account, account, span_s * 1e9)
        if is_blocked and account.is_runnable:  # it may have stood in line all the time, which is not counted yet
            return sample.is_blocked
        self._samples[worker.number] = _Sample(running, now_s, account, is_blocked)
        return is_blocked


def _has_waited(before: Account, after: Account, span_ns: float) -> bool:
    """Tell whether a worker hardly used the time that others left it: a crowded machine makes nobody busy."""
    ran_ns = after.ran_ns - before.ran_ns
    left_ns = span_ns - (after.queued_ns - before.queued_ns)
    # Less than before: a thread has ended and taken its account along, so there was one at work.
    return left_ns > 0 and 0 <= ran_ns <= _MOST_BUSY * left_ns


def read_account(pid: int, thread: int) -> Account | None:
    """Return what the system has counted for a worker; None where it does not tell.

    Args:
        pid: The process.
        thread: Its main thread, and then all its threads count; or one of them that is a worker by itself.
    """
    tasks = f"/proc/{pid}/task"
    ran = queued = 0
    is_runnable = False
    try:
        threads = os.listdir(tasks) if thread == pid else [str(thread)]
        for account in filter(None, (_read_thread(f"{tasks}/{name}") for name in threads)):
            ran += account.ran_ns
            queued += account.queued_ns
            is_runnable |= account.is_runnable
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            reaped_ticks = sum(map(int, file.read().rpartition(b")")[2].split()[13:15]))
    except (OSError, ValueError):
        return None
    return Account(ran + reaped_ticks * _TICK_NS, queued, is_runnable)


def _read_thread(task: str) -> Account | None:
    """Return what was counted for a thread and the processes that it has started; None if it has ended meanwhile."""
    try:
        with open(f"{task}/stat", "rb", 0) as file:
            is_runnable = file.read().rpartition(b")")[2].split()[0] == b"R"
        with open(f"{task}/schedstat", "rb", 0) as file:
            ran, queued = map(int, file.read().split()[:2])
        with open(f"{task}/children", "rb", 0) as file:
            children = file.read().split()
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists(task):  # this system does not count
            raise
        return None
    for child in filter(None, (read_account(int(child), int(child)) for child in children)):
        ran += child.ran_ns
        queued += child.queued_ns
        is_runnable |= child.is_runnable
    return Account(ran, queued, is_runnable)


_TICK_NS = 1_000_000_000 // (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
