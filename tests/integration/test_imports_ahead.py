"""What a clean zygote imports for its workers: installed modules; nothing that they had better have each for itself."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.wire.imports import imports_ahead
from tests.processes import is_gone, poll_until

CALLS = 4

INSTALLED = {
    "heavy_alone": "import os\nPID = os.getpid()\ndef home(_number): return PID, os.getpid()\n",
    "heavy_branch": "import os\nPID = os.getpid()\n",
    "heavy_threads": """
        import os, threading
        PID = os.getpid()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    """,
    "heavy_exit": "raise SystemExit(7)\n",
    "heavy_folder": "import tempfile\nFOLDER = tempfile.TemporaryDirectory()\n",
    "heavy_hang": "import time\nwhile True: time.sleep(1)\n",
    "heavy_setting": "import os\nSEEN = os.environ.get('HEAVY_SETTING')\n",
    "heavy_noise": "import os\nPID = os.getpid()\nprint('seen', end=' ')\n",
}

OWN = {
    "users_own": """
        import os
        import heavy_alone as named
        PID = os.getpid()
        def both(number):
            return (PID, named.PID, os.getpid())
        def inside(_number):
            import heavy_alone
            return heavy_alone.PID, os.getpid()
        def maybe(number):
            if number >= 0:
                import heavy_branch
            return heavy_branch.PID, os.getpid()
        def beside_threads(_number):
            import heavy_threads
            return heavy_threads.PID, os.getpid()
        def leaving(_number):
            import heavy_exit
        def hanging(_number):
            import heavy_hang
        def with_a_folder(_number):
            import heavy_folder
            return os.path.exists(heavy_folder.FOLDER.name)
        def number_of(number):
            return number
        def with_setting(_number):
            os.environ["HEAVY_SETTING"] = "set"
            import heavy_setting
            return heavy_setting.SEEN
        def noisy(_number):
            import heavy_noise
            return heavy_noise.PID, os.getpid()
        class Caller:
            def __call__(self, number):
                return both(number)
    """,
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a module of a user's that uses installed ones, of which this process knows what it has imported."""
    for folder, modules in ((tmp_path / "site-packages", INSTALLED), (tmp_path, OWN)):
        folder.mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(folder)
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
    yield importlib.import_module("users_own")
    for name in (*INSTALLED, *OWN):
        sys.modules.pop(name, None)


@pytest.fixture
def clean():
    """Return an executor whose workers are started clean, because this process has a thread more."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with AdaptiveExecutor(2, isolate=True, min_workers=2, max_tasks_per_child=1) as executor:
        yield executor
    over.set()
    thread.join()


def results(executor, function):
    """Return what some calls return, each in a worker of its own."""
    return [future.result() for future in [executor.submit(function, number) for number in range(CALLS)]]


def test_what_is_imported_with_the_function_or_first_of_all(clean, own):
    """Its zygote has it, for all of them; another function that comes later finds it, too."""
    found = results(clean, own.inside)
    (home,) = {pid for pid, _ in found}
    assert len({worker for _, worker in found}) == CALLS
    assert home not in {os.getpid(), *(worker for _, worker in found)}
    assert {pid for _, pid, _ in results(clean, own.both)} == {home}


def test_the_users_own_modules_are_each_workers_own(clean, own):
    """They may hold random numbers, connections, and the like."""
    found = results(clean, own.both)
    assert len({named for _, named, _ in found}) == 1
    assert all(mine == worker != named for mine, named, worker in found)


def test_what_only_some_calls_import_is_imported_by_them(clean, own):
    """Nobody knows whether there will be any."""
    assert all(pid == worker for pid, worker in results(clean, own.maybe))


def test_what_starts_threads_is_left_to_the_workers(clean, own):
    """A zygote with threads must not fork: another one takes its place, and no call is lost."""
    assert all(pid == worker for pid, worker in results(clean, own.beside_threads))
    assert clean.stats()["calls_failed"] == 0


def test_what_cannot_be_imported_is_the_calls_business(clean, own):
    """As it would be without."""
    for future in [clean.submit(own.leaving, number) for number in range(CALLS)]:
        with pytest.raises(SystemExit, match="7"):
            future.result()


def test_what_an_import_may_depend_on_comes_first(clean, own):
    """A function that sets the environment, and imports then, finds what it has set."""
    assert results(clean, own.with_setting) == ["set"] * CALLS


class Proxy:
    """Stand for what is not there yet."""

    @property
    def __class__(self):
        """Fail, as a lazy object does outside of its context."""
        raise LookupError


class Finder:
    """Find nothing, in its own way."""

    def find_spec(self, name, _path=None, _target=None):
        """Fail for one of the modules."""
        if name == "heavy_alone":
            raise KeyError(name)


def test_foreign_objects_and_finders_are_not_trusted(clean, own, monkeypatch):
    """What they raise is no reason to break down."""
    own.proxy = Proxy()
    sys.modules.pop("heavy_alone")
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    assert results(clean, own.number_of) == list(range(CALLS))


def test_an_import_that_never_ends_is_not_waited_for_when_workers_are_killed(clean, own):
    """The zygote that is in it ends, and with it the executor."""
    begun = starts_of(clean._engine.backend._spawner)
    future = clean.submit(own.hanging, 1)
    assert poll_until(lambda: begun, 20)
    clean.kill_workers()
    assert future.exception(20) is not None
    clean.shutdown()
    assert is_gone(begun[0].pid)


def test_an_import_that_never_ends_is_given_up(own):
    """By the kernel; a successor leaves it to the workers, whose calls may have a limit."""
    folder = Path(own.__file__).parent
    code = f"""if True:
        import sys
        from amorsize_executor.worker import zygote
        sys.path.insert(0, {str(folder / "site-packages")!r})
        zygote._MOST_IMPORTING_S = 0.2
        zygote._import_ahead(["heavy_hang"])
    """
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == -signal.SIGALRM


def test_after_a_zygote_that_never_came_up_nothing_is_imported_ahead(clean, own):
    """What it has imported may have ended it."""
    begun = starts_of(clean._engine.backend._spawner, lambda zygote: begun or os.kill(zygote.pid, signal.SIGKILL))
    assert results(clean, own.number_of) == list(range(CALLS))
    assert len(begun) > 1
    assert all(pid == worker for pid, worker in results(clean, own.inside))
    assert not clean._engine.backend._spawner._may_import_ahead


def test_what_is_to_be_done_at_exit_is_each_workers_own(clean, own):
    """The first worker that ends removes nothing that the others have."""
    assert results(clean, own.with_a_folder) == [True] * CALLS


def test_what_it_prints_is_printed_once(own, capfd):
    """Not by each worker again."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    with AdaptiveExecutor(2, isolate=True, min_workers=2) as executor:
        assert len({pid for pid, _ in results(executor, own.noisy)}) == 1
    over.set()
    thread.join()
    assert capfd.readouterr().out == "seen "


