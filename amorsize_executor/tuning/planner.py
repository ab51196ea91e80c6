"""The tuner: what is measured goes in, what to do next comes out.

It ties the pure rules together: ``measurement`` estimates, ``cost_model`` predicts, ``chunking`` sizes chunks,
``concurrency`` counts workers. One thread owns a tuner; it holds no lock and reads no clock.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import NamedTuple

from amorsize_executor.records import Experience, Lane, Measurement, Plan
from amorsize_executor.tuning import cost_model
from amorsize_executor.tuning.chunking import choose_chunksize
from amorsize_executor.tuning.concurrency import (
    MOST_AT_ONCE,
    WAITERS_PER_CORE,
    Bounds,
    ConcurrencyController,
    Mix,
    Wish,
    choose_worker_count,
    find_ceiling,
)
from amorsize_executor.tuning.cost_model import Costs, predict_parallel_s, predict_serial_s
from amorsize_executor.tuning.decision_log import DecisionLog
from amorsize_executor.tuning.machine import Machine
from amorsize_executor.tuning.measurement import FunctionProfile
from amorsize_executor.wording import make_sentence, say_count, say_seconds

MOST_PROFILES = 256
MEMORY_SHARE = 0.8
PAYLOAD_SHARE = 0.25
EXPLORING_TARGET_S = 0.025
LIGHT_BYTES = 256
HEAVY_BYTES = 65_536
"""Larger results take what they take by their bytes; that says nothing of other functions' results."""

CLEARLY = 0.9
AS_GOOD = 1.02
MOST_WORKERS = 61 if os.name == "nt" else None
"""WaitForMultipleObjects of Windows takes 63 handles, and two of them are not workers."""


class Limits(NamedTuple):
    """What the user allows.

    Attributes:
        min_workers: Never fewer workers, >= 1.
        max_workers: Never more, >= 1; None leaves it to the tuner.
        chunksize: Calls in every chunk, >= 1; None means adaptive.
        target_chunk_duration: Seconds that a chunk should take, > 0.
        max_memory: Bytes for all workers together; None means 80 % of what is available.
        most_at_once: As many workers as the system of workers holds.
    """

    min_workers: int = 1
    max_workers: int | None = None
    chunksize: int | None = None
    target_chunk_duration: float = 0.2
    max_memory: int | None = None
    most_at_once: int = MOST_AT_ONCE


class Forecast(NamedTuple):
    """What running calls of one function is predicted to take.

    Attributes:
        workers: Workers, >= 1.
        chunksize: Calls a chunk, >= 1.
        serial_s: Seconds of plain serial code, >= 0.
        parallel_s: Seconds in workers, >= 0.
        reason: Why not more workers, in words; empty where their number was given.
    """

    workers: int
    chunksize: int
    serial_s: float
    parallel_s: float
    reason: str = ""

    @property
    def speedup(self) -> float:
        """Serial seconds over seconds in workers, > 0; 1.0 for no calls."""
        return self.serial_s / self.parallel_s if self.parallel_s > 0 and self.serial_s > 0 else 1.0


