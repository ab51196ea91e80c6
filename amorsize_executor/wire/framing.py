"""Frames on a byte stream: a kind, a pickled meta tuple of builtins, and raw blobs behind it.

    | kind 1 | pad 3 | meta length 4 | body length 8 |  meta  |  blobs ...  |

The meta tuple tells the lengths of the blobs. It holds only builtin types, so reading a frame never runs
a user's code: what a user sent is in the blobs, and each blob is decoded where its failure hurts one call.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import Any

HEADER = struct.Struct("<BxxxIQ")

# To the worker.
CALLS, FUNCTION, FORGET, EXIT, TRIM = 1, 2, 3, 4, 5
# From the worker.
READY, OUTCOMES, INITIALIZER_FAILED, TRIMMED = 16, 17, 18, 19

Frame = tuple[int, tuple[Any, ...], memoryview]
"""(kind, meta, blobs)"""

_LARGE = 32_768  # bytes above which copying a blob costs more than another system call
Bytes = bytes | bytearray | memoryview


def frame(kind: int, meta: tuple[Any, ...] = (), blobs: Sequence[Bytes] = ()) -> list[Bytes]:
    """Return the pieces of a frame, small ones joined so that they leave in one system call."""
    head = pickle.dumps(meta, 5)
    size = len(head) + sum(map(len, blobs))
    pieces: list[Bytes] = []
    small = [HEADER.pack(kind, len(head), size), head]
    for blob in blobs:
        if len(blob) < _LARGE:
            small.append(blob)  # type: ignore[arg-type]
        else:
            pieces += [b"".join(small), blob]
            small = []
    pieces.append(b"".join(small))
    return [piece for piece in pieces if len(piece)]


class FrameReader:
    """Puts frames together from whatever the socket yields; several small ones are read in one system call.

    Each body is a buffer of its own: what is unpickled from it may keep pointing into it. Large bodies are received
    where they stay.

    Args:
        ahead: Most bytes that are read before it is known what they are; at least a frame's header, and then nothing
            is read that is not the frame's own.
    """

    def __init__(self, ahead: int = 16_384) -> None:
        self._ahead = bytearray(max(ahead, HEADER.size))
        self._got = 0  # bytes in it
        self._body: bytearray | None = None  # of a frame that is not whole yet
        self._filled = 0
        self._kind = self._meta_size = 0

    def target(self) -> memoryview:
        """Return the place where the next bytes belong; never empty."""
        if self._body is None:
            return memoryview(self._ahead)[self._got :]
        return memoryview(self._body)[self._filled :]

    def received(self, count: int) -> list[Frame]:
        """Note that ``count`` >= 1 bytes were put into ``target()``; return the frames that are whole now."""
        if self._body is not None:
            self._filled += count
            if self._filled < len(self._body):
                return []
            body, self._body = self._body, None
            return [self._whole(body)]
        self._got += count
        frames = []
        at, got = 0, self._got
        while got - at >= HEADER.size and self._body is None:
            self._kind, self._meta_size, size = HEADER.unpack_from(self._ahead, at)
            begin = at + HEADER.size
            at = min(begin + size, got)
            if begin + size <= got:
                frames.append(self._whole(self._ahead[begin:at]))
            else:
                self._body, self._filled = bytearray(size), at - begin
                self._body[: self._filled] = self._ahead[begin:at]
        self._ahead[: got - at] = self._ahead[at:got]
        self._got = got - at
        return frames

    def _whole(self, body: bytearray) -> Frame:
        view = memoryview(body)
        return self._kind, pickle.loads(view[: self._meta_size]), view[self._meta_size :]
