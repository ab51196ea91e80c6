"""Ctrl-C and what must not be left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interrupts_waiting() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block; a second one does not. It comes in the main thread only."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []

    def note(*details: Any) -> None:
        came.append(details)
        if len(came) > 1:
            before(*details)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if len(came) == 1:
            before(*came[0])
