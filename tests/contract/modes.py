"""The ways of running that the contract suite holds to one contract. A new backend is one line in ``MODES``."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from amorsize_executor import AdaptiveExecutor

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "isolate": {"isolate": True},
    "process": {"backend": "process"},
    "thread": {"backend": "thread"},
    "caller": {"backend": "caller"},
}
"""Constructor arguments by name; each runs every test of the suite."""

LIKE_ANOTHER = ("process", "thread", "caller")
"""Modes that share their code with another one, or depend on no interpreter; all tests in them are slow ones."""

CONTEXTS = ("fork", "forkserver", "spawn", "loky")
"""Start methods; slow to start, so they run the tests that are marked with ``in_contexts_too`` only."""

CROSSING = ("isolate",)
"""Modes in which every call runs in another process."""

SHARING = ("thread", "caller")
"""Modes in which every call sees the caller's own objects."""

EVERY_MODE = [pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_ANOTHER)) for name in MODES]

in_contexts_too = pytest.mark.parametrize(
    "mode",
    [*EVERY_MODE, *(pytest.param(name, marks=pytest.mark.slow) for name in CONTEXTS)],
    indirect=True,
)
in_other_processes = pytest.mark.parametrize(
    "mode",
    [*CROSSING, *(pytest.param(name, marks=pytest.mark.slow) for name in CONTEXTS)],
    indirect=True,
)
only_crossing = pytest.mark.parametrize("mode", CROSSING, indirect=True)


def make_executor(mode: str, **options: Any) -> AdaptiveExecutor:
    """Return an executor of the mode, with two workers unless told otherwise."""
    return AdaptiveExecutor(**{"max_workers": 2, **arguments_of(mode), **options})


def arguments_of(mode: str) -> dict[str, Any]:
    """Return the constructor arguments of a mode."""
    if mode in MODES:
        return MODES[mode]
    if mode == "loky":
        from loky.backend import get_context

        return {"mp_context": get_context("loky")}
    return {"mp_context": multiprocessing.get_context(mode)}
