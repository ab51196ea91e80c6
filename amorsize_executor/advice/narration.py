"""What a function of advice tells while it works: phases to a callback, and lines to stderr where they are wanted."""

from __future__ import annotations

import sys
from collections.abc import Callable

from amorsize_executor.events import logger

ProgressCallback = Callable[[str, float], object]

START = "Starting optimization", 0.0
SAMPLING = "Sampling function", 0.1
SAMPLED = "Sampling complete", 0.3
ANALYSING = "Analyzing system", 0.5
COMPUTING = "Computing parameters", 0.7
ESTIMATING = "Estimating speedup", 0.9
COMPLETE = "Optimization complete", 1.0


def whisper(text: str) -> None:
    """Write a line to stderr, which is looked up anew each time: a program may have put something in its place."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def tell_progress(callback: Callable[..., object], *facts: object) -> None:
    """Call a callback; its own failure is logged, and no reason to stop what it watches."""
    try:
        callback(*facts)
    except Exception:  # noqa: BLE001 - as above
        logger.exception("amorsize_executor: a progress callback failed")


class Narration:
    """Tells a callback of phases, and stderr of what was found.

    Args:
        verbose: Write lines to stderr.
        progress: Called with (phase, fraction); fractions go from 0.0 to 1.0 and never back. What it raises is logged.
    """

    def __init__(self, *, verbose: bool = False, progress: ProgressCallback | None = None) -> None:
        self._verbose = verbose
        self._progress = progress

    def enter(self, step: tuple[str, float]) -> None:
        """Begin a phase, such as ``SAMPLING``."""
        self.say(f"[{step[1]:4.0%}] {step[0]}")
        if self._progress is not None:
            tell_progress(self._progress, *step)

    def say(self, text: str) -> None:
        """Tell who wants to know."""
        if self._verbose:
            whisper(text)
