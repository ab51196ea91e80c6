"""Of which functions code tells that a call ends soon and leaves nothing behind."""

import functools
import hashlib
import math
import operator
import re
import zlib
from hashlib import blake2b, sha3_256
from operator import matmul

import numpy as np
import pytest

from amorsize_executor.wire.traceless import are_arrays, are_small, leaves_no_trace

FACTOR, LABELS = 3, ["a"]
LINE = re.compile(r"(\d+) (\w+)")
search = LINE.search


def finds(line):
    """Find something, and take it apart."""
    found = LINE.search(line)
    return None if found is None else (int(found[1]), found.group(2).upper(), found.span())


def hashes(data):
    """Hash, by way of an object."""
    state = hashlib.sha256(data)
    state.update(b"salt")
    return state.hexdigest()


def scaled(number):
    """Use a plain global, a builtin and a module of the standard library."""
    return abs(number) * FACTOR + math.sqrt(2) if number > 1 else f"{number:x}".upper()


def with_default(number, step=2):
    """Have a plain default."""
    return number + step


def closing_over(value):
    """Return a function that closes over ``value``."""

    def add(number):
        return number + value

    return add


def counts_up(number):
    """Bind a global."""
    global FACTOR  # noqa: PLW0603
    FACTOR += number


def loops(number):
    """Go round."""
    while number > 1:
        number -= 1
    return number


def prints(number):
    """Be seen."""
    print(number)  # noqa: T201


def reads_a_list(number):
    """Change what others see."""
    LABELS.append(number)


def calls_another(number):
    """Call what may do anything."""
    return scaled(number)


def with_list(number, seen=[]):  # noqa: B006
    """Change its own default."""
    seen.append(number)


def imports(number):
    """Load a module."""
    import json

    return json.dumps(number)


def yields(number):
    """Be a generator."""
    yield number


async def waits(number):
    """Be a coroutine."""
    return number


def catches(number):
    """Catch an exception."""
    try:
        return 1 / number
    except ZeroDivisionError:
        return 0


def reaches_up(number):
    """Reach for what objects hide."""
    return number.__class__.__subclasses__()


class Callable:
    """An object that is called."""

    def __call__(self, number):
        """Return it."""
        return number


@pytest.mark.parametrize(
    "function",
    [
        *(scaled, with_default, closing_over(1), lambda x: (x, -x), abs, math.sqrt, operator.neg, str, int, str.upper),
        *(hashes, zlib.compress, lambda data: sha3_256(data).digest(), lambda data: zlib.decompress(data).upper()),
        *(blake2b, finds, LINE.search, lambda line: LINE.sub(str.upper, line), lambda line: search(line) is None),
    ],
)
def test_traceless(function):
    """Straight lines through plain values, and harmless builtins."""
    assert leaves_no_trace(function)


@pytest.mark.parametrize(
    "function",
    [
        *(counts_up, loops, prints, reads_a_list, calls_another, with_list, imports, yields, waits, catches),
        lambda _: hashlib.algorithms_available.add("none"),
        lambda word: hashlib.pbkdf2_hmac("sha256", word, b"salt", 1 << 30),
        *(lambda text: re.compile(text, 128), lambda text: re.findall("a", text, 128)),
        lambda text: LINE.sub(loud, text),
        *(reaches_up, closing_over([]), print, eval, open, iter, next, Callable(), Callable, functools.partial(abs)),
        *(list.append, [].append, dict, type, setattr, math.ceil.__call__, operator.methodcaller("clear")),
    ],
)
def test_anything_else_may_leave_traces(function):
    """What is not sure counts as leaving traces."""
    assert not leaves_no_trace(function)


def counts(_data):
    """Stand in for something of the standard library, and take notes."""
    LABELS.append(1)
    return zlib


