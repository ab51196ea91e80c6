"""Segments: filled again only when nobody sees them, bounded, and gone with their users."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import threading

import pytest

from amorsize_executor.wire import segments
from amorsize_executor.wire.buffers import check_all_came
from amorsize_executor.wire.segments import FREE, LARGE_BYTES, LOST, MOST, USED, Allowance, SegmentMap, SegmentPool
from tests.segments import LARGE, Pair, segments_mapped, segments_open

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd")


@pytest.fixture
def pair():
    """Return two sides; nothing is left of them at the end."""
    pair = Pair()
    yield pair
    pair.close()
    gc.collect()
    assert (segments_open(), segments_mapped()) == (0, 0)


def content(number, size=LARGE):
    """Return bytes that tell which they are."""
    return bytearray([number % 251]) * size


def test_small_buffers_stay_in_the_frame(pair):
    """Below the bound the socket is faster."""
    (view,) = pair.send(content(1, LARGE_BYTES - 1))
    assert view == content(1, LARGE_BYTES - 1)
    assert len(pair.pool) == 0
    (view,) = pair.send(content(2, LARGE_BYTES))
    assert view == content(2, LARGE_BYTES)
    assert len(pair.pool) == 1


def test_a_segment_is_filled_again_when_its_view_is_gone(pair):
    """One after the other, buffers go through the same segment, and its descriptor goes once."""
    for number in range(20):
        (view,) = pair.send(content(number))
        assert view == content(number)
        assert pair.states == bytes([USED])
        del view
        assert pair.states == b""
    assert len(pair.pool) == 1
    assert segments_open() <= 4


def test_blobs_that_are_large_as_a_whole_share_a_segment(pair):
    """The first time it is made known, with room for more; from then on it is filled, while nobody sees it."""
    blobs = [content(number, LARGE_BYTES // 3) for number in range(4)]
    assert pair.send_together(*blobs) == (b"".join(blobs), False)
    assert pair.states == b""
    for _ in range(5):
        assert pair.send_together(*blobs, b"a") == (b"".join([*blobs, b"a"]), True)
    view, _are_apart = pair.send_together(*blobs)
    view[0] = 7  # what is shown to somebody may be written to
    others = [pair.send_together(*blobs) for _ in range(2)]
    assert [are_apart for _, are_apart in others] == [False, True]
    assert len(pair.pool) == 2
    assert view[0] == 7


def test_small_blobs_share_no_segment(pair):
    """Nor do those of a side that may have none."""
    assert pair.send_together(content(1), b"a")[1] is False
    assert pair.send_together(content(1, LARGE_BYTES // 2), b"a")[1] is False
    assert len(pair.pool) == 1
    pair.pool.close()
    pair.pool._flags = pair.flags[:]
    assert pair.send_together(content(1), b"a")[1] is False


def test_blobs_stay_in_the_frame_where_the_receiver_has_no_room(pair, monkeypatch):
    """What it could not map, nobody fills."""
    monkeypatch.setattr(
        SegmentMap, "_enter", lambda _self, _slot, _capacity, descriptors: os.close(descriptors.popleft())
    )
    for _ in range(10):
        assert pair.send_together(content(1), b"a") == (content(1) + b"a", False)


def test_a_view_of_a_view_keeps_the_segment(pair):
    """Whatever part of a buffer somebody still sees, nothing overwrites it."""
    (view,) = pair.send(content(1))
    part = memoryview(view)[10:20]
    del view
    pair.send(content(2))
    assert part == content(1, 10)
    assert pair.flags[0] == USED
    del part
    assert pair.flags[0] == FREE


def test_writing_is_as_it_was(pair):
    """What was read-only arrives read-only; what could be written to can be."""
    writable, readonly = pair.send(content(1), bytes(content(2)))
    assert (writable.readonly, readonly.readonly) == (False, True)
    writable[0] = 9
    assert (writable[0], writable[1], readonly[0]) == (9, 1, 2)


def test_few_small_segments_make_room_for_a_large_one():
    """Also where fewer segments are allowed than there are slots, those that are not in use are let go of."""
    pair = Pair(2)
    pair.send(content(1), content(2))
    for number in range(3):
        (view,) = pair.send(content(number, 10 * LARGE))
        assert view == content(number, 10 * LARGE)
        del view
    assert pair.pool.uses == 5
    assert len(pair.pool) == 2
    pair.close()


def test_the_pool_grows_by_use_only(pair):
    """Where everything is kept, four segments are made and the rest travels in frames; where not, many."""
    kept = [pair.send(content(number))[0] for number in range(10)]
    assert len(pair.pool) == 4
    assert [view[0] for view in kept] == list(range(10))
    kept.clear()
    for _ in range(5):
        pair.send(*[content(number) for number in range(40)])
    assert len(pair.pool) == MOST


def test_the_bytes_are_bounded(pair, monkeypatch):
    """The pool drops what is not in use before it has too much, and refuses what is too large for it."""
    monkeypatch.setattr(segments, "MOST_BYTES", 4 << 20)
    pair.send(content(1, 1 << 20), content(2, 1 << 20))
    (view,) = pair.send(content(3, 3 << 20))
    assert pair.pool.held_bytes <= 4 << 20
    assert view == content(3, 3 << 20)
    assert segments_mapped() <= 4
    (other,) = pair.send(content(4, 5 << 20))
    assert other == content(4, 5 << 20)
    assert pair.pool.held_bytes <= 4 << 20
    assert view == content(3, 3 << 20)


def test_a_full_pool_makes_room_for_another_size(pair, monkeypatch):
    """With all slots taken, the one that was longest unused gives way."""
    monkeypatch.setattr(segments, "_CREDIT", 100)
    pair.pool._credit = 100
    pair.send(*[content(number) for number in range(MOST)])
    assert len(pair.pool) == MOST
    (view,) = pair.send(content(7, 10 * LARGE))
    assert view == content(7, 10 * LARGE)
    assert len(pair.pool) == MOST
    assert max(map(len, pair.pool._segments.values())) >= 10 * LARGE


def test_trimming_lets_go_of_what_nobody_sees(pair):
    """Both sides forget free segments; what is in view stays."""
    first, second = pair.send(content(1), content(2))
    del first
    pair.map.drop(pair.pool.trim())
    assert second == content(2)
    assert len(pair.pool) == 1
    del second
    pair.map.drop(pair.pool.trim())
    assert (segments_open(), segments_mapped()) == (0, 0)
    (view,) = pair.send(content(3))
    assert view == content(3)


def test_views_outlive_both_sides():
    """After the end of everything what somebody sees is still there, and his alone."""
    pair = Pair()
    (view,) = pair.send(content(1))
    pair.close()
    assert segments_open() <= 1
    assert view == content(1)
    view[0] = 77
    assert (view[0], view[1]) == (77, 1)
    del view
    assert (segments_open(), segments_mapped()) == (0, 0)


def test_a_late_release_touches_no_later_owner_of_the_flags():
    """The flags belong to the next worker by then."""
    pair = Pair()
    (view,) = pair.send(content(1))
    pair.close()
    pair.flags[0] = USED
    del view
    assert pair.flags[0] == USED


def test_without_an_offer_nothing_is_made():
    """A side that may not have segments sends everything in frames."""
    pair = Pair(count=0)
    assert pair.send(content(1)) == [content(1)]
    assert len(pair.pool) == 0
    pair.close()


def test_an_offer_is_kept_to():
    """Of two segments that may be made, a third is not."""
    pair = Pair(count=2)
    views = pair.send(content(1), content(2), content(3))
    assert views == [content(1), content(2), content(3)]
    assert len(pair.pool) == 2
    pair.close()


def test_no_descriptors_left_to_send(pair, monkeypatch):
    """Where no file can be made, the buffer travels in the frame."""

    def refuse(*_args):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert pair.send(content(1)) == [content(1)]
    assert segments_open() == 0


def test_no_descriptors_left_to_receive(pair):
    """Where the receiver can open no more files, the buffer is lost, its reader told, and the next one comes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    aside = segments_open()
    filler = os.dup(0)
    highest = filler
    os.close(filler)
    original = pair.map.receive_into

    def receive_with_none_left(*args):
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
        held = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.dup(0))
            return original(*args)
        finally:
            for descriptor in held:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    pair.map.receive_into = receive_with_none_left
    views = pair.send(content(1))
    pair.map.receive_into = original
    assert views == [None]
    with pytest.raises(OSError, match="open files"):
        check_all_came(views)
    assert pair.states == bytes([LOST])
    assert pair.send(content(2)) == [content(2)]
    assert pair.send(content(3)) == [content(3)]
    assert aside == 0


