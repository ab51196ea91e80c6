"""Frames on a byte stream."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from amorsize_executor.wire.framing import FrameReader, frame

METAS = st.tuples(st.integers(), st.text(max_size=5), st.lists(st.integers(0, 9), max_size=3))
BLOBS = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(32_760, 32_775).map(lambda size: b"\7" * size)), max_size=4
)
FRAMES = st.lists(st.tuples(st.integers(0, 255), METAS, BLOBS), max_size=5)


def read_in_steps(stream: bytes, steps: list[int], ahead: int) -> list[tuple[int, tuple, bytes]]:
    """Feed a reader the stream in steps of these sizes, in turn; return the frames."""
    reader, found, at, turn = FrameReader(ahead), [], 0, 0
    while at < len(stream):
        target = reader.target()
        assert len(target) > 0
        assert ahead or len(target) <= len(stream) - at
        count = min(len(target), steps[turn % len(steps)], len(stream) - at)
        target[:count] = stream[at : at + count]
        at, turn = at + count, turn + 1
        found += [(kind, meta, bytes(blobs)) for kind, meta, blobs in reader.received(count)]
    return found


@settings(max_examples=60, deadline=None)
@given(
    FRAMES,
    st.lists(st.sampled_from([1, 2, 3, 7, 16, 17, 1_000, 100_000]), min_size=1, max_size=4),
    st.sampled_from([0, 17, 100, 16_384]),
)
def test_any_split_of_the_stream_gives_the_same_frames(frames, steps, ahead):
    """However the bytes arrive, the frames are those that were sent, in order."""
    stream = b"".join(bytes(piece) for sent in frames for piece in frame(*sent))
    if len(stream) > 2_000:
        steps = [max(step, 3_000) for step in steps]
    expected = [(kind, meta, b"".join(blobs)) for kind, meta, blobs in frames]
    assert read_in_steps(stream, steps, ahead) == expected


def test_a_body_is_not_written_over_by_the_next_frame():
    """What was read keeps its bytes while later frames are read."""
    reader = FrameReader()
    kept = []
    for index in range(3):
        for piece in frame(1, (index,), [bytes([index]) * 100]):
            rest = memoryview(piece)
            while rest:
                target = reader.target()
                count = min(len(target), len(rest))
                target[:count] = rest[:count]
                rest = rest[count:]
                kept += [blobs for _kind, _meta, blobs in reader.received(count)]
    assert [bytes(body) for body in kept] == [bytes([index]) * 100 for index in range(3)]


def test_small_pieces_are_joined_and_large_ones_are_not_copied():
    """A frame of small blobs is one piece; a large blob is sent from where it lies."""
    assert len(frame(1, (), [b"a", b"b"])) == 1
    large = bytearray(100_000)
    pieces = frame(1, (), [b"a", large, b"b"])
    assert len(pieces) == 3
    assert pieces[1] is large