def starts_of(spawner, then=lambda _zygote: None):
    """Return a list of the zygotes that a spawner starts from now on; ``then`` is done to each first."""
    begun, start = [], spawner._start_clean

    def noted():
        zygote = start()
        then(zygote)
        begun.append(zygote)
        return zygote

    spawner._start_clean = noted
    return begun


def test_a_zygote_with_threads_is_gone(clean, own):
    """Nobody keeps it."""
    begun = starts_of(clean._engine.backend._spawner)
    results(clean, own.beside_threads)
    first, second = begun
    assert poll_until(lambda: is_gone(first.pid), 20)
    assert not is_gone(second.pid)


def here(_number):
    """Import in various ways, first of all."""
    import xml.dom.minidom
    from email import charset, message_from_string

    def later():
        import wave

        return wave

    return xml, charset, message_from_string, later


def guarded():
    """Import what may not be wanted."""
    if sys.platform == "plan9":
        import wave

        return wave
    return None


def in_main():
    """Reach a module by another function of ``__main__``."""
    return reaches()


def reaches():
    """Name a module."""
    return functools.partial


class Caller:
    """Be called."""

    def __call__(self, number):
        """Return it."""
        return number


def test_what_is_certain():
    """Imports before the first branch, of functions under whatever; not those of inner functions, or after it."""
    for function in (here, functools.partial(here, 1), functools.lru_cache(here)):
        names = imports_ahead(function)
        assert {"xml.dom.minidom", "email", "email.charset", "functools", "threading"} <= set(names)
        assert "wave" not in names
        assert not any("amorsize" in name or name.startswith("tests") for name in names)
    assert "wave" not in imports_ahead(guarded)
    assert "functools" in imports_ahead(Caller()) or imports_ahead(Caller()) == []
    assert imports_ahead(len) == ["builtins"]
    assert imports_ahead(os.path.join) != []


def test_of_main_only_what_is_named(monkeypatch):
    """By the function, or by others of ``__main__`` that it names: these travel together."""
    space = {"functools": functools, "threading": threading, "__name__": "__main__"}
    exec("def reaches(): return functools.partial\ndef in_main(): return [reaches() for _ in range(2)]", space)  # noqa: S102
    assert imports_ahead(space["in_main"]) == ["functools"]


@pytest.mark.parametrize("module", [None, 3, "", "no.such.thing", "a b"])
def test_values_of_no_known_module(module):
    """Say nothing."""
    odd = types.FunctionType((lambda: None).__code__, {})
    odd.__module__ = module
    space = {"odd": odd, "__name__": "__main__"}
    exec("def names_it(): return odd", space)  # noqa: S102
    assert imports_ahead(space["names_it"]) == []


def test_a_zygote_that_is_not_up_is_not_waited_for(clean):
    """Where nothing is left to do when it is still starting, it ends, and with it the workers ordered of it."""
    engine = clean._engine
    spawner = engine.backend._spawner
    begun = starts_of(spawner, lambda zygote: os.kill(zygote.pid, signal.SIGSTOP))  # so it never comes up
    engine.start()
    engine.command(engine.staffing.spawn)
    assert poll_until(lambda: begun, 20)
    clean.shutdown()
    assert is_gone(begun[0].pid)
    assert clean.stats()["workers_lost"] == 0


def test_a_clean_start_is_known_to_take_longer(clean):
    """Before any was measured; a small map is not worth it."""
    with AdaptiveExecutor() as helped:
        assert list(helped.map(str.upper, ["a", "b"])) == ["A", "B"]
        assert not helped._engine.is_started
        before_s = helped._engine.tuner.costs.start_up_s
        stream = helped._stream(str.upper, (), None)
        stream.ask(["c"])
        helped._engine.reconsider(stream)
        assert helped._engine.tuner.costs.start_up_s > before_s
    clean._engine.start()
    assert clean._engine.tuner.costs.start_up_s > before_s


def test_functions_are_seen_while_others_submit():
    """Threads that submit change what is looked through, and that must not fail who starts workers."""
    with AdaptiveExecutor(isolate=True) as executor:
        engine, over = executor._engine, threading.Event()
        engine._intake.extend([len] * 2000)  # what is no call

        def change():
            while not over.is_set():
                engine._intake.append(len)
                engine._intake.pop()

        before_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        thread = threading.Thread(target=change)
        thread.start()
        try:
            assert [engine.function_in_sight() for _ in range(200)] == [None] * 200
        finally:
            over.set()
            thread.join()
            sys.setswitchinterval(before_s)
            engine._intake.clear()
