"""The one arithmetic of costs: what running calls here and running them in workers is predicted to take.

The executor steers by it, ``optimize()`` predicts with it, ``validate_optimization()`` measures it.
"""

import math
from typing import NamedTuple

SMOOTHING = 0.125
SHIPPING_RATE = 0.25
OUTLIER = 4.0
FIRST_STARTS = 2
LEAST_START_S = 1e-6
FASTEST_S = 1e-9
PLAIN_CALL_S = 5e-7
"""What parent and worker each spend beside a call with a number or a text, at most: twice what was measured."""


class Costs(NamedTuple):
    """What workers cost, in seconds; the initial values were measured on a 2-core machine.

    Attributes:
        ship_call_s: The parent's own work for a call: encoding, bookkeeping, resolving its future.
        ship_byte_s: The parent's own work for a byte of arguments or results.
        ship_chunk_s: The parent's own work for a chunk, whatever it holds.
        dispatch_s: How long a worker is idle between two chunks.
        start_up_s: From asking for the first worker to its readiness.
        fork_s: For each further worker.
        run_call_s: A worker's own work beside a call: noting what it took, and pickling a light result.
    """

    ship_call_s: float = 3e-6
    ship_byte_s: float = 2e-9
    ship_chunk_s: float = 5e-5
    dispatch_s: float = 3e-4
    start_up_s: float = 8e-3
    fork_s: float = 1.6e-3
    run_call_s: float = 1e-6


def for_plain_calls(costs: Costs) -> Costs:
    """Return what calls cost that travel many in one pickle, as their results do: no more than was measured of such."""
    ship_call_s, run_call_s = min(costs.ship_call_s, PLAIN_CALL_S), min(costs.run_call_s, PLAIN_CALL_S)
    return costs._replace(ship_call_s=ship_call_s, run_call_s=run_call_s)


def after_gap(costs: Costs, gap_s: float) -> Costs:
    """Take a worker's measured idle time between two chunks into ``dispatch_s``.

    A moving average of an eighth; one gap counts for at most four times the average, so that a parent that was
    stopped for a second does not make chunks long, and one that is slow for good does within ten chunks.
    """
    gap_s = min(max(gap_s, 0.0), OUTLIER * costs.dispatch_s + 1e-6)
    dispatch_s = costs.dispatch_s + SMOOTHING * (gap_s - costs.dispatch_s)
    return costs._replace(dispatch_s=dispatch_s)


def after_chunk(costs: Costs, beside_s: float, calls: int) -> Costs:
    """Take what a worker did beside so many calls into ``run_call_s``: a moving average of an eighth."""
    run_call_s = min(beside_s / calls, OUTLIER * costs.run_call_s)
    return costs._replace(run_call_s=max(costs.run_call_s + SMOOTHING * (run_call_s - costs.run_call_s), FASTEST_S))


def after_start_up(costs: Costs, seconds: float, *, starts: int, together: int = 1) -> Costs:
    """Take a measured start of a worker into ``start_up_s`` and ``fork_s``.

    The first two starts go into ``start_up_s``, half old and half new, and change ``fork_s`` in proportion: a slow
    way of starting is known at once. Later ones go into ``fork_s``: of workers asked for together each waits for
    those before it, so the n-th to be ready tells n times what one costs. Half old and half new if that is less, by
    an eighth if it is more.

    Args:
        costs: The costs so far.
        seconds: From asking for the worker to its readiness, >= 0.
        starts: How many starts were measured before.
        together: The worker's place, from 1, among those asked for together.
    """
    start_up_s, fork_s = costs.start_up_s, costs.fork_s
    if starts < FIRST_STARTS:
        start_up_s = max(start_up_s + (seconds - start_up_s) / 2, LEAST_START_S)
        fork_s *= start_up_s / costs.start_up_s
    else:
        one_s = min(seconds / together, OUTLIER * fork_s)
        fork_s += (one_s - fork_s) * (0.5 if one_s < fork_s else SMOOTHING)
    fork_s = max(fork_s, LEAST_START_S)
    return costs._replace(start_up_s=start_up_s, fork_s=fork_s)


