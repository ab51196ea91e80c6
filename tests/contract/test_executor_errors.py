"""What calls may end with besides a value: errors of every kind, and how they reach the caller."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import traceback

import pytest

from amorsize_executor import AdaptiveExecutor
from tests import payloads
from tests.contract.modes import in_contexts_too, only_crossing

pytestmark = [
    pytest.mark.timeout(60, method="signal"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Falsey(Exception):  # noqa: N818
    """An exception that is false."""

    def __bool__(self):
        return False


class Sized(Exception):  # noqa: N818
    """An exception without elements."""

    def __len__(self):
        return 0


class ExitsWhenPickled(Exception):  # noqa: N818
    """An exception whose pickling raises what is no ``Exception``."""

    def __reduce__(self):
        raise SystemExit(9)


class ExitsWhenLoaded(Exception):  # noqa: N818
    """An exception whose unpickling raises what is no ``Exception``."""

    def __reduce__(self):
        return payloads.raise_system_exit, (9,)


class Silent(Exception):  # noqa: N818
    """An exception that cannot be shown."""

    def __str__(self):
        message = "no text"
        raise RuntimeError(message)

    __repr__ = __str__


class KeywordOnly(Exception):  # noqa: N818
    """An exception that cannot be made from its arguments."""

    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code


class HoldsLock(Exception):  # noqa: N818
    """An exception with an argument and an attribute that do not travel."""

    def __init__(self):
        import threading

        super().__init__("locked", threading.Lock())
        self.number = 7


def raise_it(error):
    """Raise what is given."""
    raise error


def raise_made(kind, *args, **kwargs):
    """Raise a new exception of the class."""
    raise kind(*args, **kwargs)


def raise_if_odd(number):
    """Return even numbers."""
    if number % 2:
        raise ValueError(number)
    return number


def raise_chain():
    """Raise an error from another, both in the handling of a third."""
    try:
        raise KeyError("first")  # noqa: TRY301
    except KeyError:
        try:
            raise_made(LookupError, "second")
        except LookupError as second:
            message = "third"
            raise ValueError(message) from second


def raise_in_handler():
    """Raise an error while another one is handled."""
    try:
        raise_made(KeyError, "before")
    except KeyError:
        message = "after"
        raise ValueError(message)  # noqa: B904 - the implicit context is what is tested


def raise_from_none():
    """Raise an error that hides its context."""
    try:
        raise_made(KeyError, "hidden")
    except KeyError:
        message = "shown"
        raise ValueError(message) from None


def raise_with_notes():
    """Raise an error with two notes."""
    error = ValueError("noted")
    error.add_note("one")
    error.add_note("two")
    raise error


def raise_group():
    """Raise an exception group."""
    message = "several"
    raise ExceptionGroup(message, [ValueError(1), KeyError("x")])  # noqa: F821 - Python 3.11 and later


def recurse(depth=0):
    """Never end by itself."""
    return recurse(depth + 1)


def causes_of(error):
    """Return the chain of causes without the text that stands for the worker's traceback."""
    chain = []
    while error is not None:
        if type(error).__name__ != "_RemoteTraceback":
            chain.append(error)
        error = error.__cause__
    return chain


# --- Types, arguments, attributes -----------------------------------------------------------------------------

