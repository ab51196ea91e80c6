"""Memory: what was learned of a function comes back in the next run, for that function and no other."""

from __future__ import annotations

import functools
import logging
import sqlite3
import textwrap

import pytest

from amorsize_executor import AdaptiveExecutor, StorageError
from amorsize_executor.records import Experience, Lane, Measurement
from amorsize_executor.storage import memory as memory_module
from amorsize_executor.storage.identity import identify_definition
from amorsize_executor.storage.memory import Memory
from amorsize_executor.tuning.planner import Tuner
from tests import payloads

MEASURED = Measurement(40, 0.4, 0.1, 0.3, 0.004, 0.02, 100, 200, 300, Lane.PROCESSES)
KNOWN = Experience("An earlier run", MEASURED, 8, 20)


@pytest.fixture
def path(tmp_path):
    """Return the path of a memory that is not there yet."""
    return tmp_path / "own" / "memory.sqlite3"


@pytest.fixture
def remember(path):
    """Keep something of functions in one memory, and return what another one recalls."""

    def run(kept, asked, machine="m"):
        first = Memory(path, "m", lambda: 1.0)
        first.keep((identify_definition(function), KNOWN) for function in kept)
        first.close()
        second = Memory(path, machine)
        try:
            return [second.recall(function)[1] for function in asked]
        finally:
            second.close()

    return run


def define(body, name="f", **namespace):
    """Return a function made from text, as a module of this name would hold it."""
    namespace["__name__"] = "made"
    exec(textwrap.dedent(body), namespace)  # noqa: S102 - functions that differ in a part of their source
    return namespace[name]


def test_what_was_learned_comes_back(remember):
    """All of it, and for a function that was never kept, nothing."""
    assert remember([payloads.square], [payloads.square, payloads.identity]) == [KNOWN, None]


def test_another_kind_of_machine_begins_anew(remember):
    """Times and counts of workers do not carry over."""
    assert remember([payloads.square], [payloads.square], machine="other") == [None]


@pytest.mark.parametrize(
    "other",
    [
        "def f(x, n=3): return x * n",  # another default
        "def f(x, n=2): return n * x",  # another bytecode
        "def f(x, *, n=2): return x * n",
    ],
)
def test_functions_are_known_by_more_than_their_name(remember, other):
    """A changed default or a changed body is another function."""
    one = define("def f(x, n=2): return x * n")
    assert remember([one], [one, define(other)]) == [KNOWN, None]


@pytest.mark.parametrize(
    ("one", "other"),
    [("def f(x): return x * 2", "def f(x): return x * 3"), ("def f(x): return foo(x)", "def f(x): return bar(x)")],
)
def test_equal_bytecode_is_not_enough(remember, one, other):
    """Constants and names are no part of ``co_code``."""
    first, second = define(one), define(other)
    assert first.__code__.co_code == second.__code__.co_code
    assert remember([first], [second]) == [None]


def test_what_one_decorator_wraps_is_told_apart(remember):
    """Though the wrapper's code is one."""
    body = "def deco(g):\n    def f(x):\n        return g(x)\n    return f"
    deco = define(body, "deco")
    assert remember([deco(payloads.square)], [deco(payloads.square), deco(payloads.identity)]) == [KNOWN, None]
    twice = deco(deco(payloads.square))
    assert identify_definition(twice).digest != identify_definition(deco(deco(payloads.identity))).digest


def test_bound_data_does_not_count(remember):
    """It changes from run to run; functions among it do count."""
    bound = [functools.partial(payloads.add, [1] * n) for n in (1, 2)]
    assert remember(bound[:1], bound) == [KNOWN, KNOWN]
    called = [functools.partial(map, function) for function in (payloads.square, payloads.identity)]
    assert remember(called[:1], called) == [KNOWN, None]
    assert remember([payloads.cached_square], [payloads.cached_square, payloads.square]) == [KNOWN, None]


def test_a_function_that_closes_over_itself_is_identified():
    """Without going round for ever."""
    body = "def make():\n    def f(x):\n        return f(x)\n    return f"
    assert identify_definition(define(body, "make")()).name == "made:make.<locals>.f"


def test_the_oldest_are_forgotten(path, monkeypatch):
    """The file does not grow for ever."""
    monkeypatch.setattr(memory_module, "_FORGET", memory_module._FORGET.replace("1000", "2"))
    times = iter([1.0, 2.0, 3.0])
    kept = Memory(path, "m", lambda: next(times))
    for function in (payloads.square, payloads.identity, payloads.add):
        kept.keep([(identify_definition(function), KNOWN)])
    found = [kept.recall(function)[1] is not None for function in (payloads.square, payloads.identity, payloads.add)]
    kept.close()
    assert found == [False, True, True]


