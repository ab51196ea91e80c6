"""The parent's side of the zygote, without an engine."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from amorsize_executor import AdaptiveExecutor, WorkerDiedError
from amorsize_executor.backends import zygote
from amorsize_executor.backends.zygote import ZygoteSpawner
from amorsize_executor.events import PoolStarted
from tests import payloads
from tests.processes import poll_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs pidfd")


def refuse(*_args, **_options):
    """Do as a system that has no room."""
    raise OSError(errno.EAGAIN, "no room")


def turn(loop):
    """Turn the loop for ever."""
    while True:
        loop.run(loop.wait())


def end(spawner, loop):
    """Close a spawner."""
    ended = []
    spawner.close(lambda: ended.append(True))
    while not ended:
        loop.run(loop.wait())


class Events(SimpleNamespace):
    """What a test wants to hear, of an engine that knows no function yet."""

    def function_in_sight(self):
        """Know of none."""


def opened(loop, events=None):
    """Return a spawner whose zygote is there, however it was started."""
    spawner = ZygoteSpawner(None, (), 0)
    spawner.open(loop, events or Events(), lambda _event: None)
    if spawner._zygote is None:
        spawner._begin()
    return spawner


@pytest.mark.parametrize("way", ["fork", "Popen"])
def test_no_room_for_a_zygote(loop, monkeypatch, way):
    """The first call fails with the system's error, and nothing is left of the attempt."""
    monkeypatch.setattr(zygote, "may_fork", lambda: way == "fork")
    monkeypatch.setattr(*{"fork": (os, "fork"), "Popen": (subprocess, "Popen")}[way], refuse)
    spawner = ZygoteSpawner(int, (), 0)  # with an initializer, which is tried at once
    with pytest.raises(OSError, match="no room"):
        spawner.open(loop, Events(), lambda _event: None)


def test_a_twin_that_is_refused_while_all_is_closed(loop):
    """The system has no room for the twin that was ordered last: its zygote ends all the same."""
    spawner = opened(loop)
    ours, theirs = socket.socketpair()
    spawner._twin, ended = zygote._Zygote(ours), []
    spawner.close(lambda: ended.append(True))
    spawner._refused(zygote._TWIN, errno.EAGAIN)
    assert select.select([spawner._zygote.pidfd], [], [], 20)[0], "the zygote goes on"
    while not ended:
        loop.run(loop.wait())
    theirs.close()


def test_no_descriptor_for_a_twin(loop, monkeypatch):
    """There is none until another worker is started."""
    spawner = opened(loop)
    with monkeypatch.context() as patch:
        patch.setattr(zygote.socket, "socketpair", refuse)
        spawner._bring_twin()
    assert spawner._twin is None
    end(spawner, loop)


def test_no_descriptor_for_a_worker(loop, monkeypatch):
    """A worker whose process cannot be told from others is sent away, as if the system had refused to make it."""
    heard = []
    events = Events(
        worker_ready=lambda *_args: None,
        spawn_refused=lambda worker, reason: heard.append((worker, reason)),
        worker_died=lambda worker, *_args, **_options: heard.append((worker, "died")),
    )
    spawner = opened(loop, events)
    spawner.spawn(7)
    receive = socket.recv_fds

    def receive_without(*args):
        data, descriptors, *rest = receive(*args)
        for descriptor in descriptors:
            os.close(descriptor)
        return data, [], *rest

    monkeypatch.setattr(zygote.socket, "recv_fds", receive_without)
    while len(heard) < 2:
        loop.run(loop.wait())
    assert heard == [(7, os.strerror(errno.EMFILE)), (7, "died")]
    end(spawner, loop)


def count_slowly(path, key):
    """Be counted, and give others the time to run the next ones meanwhile."""
    time.sleep(0.02)
    return payloads.count_execution(path, key)


def test_a_worker_that_is_sent_away_runs_nothing_more(monkeypatch, tmp_path):
    """It may have begun already: what it has in hand is given to others only when it has ended."""
    counts, receive, away = tmp_path / "counts", socket.recv_fds, []

    def receive_late(*args):
        data, descriptors, *rest = receive(*args)
        if descriptors and not away:
            away.append(poll_until(counts.exists, 20))
            while descriptors:
                os.close(descriptors.pop())
        return data, descriptors, *rest

    monkeypatch.setattr(zygote.socket, "recv_fds", receive_late)
    with AdaptiveExecutor(1, isolate=True, chunksize=9, on_worker_death="fail") as executor:
        results = list(executor.imap(count_slowly, [counts] * 9, map(str, range(9)), on_error="return"))
    assert all(result == str(place) or type(result) is WorkerDiedError for place, result in enumerate(results))
    ran = payloads.read_executions(counts)
    assert len(ran) == len(set(ran))
    assert away == [True]


def test_no_room_for_a_successor(loop, monkeypatch):
    """Whoever turns the loop hears of it, as of the workers' end, and nothing waits for a zygote that is gone."""
    died = []
    events = Events(worker_died=lambda worker, *_args, **_options: died.append(worker))
    spawner = opened(loop, events)
    spawner._twin_is_due = True  # so that none takes over
    spawner.spawn(7)
    monkeypatch.setattr(spawner, "_start", refuse)
    os.kill(spawner._zygote.pid, signal.SIGKILL)
    with pytest.raises(OSError, match="no room"):
        turn(loop)
    assert died == [7]
    spawner._bring_twin()
    end(spawner, loop)


def test_an_interrupt_as_a_zygote_starts_clean(loop, monkeypatch):
    """Ctrl-C goes to the whole group of processes; the zygote, which has no handler yet, does not end by it."""

    def start_and_interrupt(*args, **options):
        process = popen(*args, **options)
        process.send_signal(signal.SIGINT)
        return process

    popen = subprocess.Popen
    monkeypatch.setattr(zygote, "may_fork", lambda: False)
    monkeypatch.setattr(subprocess, "Popen", start_and_interrupt)
    spawner, heard = ZygoteSpawner(None, (), 0), []
    spawner.open(loop, Events(), heard.append)
    spawner._begin()
    spawner._bring_twin()
    while spawner._twin is None or not spawner._twin.pid:
        loop.run(loop.wait())
    assert [type(event) for event in heard] == [PoolStarted]
    end(spawner, loop)


def test_no_room_for_the_first_worker(monkeypatch):
    """Beside threads, the zygote is started when a worker is wanted: calls that wait then fail, later ones do not."""
    monkeypatch.setattr(zygote, "may_fork", lambda: False)
    with AdaptiveExecutor(1, isolate=True) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refuse)
            futures = [executor.submit(abs, -number) for number in range(3)]
            assert [str(future.exception()) for future in futures] == [f"[Errno {errno.EAGAIN}] no room"] * 3
        assert executor.submit(abs, -1).result() == 1


def test_many_objects_are_not_forked(monkeypatch):
    """Whoever counts references to them afterwards would copy their pages."""
    monkeypatch.setattr(zygote, "has_one_thread", lambda: True)
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: 100_000)
    assert zygote.may_fork()
    monkeypatch.setattr(sys, "getallocatedblocks", lambda: 10_000_000)
    assert not zygote.may_fork()
