"""What tests of the command line share."""

from __future__ import annotations

import pytest

from amorsize_executor.cli import main as command_line


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
