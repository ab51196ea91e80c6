"""What workers really cost on this machine, measured once a process by running calls that do nothing."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from amorsize_executor.executor import AdaptiveExecutor
from amorsize_executor.tuning.cost_model import Costs

_ROUND_TRIPS = 64
_CHUNKS = 40
_CALLS_A_CHUNK = 250
_BLOBS = 8
_BLOB_BYTES = 1 << 20

_MOST_LOADS = 256

_lock = threading.Lock()
_known: dict[str, Costs] = {}
_loads: OrderedDict[Hashable, float] = OrderedDict()


def measure_costs(executor_type: str, *, again: bool = False) -> Costs:
    """Return what workers cost: about 0.1 s at the first time, at once from then on.

    Args:
        executor_type: ``"process"`` or ``"thread"``.
        again: Measure anew.
    """
    with _lock:
        if again or executor_type not in _known:
            _known[executor_type] = run_nothing(executor_type)
        return _known[executor_type]


def known_costs(executor_type: str) -> Costs | None:
    """Return what was measured in this process, or None."""
    return _known.get(executor_type)


def run_nothing(executor_type: str) -> Costs:
    """Start workers, send them calls that do nothing, and return what their executor's tuner has learned."""
    is_process = executor_type == "process"
    began = time.perf_counter()
    # With isolation, or else with an initializer, nothing is run by this thread instead of by a worker.
    executor = AdaptiveExecutor(isolate=True) if is_process else AdaptiveExecutor(backend="thread", initializer=int)
    with executor:
        executor.submit(abs, 0).result()
        start_up_s = time.perf_counter() - began  # with the zygote, and the answer of the first call
        for chunksize, calls in ((1, _ROUND_TRIPS), (_CALLS_A_CHUNK, _CHUNKS * _CALLS_A_CHUNK)):
            began = time.perf_counter()
            for _ in executor.map(abs, range(calls), chunksize=chunksize):
                pass
        flood_s = (time.perf_counter() - began) / calls  # a call that does nothing, with all that belongs to it
        if is_process:
            for _ in executor.map(len, [bytes(_BLOB_BYTES)] * _BLOBS, chunksize=1):
                pass
        costs = executor._engine.tuner.costs  # noqa: SLF001 - what it has learned
    # The tuner measures what sending costs; what receiving costs shows in how long the flood took.
    call_s = max(costs.ship_call_s, flood_s - costs.ship_chunk_s / _CALLS_A_CHUNK)
    return costs._replace(start_up_s=start_up_s, ship_call_s=call_s)


def measure_load(func: Callable[..., Any], key: Hashable, *, again: bool = False) -> float:
    """Return the seconds that a new worker takes to load a function: to import its module, to unpickle its state.

    The function travels to a worker and is not called. About 0.2 s, once a function.

    Args:
        func: The function; it pickles.
        key: What it is known by.
        again: Measure anew.

    Raises:
        Exception: What the worker raises that cannot load it.
    """
    with _lock:
        if again or key not in _loads:
            with AdaptiveExecutor(1, isolate=True) as executor:
                times = [time.perf_counter()]
                for argument in (None, func, func):
                    executor.submit(callable, argument).result()
                    times.append(time.perf_counter())
            _loads[key] = max(0.0, (times[2] - times[1]) - (times[3] - times[2]))
            while len(_loads) > _MOST_LOADS:
                _loads.popitem(last=False)
        return _loads[key]