class Tuner:
    """Decides lane, workers and chunk sizes, and says why.

    Runs in: the dispatcher thread alone. Equal histories give equal decisions.

    Attributes:
        limits: What the user allows.
        costs: What workers cost, as measured so far.
        decisions: The last 1,000 changes of plan.
    """

    def __init__(
        self,
        machine: Machine | Callable[[], Machine],
        limits: Limits,
        *,
        costs: Costs | None = None,
        lane: Lane = Lane.PROCESSES,
        caller_helps: bool = True,
        started_s: float | None = None,
    ) -> None:
        """Begin with nothing measured.

        Args:
            machine: What there is, or what finds that out at the first time of asking, which takes a third of a
                millisecond.
            limits: What the user allows.
            costs: Costs known beforehand; None means the documented initial ones.
            lane: Where this executor's workers live.
            caller_helps: Whether calls may run in the thread that waits for them.
            started_s: The clock's time when the executor started; None means the first time that is heard of.
        """
        self._probe = machine
        self.limits = limits
        self.costs = costs or Costs()
        self._lane = lane
        self._helping = (Lane.CALLER, Lane.THREADS) if lane is Lane.PROCESSES else (Lane.CALLER,)
        self._callers: dict[Hashable, int] = {}  # threads here that share a function's calls
        self._profiles: OrderedDict[Hashable, FunctionProfile] = OrderedDict()
        self._controller = ConcurrencyController()
        self._references: dict[Hashable, float] = {}
        self._shipped: set[Hashable] = set()
        self._known: dict[Hashable, Experience] = {}  # until workers have measured the function here
        self._forecasts: dict[Hashable, tuple[float, int, float, float]] = {}
        self._max_workers = _cap_workers(limits.max_workers)
        self._known_bounds: Bounds | None = None
        self._growth = self._observed = self._starts = self._together = 0
        self._latest_start_s = 0.0
        self._key: Hashable = None
        self._remaining: int | None = None
        self._first_chunk = limits.chunksize or 1
        self._log = DecisionLog(Lane.CALLER if caller_helps else lane, self._first_chunk, started_s)
        self.decisions = self._log.entries
        where = "where they are asked for" if caller_helps else "in workers"
        self._reason = f"Nothing was measured yet: the first calls run {where}."

    @cached_property
    def machine(self) -> Machine:
        """What there is."""
        return self._probe() if callable(self._probe) else self._probe

    def look_at_machine(self) -> None:
        """Find out what there is now, if nobody has asked before."""
        _ = self.machine

    @cached_property
    def _max_memory(self) -> int:
        return self.limits.max_memory or int(MEMORY_SHARE * self.machine.available_memory)

    # --- what was known before ---

    def begin_with(self, key: Hashable, known: Experience) -> None:
        """Begin with what is known of a function, and adapt from there; nothing, if it was measured here already."""
        if key in self._profiles or key in self._known:
            return
        call_s = 0.0
        if known.measured is not None:
            profile = self._add_profile(key)
            profile.remember(known.measured)
            call_s = profile.call_s
            self._growth = max(self._growth, profile.memory_growth)
        self._known[key] = known
        if known.chunksize is not None and self.limits.chunksize is None:
            self._log.decide_chunksize(key, known.chunksize, f"{known.source} says so.")
        if known.workers is not None:
            reason = f"{known.source} says {say_count(known.workers, 'worker')}"
            self._controller.suggest(Wish(known.workers, reason), call_s=call_s)

    def experience(self, key: Hashable) -> Experience | None:
        """Return what another run may begin with; None where nothing new was measured of the function."""
        profile = self._profiles.get(key)
        if profile is None or profile.calls == profile.remembered:
            return None
        is_shipped = self._log.lane(key) not in self._helping
        workers = self._controller.level if is_shipped and self._controller.level else None
        return Experience("An earlier run", profile.sum_up(), workers, self._log.decided_chunksize(key))

    # --- what was measured ---

    def observe(self, key: Hashable, m: Measurement, *, now_s: float, function_bytes: int = 0) -> None:
        """Take calls into account that were measured where they ran, the caller's lane included.

        Args:
            key: The function.
            m: What the calls cost.
            now_s: The time.
            function_bytes: What the function itself weighs on its way to workers that do not have it yet.
        """
        self._log.tell_time(now_s)
        profile = self._profiles.get(key)
        if profile is None:
            profile = self._add_profile(key)
        else:
            self._profiles.move_to_end(key)
        profile.observe(m)
        if key in self._known:
            profile = self._confirm(key, profile, m)
        profile.function_bytes = function_bytes or profile.function_bytes
        if m.beside_s and m.bytes_in + m.bytes_out <= LIGHT_BYTES * m.calls:
            self.costs = cost_model.after_chunk(self.costs, m.beside_s, m.calls)
        is_helped = m.lane in self._helping
        if is_helped and key != self._key:  # nobody was asked where it had better run
            self._key, self._remaining = key, None
        if is_helped and key not in self._shipped and self._log.lane(key) is not m.lane:
            reason = self._say_callers(key) if m.lane is Lane.THREADS else self._say_forecast(key)
            self._log.decide_lane(key, m.lane, reason)
        self._observed += 1
        if profile.memory_growth > self._growth or not self._observed % MOST_PROFILES:
            self._growth = max(profile.memory_growth for profile in self._profiles.values())
        reference_s = self._references.get(key) or profile.call_s
        self._controller.observe(m, max(reference_s, 1e-9), now_s=now_s, is_helped=is_helped)

    def observe_gap(self, gap_s: float) -> None:
        """Take into account how long a worker was idle between two chunks although work was queued."""
        self.costs = cost_model.after_gap(self.costs, gap_s)

    def expect_start_up(self, seconds: float) -> None:
        """Expect the first worker to take so long, until one was measured."""
        if not self._starts:
            self.costs = self.costs._replace(start_up_s=seconds)

    def observe_start_up(self, seconds: float) -> None:
        """Take into account how long a worker took from being asked for to being ready."""
        # Workers asked for together report one after the other, each later than the one before.
        self._together = self._together + 1 if seconds >= self._latest_start_s else 1
        self._latest_start_s = seconds
        self.costs = cost_model.after_start_up(
            self.costs,
            seconds,
            starts=self._starts,
            together=self._together,
        )
        self._starts += 1

    def observe_shipping(self, seconds: float, calls: int, payload_bytes: int, key: Hashable = None) -> None:
        """Take into account the parent's own seconds of processor time for encoding and sending a chunk.

        Args:
            seconds: These.
            calls: Calls in the chunk.
            payload_bytes: What they weigh, pickled.
            key: Their function: where they weigh much, what a byte of its arguments costs is kept with it.
        """
        profile = self._profiles.get(key)
        if profile is None or payload_bytes < HEAVY_BYTES * calls:
            self.costs = cost_model.after_shipping(self.costs, seconds, calls, payload_bytes)
        else:
            profile.byte_s = cost_model.byte_cost(self.costs, seconds, calls, payload_bytes)

    # --- what to do ---

    def foresee_chunk(self, key: Hashable, *, workers: int) -> int:
        """Return how many calls of a function the next chunk would take, if there were enough. Decides nothing."""
        profile = self._profiles.get(key)
        if self.limits.chunksize is None and key in self._known:
            return self._known[key].chunksize or self._first_chunk
        if self.limits.chunksize is not None or profile is None:
            return self._first_chunk
        return self._choose(profile, None, max(workers, self._controller.level, 1), profile.proven)

    def chunk_calls(self, key: Hashable, *, remaining: int | None, workers: int, asked: int | None = None) -> int:
        """Choose how many calls of a function the next chunk takes, which is about to be sent to a worker.

        Args:
            key: The function.
            remaining: Calls of it that are left, or None where nobody knows.
            workers: Workers that share them.
            asked: What these calls were given as their chunk size, or None.

        Returns:
            A number >= 1; ``asked`` if given; ``Limits.chunksize`` if given. Else never above max(1, remaining).
        """
        self._key, self._remaining = key, remaining
        if key not in self._shipped:
            self._shipped.add(key)
            self._log.decide_lane(key, self._lane, "No caller is free to run these calls, so workers do.")
        if asked is not None:
            self._log.decide_chunksize(key, asked, "These calls were given a chunk size.")
            return asked
        if self.limits.chunksize is not None:
            return self.limits.chunksize if remaining is None else max(1, min(self.limits.chunksize, remaining))
        profile = self._profiles.get(key)
        workers = max(workers, self._controller.level, 1)
        given = self._known[key].chunksize or 0 if key in self._known else 0
        if given and (profile is None or profile.calls == profile.remembered):
            return given if remaining is None else max(1, min(given, -(-remaining // workers)))
        if profile is None:
            return 1
        size = self._choose(profile, remaining, workers, max(profile.proven, given))
        decided = before = self._log.chunksize(key)
        if size >= 2 * before:
            decided = size
        elif 2 * size <= before:  # that the work comes to its end is no decision
            free = self._choose(profile, None, workers, max(profile.proven, given))
            decided = free if 2 * free <= before else before
        if decided != before:
            reason = f"Calls take {say_seconds(profile.call_s)}, and {_say_rest(remaining)}."
            self._log.decide_chunksize(key, decided, reason)
        return size

    def prefers_caller(self, key: Hashable, *, remaining: int | None, ready_workers: int, callers: int = 1) -> bool:
        """Predict whether running the rest of a function's calls in the caller's thread ends sooner.

        A lane that serves is left only for one predicted to be clearly (a tenth) faster, so noise moves nothing.
        Where the length is unknown, as many calls are expected as were measured: so waiting for proof never costs
        more than as much again.

        Args:
            key: The function.
            remaining: Calls of it that are left, or None where nobody knows.
            ready_workers: Workers that could take calls now; 0 adds the cost of starting them.
            callers: Threads that share the calls in the caller's process.

        Returns:
            True also where nothing was measured yet.
        """
        self._key, self._remaining = key, remaining
        profile = self._profiles.get(key)
        if profile is None or not profile.calls:
            known = self._known.get(key)
            return known is None or (known.workers or 1) == 1
        calls = profile.calls if remaining is None else remaining
        was_shipped = key in self._shipped
        once_bytes = 0 if was_shipped else profile.function_bytes
        serial_s, parallel_s = self._predict(profile, calls, ready_workers=ready_workers, once_bytes=once_bytes)
        serial_s /= callers
        stays = serial_s < CLEARLY * parallel_s if was_shipped else parallel_s >= CLEARLY * serial_s
        self._forecasts[key] = profile.call_s, calls, serial_s, parallel_s
        if stays:  # decided when the caller has run some
            self._shipped.discard(key)
        elif not was_shipped:
            self._shipped.add(key)
            self._log.decide_lane(key, self._lane, self._say_forecast(key))
        return stays

    def note_callers(self, key: Hashable, callers: int) -> None:
        """Note how many threads of the caller's process share calls of a function; the most of them are told of."""
        self._callers[key] = max(callers, self._callers.get(key, 0))

    def wanted_workers(self, *, now_s: float, current: int, busy: int, backlog: int | None) -> int:
        """Choose how many workers there should be.

        Idle workers stay, as they cost nothing but memory: few calls left keep the pool from growing, and never
        make it smaller.

        Args:
            now_s: The time.
            current: Workers that were started.
            busy: Workers that have work.
            backlog: Calls waiting and running, or None where nobody knows.

        Returns:
            A number between ``min_workers`` and ``max_workers``; above ``current`` only if that many calls are left.
        """
        self._log.tell_time(now_s)
        controller = self._controller
        before = controller.level
        wish = controller.step(self._bounds(), now_s=now_s, current=current, busy=busy, backlog=backlog)
        if wish is not None:
            self._decide_workers(before, wish)
            self._references = {key: profile.call_s for key, profile in self._profiles.items()}
        level = controller.level
        if backlog is not None and level > current:
            level = max(current, min(level, backlog), self.limits.min_workers)
        return level

    @property
    def most_workers(self) -> int:
        """The most workers that memory and ``max_workers`` allow."""
        return find_ceiling(self._bounds()).workers

    def memory_share(self) -> int:
        """Return the bytes by which a worker may have grown before it is replaced between chunks."""
        return self._max_memory // max(1, self._controller.level)

    # --- what there is to know ---

    def forecast(
        self,
        key: Hashable,
        calls: int,
        *,
        workers: int | None = None,
        chunksize: int | None = None,
        load_s: float = 0.0,
    ) -> Forecast:
        """Predict what calls of a measured function take here, and in workers that have to be started. Decides nothing.

        Args:
            key: The function; it was observed.
            calls: Number of calls, >= 0.
            workers: Workers, >= 1; None for the fewest that are predicted to be within 2 % of the fastest.
            chunksize: Calls a chunk, >= 1; None for the tuner's choice.
            load_s: Seconds of processor time that each worker needs once, to load the function.
        """
        profile = self._profiles[key]
        if workers is not None:
            return self._forecast(profile, calls, workers, chunksize, load_s=load_s)
        mix = Mix(profile.call_s, profile.call_s * profile.waiting_share, 0.0, 1.0)
        wish = choose_worker_count(mix, self._bounds(), backlog=calls)
        candidates = [
            self._forecast(profile, calls, count, chunksize, load_s=load_s) for count in range(1, wish.workers + 1)
        ]
        enough_s = AS_GOOD * min(candidate.parallel_s for candidate in candidates)
        chosen = next(candidate for candidate in candidates if candidate.parallel_s <= enough_s)
        reason = wish.reason if chosen.workers == wish.workers else "more workers are predicted to bring nothing"
        return chosen._replace(reason=reason)

    @property
    def plan(self) -> Plan:
        """What the executor is doing, and why, as decided last. Any thread may read it."""
        key, level = self._key, self._controller.level
        profile = self._profiles.get(key)
        chunksize = self._log.chunksize(key)
        serial_s = parallel_s = None
        if profile is not None and profile.calls and self._remaining is not None:
            serial_s, parallel_s = self._predict(profile, self._remaining, ready_workers=level)
        lane = self._log.lane(key)
        if lane is Lane.CALLER:
            return Plan(lane, 0, chunksize, self._say_forecast(key), serial_s, serial_s)
        if lane in self._helping:
            callers = self._callers_of(key)
            here_s = None if serial_s is None else serial_s / callers
            return Plan(lane, callers, chunksize, self._say_callers(key), here_s, serial_s)
        return Plan(self._lane, level, chunksize, self._reason, parallel_s, serial_s)

    @property
    def profiles(self) -> Mapping[Hashable, FunctionProfile]:
        """The profiles of the 256 functions measured last, the latest at the end."""
        return self._profiles

    def profile(self, key: Hashable) -> FunctionProfile | None:
        """Return what is known of a function, or None."""
        return self._profiles.get(key)

    # --- inside ---

    def _add_profile(self, key: Hashable) -> FunctionProfile:
        if len(self._profiles) >= MOST_PROFILES:
            oldest, _ = self._profiles.popitem(last=False)
            self._forget_decisions(oldest)
            self._growth = max(profile.memory_growth for profile in self._profiles.values())
        profile = self._profiles[key] = FunctionProfile()
        return profile

    def _confirm(self, key: Hashable, profile: FunctionProfile, m: Measurement) -> FunctionProfile:
        """Let go of what was known before once workers have measured a function; at once if it is of no use."""
        if profile.surprises and profile.remembered:
            profile = self._profiles[key] = FunctionProfile()
            profile.observe(m)
            del self._known[key]
        elif m.lane not in self._helping:
            del self._known[key]
        return profile

    def _bounds(self) -> Bounds:
        known = self._known_bounds
        fork_s = self.costs.fork_s
        if known is None or known.worker_bytes != self._growth or known.fork_s != fork_s:
            known = self._known_bounds = Bounds(
                cores=self.machine.cores,
                physical_cores=self.machine.physical_cores,
                min_workers=self.limits.min_workers,
                max_workers=self._max_workers,
                max_memory=self._max_memory,
                worker_bytes=self._growth,
                fork_s=fork_s,
                most_at_once=self.limits.most_at_once,
            )
        return known

    def _choose(self, profile: FunctionProfile, remaining: int | None, workers: int, proven: int) -> int:
        costs = self._costs_of(profile)
        call_bytes = profile.call_bytes
        target_s = self.limits.target_chunk_duration
        if self._controller.trial is not None:
            target_s = min(target_s, EXPLORING_TARGET_S)
        return choose_chunksize(
            profile.call_s,
            workers=workers,
            remaining=remaining,
            proven=proven,
            target_s=target_s,
            dispatch_s=costs.dispatch_s * (1.0 - profile.waiting_share),  # an idle worker wastes no core that waits
            ship_chunk_s=costs.ship_chunk_s,
            ship_call_s=costs.ship_call_s + costs.ship_byte_s * call_bytes,
            call_bytes=call_bytes,
            payload_budget=PAYLOAD_SHARE * self._max_memory / workers,
        )

    def _costs_of(self, profile: FunctionProfile) -> Costs:
        costs = self.costs if profile.byte_s is None else self.costs._replace(ship_byte_s=profile.byte_s)
        return cost_model.for_plain_calls(costs) if profile.is_plain else costs

    def _predict(
        self, profile: FunctionProfile, calls: int, *, ready_workers: int, once_bytes: int = 0
    ) -> tuple[float, float]:
        """Return the predicted seconds in the caller, and in workers."""
        share = profile.waiting_share
        most = find_ceiling(self._bounds()).workers
        cores = self.machine.cores
        wanted = max(1, most if share >= 1 else min(most, max(cores, int(cores / (1 - share)))))
        seen = self._forecast(profile, calls, wanted, None, once_bytes=once_bytes, start_up=ready_workers == 0)
        return seen.serial_s, seen.parallel_s

    def _forecast(
        self,
        profile: FunctionProfile,
        calls: int,
        workers: int,
        chunksize: int | None,
        *,
        once_bytes: int | None = None,
        start_up: bool = True,
        load_s: float = 0.0,
    ) -> Forecast:
        """Predict with so many workers; ``once_bytes`` None means that they do not have the function yet."""
        size = chunksize or self.limits.chunksize or self._choose(profile, calls, workers, calls)
        parallel_s = predict_parallel_s(
            calls,
            profile.call_s,
            self._costs_of(profile),
            workers=workers,
            cores=self.machine.cores,
            chunksize=size,
            call_bytes=profile.call_bytes,
            once_bytes=profile.function_bytes if once_bytes is None else once_bytes,
            waiting_share=profile.waiting_share,
            start_up=start_up,
            load_s=load_s,
        )
        return Forecast(workers, size, predict_serial_s(calls, profile.call_s), parallel_s)

    # --- reasons ---

    def _say_forecast(self, key: Hashable) -> str:
        """Say what was predicted for a function last; without a prediction, what is known in general."""
        forecast = self._forecasts.get(key)
        if forecast is None:
            profile = self._profiles.get(key)
            if profile is None or not profile.calls:
                return self._reason
            return f"Calls take {say_seconds(profile.call_s)}: their caller ran them while it waited for the results."
        call_s, calls, serial_s, parallel_s = forecast
        times = f"{say_seconds(serial_s)} here and {say_seconds(parallel_s)} in workers"
        return f"Calls take {say_seconds(call_s)}: {calls:,} more would take {times}."

    def _say_callers(self, key: Hashable) -> str:
        return (
            "Calls leave no trace and let go of the interpreter's lock: "
            f"{say_count(self._callers_of(key), 'thread')} share them here."
        )

    def _callers_of(self, key: Hashable) -> int:
        return self._callers.get(key, self.machine.cores)

    def _decide_workers(self, before: int, wish: Wish) -> None:
        self._reason = make_sentence(wish.reason)
        self._log.add("workers", before, wish.workers, self._reason)

    def _forget_decisions(self, key: Hashable) -> None:
        reason = f"It is not among the {MOST_PROFILES} functions measured last, and begins anew."
        self._log.forget(key, reason)
        self._shipped.discard(key)
        self._known.pop(key, None)
        for table in (self._forecasts, self._callers):
            table.pop(key, None)


def find_most_workers(max_workers: int | None, cores: int) -> int:
    """Return the most workers that there may be where memory is no bound."""
    return min(_cap_workers(max_workers) or WAITERS_PER_CORE * cores, MOST_AT_ONCE)


def _cap_workers(max_workers: int | None) -> int | None:
    """Return the hard cap: the user's, and the system's."""
    caps = [cap for cap in (max_workers, MOST_WORKERS) if cap is not None]
    return min(caps, default=None)


def _say_rest(calls: int | None) -> str:
    if calls is None:
        return "nobody knows how many are left"
    return f"{calls:,} {'is' if calls == 1 else 'are'} left"
