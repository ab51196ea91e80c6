"""Laws of the canonical hash: what is equal hashes alike in every process, what differs does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor.storage.encoding import from_json, to_json
from amorsize_executor.storage.identity import digest, digest_call

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=50),
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
VALUES = st.recursive(
    st.one_of(HASHABLE, st.sets(HASHABLE, max_size=4), st.frozensets(HASHABLE, max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(HASHABLE, inner, max_size=4)),
    max_leaves=12,
)


def spell(value) -> str:
    """Write a value so that two are spelled alike exactly if they are the same arguments."""
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(map(spell, value))})"
    if isinstance(value, (set, frozenset)):
        return f"{type(value).__name__}({', '.join(sorted(map(spell, value)))})"
    if isinstance(value, dict):
        return f"dict({', '.join(sorted(f'{spell(key)}: {spell(part)}' for key, part in value.items()))})"
    return repr(value)


@given(VALUES, VALUES)
def test_hashes_are_equal_exactly_if_arguments_are(one, other):
    """Injective up to the order in sets and dictionaries."""
    assert (digest(one, "it") == digest(other, "it")) == (spell(one) == spell(other))


@given(VALUES, VALUES)
def test_calls_are_told_apart_by_all_their_arguments(one, other):
    """The quick way for one scalar obeys the same law, and collides with nothing."""
    calls = [((one,), {}), ((other,), {}), ((one, other), {}), ((), {"a": one}), ((), {"b": one})]
    hashes = [digest_call(args, kwargs, lenient=False, before=bytes(16)) for args, kwargs in calls]
    spelled = [spell(list(call)) for call in calls]
    assert len(set(hashes)) == len(set(spelled))


@given(st.dictionaries(HASHABLE, SCALARS, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_insertion_does_not_count(mapping, random):
    """Neither in dictionaries nor in sets."""
    items = list(mapping.items())
    random.shuffle(items)
    assert digest(dict(items), "it") == digest(mapping, "it")
    assert digest({key for key, _value in items}, "it") == digest(set(mapping), "it")


@given(VALUES)
def test_json_gives_back_the_same_arguments(value):
    """The form in which dead letters are kept changes nothing, types included."""
    assert spell(from_json(to_json(value))) == spell(value)
    json.loads(to_json(value), parse_constant=AssertionError)


HASH_EVERYTHING = """
from tests.unit.test_identity import DIFFERENT
from amorsize_executor.storage.identity import digest, identify
import tests.payloads as payloads
text = [{"abc", "de", "f", ""}, {"b": {1, "x"}, "a": {b"y", None}}, frozenset(map(str, range(50)))]
print([digest(item, "it").hex() for item in [*DIFFERENT, *text]])
print(identify(payloads.square), identify(payloads.Logged("x").__call__), identify(payloads.Logged))
"""


def test_hashes_are_the_same_in_processes_with_other_hash_seeds():
    """Nothing depends on ``hash()`` or on addresses."""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", HASH_EVERYTHING],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    shown = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert shown[0] == shown[1]
    assert shown[0].count("\n") == 2
