"""What travels of ``__main__`` where helped calls bind globals, and which globals code may bind."""

from __future__ import annotations

import functools
import gc
import os
import sys
import threading
import types
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from amorsize_executor.wire import bindings
from amorsize_executor.wire.bindings import MISSING, HelpedBindings
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.functions import FULL, ONE, STAR, Function
from amorsize_executor.wire.main_module import MainSnapshot
from amorsize_executor.wire.reach import globals_bound_by
from tests import payloads


class Thing:
    """Something that can be referred to weakly."""


@pytest.fixture
def main(monkeypatch):
    """Return an empty ``__main__``."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


@pytest.fixture
def helped(monkeypatch):
    """Return the process's record of helped calls, empty."""
    bindings = HelpedBindings()
    for user in ("main_module", "codec", "bindings"):
        monkeypatch.setattr(f"amorsize_executor.wire.{user}.helped", bindings)
    return bindings


def test_what_a_call_binds_does_not_travel(main, helped):
    """While a call runs, and after, the global is what it was; until something else binds it."""
    main.conn = None
    helped.begin(1, ("conn",))
    main.conn = Thing()
    assert helped.get("conn") is None
    helped.end(1)
    assert helped.get("conn") is None
    assert helped.all()["conn"] is None
    main.conn = again = Thing()
    assert helped.get("conn") is again
    assert helped.all()["conn"] is again


def test_what_a_call_leaves_alone_travels_as_it_is(main, helped):
    """A call that might bind a global and does not changes nothing; nor is an unknown call's end an error."""
    helped.begin(1, ("conn",))
    helped.end(1)
    helped.end(1)
    assert helped.get("conn") is MISSING
    main.conn = 5
    assert helped.get("conn") == 5


def test_later_calls_start_from_what_earlier_ones_bound(main, helped):
    """However many calls bind a counter, to what travels it is what it was before the first."""
    main.count = 0
    for _ in range(5):
        helped.begin(1, ("count",))
        main.count += 1_000
        helped.end(1)
    assert (main.count, helped.get("count")) == (5_000, 0)
    main.count = 7
    helped.begin(2, ("count",))
    main.count = 8
    helped.end(2)
    assert helped.get("count") == 7


def test_calls_that_overlap(main, helped):
    """Of two callers that help at once, the last to end closes the account."""
    main.conn = None
    helped.begin(1, ("conn",))
    main.conn = Thing()
    helped.begin(2, ("conn",))
    helped.end(1)
    main.conn = Thing()
    assert helped.get("conn") is None
    helped.end(2)
    assert helped.get("conn") is None


def test_globals_that_were_not_there(main, helped):
    """A global that a call creates is absent from what travels, and from a forked worker."""
    helped.begin(1, ("conn",))
    main.conn = 1
    helped.end(1)
    assert helped.get("conn") is MISSING
    assert "conn" not in helped.all()
    helped.undo()
    assert not hasattr(main, "conn")


def test_a_forked_worker_starts_without(main, helped):
    """``undo`` binds what was there before, and only where calls have changed it."""
    main.conn, main.other = None, 1
    helped.begin(1, ("conn", "other"))
    main.conn = main.other = 2
    helped.end(1)
    main.other = 3
    helped.undo()
    assert (main.conn, main.other) == (None, 3)
    main.conn = 4
    assert helped.get("conn") == 4


def test_the_record_keeps_nothing_alive(main, helped):
    """What a call has bound ends when nobody else holds it; and then the global is what it is."""
    main.conn = 0
    helped.begin(1, ("conn",))
    main.conn = Thing()
    helped.end(1)
    watched = weakref.ref(main.conn)
    main.conn = None
    gc.collect()
    assert watched() is None
    assert helped.get("conn") is None


CODE = """
import functools
conn = limit = count = None
def plain(n):
    return limit
def lazy(n):
    global conn
    if conn is None:
        conn = object()
    return conn
def outer(n):
    return lazy(n)
def nested(n):
    def inner():
        global count
        count = n
    return inner
class Client:
    def get(self):
        return lazy(1)
    @property
    def size(self):
        global limit
        limit = 3
client = Client()
def through(n):
    return client.get()
@functools.lru_cache
def cached(n):
    return lazy(n)
def wrap(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper
wrapped = wrap(lazy)
"""


@pytest.fixture
def code(main):
    """Return a ``__main__`` with functions that bind globals in many ways."""
    exec(CODE, vars(main))  # noqa: S102 - as a script does
    return main


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", set()),
        ("lazy", {"conn"}),
        ("outer", {"conn"}),
        ("nested", {"count"}),
        ("Client", {"conn", "limit"}),
        ("client", {"conn", "limit"}),
        ("through", {"conn", "limit"}),
        ("cached", {"conn"}),
        ("wrapped", {"conn"}),
        ("limit", set()),
    ],
)
def test_which_globals_code_may_bind(code, name, expected):
    """Through callees, classes, instances, caches, decorators and nested functions."""
    assert set(globals_bound_by(getattr(code, name))) == expected
    assert set(globals_bound_by(functools.partial(map, getattr(code, name)))) == expected


def test_functions_of_modules_bind_nothing_here(code):
    """Only ``__main__`` matters; but arguments that are instances of its classes do, too."""
    record = Function(payloads.identity, 1, None, None)
    assert record.binds(1, ONE) == record.binds((1, "a"), STAR) == record.binds(((1,), {"a": 2}), FULL) == ()
    for item, style in ((code.client, ONE), ((1, code.client), STAR), (((), {"a": code.client}), FULL)):
        assert set(record.binds(item, style)) == {"conn", "limit"}


@pytest.mark.parametrize("is_forked", [False, True])
def test_functions_travel_without_what_helped_calls_bound(code, helped, is_forked):
    """By name where the workers were forked, else with the globals as they were before."""
    codec = Codec(MainSnapshot() if is_forked else None, into_worker=True)
    helped.begin(1, ("conn",))
    code.conn = (print for _ in ())  # which does not pickle
    for _ in ("while the call runs", "when it has ended"):
        assert codec.goes_by_name(code.lazy) == is_forked
        image = codec.dumps(code.outer)
        helped.end(1)
    if not is_forked:
        made = code.conn
        code.conn = None
        codec.loads(image)
        assert code.conn is None
        code.conn = made
    code.conn = 5
    assert not codec.goes_by_name(code.lazy)


def test_a_global_that_has_ended_is_not_what_it_was(code, helped):
    """The snapshot holds a large object weakly; None instead of it is not the same."""
    code.limit = Thing()
    codec = Codec(MainSnapshot(), into_worker=True)
    assert codec.goes_by_name(code.plain)
    code.limit = None
    gc.collect()
    assert not codec.goes_by_name(code.plain)


def test_a_child_of_a_fork_begins_anew(main, helped):
    """Another thread held the lock and ran a call, and is not there: neither is waited for."""
    main.conn = "old"
    helped.begin(1, ("conn",))
    is_held, is_done = threading.Event(), threading.Event()

    def hold():
        with helped._lock:
            is_held.set()
            is_done.wait()

    other = threading.Thread(target=hold)
    other.start()
    is_held.wait()
    with ThreadPoolExecutor(1) as child:
        try:
            child.submit(helped.begin_anew).result()
            main.conn = "new"
            assert child.submit(helped.get, "conn").result(20) == "new"
            child.submit(helped.begin, 2, ("conn",)).result(20)
        finally:
            is_done.set()
            other.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_begins_anew():
    """The hook is there."""
    bindings.helped.begin("run", ("conn",))
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(len(bindings.helped._running))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        bindings.helped.end("run")
