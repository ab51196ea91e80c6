"""Both sides of segments in one process, with a socket between them, for tests."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

from amorsize_executor.wire.buffers import blobs_of, bring_back, gather, send_all, set_aside
from amorsize_executor.wire.segments import MOST, SegmentMap, SegmentPool, offer

LARGE = 300_000  # bytes, enough for a segment


class Pair:
    """A sender, a receiver, and what they share."""

    def __init__(self, count: int = MOST) -> None:
        self.flags = memoryview(bytearray(MOST))
        offer(self.flags, count)
        self.ours, self.theirs = socket.socketpair()
        self.pool, self.map = SegmentPool(self.flags[:]), SegmentMap(self.flags[:])

    def send(self, *contents):
        """Send buffers as one frame; return the views that arrive, or None for each that did not."""
        aside = set_aside([pickle.PickleBuffer(content) for content in contents], self.pool)
        descriptors = self.pool.descriptors(aside.placed)
        send_all(self.ours, [b"frame"], descriptors)
        assert self.map.receive_into(self.theirs, memoryview(bytearray(100))) == len(b"frame")
        blobs = memoryview(bytearray().join(aside.raws))
        views, end = bring_back(aside.layout, blobs, 0, self.map.open(aside.placed))
        assert end == len(blobs)
        return views

    def send_together(self, *blobs):
        """Send blobs that are large as a whole; return what arrives, and whether it came in a segment."""
        placed = []
        left, are_apart = gather(list(blobs), placed, self.pool)
        send_all(self.ours, [b"frame"], self.pool.descriptors(placed))
        assert self.map.receive_into(self.theirs, memoryview(bytearray(100))) == len(b"frame")
        return blobs_of(memoryview(b"".join(left)), self.map.open(placed), are_apart=are_apart), are_apart

    @property
    def states(self):
        """Flags of the slots that were ever used."""
        return bytes(self.flags).rstrip(b"\0")

    def close(self):
        """Let both sides go."""
        self.pool.close()
        self.map.close()
        self.ours.close()
        self.theirs.close()


def segments_mapped():
    """Count the mappings of segments that this process has."""
    return Path("/proc/self/maps").read_text(encoding="utf-8").count("memfd:amorsize-buffer")


def segments_open():
    """Count the descriptors of segments that this process has."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += "memfd:amorsize-buffer" in str(Path(f"/proc/self/fd/{name}").readlink())
        except OSError:  # the listing's own
            continue
    return count
