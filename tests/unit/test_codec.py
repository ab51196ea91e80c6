"""Objects to bytes and back, and exceptions on their way home."""

from __future__ import annotations

import functools
import gc
import io
import pickle
import threading
import urllib.error

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amorsize_executor.wire import by_value
from amorsize_executor.wire.codec import OUT_OF_BAND_BYTES, Codec, are_plain
from amorsize_executor.wire.tracebacks import decode_error, encode_error
from tests import payloads

OUT, BACK = Codec(None, into_worker=True), Codec(None, into_worker=False)


class Text(str):
    """No plain str."""

    __slots__ = ()


def test_what_is_plain():
    """Exactly the builtin scalars are plain; subclasses and containers are not."""
    assert are_plain([1, 2.0, 3j, True, "a", b"b", None])
    assert are_plain([])
    for item in (Text("a"), (1,), [], {}, bytearray(), Ellipsis, int):
        assert not are_plain([1, item])


@given(
    st.recursive(st.one_of(st.none(), st.integers(), st.text(), st.binary()), lambda inner: st.lists(inner, max_size=3))
)
def test_values_come_back_equal(value):
    """Loading what was dumped gives an equal value."""
    assert BACK.loads(OUT.dumps(value)) == value


def test_functions_without_a_name_go_by_value():
    """Lambdas and closures travel; what holds a lock raises."""
    amount = 3
    assert BACK.loads(OUT.dumps(lambda n: n + amount))(1) == 4
    with pytest.raises(TypeError):
        OUT.dumps(threading.Lock())


def test_code_that_goes_by_value_knows_its_file():
    """So that tracebacks and warnings show where a call went wrong, in nested functions too."""

    def outer():
        return lambda: 1

    back = BACK.loads(OUT.dumps(outer))
    assert back.__code__.co_filename == back().__code__.co_filename == __file__
    assert back.__code__.co_firstlineno == outer.__code__.co_firstlineno


def test_local_caches_and_dispatchers_go_by_value():
    """What ``functools`` makes of nested functions travels with its parameters, implementations and attributes."""

    @functools.lru_cache(maxsize=7, typed=True)
    def double(n):
        return 2 * n

    @functools.singledispatch
    def kind(_item):
        return "object"

    kind.register(int, lambda _item: "int")
    double.note = kind.note = "kept"
    double(1)
    travelled = BACK.loads(OUT.dumps(double))
    assert (travelled(4), travelled.note, travelled.cache_parameters()) == (8, "kept", {"maxsize": 7, "typed": True})
    assert travelled.cache_info().currsize == 1
    travelled = BACK.loads(OUT.dumps(kind))
    assert (travelled("a"), travelled(1), travelled.note, travelled.__name__) == ("object", "int", "kept", "kind")


def test_caches_of_modules_go_by_name():
    """A cache that a module binds under its name is the other side's own."""
    by_name = OUT.dumps(payloads.cached_square)
    assert BACK.loads(by_name) is payloads.cached_square
    assert len(by_name) < 100
    assert len(OUT.dumps([payloads.cached_square, lambda: 1])) - len(OUT.dumps([len, lambda: 1])) < 100


def test_tokens_are_forgotten_with_what_they_identify():
    """The books of identities hold nothing alive."""
    before = len(by_value._tokens), len(by_value._by_token)
    cache = functools.lru_cache(payloads.identity)
    cache.__module__ = "__main__"
    assert BACK.loads(OUT.dumps(cache)) is cache
    assert len(by_value._tokens) == before[0] + 1
    del cache
    gc.collect()
    assert (len(by_value._tokens), len(by_value._by_token)) == before


@pytest.mark.parametrize("size", [OUT_OF_BAND_BYTES - 1, OUT_OF_BAND_BYTES, 1_000_000])
@pytest.mark.parametrize("is_read_only", [False, True])
def test_large_buffers_travel_beside(size, is_read_only):
    """Buffers from the threshold on are handed out instead of copied into the pickle."""
    content = bytes(size) if is_read_only else bytearray(size)
    buffers: list[pickle.PickleBuffer] = []
    data = OUT.dumps(pickle.PickleBuffer(content), buffers)
    assert len(buffers) == (size >= OUT_OF_BAND_BYTES)
    assert len(data) < 100 or size < OUT_OF_BAND_BYTES
    assert bytes(BACK.loads(data, buffers)) == bytes(size)


