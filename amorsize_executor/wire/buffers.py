"""How buffers travel beside a pickle: large ones in segments, the others in the frame, behind the pickle.

A pickle's buffers are laid out as a tuple with an entry each: the bytes in the frame, n or, where they are read-only,
-n - 1; None for a buffer in a segment, which the frame's list of placed buffers tells about, in the same order.
"""

from __future__ import annotations

import errno
import os
import pickle
import socket
import time
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from amorsize_executor.wire.framing import Bytes
from amorsize_executor.wire.segments import LARGE_BYTES, Placed, SegmentPool

Layout = tuple[int | None, ...]
RETRY_S = 0.01
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class Aside(NamedTuple):
    """A pickle's buffers on their way out.

    Attributes:
        layout: What the receiver is told.
        raws: Those in the frame.
        placed: Those in segments.
    """

    layout: Layout
    raws: list[memoryview]
    placed: list[Placed]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(raw.nbytes for raw in self.raws) + placed_bytes(self.placed)


def set_aside(buffers: Sequence[pickle.PickleBuffer], pool: SegmentPool | None) -> Aside:
    """Divide a pickle's buffers into those that go in segments, filled now, and those that go in the frame."""
    if not buffers:
        return NOTHING
    layout: list[int | None] = []
    raws: list[memoryview] = []
    places: list[Placed] = []
    for buffer in buffers:
        raw = buffer.raw()
        placed = pool.place(raw) if pool is not None else None
        if placed is not None:
            places.append(placed)
            layout.append(None)
        else:
            raws.append(raw)
            layout.append(-raw.nbytes - 1 if raw.readonly else raw.nbytes)
    return Aside(tuple(layout), raws, places)


NOTHING = Aside((), [], [])


def gather(blobs: list[Bytes], placed: list[Placed], pool: SegmentPool | None) -> tuple[list[Bytes], bool]:
    """Put a frame's blobs in a segment, the last of ``placed``, if they are large: nobody has to read them meanwhile.

    Only in one that the receiver has: a new one is made known first, since many calls would be lost with their frame.

    Returns:
        (the blobs that stay in the frame, whether the others are in a segment).
    """
    size = sum(map(len, blobs))
    if pool is None or size < LARGE_BYTES:
        return blobs, False
    where = pool.refill(blobs, size)
    if where is not None:
        placed.append(where)
        return [], True
    news = pool.introduce(size)
    if news is not None:
        placed.append(news)
    return blobs, False


def blobs_of(blobs: memoryview, arrived: deque[memoryview | None], *, are_apart: bool) -> memoryview:
    """Return a frame's blobs as they were before ``gather``."""
    body = arrived.pop() if are_apart else blobs
    check_all_came([body])
    return body  # type: ignore[return-value]


def bring_back(
    layout: Iterable[int | None], blobs: memoryview, offset: int, arrived: deque[memoryview | None]
) -> tuple[list[memoryview | None], int]:
    """Return a pickle's buffers, None for those that got lost, and where the next pickle begins.

    Args:
        layout: The pickle's.
        blobs: The frame's.
        offset: Where the pickle ended.
        arrived: The frame's buffers in segments, which those of this pickle are taken from.
    """
    buffers: list[memoryview | None] = []
    for size in layout:
        if size is None:
            buffers.append(arrived.popleft())
            continue
        begin, offset = offset, offset + (size if size >= 0 else -size - 1)
        view = blobs[begin:offset]
        buffers.append(view if size >= 0 else view.toreadonly())
    return buffers, offset


def check_all_came(buffers: Sequence[memoryview | None]) -> None:
    """Refuse to unpickle what is not whole.

    Raises:
        OSError: A buffer did not arrive, for this process had no descriptor left.
    """
    if None in buffers:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def placed_bytes(placed: Sequence[Placed]) -> int:
    """Count the bytes of buffers in segments."""
    return sum(each[1] for each in placed)


def send_message(connection: socket.socket, pieces: Sequence[Bytes], descriptors: Sequence[int] = ()) -> int:
    """Send what is taken of the pieces, descriptors with the first byte; return how many bytes.

    Raises:
        OSError: Nothing was sent. Where the other side is gone, also if the program wants to be ended by SIGPIPE.
    """
    beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    return connection.sendmsg(pieces, beside, NO_SIGNAL)  # send_fds ignores its flags


def pass_descriptors(connection: socket.socket, head: Bytes, descriptors: list[int]) -> int:
    """Send what is taken of ``head`` together with descriptors, which are closed then; return how many bytes.

    Raises:
        BlockingIOError: Nothing was sent, and nothing closed; so with any other ``OSError``.
    """
    sent = send_message(connection, [head], descriptors)
    while descriptors:
        os.close(descriptors.pop())
    return sent


def is_held_up(error: OSError) -> bool:
    """Tell whether too many descriptors are on their way to processes that do not read; that passes."""
    return error.errno == errno.ETOOMANYREFS


def send_all(connection: socket.socket, pieces: Sequence[Bytes], descriptors: list[int]) -> None:
    """Send a frame through a blocking socket, descriptors with its first byte."""
    while descriptors:
        try:
            sent = pass_descriptors(connection, pieces[0], descriptors)
        except OSError as error:
            if not is_held_up(error):
                raise
            time.sleep(RETRY_S)
        else:
            pieces = [memoryview(pieces[0])[sent:], *pieces[1:]]
    for piece in pieces:
        connection.sendall(piece)
