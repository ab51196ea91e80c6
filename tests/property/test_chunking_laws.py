"""Laws of chunk sizes, for all inputs."""

import math

from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor.tuning.chunking import MOST_CALLS, choose_chunksize

seconds = st.floats(0, 1e4, allow_nan=False)
costs = st.floats(1e-9, 10, allow_nan=False)
counts = st.integers(0, 10**12)
inputs = st.fixed_dictionaries(
    {
        "call_s": seconds,
        "workers": st.integers(1, 100_000),
        "remaining": st.none() | counts,
        "proven": counts,
        "target_s": st.floats(1e-6, 1e4),
        "dispatch_s": seconds,
        "ship_chunk_s": costs,
        "ship_call_s": costs,
        "call_bytes": st.floats(0, 1e12),
        "payload_budget": st.floats(0, 1e15) | st.just(math.inf),
    },
)


def choose(given_inputs):
    """Call with the first argument by position."""
    rest = dict(given_inputs)
    return choose_chunksize(rest.pop("call_s"), **rest)


@given(inputs)
def test_bounds_hold(case):
    """A size is a whole number >= 1, at most what is left, twice what was proven, and 2**20."""
    size = choose(case)
    assert isinstance(size, int)
    assert 1 <= size <= MOST_CALLS
    assert size <= max(1, 2 * case["proven"])
    if case["remaining"] is not None:
        assert size <= max(1, case["remaining"])


@given(inputs)
def test_payload_fits(case):
    """More than one call travels together only within the budget."""
    size = choose(case)
    assert size == 1 or size * case["call_bytes"] <= case["payload_budget"]


@given(inputs)
def test_equal_inputs_give_equal_sizes(case):
    """There is no hidden state."""
    assert choose(case) == choose(dict(case))


@given(inputs, st.integers(1, 1000))
def test_slower_calls_never_make_larger_chunks(case, factor):
    """Where calls take longer, no more of them travel together."""
    assert choose(case | {"call_s": case["call_s"] * factor}) <= choose(case)


@given(inputs, st.integers(1, 1000))
def test_more_proof_never_makes_smaller_chunks(case, factor):
    """More calls measured never hold a size back."""
    assert choose(case | {"proven": case["proven"] * factor}) >= choose(case)
