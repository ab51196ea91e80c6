"""How ``map``, ``imap`` and ``imap_unordered`` pull, hold back and stop."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import itertools
import threading
import weakref

import pytest

from amorsize_executor.engine import results as iterators
from tests import payloads
from tests.contract.modes import in_contexts_too, make_executor, only_crossing

pytestmark = [
    pytest.mark.timeout(60, method="signal"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Source:
    """An endless iterator that counts what was pulled from it."""

    def __init__(self, end=None):
        self.pulled = 0
        self.end = end

    def __iter__(self):
        return self

    def __next__(self):
        if self.pulled == self.end:
            raise StopIteration
        self.pulled += 1
        return self.pulled - 1


def failing(count):
    """Yield numbers, and then fail."""
    yield from range(count)
    message = "connection lost"
    raise OSError(message)


# --- Laziness -------------------------------------------------------------------------------------------------


@in_contexts_too
def test_imap_takes_infinite_iterators(executor):
    """``imap`` and ``imap_unordered`` give results of an iterator that never ends."""
    assert list(itertools.islice(executor.imap(payloads.square, itertools.count()), 50)) == [n * n for n in range(50)]
    unordered = set(itertools.islice(executor.imap_unordered(payloads.identity, itertools.count()), 50))
    assert len(unordered) == 50


def test_imap_pulls_nothing_before_it_is_asked(executor):
    """``imap`` iterates its source inside ``next`` only."""
    source = Source()
    results = executor.imap(payloads.square, source)
    assert source.pulled == 0
    next(results)
    assert source.pulled >= 1


@pytest.mark.parametrize("method", ["imap", "imap_unordered", "map"])
@pytest.mark.parametrize("buffersize", [1, 2, 7, 300])
def test_never_more_than_buffersize_asked_and_not_taken(executor, method, buffersize):
    """Results that are finished and not taken count too: the source runs ahead by ``buffersize`` at most."""
    source = Source()
    results = getattr(executor, method)(payloads.square, source, buffersize=buffersize)
    for taken in range(1, 40):
        next(results)
        assert source.pulled <= taken + buffersize
    results.close()


@pytest.mark.parametrize("buffersize", [1, 3, 50])
def test_map_with_a_buffer_fetches_just_that_many_at_first(executor, buffersize):
    """``map(buffersize=n)`` fetches n items when it is called, as in Python 3.14, and then one for one."""
    source = Source(end=100)
    results = executor.map(payloads.square, source, buffersize=buffersize)
    assert source.pulled == buffersize
    next(results)
    assert source.pulled <= buffersize + 1
    assert list(results) == [n * n for n in range(1, 100)]


def test_map_without_a_buffer_collects_at_once(executor):
    """``map`` takes all its items when it is called."""
    source = Source(end=100)
    results = executor.map(payloads.square, source)
    assert source.pulled == 100
    assert list(results) == [n * n for n in range(100)]


def test_the_source_is_iterated_in_the_consumers_thread(executor):
    """A generator that is fed to ``imap`` never runs in another thread."""
    threads = set()

    def source():
        for number in range(200):
            threads.add(threading.current_thread())
            yield number

    assert len(list(executor.imap(payloads.identity, source(), buffersize=5))) == 200
    assert threads == {threading.current_thread()}


def test_unordered_results_are_complete(executor):
    """``imap_unordered`` yields each result once, in whatever order."""
    assert sorted(executor.imap_unordered(payloads.identity, range(3_000), buffersize=64)) == list(range(3_000))


@only_crossing
def test_unordered_results_do_not_wait_for_a_slow_first(executor, tmp_path):
    """``imap_unordered`` yields later results while the first call still runs."""
    results = executor.imap_unordered(wait_if_path, [tmp_path / "go", 1, 2, 3], chunksize=1)
    assert sorted(next(results) for _ in range(3)) == [1, 2, 3]
    (tmp_path / "go").touch()
    assert list(results) == [None]


def wait_if_path(item):
    """Return numbers at once, and None for a path when the file is there."""
    return item if isinstance(item, int) else payloads.wait_for_file(item)


def test_results_are_not_kept_once_taken(executor):
    """The iterator holds no result that was yielded."""
    results = executor.imap(make_box, range(5), buffersize=5)
    first = next(results)
    reference = weakref.ref(first)
    del first
    gc.collect()
    assert reference() is None
    assert len(list(results)) == 4


class Box:
    """Something that can be referred to weakly."""


def make_box(_item):
    """Return a new box."""
    return Box()


def test_an_exhausted_iterator_stays_exhausted(executor):
    """After the end comes the end."""
    results = executor.map(payloads.square, range(2))
    assert list(results) == [0, 1]
    assert next(results, "end") == "end"
    assert list(results) == []


def test_next_and_iteration_may_be_mixed(executor):
    """``next`` and ``for`` over the same results take turns without loss or repetition."""
    results = executor.map(payloads.square, range(10))
    assert next(results) == 0
    assert list(itertools.islice(results, 3)) == [1, 4, 9]
    assert next(results) == 16
    assert list(results) == [25, 36, 49, 64, 81]


def test_several_streams_at_once(executor):
    """Streams that are taken from in turn keep their results apart."""
    streams = [executor.imap(payloads.add, itertools.repeat(base), range(100)) for base in (0, 1_000, 2_000)]
    assert list(zip(*streams)) == [(n, 1_000 + n, 2_000 + n) for n in range(100)]


# --- Stopping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_nothing_comes_after_close(executor, method):
    """Results that were ready are not yielded any more after ``close()``, in the middle of a loop too."""
    results = getattr(executor, method)(payloads.identity, range(100))
    taken = []
    for value in results:
        taken.append(value)
        results.close()
    assert len(taken) == 1


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_close_closes_the_source(executor, method):
    """``close()`` ends the generator that was fed in, so that its ``finally`` runs."""
    ended = []

    def source():
        try:
            yield from itertools.count()
        finally:
            ended.append(True)

    generator = source()
    results = getattr(executor, method)(payloads.square, generator)
    next(results)
    results.close()
    assert ended == [True]
    assert next(results, "end") == "end"


def test_close_closes_all_sources(executor):
    """With several iterables ``close()`` ends each generator among them."""
    ended = []

    def source(name):
        try:
            yield from itertools.count()
        finally:
            ended.append(name)

    generators = [source("left"), source("right")]
    results = executor.imap(payloads.add, *generators)
    next(results)
    results.close()
    assert sorted(ended) == ["left", "right"]


def test_close_twice_and_unused(executor):
    """``close()`` may be called twice, and before anything was taken."""
    results = executor.imap(payloads.square, range(10))
    results.close()
    results.close()
    assert list(results) == []
    assert executor.submit(payloads.square, 3).result() == 9


@pytest.mark.parametrize("method", ["map", "imap"])
def test_what_has_not_started_never_runs_after_close(make, tmp_path, method):
    """Closing the iterator cancels the calls that have not begun."""
    executor = make(max_workers=1, chunksize=1)
    blocker = executor.submit(block, tmp_path)
    payloads.wait_for_file(tmp_path / "started")
    items = [(tmp_path / "log", str(index)) for index in range(50)]
    results = getattr(executor, method)(count_pair, items, buffersize=20)
    if method == "imap":
        results.prime()
    results.close()
    marker = executor.submit(payloads.identity, "last")
    (tmp_path / "go").touch()
    assert blocker.result(timeout=30) == "unblocked"
    assert marker.result(timeout=30) == "last"
    assert payloads.read_executions(tmp_path / "log") == []


@pytest.mark.parametrize("options", [{}, {"chunksize": 7}])
def test_a_map_whose_results_nobody_wants_runs(make, tmp_path, options):
    """Dropped before the first result was asked for, it is there for what its calls do; no result is kept."""
    executor = make(max_workers=2)
    items = [(tmp_path / "log", str(index)) for index in range(50)]
    executor.map(count_pair, items, **options)
    executor.map(payloads.raise_value_error, ["nobody sees it"] * 3)
    executor.shutdown()
    assert sorted(payloads.read_executions(tmp_path / "log"), key=int) == [str(index) for index in range(50)]


def test_a_map_with_a_buffer_asks_for_all_of_it(executor, monkeypatch):
    """At once, as in Python 3.14, from a source that takes its time, too."""
    monkeypatch.setattr(iterators, "_PULL_S", 0.0)
    source = Source()
    results = executor.map(payloads.square, source, buffersize=20)
    assert source.pulled == 20
    assert next(results) == 0


@pytest.mark.parametrize("method", ["map", "imap"])
def test_dropped_half_read_it_runs_no_more(make, tmp_path, method, monkeypatch):
    """As in the standard library, which cancels the rest then; what a worker has in hand already may run."""
    monkeypatch.setattr(iterators, "_PULL_S", 60.0)  # the second call is asked for with the first, however slowly
    executor = make(max_workers=1, chunksize=1)
    results = getattr(executor, method)(block_if_second, range(200), itertools.repeat(tmp_path), buffersize=100)
    assert next(results) == 0
    payloads.wait_for_file(tmp_path / "started")
    del results
    gc.collect()
    marker = executor.submit(payloads.identity, "last")
    (tmp_path / "go").touch()
    assert marker.result(timeout=30) == "last"
    assert len(payloads.read_executions(tmp_path / "log")) < 5


def block_if_second(number, directory):
    """Count an execution; the second one blocks."""
    if number == 1:
        return block(directory)
    return payloads.count_execution(directory / "log", str(number)) and number


def count_pair(pair):
    """Count an execution; takes one argument."""
    return payloads.count_execution(*pair)


def block(directory):
    """Say that the call runs, and wait for the file ``go``."""
    payloads.touch_file(directory / "started")
    return payloads.wait_for_file(directory / "go", "unblocked")


def test_a_source_that_asks_the_executor(executor):
    """A source may itself be a stream of the same executor."""
    inner = executor.imap(payloads.square, range(100))
    assert list(executor.imap(payloads.square, inner)) == [n**4 for n in range(100)]


def test_a_source_that_submits(executor):
    """A source may submit to the executor and wait for the result."""

    def source():
        for number in range(20):
            yield executor.submit(payloads.square, number).result()

    assert list(executor.imap(payloads.identity, source(), buffersize=3)) == [n * n for n in range(20)]


# --- Errors of the source -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [("imap", {}), ("imap", {"buffersize": 7}), ("imap_unordered", {}), ("map", {"buffersize": 7})],
)
@pytest.mark.parametrize("count", [0, 1, 200])
def test_an_error_of_the_source_comes_after_the_results(executor, method, options, count):
    """Everything that was pulled before the source failed is yielded first; then comes the error, and then the end."""
    results = getattr(executor, method)(payloads.square, failing(count), **options)
    taken = []
    with pytest.raises(OSError, match="connection lost"):
        take_all_by_next(results, taken)
    assert sorted(taken) == [n * n for n in range(count)]
    assert next(results, "end") == "end"
    assert executor.submit(payloads.square, 3).result() == 9


@pytest.mark.parametrize("on_error", ["return", "skip"])
def test_an_error_of_the_source_is_no_error_of_a_call(executor, on_error):
    """``on_error`` is about calls: the source's error is raised."""

    def source():
        yield "1"
        yield "two"
        message = "connection lost"
        raise OSError(message)

    taken = []
    with pytest.raises(OSError, match="connection lost"):
        take_all_by_next(executor.imap(int, source(), on_error=on_error), taken)
    assert taken[0] == 1
    assert [type(value) for value in taken[1:]] == ([ValueError] if on_error == "return" else [])