@pytest.mark.parametrize(
    ("module", "name", "function"),
    [
        (hashlib, "sha256", hashes),
        (zlib, "crc32", lambda data: zlib.crc32(data)),  # noqa: PLW0108
        (math, "sqrt", scaled),
        (np, "sort", lambda a: np.sort(a)[0]),
        (operator, "neg", lambda number: operator.neg(number)),  # noqa: PLW0108
    ],
)
@pytest.mark.parametrize("wrap", [lambda _real: counts, functools.partial, lambda _real: Callable()])
def test_what_was_put_in_a_modules_place(monkeypatch, module, name, function, wrap):
    """Tracers and mocks do more than what they stand for."""
    assert leaves_no_trace(function)
    monkeypatch.setattr(module, name, wrap(getattr(module, name)))
    assert not leaves_no_trace(function)


def test_names_are_looked_up_when_asked(monkeypatch):
    """What a global name means may change."""
    monkeypatch.setitem(globals(), "FACTOR", [3])
    assert not leaves_no_trace(scaled)


def loud(array):
    """Call what is not known to be harmless."""
    return print(array)  # noqa: T201


@pytest.mark.parametrize(
    "function",
    [
        *(
            lambda a: float(a.sum()),
            lambda a: np.sort(a)[::7].mean(),
            lambda a: (a > 1).any(),
            lambda a: a[:3] * FACTOR,
        ),
        *(lambda n: np.ones(n, dtype=np.uint8), lambda a: np.sqrt(a).astype(np.float32).tolist(), np.sqrt, np.sum, abs),
        *(lambda a: sum(a) + math.sqrt(a.size), lambda a: pow(bool(a.size), 2) + divmod(a.ndim, 2)[0]),
    ],
)
def test_traceless_on_arrays(function):
    """Straight lines through what NumPy does in a few passes."""
    assert leaves_no_trace(function, on_arrays=True)


@pytest.mark.parametrize(
    "function",
    [
        *(
            lambda n: np.random.rand(n)[0],  # noqa: NPY002
            lambda a: np.save("a.npy", a),
            lambda a: a.tofile("a"),
            lambda a: a.dump("a"),
        ),
        *(lambda _: np.seterr(all="raise"), lambda a: np.vectorize(abs)(a)[0], lambda a: np.linalg.svd(a)[0]),
        *(lambda a: a.base, lambda a: np.asarray(a).ctypes, loud, np.load, np.frompyfunc),
        *(lambda a: a @ a, lambda n: np.ones((n, n)) @ np.ones((n, n)), lambda a: matmul(a, a)),
    ],
)
def test_other_things_of_numpy_may_leave_traces(function):
    """Random numbers, files, settings, functions that are called back, threads."""
    assert not leaves_no_trace(function, on_arrays=True)


def test_a_plain_global_that_is_called_like_something_of_numpy(monkeypatch):
    """It does not make the other one harmless."""
    monkeypatch.setitem(globals(), "save", True)
    assert not leaves_no_trace(lambda a: np.save("a.npy", a), on_arrays=True)


def test_a_plain_global_that_is_called_like_something_of_hashlib(monkeypatch):
    """Nor does it there."""
    monkeypatch.setitem(globals(), "algorithms_available", True)
    assert not leaves_no_trace(lambda name: hashlib.algorithms_available.add(name) or name)


def test_attributes_of_plain_values_may_be_any():
    """But not where arrays may come."""
    assert leaves_no_trace(lambda text: text.title())
    assert not leaves_no_trace(lambda text: text.title(), on_arrays=True)
    assert not leaves_no_trace(lambda n: np.ones(n).title())


@pytest.mark.parametrize(
    ("items", "are_few"),
    [
        ([np.ones(3), np.float64(1), np.bool_(1), 1, "a", None], True),
        ([np.ones((8 << 20) + 1, np.uint8)], False),
        ([np.ones(8 << 20, np.uint8)] * 33, False),
        ([np.array([1, "a"], dtype=object)], False),
        ([np.ones(3).view(np.matrix)], False),
        ([np.zeros(1, dtype=[("a", object)])], False),
        ([np.datetime64(1, "s")], False),
        ([[1]], False),
    ],
    ids=["small", "large", "many", "objects", "subclass", "fields", "dates", "lists"],
)
def test_small_arrays(items, are_few):
    """Without objects, and of less than 8 MiB each and 256 altogether."""
    assert (are_arrays(items) and are_small(items)) is are_few
