"""What an executor takes and gives back: callables, arguments and results of every kind, in every mode."""

from __future__ import annotations

import collections
import functools
import itertools
import operator
import threading

import pytest

from tests import payloads
from tests.contract.modes import SHARING, in_contexts_too, in_other_processes, make_executor, only_crossing

pytestmark = [
    # By signal: the other method keeps a thread per test, and nothing is forked from a process with threads.
    pytest.mark.timeout(60, method="signal"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Adder:
    """A callable with state."""

    def __init__(self, amount):
        self.amount = amount

    def __call__(self, value):
        """Add."""
        return value + self.amount

    def add(self, value):
        """Add, as a bound method."""
        return value + self.amount

    @classmethod
    def double(cls, value):
        """Double, as a class method."""
        return value * 2

    @staticmethod
    def negate(value):
        """Negate, as a static method."""
        return -value


class Box:
    """A class that is called as a function."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return isinstance(other, Box) and other.value == self.value

    __hash__ = None


def closure_over(amount):
    """Return a function that only its own cell knows."""

    def add(value):
        return value + amount

    return add


def local_class_instance(value):
    """Return an instance of a class that has no name a pickle could use."""

    class Local:
        def __init__(self, held):
            self.held = held

    return Local(value)


@functools.cache
def cached(value):
    """Be a callable that is no plain function."""
    return value + 1


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind is what is tested

CALLABLES = {
    "function": (payloads.square, 4, 16),
    "lambda": (lambda value: value + 1, 4, 5),
    "closure": (closure_over(10), 4, 14),
    "partial": (functools.partial(payloads.add, 5), 4, 9),
    "partial of a lambda": (functools.partial(lambda left, right: left - right, 5), 4, 1),
    "bound method": (Adder(3).add, 4, 7),
    "class method": (Adder.double, 4, 8),
    "static method": (Adder.negate, 4, -4),
    "callable instance": (Adder(2), 4, 6),
    "builtin": (abs, -4, 4),
    "builtin of a module": (operator.neg, 4, -4),
    "method of a builtin object": ("abcabc".count, "a", 2),
    "method descriptor": (str.upper, "ab", "AB"),
    "type": (int, "12", 12),
    "class": (Box, 4, Box(4)),
    "named tuple": (functools.partial(Point, 1), 4, Point(1, 4)),
    "itemgetter": (operator.itemgetter(1), [3, 4], 4),
    "lru_cache": (cached, 4, 5),
}


# --- Callables ------------------------------------------------------------------------------------------------


@in_contexts_too
def test_everything_callable_can_be_submitted(executor):
    """Functions, lambdas, closures, partials, methods, instances, builtins and classes run under ``submit``."""
    futures = {name: executor.submit(function, item) for name, (function, item, _) in CALLABLES.items()}
    expected = {name: value for name, (_, _, value) in CALLABLES.items()}
    assert {name: future.result() for name, future in futures.items()} == expected


@in_contexts_too
def test_everything_callable_can_be_mapped(executor):
    """Functions, lambdas, closures, partials, methods, instances, builtins and classes run under ``map``."""
    results = {name: executor.map(function, [item] * 3) for name, (function, item, _) in CALLABLES.items()}
    expected = {name: [value] * 3 for name, (_, _, value) in CALLABLES.items()}
    assert {name: list(values) for name, values in results.items()} == expected


@pytest.mark.parametrize("count", [600, 1_500])
def test_more_functions_than_a_worker_remembers(executor, count):
    """A chunk may hold more different functions than the table that a worker keeps."""
    futures = [executor.submit(lambda index=index: index) for index in range(count)]
    assert [future.result() for future in futures] == list(range(count))


@only_crossing
def test_one_chunk_of_more_functions_than_a_worker_remembers(make, tmp_path):
    """More functions in a single chunk than a worker's table holds, and each call runs its own."""
    executor = make(max_workers=1, chunksize=2_000)
    blocker = executor.submit(payloads.wait_for_file, tmp_path / "go")
    futures = [executor.submit(lambda index=index: index) for index in range(1_500)]
    (tmp_path / "go").touch()
    blocker.result()
    assert [future.result() for future in futures] == list(range(1_500))


def test_more_bound_methods_than_a_worker_remembers(executor):
    """Callables with state that differ from call to call are all right, however many there are."""
    futures = [executor.submit(Adder(index), 1) for index in range(1_200)]
    assert [future.result() for future in futures] == list(range(1, 1_201))


def test_keyword_arguments_of_any_name(executor):
    """Keywords named like our own parameters reach the function."""
    names = ("fn", "self", "timeout", "chunksize", "args", "kwargs", "priority", "buffersize")
    given = dict.fromkeys(names, 1)
    assert executor.submit(lambda **kwargs: kwargs, **given).result() == given


def test_no_arguments_at_all(executor):
    """A call without arguments is a call."""
    assert executor.submit(tuple).result() == ()


def test_an_argument_that_is_a_tuple_stays_one(executor):
    """A tuple that is an item is one argument, by itself and among others."""
    assert list(executor.map(payloads.identity, [(1, 2), (3,), ()])) == [(1, 2), (3,), ()]
    assert executor.submit(payloads.identity, (1, 2)).result() == (1, 2)


@only_crossing
def test_submit_snapshots_a_callable_with_state(executor):
    """Changing an object after its method was submitted does not reach the call."""
    adder = Adder(1)
    first = executor.submit(adder.add, 0)
    adder.amount = 100
    second = executor.submit(adder.add, 0)
    assert (first.result(), second.result()) == (1, 100)


@only_crossing
def test_small_callables_with_state_are_fresh_for_each_call(executor):
    """What a call changes in its callable does not reach the next call, as in ``ProcessPoolExecutor``."""

    class Counter:
        def __init__(self):
            self.calls = 0

        def __call__(self, _item):
            self.calls += 1
            return self.calls

    assert list(executor.map(Counter(), range(20), chunksize=10)) == [1] * 20


# --- Items ----------------------------------------------------------------------------------------------------


@in_contexts_too
@pytest.mark.parametrize("count", [0, 1, 2, 1_000])
def test_map_keeps_the_order(executor, count):
    """However many items, the results come in their order and all of them."""
    assert list(executor.map(payloads.square, range(count))) == [value * value for value in range(count)]


@pytest.mark.parametrize("kind", [list, tuple, iter, dict.fromkeys, lambda items: (item for item in items)])
def test_map_takes_any_iterable(executor, kind):
    """Lists, tuples, iterators, dictionaries and generators are the same to ``map``, ``imap`` and its sibling."""
    expected = [0, 1, 4, 9, 16]
    assert list(executor.map(payloads.square, kind(range(5)))) == expected
    assert list(executor.imap(payloads.square, kind(range(5)))) == expected
    assert sorted(executor.imap_unordered(payloads.square, kind(range(5)))) == expected


def test_the_shortest_iterable_ends_a_map(executor):
    """Iterables of unequal length are zipped; one may be infinite."""
    expected = [0, 11, 22]
    assert list(executor.map(payloads.add, range(3), itertools.count(0, 10))) == expected
    assert list(executor.imap(payloads.add, itertools.count(), [0, 10, 20])) == expected
    assert sorted(executor.imap_unordered(payloads.add, range(3), itertools.count(0, 10))) == expected


@pytest.mark.parametrize("chunksize", [None, 1, 7, 1_000_000])
def test_any_chunksize_gives_the_same_results(executor, chunksize):
    """How many calls travel together changes no result."""
    expected = [value * value for value in range(500)]
    assert list(executor.map(payloads.square, range(500), chunksize=chunksize)) == expected
    assert list(executor.imap(payloads.square, range(500), chunksize=chunksize)) == expected
    assert sorted(executor.imap_unordered(payloads.square, range(500), chunksize=chunksize)) == expected


def test_100_000_items(executor):
    """A hundred thousand cheap calls come back complete and in order."""
    assert list(executor.map(payloads.identity, range(100_000))) == list(range(100_000))


def test_100_000_items_lazily(executor):
    """A hundred thousand cheap calls through ``imap`` come back complete and in order."""
    assert all(value == index for index, value in enumerate(executor.imap(payloads.identity, range(100_000))))


@pytest.mark.slow
def test_a_million_items(executor):
    """A million cheap calls come back complete and in order."""
    assert sum(executor.map(payloads.identity, range(1_000_000))) == sum(range(1_000_000))


def test_2_000_submits(executor):
    """Two thousand futures, each with its own value."""
    futures = [executor.submit(payloads.identity, index) for index in range(2_000)]
    assert [future.result() for future in futures] == list(range(2_000))


@pytest.mark.slow
def test_100_megabytes_there_and_back(executor):
    """An argument and a result of a hundred megabytes travel whole."""
    data = payloads.big_result(100_000_000)
    assert executor.submit(payloads.identity, data).result(timeout=60) == data


@only_crossing
@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 32_767, 32_768, 65_536, 1_000_003])
def test_bytes_of_any_size_cross_whole(executor, size):
    """No size at which the transport changes its way loses or moves a byte."""
    data = payloads.big_result(size)
    sent = [data, bytearray(data), memoryview(data).tobytes(), data.decode("latin-1")]
    assert list(executor.map(payloads.identity, sent)) == sent


