"""Processes that are killed: workers, the zygote, its twin, and the parent itself."""

from __future__ import annotations

import contextlib
import os
import signal
import textwrap
import uuid
from pathlib import Path

import pytest

from amorsize_executor import AdaptiveExecutor, WorkerDiedError
from tests import payloads
from tests.processes import MARK, descendants, is_gone, marked, poll_until, start_script

pytestmark = [
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at processes through /proc"),  # noqa: PTH112
    # By signal: the other method keeps a thread per test, and nothing is forked from a process with threads.
    pytest.mark.timeout(60, method="signal"),
]


@pytest.fixture
def mark(monkeypatch):
    """Mark all processes that start during the test, so that orphans can be found."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    return value


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def spin_and_square(number):
    """Take a moment, then square."""
    payloads.spin(100)
    return number * number


# --- Many kills -----------------------------------------------------------------------------------------------


MANY_KILLS = """
    import contextlib, os, random, signal, sys, threading
    from amorsize_executor import AdaptiveExecutor
    from tests import payloads
    from tests.processes import MARK, descendants, is_gone, marked, poll_until
    mark, seed, has_threads = os.environ[MARK], int(sys.argv[1]), sys.argv[2] == "True"
    stop = threading.Event()
    if has_threads:
        threading.Thread(target=stop.wait, daemon=True).start()
    def call(n):
        payloads.spin(100)
        return n * n
    def others():
        return sorted(pid for pid in {*marked(mark), *descendants()} if not is_gone(pid))
    rng, kills, received, calls = random.Random(seed), 0, [], 6_000
    before = threading.active_count(), sorted(os.listdir("/proc/self/fd"))
    with AdaptiveExecutor(max_workers=3, isolate=True, worker_death_retries=5) as executor:
        for value in executor.imap(call, range(calls)):
            received.append(value)
            if len(received) % 150 == 0:
                victims = []
                found = poll_until(lambda: victims.extend(others()) or victims, 10)
                assert found, "the executor has no process left and starts none"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
                kills += 1
        assert executor.submit(payloads.square, 7).result() == 49
        lost = executor.stats()["workers_lost"]
    assert received == [n * n for n in range(calls)]
    poll_until(lambda: not others(), 5)
    assert (others(), descendants()) == ([], []), "processes or zombies are left"
    assert (threading.active_count(), sorted(os.listdir("/proc/self/fd"))) == before
    stop.set()
    print("kills", kills, "lost", lost)
"""


@pytest.mark.parametrize("has_threads", [False, True], ids=["forked", "started clean"])
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))])
def test_6000_calls_survive_seeded_kills(seed, has_threads, tmp_path, mark):
    """Every result is right though some process below the executor, the zygote included, is killed now and then."""
    script = tmp_path / "many_kills.py"
    script.write_text(textwrap.dedent(MANY_KILLS))
    process = start_script(script, str(seed), str(has_threads), mark=mark)
    try:
        out, err = process.communicate(timeout=50)
    finally:
        process.kill()
        process.communicate(timeout=10)
    assert process.returncode == 0, err
    assert out.startswith("kills 40 lost ")


def test_mapped_calls_survive_kills_without_a_retry_budget():
    """A killed worker costs a call one attempt, and the default budget of one more is enough for one kill."""
    with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
        results = executor.map(spin_and_square, range(2_000))
        received = [next(results) for _ in range(100)]
        kill(next(iter(executor._processes)))
        received += results
        assert received == [n * n for n in range(2_000)]
        assert executor.stats()["workers_lost"] >= 1


@pytest.mark.parametrize("victims", ["zygote", "twin", "zygote and twin", "all"])
def test_the_zygote_is_replaced(victims, mark):
    """Whichever of zygote, twin and workers are killed, even at once, the work goes on and nothing is left."""
    seen: set[int] = set()
    before = set(descendants())  # trackers that other tests have started
    with AdaptiveExecutor(max_workers=2, isolate=True, worker_death_retries=5) as executor:
        for _ in range(3):
            assert list(executor.map(payloads.square, range(50))) == [n * n for n in range(50)]
            spawner = executor._engine.backend._spawner

            def has_twin(spawner=spawner):
                """Run a call, since a twin comes with the next worker, and workers may have outlived the map."""
                executor.submit(payloads.square, 2).result()
                return spawner._twin is not None and spawner._twin.pid > 0

            assert poll_until(has_twin, 10)
            chosen = {
                "zygote": [spawner._zygote.pid],
                "twin": [spawner._twin.pid],
                "zygote and twin": [spawner._twin.pid, spawner._zygote.pid],
                "all": [*executor._processes, spawner._twin.pid, spawner._zygote.pid],
            }[victims]
            seen |= {*executor._processes, spawner._twin.pid, spawner._zygote.pid}
            futures = [executor.submit(payloads.square, n) for n in range(20)]
            for pid in chosen:
                kill(pid)
            assert [future.result(timeout=30) for future in futures] == [n * n for n in range(20)]
        assert executor.stats()["calls_failed"] == 0
    assert poll_until(lambda: all(map(is_gone, {*seen, *marked(mark), *descendants()} - before)), 5)


INHERITS_ORPHANS = """
    import ctypes, os, signal
    from amorsize_executor import AdaptiveExecutor
    from tests import payloads
    PR_SET_CHILD_SUBREAPER = 36
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    with AdaptiveExecutor(2, isolate=True, min_workers=2, worker_death_retries=5) as executor:
        for _ in range(2):
            list(executor.map(payloads.square, range(50)))
            os.kill(executor._engine.backend._spawner._zygote.pid, signal.SIGKILL)
        assert list(executor.map(payloads.square, range(50))) == [n * n for n in range(50)]
    print(repr(open(f"/proc/self/task/{os.getpid()}/children").read()))
