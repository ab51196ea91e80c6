"""The parent's end of a worker process: a socket that is never waited for, and a control line.

Frames leave as far as the socket takes them; the rest waits for the reactor. So a worker that is stopped, or
busy importing, holds up nobody else.
"""

from __future__ import annotations

import pickle
import signal
import socket
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

from amorsize_executor.backends.base import Chunk, ChunkReport, Group, Reactor, WorkerEvents
from amorsize_executor.records import Lane, Measurement
from amorsize_executor.wire import framing
from amorsize_executor.wire.codec import Codec, are_plain
from amorsize_executor.wire.functions import FULL, KEPT_BYTES, ONE, STAR, TABLE_SIZE
from amorsize_executor.wire.tracebacks import decode_error
from amorsize_executor.worker.control_word import FINISHED, NEVER, RUNNING, STARTED_NS, STOP, copy_of, reset
from amorsize_executor.worker.recorder import UNREADABLE

_PIECES = 16  # buffers that one system call takes


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
        self._shipped: OrderedDict[int, int] = OrderedDict()  # number -> pickled bytes
        self._shipped_bytes = 0
        self._bytes_in: dict[int, int] = {}
        self.is_killed = False
        self.kill: Callable[[], None] = self._kill_later
        self.hung_up: Callable[[], None] = lambda: None
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
        failures: list[tuple[int, BaseException]] = []
        metas: list[tuple[Any, ...]] = []
        blobs: list[framing.Bytes] = []
        for group in chunk.groups:
            try:
                self._ship(group)
            except BaseException as error:  # noqa: BLE001 - a function that does not pickle fails its calls
                failures += [(group.first + index, error) for index in range(len(group.items))]
                continue
            for part in self._encode(group, failures):
                metas.append(part[0])
                blobs += part[1]
        if metas:
            meta = (chunk.number, chunk.flush_ns, chunk.stop_after_errors, metas)
            self.sent_bytes = sum(map(len, blobs))
            self._write(framing.frame(framing.CALLS, meta, blobs))
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
    ) -> Iterator[tuple[tuple[Any, ...], list[framing.Bytes]]]:
        """Yield (meta, blobs) of the parts of a group between the calls that do not pickle."""
        number, style, items = group.function.number, group.style, group.items
        if style == FULL and not any(item[1] for item in items):
            style, items = STAR, [item[0] for item in items]
        if style == STAR and all(len(item) == 1 for item in items):
            style, items = ONE, [item[0] for item in items]
        if style == ONE and are_plain(items):
            data = pickle.dumps(items, 5)
            self._bytes_in[number] = self._bytes_in.get(number, 0) + len(data)
            yield (number, style, group.first, len(items), len(data)), [data]
            return
        first = group.first
        layout: list[tuple[int, ...]] = []
        blobs: list[framing.Bytes] = []
        for index, item in enumerate(items):
            buffers: list[pickle.PickleBuffer] = []
            try:
                data = self._codec.dumps(item, buffers)
            except BaseException as error:  # noqa: BLE001 - arguments that do not pickle fail their call
                failures.append((group.first + index, error))
                if layout:
                    yield (number, style, first, len(layout), layout), blobs
                first, layout, blobs = group.first + index + 1, [], []
                continue
            raws = [buffer.raw() for buffer in buffers]
            layout.append((len(data), *(-raw.nbytes if raw.readonly else raw.nbytes for raw in raws)))
            blobs += [data, *raws]
            self._bytes_in[number] = self._bytes_in.get(number, 0) + sum(map(abs, layout[-1]))
        if layout:
            yield (number, style, first, len(layout), layout), blobs

    def _write(self, pieces: list[framing.Bytes]) -> None:
        self._out.extend(memoryview(piece).cast("B") for piece in pieces)
        self._drain()

    def _drain(self) -> None:
        if not self.is_open:
            self._out.clear()
            return
        try:
            while self._out:
                sent = self._connection.sendmsg([self._out[index] for index in range(min(_PIECES, len(self._out)))])
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
        except OSError:  # the worker is gone; its death is told by other means
            self._out.clear()
        self._reactor.watch(self._connection.fileno(), self._ready)

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
                count = self._connection.recv_into(target)
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
            first, count, layout, end = meta
            if count:
                self._events.outcomes_arrived(self.worker, first, *self._decode(layout, blobs))
            if end is not None:
                self._events.chunk_ended(self.worker, self._report(*end))
        elif kind == framing.READY:
            self._events.worker_ready(self.worker, meta[0])
        elif kind == framing.INITIALIZER_FAILED:
            self._events.initializer_failed(self.worker, decode_error(self._codec, blobs))

    def _decode(self, layout: Any, blobs: memoryview) -> tuple[list[Any], dict[int, BaseException]]:
        if layout is None:
            return pickle.loads(blobs), {}
        values: list[Any] = []
        errors: dict[int, BaseException] = {}
        offset = 0
        for failed, size, *buffer_sizes in layout:
            data, offset = blobs[offset : offset + size], offset + size
            buffers = []
            for buffer_size in buffer_sizes:
                length = buffer_size if buffer_size >= 0 else -buffer_size - 1
                view, offset = blobs[offset : offset + length], offset + length
                buffers.append(view if buffer_size >= 0 else view.toreadonly())
            try:
                if failed:
                    error = errors[len(values)] = decode_error(self._codec, data)
                    values.append(None)
                    if failed == UNREADABLE:
                        self._events.unreadable(self.worker, error)
                else:
                    values.append(self._codec.loads(data, buffers))
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
        records = []
        for function, calls, wall, cpu, waiting, squares, longest, bytes_out in measures:
            bytes_in = self._bytes_in.pop(function, 0)
            measured = Measurement(
                int(calls), wall, cpu, waiting, squares, longest, bytes_in, int(bytes_out), peak, Lane.PROCESSES
            )
            records.append((function, measured))
        return ChunkReport(number, next_number, records, growth, gap_ns * 1e-9)

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
            self._out.clear()
            line, self._line = self._line, copy_of(self._line)
            line.release()


def send_signal(pidfd: int, number: int = signal.SIGKILL) -> None:
    """Signal a process that may have ended already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return
