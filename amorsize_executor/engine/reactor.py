"""The dispatcher's event loop: descriptors, timers, and what other threads want done.

Runs in: the dispatcher thread, except ``call_soon``, which is safe anywhere, signal handlers and ``__del__`` too.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

_LONGEST_WAIT_S = 86_400.0  # epoll refuses to wait for more than 24 days; timers may be set for longer


class EventLoop:
    """Waits for descriptors and timers; idle costs nothing, and holds no descriptor before ``open``."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._is_woken = True  # until there is something to wake

    def open(self) -> None:
        """Get the descriptors. What was appended before is seen only after another ``wake``."""
        self._selector = selectors.DefaultSelector()
        self._waker = _Waker()
        self._is_woken = False
        self._selector.register(self._waker.descriptor, selectors.EVENT_READ, None)

    def watch(self, descriptor: int, callback: Callable[[int], None], *, write: bool = False) -> None:
        """Call ``callback(events)`` when the descriptor is ready; a second call changes what is watched."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if write else 0)
        known = self._watched.get(descriptor)
        if known == (events, callback):
            return
        if known is None:
            self._selector.register(descriptor, events, callback)
        else:
            self._selector.modify(descriptor, events, callback)
        self._watched[descriptor] = events, callback

    def unwatch(self, descriptor: int) -> None:
        """Forget a descriptor; unknown ones are ignored."""
        if self._watched.pop(descriptor, None) is not None:
            self._selector.unregister(descriptor)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Run ``callback`` in the dispatcher's thread after ``seconds``."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._ticket), callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` in the dispatcher's thread. Any thread; never blocks."""
        self._calls.append(callback)
        self.wake()

    def wake(self) -> None:
        """Make ``wait`` return. Any thread; never blocks, and costs nothing when it is about to return anyway."""
        if not self._is_woken:
            self._is_woken = True
            try:
                self._waker.wake()
            except BaseException:  # Ctrl-C: nobody else writes as long as the flag says that it was done
                self._waker.wake()
                raise

    def wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for something to do; return the ready descriptors."""
        timeout = None
        if self._calls:
            timeout = 0.0
        elif self._timers:
            timeout = min(max(0.0, self._timers[0][0] - time.monotonic()), _LONGEST_WAIT_S)
        return self._selector.select(timeout)

    def run(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        """Run the callbacks of ready descriptors, calls from other threads and due timers."""
        # The flag falls before looking at what there is: who comes before that is seen below, and who comes after it
        # writes anew. And it falls only with what was written: the write of whoever has set it may be still to come.
        if any(key.data is None for key, _events in ready):
            self._waker.clear()
            self._is_woken = False
        for key, events in ready:
            known = self._watched.get(key.fd)
            if known is not None and known[1] == key.data:
                key.data(events)  # and not a descriptor that an earlier callback of this turn let go
        while self._calls:
            self._calls.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        """Let go of all descriptors."""
        self._is_woken = True
        self._selector.close()
        self._waker.close()


class _Waker:
    """A descriptor that one thread makes readable for another: an eventfd, or a pair of sockets.

    The lock keeps it from writing to a descriptor that was closed and may be somebody else's by now. It is
    reentrant, because a signal handler may submit while the same thread is in here, and held for a system call.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_open = True
        self._sockets: tuple[socket.socket, ...] = ()
        if hasattr(os, "eventfd"):
            self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._sockets = socket.socketpair()
            for end in self._sockets:
                end.setblocking(False)  # noqa: FBT003
            self.descriptor = self._sockets[0].fileno()

    def wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # full, so it is readable already
            if self._is_open:
                self._write()

    def _write(self) -> None:
        if self._sockets:
            self._sockets[1].send(b"\0")
        else:
            os.eventfd_write(self.descriptor, 1)

    def clear(self) -> None:
        try:
            if self._sockets:
                while self._sockets[0].recv(4096):
                    pass
            else:
                os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            for end in self._sockets:
                end.close()
            if not self._sockets:
                os.close(self.descriptor)
