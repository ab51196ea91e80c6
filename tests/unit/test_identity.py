"""What functions and arguments are known by."""

from __future__ import annotations

import collections
import copy
import datetime as dt
import decimal
import enum
import functools
import importlib
import operator
import os
import pathlib
import random
import sys
import threading

import numpy as np
import pytest

from amorsize_executor import UnstableKeyError
from amorsize_executor.storage import identity
from amorsize_executor.storage.identity import digest, digest_call, identify
from tests import payloads


class Colour(enum.Enum):
    """An enumeration."""

    RED = 1
    BLUE = 2


class Plain:
    """An object with a state."""

    def __init__(self, **state):
        self.__dict__.update(state)

    def method(self):
        """Return nothing."""


LOOP: list = [1]
LOOP.append(LOOP)

DIFFERENT = [
    None,
    ...,
    0,
    False,
    0.0,
    -0.0,
    0j,
    "",
    b"",
    bytearray(),
    [],
    (),
    set(),
    frozenset(),
    {},
    [[]],
    [[], []],
    [1, 2],
    [12],
    (1, 2),
    "12",
    ["1", "2"],
    ["12", ""],
    {1: 2},
    {2: 1},
    {1, 2},
    range(3),
    slice(3),
    Colour.RED,
    Colour.BLUE,
    Colour,
    Plain(),
    Plain(a=1),
    Plain(a=2),
    Plain(a=1).method,
    Plain(a=2).method,
    decimal.Decimal("1.0"),
    decimal.Decimal("1.00"),
    dt.date(2024, 1, 1),
    dt.datetime(2024, 1, 1),  # noqa: DTZ001
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    pathlib.PurePosixPath("a"),
    collections.OrderedDict([(1, 2), (3, 4)]),
    collections.OrderedDict([(3, 4), (1, 2)]),
    collections.Counter("ab"),
    random.Random(1),
    random.Random(2),
    np.zeros(3),
    np.zeros(3, np.float32),
    np.zeros((1, 3)),
    np.zeros(0),
    np.array([0.0, 0.0, 1.0]),
    np.array(["a", None], dtype=object),
    np.array(["2024-01-01"], "M8[D]"),
    np.float64(0),
    np.float32(0),
    memoryview(b"ab"),
    LOOP,
    payloads.square,
    payloads.identity,
    len,
    max,
    operator.itemgetter(1),
    operator.itemgetter(2),
    functools.partial(max, 1),
    functools.partial(max, 2),
    functools.partial(max, 1, key=len),
    functools.lru_cache(payloads.square),
    np.sin,
    np.cos,
    os,
    sys,
    lambda x: x + 1,
    lambda x: x + 2,
    lambda x=1: x,
    lambda x=2: x,
]


def test_different_things_have_different_hashes():
    """No two of these are the same argument."""
    hashes = [digest(item, "it") for item in DIFFERENT]
    clashes = [
        (DIFFERENT[hashes.index(found)], item)
        for item, found in zip(DIFFERENT, hashes)
        if DIFFERENT[hashes.index(found)] is not item
    ]
    assert clashes == []


def test_equal_things_have_equal_hashes():
    """Order of insertion, memory layout and identity do not count."""
    padded = [
        np.frombuffer(bytearray(filler * 32), np.dtype([("a", "i1"), ("b", "i8")], align=True))
        for filler in (b"0", b"1")
    ]
    for records in padded:
        records["a"], records["b"] = [1, 2], [3, 4]
    assert padded[0].tobytes() != padded[1].tobytes()
    assert digest(padded[0], "it") == digest(padded[1], "it")
    column = np.arange(6).reshape(2, 3).T
    for one, other in [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1, 2}, {2, 3, 1}),
        (Plain(a=1, b=[2]), Plain(b=[2], a=1)),
        (column, np.ascontiguousarray(column)),
        (object(), object()),
        ("ab" * 9999, "a" + "ba" * 9998 + "b"),
    ]:
        assert digest(one, "it") == digest(other, "it")


class Tags(set):
    """A set with a state."""


class FrozenTags(frozenset):
    """A frozen one."""


class Table(dict):
    """A dictionary of a kind of its own."""


class Ranking(set):
    """A set that says itself what it is known by, in an order that counts."""

    def __init__(self, items=()):
        super().__init__(items)
        self.order = list(items)

    def __reduce__(self):
        return Ranking, (self.order,)


