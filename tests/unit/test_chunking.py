"""How many calls travel together."""

import pytest

from amorsize_executor.tuning.chunking import choose_chunksize


def choose(call_s, **changes):
    """Choose with plenty of everything but what the case changes."""
    given = {"workers": 2, "remaining": 10**9, "proven": 10**6, "ship_call_s": 1e-9} | changes
    return choose_chunksize(call_s, **given)


@pytest.mark.parametrize(("call_s", "size"), [(1e-3, 200), (0.01, 20), (0.15, 1), (5.0, 1)])
def test_aims_at_the_target(call_s, size):
    """A chunk takes ``target_s``, or is one call."""
    assert choose(call_s) == size


def test_nothing_measured():
    """Before the first measurement a chunk is one call, whatever is left."""
    assert choose(1e-6, proven=0) == 1


def test_grows_at_most_to_the_double():
    """A chunk has at most twice as many calls as a measured run had."""
    assert choose(1e-6, proven=7) == 14


def test_remaining_is_shared():
    """No chunk has more than half of a worker's even share of the rest."""
    assert choose(1e-2, workers=4, remaining=80) == 10
    assert choose(1e-2, workers=4, remaining=None) == 20


def test_dispatch_cost_is_a_floor():
    """Idling between chunks is at most 2 %, even where half of the even share would be less."""
    assert choose(1e-4, workers=2, remaining=400, dispatch_s=3e-4) == 150


def test_floor_leaves_no_worker_without():
    """The floor never takes more than the even share."""
    assert choose(1e-4, workers=4, remaining=40, dispatch_s=3e-4) == 10


def test_busy_parent_gets_longer_chunks():
    """A parent that is slow to dispatch gets chunks above the target."""
    assert choose(1e-3, remaining=None, dispatch_s=2e-2) == 1000


def test_dispatcher_is_at_most_half_busy():
    """With 10,000 workers a chunk is so long that serving all of them takes half of it."""
    size = choose(0.5, workers=10_000, remaining=None, ship_chunk_s=5e-5, ship_call_s=6e-6)
    busy_s = 10_000 * (5e-5 + size * 6e-6)
    assert busy_s <= size * 0.5 / 2
    assert size == 3


def test_small_rest_on_a_large_cluster_is_spread():
    """Where less is left than a long chunk for each, chunks are as short as ends soonest."""
    assert choose(1e-3, workers=1000, remaining=1000, ship_chunk_s=5e-5) == 8


def test_payload_is_bounded():
    """Arguments and results of a chunk fit into the budget, and a call that does not still travels, alone."""
    assert choose(1e-6, call_bytes=1000.0, payload_budget=10_500.0) == 10
    assert choose(1e-6, call_bytes=1e9, payload_budget=10_500.0) == 1


def test_encoding_is_bounded():
    """Encoding a chunk takes a tenth of the target at most, however cheap the calls are."""
    assert choose(1e-7, workers=1, ship_call_s=1e-5) == 2000


def test_last_call():
    """One call left is a chunk."""
    assert choose(1e-6, remaining=1) == 1
    assert choose(1e-6, remaining=0) == 1