def test_an_interrupt_in_the_source_does_not_wait(executor):
    """Ctrl-C while the source is iterated is raised at once, and the iteration does not end without a word."""

    def source():
        yield from range(10)
        raise KeyboardInterrupt

    results = executor.imap(payloads.square, source(), buffersize=20)
    with pytest.raises(KeyboardInterrupt):
        list(results)
    with pytest.raises(RuntimeError, match="interrupted"):
        next(results)
    assert next(results, "end") == "end"


# --- Threads that share an iterator ---------------------------------------------------------------------------


def in_threads(count, act):
    """Run ``act(index)`` in daemon threads; return a future for each, so that one that hangs is seen."""
    ends = [concurrent.futures.Future() for _ in range(count)]

    def run(index):
        try:
            ends[index].set_result(act(index))
        except BaseException as error:  # noqa: BLE001 - the case judges it
            ends[index].set_exception(error)

    for index in range(count):
        threading.Thread(target=run, args=(index,), daemon=True).start()
    return ends


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
@pytest.mark.parametrize("options", [{}, {"chunksize": 1}], ids=["chunks", "one by one"])
def test_threads_share_an_iterator(executor, method, options):
    """Each result goes to just one of the threads that iterate, in order for each of them, and all come to the end."""
    results = getattr(executor, method)(payloads.square, range(300), **options)
    taken = [end.result(timeout=30) for end in in_threads(4, lambda _index: list(results))]
    assert sorted(itertools.chain(*taken)) == [n * n for n in range(300)]
    if method != "imap_unordered":
        assert all(part == sorted(part) for part in taken)


