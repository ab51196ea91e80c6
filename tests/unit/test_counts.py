"""What parts cost in frames, pieces and commits: counted, since counts tell no noise."""

from __future__ import annotations

import os
import time

from amorsize_executor.middleware.base import Call, Outcome
from amorsize_executor.middleware.checkpoint import CheckpointPolicy, layer_of
from amorsize_executor.wire import framing
from amorsize_executor.wire.codec import Codec
from amorsize_executor.worker.recorder import PipeRecorder
from tests import payloads
from tests.processes import poll_until

NEVER_NS = 1 << 60
RESULTS = 1000


def test_outcomes_of_a_chunk_leave_in_one_piece():
    """A thousand small results leave a worker in one frame and one system call, with five bytes for each."""
    frames = []
    recorder = PipeRecorder(lambda pieces, _descriptors: frames.append(pieces), Codec(None, into_worker=False))
    recorder.begin_chunk(0, 1, NEVER_NS)
    recorder.begin_group(0)
    for number in range(RESULTS):
        recorder.value(number, time.monotonic_ns())
    recorder.end_group(1)
    recorder.end_chunk(1, RESULTS, 0)
    for descriptor in filter(None, (recorder._meter._schedstat, recorder._statm)):
        os.close(descriptor)  # a worker keeps it to its end
    assert [len(pieces) for pieces in frames] == [1]
    assert len(frames[0][0]) < 5 * RESULTS


def test_what_a_frame_adds():
    """A frame costs less than a hundred bytes of its own, and a large blob one more piece before and behind it."""
    meta = (1, 50_000_000, 0, [(1, 0, 0, 1, 10)])
    assert len(b"".join(framing.frame(framing.CALLS, meta, [b""]))) < 100
    assert len(framing.frame(framing.CALLS, meta, [bytes(1 << 20)])) == 2
    assert len(framing.frame(framing.CALLS, meta, [b"small", bytes(1 << 20), b"small", b"small"])) == 3


def test_commits_of_a_thousand_results(tmp_path):
    """A checkpoint commits once per hundred results, and at its end, with a writer thread that is never behind."""
    layer = layer_of(CheckpointPolicy(tmp_path, checkpoint_name="run"))
    layer.open()
    journal = layer._journal
    statements = []
    journal._writer.set_trace_callback(statements.append)
    for position in range(RESULTS):
        call = Call(payloads.square, (position,), {}, position, batch=0)
        layer.admit(call)
        layer.settle(call, Outcome(position * position))
        assert poll_until(lambda: len(journal._rows) < journal._commit_every, 30)
    layer.close()
    assert 10 <= statements.count("COMMIT") <= 14
