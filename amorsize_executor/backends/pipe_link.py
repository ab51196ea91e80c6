"""The parent's end of a worker process: a socket that is never waited for, and a control line.

Frames leave as far as the socket takes them; the rest waits for the reactor. So a worker that is stopped, or
busy importing, holds up nobody else.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import Any

from amorsize_executor.backends.base import Chunk, ChunkReport, Group, Reactor, WorkerEvents
from amorsize_executor.records import Lane, Measurement
from amorsize_executor.wire import buffers, framing
from amorsize_executor.wire.codec import Codec, are_plain
from amorsize_executor.wire.functions import FULL, KEPT_BYTES, ONE, STAR, TABLE_SIZE
from amorsize_executor.wire.segments import Placed, SegmentMap, SegmentPool, allowance, offer
from amorsize_executor.wire.tracebacks import decode_error
from amorsize_executor.worker.control_word import (
    FINISHED,
    NEVER,
    RUNNING,
    STARTED_NS,
    STOP,
    copy_of,
    flags_of,
    reset,
)
from amorsize_executor.worker.recorder import UNREADABLE

_PIECES = 16  # buffers that one system call takes
TRIM_S = 5.0


class PipeLink:
    """Sends chunks to one worker and turns its frames into ``WorkerEvents``.

    Runs in: the dispatcher thread.
    """

    def __init__(
        self,
        worker: int,
        connection: socket.socket,
        line: Any,
        codec: Codec,
        reactor: Reactor,
        events: WorkerEvents,
    ) -> None:
        self.worker = worker
        self.pid = 0
        self.is_open = True
        self.sent_bytes = 0
        self._connection = connection
        self._line = reset(line)
        self._codec = codec
        self._reactor = reactor
        self._events = events
        self._reader = framing.FrameReader()
        self._out: deque[memoryview] = deque()
        self._passing: deque[tuple[memoryview, list[int]]] = deque()  # pieces that descriptors go with
        self._shipped: OrderedDict[int, int] = OrderedDict()  # number -> pickled bytes
        self._shipped_bytes = 0
        self._bytes_in: deque[dict[int, int]] = deque()  # by function, of each chunk that is with the worker
        self.is_killed = False
        self.kill: Callable[[], None] = self._kill_later
        self.hung_up: Callable[[], None] = lambda: None
        flags, result_flags = flags_of(line, into_worker=True), flags_of(line, into_worker=False)
        self._share = allowance.take()
        offer(flags, self._share)
        offer(result_flags, self._share)
        self._pool, self._map = SegmentPool(flags), SegmentMap(result_flags)
        self._uses_seen = 0
        self._is_trimming = False
        connection.setblocking(False)  # noqa: FBT003
        reactor.watch(connection.fileno(), self._ready)

    @property
    def account(self) -> tuple[int, int] | None:
        """Process id and thread id under which the system accounts for the worker; None before it has any."""
        return (self.pid, self.pid) if self.pid else None

    # --- chunks out ---

    def send(self, chunk: Chunk) -> list[tuple[int, BaseException]]:
        """Encode a chunk and send what the socket takes."""
        self.sent_bytes = 0
        self._bytes_in.append({})
        failures: list[tuple[int, BaseException]] = []
        metas: list[tuple[Any, ...]] = []
        blobs: list[framing.Bytes] = []
        placed: list[Placed] = []
        for group in chunk.groups:
            try:
                self._ship(group)
            except BaseException as error:  # noqa: BLE001 - a function that does not pickle fails its calls
                failures += [(group.first + index, error) for index in range(len(group.items))]
                continue
            for meta, some in self._encode(group, failures, placed):
                metas.append(meta)
                blobs += some
        if metas:
            self.sent_bytes = sum(map(len, blobs)) + buffers.placed_bytes(placed)
            blobs, are_apart = buffers.gather(blobs, placed, self._pool)
            meta = (chunk.number, chunk.flush_ns, chunk.stop_after_errors, metas, placed, are_apart)
            self._write(framing.frame(framing.CALLS, meta, blobs), self._pool.descriptors(placed))
            if placed:
                self._trim_when_idle()
        else:
            self._bytes_in.pop()
        # Only now: a chunk may call more functions than are kept. Its last one stays, since the next may be like it.
        while len(self._shipped) > TABLE_SIZE or (self._shipped_bytes > KEPT_BYTES and len(self._shipped) > 1):
            dropped, size = self._shipped.popitem(last=False)
            self._shipped_bytes -= size
            self._write(framing.frame(framing.FORGET, (dropped,)))
        return failures

    def _ship(self, group: Group) -> None:
        function = group.function
        if function.number in self._shipped:
            self._shipped.move_to_end(function.number)
            return
        image = function.image(self._codec)
        self._write(framing.frame(framing.FUNCTION, (function.number, function.is_fresh_per_call), [image]))
        self._shipped[function.number] = len(image)
        self._shipped_bytes += len(image)

    def _encode(
        self,
        group: Group,
        failures: list[tuple[int, BaseException]],
        placed: list[Placed],
    ) -> Iterator[tuple[tuple[Any, ...], list[framing.Bytes]]]:
        """Yield (meta, blobs) of the parts of a group between the calls that do not pickle."""
        number, style, items = group.function.number, group.style, group.items
        if style == FULL and not any(item[1] for item in items):
            style, items = STAR, [item[0] for item in items]
        if style == STAR and all(len(item) == 1 for item in items):
            style, items = ONE, [item[0] for item in items]
        if style == ONE and are_plain(items):
            data = pickle.dumps(items, 5)
            self._count(number, len(data))
            yield (number, style, group.first, len(items), None, len(data)), [data]
            return
        first, size = group.first, 0
        layout: list[buffers.Layout] = []
        blobs: list[framing.Bytes] = []
        for index, item in enumerate(items):
            beside: list[pickle.PickleBuffer] = []
            try:
                data = self._codec.dumps(item, beside)
            except BaseException as error:  # noqa: BLE001 - arguments that do not pickle fail their call
                failures.append((group.first + index, error))
                if layout:
                    yield (number, style, first, len(layout), layout, sum(map(len, blobs))), blobs
                first, layout, blobs = group.first + index + 1, [], []
                continue
            size += len(data)
            if not beside:  # as a rule
                layout.append((len(data),))
                blobs.append(data)
                continue
            aside = buffers.set_aside(beside, self._pool)
            layout.append((len(data), *aside.layout))
            blobs += [data, *aside.raws]
            placed += aside.placed
            size += aside.nbytes
        self._count(number, size)
        if layout:
            yield (number, style, first, len(layout), layout, sum(map(len, blobs))), blobs

    def _count(self, function: int, size: int) -> None:
        sizes = self._bytes_in[-1]
        sizes[function] = sizes.get(function, 0) + size

    def _write(self, pieces: list[framing.Bytes], descriptors: list[int] | None = None) -> None:
        views = [memoryview(piece).cast("B") for piece in pieces]
        if descriptors:
            self._passing.append((views[0], descriptors))
        self._out.extend(views)
        self._drain()

    def _drain(self) -> None:
        if not self.is_open:
            self._discard()
            return
        try:
            while self._out:
                sent = self._send_some()
                while sent:
                    piece = self._out[0]
                    if sent < len(piece):
                        self._out[0] = piece[sent:]
                        break
                    sent -= len(piece)
                    self._out.popleft()
        except BlockingIOError:
            self._reactor.watch(self._connection.fileno(), self._ready, write=True)
            return
        except OSError as error:
            if buffers.is_held_up(error):
                self._reactor.call_later(buffers.RETRY_S, self._drain)
            else:
                self._discard()  # the worker is gone; its death is told by other means
        self._reactor.watch(self._connection.fileno(), self._ready)

    def _send_some(self) -> int:
        if not hasattr(self._connection, "sendmsg"):  # Windows, where no descriptors are passed either
            return self._connection.send(self._out[0], buffers.NO_SIGNAL)
        if not self._passing:
            return buffers.send_message(self._connection, list(islice(self._out, _PIECES)))
        head, descriptors = self._passing[0]
        before = list(takewhile(lambda piece: piece is not head, islice(self._out, _PIECES)))
        if before:
            return buffers.send_message(self._connection, before)
        sent = buffers.pass_descriptors(self._connection, head, descriptors)
        self._passing.popleft()
        return sent

    def _discard(self) -> None:
        self._out.clear()
        while self._passing:
            for descriptor in self._passing.popleft()[1]:
                os.close(descriptor)

    # --- frames in ---

    def _ready(self, _events: int) -> None:
        if self._out:
            self._drain()
        self.read(to_the_end=False)

    def read(self, *, to_the_end: bool = True) -> None:
        """Take in what has arrived, without waiting for more; or what one system call shows of it."""
        try:
            while self.is_open:
                target = self._reader.target()
                count = self._map.receive_into(self._connection, target)
                if not count:
                    self.close()
                    self.hung_up()
                    return
                for frame in self._reader.received(count):
                    self._take(*frame)
                if count < len(target) and not to_the_end:
                    return
        except BlockingIOError:
            return
        except OSError:
            self.close()
            self.hung_up()

    def _take(self, kind: int, meta: tuple[Any, ...], blobs: memoryview) -> None:
        if kind == framing.OUTCOMES:
            first, count, layout, end, placed, are_apart = meta
            if count:
                arrived = self._map.open(placed)
                body = buffers.blobs_of(blobs, arrived, are_apart=are_apart)
                outcomes = self._decode(layout, body, arrived)
                del body, arrived  # so that they may be filled again
                self._events.outcomes_arrived(self.worker, first, *outcomes)
            if placed:
                self._trim_when_idle()
            if end is not None:
                self._events.chunk_ended(self.worker, self._report(*end))
        elif kind == framing.READY:
            self._events.worker_ready(self.worker, meta[0])
        elif kind == framing.TRIMMED:
            self._map.drop(meta[0])
        elif kind == framing.INITIALIZER_FAILED:
            self._events.initializer_failed(self.worker, decode_error(self._codec, blobs))

    def _decode(
        self, layout: Any, blobs: memoryview, arrived: deque[memoryview | None]
    ) -> tuple[list[Any], dict[int, BaseException]]:
        if layout is None:
            return pickle.loads(blobs), {}
        values: list[Any] = []
        errors: dict[int, BaseException] = {}
        offset = 0
        for failed, size, *buffer_sizes in layout:
            data, offset = blobs[offset : offset + size], offset + size
            beside: list[memoryview | None] = []
            if buffer_sizes:
                beside, offset = buffers.bring_back(buffer_sizes, blobs, offset, arrived)
            try:
                if failed:
                    error = errors[len(values)] = decode_error(self._codec, data)
                    values.append(None)
                    if failed == UNREADABLE:
                        self._events.unreadable(self.worker, error)
                else:
                    buffers.check_all_came(beside)
                    values.append(self._codec.loads(data, beside))
            except BaseException as error:  # noqa: BLE001 - a result that does not unpickle fails its call
                errors[len(values)] = error
                values.append(None)
                self._events.unreadable(self.worker, error)
        return values, errors

    def _report(
        self,
        number: int,
        next_number: int,
        measures: list[tuple[Any, ...]],
        growth: int,
        peak: int,
        gap_ns: int,
    ) -> ChunkReport:
        records, sent = [], self._bytes_in.popleft()
        for function, calls, wall, cpu, waiting, squares, longest, bytes_out, beside in measures:
            measured = Measurement(
                int(calls),
                wall,
                cpu,
                waiting,
                squares,
                longest,
                sent.pop(function, 0),
                int(bytes_out),
                peak,
                Lane.PROCESSES,
                beside,
            )
            records.append((function, measured))
        return ChunkReport(number, next_number, records, growth, gap_ns * 1e-9)

    # --- segments that nobody uses ---

    def _trim_when_idle(self) -> None:
        """Look again after a while; the memory goes back once no buffer has travelled for so long."""
        if not self._is_trimming:
            self._is_trimming = True
            self._uses_seen = self._uses
            self._reactor.call_later(TRIM_S, self._trim)

    def _trim(self) -> None:
        self._is_trimming = False
        if not self.is_open:
            return
        if self._uses != self._uses_seen:
            self._trim_when_idle()
            return
        self._write(framing.frame(framing.TRIM, (self._pool.trim(),)))

    @property
    def _uses(self) -> int:
        return self._pool.uses + self._map.opened

    # --- the control line ---

    def stop_before(self, number: int) -> None:
        """Ask the worker not to start the call ``number`` or any later one."""
        self._line[STOP] = number

    def clear_stop(self) -> None:
        """Let the next chunk run."""
        self._line[STOP] = NEVER

    def progress(self) -> tuple[int, int, int]:
        """Return (running call, its start in monotonic ns, one past the last finished call)."""
        return self._line[RUNNING], self._line[STARTED_NS], self._line[FINISHED]

    # --- ends ---

    def _kill_later(self) -> None:
        """Note that a worker is to be killed whose process id is not known yet."""
        self.is_killed = True

    def retire(self) -> None:
        """Ask the worker to end once it is idle."""
        self._write(framing.frame(framing.EXIT))

    def fileno(self) -> int:
        """Return the descriptor of this end."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close this end of the pipe."""
        if self.is_open:
            self.is_open = False
            self._reactor.unwatch(self._connection.fileno())
            self._connection.close()
            self._discard()
            self._pool.close()
            self._map.close()
            allowance.give_back(self._share)
            self.kill = self._kill_later  # a timer may hold us for a while, and need not hold the process
            line, self._line = self._line, copy_of(self._line)
            line.release()


def send_signal(pidfd: int, number: int) -> None:
    """Signal a process that may have ended already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
