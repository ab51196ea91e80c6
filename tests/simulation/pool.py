"""A pool without processes: a virtual clock, a heap of events, and the very tuner that steers the real engine.

One dispatcher serves workers one after the other, at a cost for each chunk and each call. Workers run their chunk's
calls in order. An idle worker that finds the queue empty takes half of the calls that have not started from the
worker that has most of them, as the engine does through the control word.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from amorsize_executor.records import Measurement
from amorsize_executor.tuning.machine import Machine
from amorsize_executor.tuning.planner import Limits, Tuner

GIB = 1 << 30
RESIZE_EVERY = 16


@dataclass(frozen=True)
class Workload:
    """Calls in the order of their submission.

    Attributes:
        durations_s: Seconds of each call on a processor of its own.
        waiting_share: Share of them that needs no processor.
    """

    durations_s: list[float]
    waiting_share: float = 0.0


@dataclass(frozen=True)
class Prices:
    """What the simulated machine charges, in seconds.

    Attributes:
        chunk_s: Of the dispatcher, for a chunk.
        call_s: Of the dispatcher, for a call.
        latency_s: Between the dispatcher and a worker, for a chunk, there and back.
        start_up_s: From asking for the first worker to its readiness.
        worker_s: For each further worker; they start one after the other.
    """

    chunk_s: float = 5e-5
    call_s: float = 6e-6
    latency_s: float = 1e-4
    start_up_s: float = 8e-3
    worker_s: float = 1.5e-3


@dataclass(frozen=True)
class Result:
    """How it went.

    Attributes:
        makespan_s: Seconds from the start to the last result.
        even_s: Seconds that the work would take if it could be shared evenly.
        best_s: Seconds that a pool without any costs would take, which hands out call by call.
        dispatcher_busy: Share of the makespan that the dispatcher worked.
        peak_workers: Most workers at one time.
        chunks: Chunks sent, taken-back tails included.
        taken_back: Tails taken back.
        executed: Calls that ran.
        tuner: The tuner, as it ended.
    """

    makespan_s: float
    even_s: float
    best_s: float
    dispatcher_busy: float
    peak_workers: int
    chunks: int
    taken_back: int
    executed: int
    tuner: Tuner

    @property
    def efficiency(self) -> float:
        """The best possible time over the time it took, 0 to 1."""
        return self.best_s / self.makespan_s

    @property
    def utilisation(self) -> float:
        """Total work over workers times the time it took, 0 to 1."""
        return self.even_s / self.makespan_s


class _Worker:
    """A worker with the calls ``first`` to ``end`` - 1, which it has been running since ``start_s``."""

    __slots__ = ("end", "first", "idle_since_s", "slowness", "start_s", "version")

    def __init__(self, now_s: float) -> None:
        self.first = self.end = self.version = 0
        self.start_s = self.idle_since_s = now_s
        self.slowness = 1.0


class SimulatedPool:
    """Runs a workload once. Equal inputs give equal results."""

    def __init__(self, workload: Workload, machine: Machine, limits: Limits, prices: Prices) -> None:
        self._workload = workload
        self._limits = limits
        self._prices = prices
        self._cores = machine.cores
        self._until_s = [0.0, *accumulate(workload.durations_s)]
        self._squares = [0.0, *accumulate(duration * duration for duration in workload.durations_s)]
        self._next = 0
        self._tuner = Tuner(machine, limits)
        self._events: list[tuple[float, int, int, int]] = []
        self._workers: list[_Worker] = []
        self._current = self._busy = self._peak = self._wanted = 0
        self._free_s = self._worked_s = self._spawned_s = 0.0
        self._loads: list[tuple[int, int, int]] | None = None
        self._order = self._chunks = self._taken_back = self._executed = 0
        self._resize_at = 0
        self._last_s = 0.0

    def run(self) -> Result:
        """Run all calls and say how it went."""
        self._resize(0.0)
        while self._events:
            now_s, _, number, version = heapq.heappop(self._events)
            worker = self._workers[number]
            if version == worker.version:
                self._serve(number, worker, now_s)
        work_s = self._until_s[-1]
        workers = self._limits.max_workers or self._peak
        return Result(
            makespan_s=self._last_s,
            even_s=work_s / workers,
            best_s=find_best_s(self._workload.durations_s, workers),
            dispatcher_busy=self._worked_s / self._last_s,
            peak_workers=self._peak,
            chunks=self._chunks,
            taken_back=self._taken_back,
            executed=self._executed,
            tuner=self._tuner,
        )

    # --- the dispatcher ---

    def _serve(self, number: int, worker: _Worker, now_s: float) -> None:
        """A worker is idle: take its measurement and give it something to do."""
        if worker.end > worker.first:
            self._finish(worker, now_s)
        if self._chunks >= self._resize_at:
            self._resize(now_s)
        if self._current > self._wanted:
            self._current -= 1
            return
        served_s = max(now_s, self._free_s)
        first, end = self._take(served_s)
        if first == end:
            return
        cost_s = self._prices.chunk_s + (end - first) * self._prices.call_s
        self._tuner.observe_shipping(cost_s, end - first, 0)
        self._free_s = served_s + cost_s
        self._worked_s += cost_s
        self._chunks += 1
        start_s = self._free_s + self._prices.latency_s
        if worker.version:
            self._tuner.observe_gap(start_s - worker.idle_since_s)
        self._begin(number, worker, first, end, start_s)

    def _take(self, now_s: float) -> tuple[int, int]:
        remaining = len(self._workload.durations_s) - self._next
        if not remaining:
            return self._take_back(now_s)
        calls = self._tuner.chunk_calls("f", remaining=remaining, workers=self._current)
        first, self._next = self._next, self._next + calls
        return first, self._next

    def _take_back(self, now_s: float) -> tuple[int, int]:
        """Take half of the calls not started from the worker that has most, or nothing."""
        if self._loads is None:
            self._loads = [self._load(number, now_s) for number in range(len(self._workers))]
            heapq.heapify(self._loads)
        while self._loads:
            load, number, version = heapq.heappop(self._loads)
            worker = self._workers[number]
            if load == 0 or version != worker.version:
                continue
            now = self._load(number, now_s)
            if now[0] > (self._loads[0][0] if self._loads else 0):
                heapq.heappush(self._loads, now)
                continue
            return self._cut(number, worker, -now[0])
        return 0, 0

    def _cut(self, number: int, worker: _Worker, unstarted: int) -> tuple[int, int]:
        if not unstarted:
            return 0, 0
        middle, end = worker.end - (unstarted + 1) // 2, worker.end
        self._taken_back += 1
        worker.end = middle
        self._plan_end(number, worker)
        return middle, end

    def _load(self, number: int, now_s: float) -> tuple[int, int, int]:
        """Return (minus the calls of a worker that have not started, its number, its version)."""
        worker = self._workers[number]
        done_s = max(0.0, now_s - worker.start_s) / worker.slowness
        running = bisect_right(self._until_s, self._until_s[worker.first] + done_s, worker.first, worker.end) - 1
        unstarted = max(0, worker.end - max(running, worker.first) - 1)
        return -unstarted, number, worker.version

    # --- the workers ---

    def _begin(self, number: int, worker: _Worker, first: int, end: int, start_s: float) -> None:
        self._busy += 1
        share = self._workload.waiting_share
        crowd = max(1.0, self._busy * (1.0 - share) / self._cores)
        worker.slowness = share + (1.0 - share) * crowd
        worker.first, worker.end, worker.start_s = first, end, start_s
        self._plan_end(number, worker)

    def _plan_end(self, number: int, worker: _Worker) -> None:
        worker.version += 1
        self._order += 1
        wall_s = (self._until_s[worker.end] - self._until_s[worker.first]) * worker.slowness
        heapq.heappush(self._events, (worker.start_s + wall_s, self._order, number, worker.version))
        if self._loads is not None:
            heapq.heappush(self._loads, self._load(number, worker.start_s))

    def _finish(self, worker: _Worker, now_s: float) -> None:
        first, end, slowness = worker.first, worker.end, worker.slowness
        work_s = self._until_s[end] - self._until_s[first]
        share = self._workload.waiting_share
        measurement = Measurement(
            calls=end - first,
            wall_s=work_s * slowness,
            cpu_s=work_s * (1.0 - share),
            waiting_s=work_s * share,
            squares_s2=(self._squares[end] - self._squares[first]) * slowness * slowness,
            longest_s=max(self._workload.durations_s[first:end]) * slowness,
        )
        self._tuner.observe("f", measurement, now_s=now_s)
        self._executed += end - first
        self._busy -= 1
        self._last_s = max(self._last_s, now_s)
        worker.first = worker.end
        worker.idle_since_s = now_s

    def _resize(self, now_s: float) -> None:
        self._resize_at = self._chunks + 1 + self._current // RESIZE_EVERY
        waiting = len(self._workload.durations_s) - self._next
        wanted = self._tuner.wanted_workers(
            now_s=now_s,
            current=self._current,
            busy=self._busy,
            backlog=waiting + self._busy,
        )
        self._wanted = wanted
        self._spawned_s = max(self._spawned_s, now_s)
        while self._current < wanted:
            self._spawned_s += self._prices.worker_s if self._workers else self._prices.start_up_s
            self._tuner.observe_start_up(self._spawned_s - now_s)
            worker = _Worker(self._spawned_s)
            self._workers.append(worker)
            self._order += 1
            heapq.heappush(self._events, (self._spawned_s, self._order, len(self._workers) - 1, 0))
            self._current += 1
        self._peak = max(self._peak, self._current)


def find_best_s(durations_s: list[float], workers: int) -> float:
    """Return the makespan of list scheduling in this order at no cost (Graham 1966)."""
    free_s = list(durations_s[:workers])
    heapq.heapify(free_s)
    for duration_s in durations_s[workers:]:
        heapq.heapreplace(free_s, free_s[0] + duration_s)
    return max(free_s)


def simulate(
    workload: Workload,
    *,
    cores: int,
    limits: Limits | None = None,
    prices: Prices | None = None,
) -> Result:
    """Run a workload on a machine of ``cores`` cores with plenty of memory."""
    machine = Machine(cores=cores, physical_cores=cores, available_memory=cores * GIB, memory_limit=cores * GIB)
    return SimulatedPool(workload, machine, limits or Limits(), prices or Prices()).run()
