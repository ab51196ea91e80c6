"""Functions whose calls threads may share: they let go of the interpreter's lock, and change nothing."""

import contextlib
import hashlib
import math
import operator
import zlib
from hashlib import blake2b, md5
from operator import iadd

import numpy as np
import pytest

from amorsize_executor.wire.sharing import changes_nothing
from amorsize_executor.wire.traceless import leaves_no_trace, lets_go, treats_errors_as_usual


@pytest.mark.parametrize(
    "function",
    [
        *(zlib.crc32, md5, np.sort, blake2b, lambda data: zlib.compress(data, 6), lambda n: np.ones(n)[0]),
        lambda data: hashlib.sha256(data).hexdigest(),
    ],
)
def test_what_lets_go(function):
    """NumPy, hashes and compression work without the interpreter's lock."""
    assert lets_go(function)


@pytest.mark.parametrize("function", [abs, math.sqrt, str.upper, lambda text: text.title(), lambda n: math.sqrt(n) + 1])
def test_what_keeps_the_lock(function):
    """All that the interpreter does itself."""
    assert not lets_go(function)


def in_steps(array):
    """Do several things, none of them in place."""
    ordered = np.sort(array)
    low, high = np.percentile(ordered, 5), ordered[-1]
    return float(np.sum(ordered[::7], axis=0)) + low * high


@pytest.mark.parametrize(
    "function",
    [
        *(in_steps, np.sort, np.sum, zlib.compress),
        *(
            lambda a: float(a.sum()),
            lambda a: a.sum(0),
            lambda a: a.sum(axis=0, dtype=float),
            lambda a: a.mean(0, float),
        ),
        *(lambda n: np.ones(n, dtype=np.uint8), lambda a: np.sqrt(a), lambda a: np.add(a, 1)),  # noqa: PLW0108
        *(
            lambda a: np.clip(a, 0, 1),
            lambda a: a.clip(0, 1),
            lambda a: np.where(a > 1, a, 0),
            lambda a: a.reshape(2, -1),
        ),
        *(lambda a: np.take(a, [1], 0), lambda a: np.concatenate([a, a], 0), lambda a: np.median(a, 0)),
        *(lambda a: np.nan_to_num(a), lambda a: a.argmax(0), lambda a: (a + 1) * 2),  # noqa: PLW0108
        lambda data: hashlib.new("sha256", data, usedforsecurity=False).hexdigest(),
    ],
)
def test_what_changes_nothing(function):
    """Neither in place nor by a parameter for that."""
    assert changes_nothing(function)


def adds_in_place(array):
    """Change the argument."""
    array += 1
    return array


@pytest.mark.parametrize(
    "function",
    [
        *(adds_in_place, lambda a: a.sort(), lambda a: np.sqrt(a, a), lambda a: np.add(a, 1, a), lambda a: iadd(a, 1)),
        *(
            lambda a: np.clip(a, 0, 1, a),
            lambda a: a.clip(0, 1, a),
            lambda a: np.sum(a, 0, float, a),
            lambda a: a.any(0, a),
        ),
        *(lambda a: np.sqrt(a, out=a), lambda a: a.sum(axis=0, out=a), lambda a: np.nan_to_num(a, copy=False)),
        *(lambda a: np.nan_to_num(a, False), lambda a: np.median(a, 0, None, True), lambda a: a.round(2, a)),
        *(
            lambda a: np.median(a, overwrite_input=True),
            lambda a: operator.iadd(a, 1),
            lambda a: np.concatenate([a], 0, a),
        ),
        *(lambda a: np.percentile(a, 5, 0, a), lambda a: a.take([0], 0, a), lambda a: a.argmax(0, a)),
    ],
)
def test_what_may_change_something(function):
    """What is not sure counts as changing something."""
    assert not changes_nothing(function)


@pytest.mark.parametrize(
    "name", ["sum", "mean", "sort", "clip", "round", "take", "cumsum", "argmax", "any", "std", "prod"]
)
def test_no_argument_of_a_method_is_filled(name):
    """What counts as changing nothing gives the same array twice, whatever it gets by position."""
    method = getattr(np.ndarray, name)
    scope = {"np": np}
    for extra in (["0"], ["0", "None"], ["0", "1", "a"], ["[0]", "0", "a"], ["0", "a"], ["0", "float", "a"], ["a"]):
        function = eval(f"lambda a: a.{name}({', '.join(extra)})", scope)  # noqa: S307 - texts of our own
        if not (leaves_no_trace(function, on_arrays=True) and changes_nothing(function)):
            continue
        array = np.array([3.0, 1.0, 2.0])
        with contextlib.suppress(TypeError, ValueError, IndexError):
            function(array)
        assert array.tolist() == [3.0, 1.0, 2.0], (method, extra)


def test_errors_as_usual():
    """Other threads know nothing of how one treats floating-point errors."""
    assert treats_errors_as_usual()
    with np.errstate(all="raise"):
        assert not treats_errors_as_usual()
    with np.errstate(call=print):
        assert not treats_errors_as_usual()
    assert treats_errors_as_usual()
