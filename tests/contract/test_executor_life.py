"""Futures' states, callbacks, cancelling, priorities, shutting down, and bad arguments."""

from __future__ import annotations

import concurrent.futures
import contextvars
import gc
import logging
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

import pytest

from amorsize_executor import AdaptiveExecutor
from tests import payloads
from tests.contract.modes import in_contexts_too, in_other_processes, make_executor, only_crossing

pytestmark = [
    pytest.mark.timeout(20, method="signal"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

LIMIT_S = 30


def block(directory):
    """Say that the call runs, and wait for the file ``go``."""
    payloads.touch_file(directory / "started")
    return payloads.wait_for_file(directory / "go", "unblocked")


@pytest.fixture
def blocked(make, tmp_path):
    """Return (executor with one worker that is busy, the busy call's future, what frees it)."""
    executor = make(max_workers=1, chunksize=1)
    future = executor.submit(block, tmp_path)
    payloads.wait_for_file(tmp_path / "started")
    yield executor, future, (tmp_path / "go").touch
    (tmp_path / "go").touch()


# --- States and cancelling ------------------------------------------------------------------------------------


def test_states_of_a_future(blocked):
    """A future is PENDING until its call travels, RUNNING then, and finished with its value."""
    executor, running, free = blocked
    waiting = executor.submit(payloads.square, 3)
    assert running.running()
    assert not waiting.running()
    assert not waiting.done()
    free()
    assert waiting.result(timeout=LIMIT_S) == 9
    assert running.result(timeout=LIMIT_S) == "unblocked"
    assert running.done()
    assert waiting.done()


def test_cancelling_what_waits(blocked, tmp_path):
    """A call that waits can be cancelled and never runs; one that runs cannot."""
    executor, running, free = blocked
    waiting = executor.submit(payloads.count_execution, tmp_path / "log")
    assert not running.cancel()
    assert waiting.cancel()
    assert waiting.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        waiting.result(timeout=LIMIT_S)
    last = executor.submit(payloads.square, 2)
    free()
    assert last.result(timeout=LIMIT_S) == 4
    assert payloads.read_executions(tmp_path / "log") == []


def test_cancelling_twice(blocked):
    """``cancel()`` may be called again and again; the executor goes on."""
    executor, _running, free = blocked
    waiting = [executor.submit(payloads.square, n) for n in range(20)]
    assert all(future.cancel() and future.cancel() and future.cancel() for future in waiting)
    last = executor.submit(payloads.square, 3)
    free()
    assert last.result(timeout=LIMIT_S) == 9
    assert all(future.cancelled() for future in waiting)


def test_waiting_for_what_was_cancelled(blocked):
    """``wait`` and ``as_completed`` are told of a cancelled call while the worker is still busy."""
    executor, _running, free = blocked
    waiting = [executor.submit(payloads.square, n) for n in range(5)]
    for future in waiting:
        assert future.cancel()
    assert wait(waiting, timeout=LIMIT_S).not_done == set()
    assert set(as_completed(waiting, timeout=LIMIT_S)) == set(waiting)
    free()


def test_cancelling_among_others(blocked):
    """Every second call cancelled: the others have their values."""
    executor, _running, free = blocked
    futures = [executor.submit(payloads.square, n) for n in range(100)]
    cancelled = [future.cancel() for future in futures[::2]]
    free()
    assert all(cancelled)
    assert [future.result(timeout=LIMIT_S) for future in futures[1::2]] == [n * n for n in range(1, 100, 2)]


# --- Callbacks ------------------------------------------------------------------------------------------------


def test_callbacks_are_called_once(executor):
    """A callback gets its future, once, also when added after the end."""
    called = []
    done = threading.Event()
    future = executor.submit(payloads.square, 3)
    future.add_done_callback(called.append)
    future.add_done_callback(lambda _future: done.set())
    assert future.result() == 9
    assert done.wait(LIMIT_S)
    future.add_done_callback(called.append)
    assert called == [future, future]


def test_callbacks_that_raise(executor, caplog):
    """A callback that raises is logged; the other callbacks and calls are not harmed."""
    done = threading.Event()
    future = executor.submit(payloads.square, 3)
    future.add_done_callback(lambda _future: 1 / 0)
    future.add_done_callback(lambda _future: done.set())
    assert future.result() == 9
    assert done.wait(LIMIT_S)
    assert executor.submit(payloads.square, 4).result() == 16
    caplog.clear()


def test_submitting_from_a_callback(executor):
    """A callback may submit, and so on in a chain."""
    total = 30
    values = []
    done = threading.Event()

    def go_on(future):
        values.append(future.result())
        if values[-1] < total:
            executor.submit(payloads.add, values[-1], 1).add_done_callback(go_on)
        else:
            done.set()

    executor.submit(payloads.identity, 0).add_done_callback(go_on)
    assert done.wait(LIMIT_S)
    assert values == list(range(total + 1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_shutting_down_from_a_callback_does_not_hang(make):
    """``shutdown()`` inside a callback refuses to wait for itself or returns, as the standard library's does."""
    executor = make()
    ended = threading.Event()

    def shut_down(_future):
        try:
            executor.shutdown(wait=True)
        finally:
            ended.set()

    executor.submit(payloads.square, 3).add_done_callback(shut_down)
    assert ended.wait(10), "shutdown() in a callback waits for the thread it runs in"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_exits_strands_nobody(executor, kind):
    """Whatever a callback raises, every future resolves."""
    reached = threading.Event()

    def leave(_future):
        reached.set()
        raise kind

    executor.submit(payloads.identity, 1).add_done_callback(leave)
    assert reached.wait(LIMIT_S)
    try:
        later = [executor.submit(payloads.square, n) for n in range(5)]
    except RuntimeError:
        return
    assert wait(later, timeout=10).not_done == set()


# --- Together with the standard library -----------------------------------------------------------------------


def test_waiting_for_our_futures_and_others(executor):
    """``wait`` and ``as_completed`` take our futures and a thread pool's in one set."""
    with ThreadPoolExecutor(2) as threads:
        futures = [pool.submit(payloads.square, n) for n in range(20) for pool in (executor, threads)]
        assert wait(futures, timeout=LIMIT_S).not_done == set()
        assert sorted(f.result() for f in as_completed(futures, timeout=LIMIT_S)) == sorted(
            n * n for n in range(20) for _ in range(2)
        )


def test_waiting_for_the_first(blocked):
    """``wait(FIRST_COMPLETED)`` returns when one is done, ``FIRST_EXCEPTION`` when one has failed."""
    executor, running, free = blocked
    first = executor.submit(payloads.raise_value_error, "x")
    free()
    done, _ = wait([first, running], timeout=LIMIT_S, return_when=concurrent.futures.FIRST_COMPLETED)
    assert done
    wait([first, running], timeout=LIMIT_S, return_when=concurrent.futures.FIRST_EXCEPTION)
    assert isinstance(first.exception(timeout=LIMIT_S), ValueError)


def test_it_is_an_executor(executor):
    """It is a ``concurrent.futures.Executor``, and says what it does in one line."""
    assert isinstance(executor, concurrent.futures.Executor)
    assert "\n" not in repr(executor)
    assert isinstance(executor.submit(payloads.square, 1), concurrent.futures.Future)
    assert executor.stats()["calls_failed"] == 0
    assert isinstance(executor.report(), str)


# --- Priorities -----------------------------------------------------------------------------------------------


def test_priority_comes_first(blocked, tmp_path):
    """Higher priority runs earlier; first come, first served among equals; across submit and map."""
    executor, _running, free = blocked
    log = tmp_path / "log"
    futures = [
        executor.options(priority=priority).submit(payloads.count_execution, log, f"{priority}:{n}")
        for n in range(3)
        for priority in (0, 5, -5)
    ]
    free()
    assert wait(futures, timeout=LIMIT_S).not_done == set()
    expected = [f"{priority}:{n}" for priority in (5, 0, -5) for n in range(3)]
    assert payloads.read_executions(log) == expected


# --- Threads, signals, finalizers -----------------------------------------------------------------------------


def test_eight_threads_submit_and_map(executor):
    """Any number of threads may use one executor at once."""
    failures = []

    def use(base):
        try:
            futures = [executor.submit(payloads.add, base, n) for n in range(100)]
            mapped = list(executor.map(payloads.add, [base] * 100, range(100)))
            assert [future.result() for future in futures] == mapped == [base + n for n in range(100)]
        except BaseException as error:  # noqa: BLE001 - told to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=use, args=(base * 1_000,)) for base in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_submitting_from_a_signal_handler(executor):
    """A signal handler may submit while the main thread submits."""
    from_handler = []

    def handle(_number, _frame):
        from_handler.append(executor.submit(payloads.identity, len(from_handler)))

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        futures = []
        for n in range(300):
            if n % 10 == 0:
                os.kill(os.getpid(), signal.SIGUSR1)
            futures.append(executor.submit(payloads.square, n))
        assert [future.result() for future in futures] == [n * n for n in range(300)]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(from_handler) == 30
    assert [future.result() for future in from_handler] == list(range(30))


def test_submitting_from_del(executor):
    """An object's ``__del__`` may submit, also when the collector runs it in the middle of something."""
    futures = []

    class Last:
        def __init__(self):
            self.itself = self

        def __del__(self):
            futures.append(executor.submit(payloads.identity, 1))

    for _ in range(50):
        Last()
        executor.submit(payloads.identity, 2)
    gc.collect()
    assert [future.result() for future in futures] == [1] * 50


def test_interrupting_the_wait_loses_nothing(blocked):
    """A signal's exception leaves ``result()``; the call goes on, and asking again gives its value."""
    executor, running, free = blocked
    waiting = executor.submit(payloads.square, 3)

    class Interruption(Exception):  # noqa: N818
        pass

    def handle(_number, _frame):
        raise Interruption

    before = signal.signal(signal.SIGUSR1, handle)
    killer = threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
    killer.start()
    try:
        with pytest.raises(Interruption):
            running.result(timeout=LIMIT_S)
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, before)
    free()
    assert running.result(timeout=LIMIT_S) == "unblocked"
    assert waiting.result(timeout=LIMIT_S) == 9


# --- Contexts and nesting -------------------------------------------------------------------------------------

_variable = contextvars.ContextVar("_variable", default="unset")


def set_variable(value):
    """Change a context variable."""
    _variable.set(value)
    return value


@pytest.mark.parametrize("mode", ["default", "caller", "isolate"], indirect=True)
def test_calls_do_not_change_the_callers_context(executor):
    """A call that sets a context variable does not set it for the caller, wherever it ran."""
    assert executor.submit(set_variable, "a").result() == "a"
    assert list(executor.map(set_variable, "bcd")) == ["b", "c", "d"]
    assert _variable.get() == "unset"


def use_executor_again(executor, number):
    """Submit to the executor that runs this very call."""
    return executor.submit(payloads.square, number).result(timeout=LIMIT_S)


@in_contexts_too
def test_an_executor_inside_a_call(executor):
    """A call may use an executor of its own."""
    assert list(executor.map(payloads.nested_executor, [3, 4])) == [[0, 1, 4], [0, 1, 4, 9]]


def use_options_inside(options):
    """Make an executor with these options; return what it logs and whether its calls run in this process."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("amorsize_executor")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    with AdaptiveExecutor(**options) as inner:
        pids = set(inner.map(payloads.getpid, range(3)))
    return [record.getMessage() for record in records], pids == {os.getpid()}


@in_other_processes
def test_options_about_processes_mean_nothing_inside_a_worker(executor):
    """Library code that asks for isolation works inside a worker: its calls run there, and the log says so."""
    for options in (
        {"isolate": True},
        {"max_tasks_per_child": 1},
        {"on_worker_death": "break"},
        {"on_worker_death": "fail"},
    ):
        log, ran_there = executor.submit(use_options_inside, options).result(timeout=LIMIT_S)
        assert ran_there
        assert any(next(iter(options)) in line for line in log)


@pytest.mark.parametrize("mode", ["default", "thread", "caller"], indirect=True)
def test_a_helped_call_may_use_its_own_executor(make):
    """A call that the waiting caller runs may submit to the same executor and wait for it."""
    executor = make(max_workers=4)
    assert list(executor.map(lambda number: use_executor_again(executor, number), [3])) == [9]


# --- Ends -----------------------------------------------------------------------------------------------------


def test_using_it_after_shutdown(executor):
    """After ``shutdown`` every way in raises ``RuntimeError``."""
    executor.submit(payloads.square, 2).result()
    executor.shutdown()
    for use in (executor.submit, executor.map, executor.imap, executor.imap_unordered):
        with pytest.raises(RuntimeError):
            use(payloads.square, [1])
    with pytest.raises(RuntimeError):
        executor.options(priority=1).submit(payloads.square, 1)


def test_shutting_down_again_or_unused(make):
    """``shutdown`` may be called twice, and on an executor that never ran a call."""
    unused = make()
    unused.shutdown()
    unused.shutdown()
    with pytest.raises(RuntimeError):
        unused.submit(payloads.square, 2)
    used = make()
    used.submit(payloads.square, 2).result()
    used.shutdown(wait=False)
    used.shutdown()
    used.shutdown(cancel_futures=True)


def test_shutdown_finishes_what_was_submitted(make):
    """``shutdown(wait=True)`` returns when all calls have ended."""
    executor = make()
    futures = [executor.submit(payloads.square, n) for n in range(200)]
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [n * n for n in range(200)]


def test_shutdown_without_waiting(blocked):
    """``shutdown(wait=False)`` returns at once and the calls still end."""
    executor, running, free = blocked
    waiting = executor.submit(payloads.square, 3)
    executor.shutdown(wait=False)
    assert not running.done()
    free()
    assert running.result(timeout=LIMIT_S) == "unblocked"
    assert waiting.result(timeout=LIMIT_S) == 9


def test_shutdown_cancelling(blocked, tmp_path):
    """``cancel_futures=True`` cancels what waits and lets finish what runs."""
    executor, running, free = blocked
    waiting = [executor.submit(payloads.count_execution, tmp_path / "log") for _ in range(20)]
    results = executor.map(payloads.square, range(10))
    executor.shutdown(wait=False, cancel_futures=True)
    assert wait(waiting, timeout=LIMIT_S).not_done == set()
    free()
    executor.shutdown(wait=True)
    assert running.result(timeout=LIMIT_S) == "unblocked"
    assert all(future.cancelled() for future in waiting)
    assert payloads.read_executions(tmp_path / "log") == []
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)


def test_an_error_leaves_the_with_block(make):
    """An error inside the ``with`` block goes on to the caller, and the calls are finished."""
    futures = []

    def fail():
        with make() as executor:
            futures.append(executor.submit(payloads.square, 3))
            message = "inside"
            raise ValueError(message)

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert futures[0].result() == 9


def test_dropping_the_executor_finishes_its_calls(mode):
    """An executor that is dropped without ``shutdown`` finishes what it has and ends."""
    executor = make_executor(mode)
    futures = [executor.submit(payloads.square, n) for n in range(20)]
    del executor
    gc.collect()
    assert wait(futures, timeout=LIMIT_S).not_done == set()
    assert [future.result() for future in futures] == [n * n for n in range(20)]


@only_crossing
@pytest.mark.parametrize("end", ["kill_workers", "terminate_workers"])
def test_ending_the_workers_at_once(make, tmp_path, end):
    """Ending the workers fails what runs, resolves what waits and waits for nothing."""
    executor = make(max_workers=1, chunksize=1)
    running = executor.submit(block, tmp_path)
    payloads.wait_for_file(tmp_path / "started")
    waiting = [executor.submit(payloads.square, n) for n in range(5)]
    getattr(executor, end)()
    assert wait([running, *waiting], timeout=10).not_done == set()
    executor.shutdown()
    assert isinstance(running.exception(), concurrent.futures.BrokenExecutor)
    with pytest.raises(RuntimeError):
        executor.submit(payloads.square, 1)


@only_crossing
def test_ending_workers_that_are_about_to_start(make, tmp_path):
    """Workers that are ended before they are there do not run what was on its way to them."""
    executor = make(max_workers=2)
    running = [executor.submit(payloads.wait_for_file, tmp_path / "never") for _ in range(2)]
    executor.kill_workers()
    assert wait(running, timeout=10).not_done == set()
    ender = threading.Thread(target=executor.shutdown)
    ender.start()
    ender.join(10)
    ended = not ender.is_alive()
    (tmp_path / "never").touch()
    ender.join()
    assert ended, "shutdown() waited for a call that should have been killed"


@in_contexts_too
def test_initializer_runs_before_the_calls(make):
    """The initializer has run where a call runs."""
    executor = make(initializer=set_global, initargs=("set",))
    assert list(executor.map(get_global, range(4))) == ["set"] * 4


_global = "unset"


def set_global(value):
    """Change this module."""
    global _global  # noqa: PLW0603
    _global = value


def get_global(_item):
    """Read this module."""
    return _global


@pytest.fixture(autouse=True)
def _reset_global():
    yield
    set_global("unset")


def test_an_initializer_that_fails_breaks_the_executor(make, caplog):
    """If the initializer raises, every call fails with ``BrokenExecutor`` and later ones are refused."""
    executor = make(initializer=payloads.raise_value_error, initargs=("bad start",))
    future = executor.submit(payloads.square, 2)
    assert isinstance(future.exception(timeout=LIMIT_S), concurrent.futures.BrokenExecutor)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        executor.submit(payloads.square, 2)
    caplog.clear()


@only_crossing
@pytest.mark.parametrize("most", [1, 3])
def test_workers_are_replaced_after_so_many_calls(make, most):
    """With ``max_tasks_per_child`` no process runs more calls than that, and none fewer without need."""
    executor = make(max_tasks_per_child=most)
    pids = list(executor.map(payloads.getpid, range(30)))
    assert max(pids.count(pid) for pid in pids) <= most
    assert len(set(pids)) >= 30 // most
    assert len([executor.submit(payloads.getpid).result() for _ in range(5)]) == 5


# --- After a fork ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_of_the_user(executor):
    """In a child of a user's fork the executor raises ``RuntimeError``; the child's end does not disturb us."""
    assert executor.submit(payloads.square, 2).result() == 4
    pending = executor.map(payloads.square, range(200))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                executor.submit(payloads.square, 3)
            except RuntimeError:
                code = 0
            executor.shutdown()
            del pending
            gc.collect()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(pending) == [n * n for n in range(200)]
    assert executor.submit(payloads.square, 5).result() == 25


# --- Bad arguments --------------------------------------------------------------------------------------------

BAD = [
    ("max_workers", 0),
    ("max_workers", -1),
    ("max_workers", True),
    ("max_workers", 1.5),
    ("max_workers", "2"),
    ("initializer", "not callable"),
    ("max_tasks_per_child", 0),
    ("max_tasks_per_child", 2.0),
    ("backend", "fast"),
    ("backend", 3),
    ("middleware", 5),
    ("isolate", 1),
    ("isolate", "yes"),
    ("min_workers", 0),
    ("min_workers", None),
    ("min_workers", True),
    ("chunksize", 0),
    ("chunksize", -3),
    ("chunksize", 10**400),
    ("chunksize", 1.0),
    ("target_chunk_duration", 0),
    ("target_chunk_duration", -1.0),
    ("target_chunk_duration", float("nan")),
    ("target_chunk_duration", float("inf")),
    ("target_chunk_duration", True),
    ("max_memory", 0),
    ("max_memory", 1e9),
    ("on_worker_death", "panic"),
    ("on_worker_death", None),
    ("worker_death_retries", -1),
    ("worker_death_retries", 1.0),
    ("worker_death_retries", True),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_constructor_arguments(name, value):
    """A bad argument raises an error that names it and its value, before anything starts."""
    with pytest.raises((ValueError, TypeError)) as caught:
        AdaptiveExecutor(**{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def test_arguments_that_contradict_each_other():
    """``min_workers`` above ``max_workers`` is refused, with both values."""
    with pytest.raises(ValueError, match=r"min_workers=5.*max_workers=2"):
        AdaptiveExecutor(max_workers=2, min_workers=5)


def test_more_workers_than_there_can_be():
    """``min_workers`` above the most that this machine ever gets is refused, whatever ``max_workers`` says."""
    for max_workers in (None, 10**9):
        with pytest.raises(ValueError, match=r"min_workers=100000: must not be above \d+,"):
            AdaptiveExecutor(max_workers=max_workers, min_workers=100_000)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_workers": 0}, "Invalid parameter: max_workers must be greater than 0, got 0"),
        ({"max_workers": "2"}, "Invalid parameter: max_workers must be an integer >= 1 or None, got '2'"),
        ({"min_workers": None}, "Invalid parameter: min_workers must be an integer >= 1, got None"),
        ({"isolate": 1}, "Invalid parameter isolate=1: must be True or False"),
    ],
    ids=lambda case: str(case)[:20],
)
def test_what_an_error_says(options, text):
    """An error says the rule and the value once each, with the standard library's words where it has them."""
    with pytest.raises(ValueError, match="Invalid parameter") as caught:
        AdaptiveExecutor(**options)
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_engines_that_are_executors_elsewhere(name):
    """Who names Dask or Ray is told how to bring it."""
    with pytest.raises(ValueError, match="pass backend="):
        AdaptiveExecutor(backend=name)


@pytest.mark.parametrize("method", ["map", "imap", "imap_unordered"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("chunksize", 0), ("chunksize", True), ("chunksize", 10**400), ("buffersize", -1), ("buffersize", 1.5)],
)
def test_bad_map_arguments(executor, method, name, value):
    """A bad argument of a map raises an error that names it and its value, and the executor can be used."""
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(executor, method)(payloads.square, [1], **{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_bad_on_error_and_timeout(executor):
    """``on_error`` is one of three words; ``timeout`` is a number that is not NaN."""
    with pytest.raises(ValueError, match="on_error='ignore'"):
        executor.imap(payloads.square, [1], on_error="ignore")
    with pytest.raises(ValueError, match="timeout=nan"):
        executor.map(payloads.square, [1], timeout=float("nan"))


@pytest.mark.parametrize("method", ["submit", "map", "imap", "imap_unordered"])
def test_what_is_not_callable_is_refused(executor, method):
    """Something that cannot be called raises ``TypeError`` at once."""
    with pytest.raises(TypeError, match="fn="):
        getattr(executor, method)(42, [1])


@pytest.mark.parametrize("priority", [True, "high", None, 1.5])
def test_bad_priority(executor, priority):
    """A priority is an int, and a bad one is refused by name and value."""
    with pytest.raises((ValueError, TypeError), match="priority"):
        executor.options(priority=priority).submit(payloads.square, 1)


def test_leaving_a_view_ends_its_executor(executor):
    """A view is an executor: as a context manager, it shuts down what it is a view of."""
    with executor.options(priority=1) as view:
        assert view.submit(payloads.square, 3).result() == 9
    assert executor.stats()["state"] == "ended"
    with pytest.raises(RuntimeError):
        executor.submit(payloads.square, 3)


def test_maps_of_a_view(blocked):
    """``options().map``, ``.imap`` and ``.imap_unordered`` take what the executor's own do."""
    executor, _running, free = blocked
    view = executor.options(priority=1)
    free()
    assert list(view.map(payloads.square, range(3), chunksize=2, buffersize=2)) == [0, 1, 4]
    assert list(view.imap(payloads.square, range(3))) == [0, 1, 4]
    assert sorted(view.imap_unordered(payloads.square, range(3))) == [0, 1, 4]


@in_other_processes
def test_no_signal_stays_blocked_in_workers(executor):
    """Ctrl-C is held back while they start; programs that they start must get theirs."""
    assert executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result(timeout=30) == set()