@pytest.mark.parametrize("kind", [Tags, FrozenTags, Table.fromkeys, lambda items: collections.defaultdict(int, items)])
def test_the_order_in_kinds_of_sets_and_dictionaries_does_not_count(kind):
    """That of a set's items is another one in each process; what has an order of its own keeps it."""
    one, other = [(0, 0), (8, 0)], [(8, 0), (0, 0)]
    if isinstance(kind, type):
        one, other = [0, 8], [8, 0]
    assert list(kind(one)) != list(kind(other))
    assert digest(kind(one), "it") == digest(kind(other), "it")
    assert digest(kind(one), "it") != digest(kind(one[:1]), "it")
    assert digest(Ranking([0, 8]), "it") != digest(Ranking([8, 0]), "it")


@pytest.mark.parametrize(
    ("item", "kind"), [(threading.Lock(), "_thread.lock"), ((i for i in ()), "builtins.generator"), ({}.keys(), "dict")]
)
def test_what_has_no_stable_hash_asks_for_a_key(item, kind):
    """The error names the type and the way out; where somebody vouches, only the type counts."""
    with pytest.raises(UnstableKeyError, match=rf"the arguments: .*{kind}.*options\(key=") as raised:
        digest([1, item], "the arguments")
    assert raised.value.what == "the arguments"
    assert digest([1, item], "it", lenient=True) != digest([2, item], "it", lenient=True)


def test_what_is_nested_too_deeply_asks_for_a_key():
    """It is no RecursionError."""
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(UnstableKeyError, match="nested"):
        digest(deep, "it")
    assert digest(deep, "it", lenient=True) != digest([], "it", lenient=True)
    while deep:
        deep = deep.pop()


def nested_pairs(depth: int, leaf: object, *, is_shared: bool):
    """Return a list of two lists of two lists …, either twice the same or two of them."""
    pair = [leaf]
    for _ in range(depth):
        pair = [pair, pair if is_shared else copy.deepcopy(pair)]
    return pair


def test_shared_parts_count_once():
    """Or this would run for ages; equal parts hash as the same part twice does."""
    assert digest(nested_pairs(200, 1, is_shared=True), "it") != digest(nested_pairs(200, 2, is_shared=True), "it")
    for depth in range(12):
        pairs = [digest(nested_pairs(depth, "leaf", is_shared=is_shared), "it") for is_shared in (True, False)]
        assert pairs[0] == pairs[1]


def test_a_tree_whose_nodes_know_their_parent_has_a_hash():
    """It is the same for an equal tree, and another one if a leaf differs."""

    def grow(depth: int, leaf: int, parent: object = None) -> Plain:
        node = Plain(parent=parent, leaf=leaf)
        node.children = [grow(depth - 1, leaf if number else 0, node) for number in (0, 1)] if depth else []
        return node

    assert digest(grow(6, 1), "it") == digest(grow(6, 1), "it")
    assert digest(grow(6, 1), "it") != digest(grow(6, 2), "it")


def test_which_object_of_a_cycle_comes_first_does_not_count():
    """Each has the form that it has alone: in a set, another one comes first in each process."""
    loop = [Plain(number=number, more=list(range(number))) for number in range(12)]
    for one, other in zip(loop, loop[1:] + loop[:1]):
        one.next = other
    apart = copy.deepcopy(loop[0]), copy.deepcopy(loop[5])
    assert digest([loop[0], loop[5]], "it") == digest(list(apart), "it")
    assert digest({loop[0], loop[5]}, "it") == digest(set(apart), "it")


def graph_of(size: int) -> Plain:
    """Return one of some nodes that all know each other."""
    nodes = [Plain(number=number) for number in range(size)]
    for node in nodes:
        node.others = [other for other in nodes if other is not node]
    return nodes[0]


def test_a_graph_with_too_many_ways_asks_for_a_key():
    """Instead of going all of them; where somebody vouches, it counts by that alone."""
    with pytest.raises(UnstableKeyError, match="many ways"):
        digest(graph_of(12), "it")
    assert digest(graph_of(12), "it", lenient=True) == digest(graph_of(12), "it", lenient=True)
    assert digest(graph_of(3), "it") == digest(graph_of(3), "it") != digest(graph_of(4), "it")


