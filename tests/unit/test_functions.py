"""The table of functions: what is shipped, how often, and as of when."""

from __future__ import annotations

import functools
import pickle
import sys
import types
from types import ModuleType
from unittest.mock import Mock

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.backends.pipe_link import PipeLink
from amorsize_executor.wire import framing
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.functions import (
    FULL,
    ONE,
    STAR,
    TABLE_SIZE,
    FunctionCache,
    FunctionTable,
    invoker_of,
    measured_under,
)
from amorsize_executor.wire.main_module import MainSnapshot
from tests import payloads

CODEC = Codec(None, into_worker=True)


@pytest.fixture
def table():
    """Return an empty table."""
    return FunctionTable(lambda: CODEC)


def test_what_measurements_are_kept_under():
    """Two caches are two functions; a partial or a cache of a function is that function."""
    first, second = functools.lru_cache(payloads.square), functools.partial(payloads.square, 1)
    assert measured_under(first) == measured_under(second) == measured_under(payloads.square)
    assert measured_under(functools.lru_cache(payloads.add)) != measured_under(first)


class Scale:
    """A callable with state."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, value):
        """Multiply."""
        return value * self.factor


def test_a_function_of_a_module_has_one_record(table):
    """A function that goes by its name is the same record for every call."""
    assert table.register(payloads.square, snapshot=True) is table.register(payloads.square, snapshot=True)
    assert table.register(payloads.square, snapshot=True) is table.register(payloads.square, snapshot=False)
    assert table.register(payloads.square, snapshot=True).number != table.register(payloads.add, snapshot=True).number


def test_identical_bytes_have_one_number(table):
    """Callables with state whose pickles are equal are shipped once."""
    first, second = (table.register(functools.partial(payloads.add, 1), snapshot=True) for _ in range(2))
    assert first.number == second.number
    assert table.register(functools.partial(payloads.add, 2), snapshot=True).number != first.number


def test_a_snapshot_is_of_now(table):
    """With ``snapshot`` the image is of the time of registering, without it of the first shipping."""
    scale = Scale(2)
    now, later = table.register(scale, snapshot=True), table.register(scale, snapshot=False)
    scale.factor = 5
    assert CODEC.loads(now.image(CODEC))(1) == 2
    assert CODEC.loads(later.image(CODEC))(1) == 5


def test_the_table_is_bounded(table):
    """The table forgets the oldest entries, and what is registered again is right."""
    for amount in range(TABLE_SIZE + 10):
        record = table.register(functools.partial(payloads.add, amount), snapshot=True)
        assert CODEC.loads(record.image(CODEC))(1) == amount + 1


@pytest.mark.parametrize(
    ("style", "item", "expected"),
    [(ONE, (1, 2), (((1, 2),), {})), (STAR, (1, 2), ((1, 2), {})), (FULL, ((1,), {"k": 2}), ((1,), {"k": 2}))],
)
@pytest.mark.parametrize("is_fresh", [False, True])
def test_styles_of_calling(style, item, expected, is_fresh):
    """An item is one argument, all arguments, or arguments and keywords, at home and in a worker."""
    cache = FunctionCache(CODEC)
    cache.store(1, CODEC.dumps(lambda *args, **kwargs: (args, kwargs)), fresh=is_fresh)
    assert cache.invoker(1, style)(item) == expected
    assert invoker_of(lambda *args, **kwargs: (args, kwargs), style)(item) == expected


def test_fresh_callables_forget_between_calls():
    """A fresh callable is unpickled for each call; the others once."""
    cache = FunctionCache(CODEC)
    image = CODEC.dumps(functools.partial(grow, []))
    cache.store(1, image, fresh=True)
    cache.store(2, image, fresh=False)
    assert [cache.invoker(1, ONE)(0) for _ in range(3)] == [1, 1, 1]
    assert [cache.invoker(2, ONE)(0) for _ in range(3)] == [1, 2, 3]


def grow(held, _item):
    """Make the list longer and return its length."""
    held.append(0)
    return len(held)


@pytest.mark.parametrize("function", [payloads.square, lambda n: n * n, Scale(2)], ids=["name", "lambda", "state"])
def test_a_function_is_shipped_once_to_each_worker(monkeypatch, function):
    """However many calls and maps, a worker gets a function's bytes at most once a map, or once if they are equal."""
    shipped = []
    plain = PipeLink._write

    def count(self, pieces, *descriptors):
        if pieces[0][0] == framing.FUNCTION:
            shipped.append(self.worker)
        plain(self, pieces, *descriptors)

    monkeypatch.setattr(PipeLink, "_write", count)
    with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
        assert len(list(executor.map(function, range(2_000), chunksize=10))) == 2_000
        assert 1 <= len(shipped) <= 2
        assert len(set(shipped)) == len(shipped)
        shipped.clear()
        futures = [executor.submit(function, n) for n in range(500)]
        assert len([future.result() for future in futures]) == 500
        assert len(set(shipped)) == len(shipped)


def test_calls_of_one_snapshot_share_its_bytes():
    """Three hundred submits of a callable with 48 MB of state hold 48 MB, as long as it does not change."""
    table = FunctionTable(lambda: Codec(None, into_worker=True))
    callable_with_state = functools.partial(max, *range(1000))
    first, second = (table.register(callable_with_state, snapshot=True) for _ in range(2))
    assert first.number == second.number
    assert first.snapshot is second.snapshot
    other = table.register(functools.partial(max, *range(1001)), snapshot=True)
    assert other.number != first.number
    assert table.register(callable_with_state, snapshot=True).number == first.number


def test_what_has_every_attribute_is_measured_too():
    """Decorators are looked through so far and no further."""
    assert measured_under(Mock()) == measured_under(Mock())


def test_measurements_are_kept_under_what_has_a_hash():
    """Whatever a class's own class makes of it."""
    keys = {measured_under(item) for item in (payloads.Unhashable, payloads.square, abs, payloads.Unhashable(1), Mock)}
    assert len(keys) == 4


def test_a_snapshot_for_workers_of_other_ancestry(monkeypatch):
    """What was frozen for one zygote is pickled for the next as it was, not as it is by now."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec("class Account:\n    balance = 0\n    def tell(self): return self.balance", main.__dict__)  # noqa: S102 - a class of this module
    inherited = Codec(MainSnapshot(), into_worker=True)
    table = FunctionTable(lambda: inherited)
    account = main.Account()
    account.balance = 1
    record = table.register(account.tell, snapshot=True)
    account.balance = 2
    assert pickle.loads(record.image(CODEC))() == 1
    account.balance = 3
    assert pickle.loads(record.image(Codec(None, into_worker=True)))() == 1


def count_of(items):
    """Use a builtin whose name is none of an array's."""
    return len(items)


@pytest.mark.parametrize("numpy", [None, ModuleType("numpy")], ids=["absent", "half loaded"])
def test_items_that_are_not_plain_where_numpy_is_not_loaded(table, monkeypatch, numpy):
    """They may leave traces, whatever the function does; another thread may be loading NumPy just now."""
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    if numpy is not None:
        monkeypatch.setitem(sys.modules, "numpy", numpy)
    assert not table.register(count_of, snapshot=False).leaves_no_trace_on([[1], [1, 2]])