def test_threads_share_errors(executor):
    """Each error goes to just one of the threads, and the others go on."""

    def collect(_index):
        got = []
        while True:
            try:
                got.append(next(results))
            except StopIteration:
                return got
            except ValueError as error:
                got.append(str(error))

    results = executor.imap(int, [str(n) if n % 3 else f"x{n}" for n in range(90)], buffersize=10)
    taken = list(itertools.chain(*(end.result(timeout=30) for end in in_threads(4, collect))))
    assert sorted(value for value in taken if isinstance(value, int)) == [n for n in range(90) if n % 3]
    assert len(set(map(str, taken))) == len(taken) == 90


def test_an_error_of_the_source_goes_to_one_thread(executor):
    """Where the source fails, one of the threads that share the iterator is told so; the rest come to the end."""
    results = executor.imap(payloads.square, failing(100))
    taken = [[] for _ in range(3)]
    ends = in_threads(3, lambda index: take_all(results, taken[index]))
    assert sorted(type(end.exception(timeout=30)) is OSError for end in ends) == [False, False, True]
    assert sorted(itertools.chain(*taken)) == [n * n for n in range(100)]


@only_crossing
@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
def test_closing_wakes_the_threads_that_wait(executor, tmp_path, method):
    """``close()`` in one thread is the end for those that wait for a result in another."""
    results = getattr(executor, method)(payloads.wait_for_file, [tmp_path / "go"] * 4)
    started = threading.Barrier(4)

    def wait(_index):
        started.wait(30)
        return next(results, "end")

    ends = in_threads(3, wait)
    started.wait(30)
    results.close()
    assert [end.result(timeout=30) for end in ends] == ["end"] * 3
    (tmp_path / "go").touch()