@only_crossing
def test_many_large_items_at_once(executor):
    """More than a socket holds, in both directions at the same time, blocks nobody."""
    items = [bytes([index]) * 1_000_000 for index in range(60)]
    assert list(executor.map(payloads.identity, items, chunksize=4)) == items


def test_values_that_are_no_values(executor):
    """None, NotImplemented, Ellipsis and exceptions as values come back as results."""
    given = [None, NotImplemented, Ellipsis, False, 0, "", (), ValueError]
    assert list(executor.map(payloads.identity, given)) == given
    returned = executor.submit(payloads.identity, ValueError("a value")).result()
    assert isinstance(returned, ValueError)


def test_subclasses_of_plain_types_keep_their_class(executor):
    """A subclass of int or str is not taken for an int or str."""
    received = list(executor.map(payloads.identity, [Number(3), Text("x"), True]))
    assert [type(value) for value in received] == [Number, Text, bool]


class Number(int):
    """An int that is more."""


class Text(str):
    """A str that is more."""

    __slots__ = ()


def test_integers_and_strings_at_their_edges(executor):
    """Huge integers, NaN, infinities and lone surrogates survive."""
    given = [1 << 20_000, -(1 << 63), float("inf"), complex(0, -1), "\ud800", "\0", "ü€𝄞"]
    assert list(executor.map(payloads.identity, given)) == given
    nan = executor.submit(payloads.identity, float("nan")).result()
    assert nan != nan  # noqa: PLR0124 - the definition of NaN


