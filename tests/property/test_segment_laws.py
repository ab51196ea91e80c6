"""Law: however buffers are sent, kept, let go of, forked or killed, what is in view never changes by itself."""

from __future__ import annotations

import gc
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from amorsize_executor.wire import segments
from tests.segments import Pair, segments_mapped, segments_open

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd")

UNIT = 4096
SIZES = st.integers(1, 12).map(lambda pages: pages * UNIT - 1)


class Segments(RuleBasedStateMachine):
    """One worker after the other, each with its segments; views of all of them."""

    held = Bundle("held")

    def __init__(self):
        super().__init__()
        self.before = segments.LARGE_BYTES, segments.MOST_BYTES
        segments.LARGE_BYTES, segments.MOST_BYTES = 2 * UNIT, 40 * UNIT
        self.pairs = [Pair()]
        self.seen = {}  # number -> (view, what it must show)
        self.number = 0

    def keep(self, view, content):
        self.number += 1
        self.seen[self.number] = view, content
        return self.number

    @rule(target=held, sizes=st.lists(SIZES, max_size=6), readonly=st.booleans())
    def send(self, sizes, readonly):
        """Send a frame with some buffers; all arrive as they were."""
        contents = [bytearray([(self.number + index) % 251]) * size for index, size in enumerate(sizes, 1)]
        views = self.pairs[-1].send(*(map(bytes, contents) if readonly else contents))
        assert views == contents
        assert all(view.readonly == readonly for view in views)
        return multiple(*[self.keep(view, content) for view, content in zip(views, contents)])

    @rule(number=consumes(held))
    def let_go(self, number):
        """Lose sight of a buffer."""
        del self.seen[number]

    @rule(number=consumes(held), target=held)
    def keep_a_part(self, number):
        """See only a part of it from now on."""
        view, content = self.seen.pop(number)
        return self.keep(view[5:-5], content[5:-5])

    @rule(number=held, value=st.integers(0, 255))
    def write(self, number, value):
        """Change what may be changed."""
        view, content = self.seen[number]
        if not view.readonly:
            view[:9] = content[:9] = bytes([value]) * 9

    @rule()
    def fork(self):
        """Do what happens before this process forks."""
        segments.give_up_all()

    @rule()
    def trim(self):
        """Let go of segments that nobody uses."""
        pair = self.pairs[-1]
        pair.map.drop(pair.pool.trim())

    @rule()
    def kill(self):
        """Lose a worker and get another one; what it sent is still there."""
        self.pairs.pop().close()
        self.pairs.append(Pair())

    @invariant()
    def nothing_changes_by_itself(self):
        """Compare all that is in view."""
        for view, content in self.seen.values():
            assert view == content

    @invariant()
    def it_is_bounded(self):
        """Neither too many segments nor too large ones."""
        pool = self.pairs[-1].pool
        assert len(pool) <= segments.MOST
        assert pool.held_bytes <= segments.MOST_BYTES

    def teardown(self):
        """Nothing is left when all is let go of."""
        self.pairs.pop().close()
        self.seen.clear()
        gc.collect()
        segments.LARGE_BYTES, segments.MOST_BYTES = self.before
        assert (segments_open(), segments_mapped()) == (0, 0)


TestSegments = Segments.TestCase
TestSegments.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
