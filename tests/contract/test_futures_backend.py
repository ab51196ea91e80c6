"""Any ``concurrent.futures.Executor`` as the place where calls run."""

from __future__ import annotations

import math
import multiprocessing
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from amorsize_executor import AdaptiveExecutor, UnsupportedOptionError
from tests import payloads

INNER = {
    "threads": lambda: ThreadPoolExecutor(2),
    "processes": lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")),
}


@pytest.fixture(params=INNER)
def inner(request):
    """An executor of somebody else's."""
    with INNER[request.param]() as executor:
        yield executor


def test_calls_run_there_and_come_back_in_order(inner):
    """map, submit and imap give what the functions return."""
    with AdaptiveExecutor(backend=inner) as executor:
        assert list(executor.map(math.sqrt, range(200))) == [math.sqrt(n) for n in range(200)]
        assert executor.submit(payloads.add, 2, 3).result() == 5
        assert sorted(executor.imap_unordered(payloads.square, range(50))) == [n * n for n in range(50)]


def test_an_error_is_its_calls_own(inner):
    """One call's exception leaves its chunk mates alone."""
    with AdaptiveExecutor(backend=inner, chunksize=5) as executor:
        results = list(executor.imap(math.sqrt, [4, -1, 9, 16, 25], on_error="return"))
    assert results[::2] == [2.0, 3.0, 5.0]
    assert isinstance(results[1], ValueError)


def test_the_inner_executor_stays_its_owners(inner):
    """Shutting down ours leaves theirs open."""
    with AdaptiveExecutor(backend=inner) as executor:
        assert executor.submit(abs, -1).result() == 1
    assert inner.submit(abs, -2).result() == 2


def test_threads_are_given_the_objects_themselves():
    """What shares memory needs no pickling: a lock goes and comes back as it is."""
    lock = threading.Lock()
    with ThreadPoolExecutor(1) as inner, AdaptiveExecutor(backend=inner) as executor:
        assert executor.submit(payloads.identity, lock).result() is lock


def test_what_does_not_pickle_fails_its_own_call():
    """Elsewhere an argument that does not pickle fails its call; the calls beside it run."""
    with INNER["processes"]() as inner, AdaptiveExecutor(backend=inner, chunksize=3) as executor:
        results = list(executor.imap(payloads.identity, [1, threading.Lock(), 3], on_error="return"))
    assert results[::2] == [1, 3]
    assert isinstance(results[1], TypeError)


def test_an_inner_executor_that_refuses_fails_the_calls():
    """What the inner executor raises from submit is the error of the calls that it was given."""

    class Refusing(Executor):
        def submit(self, fn, /, *args, **kwargs):
            raise OSError("closed")

    with AdaptiveExecutor(backend=Refusing()) as executor:
        assert isinstance(executor.submit(abs, -1).exception(), OSError)


def test_an_inner_executor_may_cancel():
    """A chunk that the inner executor cancels ends its calls with CancelledError."""

    class Cancelling(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.cancel()
            return future

    with AdaptiveExecutor(backend=Cancelling()) as executor:
        future = executor.submit(abs, -1)
        assert future.cancelled() or type(future.exception()).__name__ == "CancelledError"


@pytest.mark.parametrize(
    "options",
    [{"max_tasks_per_child": 1}, {"on_worker_death": "break"}, {"initializer": print}, {"isolate": True}],
    ids=lambda options: next(iter(options)),
)
def test_an_option_that_needs_more_is_refused(options):
    """An option that the backend cannot honour is an error at construction that names both."""
    with ThreadPoolExecutor(1) as inner, pytest.raises(UnsupportedOptionError, match="ThreadPoolExecutor"):
        AdaptiveExecutor(backend=inner, **options)
