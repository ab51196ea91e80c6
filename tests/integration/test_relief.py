"""Workers that all wait are joined by others, up to ``max_workers``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine.relief import Account, BlockWatch, read_account
from tests import payloads

pytestmark = pytest.mark.timeout(60, method="signal")


def meet(folder, item, places):
    """Say that this call runs, and wait until all others do."""
    (Path(folder) / str(item)).touch()
    while len(os.listdir(folder)) < places:
        time.sleep(0.001)
    return item


def nap_wait_or_tell(task):
    """Sleep a moment; or wait for a file; or make it."""
    kind, path = task
    if kind == "nap":
        time.sleep(0.0002)
    elif kind == "wait":
        payloads.wait_for_file(path)
    else:
        payloads.touch_file(path)
    return kind


@pytest.mark.parametrize("isolate", [True, False])
def test_calls_that_wait_for_each_other_all_run(tmp_path, isolate):
    """Six calls that go on only together do so on fewer cores than six, as max_workers=6 promises."""
    with AdaptiveExecutor(max_workers=6, isolate=isolate) as executor:
        futures = [executor.submit(meet, str(tmp_path), item, 6) for item in range(6)]
        assert [future.result() for future in futures] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("isolate", [True, False])
def test_a_call_may_wait_for_a_later_one_of_its_chunk(tmp_path, isolate):
    """As many calls as there are cores wait for one behind them, and cheap ones before them have made chunks long."""
    path = str(tmp_path / "flag")
    waits = len(os.sched_getaffinity(0)) + 1
    kinds = ["nap"] * 500 + ["wait"] * waits + ["nap"] * 10 + ["tell"]
    with AdaptiveExecutor(max_workers=waits + 1, isolate=isolate) as executor:
        assert list(executor.map(nap_wait_or_tell, [(kind, path) for kind in kinds])) == kinds


def test_a_call_that_waits_for_a_later_one_ends(tmp_path):
    """A call in front of another in the same queue may wait for it."""
    flag = tmp_path / "flag"
    with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
        waiting = executor.submit(payloads.wait_for_file, str(flag))
        executor.submit(payloads.touch_file, str(flag))
        waiting.result(30)


def test_a_thread_that_ends_meanwhile_hides_nothing(monkeypatch):
    """What the others have run is told."""
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*listdir(path), "1073741823"])
    assert read_account(os.getpid(), os.getpid()).ran_ns > 0


def test_work_in_children_counts_as_work():
    """The processor time of a child is seen while it runs and after it was reaped."""
    before = read_account(os.getpid(), os.getpid())
    subprocess.run([sys.executable, "-c", "x = sum(i * i for i in range(3_000_000))"], check=True)
    assert read_account(os.getpid(), os.getpid()).ran_ns - before.ran_ns > 20_000_000


class Watched:
    """A worker that runs its first call, under an account of its own."""

    number = 1

    def __init__(self):
        self.link = self
        self.account = (1, 1)

    def progress(self):
        """Return that call 0 runs."""
        return 0, 0, 0


@pytest.mark.parametrize(
    ("ran_ms", "queued_ms", "is_runnable", "expected"),
    [
        pytest.param(0, 0, False, True, id="asleep"),
        pytest.param(0.5, 90, False, True, id="asleep now and then, in a crowd"),
        pytest.param(1, 0, True, False, id="it may have stood in line all the time"),
        pytest.param(10, 90, False, False, id="at work in a crowd"),
        pytest.param(30, 0, False, False, id="at work now and then"),
        pytest.param(0, 100, False, False, id="in line all the time"),
        pytest.param(-5, 0, False, False, id="a thread has ended"),
    ],
)
def test_only_who_left_the_processor_by_itself_counts_as_blocked(monkeypatch, ran_ms, queued_ms, is_runnable, expected):
    """In 100 ms, a worker ran and stood in line for so long."""
    accounts = iter([Account(0, 0, True), Account(int(ran_ms * 1e6), queued_ms * 1_000_000, is_runnable)])
    monkeypatch.setattr("amorsize_executor.engine.relief.read_account", lambda *_: next(accounts))
    watch = BlockWatch()
    assert not watch.all_blocked([Watched()], 10.0)
    assert watch.all_blocked([Watched()], 10.1) is expected


def test_a_caller_that_has_the_last_calls_in_hand_is_relieved_too(tmp_path):
    """After thousands of cheap calls it takes all that is left at once; the last two wait for each other."""
    items = [None] * 3000 + [("wait", tmp_path / "there"), ("touch", tmp_path / "there")]
    with AdaptiveExecutor(max_workers=2) as executor:
        results = list(executor.map(wait_or_touch, items))
    assert results == [0] * 3000 + [1, 1]


def wait_or_touch(item):
    """Wait for a file, or make it; mostly nothing."""
    if item is None:
        return 0
    what, path = item
    if what == "touch":
        path.touch()
    else:
        payloads.wait_for_file(path)
    return 1


watched: AdaptiveExecutor | None = None


def test_a_caller_in_a_long_call_has_a_processor_of_its_own(tmp_path, monkeypatch):
    """Until it ends there is a worker less, so that long calls do not share processors."""
    with AdaptiveExecutor(max_workers=2) as executor:
        monkeypatch.setattr(sys.modules[__name__], "watched", executor)
        seen, *_others = executor.map(count_workers_or_spin, [(number, tmp_path / "there") for number in range(200)])
    assert seen == 1


def count_workers_or_spin(item):
    """Count the workers that there are when the 100th call has run; be that call, or another one."""
    number, path = item
    if number == 0:
        payloads.wait_for_file(path)
        return watched.stats()["workers_started"]
    payloads.spin(500)
    if number == 100:
        path.touch()
    return 0
