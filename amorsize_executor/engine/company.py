"""Company for a caller that helps: threads of its process that run calls of the same map beside it.

Only calls of which code tells that they leave no trace (``wire.traceless``) are shared so: nobody can tell how many of
them run at the same time. And only as long as it is of use: where they keep the interpreter's lock to themselves, as
most code does, the threads are seen to stand in line for it, and go.
"""

from __future__ import annotations

import contextvars
import threading
import time
from typing import TYPE_CHECKING

from amorsize_executor.engine.claim import next_batch, queued_since_last_s

if TYPE_CHECKING:
    from amorsize_executor.engine.helper import Helper
    from amorsize_executor.engine.span import Span
    from amorsize_executor.engine.stream import Stream

_TRIAL_S = 0.003
"""How long a thread works before it is judged."""

_LEAST_SHARE = 0.7
"""Of its time, which a thread has to spend at work, or in line for a processor."""


class Company:
    """Threads that run calls of one stream until none are left, or they are of no use.

    Args:
        helper: Lets them run calls.
        stream: Whose calls.
        threads: How many, >= 0.

    Attributes:
        callers: How many threads share the calls, the waiting caller among them.
        is_over: They begin no more calls.
    """

    def __init__(self, helper: Helper, stream: Stream, threads: int) -> None:
        self._helper = helper
        self._stream = stream
        self.callers = threads + 1
        self.is_over = not threads
        self._threads = [
            # In the caller's context, of which NumPy's way with errors is a part.
            threading.Thread(target=contextvars.copy_context().run, args=(self._work,), name="amorsize-company")
            for _ in range(threads)
        ]

    def start(self) -> None:
        """Let them begin; fewer where the system has no room for all."""
        for thread in self._threads.copy():
            try:
                thread.start()
            except RuntimeError:
                self._threads.remove(thread)

    @property
    def is_there(self) -> bool:
        """Whether any of them has not ended."""
        return any(thread.is_alive() for thread in self._threads)

    def leave(self) -> None:
        """Wait until all have ended the calls that they have begun; they begin no more."""
        self.is_over = True
        for thread in self._threads:
            thread.join()

    def _pick(self) -> Span | None:
        is_needless = self.is_over or self._stream.is_closed or self._helper.is_shut_down
        return None if is_needless else self._helper.pick(self._stream)

    def _work(self) -> None:
        began_s, began_cpu_s = time.monotonic(), time.thread_time()
        queued_since_last_s()
        batch, queued_s = 1, 0.0
        while (helped := self._helper.help(self._pick, batch)) is not None:
            batch = next_batch(*helped)
            took_s, cpu_s = time.monotonic() - began_s, time.thread_time() - began_cpu_s
            if took_s > _TRIAL_S and cpu_s + queued_s < _LEAST_SHARE * took_s:
                queued_s += queued_since_last_s()
                if cpu_s + queued_s < _LEAST_SHARE * took_s:
                    self._stream.function.overlaps, self.is_over = False, True
            elif took_s > _TRIAL_S:
                self._stream.function.overlaps = True