def after_shipping(costs: Costs, seconds: float, calls: int, payload_bytes: int) -> Costs:
    """Take the parent's measured seconds for a chunk into the three costs of shipping.

    Each cost is multiplied by (measured / predicted) to the power of a quarter of its share in the prediction
    (exponentiated gradient, Kivinen and Warmuth 1997). Costs stay above zero; chunks of different shapes tell the
    costs apart, and with chunks of one shape their sum is right, which is what counts then.
    """
    chunk_s = costs.ship_chunk_s
    calls_s = costs.ship_call_s * calls
    bytes_s = costs.ship_byte_s * payload_bytes
    predicted_s = chunk_s + calls_s + bytes_s
    ratio = min(max(seconds / predicted_s, 1 / OUTLIER), OUTLIER)
    step = SHIPPING_RATE * math.log(ratio) / predicted_s
    return costs._replace(
        ship_call_s=max(costs.ship_call_s * math.exp(step * calls_s), FASTEST_S),
        ship_byte_s=max(costs.ship_byte_s * math.exp(step * bytes_s), FASTEST_S / 1000),
        ship_chunk_s=max(chunk_s * math.exp(step * chunk_s), FASTEST_S),
    )


def byte_cost(costs: Costs, seconds: float, calls: int, payload_bytes: int) -> float:
    """Return what a byte has cost the parent in a chunk of which little else has cost much, >= ``FASTEST_S`` / 1000."""
    others_s = costs.ship_chunk_s + calls * costs.ship_call_s
    return max((seconds - others_s) / payload_bytes, FASTEST_S / 1000)


def predict_serial_s(calls: int, call_s: float) -> float:
    """Predict the seconds of plain serial code for ``calls`` calls of ``call_s`` seconds each.

    Pure. Zero calls take no time.
    """
    return calls * call_s


def predict_parallel_s(
    calls: int,
    call_s: float,
    costs: Costs,
    *,
    workers: int,
    cores: int,
    chunksize: int = 1,
    call_bytes: float = 0.0,
    once_bytes: int = 0,
    waiting_share: float = 0.0,
    start_up: bool = False,
    load_s: float = 0.0,
) -> float:
    """Predict the seconds for ``calls`` calls in workers.

    The slowest of three is what it takes: the workers' time, shared as evenly as whole calls can be, with the idle time
    between chunks; the dispatcher's time, which nobody shares; and the processors' time, on which workers and
    dispatcher take turns. Workers are forked one after the other.

    Pure: equal inputs give equal predictions. More workers never make the prediction longer, unless they have to be
    started or have much to load.

    Args:
        calls: Number of calls left, >= 0.
        call_s: Seconds a call takes where it runs, >= 0.
        costs: What shipping, dispatch and start-up cost.
        workers: Workers that run calls, >= 1.
        cores: Usable processors of the machine, >= 1, shared by the workers and the parent.
        chunksize: Calls a chunk, >= 1.
        call_bytes: Bytes of a call's arguments and results; a worker spends as much on one as the parent.
        once_bytes: Bytes that each worker needs once: the function, where it is not there yet.
        waiting_share: Share of ``call_s`` that needs no processor, 0 to 1.
        start_up: Whether the workers have to be started first.
        load_s: Seconds of processor time that each worker needs once: imports of the function's module.

    Returns:
        Seconds, >= 0; never less than ``calls * call_s / min(workers, calls)``.
    """
    if calls <= 0:
        return 0.0
    chunks = math.ceil(calls / chunksize)
    lanes = min(workers, chunks)
    bytes_s = calls * costs.ship_byte_s * call_bytes
    shipping_s = calls * costs.ship_call_s + bytes_s + chunks * costs.ship_chunk_s
    workers_s = math.ceil(calls / lanes) * (call_s + costs.run_call_s) + (bytes_s + chunks * costs.dispatch_s) / lanes
    busy_s = calls * (call_s * (1.0 - waiting_share) + costs.run_call_s)
    processors_s = (busy_s + bytes_s + shipping_s) / cores
    once_s = costs.ship_byte_s * once_bytes * (1 + lanes)  # pickled, and sent to each
    once_s += load_s * max(1.0, lanes / cores)
    starting_s = costs.start_up_s + costs.fork_s * (lanes - 1) if start_up else 0.0
    return max(workers_s, shipping_s, processors_s) + once_s + starting_s