def test_closing_while_another_thread_iterates_the_source(executor):
    """``close()`` does not wait for a source that does; its generator is closed as soon as it gives way."""
    pulled, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def source():
        try:
            yield 1
            pulled.set()
            go_on.wait(30)
            yield from itertools.count()
        finally:
            ended.set()

    results = executor.imap(payloads.square, source(), buffersize=3)
    (end,) = in_threads(1, lambda _index: list(results))
    assert pulled.wait(30)
    results.close()
    assert not ended.is_set()
    go_on.set()
    assert end.result(timeout=30) in ([], [1])
    assert ended.is_set()


def test_a_source_that_asks_its_own_stream(executor):
    """An iterator that is asked while the same thread asks it raises ``ValueError``, as a generator does."""
    errors = []

    def source():
        yield 1
        try:
            next(results)
        except ValueError as error:
            errors.append(error)
        yield 2

    results = executor.imap(payloads.square, source(), buffersize=5)
    assert list(results) == [1, 4]
    assert len(errors) == 1


# --- Timeouts -------------------------------------------------------------------------------------------------


def test_map_times_out(make, tmp_path):
    """A result that is not there in time raises ``TimeoutError``, and the rest is given up."""
    executor = make(max_workers=1)
    blocker = executor.submit(block, tmp_path)
    payloads.wait_for_file(tmp_path / "started")
    results = executor.map(payloads.square, range(3), timeout=0)
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    (tmp_path / "go").touch()
    assert blocker.result(timeout=30) == "unblocked"
    assert next(results, "end") == "end"
    assert executor.submit(payloads.square, 3).result() == 9


def test_map_gives_what_is_there_after_the_timeout(executor):
    """A timeout that has passed does not keep back results that are ready."""
    results = executor.map(payloads.square, range(3), timeout=30)
    assert list(results) == [0, 1, 4]