"""


def test_process_1_of_a_container_keeps_no_zombies(tmp_path):
    """Where orphans become our children, as those of a container's first process do, they are waited for."""
    script = tmp_path / "inherits_orphans.py"
    script.write_text(textwrap.dedent(INHERITS_ORPHANS))
    process = start_script(script)
    output, errors = process.communicate(timeout=50)
    assert (process.returncode, output) == (0, "''\n"), errors


# --- Calls that kill ------------------------------------------------------------------------------------------

ENDS = {
    "SIGKILL": (payloads.kill_self, (signal.SIGKILL,), -signal.SIGKILL, "SIGKILL"),
    "SIGTERM": (payloads.kill_self, (signal.SIGTERM,), -signal.SIGTERM, "SIGTERM"),
    "SIGABRT": (os.abort, (), -signal.SIGABRT, "SIGABRT"),
    "segfault": (payloads.segfault, (), -signal.SIGSEGV, "SIGSEGV"),
    "exit status": (payloads.exit_now, (3,), 3, "status 3"),
    "exit status 0": (payloads.exit_now, (0,), 0, "status 0"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_poison_call_fails_alone(name, capfd):
    """A call that ends every worker that runs it fails with how the worker ended; all others have their values."""
    function, args, status, words = ENDS[name]
    with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
        before = [executor.submit(payloads.square, n) for n in range(40)]
        poison = executor.submit(function, *args)
        after = [executor.submit(payloads.square, n) for n in range(40)]
        assert [future.result(timeout=30) for future in before + after] == [n * n for n in range(40)] * 2
        error = poison.exception(timeout=30)
        assert isinstance(error, WorkerDiedError)
        assert (error.exit_status, error.deaths) == (status, 2)
        assert words in str(error)
        assert executor.submit(payloads.square, 3).result() == 9
    capfd.readouterr()


def poison_some(number):
    """Kill the worker for multiples of 50, square the rest."""
    if number % 50 == 25:
        payloads.kill_self()
    return number * number


@pytest.mark.parametrize("chunksize", [None, 1, 64, 1_000])
def test_poison_in_a_map_blames_the_right_calls(chunksize):
    """In chunks of any size only the calls that kill fail, and each other call has its value in its place."""
    with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
        received = list(executor.imap(poison_some, range(300), chunksize=chunksize, on_error="return"))
    bad = [index for index, value in enumerate(received) if isinstance(value, WorkerDiedError)]
    assert bad == list(range(25, 300, 50))
    assert [value for value in received if isinstance(value, int)] == [n * n for n in range(300) if n % 50 != 25]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_how_often_a_poison_call_is_tried(retries, tmp_path):
    """A call that kills its worker is tried ``worker_death_retries`` more times, no more and no less."""
    log = tmp_path / "log"
    with AdaptiveExecutor(max_workers=2, isolate=True, worker_death_retries=retries) as executor:
        error = executor.submit(count_and_die, log).exception(timeout=30)
    assert isinstance(error, WorkerDiedError)
    assert error.deaths == retries + 1
    assert len(payloads.read_executions(log)) == retries + 1


def count_and_die(log):
    """Count the execution and kill the worker."""
    payloads.count_execution(log)
    payloads.kill_self()


def die_once(log, number):
    """Kill the worker at the first execution only."""
    payloads.count_execution(log, str(number))
    if payloads.read_executions(log).count(str(number)) == 1:
        payloads.kill_self()
    return number


def test_calls_that_kill_once_have_their_value(tmp_path):
    """A call whose worker dies under it runs again and gives its value."""
    with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
        futures = [executor.submit(die_once, tmp_path / "log", n) for n in range(10)]
        assert [future.result(timeout=30) for future in futures] == list(range(10))


def test_on_worker_death_fail(tmp_path):
    """With ``on_worker_death="fail"`` no call runs twice: the one that ran fails at once, the unstarted ones run."""
    log = tmp_path / "log"
    with AdaptiveExecutor(max_workers=1, isolate=True, on_worker_death="fail") as executor:
        items = [(log, n) for n in range(40)]
        received = list(executor.imap(count_then_die_at_20, items, chunksize=40, on_error="return"))
    executions = payloads.read_executions(log)
    assert sorted(executions, key=int) == [str(n) for n in range(40)]
    failed = [n for n, value in enumerate(received) if isinstance(value, WorkerDiedError)]
    assert 20 in failed
    assert failed[-1] == 20
    assert all(value == n for n, value in enumerate(received) if n not in failed)


def count_then_die_at_20(item):
    """Count the execution; the call number 20 kills the worker."""
    log, number = item
    payloads.count_execution(log, str(number))
    if number == 20:
        payloads.kill_self()
    return number


def test_on_worker_death_break():
    """With ``on_worker_death="break"`` all calls fail and the executor is broken, as in the standard library."""
    from concurrent.futures.process import BrokenProcessPool

    with AdaptiveExecutor(max_workers=1, isolate=True, on_worker_death="break") as executor:
        poison = executor.submit(payloads.kill_self)
        others = [executor.submit(payloads.square, n) for n in range(5)]
        assert isinstance(poison.exception(timeout=30), BrokenProcessPool)
        assert all(isinstance(future.exception(timeout=30), BrokenProcessPool) for future in others)
        with pytest.raises(BrokenProcessPool):
            executor.submit(payloads.square, 2)


def test_workers_that_cannot_live_break_the_executor():
    """Where every worker dies in its initializer the executor gives up after three, and says of what they died."""
    from concurrent.futures import BrokenExecutor

    with AdaptiveExecutor(max_workers=2, initializer=os._exit, initargs=(5,)) as executor:
        futures = [executor.submit(payloads.square, n) for n in range(20)]
        with pytest.raises(BrokenExecutor, match=r"before they were ready.* exited with status 5\. The initializer"):
            futures[0].result(timeout=40)
        assert executor.stats()["workers_lost"] == 3


def test_a_worker_is_told_dead_though_its_child_lives(tmp_path, mark):
    """A subprocess that a call leaves behind keeps the pipe's end open and yet does not hide the worker's death."""
    with AdaptiveExecutor(max_workers=1, isolate=True, worker_death_retries=0) as executor:
        future = executor.submit(fork_and_die, tmp_path)
        assert isinstance(future.exception(timeout=10), WorkerDiedError)
        (tmp_path / "go").touch()
        assert executor.submit(payloads.square, 2).result() == 4
    assert poll_until(lambda: not [pid for pid in marked(mark) if not is_gone(pid)], 5)


def fork_and_die(directory):
    """Leave a child behind that inherits every descriptor, and die."""
    if os.fork() == 0:
        payloads.wait_for_file(directory / "go")
        os._exit(0)
    payloads.kill_self()


# --- The parent is killed -------------------------------------------------------------------------------------

BUSY = """
    import sys, time
    from amorsize_executor import AdaptiveExecutor
    from tests import payloads
    executor = AdaptiveExecutor(max_workers=2, {options})
    def busy(n, path):
        payloads.touch_file(path)
        payloads.spin(60_000_000) if n else payloads.sleep_return(60)
    futures = [executor.submit(busy, n, sys.argv[1] + str(n)) for n in range(2)]
    for n in range(2):
        payloads.wait_for_file(sys.argv[1] + str(n))
    print("ready", flush=True)
    futures[0].result(timeout=50)
"""


@pytest.mark.parametrize("options", ["isolate=True", "isolate=True, initializer=int", "backend='process'"])
def test_workers_end_with_their_killed_parent(options, tmp_path, mark):
    """A second after the parent was killed none of its processes is left, busy ones included."""
    script = tmp_path / "busy.py"
    script.write_text(textwrap.dedent(BUSY.format(options=options)))
    process = start_script(script, str(tmp_path / "started"), mark=mark)
    try:
        assert process.stdout.readline() == "ready\n"
        below = descendants(process.pid)
        assert len(below) >= 3
        process.kill()
        process.wait(timeout=10)
        # Their calls take a minute: whoever is gone by then has not waited for its call.
        assert poll_until(lambda: all(map(is_gone, {*below, *marked(mark)})), 10)
    finally:
        process.communicate(timeout=10)


def leave_room_for(size):
    """Let this process take so many bytes more than it has."""
    resource = pytest.importorskip("resource")
    has = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + size, resource.RLIM_INFINITY))


