"""How many workers: a pure rule for what would be right, and a controller that goes there step by step.

The rule is cores * wall / (wall - waiting): so many workers keep the processors busy while others wait (Goetz 2006).
Waiting excludes the time spent in line for a processor, so CPU-bound work beside a busy neighbour asks for none.

The controller doubles at most, and keeps a step only if the measured throughput has improved. Throughput is not
counted over a window of time, which would need many windows: with w workers at work it is w / (wall time a call),
so a step is judged by whether calls after it take longer than those before. That takes one round of calls. Where
calls wait for nine tenths of their time, doublings up to 8 workers a core follow each other as soon as the workers
are there, and are judged together: a round of calls may be long. What brought nothing is taken back, and the next
step waits 1 s, 2 s, 4 s, ... 60 s.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from amorsize_executor.records import Measurement
from amorsize_executor.wording import say_count

LEAST_WAITING = 0.1
MOST_QUEUED = 0.05
WAITERS_PER_CORE = 32
MOST_AT_ONCE = 1000  # fewer than there are lines on a control board; a worker has one until it has ended
REPAYMENT = 4
WORKER_BYTES = 8 << 20
SHRINK_BELOW = 0.6
SHRINK_AFTER = 3
LEAST_GAIN = 1.05
LEAST_SPREAD = 0.1
LEAST_CHUNKS = 2
MOST_CHUNKS = 4
LEAP_PER_CORE = 8
LEAP_WAITING = 0.9
BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 60.0
HORIZON_S = 1.0


class Mix(NamedTuple):
    """How the calls of late spent their time, over all functions.

    Attributes:
        wall_s: Seconds of wall time.
        waiting_s: Seconds neither on a processor nor in line for one, <= ``wall_s``.
        queued_s: Seconds in line for a processor, <= ``wall_s``.
        calls: Number of calls.
    """

    wall_s: float = 0.0
    waiting_s: float = 0.0
    queued_s: float = 0.0
    calls: float = 0.0

    @property
    def waiting_share(self) -> float:
        """Share of waiting, 0 to 1."""
        return self.waiting_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def queued_share(self) -> float:
        """Share of time in line for a processor, 0 to 1."""
        return self.queued_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def call_s(self) -> float:
        """Mean seconds a call."""
        return self.wall_s / self.calls if self.calls > 0 else 0.0


class Bounds(NamedTuple):
    """What the number of workers has to respect.

    Attributes:
        cores: Usable logical processors, >= 1.
        physical_cores: Usable physical processors, 1 to ``cores``: where an executor starts.
        min_workers: Never fewer, >= 1.
        max_workers: Never more; None means that memory and 32 a core are the only bounds.
        max_memory: Bytes for all workers together.
        worker_bytes: Peak bytes that a worker has grown by.
        fork_s: Seconds of work that one more worker costs.
        most_at_once: As many workers as the system of workers holds.
    """

    cores: int
    physical_cores: int
    min_workers: int = 1
    max_workers: int | None = None
    max_memory: int | None = None
    worker_bytes: int = 0
    fork_s: float = 1.6e-3
    most_at_once: int = MOST_AT_ONCE


class Wish(NamedTuple):
    """A number of workers, and which rule gave it, in words."""

    workers: int
    reason: str


@lru_cache(maxsize=16)
def find_ceiling(bounds: Bounds) -> Wish:
    """Find the most workers that memory, the user, 32 a core and the system allow. Pure; >= ``min_workers`` >= 1."""
    most = Wish(WAITERS_PER_CORE * bounds.cores, f"more than {WAITERS_PER_CORE} workers a core are not started")
    if bounds.max_workers is not None:
        most = Wish(bounds.max_workers, f"max_workers is {bounds.max_workers}")
    if most.workers > bounds.most_at_once:
        most = Wish(bounds.most_at_once, f"more than {bounds.most_at_once:,} workers are not started")
    if bounds.max_memory is not None:
        worker_bytes = max(bounds.worker_bytes, WORKER_BYTES)
        fitting = int(bounds.max_memory // worker_bytes)
        if fitting < most.workers:
            most = Wish(
                fitting,
                f"more than {say_count(fitting, 'worker')} of {worker_bytes >> 20} MiB would not fit into memory",
            )
    return Wish(max(most.workers, bounds.min_workers, 1), most.reason)


@lru_cache(maxsize=16)
def find_start(bounds: Bounds) -> Wish:
    """Find how many workers to begin with: the physical cores, within the bounds. Pure."""
    most = find_ceiling(bounds)
    if most.workers <= bounds.physical_cores:
        return most
    if bounds.min_workers > bounds.physical_cores:
        return Wish(bounds.min_workers, f"min_workers is {bounds.min_workers}")
    return Wish(bounds.physical_cores, f"work begins with a worker for each physical core ({bounds.physical_cores})")


def choose_worker_count(mix: Mix, bounds: Bounds, *, backlog: int | None) -> Wish:
    """Choose how many workers would be right if their number could be changed at once.

    Pure: equal inputs give equal wishes. Below a tenth of waiting it is the physical cores, or all logical ones if
    nobody stands in line for them. Above, cores * wall / (wall - waiting), but no more than the rest of the work
    repays: with B seconds of it, w workers take B / w + w * fork_s, and a worker has to save four times its cost,
    since forking takes processors and memory from those that run: w <= sqrt(B / (4 * fork_s)).

    Args:
        mix: How the calls of late spent their time; empty before the first.
        bounds: What to respect.
        backlog: Calls waiting and running, or None where nobody knows.

    Returns:
        A wish within the bounds, >= 1.
    """
    start, most = find_start(bounds), find_ceiling(bounds)
    share = mix.waiting_share
    if share < LEAST_WAITING:
        if mix.wall_s <= 0 or mix.queued_share > MOST_QUEUED or bounds.cores <= start.workers:
            return start
        wish = Wish(bounds.cores, f"there are {bounds.cores} logical cores, and calls do not stand in line for them")
    else:
        wanted = most.workers if share >= 1 else min(most.workers, int(bounds.cores / (1 - share)))
        wish = Wish(wanted, f"calls wait {share:.0%} of their time")
        if backlog is not None:
            repaid = int(math.sqrt(backlog * mix.call_s / (REPAYMENT * bounds.fork_s)))
            if max(repaid, start.workers) < wish.workers:
                wish = Wish(max(repaid, start.workers), f"{wish.reason}, and the rest repays no more workers")
    if wish.workers > most.workers:
        return most
    return Wish(max(wish.workers, bounds.min_workers, 1), wish.reason)


class Trial:
    """A step that has to prove itself: calls that ran (by half at least) after it are compared with those before.

    Attributes:
        before: Workers before the step.
        after: Workers after it.
        started_s: When all the workers were there; None until then.
        chunks: Runs of calls measured since.
        calls: Calls in them.
        ratios: Sum over the calls of seconds now / seconds before.
        squares: Sum of the squares of the same.
    """

    def __init__(self, before: int, after: int) -> None:
        self.before = before
        self.after = after
        self.started_s: float | None = None
        self.chunks = 0
        self.calls = 0
        self.ratios = 0.0
        self.squares = 0.0

    def add(self, m: Measurement, reference_s: float) -> None:
        """Count a run of calls that started after the step; before it, a call took ``reference_s``."""
        self.chunks += 1
        self.calls += m.calls
        self.ratios += m.wall_s / reference_s
        self.squares += m.squares_s2 / (reference_s * reference_s)

    def judge(self) -> bool | None:
        """Say whether the step improved throughput by 5 % for each doubling; None while too few calls tell.

        At one standard error, and a call is taken to vary by a tenth at least; after many calls the better guess
        will do.
        """
        if self.chunks < max(LEAST_CHUNKS, self.after // 2):
            return None
        mean = self.ratios / self.calls
        if mean <= 0:
            return True
        gain = self.after / self.before / mean
        needed = math.pow(LEAST_GAIN, math.log2(self.after / self.before))
        variance = max(self.squares / self.calls - mean * mean, (LEAST_SPREAD * mean) ** 2)
        error = gain * math.sqrt(variance / self.calls) / mean
        if abs(gain - needed) >= error or self.chunks >= MOST_CHUNKS * self.after:
            return gain >= needed
        return None


class ConcurrencyController:
    """Goes from where the pool is to where the rule says, one proven step at a time.

    Owned by one thread; no clock inside.
    """

    def __init__(self) -> None:
        self.level = 0
        self.trial: Trial | None = None
        self._wall_s = 0.0
        self._waiting_s = 0.0
        self._queued_s = 0.0
        self._calls = 0.0
        self._seen_s = -math.inf
        self._measured = 0
        self._shrink_from: int | None = None
        self._suggested: tuple[Wish, float] | None = None
        self._back_off_s = BACK_OFF_S
        self._quiet_until_s = -math.inf

    @property
    def mix(self) -> Mix:
        """How the calls of late spent their time; what is a second older counts for half."""
        return Mix(self._wall_s, self._waiting_s, self._queued_s, self._calls)

    def observe(self, m: Measurement, reference_s: float, *, now_s: float, is_helped: bool = False) -> None:
        """Take a measured run of calls into account.

        Args:
            m: The measurement.
            reference_s: Seconds that a call of this function took before the step under trial, > 0.
            now_s: The time at which it was heard of, close to its end.
            is_helped: Whether it ran in the caller's process, beside the workers.
        """
        if now_s > self._seen_s:
            fade = 1.0 / (1.0 + (now_s - self._seen_s) / HORIZON_S)
            self._seen_s = now_s
            self._wall_s *= fade
            self._waiting_s *= fade
            self._queued_s *= fade
            self._calls *= fade
        wall_s = m.wall_s
        waiting_s = min(m.waiting_s, wall_s)
        self._wall_s += wall_s
        self._waiting_s += waiting_s
        self._queued_s += max(0.0, wall_s - m.cpu_s - waiting_s)
        self._calls += m.calls
        self._measured += 1
        trial = self.trial
        if trial is None or trial.started_s is None or is_helped:
            return
        if now_s - wall_s / 2 >= trial.started_s:
            trial.add(m, reference_s)

    def suggest(self, wish: Wish, *, call_s: float) -> None:
        """Have the pool begin with as many workers as served before, or raise it to them; the largest wish counts.

        Args:
            wish: How many, and why.
            call_s: Seconds a call took then, or 0 where nobody knows: few calls repay few workers.
        """
        if self._suggested is None or wish.workers > self._suggested[0].workers:
            self._suggested = wish, call_s

    def step(self, bounds: Bounds, *, now_s: float, current: int, busy: int, backlog: int | None) -> Wish | None:
        """Move towards the wish by at most one step.

        Args:
            bounds: What to respect.
            now_s: The time.
            current: Workers that were started.
            busy: Workers that have work.
            backlog: Calls waiting and running, or None where nobody knows.

        Returns:
            The new level with its reason, or None where it stays.
        """
        most = find_ceiling(bounds)
        begin = self._begin(bounds, backlog) if self.level == 0 or self._suggested is not None else None
        if begin is not None:
            self.trial = None
            return self._move(begin)
        if self.level > most.workers:
            self.trial = None
            return self._move(most)
        if self.level < bounds.min_workers:
            return self._move(Wish(bounds.min_workers, f"min_workers is {bounds.min_workers}"))
        if self.trial is not None:
            return self._try(self.trial, bounds, now_s=now_s, current=current, backlog=backlog)
        wish = choose_worker_count(self.mix, bounds, backlog=backlog)
        if wish.workers > self.level:
            self._shrink_from = None
            return self._grow(wish, now_s=now_s, current=current, busy=busy, backlog=backlog)
        return self._shrink(choose_worker_count(self.mix, bounds, backlog=None))

    def _begin(self, bounds: Bounds, backlog: int | None) -> Wish | None:
        """Take the suggestion, within the bounds and down to what the work repays; at first, the start without one."""
        start = find_start(bounds)
        if self._suggested is None:
            return start
        (wish, call_s), self._suggested = self._suggested, None
        workers = min(wish.workers, find_ceiling(bounds).workers)
        if backlog is not None and call_s > 0:
            repaid = int(math.sqrt(backlog * call_s / (REPAYMENT * bounds.fork_s)))
            workers = min(workers, max(repaid, start.workers))
        workers = max(workers, bounds.min_workers)
        return Wish(workers, wish.reason) if workers > self.level else None

    def _try(
        self,
        trial: Trial,
        bounds: Bounds,
        *,
        now_s: float,
        current: int,
        backlog: int | None,
    ) -> Wish | None:
        if trial.started_s is None:
            if current < trial.after:
                return None
            leap = self._leap(trial, bounds, backlog)
            if leap is None:
                trial.started_s = now_s
            return leap
        verdict = trial.judge()
        if verdict is None:
            return None
        self.trial = None
        if verdict:
            self._back_off_s = BACK_OFF_S
            return None
        self._quiet_until_s = now_s + self._back_off_s
        self._back_off_s = min(2 * self._back_off_s, LONGEST_BACK_OFF_S)
        return self._move(Wish(trial.before, f"{trial.after} workers were not faster"))

    def _leap(self, trial: Trial, bounds: Bounds, backlog: int | None) -> Wish | None:
        """Double once more before the verdict, where calls do little but wait."""
        if self.mix.waiting_share < LEAP_WAITING:
            return None
        wish = choose_worker_count(self.mix, bounds, backlog=backlog)
        after = min(wish.workers, 2 * trial.after, LEAP_PER_CORE * bounds.cores)
        after = after if backlog is None else min(after, backlog)
        if after <= trial.after:
            return None
        trial.after = after
        return self._move(Wish(after, wish.reason))

    def _grow(self, wish: Wish, *, now_s: float, current: int, busy: int, backlog: int | None) -> Wish | None:
        # With idle workers, more of them bring nothing, whatever the calls do (Netflix's concurrency limits). Those
        # between two chunks are not idle: then there is more work than workers.
        has_work = busy >= self.level or (backlog is not None and backlog >= 2 * self.level)
        if now_s < self._quiet_until_s or current < self.level or not has_work:
            return None
        after = min(wish.workers, 2 * self.level, wish.workers if backlog is None else backlog)
        if after <= self.level:
            return None
        self.trial = Trial(self.level, after)
        return self._move(Wish(after, wish.reason))

    def _shrink(self, wish: Wish) -> Wish | None:
        """Go down to the wish once a round of chunks has asked for clearly fewer workers."""
        if wish.workers > SHRINK_BELOW * self.level:
            self._shrink_from = None
            return None
        if self._shrink_from is None:
            self._shrink_from = self._measured
        if self._measured - self._shrink_from < max(SHRINK_AFTER, self.level):
            return None
        self._shrink_from = None
        return self._move(Wish(wish.workers, f"calls wait only {self.mix.waiting_share:.0%} of their time"))

    def _move(self, wish: Wish) -> Wish | None:
        if wish.workers == self.level:
            return None
        self.level = wish.workers
        return wish