@pytest.mark.parametrize("seconds", [10**400, 1e300, float("inf")])
def test_a_timeout_longer_than_any_lock_waits_is_none(executor, seconds):
    """And one that ended before time began has passed."""
    assert list(executor.map(payloads.square, range(3), timeout=seconds)) == [0, 1, 4]
    results = executor.map(payloads.square, [3], timeout=-seconds)
    with contextlib.suppress(concurrent.futures.TimeoutError):
        assert list(results) == [9]


def test_results_time_out_and_come_later(make, tmp_path):
    """``result(timeout)`` raises while the call runs, and gives its value afterwards."""
    executor = make(max_workers=1)
    future = executor.submit(block, tmp_path)
    payloads.wait_for_file(tmp_path / "started")
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(timeout=0)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0)
    (tmp_path / "go").touch()
    assert future.result(timeout=30) == "unblocked"


# --- After the end of the executor ----------------------------------------------------------------------------


def test_results_of_a_map_outlive_the_with_block(make):
    """Results that were asked for before the shutdown can be taken after it."""
    with make() as executor:
        results = executor.map(payloads.square, range(50))
    assert list(results) == [n * n for n in range(50)]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_lazy_stream_ends_with_an_error_after_shutdown(make, method):
    """A stream that would have to ask for more after the shutdown gives what it has and raises, and never hangs."""
    executor = make()
    results = getattr(executor, method)(payloads.identity, itertools.count(), buffersize=4)
    taken = [next(results)]
    executor.shutdown()
    with pytest.raises(RuntimeError):
        take_all(results, taken)
    with pytest.raises((RuntimeError, StopIteration)):
        take_all_by_next(results, taken)
    assert sorted(taken) == list(range(len(taken)))


def take_all(results, taken):
    """Take results by iteration until the end or an error."""
    for value in results:
        taken.append(value)
        assert len(taken) < 1_000


def take_all_by_next(results, taken):
    """Take results by ``next`` until the end or an error."""
    while True:
        taken.append(next(results))
        assert len(taken) < 1_000


@only_crossing
def test_a_finite_stream_can_be_taken_after_shutdown(make):
    """A source that has ended needs nothing more of the executor: all its results can be taken after the shutdown."""
    executor = make()
    results = executor.imap(payloads.identity, range(4), buffersize=10)
    taken = [next(results)]
    executor.shutdown()
    assert taken + list(results) == [0, 1, 2, 3]


def only_known_to_an_iterator(mode, method, source):
    """Return an iterator whose executor nobody else holds, and a weak reference to that."""
    executor = make_executor(mode)
    return getattr(executor, method)(payloads.square, source), weakref.ref(executor)


@in_contexts_too
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("count", [3, 2_000])
def test_a_lazy_stream_holds_its_executor(mode, method, count):
    """An executor that only its iterator knows lives until the last result was taken, and then ends by itself."""
    results, executor = only_known_to_an_iterator(mode, method, range(count))
    assert sorted(results) == [n * n for n in range(count)]
    assert executor() is None


@pytest.mark.parametrize("end", ["close", "drop", "drop unused", "drop failed"])
def test_an_iterator_that_ends_lets_go_of_its_executor(mode, end):
    """Closing or dropping the iterator ends an executor that nobody else holds, without the garbage collector."""
    gc.disable()
    try:
        results, executor = only_known_to_an_iterator(mode, "imap", failing(10 if end == "drop failed" else 100_000))
        assert executor() is not None
        if end != "drop unused":
            next(results)
        if end == "close":
            results.close()
        else:
            del results
        assert executor() is None
    finally:
        gc.enable()


def test_calls_that_are_refused_are_not_left_to_the_caller(executor, monkeypatch):
    """What an executor that ends does not take any more, nobody runs."""
    executor.submit(payloads.square, 1).result()
    results = executor.imap(payloads.square, range(100), buffersize=4)
    assert next(results) == 0

    def refuse(_span):
        message = "after shutdown"
        raise RuntimeError(message)

    monkeypatch.setattr(executor._engine, "enqueue", refuse)
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(results)
    assert sum(map(len, results._stream.spans)) == 0
