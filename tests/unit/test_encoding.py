"""Values as JSON and as pickle."""

from __future__ import annotations

import json
import math
import threading

import pytest

from amorsize_executor.storage import encoding
from amorsize_executor.storage.encoding import Unrestorable, from_json, is_whole, show, to_json
from tests import payloads


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, 2.5, "three", True],
        {"a": {"b": []}},
        (1, (2, [3])),
        {1: "a", (2, 3): "b"},
        {"$tuple": [1]},
        {1, 2},
        frozenset("ab"),
        b"\0\xff",
        math.inf,
        [10**5000],
        "\ud800",
    ],
)
def test_json_gives_back_what_it_was_given(value):
    """Tuples stay tuples, keys keep their type, and no name in the data is taken for one of ours."""
    text = to_json(value)
    back = from_json(text)
    assert (back, type(back)) == (value, type(value))
    assert json.loads(text, parse_constant=pytest.fail) is not NotImplemented


def test_nan_is_json_too():
    """It has a form of its own, since JSON has none."""
    assert math.isnan(from_json(to_json(math.nan)))


def test_what_json_cannot_hold_is_an_error_or_a_pickle():
    """The pickle stands beside a repr, and is read only where that is allowed."""
    with pytest.raises(encoding.NotJsonError, match="type complex"):
        to_json([1j])
    text = to_json([1j], pickles=True)
    assert json.loads(text)[0]["repr"] == "1j"
    assert from_json(text, pickles=True) == [1j]
    with pytest.raises(encoding.PickleRefusedError, match="1j"):
        from_json(text)


def test_what_does_not_even_pickle_keeps_its_repr():
    """Something is left of everything."""
    back = from_json(to_json([threading.Lock()], pickles=True))
    assert isinstance(back[0], Unrestorable)
    assert "lock" in back[0].shown
    assert not is_whole(back)
    assert is_whole([{"a": (1, {2})}])


def test_what_holds_itself_is_a_pickle():
    """JSON has no way to say it."""
    value: list = [1]
    value.append(value)
    with pytest.raises(encoding.NotJsonError):
        to_json(value)
    back = from_json(to_json(value, pickles=True), pickles=True)
    assert back[1] is back


def test_a_class_that_is_gone_leaves_a_stand_in_that_loses_nothing(monkeypatch):
    """It is written as it was read, so that it can be had where the class is."""
    kind = type("Fleeting", (), {"__module__": payloads.__name__, "__qualname__": "Fleeting"})
    monkeypatch.setattr(payloads, "Fleeting", kind, raising=False)
    text = to_json({"a": payloads.Fleeting()}, pickles=True)
    monkeypatch.delattr(payloads, "Fleeting")
    stand_in = from_json(text, pickles=True)
    assert isinstance(stand_in["a"], Unrestorable)
    again = to_json(stand_in, pickles=True)
    monkeypatch.setattr(payloads, "Fleeting", kind, raising=False)
    assert type(from_json(again, pickles=True)["a"]) is kind


@pytest.mark.parametrize("text", ["{", '{"$what": 1}', '{"$tuple": 1}', '{"$bytes": "?"}', '{"$set": [[1]]}'])
def test_damaged_json_is_a_value_error(text):
    """Whatever is wrong with it."""
    with pytest.raises(ValueError, match=r".+"):
        from_json(text)


def test_lambdas_pickle_by_value():
    """What pickle refuses goes by value."""
    assert encoding.from_pickle(encoding.to_pickle(lambda: 7))() == 7


def test_show_never_raises_and_is_short():
    """A broken repr hides nothing, a long one fills no table."""

    class Broken:
        def __repr__(self):
            raise LookupError

    assert show(Broken()).endswith("Broken whose repr raises LookupError>")
    assert len(show("x" * 1000)) == 200
