"""What a worker remembers of finished calls until it sends them home."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from amorsize_executor.wire import framing
from amorsize_executor.wire.codec import OUT_OF_BAND_BYTES, Codec
from amorsize_executor.worker import recorder as recorder_module
from amorsize_executor.worker.recorder import MOST_BYTES, PipeRecorder, peak_bytes
from tests.segments import LARGE, Pair

NEVER_NS = 1 << 60


class Sent:
    """Collects the frames that a recorder sends."""

    def __init__(self):
        self.frames = []

    def __call__(self, pieces, descriptors):
        """Take a frame apart."""
        assert not descriptors
        reader = framing.FrameReader()
        data = b"".join(bytes(piece) for piece in pieces)
        while data:
            target = reader.target()
            count = min(len(target), len(data))
            target[:count] = data[:count]
            data = data[count:]
            frames = reader.received(count)
        ((kind, (first, count, layout, end, placed, _are_apart), blobs),) = frames
        assert (kind, placed) == (framing.OUTCOMES, [])
        self.frames.append((first, count, layout, end, bytes(blobs)))


@pytest.fixture
def sent():
    """Return what was sent."""
    return Sent()


@pytest.fixture
def recorder(sent):
    """Return a recorder of a chunk of one call, so that it needs no flushing thread."""
    recorder = PipeRecorder(sent, Codec(None, into_worker=False))
    recorder.begin_chunk(5, 1, NEVER_NS)
    recorder.begin_group(5)
    yield recorder
    for descriptor in filter(None, (recorder._meter._schedstat, recorder._statm)):
        os.close(descriptor)  # a worker keeps it to its end


def test_plain_results_travel_in_one_pickle(recorder, sent):
    """Scalars are pickled together, and numbered from the first call on."""
    for value in (1, "a", None):
        recorder.value(value, time.monotonic_ns())
    recorder.end_group(1)
    recorder.end_chunk(9, 8, 0)
    ((first, count, layout, end, data),) = sent.frames
    assert (first, count, layout) == (5, 3, None)
    assert pickle.loads(data) == [1, "a", None]
    assert end[:2] == (9, 8)


def test_results_are_snapshots(recorder, sent):
    """A mutable result is pickled when its call ends."""
    shared = []
    for number in range(3):
        shared.append(number)
        recorder.value(shared, time.monotonic_ns())
    recorder.end_chunk(1, 8, 0)
    ((_first, _count, layout, _end, data),) = sent.frames
    found = []
    for _failed, size in layout:
        found.append(pickle.loads(data[:size]))
        data = data[size:]
    assert found == [[0], [0, 1], [0, 1, 2]]


@pytest.mark.parametrize("show", [bytearray, lambda shared: memoryview(shared).toreadonly()])
def test_results_beside_the_pickle_are_snapshots(recorder, sent, show):
    """What is read-only to who gets it may still be written to by the next call."""
    shared = bytearray(OUT_OF_BAND_BYTES)
    for number in range(2):
        shared[0] = number
        recorder.value(pickle.PickleBuffer(show(shared)), time.monotonic_ns())
    recorder.end_chunk(1, 7, 0)
    ((_first, _count, layout, _end, data),) = sent.frames
    assert [abs(size) // OUT_OF_BAND_BYTES for _failed, _size, size in layout] == [1, 1]
    assert [data[layout[0][1]], data[layout[0][1] + OUT_OF_BAND_BYTES + layout[1][1]]] == [0, 1]


def test_values_and_errors_keep_their_order(recorder, sent):
    """Errors and values of any kind are told apart by the layout, in the order of the calls."""
    recorder.value(1, time.monotonic_ns())
    recorder.error(ValueError("x"), time.monotonic_ns())
    recorder.value([2], time.monotonic_ns())
    recorder.end_chunk(1, 8, 0)
    assert [layout[0] for layout in sent.frames[0][2]] == [0, 1, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="needs memfd")
def test_the_flushing_thread_fills_no_segments(recorder, monkeypatch):
    """Those of the main thread may be on their way: who gets to know of segments has to hear of them in their order."""
    pair, sent = Pair(), []
    monkeypatch.setattr(recorder, "_pool", pair.pool)

    def send(_pieces, descriptors):
        sent.append(len(descriptors))
        for descriptor in descriptors:
            os.close(descriptor)

    monkeypatch.setattr(recorder, "_send", send)
    recorder._is_running_chunk = SimpleNamespace(wait=iter([None]).__next__)
    recorder._flushed_ns = 0
    recorder._out.append(b"x" * LARGE)
    with pytest.raises(StopIteration):
        recorder._flush_now_and_then()
    recorder._out.append(b"x" * LARGE)
    recorder.flush()
    assert sent == [0, 1]
    pair.close()


def test_unpickling_is_no_part_of_a_call(recorder, sent):
    """The worker spends it beside its calls."""
    began = time.monotonic_ns() - 40_000_000
    recorder.note_unpickling(30_000_000)
    recorder.value(1, began)
    recorder.end_group(7)
    recorder.end_chunk(1, 6, 0)
    ((_function, calls, wall_s, _cpu, _waiting, squares_s2, longest_s, _bytes_out, _beside_s),) = sent.frames[0][3][2]
    assert calls == 1
    assert 0.01 <= wall_s == longest_s
    assert wall_s < 0.03
    assert squares_s2 == pytest.approx(wall_s**2)


def test_much_is_sent_early(recorder, sent):
    """Outcomes above the limit in bytes do not wait for the end of the chunk."""
    recorder.value(b"x" * (MOST_BYTES + 1), time.monotonic_ns())
    assert len(sent.frames) == 1
    recorder.value(1, time.monotonic_ns())
    recorder.end_chunk(1, 7, 0)
    assert [(first, count) for first, count, *_ in sent.frames] == [(5, 1), (6, 1)]


def test_flushing_when_there_is_nothing(recorder, sent):
    """An empty flush sends nothing, and the end of a chunk is told even without outcomes."""
    recorder.flush()
    assert sent.frames == []
    recorder.end_chunk(1, 5, 0)
    assert [frame[:2] for frame in sent.frames] == [(5, 0)]


def test_no_room_for_a_flushing_thread(recorder, sent, monkeypatch):
    """Outcomes go home between calls then, and at the end."""
    monkeypatch.setattr(threading.Thread, "start", refuse_to_start)
    recorder.begin_chunk(5, 2, 0)
    recorder.value(1, time.monotonic_ns())
    recorder.value(2, time.monotonic_ns())
    recorder.end_chunk(1, 7, 0)
    assert [frame[:2] for frame in sent.frames] == [(5, 1), (6, 1), (7, 0)]


def refuse_to_start(_thread):
    """Do as a system that has no room for another thread."""
    raise RuntimeError


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_units_of_the_peak(monkeypatch, platform, unit):
    """The systems count resident memory in units of their own."""
    monkeypatch.setattr(recorder_module.sys, "platform", platform)
    monkeypatch.setattr(recorder_module.resource, "getrusage", lambda _who: SimpleNamespace(ru_maxrss=5000))
    assert peak_bytes() == 5000 * unit