@only_crossing
def test_results_of_a_class_without_a_name_come_home(executor):
    """An instance of a class defined inside a function is a result like any other."""
    assert executor.submit(local_class_instance, 5).result().held == 5


@only_crossing
def test_a_result_is_what_it_was_when_the_call_returned(make):
    """A list that the function returns again and again, changed each time, is a snapshot each time."""
    executor = make(max_workers=1)  # two would share the calls in whatever portions
    for last, result in enumerate(executor.map(grow_shared_list, range(50), chunksize=50)):
        assert result == list(range(result[0], last + 1))  # from where its process began to here, not further


_shared: list[int] = []


def grow_shared_list(item):
    """Return the same list every time, longer by one."""
    if item == 0:
        _shared.clear()
    _shared.append(item)
    return _shared


# --- NumPy ----------------------------------------------------------------------------------------------------


@pytest.fixture
def numpy(monkeypatch):
    """Import NumPy without its threads, which would stay and keep all later tests from forking."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    return pytest.importorskip("numpy")


def arrays_of(numpy):
    """Return arrays of every layout, small and large."""
    large = numpy.arange(200_000, dtype="float64").reshape(400, 500)
    frozen = large.copy()
    frozen.setflags(write=False)
    record = numpy.zeros(3_000, dtype=[("name", "S8"), ("value", "f8")])
    record["value"] = numpy.arange(3_000)
    return {
        "contiguous": large,
        "Fortran order": numpy.asfortranarray(large),
        "not contiguous": large[::2, ::3],
        "reversed": large[::-1],
        "transposed": large.T,
        "read-only": frozen,
        "empty": numpy.empty((0, 3)),
        "scalar": numpy.array(3.5),
        "structured": record,
        "objects": numpy.array([{"a": 1}, None, "x"], dtype=object),
        "strings": numpy.array(["a", "bcd"]),
        "big-endian": numpy.arange(20_000, dtype=">i4"),
        "zero-strided": numpy.broadcast_to(numpy.float64(2), (300, 300)),
    }


def describe_array(array):
    """Tell what a worker sees of an array."""
    return array.dtype.str, array.shape, array.flags.f_contiguous, array.flags.writeable


def test_arrays_there_and_back(executor, numpy):
    """Arrays of every layout come back equal, with their dtype, shape and order."""
    for name, array in arrays_of(numpy).items():
        received = executor.submit(payloads.identity, array).result()
        assert received.dtype == array.dtype, name
        assert received.flags.f_contiguous == array.flags.f_contiguous, name
        numpy.testing.assert_array_equal(received, array, err_msg=name)


@only_crossing
def test_arrays_look_to_a_worker_as_pickle_would_make_them(executor, numpy):
    """Dtype, shape, order and writability in the worker are those that pickle gives."""
    import pickle

    for name, array in arrays_of(numpy).items():
        seen = executor.submit(describe_array, array).result()
        assert seen[:3] == describe_array(pickle.loads(pickle.dumps(array, 5)))[:3], name
        if name != "read-only":
            assert seen[3], f"{name}: a worker must be able to write to it"


@only_crossing
def test_results_are_writable_and_apart(executor, numpy):
    """Arrays that come home belong to the caller: writable, and none shares memory with another."""
    received = list(executor.map(numpy.zeros, [50_000] * 6, chunksize=3))
    for index, array in enumerate(received):
        array[:] = index
    assert [array[0] for array in received] == list(range(6))


@only_crossing
def test_arrays_among_others_in_one_chunk(executor, numpy):
    """Arrays, their views and plain values mixed in one chunk stay apart."""
    base = numpy.arange(100_000)
    given = [base, 1, base[10:], "x", None, base[::-1], b"y" * 20_000, base[:0]]
    received = list(executor.map(payloads.identity, given, chunksize=len(given)))
    for sent, got in zip(given, received):
        numpy.testing.assert_array_equal(got, sent)


# --- What does not travel -------------------------------------------------------------------------------------


class RefusesToPickle:
    """Raises where it is pickled."""

    def __reduce__(self):
        message = "I stay here"
        raise ZeroDivisionError(message)


class ExitsWhenPickled:
    """Raises something that is no ``Exception`` where it is pickled."""

    def __reduce__(self):
        raise SystemExit(3)


class ExitsWhenLoaded:
    """Raises something that is no ``Exception`` where it is unpickled."""

    def __reduce__(self):
        return payloads.raise_system_exit, (4,)


def return_refusing(_item=None):
    """Return what raises where it is pickled."""
    return RefusesToPickle()


def return_exiting(_item=None):
    """Return what raises ``SystemExit`` where it is pickled."""
    return ExitsWhenPickled()


def return_exiting_load(_item=None):
    """Return what raises ``SystemExit`` where it is unpickled."""
    return ExitsWhenLoaded()


TRAVELLERS = {
    "argument: a lock": (payloads.identity, threading.Lock(), TypeError),
    "argument: raises when pickled": (payloads.identity, RefusesToPickle(), ZeroDivisionError),
    "argument: exits when pickled": (payloads.identity, ExitsWhenPickled(), SystemExit),
    "argument: raises when loaded": (payloads.identity, payloads.UnpicklableOnLoad(), Exception),
    "argument: exits when loaded": (payloads.identity, ExitsWhenLoaded(), SystemExit),
    "result: a lock": (lambda _item: payloads.unpicklable_result(), 0, TypeError),
    "result: raises when pickled": (return_refusing, 0, ZeroDivisionError),
    "result: exits when pickled": (return_exiting, 0, SystemExit),
    "result: raises when loaded": (lambda _item: payloads.unloadable_result(), 0, Exception),
    "result: exits when loaded": (return_exiting_load, 0, SystemExit),
}


@in_other_processes
def test_what_does_not_travel_fails_its_own_call(executor):
    """Arguments and results that do not pickle or unpickle fail their future, and the workers live on."""
    for name, (function, item, kind) in TRAVELLERS.items():
        before, bad, after = (
            executor.submit(payloads.identity, 1),
            executor.submit(function, item),
            executor.submit(payloads.identity, 2),
        )
        assert isinstance(bad.exception(), kind), name
        assert (before.result(), after.result()) == (1, 2), name
    assert executor.stats()["workers_lost"] == 0


@only_crossing
@pytest.mark.parametrize("bad", [0, 4, 9])
def test_one_bad_item_in_a_chunk_leaves_the_others(executor, bad):
    """In a chunk, an item that does not pickle fails alone, wherever it stands."""
    items = [threading.Lock() if index == bad else index for index in range(10)]
    received = list(executor.imap(payloads.identity, items, chunksize=10, on_error="return"))
    assert [index for index, value in enumerate(received) if isinstance(value, TypeError)] == [bad]
    assert [value for value in received if isinstance(value, int)] == [index for index in range(10) if index != bad]


@only_crossing
def test_a_function_that_does_not_pickle_fails_its_calls(executor):
    """A function that holds a lock fails each of its calls, and the executor goes on."""
    lock = threading.Lock()
    with pytest.raises(TypeError):
        executor.submit(lambda: lock).result()
    with pytest.raises(TypeError):
        next(executor.map(lambda _item: lock, range(3)))
    assert executor.submit(payloads.add, 1, 2).result() == 3


@only_crossing
def test_a_function_that_does_not_unpickle_fails_its_calls(executor):
    """A function whose unpickling raises fails each of its calls, and the worker lives on."""
    function = functools.partial(payloads.identity, payloads.UnpicklableOnLoad())
    errors = list(executor.imap(lambda_free_call(function), range(4), on_error="return"))
    assert all(isinstance(error, Exception) for error in errors)
    assert executor.submit(payloads.add, 1, 2).result() == 3
    assert executor.stats()["workers_lost"] == 0


def lambda_free_call(function):
    """Return ``function`` itself; it reads better at the call."""
    return function


@pytest.mark.parametrize("mode", SHARING, indirect=True)
def test_threads_and_the_caller_share_objects(executor):
    """In lanes of this process nothing is pickled: what goes in comes out, the very same object."""
    lock = threading.Lock()
    assert executor.submit(payloads.identity, lock).result() is lock
    assert list(executor.map(payloads.identity, [lock, lock])) == [lock, lock]


def test_calls_may_print(executor, capfd):
    """What a call prints is seen by the time its result is."""
    executor.submit(print, "from a call", flush=True).result()
    assert "from a call" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["isolate", "default"])
def test_two_executors_do_not_know_of_each_other(name):
    """Two executors side by side give each its own results, and one's end does not disturb the other."""
    with make_executor(name) as first:
        with make_executor(name) as second:
            mixed = [(first.submit(payloads.square, n), second.submit(payloads.square, -n)) for n in range(50)]
            assert all(left.result() == right.result() for left, right in mixed)
        assert first.submit(payloads.square, 3).result() == 9