@pytest.mark.timeout(60, method="signal")
def test_a_fork_shares_nothing(pair):
    """A child keeps what it inherits, whatever the parent does with it or with the segment; and the other way round."""
    (view,) = pair.send(content(1))
    ours, theirs = os.pipe()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            view[:5] = b"child"
            os.write(writing, b"x")
            os.read(ours, 1)  # the parent has written, let go, and sent others
            code = 0 if bytes(view[:5]) == b"child" and view[5:] == content(1)[5:] else 2
            del view
        finally:
            os._exit(code)
    os.read(reading, 1)
    assert view == content(1)
    view[:] = content(2)
    del view
    later = [pair.send(content(number))[0] for number in range(3, 9)]
    os.write(theirs, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert later == [content(number) for number in range(3, 9)]
    for descriptor in (ours, theirs, reading, writing):
        os.close(descriptor)


@pytest.mark.timeout(60, method="signal")
def test_a_forked_child_keeps_no_segments(pair):
    """What is nobody's view is not the child's either: it would keep the memory."""
    pair.send(content(1))
    assert segments_open() > 0
    pid = os.fork()
    if pid == 0:
        os._exit(10 * segments_open() + segments_mapped())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert pair.send(content(2)) == [content(2)]


def test_sides_that_are_made_while_all_give_up(pair):
    """Another thread may start a worker while one forks: all sides that there were part from their segments."""
    (view,) = pair.send(content(1))
    made = []

    def make(_frame, event, _argument):
        if event == "call":  # of whatever lists the sides
            made.append(SegmentMap(memoryview(bytearray(MOST))))

    sys.setprofile(make)
    try:
        segments.give_up_all()
    finally:
        sys.setprofile(None)
    assert made
    assert pair.flags[0] == LOST
    assert view == content(1)


def test_a_child_leaves_its_parents_flags_alone(pair):
    """What another thread received while this one forked is the child's own, and still the parent's to release."""
    (view,) = pair.send(content(1))
    pair.map.abandon()
    assert pair.flags[0] == USED
    view[0] = 5
    pair.pool._segments[0][1] = 9
    assert (view[0], view[2]) == (5, 1)
    assert pair.pool._segments[0][0] == 1
    del view
    assert pair.flags[0] == USED


def test_a_killed_receiver_leaves_nothing():
    """The sender closes its side; no memory has a name."""
    pair = Pair()
    ours, theirs = os.pipe()
    (view,) = pair.send(content(1))
    pid = os.fork()
    if pid == 0:
        os.write(theirs, b"x")
        signal.pause()
    os.read(ours, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert view == content(1)
    os.close(ours)
    os.close(theirs)
    pair.close()
    del view
    assert (segments_open(), segments_mapped()) == (0, 0)


def test_views_die_in_any_thread(pair):
    """Segments are free again whoever lets go of them."""
    for number in range(50):
        views = pair.send(content(number), content(number + 1))
        thread = threading.Thread(target=views.clear)
        thread.start()
        thread.join()
        assert pair.states == b""
    assert len(pair.pool) == 2


def test_what_is_never_looked_at_is_released(pair):
    """A frame whose calls are not run lets go of its buffers."""
    pair.send(content(1), content(2))
    assert pair.states == b""
    assert pair.map.live == 0


def test_descriptors_that_are_never_sent_are_closed(pair):
    """Closing the pool closes them."""
    pair.pool.place(memoryview(content(1)))
    assert segments_open() > 0
    pair.pool.close()
    assert segments_open() == 0


def test_descriptors_are_shared_out():
    """However many workers, at most half of the descriptors go to segments; what ends gives back."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    allowance = Allowance()
    shares = [allowance.take() for _ in range(2000)]
    assert 0 < shares[0] <= MOST
    assert 3 * sum(shares) <= limit // 2 or limit == resource.RLIM_INFINITY
    for share in shares:
        allowance.give_back(share)
    assert allowance.take() == shares[0]


def test_switched_off(monkeypatch):
    """Nothing is offered where somebody does without memfd."""
    monkeypatch.setenv("AMORSIZE_WITHOUT", "memfd")
    assert Allowance().take() == 0


def test_a_pool_that_is_closed_places_nothing():
    """Which is what a child has after a fork."""
    pool = SegmentPool(memoryview(bytearray(MOST)))
    pool.close()
    assert pool.place(memoryview(content(1))) is None
