"""Laws of taking a sample ahead."""

from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor.advice.supply import Supply, spread

ITEMS = st.lists(st.integers(), max_size=50)
SHAPES = st.sampled_from([list, tuple, iter, lambda items: (item for item in items)])


@given(ITEMS, st.integers(1, 60), SHAPES)
def test_complete_gives_every_item_once_and_in_order(items, most, shape):
    """Whatever the iterable and the sample, all items come."""
    assert list(Supply(shape(items), most).complete()) == items


@given(ITEMS, st.integers(1, 60), SHAPES, st.data())
def test_taken_and_left_are_all(items, most, shape, data):
    """What was run and what is left make up the data, with nothing twice."""
    supply = Supply(shape(items), most)
    run = data.draw(st.sets(st.sampled_from([position for position, _ in supply.ahead]))) if supply.ahead else set()
    left = list(supply.without(run))
    whole = [items[position] for position in range(len(items)) if position not in run]
    assert left == whole


@given(st.integers(0, 10_000), st.integers(1, 200))
def test_spread_is_ascending_and_within(total, most):
    """As many positions as asked for or there are, ascending, from the first to the last."""
    positions = spread(total, most)
    assert len(positions) == min(total, most)
    assert positions == sorted(set(positions))
    assert all(0 <= position < total for position in positions)
    if len(positions) > 1:
        assert (positions[0], positions[-1]) == (0, total - 1)
