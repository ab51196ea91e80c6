"""Memory that two processes share to hand over large buffers: the sender fills a segment, the receiver reads it there.

    sender: SegmentPool                 control line                 receiver: SegmentMap
    copies a buffer into a segment,     a flag a segment: USED ─►    maps the segment, shows the buffer to pickle
    fills it again when it is FREE      ◄─ FREE, or LOST             says so when the last view of it is gone

A segment is an anonymous file (memfd). Its descriptor goes over the socket once, with the first frame that speaks of
it; from then on it is known by its slot. Nothing has a name, so the kernel frees all of it with its last user, however
that ends. A flag has one writer at a time: the sender while it is FREE, the receiver while it is USED.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import pickle
import socket
import sys
import threading
import weakref
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any

from amorsize_executor.system import has
from amorsize_executor.wire.mapping import can_map, map_private, map_shared, write_all

MOST = 32
"""Segments that one side fills; each takes descriptors on both."""
MOST_BYTES = 256 << 20
LARGE_BYTES = 256 << 10
"""Smaller buffers travel faster inside the frame."""

FREE, USED, LOST, BARRED = 0, 1, 2, 3
"""States of a slot: to be filled; filled, and shown to somebody; not to be filled again; not to be used at all."""

Placed = tuple[int, int, bool, int, tuple[int, ...]]
"""A buffer in a segment: slot, bytes, is read-only; and of a new segment, whose descriptor comes along, its bytes, and
the slots of those that were let go of for it. Only builtin types, as frames ask for."""

NO_VIEWS: deque[memoryview | None] = deque()
"""Of the many frames that place nothing; nobody takes from it."""

_CREDIT = 4
_MOST_TIMES_LARGER = 4
_ANCILLARY_BYTES = 1100  # room for 253 descriptors, the most that one message takes
_CLOSE_ON_EXEC, _TRUNCATED = (int(getattr(socket, name, 0)) for name in ("MSG_CMSG_CLOEXEC", "MSG_CTRUNC"))
"""As plain numbers: with the enumeration's members, a look at a message's flags takes longer than the message."""


def offer(flags: memoryview, count: int) -> None:
    """Let ``count`` segments be used and no more. Runs in: the parent, before the worker exists."""
    flags[:] = bytes([FREE]) * count + bytes([BARRED]) * (MOST - count)


class Allowance:
    """How many segments the workers of this process may have, so that descriptors remain for everything else."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a child that has none of its parent's workers, and maybe a lock that nobody will release."""
        self._lock = threading.Lock()
        self._taken = 0

    def take(self) -> int:
        """Return how many segments a new worker and its parent may fill each."""
        if not has("memfd"):
            return 0
        import resource  # noqa: PLC0415 - not on Windows

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        half = limit // 2 if limit != resource.RLIM_INFINITY else sys.maxsize
        with self._lock:
            share = max(0, min(MOST, half // 32, half // _DESCRIPTORS - self._taken))
            self._taken += share
        return share

    def give_back(self, share: int) -> None:
        """Note that a worker has ended."""
        with self._lock:
            self._taken -= share


_DESCRIPTORS = 3  # that the parent may need for one segment each way
allowance = Allowance()


class SegmentPool:
    """The sender's segments. Used by one thread at a time.

    What has to be made anew each time costs more than the socket does, so the pool grows by use: each time that a
    segment is filled again, one more may be made.

    Args:
        flags: Shared with the receiver, one byte a slot.
    """

    def __init__(self, flags: memoryview) -> None:
        self._flags = flags
        self._segments: dict[int, mmap.mmap] = {}  # by slot, the one that was used last at the end
        self._unsent: dict[int, int] = {}  # slot -> descriptor
        self._dropped: tuple[int, ...] = ()  # slots that the receiver has to hear of
        self._credit = _CREDIT
        self._is_open = True
        self.uses = 0
        _sides[id(self)] = self

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def held_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(map(len, self._segments.values()))

    def place(self, raw: memoryview) -> Placed | None:
        """Copy a contiguous buffer of bytes into a segment; None where it had better travel in the frame."""
        size = raw.nbytes
        if size < LARGE_BYTES or not self._is_open:
            return None
        self._drop_lost()
        slot, capacity = self._fitting(size), 0
        if slot is not None:
            segment = self._segments[slot] = self._segments.pop(slot)
            segment[:size] = raw
            self._credit += 1
        elif self._credit:
            slot, capacity = self._make(size, raw)
            if slot is None:
                return None
            self._credit -= 1
        else:
            return None
        self._flags[slot] = USED
        self.uses += 1
        dropped: tuple[int, ...] = ()
        if capacity:
            dropped, self._dropped = self._dropped, ()
        return slot, size, raw.readonly, capacity, dropped

    def refill(self, pieces: Sequence[bytes | bytearray | memoryview], size: int) -> Placed | None:
        """Copy pieces, ``size`` bytes altogether, into a segment that the receiver has and does not use, if any."""
        if not self._is_open:
            return None
        self._drop_lost()
        slot = self._fitting(size)
        if slot is None:
            return None
        segment = self._segments[slot] = self._segments.pop(slot)
        at = 0
        for piece in pieces:
            segment[at : at + len(piece)] = piece
            at += len(piece)
        self._credit += 1
        self._flags[slot] = USED
        self.uses += 1
        return slot, size, False, 0, ()

    def introduce(self, size: int) -> Placed | None:
        """Make a segment that ``size`` bytes fit into, and more, for the receiver to get to know; None for no room."""
        if not (self._is_open and self._credit):
            return None
        slot, capacity = self._make(1 << (size - 1).bit_length())
        if slot is None:
            return None
        self._credit -= 1
        self._flags[slot] = USED
        dropped, self._dropped = self._dropped, ()
        return slot, 1, False, capacity, dropped

    def descriptors(self, placed: Sequence[Placed]) -> list[int]:
        """Take the descriptors that have to go with the frame of these buffers; whoever sends them closes them."""
        return [self._unsent.pop(slot) for slot, _size, _is_readonly, capacity, _dropped in placed if capacity]

    def trim(self) -> list[int]:
        """Let go of what is not in use; return the slots, for the receiver to let go of."""
        self._drop_lost()
        slots = self._free()
        for slot in slots:
            self._drop(slot)
        return slots

    def close(self) -> None:
        """Let go of everything; the receiver keeps what it shows."""
        self._is_open = False
        self._segments.clear()
        while self._unsent:
            os.close(self._unsent.popitem()[1])
        self._flags.release()

    def abandon(self) -> None:
        """Let go of everything, as a child that the segments do not belong to."""
        self.close()

    def _free(self) -> list[int]:
        return [slot for slot in self._segments if self._flags[slot] == FREE]

    def _fitting(self, size: int) -> int | None:
        """Find the smallest free segment that is large enough, and not far too large."""
        sizes = [(len(self._segments[slot]), slot) for slot in self._free()]
        fitting = [pair for pair in sizes if size <= pair[0] <= _MOST_TIMES_LARGER * size]
        return min(fitting)[1] if fitting else None

    def _make(self, size: int, content: memoryview | None = None) -> tuple[int | None, int]:
        capacity = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        slot = self._make_room(capacity)
        if slot is None or not can_map():
            return None, 0
        descriptor = -1
        try:
            descriptor = os.memfd_create("amorsize-buffer", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, capacity)
            if content is not None:
                write_all(descriptor, content)  # not through the mapping: this spares zeroing the pages, and can fail
            self._segments[slot] = map_shared(descriptor, capacity)
        except (OSError, ValueError):  # no descriptors or no memory: the socket needs neither
            if descriptor >= 0:
                os.close(descriptor)
            return None, 0
        self._unsent[slot] = descriptor
        return slot, capacity

    def _make_room(self, capacity: int) -> int | None:
        """Find an empty slot, if need be by dropping segments that are not in use, the longest unused first."""
        for spare in [None, *self._free()]:
            if spare is not None:
                self._drop(spare)
                self._dropped += (spare,)
            empty = (slot for slot in range(MOST) if slot not in self._segments and self._flags[slot] == FREE)
            slot = next(empty, None)
            if slot is not None and self.held_bytes + capacity <= MOST_BYTES:
                return slot
        return None

    def _drop_lost(self) -> None:
        for slot in [slot for slot in self._segments if self._flags[slot] == LOST]:
            self._drop(slot)
            self._flags[slot] = FREE

    def _drop(self, slot: int) -> None:
        del self._segments[slot]
        if slot in self._unsent:
            os.close(self._unsent.pop(slot))


class SegmentMap:
    """The receiver's segments. ``receive_into`` and ``open`` are used by one thread; views may die in any.

    Args:
        flags: Shared with the sender, one byte a slot.
    """

    def __init__(self, flags: memoryview) -> None:
        self._flags = flags
        self._segments: dict[int, tuple[int, mmap.mmap]] = {}  # slot -> (descriptor, mapping)
        self._messages: deque[list[int]] = deque()  # descriptors, as they arrived together
        self._uses: dict[int, tuple[weakref.ref[Any], int]] = {}  # by number: (what keeps the view, slot)
        self._numbers = itertools.count()
        self._is_open = True
        self.opened = 0
        _sides[id(self)] = self

    @property
    def live(self) -> int:
        """Buffers that somebody still sees."""
        return len(self._uses)

    def receive_into(self, connection: socket.socket, target: memoryview) -> int:
        """Receive bytes, as ``recv_into`` does, and keep the descriptors that come along."""
        if sys.platform != "linux":
            return connection.recv_into(target)
        count, ancillary, flags, _ = connection.recvmsg_into([target], _ANCILLARY_BYTES, _CLOSE_ON_EXEC)
        if ancillary or flags & _TRUNCATED:
            self._messages.append(_descriptors_in(ancillary))
        return count

    def open(self, placed: Sequence[Placed]) -> deque[memoryview | None]:
        """Return views of a frame's buffers; None for one whose segment could not be had.

        The descriptors of new segments came with the frame's first byte, so their messages are in the order of frames.
        """
        if not placed:
            return NO_VIEWS
        views: deque[memoryview | None] = deque()
        new = [(slot, capacity, dropped) for slot, _size, _is_readonly, capacity, dropped in placed if capacity]
        if new:
            descriptors = deque(self._messages.popleft())
            for slot, capacity, dropped in new:
                self.drop((*dropped, slot))
                self._enter(slot, capacity, descriptors)
        for slot, size, is_readonly, _capacity, _dropped in placed:
            view = self._show(slot, size) if slot in self._segments else None
            if view is None:
                self._flags[slot] = LOST
            views.append(view.toreadonly() if view is not None and is_readonly else view)
        return views

    def drop(self, slots: Sequence[int]) -> None:
        """Forget segments that the sender has let go of."""
        for slot in slots:
            descriptor, _mapping = self._segments.pop(slot, (-1, None))
            if descriptor >= 0:
                os.close(descriptor)

    def give_up(self) -> None:
        """Keep what is in view as it is, for good: nobody fills it again, and who forks next gets a copy of his own.

        Memory that is shared between processes is not copied by a fork. So what a user sees becomes a private mapping,
        in its place, before he forks, and when the segments go.
        """
        for number in list(self._uses):
            keeper, slot = self._uses.pop(number, (None, -1))  # several threads may be here; each use is had by one
            owner = keeper() if keeper is not None else None
            if owner is not None and slot in self._segments:
                self._make_private(owner, slot)
            if slot >= 0:
                self._raise_flag(slot, FREE if owner is None else LOST)

    def _make_private(self, owner: Any, slot: int) -> None:
        descriptor, mapping = self._segments.pop(slot)
        map_private(owner, descriptor, len(mapping))
        os.close(descriptor)

    def close(self) -> None:
        """Let go of everything but what is in view."""
        if not self._is_open:
            return
        self._is_open = False
        self.give_up()
        self.drop(list(self._segments))
        while self._messages:
            for descriptor in self._messages.popleft():
                os.close(descriptor)
        self._flags.release()

    def abandon(self) -> None:
        """Close, as a child that the segments do not belong to: the flags are its parent's."""
        self._flags.release()
        self.close()

    def _enter(self, slot: int, capacity: int, descriptors: deque[int]) -> None:
        if not descriptors:  # this process may open no more
            return
        descriptor = descriptors.popleft()
        try:
            self._segments[slot] = descriptor, map_shared(descriptor, capacity)
        except (OSError, ValueError):
            os.close(descriptor)

    def _show(self, slot: int, size: int) -> memoryview:
        """Return a view of a segment whose end is noticed."""
        import ctypes  # noqa: PLC0415 - 1.5 ms, for those who need it

        # Views of a mapping itself would keep the mapping alive, and die unnoticed. This object is what they keep.
        owner = (ctypes.c_ubyte * size).from_buffer(self._segments[slot][1])
        number = next(self._numbers)
        self._uses[number] = weakref.ref(owner, lambda _gone: self._release(number)), slot
        self.opened += 1
        return pickle.PickleBuffer(owner).raw()

    def _release(self, number: int) -> None:
        """Say that a buffer is out of sight. Any thread, in the middle of anything."""
        use = self._uses.pop(number, None)
        if use is not None:
            self._raise_flag(use[1], FREE)

    def _raise_flag(self, slot: int, state: int) -> None:
        with contextlib.suppress(ValueError):  # closed by another thread in between
            self._flags[slot] = state


def _descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


# --- Forks of this process --------------------------------------------------------------------------------------

_sides: weakref.WeakValueDictionary[int, SegmentPool | SegmentMap] = weakref.WeakValueDictionary()


def _all_sides() -> list[SegmentPool | SegmentMap]:
    # Other threads make some meanwhile, and references are listed in one step.
    return [side for side in (reference() for reference in _sides.valuerefs()) if side is not None]


def give_up_all() -> None:
    """Part what is in view from its segments, before a fork; and after it, for what another thread got in between."""
    for side in _all_sides():
        if isinstance(side, SegmentMap):
            side.give_up()


def _let_go_in_child() -> None:
    for side in _all_sides():
        side.abandon()
    allowance.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=give_up_all, after_in_parent=give_up_all, after_in_child=_let_go_in_child)
