"""Company for a caller that helps: threads of its process that run calls of the same map beside it, while it waits.

Only calls of which code tells that nobody can tell (``wire.traceless``, ``wire.sharing``). And only as long as it is of
use: where they keep the interpreter's lock to themselves, as most code does, the threads are seen to stand in line for
it, and are not asked again.
"""

from __future__ import annotations

import contextvars
import threading
import time
from typing import TYPE_CHECKING

from amorsize_executor.engine.claim import next_batch, queued_since_last_s
from amorsize_executor.engine.interrupts import interrupts_waiting
from amorsize_executor.events import logger

if TYPE_CHECKING:
    from typing_extensions import Self

    from amorsize_executor.engine.helper import Helper
    from amorsize_executor.engine.span import Span
    from amorsize_executor.engine.stream import Stream

_TRIAL_S = 0.003
"""How long a thread works before it is judged."""

_LEAST_SHARE = 0.7
"""Of its time, which a thread has to spend at work, or in line for a processor."""


class Company:
    """Threads that run calls of one stream within a ``with`` block, whose end waits for the calls that they have begun.

    Args:
        helper: Lets them run calls.
        stream: Whose calls.
        threads: How many, >= 1.

    Attributes:
        is_over: They begin no more calls.
    """

    def __init__(self, helper: Helper, stream: Stream, threads: int) -> None:
        self._helper = helper
        self._stream = stream
        self.is_over = False
        self._threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._work,), name="amorsize-company")
            for _ in range(threads)
        ]

    @property
    def callers(self) -> int:
        """How many threads share the calls, the waiting caller among them; 1 when it is over."""
        return 1 if self.is_over else len(self._threads) + 1

    def __enter__(self) -> Self:
        self._stream.company, self._stream.had_company = self, True
        try:
            for thread in self._threads.copy():
                try:
                    thread.start()
                except RuntimeError:  # no room for so many
                    self._threads.remove(thread)
        except BaseException:  # Ctrl-C
            self.__exit__()
            raise
        return self

    def __exit__(self, *_details: object) -> None:
        self.is_over = True
        with interrupts_waiting():
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
        self._stream.company = None

    def _pick(self) -> Span | None:
        return None if self.is_over or self._stream.is_closed else self._helper.pick(self._stream)

    def _work(self) -> None:
        try:
            self._run_calls()
        except BaseException:  # noqa: BLE001 - no call's own: the engine, which was roused, gives its calls to others
            self.is_over = True
            logger.exception("amorsize_executor: company failed")

    def _run_calls(self) -> None:
        began_s, began_cpu_s = time.monotonic(), time.thread_time()
        queued_since_last_s()
        batch, queued_s = 1, 0.0
        while (helped := self._helper.help(self._pick, batch)) is not None:
            batch = next_batch(*helped)
            took_s, cpu_s = time.monotonic() - began_s, time.thread_time() - began_cpu_s
            if took_s <= _TRIAL_S:
                continue
            if cpu_s + queued_s < _LEAST_SHARE * took_s:
                queued_s += queued_since_last_s()
            if cpu_s + queued_s < _LEAST_SHARE * took_s:
                self._stream.function.overlaps, self.is_over = False, True
            elif not self.is_over:
                self._stream.function.overlaps = True
