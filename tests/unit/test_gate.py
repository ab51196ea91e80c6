"""How many errors workers may make before a breaker has heard of them."""

from collections import Counter
from types import SimpleNamespace

import pytest

from amorsize_executor.engine.gate import Gate


def gate_with(left, errors_in_hand):
    """Return a gate and its workers, of which each may have made some errors; ``left`` would open the breaker."""
    workers = {number: SimpleNamespace(errors_in_hand=errors) for number, errors in enumerate(errors_in_hand)}
    pipeline = SimpleNamespace(errors_left=lambda: left)
    queue = SimpleNamespace(head=lambda: SimpleNamespace(source=SimpleNamespace(pipeline=pipeline)))
    engine = SimpleNamespace(workers=workers, queue=queue, counts=Counter(), notify=None)
    return Gate(engine), list(workers.values())


@pytest.mark.parametrize(
    ("left", "errors_in_hand", "has_room"),
    [
        (5, [0, 0], True),
        (1, [0, 1], True),  # the other one's call runs already
        (1, [0, 2], False),  # one more would make three, and one and the other one's are two
        (2, [0, 2], True),
        (1, [0, 1, 1], True),
        (1, [0, 2, 1], False),
        (1, [0], True),
        (0, [0, 9], True),  # it is open: calls are refused, not sent
        (None, [0, 9], True),
    ],
)
def test_a_chunk_waits_while_others_may_make_more_errors_than_are_left(left, errors_in_hand, has_room):
    """No more errors than those that open the breaker, and one for each other worker."""
    gate, workers = gate_with(left, errors_in_hand)
    assert gate.has_room(workers[0]) is has_room
