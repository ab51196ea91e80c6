"""Futures of submitted calls, and the condition that is their lock."""

from __future__ import annotations

import _thread
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from amorsize_executor.engine.future import CallFuture


def test_an_interrupt_while_a_call_begins_leaves_its_future_unlocked():
    """Ctrl-C that comes while the caller waits for the lock is raised as soon as it has it, and lets it go again."""
    future = CallFuture(SimpleNamespace(), SimpleNamespace(), 0)
    caller, is_held = threading.get_ident(), threading.Event()

    def hold():
        with future._condition:
            is_held.set()
            while sys._current_frames()[caller].f_code is not CallFuture.begin.__code__:
                pass
            _thread.interrupt_main()

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    with pytest.raises(KeyboardInterrupt):
        future.begin()
    holder.join()
    with ThreadPoolExecutor(1) as other:
        assert other.submit(future._condition.acquire, blocking=False).result()
