"""Executors for the contract suite: every mode, shut down after every test."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amorsize_executor import AdaptiveExecutor
from tests.contract.modes import EVERY_MODE, make_executor


@pytest.fixture(params=EVERY_MODE)
def mode(request: pytest.FixtureRequest) -> str:
    """Name the way of running; see ``modes``."""
    return request.param


@pytest.fixture
def make(mode: str) -> Iterator[Callable[..., AdaptiveExecutor]]:
    """Return a maker of executors of this mode; what it made is shut down at the end."""
    with contextlib.ExitStack() as stack:

        def enter(**options: Any) -> AdaptiveExecutor:
            executor = make_executor(mode, **options)
            stack.callback(functools.partial(executor.shutdown, cancel_futures=True))
            return executor

        yield enter


@pytest.fixture
def executor(make: Callable[..., AdaptiveExecutor]) -> AdaptiveExecutor:
    """Return an executor with two workers."""
    return make()
