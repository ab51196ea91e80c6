"""What unit tests share: the command line, and the event loop."""

from __future__ import annotations

import pytest

from amorsize_executor.cli import main as command_line
from amorsize_executor.engine.reactor import EventLoop


@pytest.fixture
def amorsize(capsys):
    """Run the command line here; return its status, stdout and stderr."""

    def run(*arguments):
        try:
            status = command_line.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code or 0
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def loop():
    """Return a loop, closed at the end."""
    loop = EventLoop()
    loop.open()
    yield loop
    loop.close()
