"""When executors end by themselves."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine import lifetime
from amorsize_executor.engine.interrupts import interrupts_waiting
from tests import payloads


def test_executors_that_are_made_while_all_are_ended(monkeypatch):
    """Other threads may go on while the interpreter exits: the executors that there were end."""
    monkeypatch.setattr(lifetime, "_is_exiting", False)
    executors = [AdaptiveExecutor(max_workers=1) for _ in range(3)]
    made = []

    def make(_frame, event, _argument):
        if event == "call" and len(made) < 20:
            made.append(AdaptiveExecutor(max_workers=1))

    sys.setprofile(make)
    try:
        lifetime._finish_all()
    finally:
        sys.setprofile(None)
    assert made
    assert all(executor._engine.has_ended for executor in executors)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_child_of_a_fork_lets_go_of_wakes_nobody():
    """Another thread may have been waking the dispatcher, and so holds the lock in the child for good."""
    with AdaptiveExecutor(max_workers=1, isolate=True) as executor:
        results = executor.map(payloads.square, range(200))
        assert next(results) == 0
        waiting = threading.Barrier(2)

        def hold():
            with executor._engine.loop._waker._lock:
                waiting.wait()
                waiting.wait()

        with executor._engine.lock:
            other = threading.Thread(target=hold)
            other.start()
            waiting.wait()
            executor._engine.loop._is_woken = False
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                results.__del__()
                os._exit(0)
            waiting.wait()
            other.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert list(results) == [number**2 for number in range(1, 200)]


def test_an_interrupt_waits_once():
    """The first Ctrl-C comes at the end of the block, whatever that ends with; who sends another one is in a hurry."""
    passed = []

    def interrupt(times):
        with interrupts_waiting():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            passed.append(times)

    for times in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            interrupt(times)
    assert passed == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
