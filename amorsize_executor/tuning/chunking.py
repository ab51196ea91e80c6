"""How many calls travel together."""

from __future__ import annotations

import math

MOST_OVERHEAD = 0.02
MOST_DISPATCHER_SHARE = 0.5
MOST_SHIPPING_SHARE = 0.1
MOST_CALLS = 1 << 20
FASTEST_S = 1e-9
ROUNDING = 1e-6


def choose_chunksize(
    call_s: float,
    *,
    workers: int,
    remaining: int | None,
    proven: int,
    target_s: float = 0.2,
    dispatch_s: float = 3e-4,
    ship_chunk_s: float = 5e-5,
    ship_call_s: float = 6e-6,
    call_bytes: float = 0.0,
    payload_budget: float = math.inf,
) -> int:
    """Choose how many calls of one function the next chunk takes.

    Pure: equal inputs give equal sizes. The rules, a later one giving way to an earlier one:

    1. At least one call, at most what is left, at most twice what was measured in one run so far (``proven``);
       arguments and results of a chunk stay within ``payload_budget``.
    2. Not so long that encoding takes a tenth of ``target_s``: meanwhile the dispatcher serves nobody.
    3. Long enough for the dispatcher to be at most half busy: with w workers each asking every k * call_s seconds,
       w * (ship_chunk_s + k * ship_call_s) <= k * call_s / 2. When less is left than w such chunks hold, no chunk
       is longer than sqrt(remaining * ship_chunk_s / call_s), which ends soonest when a dispatcher has to serve
       workers one after the other.
    4. Long enough for idling between chunks to be at most 2 %, but not longer than remaining / workers, which
       would leave workers without any.
    5. Not longer than remaining / (2 * workers), so that the last chunks end together (the factoring rule, Hummel,
       Schonberg and Flynn 1992).
    6. As close to ``target_s`` as the others let it.

    Runs in: the dispatcher thread, for each chunk; about 1 us.

    Args:
        call_s: Seconds a call takes, >= 0.
        workers: Workers that share the rest, >= 1.
        remaining: Calls left, or None where nobody knows.
        proven: Largest number of calls that one measured run had; 0 means nothing was measured.
        target_s: Seconds a chunk should take, > 0.
        dispatch_s: Seconds a worker is idle between chunks.
        ship_chunk_s: The parent's own seconds for a chunk.
        ship_call_s: The parent's own seconds for a call, bytes included.
        call_bytes: Bytes of a call's arguments and results.
        payload_budget: Bytes that a chunk may hold.

    Returns:
        A number of calls >= 1, and <= max(1, remaining), max(1, 2 * proven) and 2**20.
    """
    if proven < 1 or (remaining is not None and remaining <= 1):
        return 1
    call_s = max(call_s, FASTEST_S)
    floor = dispatch_s / (MOST_OVERHEAD * call_s)
    encodable = MOST_SHIPPING_SHARE * target_s / ship_call_s
    size = min(max(floor, target_s / call_s), encodable)
    spare_s = MOST_DISPATCHER_SHARE * call_s - workers * ship_call_s
    busy_floor = min(workers * ship_chunk_s / spare_s, encodable) if spare_s > 0 else encodable
    if remaining is not None:
        even = remaining / workers
        size = min(size, max(even / 2, min(floor, even)))
        busy_floor = min(busy_floor, math.sqrt(remaining * ship_chunk_s / call_s))
    most = min(2 * proven, MOST_CALLS, remaining or MOST_CALLS)
    if call_bytes * most > payload_budget:
        most = int(payload_budget / call_bytes)
    return max(1, min(max(int(size + ROUNDING), math.ceil(busy_floor - ROUNDING)), most))
