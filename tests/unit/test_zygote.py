"""The parent's side of the zygote, without an engine."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from amorsize_executor.backends import zygote
from amorsize_executor.backends.zygote import ZygoteSpawner
from amorsize_executor.engine.reactor import EventLoop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs pidfd")


@pytest.fixture
def loop():
    """Return a loop, closed at the end."""
    loop = EventLoop()
    loop.open()
    yield loop
    loop.close()


@pytest.mark.parametrize("way", ["fork", "Popen"])
def test_no_room_for_a_zygote(loop, monkeypatch, way):
    """The first call fails with the system's error, and nothing is left of the attempt."""

    def refuse(*_args, **_options):
        raise OSError(errno.EAGAIN, "no room")

    monkeypatch.setattr(zygote, "may_fork", lambda: way == "fork")
    monkeypatch.setattr(*{"fork": (os, "fork"), "Popen": (subprocess, "Popen")}[way], refuse)
    with pytest.raises(OSError, match="no room"):
        ZygoteSpawner(None, (), 0).open(loop, SimpleNamespace(), lambda _event: None)


def test_a_twin_that_is_refused_while_all_is_closed(loop):
    """The system has no room for the twin that was ordered last: its zygote ends all the same."""
    spawner = ZygoteSpawner(None, (), 0)
    spawner.open(loop, SimpleNamespace(), lambda _event: None)
    ours, theirs = socket.socketpair()
    spawner._twin, ended = zygote._Zygote(ours), []
    spawner.close(lambda: ended.append(True))
    spawner._refused(zygote._TWIN, errno.EAGAIN)
    assert select.select([spawner._zygote.pidfd], [], [], 20)[0], "the zygote goes on"
    while not ended:
        loop.run(loop.wait())
    theirs.close()
