"""When executors end by themselves."""

from __future__ import annotations

import sys

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine import lifetime


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
