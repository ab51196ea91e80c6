"""What ``figures`` compares, each part measured in a process of its own.

    python -m tests.benchmarks.probes PROBE [--quick]

Prints one JSON value: seconds, unless the probe says otherwise. A probe imports only what it needs, so that its process
has one thread where that matters.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import amorsize_executor as ae
from amorsize_executor import AdaptiveExecutor
from tests.benchmarks import tasks

NUMBERS = 500_000  # of 8 bytes: an array of 4 MB
CREW = 16


class Amount:
    """How much is measured: all of it, or a fiftieth to see that it runs."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick

    def __call__(self, count: int) -> int:
        """Return how many of ``count`` repetitions are made; at least two."""
        return max(2, count // 50) if self.quick else count


Probe = Callable[[Amount], Any]


def adaptive_isolated() -> Executor:
    """Return the executor with all calls in workers."""
    return AdaptiveExecutor(isolate=True)


# --- One call, and many -----------------------------------------------------------------------------------------


def round_trip(make: Callable[[], Executor]) -> Probe:
    """Measure one call from ``submit`` to its result, with workers warm; the median of many, one after the other."""

    def probe(amount: Amount) -> float:
        with make() as executor:
            for number in range(amount(300)):
                executor.submit(tasks.inc, number).result()
            return median(times_of(lambda: executor.submit(tasks.inc, 1).result(), amount(3000)))

    return probe


def flood(make: Callable[[], Executor]) -> Probe:
    """Measure a call of many that are all submitted before the first result is asked for; workers are warm."""

    def probe(amount: Amount) -> float:
        count = amount(20_000)
        with make() as executor:
            for future in [executor.submit(tasks.inc, number) for number in range(amount(500))]:
                future.result()
            began = time.perf_counter()
            results = [future.result() for future in [executor.submit(tasks.inc, number) for number in range(count)]]
            passed_s = time.perf_counter() - began
        assert results == list(range(1, count + 1))
        return passed_s / count

    return probe


def mapped(make: Callable[[], Executor]) -> Probe:
    """Measure a call of a map of many; workers are warm."""

    def probe(amount: Amount) -> float:
        count = amount(20_000)
        with make() as executor:
            list(executor.map(tasks.inc, range(amount(500))))
            began = time.perf_counter()
            results = list(executor.map(tasks.inc, range(count)))
            passed_s = time.perf_counter() - began
        assert results == list(range(1, count + 1))
        return passed_s / count

    return probe


@contextlib.contextmanager
def all_layers() -> Iterator[Executor]:
    """Yield the executor with all calls in workers, below all of its layers."""
    with tempfile.TemporaryDirectory() as folder:
        layers = {
            "retry": ae.RetryPolicy(),
            "circuit_breaker": ae.CircuitBreakerPolicy(),
            "rate_limit": ae.RateLimitPolicy(1e9, 1_000_000),
            "timeout": 60.0,
            "checkpoint": ae.CheckpointPolicy(f"{folder}/checkpoints", checkpoint_name="benchmark"),
            "dead_letters": ae.DLQPolicy(f"{folder}/letters"),
        }
        with AdaptiveExecutor(isolate=True, **layers) as executor:
            yield executor


def times_of(action: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of each of ``count`` repetitions."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return times


# --- Starting ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def meeting(count: int) -> Iterator[list[tuple[str, int, int]]]:
    """Make the arguments of calls that end when all of them run at once: the proof of so many workers."""
    with tempfile.TemporaryDirectory() as folder:
        yield [(folder, who, count) for who in range(count)]


def cold_start(make: Callable[[], Executor]) -> Probe:
    """Measure two workers from the making of the executor to its end; the process has one thread."""

    def probe(_amount: Amount) -> float:
        with meeting(2) as places:
            assert threading.active_count() == 1
            began = time.perf_counter()
            with make() as executor:
                workers = {future.result() for future in [executor.submit(tasks.meet, place) for place in places]}
            passed_s = time.perf_counter() - began
        assert len(workers) == 2
        return passed_s

    return probe


def crew_ready(make: Callable[[], Executor], function: Callable[..., int]) -> Probe:
    """Measure sixteen workers from the making of the executor until each has run a call; the process has threads."""

    def probe(_amount: Amount) -> float:
        over = threading.Event()
        thread = threading.Thread(target=over.wait)
        thread.start()
        try:
            with meeting(CREW) as places:
                began = time.perf_counter()
                with make() as executor:
                    workers = {future.result() for future in [executor.submit(function, place) for place in places]}
                    passed_s = time.perf_counter() - began
        finally:
            over.set()
            thread.join()
        assert len(workers) == CREW
        return passed_s

    return probe


def adaptive_crew(workers: int) -> Callable[[], Executor]:
    """Return what makes an isolating executor with exactly so many workers."""
    return lambda: AdaptiveExecutor(workers, isolate=True, min_workers=workers)


def standard_crew(workers: int, method: str) -> Callable[[], Executor]:
    """Return what makes a ProcessPoolExecutor with so many workers, started by a method."""
    return lambda: ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))


# --- Maps -------------------------------------------------------------------------------------------------------


def tiny_calls(run: Callable[[Any, Any], list[Any]]) -> Probe:
    """Measure a map over 200,000 calls of 1 µs, from the making of the executor to its end."""

    def probe(amount: Amount) -> float:
        items = [tasks.rounds_of(1)] * amount(200_000)
        began = time.perf_counter()
        results = run(tasks.compute, items)
        passed_s = time.perf_counter() - began
        assert len(results) == len(items)
        return passed_s

    return probe


