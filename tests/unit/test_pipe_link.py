"""The parent's end of a worker's socket: frames and the descriptors that belong to them, whatever the socket takes."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import sys

import pytest

from amorsize_executor.backends import pipe_link
from amorsize_executor.backends.base import Chunk, Group
from amorsize_executor.backends.pipe_link import PipeLink
from amorsize_executor.wire import buffers, framing
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.functions import ONE, FunctionTable
from amorsize_executor.wire.segments import SegmentMap
from amorsize_executor.worker.control_word import flags_of, new_line
from tests.segments import LARGE, segments_open

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs memfd")


class Hub:
    """A reactor that only remembers."""

    def __init__(self):
        self.wants_write = False
        self.later = []

    def watch(self, descriptor, callback, *, write=False):
        self.wants_write, self.callback = write, callback

    def unwatch(self, descriptor):
        self.wants_write = False

    def call_later(self, seconds, callback):
        self.later.append(callback)


@pytest.fixture
def hub():
    """Return a reactor."""
    return Hub()


@pytest.fixture
def far_end():
    """Return both ends of a socket that takes little at once."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def link(hub, far_end):
    """Return a link; it leaves no segment behind."""
    line = new_line()
    link = PipeLink(1, far_end[0], line, Codec(None, into_worker=True), hub, None)
    link.map_there = SegmentMap(flags_of(line, into_worker=True))
    yield link
    link.close()
    link.map_there.close()
    assert segments_open() == 0


def write(link, number, *, is_large):
    """Queue a frame with a number, padding, and a large buffer of that number or none."""
    content = [pickle.PickleBuffer(bytes([number]) * LARGE)] if is_large else []
    aside = buffers.set_aside(content, link._pool)
    pieces = framing.frame(
        framing.CALLS, (number, aside.placed), [bytes(1000 * (number % 5)), bytes(40_000), *aside.raws]
    )
    link._write(pieces, link._pool.descriptors(aside.placed))


def read(link, theirs, most):
    """Read frames, at most so many bytes at once; return pairs of number and content of its buffer, None for none."""
    reader, found = framing.FrameReader(), []
    theirs.setblocking(False)
    while True:
        try:
            count = link.map_there.receive_into(theirs, reader.target()[:most])
        except BlockingIOError:
            if not link._out:
                return found
            link._drain()
            continue
        for _kind, (number, placed), _blobs in reader.received(count):
            views = link.map_there.open(placed)
            found.append((number, bytes(views[0]) if views else None))


@pytest.mark.parametrize("most", [1000, 7777, 1 << 20])
def test_descriptors_come_with_their_frame(link, hub, far_end, most):
    """However little the socket takes, and however much is read at once, each frame finds its own segment."""
    link._pool._credit = 32
    frames = [(number, number % 3 != 1) for number in range(1, 40)]
    for number, is_large in frames:
        write(link, number, is_large=is_large)
    assert hub.wants_write
    assert len(link._passing) > 5
    found = read(link, far_end[1], most)
    expected = [(number, bytes([number]) * LARGE if is_large else None) for number, is_large in frames]
    placed = [(number, content) for number, content in found if content is not None]
    assert [number for number, _ in found] == [number for number, _ in frames]
    assert len(placed) > 20
    assert set(placed) <= set(expected)
    assert not link._passing


def test_what_was_not_sent_is_closed(link):
    """A link that is closed with frames in its queue closes their descriptors."""
    for number in range(1, 5):
        write(link, number, is_large=True)
    assert segments_open() > 0
    link.close()
    assert segments_open() == 0


def test_a_worker_that_is_gone(link, far_end):
    """What was for it is forgotten, descriptors too."""
    for number in range(1, 5):
        write(link, number, is_large=True)
    far_end[1].close()
    link._drain()
    assert not link._passing
    assert not link._out


def test_too_many_descriptors_on_their_way(link, hub, far_end, monkeypatch):
    """The system's bound on descriptors that nobody has received yet: the link tries again, and loses nothing."""

    def refuse(*_args):
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    monkeypatch.setattr(buffers, "send_message", refuse)
    write(link, 3, is_large=True)
    assert hub.later == [link._drain]
    monkeypatch.undo()
    hub.later.pop()()
    assert read(link, far_end[1], 1 << 20) == [(3, b"\3" * LARGE)]


def test_a_worker_waits_until_descriptors_can_go(monkeypatch):
    """A worker has nothing better to do than to try again."""
    ours, theirs = socket.socketpair()
    descriptor = os.memfd_create("amorsize-buffer")
    refusals = iter([OSError(errno.ETOOMANYREFS, "")] * 2)
    original = buffers.send_message

    def send(*args):
        for error in refusals:
            raise error
        return original(*args)

    monkeypatch.setattr(buffers, "send_message", send)
    monkeypatch.setattr(buffers, "RETRY_S", 0)
    buffers.send_all(ours, [b"head", b"rest"], [descriptor])
    data, descriptors, _flags, _address = socket.recv_fds(theirs, 100, 5)
    assert data[:4] == b"head"
    assert len(descriptors) == 1
    assert segments_open() == 1
    os.close(descriptors[0])
    ours.close()
    theirs.close()


def test_trimming_waits_for_quiet(link, hub, far_end):
    """Segments that were used since the last look stay; after a quiet while they go."""
    link._trim_when_idle()
    link._trim_when_idle()
    assert len(hub.later) == 1
    write(link, 1, is_large=True)
    assert read(link, far_end[1], 1 << 20) == [(1, b"\1" * LARGE)]
    hub.later.pop()()
    assert (len(link._pool), len(hub.later)) == (1, 1)
    hub.later.pop()()
    assert (len(link._pool), len(hub.later)) == (0, 0)
    assert pipe_link.TRIM_S >= 1


class PlainSocket:
    """A socket as Windows has it."""

    def __init__(self, connection):
        self.fileno, self.send, self.close = connection.fileno, connection.send, connection.close


def test_a_socket_that_takes_one_buffer_at_a_time(link, far_end):
    """All pieces leave in their order."""
    link._connection = PlainSocket(link._connection)
    for number in range(20):
        link._write(framing.frame(framing.CALLS, (number, []), [bytes(40_000)]))
    assert [number for number, _content in read(link, far_end[1], 1 << 20)] == list(range(20))


def test_each_chunk_has_its_own_bytes(link):
    """Where two are with the worker, what the second one weighs is not measured with the first."""
    function = FunctionTable(lambda: link._codec).register(abs, snapshot=False)
    for first, items in enumerate([["x" * 1000], ["y"]]):
        assert link.send(Chunk(first, first, [Group(function, ONE, first, items)])) == []
    took = (function.number, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0)
    reports = [link._report(chunk, chunk + 1, [took], 0, 0, 0) for chunk in (0, 1)]
    assert [report.measures[0][1].bytes_in > 1000 for report in reports] == [True, False]
    assert all(0 < report.measures[0][1].bytes_in < 1100 for report in reports)