def test_the_quick_way_for_scalars_tells_as_much_apart():
    """One scalar argument has a form of its own, which is no other call's."""
    calls = [((value,), {}) for value in (None, False, 0, 0.0, -0.0, "", b"", "0", b"0", "i0;")]
    calls += [((), {}), ((0, 0), {}), ((), {"a": 0}), ((0,), {"a": 0}), (((0,),), {}), (([0],), {})]
    hashes = {digest_call(args, kwargs, lenient=False, before=b"x" * 16) for args, kwargs in calls}
    assert len(hashes) == len(calls)
    assert digest_call((0,), {}, lenient=False, before=b"y" * 16) not in hashes


# --- functions ---


def closing_over(value):
    """Return a function that closes over ``value`` and over itself."""

    def inner(number):
        return inner(number - 1) if number else value

    return inner


def test_a_function_is_told_from_others_by_name_source_defaults_and_closure():
    """The difference is said in words."""
    one, other = identify(closing_over(1)), identify(closing_over(2))
    assert one.digest != other.digest
    assert one.difference(other.parts) == "the closure"
    assert one.difference(identify(closing_over(1)).parts) == ""
    assert "the name" in one.difference(identify(payloads.square).parts)
    assert identify(Plain(a=1).method).difference(identify(Plain(a=2).method).parts) == "the object it is bound to"
    bound = identify(functools.partial(payloads.add, 1)), identify(functools.partial(payloads.add, 2))
    assert bound[0].difference(bound[1].parts) == "the arguments bound by partial"
    assert identify(functools.partial(functools.partial(payloads.add, 1), 2)).digest != bound[0].digest
    assert identify(payloads.square).name == "tests.payloads:square"
    assert identify(functools.lru_cache(payloads.square)).name == "tests.payloads:square"


def test_lambdas_of_one_line_are_told_apart():
    """They share their source."""
    pair = [lambda x: x + 1, lambda x: x + 2]
    assert identify(pair[0]).digest != identify(pair[1]).digest


def test_what_a_function_closes_over_may_be_vouched_for():
    """A closure without a stable hash asks for a key; with one, the rest of the identity still counts."""
    with pytest.raises(UnstableKeyError, match=r"the closure of the function .*closing_over"):
        identify(closing_over(threading.Lock()))
    vouched = identify(closing_over(threading.Lock()), lenient=True)
    assert vouched.digest == identify(closing_over(threading.Lock()), lenient=True).digest
    assert vouched.digest != identify(payloads.square).digest


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write and import modules called ``scratch``; their files are as old as the test says."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(text, *, age_s=100.0):
        path = tmp_path / "scratch.py"
        path.write_text(text, encoding="utf-8")
        then = identity._started_at() - age_s
        os.utime(path, (then, then))
        importlib.invalidate_caches()
        sys.modules.pop("scratch", None)
        for cached in tmp_path.glob("__pycache__/*"):
            cached.unlink()
        identity._read_source.cache_clear()
        return importlib.import_module("scratch")

    yield load
    sys.modules.pop("scratch", None)


def test_another_source_is_another_function(module):
    """The text of the definition counts, and where it stands in the file does not."""
    one = identify(module("def f(x):\n    return x\n").f)
    moved = identify(module("import os\n\n\ndef f(x):\n    return x\n").f)
    other = identify(module("def f(x):\n    return -x\n").f)
    assert one.digest == moved.digest
    assert one.difference(other.parts) == "the source"


def test_a_source_that_was_edited_under_a_running_program_is_not_believed(module):
    """Then the text is not what runs; the bytecode is."""
    function = module("def f(x):\n    return x\n").f
    path = pathlib.Path(function.__code__.co_filename)
    path.write_text("def f(x):\n    return -x\n", encoding="utf-8")
    edited = identify(function)
    identity._read_source.cache_clear()
    path.write_text("def f(x):\n    return +x\n", encoding="utf-8")
    assert identify(function).digest == edited.digest
    assert edited.digest != identify(module("def f(x):\n    return -x\n").f).digest


def test_a_function_without_source_is_known_by_its_bytecode():
    """As those of an interactive session."""
    spaces: list[dict] = [{}, {}, {}]
    for space, body in zip(spaces, ("x + 1", "x + 1", "x + 2")):
        exec(f"def f(x): return {body}", space)  # noqa: S102
    hashes = [identify(space["f"]).digest for space in spaces]
    assert hashes[0] == hashes[1] != hashes[2]