def by_comprehension(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Map in plain Python."""
    return [function(item) for item in items]


def by_adaptive_map(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
    """Map with an executor as it is by default."""
    with AdaptiveExecutor() as executor:
        return list(executor.map(function, items))


def sleeps(make: Callable[[], Executor]) -> Probe:
    """Measure a map over 300 sleeps of 20 ms, from the making of the executor to its end."""

    def probe(amount: Amount) -> float:
        began = time.perf_counter()
        with make() as executor:
            results = list(executor.map(tasks.nap, [0.02] * amount(300)))
        passed_s = time.perf_counter() - began
        assert len(results) == amount(300)
        return passed_s

    return probe


# --- Arrays -----------------------------------------------------------------------------------------------------


def arrays_adaptive(amount: Amount) -> dict[str, float]:
    """Measure an array of 4 MB into a worker, and one out of it, each a call; segments are warm."""
    import numpy as np

    array = np.arange(NUMBERS, dtype=np.float64)
    with AdaptiveExecutor(1, isolate=True) as executor:
        steps = {
            "in": lambda: executor.submit(tasks.take, array).result(),
            "out": lambda: executor.submit(tasks.hand_out, NUMBERS).result(),
        }
        return both_ways(steps, amount)


def arrays_pickled(amount: Amount) -> dict[str, float]:
    """Measure the same through ``multiprocessing.Pipe``, which pickles."""
    import numpy as np

    array = np.arange(NUMBERS, dtype=np.float64)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=serve_arrays, args=(theirs,))
    process.start()

    def ask(request: Any) -> Any:
        ours.send(request)
        return ours.recv()

    try:
        return both_ways({"in": lambda: ask(array), "out": lambda: ask(NUMBERS)}, amount)
    finally:
        ours.send(None)
        process.join()


def serve_arrays(connection: Any) -> None:
    """Answer an array with its last number, and a number with an array."""
    while (request := connection.recv()) is not None:
        connection.send(tasks.hand_out(request) if isinstance(request, int) else tasks.take(request))


def both_ways(steps: dict[str, Callable[[], Any]], amount: Amount) -> dict[str, float]:
    """Return the median seconds of each direction, after a warm-up; what comes back is right."""
    assert steps["in"]() == NUMBERS - 1
    assert steps["out"]()[-1] == NUMBERS - 1
    medians = {}
    for direction, step in steps.items():
        times_of(step, amount(50))
        medians[direction] = median(times_of(step, amount(300)))
    return medians


# --- Memory -----------------------------------------------------------------------------------------------------


def stream_growth(*, isolate: bool) -> Probe:
    """Measure bytes of resident memory between the first million results of an ``imap`` and the ten millionth."""

    def probe(amount: Amount) -> int:
        first, last = amount(1_000_000), amount(10_000_000)
        with AdaptiveExecutor(isolate=isolate) as executor:
            results = executor.imap(abs, iter(range(last)))
            for _ in islice(results, first):
                pass
            before = resident_bytes()
            for result in results:  # noqa: B007 - the last one is looked at
                pass
            growth = resident_bytes() - before
            assert result == last - 1
        return growth

    return probe


def resident_bytes() -> int:
    """Return this process's resident memory, exactly: ``statm`` may lag behind by some pages a core."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Rss:"))


# --- Idle: measured from outside --------------------------------------------------------------------------------


def idle(make: Callable[[], Executor]) -> Probe:
    """Work a little, say so, and then do nothing until a line comes; ``figures`` watches meanwhile."""

    def probe(_amount: Amount) -> None:
        with make() as executor:
            for future in [executor.submit(tasks.nap, 0.02) for _ in range(20)]:
                future.result()
            print("idle", flush=True)
            sys.stdin.readline()

    return probe


PROBES: dict[str, Probe] = {
    "round_trip.adaptive": round_trip(adaptive_isolated),
    "round_trip.ppe": round_trip(ProcessPoolExecutor),
    "flood.adaptive": flood(adaptive_isolated),
    "flood.ppe": flood(ProcessPoolExecutor),
    "flood.layers": flood(all_layers),
    "map.adaptive": mapped(adaptive_isolated),
    "map.layers": mapped(all_layers),
    "cold_start.adaptive": cold_start(adaptive_crew(2)),
    "cold_start.ppe": cold_start(standard_crew(2, "fork")),
    "crew.adaptive": crew_ready(adaptive_crew(CREW), tasks.meet),
    "crew.forkserver": crew_ready(standard_crew(CREW, "forkserver"), tasks.meet),
    "crew_numpy.adaptive": crew_ready(adaptive_crew(CREW), tasks.meet_with_numpy),
    "crew_numpy.forkserver": crew_ready(standard_crew(CREW, "forkserver"), tasks.meet_with_numpy),
    "tiny_calls.adaptive": tiny_calls(by_adaptive_map),
    "tiny_calls.serial": tiny_calls(by_comprehension),
    "sleeps.adaptive": sleeps(AdaptiveExecutor),
    "sleeps.threads": sleeps(ThreadPoolExecutor),
    "sleeps.a_thread_each": sleeps(lambda: ThreadPoolExecutor(300)),
    "arrays.adaptive": arrays_adaptive,
    "arrays.pickled": arrays_pickled,
    "growth.adaptive": stream_growth(isolate=False),
    "growth.isolated": stream_growth(isolate=True),
    "idle.adaptive": idle(adaptive_crew(2)),
    "idle.ppe": idle(lambda: ProcessPoolExecutor(2)),
}


def main() -> None:
    """Measure once."""
    name, *rest = sys.argv[1:]
    amount = Amount(quick="--quick" in rest)
    if name in PROBES:
        print(json.dumps(PROBES[name](amount)))
        return
    from tests.benchmarks.floors import FLOORS

    print(json.dumps(FLOORS[name](amount)))


if __name__ == "__main__":
    main()
