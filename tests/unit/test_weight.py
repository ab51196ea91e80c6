"""Estimates of what travels."""

from __future__ import annotations

import functools
import pickle

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.wire.weight import weigh
from tests import payloads


class Holder:
    """An object with state, that can be called."""

    def __init__(self, state):
        self.state = state

    def __call__(self):
        return self.state


@pytest.mark.parametrize(
    "item",
    [
        b"x" * 100_000,
        "x" * 100_000,
        bytearray(100_000),
        [b"x" * 1_000] * 100,
        {n: bytes(1_000) for n in range(100)},
        (Holder([bytes(50_000)] * 2),),
        Holder(bytes(100_000)),
        functools.partial(print, bytes(100_000)),
        Holder(bytes(100_000)).__call__,
    ],
    ids=lambda item: type(item).__name__,
)
def test_what_is_heavy_weighs_about_what_it_pickles_to(item):
    """Within a factor of two, where parts are alike."""
    unshared = 100_000
    assert unshared / 2 < weigh(item) < 2 * unshared
    assert len(pickle.dumps(item)) > 0


def test_arrays():
    """Whatever has ``nbytes`` says itself what it weighs."""
    numpy = pytest.importorskip("numpy")
    assert weigh(numpy.zeros(500_000)) == pytest.approx(4_000_000, rel=0.01)
    assert weigh(Holder(numpy.zeros(500_000))) == pytest.approx(4_000_000, rel=0.01)


def test_closures():
    """What a closure refers to travels with it; a variable without a value does not."""

    def outer(table):
        def inner():
            return table, later

        yield inner
        later = 1
        yield later

    assert weigh(next(outer(bytes(100_000)))) > 100_000


@pytest.mark.parametrize("item", [1, 2.5, None, True, print, Holder, pickle, weigh, object(), [], {}, iter([1])])
def test_what_is_light(item):
    """Small values, functions, classes and modules, which go by name, weigh next to nothing."""
    assert weigh(item) < 200


def test_endless_nesting_ends():
    """A list that holds itself, and objects in a ring."""
    ring = [1]
    ring.append(ring)
    one, other = Holder(None), Holder(None)
    one.state, other.state = other, one
    assert weigh(ring) < 2_000
    assert weigh(one) < 2_000


class Hostile:
    """An object that cannot be looked at."""

    @property
    def nbytes(self):
        """Raise."""
        raise OSError("gone")

    def __call__(self, item):
        return item


class Proxy:
    """An object that loads something when it is asked for anything."""

    @property
    def __class__(self):
        raise AssertionError("loaded")

    def __getattr__(self, name):
        raise AssertionError("loaded")


def test_what_cannot_be_looked_at_is_light_and_does_no_harm():
    """What an attribute raises reaches nobody, neither for arguments nor for functions."""
    assert weigh(Hostile()) < 200
    assert weigh([Hostile()] * 3) < 200
    with AdaptiveExecutor() as executor:
        assert len(list(executor.map(payloads.identity, [Hostile()] * 3))) == 3
        assert list(executor.map(Hostile(), range(3))) == [0, 1, 2]


def test_proxies_are_not_loaded():
    """Only the proxy itself is looked at."""
    assert weigh(Proxy()) < 200


def test_wide_objects_are_looked_at_in_part():
    """However much hangs on an object, the outer parts come first and the time is bounded."""
    touched = []

    class Counting:
        @property
        def nbytes(self):
            touched.append(self)
            return 1_000

    layers = [Counting() for _ in range(50)]
    for _ in range(3):
        layers = [Holder(layers[0]) for _ in range(50)]
    wide = Holder(bytes(100_000))
    wide.__dict__.update({f"attribute_{n}": part for n, part in enumerate(layers)})
    wide.__dict__.update({f"counting_{n}": Counting() for n in range(10_000)})
    assert weigh(wide) > 100_000
    assert len(touched) <= 100
