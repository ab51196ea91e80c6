"""Which callables have state, so that each call gets a copy of its own."""

from __future__ import annotations

import functools
import math
import random
import re

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.wire.codec import Codec
from amorsize_executor.wire.functions import FRESH_BYTES, Function
from amorsize_executor.wire.state import has_state
from tests import payloads

CODEC = Codec(None, into_worker=True)


def over(held):
    """Return a nested function whose closure holds ``held``."""
    return lambda _item: held


def with_default(held):
    """Return a nested function with a default argument."""
    return lambda _item, held=held: held


def counter():
    """Return a nested function that counts its calls in a list."""
    count = [0]

    def add(_item):
        count[0] += 1
        return count[0]

    return add


def rebinder():
    """Return a nested function that counts its calls in a cell."""
    count = 0

    def add(_item):
        nonlocal count
        count += 1
        return count

    return add


def deep_rebinder():
    """Return a nested function in which another one counts."""
    count = 0

    def add(_item):
        def more():
            nonlocal count
            count += 1

        more()
        return count

    return add


def own_rebinder():
    """Return a nested function that counts in a name of its own, anew at each call."""

    def add(_item):
        count = 0

        def more():
            nonlocal count
            count += 1

        more()
        return count

    return add


def factorial():
    """Return a nested function that refers to itself."""

    def call(n):
        return 1 if n == 0 else n * call(n - 1)

    return call


def with_attribute():
    """Return a nested function that counts its calls in an attribute."""

    def add(_item):
        add.count += 1
        return add.count

    add.count = 0
    return add


def dispatcher(function):
    """Return a dispatcher with an implementation."""
    made = functools.singledispatch(payloads.identity)
    made.register(int, function)
    return made


@functools.wraps(payloads.square)
def wrapper(*args, held=[]):  # noqa: B006 - the name is another module's
    """Pretend to be another function."""
    return payloads.square(*args)


def remembering(function, seen=[]):  # noqa: B006 - as many do
    """Remember calls; bound under its name, so that a worker has its own."""
    return seen.append(function)


IMMUTABLE = [
    1,
    1.5,
    2j,
    True,
    "a",
    b"a",
    None,
    ...,
    range(3),
    math,
    int,
    len,
    payloads.square,
    (1, ("a",)),
    frozenset("a"),
]
MUTABLE = [[], {}, set(), bytearray(), (1, []), object(), re.compile(""), random.Random(1), random.Random(1).random]


@pytest.mark.parametrize("make", [over, with_default])
def test_what_closures_and_defaults_hold(make):
    """Numbers, text, modules, functions and classes cannot change; for all else, a call might change it."""
    assert not any(has_state(make(held)) or has_state(over(make(held))) for held in IMMUTABLE)
    assert all(has_state(make(held)) and has_state(over(make(held))) for held in MUTABLE)


@pytest.mark.parametrize(
    "function",
    [
        payloads.square,
        payloads.cached_square,
        remembering,
        len,
        int,
        str.upper,
        dict.fromkeys,
        lambda n: n,
        own_rebinder(),
        factorial(),
        functools.lru_cache(lambda n: n),
        dispatcher(lambda n: n),
        over(remembering),
    ],
)
def test_callables_without_state(function):
    """Functions that hold nothing that can change, and what a module binds under its name."""
    assert not has_state(function)


@pytest.mark.parametrize(
    "function",
    [
        counter(),
        rebinder(),
        deep_rebinder(),
        with_attribute(),
        wrapper,
        functools.partial(payloads.square, 1),
        functools.lru_cache(counter()),
        dispatcher(counter()),
        [].append,
        payloads.ExceptionNeedsTwoArgs(1, 2).with_traceback,
    ],
)
def test_callables_with_state(function):
    """Closures, attributes, partials, bound methods, and what is made of them."""
    assert has_state(function)


def test_large_callables_are_not_fresh():
    """State above the limit is shipped once and kept from call to call, or each call would pay for its size."""
    for size, is_fresh in ((10, True), (FRESH_BYTES, False)):
        record = Function(over(bytearray(size)), 1, None, None)
        record.image(CODEC)
        assert record.is_fresh_per_call == is_fresh


@pytest.mark.parametrize("make", [counter, rebinder, deep_rebinder, with_attribute])
def test_calls_do_not_see_each_other(make):
    """However calls are put together to chunks, each one starts from the closure that was given."""
    with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
        function = make()
        assert list(executor.map(function, range(12), chunksize=4)) == [1] * 12
        assert [executor.submit(function, n).result() for n in range(4)] == [1] * 4