@pytest.mark.parametrize("change", ["calls = -1", "wall_s = 9e999", "workers = 0", "chunksize = 'x'", "lane = 'moon'"])
def test_a_spoilt_row_is_not_used(remember, path, caplog, change):
    """It is told, and the function begins anew."""
    remember([payloads.square], [])
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE functions SET {change}")  # noqa: S608 - cases of this test
    connection.close()
    assert remember([], [payloads.square]) == [None]
    assert "makes no sense" in caplog.text


# --- executors ---


@pytest.fixture
def begun(monkeypatch):
    """Return a list of what executors begin with something known of."""
    keys, begin_with = [], Tuner.begin_with
    monkeypatch.setattr(Tuner, "begin_with", lambda *args: (keys.append(args[1]), begin_with(*args)))
    return keys


def decisions_of(executor):
    """Return what was decided, and why."""
    return [(entry.what, entry.after, entry.reason) for entry in executor.decisions()]


def test_an_executor_begins_where_the_last_one_ended(path):
    """With the chunk size and the workers of the run before, and counts only its own calls."""
    with AdaptiveExecutor(memory=path, isolate=True) as first:
        list(first.map(payloads.square, range(3000)))
    (learned,) = [entry.after for entry in first.decisions() if entry.what == "chunksize"][-1:]
    assert not any("earlier run" in reason for _what, _after, reason in decisions_of(first))
    with AdaptiveExecutor(memory=path, isolate=True) as second:
        list(second.map(payloads.square, range(3000)))
    assert ("chunksize", learned, "An earlier run says so.") in decisions_of(second)
    assert any(what == "workers" and "An earlier run says" in why for what, _after, why in decisions_of(second))
    (entry,) = second.stats()["functions"]
    assert entry["calls"] == 3000


def test_an_executor_that_ran_nothing_makes_no_file(path):
    """And one that learned nothing new keeps what was known."""
    AdaptiveExecutor(memory=path).shutdown()
    assert not path.exists()


def test_what_does_not_change_is_still_known_two_runs_later(path, begun):
    """A run without the function forgets nothing."""
    for function in (payloads.square, payloads.identity, payloads.square):
        with AdaptiveExecutor(memory=path, isolate=True) as executor:
            executor.submit(function, 1).result()
    assert begun == [payloads.square.__code__]


def test_workers_of_another_kind_begin_anew(path, begun):
    """What threads took says little of processes."""
    for options, times in (({"isolate": True}, 0), ({"backend": "thread"}, 0), ({"isolate": True}, 1)):
        with AdaptiveExecutor(memory=path, **options) as executor:
            executor.submit(payloads.square, 1).result()
        assert begun == [payloads.square.__code__] * times


def test_an_end_that_fails_ends_all_the_same(path, monkeypatch, caplog):
    """Whatever is raised there, nobody waits for ever."""

    def fail(_memory, _learned):
        raise OverflowError

    monkeypatch.setattr(Memory, "keep", fail)
    with AdaptiveExecutor(memory=path) as executor:
        assert executor.submit(payloads.square, 3).result() == 9
    assert "OverflowError" in caplog.text


def test_views_remember_too(path, begun):
    """And functions that only a map has met."""
    for remembered in ([], [payloads.square.__code__, payloads.identity.__code__]):
        with AdaptiveExecutor(memory=path, isolate=True) as executor:
            view = executor.options(priority=1)
            assert (view.submit(payloads.square, 2).result(), *view.map(payloads.identity, [1])) == (4, 1)
        assert begun == remembered


def test_a_memory_that_cannot_be_used_is_told_at_once(tmp_path):
    """At the first call, before anything runs."""
    foreign = tmp_path / "notes.txt"
    foreign.write_text("not a database, and longer than a page of SQLite is" * 20, "utf-8")
    with AdaptiveExecutor(memory=foreign) as executor:
        for _ in range(2):
            with pytest.raises(StorageError, match="no database"):
                executor.submit(payloads.square, 1)
    assert "not a database" in foreign.read_text(encoding="utf-8")


def test_a_memory_is_a_file():
    """An empty path is told so, not that a directory is wanted."""
    with pytest.raises(ValueError, match="memory='': must be a path that is not empty"):
        AdaptiveExecutor(memory="")


def test_results_do_not_suffer_from_a_memory_that_cannot_be_written(path, monkeypatch, caplog):
    """The log tells."""

    def fail(_memory, _learned):
        raise StorageError(path, "the disk is full")

    monkeypatch.setattr(Memory, "keep", fail)
    with caplog.at_level(logging.WARNING), AdaptiveExecutor(memory=path) as executor:
        assert executor.submit(payloads.square, 3).result() == 9
    assert "is not kept" in caplog.text


@pytest.mark.parametrize(("value", "error"), [(3, TypeError), ("", ValueError), (b"x", TypeError)])
def test_what_is_no_path_is_refused(value, error):
    """At construction."""
    with pytest.raises(error):
        AdaptiveExecutor(memory=value)