def test_a_call_that_no_worker_has_room_for():
    """Workers that end as they take it in are not started for ever: it fails, and the others are run."""
    with AdaptiveExecutor(max_workers=1, initializer=leave_room_for, initargs=(60 << 20,)) as executor:
        futures = [executor.submit(len, b"x" * size) for size in (5, 100 << 20, 6)]
        assert futures[0].result() == 5
        assert isinstance(futures[1].exception(), WorkerDiedError)
        assert futures[2].result() == 6
        assert executor.stats()["workers_started"] <= 4


# --- Ctrl-C ---------------------------------------------------------------------------------------------------

INTERRUPTED = """
    import os, sys
    from amorsize_executor import AdaptiveExecutor
    from tests import payloads
    def call(n):
        os.write(1, b"started\\n")  # whole lines, from whichever process
        payloads.sleep_return(0 if n == 0 else 30)
    try:
        with AdaptiveExecutor(max_workers=2, {options}) as executor:
            {statement}
    except KeyboardInterrupt:
        print("interrupted", len([t for t in __import__("threading").enumerate()]), flush=True)
        sys.exit(42)
"""


@pytest.mark.parametrize(
    ("options", "statement"),
    [
        ("isolate=True", "list(executor.map(call, range(10)))"),
        ("isolate=True", "executor.submit(call, 1).result()"),
        ("", "list(executor.map(call, range(10)))"),
        ("", "executor.submit(call, 1).result()"),
        ("", "list(executor.imap(call, iter(range(10))))"),
        ("backend='process'", "[executor.submit(call, n) for n in (1, 2, 3)][0].result(timeout=25)"),
    ],
    ids=["waiting map", "waiting submit", "helping map", "helping submit", "helping imap", "timed submit"],
)
def test_one_interrupt_is_enough(options, statement, tmp_path, mark):
    """One Ctrl-C raises ``KeyboardInterrupt`` in the caller, ends the ``with`` block and leaves nothing behind."""
    script = tmp_path / "interrupted.py"
    script.write_text(textwrap.dedent(INTERRUPTED).format(options=options, statement=statement))
    process = start_script(script, mark=mark)
    try:
        assert process.stdout.readline() == "started\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=15)
    finally:
        process.kill()
        process.communicate(timeout=10)
    assert process.returncode == 42, err
    assert out.splitlines()[-1] == "interrupted 1"
    assert err == ""
    assert poll_until(lambda: not [pid for pid in marked(mark) if not is_gone(pid)], 5)