KINDS = {
    "plain": (ValueError, ("text",), {}),
    "no arguments": (KeyError, (), {}),
    "several arguments": (OSError, (2, "gone", "file"), {}),
    "system exit": (SystemExit, (3,), {}),
    "generator exit": (GeneratorExit, (), {}),
    "stop iteration": (StopIteration, (5,), {}),
    "stop async iteration": (StopAsyncIteration, (), {}),
    "cancelled": (concurrent.futures.CancelledError, (), {}),
    "asyncio's cancelled": (asyncio.CancelledError, (), {}),
    "timeout": (concurrent.futures.TimeoutError, ("mine",), {}),
    "broken executor": (concurrent.futures.BrokenExecutor, ("mine",), {}),
    "warning": (UserWarning, ("w",), {}),
    "unicode": (UnicodeDecodeError, ("utf-8", b"\xff", 0, 1, "bad"), {}),
    "two arguments": (payloads.ExceptionNeedsTwoArgs, (1, 2), {}),
    "keyword only": (KeywordOnly, (), {"code": 4}),
    "falsey": (Falsey, ("f",), {}),
    "sized": (Sized, ("s",), {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_exception_keeps_type_arguments_and_attributes(executor, name):
    """An exception arrives as it was raised, also where its ``__init__`` does not survive pickling."""
    kind, args, kwargs = KINDS[name]
    expected = kind(*args, **kwargs)
    future = executor.submit(raise_made, kind, *args, **kwargs)
    received = future.exception()
    assert type(received) is type(expected)
    assert received.args == expected.args
    plain = {key: value for key, value in vars(received).items() if not key.startswith("__")}
    assert plain == vars(expected)
    assert executor.submit(payloads.add, 1, 2).result() == 3


@pytest.mark.parametrize("kind", [Falsey, Sized])
def test_a_falsey_exception_is_raised(executor, kind):
    """``result()`` raises an exception that is false in a boolean context (cpython#132063)."""
    for future in (executor.submit(raise_made, kind), executor.submit(raise_made, kind)):
        with pytest.raises(kind):
            future.result()
    with pytest.raises(kind):
        next(iter(executor.map(raise_made, [kind])))


@only_crossing
@pytest.mark.parametrize("kind", [ExitsWhenPickled, ExitsWhenLoaded, Silent, HoldsLock])
def test_exceptions_that_misbehave_on_the_way_hurt_nobody_else(executor, kind):
    """An exception that exits where it is pickled, loaded or shown fails its own call and no worker."""
    futures = [executor.submit(payloads.identity, 1), executor.submit(raise_made, kind)]
    futures.append(executor.submit(payloads.identity, 2))
    assert futures[1].exception() is not None
    assert (futures[0].result(), futures[2].result()) == (1, 2)
    assert executor.stats()["workers_lost"] == 0


@only_crossing
def test_an_exception_with_an_argument_that_does_not_travel_keeps_its_type(executor):
    """An exception that holds a lock keeps its type, and the lock's text in its place."""
    received = executor.submit(raise_made, HoldsLock).exception()
    assert type(received) is HoldsLock
    assert "lock" in repr(received.args)


def test_endless_recursion_is_an_error_like_any_other(executor):
    """A ``RecursionError`` with its thousand frames fails its call only."""
    futures = [executor.submit(recurse), executor.submit(payloads.identity, 2)]
    assert isinstance(futures[0].exception(), RecursionError)
    assert futures[1].result() == 2
    assert executor.stats()["workers_lost"] == 0


@in_contexts_too
def test_errors_do_not_stop_the_executor(executor):
    """After any error the executor runs on."""
    futures = [executor.submit(raise_if_odd, number) for number in range(20)]
    assert [future.exception() is not None for future in futures] == [False, True] * 10
    assert executor.submit(payloads.add, 1, 2).result() == 3


def test_system_exit_does_not_end_the_caller(executor):
    """A call's ``SystemExit`` is that call's error, in whichever process or thread it ran."""
    pid = os.getpid()
    with pytest.raises(SystemExit) as caught:
        executor.submit(payloads.raise_system_exit, 7).result()
    assert caught.value.code == 7
    with pytest.raises(SystemExit):
        next(executor.map(payloads.raise_system_exit, [1]))
    assert os.getpid() == pid
    assert executor.submit(payloads.add, 1, 2).result() == 3


@in_contexts_too
def test_keyboard_interrupt_raised_by_a_call(executor):
    """A ``KeyboardInterrupt`` that a call raises reaches who asks for its result, and nothing else ends."""
    future = executor.submit(payloads.raise_keyboard_interrupt)
    with pytest.raises(KeyboardInterrupt):
        future.result()
    assert isinstance(future.exception(), KeyboardInterrupt)
    assert executor.submit(payloads.add, 1, 2).result() == 3


@only_crossing
def test_keyboard_interrupt_raised_in_a_map(executor):
    """In a map, too, a call's ``KeyboardInterrupt`` is that call's error, and the next result follows."""
    results = executor.map(raise_keyboard_interrupt_if_odd, range(3), chunksize=3)
    assert next(results) == 0
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert next(results) == 2


def raise_keyboard_interrupt_if_odd(number):
    """Return even numbers."""
    if number % 2:
        raise KeyboardInterrupt
    return number


# --- StopIteration --------------------------------------------------------------------------------------------


def raise_stop_if_one(number):
    """Raise ``StopIteration`` for 1."""
    if number == 1:
        raise StopIteration(number)
    return number


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_stop_iteration_of_a_call_does_not_end_the_results(executor, method):
    """A call's ``StopIteration`` is an error that is seen, as by a generator, and never a shorter list of results."""
    with pytest.raises(RuntimeError):
        list(getattr(executor, method)(raise_stop_if_one, range(4)))


def test_stop_iteration_of_a_call_as_a_value(executor):
    """``on_error="return"`` gives a call's ``StopIteration`` in its place."""
    received = list(executor.imap(raise_stop_if_one, range(4), on_error="return"))
    assert [type(value) for value in received] == [int, StopIteration, int, int]


# --- Chains and tracebacks ------------------------------------------------------------------------------------


def test_the_chain_of_causes_arrives(executor):
    """``raise … from`` and implicit contexts are kept, with their types, arguments and order."""
    received = executor.submit(raise_chain).exception()
    assert [(type(error), error.args) for error in causes_of(received)] == [
        (ValueError, ("third",)),
        (LookupError, ("second",)),
    ]
    second = causes_of(received)[1]
    assert isinstance(second.__context__, KeyError)
    assert second.__context__.args == ("first",)


def test_the_implicit_context_arrives(executor):
    """An error raised while another is handled carries the other as its context."""
    received = executor.submit(raise_in_handler).exception()
    assert isinstance(received.__context__, KeyError)
    assert "before" in "".join(traceback.format_exception(received))


def test_from_none_still_hides_the_context(executor):
    """``raise … from None`` shows no context after the way either."""
    received = executor.submit(raise_from_none).exception()
    lines = "".join(traceback.format_exception(received))
    assert lines.rstrip().endswith("ValueError: shown")
    assert lines.count("During handling of the above exception") == 0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes and groups are of Python 3.11")
def test_notes_arrive_once(executor):
    """Notes on an exception come along, each once."""
    assert executor.submit(raise_with_notes).exception().__notes__ == ["one", "two"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes and groups are of Python 3.11")
def test_exception_groups_arrive(executor):
    """An exception group comes with its members."""
    received = executor.submit(raise_group).exception()
    assert [type(error) for error in received.exceptions] == [ValueError, KeyError]


def test_the_traceback_shows_the_line_that_raised(executor):
    """The traceback names the user's function, and no frame of ours stands between."""
    received = executor.submit(payloads.raise_value_error, "here").exception()
    frames = traceback.extract_tb(received.__traceback__)
    assert frames[-1].name == "raise_value_error"
    assert "raise_value_error" in "".join(traceback.format_exception(received))


@only_crossing
def test_the_workers_traceback_is_the_cause(executor):
    """As in ``ProcessPoolExecutor``, ``__cause__`` shows the worker's traceback as text."""
    received = executor.submit(payloads.raise_value_error, "here").exception()
    assert type(received.__cause__).__name__ == "_RemoteTraceback"
    assert "raise_value_error" in str(received.__cause__)


def test_each_failed_call_has_an_error_of_its_own(executor):
    """Two failed calls never share an exception object."""
    futures = [executor.submit(payloads.raise_value_error, "same") for _ in range(5)]
    assert len({id(future.exception()) for future in futures}) == 5


def test_an_exception_can_be_raised_again_and_again(executor):
    """``result()`` raises the error each time it is asked."""
    future = executor.submit(payloads.raise_value_error, "again")
    for _ in range(3):
        with pytest.raises(ValueError, match="again"):
            future.result()


# --- Errors in maps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [None, 1, 3])
@pytest.mark.parametrize("method", ["map", "imap"])
def test_results_go_on_after_an_error(executor, method, chunksize):
    """After a call's error the iterator can be asked on; nothing is lost and nothing comes twice."""
    results = getattr(executor, method)(raise_if_odd, range(10), chunksize=chunksize)
    received = []
    while True:
        try:
            received.append(next(results))
        except StopIteration:
            break
        except ValueError as error:
            received.append(-error.args[0])
    assert received == [0, -1, 2, -3, 4, -5, 6, -7, 8, -9]


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_on_error_return(executor, chunksize):
    """``on_error="return"`` yields the exception in the place of the value."""
    received = list(executor.imap(raise_if_odd, range(6), chunksize=chunksize, on_error="return"))
    assert [value if isinstance(value, int) else value.args[0] * 10 for value in received] == [0, 10, 2, 30, 4, 50]


@pytest.mark.parametrize("chunksize", [None, 1, 3])
def test_on_error_skip(executor, chunksize):
    """``on_error="skip"`` leaves failed calls out, also when all of them fail."""
    assert list(executor.imap(raise_if_odd, range(9), chunksize=chunksize, on_error="skip")) == [0, 2, 4, 6, 8]
    assert list(executor.imap(raise_if_odd, [1, 3, 5], chunksize=chunksize, on_error="skip")) == []
    received = executor.imap_unordered(raise_if_odd, range(9), chunksize=chunksize, on_error="skip")
    assert sorted(received) == [0, 2, 4, 6, 8]


def test_an_error_of_the_source_comes_after_the_results_before_it(executor):
    """Where the source raises, its error reaches the consumer, and the items before it are not lost."""

    def source():
        yield from range(3)
        message = "the source is broken"
        raise OSError(message)

    received, errors = [], []
    results = executor.imap(payloads.square, source())
    while True:
        try:
            received.append(next(results))
        except StopIteration:
            break
        except OSError as error:
            errors.append(str(error))
    assert (received, errors) == ([0, 1, 4], ["the source is broken"])


def test_map_raises_the_error_of_its_source_at_once(executor):
    """``map`` collects its items when it is called, so an error of theirs is raised there."""

    def source():
        yield 1
        message = "the source is broken"
        raise OSError(message)

    with pytest.raises(OSError, match="the source is broken"):
        executor.map(payloads.square, source())


def test_a_timeout_error_of_a_call_is_not_the_maps(executor):
    """A ``TimeoutError`` that a call raises is its error, and the results go on after it."""
    results = executor.map(raise_timeout_if_odd, range(3), timeout=50)
    assert next(results) == 0
    with pytest.raises(concurrent.futures.TimeoutError, match="mine"):
        next(results)
    assert next(results) == 2


def raise_timeout_if_odd(number):
    """Return even numbers."""
    if number % 2:
        message = "mine"
        raise concurrent.futures.TimeoutError(message)
    return number


def test_executors_and_futures_say_why_they_do_not_travel():
    """Whether as an argument or in a closure."""
    with AdaptiveExecutor(1, isolate=True) as executor:
        future = executor.submit(abs, -1)
        assert future.result() == 1
        with pytest.raises(TypeError, match="a future cannot be pickled"):
            executor.submit(id, future).result()
        with pytest.raises(TypeError, match="an executor cannot be pickled"):
            executor.submit(lambda: executor.submit(abs, 1)).result()


@pytest.mark.parametrize("call", ["class", "argument"])
def test_classes_that_are_no_keys(executor, call):
    """A metaclass may take the hash from its classes: what pickle then refuses fails its own call and no other."""
    function, argument = {
        "class": (payloads.Unhashable, 3),
        "argument": (payloads.number_of, payloads.Unhashable(3)),
    }[call]
    for ask in (executor.submit(function, argument).result, lambda: next(executor.map(function, [argument, argument]))):
        with contextlib.suppress(TypeError):
            assert getattr(value := ask(), "number", value) == 3
    assert executor.submit(payloads.square, 3).result() == 9