def test_buffers_are_not_left_over_when_pickling_goes_by_value():
    """When plain pickle gives up half-way, the buffers of its attempt are not sent twice."""
    buffers: list[pickle.PickleBuffer] = []
    OUT.dumps([pickle.PickleBuffer(bytearray(50_000)), lambda: 1], buffers)
    assert len(buffers) == 1


@pytest.mark.parametrize("depth", [1, 10, 900])
def test_long_tracebacks_travel(depth):
    """An error from far down keeps its type, and nothing about it fails."""

    def dive(left):
        if not left:
            message = "bottom"
            raise ValueError(message)
        dive(left - 1)

    try:
        dive(depth)
    except ValueError as error:
        received = decode_error(OUT, encode_error(BACK, error))
    assert type(received) is ValueError
    assert received.args == ("bottom",)
    assert "dive" in str(received.__cause__)


def test_chains_that_are_circles_travel():
    """A chain of causes that leads back to its start ends."""
    first, second = ValueError(1), KeyError(2)
    first.__cause__, second.__context__ = second, first
    received = decode_error(OUT, encode_error(BACK, first))
    assert type(received) is ValueError
    assert isinstance(received.__cause__.__cause__, KeyError)


class HalfPickledError(Exception):
    """Holds what pickles and what does not."""

    def __init__(self, code, response):
        super().__init__(f"HTTP {code}", response)
        self.code = code
        self.response = response

    def __str__(self):
        """Need an attribute."""
        return f"status {self.code}"


def test_what_does_not_pickle_of_an_exception_comes_as_text():
    """All the rest is kept as it was, and a note tells what was lost."""
    lock = threading.Lock()
    received = decode_error(OUT, encode_error(BACK, HalfPickledError(404, lock)))
    assert type(received) is HalfPickledError
    assert (str(received), received.code, received.response) == ("status 404", 404, repr(lock))
    assert received.args == ("HTTP 404", repr(lock))
    assert received.__notes__ == ["came as text, not being picklable: args[1], response"]


def test_an_exception_that_does_not_round_trip():
    """An exception whose ``__init__`` refuses its own ``args`` keeps type, args and attributes."""
    try:
        payloads.raise_exception_needs_two_args()
    except payloads.ExceptionNeedsTwoArgs as error:
        received = decode_error(OUT, encode_error(BACK, error))
    assert type(received) is payloads.ExceptionNeedsTwoArgs
    assert (received.args, received.first, received.second) == (("1 and 2",), 1, 2)


def test_what_does_not_pickle_in_an_exception_is_text_and_the_rest_stays():
    """The error of ``urlopen`` holds its open connection: code and message travel, and it can be shown."""
    error = urllib.error.HTTPError("http://host", 503, "Busy", {"Retry-After": "7"}, io.BufferedReader(io.BytesIO()))
    received = decode_error(OUT, encode_error(BACK, error))
    assert type(received) is urllib.error.HTTPError
    assert (received.code, received.msg, received.hdrs) == (503, "Busy", {"Retry-After": "7"})
    assert str(received) == "HTTP Error 503: Busy"
    assert "BufferedReader" in received.fp
    assert received.__notes__[0].startswith("came as text, not being picklable: ")

    error = ValueError(1, threading.Lock())
    received = decode_error(OUT, encode_error(BACK, error))
    assert received.args[0] == 1
    assert "lock" in received.args[1]


class SelfishError(Exception):
    """Cannot be made from its arguments, and holds itself."""

    def __init__(self) -> None:
        super().__init__("no argument is taken")
        self.myself, self.code = self, 5


def test_what_does_not_unpickle_in_an_exception_is_text_and_the_rest_stays():
    """Though it pickles."""
    received = decode_error(OUT, encode_error(BACK, SelfishError()))
    assert type(received) is SelfishError
    assert (received.args, received.code) == (("no argument is taken",), 5)
    assert "SelfishError" in received.myself
