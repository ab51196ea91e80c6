"""Ctrl-C where the interpreter really looks for it: as a function begins, and as a builtin returns."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import amorsize_executor

PACKAGE = str(Path(amorsize_executor.__file__).parent)


class Interrupter:
    """Sends SIGINT at one passage of one point of the package, in this thread; or counts all passages.

    A point is (file, line, what has happened there).
    """

    def __init__(self, target=None):
        self._target = target
        self._pid = os.getpid()
        self.passages = Counter()

    def __enter__(self):
        sys.setprofile(self._hear)
        return self

    def __exit__(self, *_details):
        sys.setprofile(None)

    def _hear(self, frame, event, builtin):
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        point = frame.f_code.co_filename, frame.f_lineno, event, getattr(builtin, "__name__", frame.f_code.co_name)
        self.passages[point] += 1
        if (point, self.passages[point]) == self._target:
            sys.setprofile(None)
            if os.getpid() == self._pid:
                signal.raise_signal(signal.SIGINT)


def points_of(act, most=1):
    """Return the points that ``act`` passes, each with its first ``most`` passages."""
    with Interrupter() as interrupter:
        act()
    return [
        (point, passage) for point, count in interrupter.passages.items() for passage in range(1, min(count, most) + 1)
    ]


def interrupt(act, target):
    """Run ``act``, interrupted there; tell whether the interrupt came."""
    try:
        with Interrupter(target):
            act()
    except KeyboardInterrupt:
        return True
    return False
