"""Retry, circuit breaker, rate limit and timeout around an executor's calls, given in each of the ways there are."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import pickle
import threading
import warnings
import weakref
from concurrent.futures import TimeoutError as FuturesTimeoutError
from concurrent.futures import wait

import pytest

from amorsize_executor import (
    AdaptiveExecutor,
    CallTimeoutError,
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerPolicy,
    CircuitState,
    InvalidParameterError,
    Middleware,
    RateLimiter,
    RateLimitPolicy,
    Retry,
    RetryPolicy,
    TimeoutPolicy,
    UnsupportedOptionError,
    with_retry,
)
from amorsize_executor.clock import ManualClock
from amorsize_executor.middleware.base import RUN, Again, Deliver, Hold
from tests import decorated, payloads
from tests.contract.modes import CROSSING, MODES, make_executor
from tests.decorated import Service
from tests.processes import poll_until

LIMIT_S = 30
QUICK = RetryPolicy(max_retries=2, initial_delay=0.001)
every_mode = pytest.mark.parametrize("mode", MODES)
across = pytest.mark.parametrize("mode", CROSSING)


def fail_and_count(path, key="x"):
    """Note an execution and fail."""
    payloads.count_execution(path, str(key))
    raise ConnectionError(key)


class Watch(Middleware):
    """Notes calls as they are asked."""

    def __init__(self) -> None:
        self.calls: list = []

    def admit(self, call):
        self.calls.append((call.key, call.batch, call.position, call.attempt))
        return RUN


# --- retry ---


@every_mode
def test_a_failed_call_runs_again_until_it_succeeds(mode, tmp_path):
    """The future knows only the last attempt; stats count the others."""
    with make_executor(mode, retry=QUICK) as executor:
        futures = [executor.submit(decorated.flaky.__wrapped__, tmp_path / str(key)) for key in range(5)]
        assert [future.result() for future in futures] == ["x"] * 5
        assert executor.stats()["calls_retried"] == 10


@every_mode
def test_the_last_error_is_raised_as_it_was(mode, tmp_path):
    """Its own type and arguments, with the attempts noted on it."""
    with make_executor(mode, retry=QUICK) as executor:
        error = executor.submit(fail_and_count, tmp_path / "runs", "down").exception()
    assert type(error) is ConnectionError
    assert error.args == ("down",)
    assert error.__notes__ == ["after 3 attempts"]
    assert len(payloads.read_executions(tmp_path / "runs")) == 3


def test_back_offs_occupy_no_worker(tmp_path):
    """Sixteen calls on two workers all back off at the same time; none waits for another's back-off."""
    backing_off, all_do = itertools.count(1), threading.Event()

    def on_retry(_error, _attempt, _delay):
        if next(backing_off) == 16:
            all_do.set()

    policy = RetryPolicy(max_retries=1, initial_delay=3600.0, max_delay=3600.0, on_retry=on_retry)
    executor = AdaptiveExecutor(max_workers=2, retry=policy)
    futures = [executor.submit(fail_and_count, tmp_path / "runs", key) for key in range(16)]
    assert all_do.wait(30)
    assert not any(future.done() for future in futures)
    assert executor.submit(abs, -1).result() == 1
    executor.shutdown(cancel_futures=True)
    assert all(future.cancelled() for future in futures)


def test_a_failure_while_the_executor_cancels_is_not_held(tmp_path):
    """shutdown(cancel_futures=True) does not wait for the back-off that a running call would begin."""
    started, go_on = tmp_path / "started", tmp_path / "go on"
    policy = RetryPolicy(max_retries=1, initial_delay=3600.0, max_delay=3600.0)
    executor = AdaptiveExecutor(max_workers=1, retry=policy)
    future = executor.submit(wait_and_fail, started, go_on)
    payloads.wait_for_file(started)
    executor.shutdown(wait=False, cancel_futures=True)
    go_on.touch()
    executor.shutdown()
    assert future.cancelled()


def wait_and_fail(started, go_on):
    """Say that it runs, wait for a file, and fail."""
    started.touch()
    payloads.wait_for_file(go_on)
    raise ValueError


# --- circuit breaker ---


@every_mode
@pytest.mark.parametrize("retry", [None, RetryPolicy(max_retries=5, initial_delay=0.001)])
@pytest.mark.parametrize("way", ["submit", "map"])
def test_a_dead_service_is_reached_as_often_as_the_threshold_and_what_was_running(mode, retry, way, tmp_path):
    """Of 400 calls, with and without retry."""
    breaker = CircuitBreaker(CircuitBreakerPolicy(failure_threshold=5, timeout=3600.0))
    path = tmp_path / "runs"
    with make_executor(mode, circuit_breaker=breaker, retry=retry) as executor:
        if way == "submit":
            errors = [executor.submit(fail_and_count, path, key) for key in range(400)]
            errors = [future.exception() for future in errors]
        else:
            errors = list(executor.imap(fail_and_count, [path] * 400, range(400), on_error="return", buffersize=400))
        workers = 2
        assert executor.stats()["calls_refused"] >= 400 - 5 - workers
    assert len(payloads.read_executions(path)) <= 5 + workers - 1
    assert {type(error) for error in errors} <= {ConnectionError, CircuitBreakerError}
    assert breaker.state is CircuitState.OPEN


@across
def test_a_service_that_dies_in_the_middle_is_left_alone_by_chunks_on_their_way(mode, tmp_path):
    """Workers have long chunks when it goes down; these stop where the threshold is reached inside them."""
    breaker = CircuitBreaker(CircuitBreakerPolicy(failure_threshold=6, timeout=3600.0))
    path, down = tmp_path / "runs", tmp_path / "down"
    with make_executor(mode, circuit_breaker=breaker, chunksize=100) as executor:
        results = executor.imap(
            fail_if_down, [path] * 2000, [down] * 2000, range(2000), on_error="return", buffersize=2000
        )
        assert [next(results) for _ in range(100)] == list(range(100))  # a later success would begin the count anew
        down.touch()
        errors = list(results)
    reached = [error for error in errors if isinstance(error, ConnectionError)]
    assert len(payloads.read_executions(path)) == len(reached)
    assert 6 <= len(reached) <= 6 + 2 - 1
    assert {type(error) for error in errors} == {ConnectionError, CircuitBreakerError}


def fail_if_down(path, down, number):
    """Succeed a hundred times; then wait for a file, note an execution and fail."""
    if number < 100:
        return number
    payloads.wait_for_file(down)
    payloads.count_execution(path)
    raise ConnectionError


def test_held_calls_go_on_when_a_probe_succeeds(tmp_path):
    """With while_open="hold" no call fails that the service could serve later; probes go one at a time."""
    up, path = tmp_path / "up", tmp_path / "runs"
    opened = threading.Event()
    policy = CircuitBreakerPolicy(
        failure_threshold=2, timeout=0.02, while_open="hold", on_open=lambda *_: opened.set(), success_threshold=2
    )
    with AdaptiveExecutor(max_workers=2, circuit_breaker=policy, retry=RetryPolicy(-1, 0.001)) as executor:
        results = executor.map(fail_unless_up, [up] * 300, [path] * 300, range(300))
        assert opened.wait(30)
        up.touch()
        assert list(results) == list(range(300))
        assert executor.stats()["calls_held"]
        assert executor.stats()["calls_refused"] == 0


def fail_unless_up(up, path, number):
    """Fail until a file exists."""
    if not up.exists():
        payloads.count_execution(path)
        raise ConnectionError
    return number


@every_mode
def test_held_calls_go_on_when_the_breaker_is_reset(mode):
    """They do not wait for the time that it would have stayed open."""
    policy = CircuitBreakerPolicy(failure_threshold=1, timeout=3600.0, while_open="hold")
    breaker = CircuitBreaker(policy)
    with make_executor(mode, circuit_breaker=breaker) as executor:
        assert executor.submit(payloads.raise_value_error, "down").exception()
        futures = [executor.submit(abs, -number) for number in range(5)]
        assert poll_until(lambda: executor.stats()["calls_held"], LIMIT_S)
        breaker.reset()
        assert [future.result(LIMIT_S) for future in futures] == list(range(5))


def test_a_cancelled_probe_gives_its_place_back():
    """A probe that waits in a back-off further in is cancelled; the next call probes."""

    class HoldFirst(Middleware):
        def __init__(self):
            self.held = threading.Event()

        def settle(self, call, outcome):
            if call.key == "probe":
                self.held.set()
                return Again(3600.0)
            return Deliver(outcome)

    clock = ManualClock()
    breaker = CircuitBreaker(CircuitBreakerPolicy(failure_threshold=1, success_threshold=1), clock=clock)
    inner = HoldFirst()
    with AdaptiveExecutor(max_workers=1, middleware=[breaker, inner]) as executor:
        assert executor.submit(payloads.raise_value_error, "down").exception()
        clock.advance(60)
        probe = executor.options(key="probe").submit(abs, -1)
        assert inner.held.wait(30)
        assert isinstance(executor.submit(abs, -2).exception(), CircuitBreakerError)
        assert probe.cancel()
        assert executor.submit(abs, -3).result() == 3
    assert breaker.state is CircuitState.CLOSED


def test_callbacks_run_under_no_lock_and_may_use_breaker_and_executor():
    """on_open submits, and asks the breaker for its state."""
    heard = []

    def on_open(failures, error):
        heard.append((failures, type(error), breaker.get_state()[0], executor._engine.lock.locked()))
        rescued.append(executor.options(circuit_breaker=None).submit(abs, -7))

    rescued: list = []
    breaker = CircuitBreaker(CircuitBreakerPolicy(failure_threshold=2, on_open=on_open))
    with AdaptiveExecutor(max_workers=1, circuit_breaker=breaker) as executor:
        for _ in range(2):
            assert executor.submit(payloads.raise_value_error, "down").exception()
    assert heard == [(2, ValueError, CircuitState.OPEN, False)]
    assert rescued[0].result() == 7


def test_one_breaker_for_several_functions_and_executors(tmp_path):
    """What one executor's calls find out, the other's know."""
    breaker = CircuitBreaker(CircuitBreakerPolicy(failure_threshold=3, timeout=3600.0))
    with (
        AdaptiveExecutor(max_workers=1, circuit_breaker=breaker) as one,
        AdaptiveExecutor(max_workers=1, circuit_breaker=breaker) as other,
    ):
        for number in range(3):
            assert isinstance(one.submit(fail_and_count, tmp_path / "runs", number).exception(), ConnectionError)
        assert isinstance(other.submit(payloads.square, 2).exception(), CircuitBreakerError)


def test_an_executor_that_its_own_callbacks_refer_to_is_dropped_like_any_other():
    """Nothing that outlives the calls keeps their layers, and so the executor, alive."""

    def use_one():
        policy = CircuitBreakerPolicy(failure_threshold=1, on_open=lambda *_: executor.stats())
        executor = AdaptiveExecutor(max_workers=1, circuit_breaker=policy)
        assert executor.submit(payloads.raise_value_error, "down").exception()
        return weakref.ref(executor)

    dropped = use_one()
    assert poll_until(lambda: gc.collect() >= 0 and dropped() is None, LIMIT_S)


# --- rate limit ---


@every_mode
def test_all_workers_together_keep_to_the_rate(mode):
    """One bucket: what is granted is what the limiter counts."""
    limiter = RateLimiter(RateLimitPolicy(2000, 10))
    with make_executor(mode, rate_limit=limiter) as executor:
        assert list(executor.map(payloads.square, range(100))) == [n * n for n in range(100)]
        assert executor.stats()["calls_held"] >= 1
    assert limiter.get_available_tokens() <= 10


@every_mode
def test_held_calls_go_on_when_the_bucket_is_filled(mode):
    """They do not wait until the tokens would have come; on_wait is told once of each call that waits."""
    heard: list = []
    limiter = RateLimiter(RateLimitPolicy(0.0001, 1, on_wait=heard.append))
    with make_executor(mode, rate_limit=limiter) as executor:
        futures = [executor.submit(abs, -number) for number in range(2)]
        assert futures[0].result(LIMIT_S) == 0
        assert poll_until(lambda: executor.stats()["calls_held"] > 1, LIMIT_S)
        limiter.reset()
        assert futures[1].result(LIMIT_S) == 1
    assert len(heard) == 1


def test_a_limit_for_some_calls_does_not_hold_up_others():
    """Calls behind a shut door wait; those of another view run."""
    with AdaptiveExecutor(max_workers=1) as executor:
        slow = executor.options(rate_limit=RateLimitPolicy(0.0001, 1))
        limited = [slow.submit(abs, -number) for number in range(50)]
        assert limited[0].result() == 0
        assert list(executor.map(payloads.square, range(20))) == [n * n for n in range(20)]
        assert not any(future.done() for future in limited[1:])
        assert all(future.cancel() for future in limited[1:])


def test_priorities_hold_behind_a_shut_door():
    """When the door opens, the more urgent call goes first."""
    order: list = []
    with AdaptiveExecutor(max_workers=1, backend="thread") as executor:
        limited = executor.options(rate_limit=RateLimiter(RateLimitPolicy(50, 1)))
        futures = [limited.submit(order.append, "first")]
        futures += [limited.submit(order.append, f"low {n}") for n in range(3)]
        futures += [limited.options(priority=1).submit(order.append, "high")]
        wait(futures)
    assert order[0] in {"first", "high"}
    assert [name for name in order if name.startswith("low")] == ["low 0", "low 1", "low 2"]


def test_a_dropped_map_behind_a_shut_door_is_no_hindrance():
    """Its calls are forgotten; the executor shuts down at once, and others pass the door."""
    limiter = RateLimiter(RateLimitPolicy(0.0001, 1))
    executor = AdaptiveExecutor(max_workers=1, rate_limit=limiter)
    results = executor.map(payloads.square, range(1000))
    assert next(results) == 0
    results.close()
    executor.shutdown()
    assert executor.stats()["calls_done"] == 1


def test_a_call_that_is_cancelled_when_its_turn_has_come_blocks_nobody(tmp_path):
    """The door opens while the worker is busy; the first call in line is cancelled, the others go on."""

    class Shut(RateLimiter):
        is_shut = True

        def admit(self, call):
            return Hold(0.001, is_for_all=True) if self.is_shut else RUN

    layer, go_on = Shut(), tmp_path / "go on"
    with AdaptiveExecutor(max_workers=1, isolate=True) as executor:
        view = executor.options(rate_limit=layer)
        held = [view.submit(abs, -number) for number in range(3)]
        assert poll_until(lambda: executor.stats()["calls_held"], LIMIT_S)
        blocker = executor.submit(payloads.wait_for_file, go_on)
        assert poll_until(blocker.running, LIMIT_S)
        layer.is_shut = False
        assert poll_until(lambda: executor._engine.queue.count == 1, LIMIT_S)
        assert held[0].cancel()
        go_on.touch()
        assert [future.result() for future in held[1:]] == [1, 2]
    assert layer.get_available_tokens() == 10


# --- timeout ---


@across
def test_a_call_that_overruns_fails_alone(mode, tmp_path):
    """Its chunk mates go on, each once; its worker is replaced; it is both kinds of TimeoutError."""
    path = tmp_path / "runs"
    with make_executor(mode, max_workers=1, timeout=0.3, chunksize=10) as executor:
        keys = [(path, key, 3600.0 if key == 4 else 0.0) for key in range(10)]
        results = list(executor.imap(count_and_sleep, *zip(*keys), on_error="return", buffersize=10))
        facts = executor.stats()
    error = results.pop(4)
    assert results == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert type(error) is CallTimeoutError
    assert isinstance(error, TimeoutError)
    assert isinstance(error, FuturesTimeoutError)
    assert error.seconds == 0.3
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert sorted(map(int, payloads.read_executions(path))) == list(range(10))
    assert facts["calls_timed_out"] == 1
    assert facts["workers_lost"] == 0


def count_and_sleep(path, key, seconds):
    """Note an execution, wait and return the key."""
    payloads.count_execution(path, str(key))
    return payloads.sleep_return(seconds, key)


@across
@pytest.mark.parametrize("on_worker_death", ["fail", "break"])
def test_a_timeout_is_no_death_of_a_worker(mode, on_worker_death, caplog):
    """What is done about workers that die does not concern those that were stopped; the log tells of it in words."""
    with make_executor(mode, max_workers=1, timeout=0.1, on_worker_death=on_worker_death) as executor:
        assert isinstance(executor.submit(payloads.sleep_return, 3600.0).exception(), CallTimeoutError)
        assert executor.submit(abs, -1).result() == 1
    assert "is stopped: its call ran longer than 0.1 s" in caplog.text


@across
def test_a_call_that_overran_may_be_tried_again(mode, tmp_path):
    """Each attempt has its own time."""
    with make_executor(mode, max_workers=1, timeout=0.1, retry=QUICK) as executor:
        error = executor.submit(count_and_sleep, tmp_path / "runs", "x", 3600.0).exception()
    assert error.__notes__ == ["after 3 attempts"]
    assert len(payloads.read_executions(tmp_path / "runs")) == 3


@across
def test_many_calls_that_overrun(mode):
    """Every third of thirty; the others all arrive."""
    with make_executor(mode, timeout=0.05) as executor:
        items = [3600.0 if number % 3 == 0 else 0.0 for number in range(30)]
        results = list(executor.imap(payloads.sleep_return, items, range(30), on_error="return"))
    assert [type(result) for result in results[::3]] == [CallTimeoutError] * 10
    assert [result for number, result in enumerate(results) if number % 3] == [n for n in range(30) if n % 3]


@pytest.mark.parametrize("mode", ["thread", "caller"])
def test_where_calls_cannot_be_stopped_a_timeout_is_refused(mode):
    """At construction, in a list of middleware, and for a view; both are named."""
    for options in ({"timeout": 1.0}, {"middleware": [TimeoutPolicy(1.0)]}):
        with pytest.raises(UnsupportedOptionError, match=f"timeout needs a backend.*{mode} cannot"):
            make_executor(mode, **options)
    with make_executor(mode) as executor, pytest.raises(UnsupportedOptionError, match="timeout"):
        executor.options(timeout=1.0)


# --- which layers, in which order ---


def places(executor):
    """Return the kinds of an executor's layers."""
    return [kind or type(layer).__name__ for kind, layer in executor._options.layers]


def test_keywords_are_layers_in_the_canonical_order():
    """However they are given."""
    with AdaptiveExecutor(timeout=1, rate_limit=RateLimitPolicy(), circuit_breaker=CircuitBreaker(), retry=QUICK) as ex:
        assert places(ex) == ["retry", "circuit_breaker", "rate_limit", "timeout"]


def test_a_list_is_the_whole_order():
    """It holds policies, ready objects and layers of one's own; beside it no keyword may stand."""
    with AdaptiveExecutor(middleware=[TimeoutPolicy(1.0), Watch(), RetryPolicy(), CircuitBreaker()]) as executor:
        assert places(executor) == ["timeout", "Watch", "retry", "circuit_breaker"]
        view = executor.options(retry=None, rate_limit=RateLimitPolicy())
        assert places(view) == ["rate_limit", "timeout", "Watch", "circuit_breaker"]
    with pytest.raises(InvalidParameterError, match="put retry= into it"):
        AdaptiveExecutor(middleware=[Watch()], retry=QUICK)


@pytest.mark.parametrize("name", ["retry", "circuit_breaker", "rate_limit", "timeout"])
def test_wrong_policies_are_named(name):
    """In the constructor and in options."""
    with pytest.raises(TypeError, match=f"{name}='often'"):
        AdaptiveExecutor(**{name: "often"})
    with AdaptiveExecutor() as executor, pytest.raises(TypeError, match=f"{name}='often'"):
        executor.options(**{name: "often"})


def test_options_beat_the_function_which_beats_the_executor(tmp_path):
    """Three, two or one attempt, and never their product."""
    attempts = itertools.count()

    def run(executor, function):
        path = tmp_path / str(next(attempts))
        assert isinstance(executor.submit(function, path).exception(), ConnectionError)
        return len(payloads.read_executions(path))

    with AdaptiveExecutor(max_workers=1, retry=RetryPolicy(max_retries=4, initial_delay=0.001)) as executor:
        own = with_retry(max_retries=1, initial_delay=0.001)(fail_and_count)
        view = executor.options(retry=QUICK)
        assert run(executor, fail_and_count) == 5
        assert run(executor, own) == 2
        assert run(view, own) == 3
        assert run(view.options(priority=1), own) == 3
        assert run(executor.options(retry=None), own) == 1
        assert run(executor, decorated.guarded) == 3


def test_key_batch_and_position_name_a_call():
    """Maps are counted from 0, whichever view they come through; submitted calls belong to none."""
    watch = Watch()
    with AdaptiveExecutor(max_workers=1, middleware=[watch]) as executor:
        executor.submit(abs, 1).result()
        assert list(executor.map(abs, [1, 2])) == [1, 2]
        assert list(executor.options(key="named").imap(abs, [3])) == [3]
        executor.options(key=("a", 1)).submit(abs, 1).result()
    assert watch.calls == [
        (None, None, 0, 0),
        (None, 0, 0, 0),
        (None, 0, 1, 0),
        ("named", 1, 0, 0),
        (("a", 1), None, 0, 0),
    ]


def test_layers_of_a_view_are_opened_once_and_closed_at_the_end():
    """At the first call that passes them."""
    heard = []

    class Opening(Watch):
        def open(self):
            heard.append("open")

        def close(self):
            heard.append("close")

    executor = AdaptiveExecutor(max_workers=1, middleware=[Opening()])
    assert heard == []
    for view in (executor, executor.options(retry=QUICK), executor.options(priority=3)):
        assert view.submit(abs, -1).result() == 1
    assert heard == ["open"]
    executor.shutdown()
    assert heard == ["open", "close"]


def test_what_a_layer_cannot_open_is_the_submitter_s_error():
    """Nothing has begun, and the executor ends as always."""

    class Broken(Watch):
        def open(self):
            raise OSError(28, "no disk")

    with AdaptiveExecutor(max_workers=1, middleware=[Broken()]) as executor:
        for _ in range(2):
            with pytest.raises(OSError, match="no disk"):
                executor.submit(abs, -1)
        assert executor.options(retry=None).submit is not None


# --- decorated functions ---


@every_mode
def test_a_decorated_function_s_guards_are_lifted(mode, tmp_path):
    """Its back-offs are the parent's, its worker runs it bare: three runs, not nine, and stats know of them."""
    with make_executor(mode) as executor:
        assert executor.submit(decorated.flaky, tmp_path / "a").result() == "x"
        assert list(executor.map(decorated.flaky, [tmp_path / "b"] * 3, "xyz")) == list("xyz")
        assert executor.stats()["calls_retried"] == 8


@every_mode
@pytest.mark.parametrize("shape", ["partial", "method", "partial of method", "closure", "by call"])
def test_guards_are_lifted_through_partials_and_methods(mode, shape, tmp_path):
    """Whatever is around the decorated function, the attempts are three."""
    path = tmp_path / "runs"

    def closure(key):
        return decorated.flaky.__wrapped__(path, key)

    calls = {
        "partial": functools.partial(decorated.flaky, path),
        "method": Service(path).fetch,
        "partial of method": functools.partial(Service(path).fetch, "x"),
        "closure": with_retry(QUICK)(closure),
        "by call": with_retry(QUICK)(functools.partial(decorated.flaky.__wrapped__, path)),
    }
    args = () if shape == "partial of method" else ("x",)
    with make_executor(mode) as executor:
        assert executor.submit(calls[shape], *args).result() == "x"
        assert executor.stats()["calls_retried"] == 2
    assert payloads.read_executions(path) == ["x"] * 3


@across
def test_one_breaker_for_all_workers(mode, tmp_path):
    """The decorated function's breaker is the parent's; eight workers do not trip it at forty failures."""
    decorated.breaker.reset()
    path = tmp_path / "runs"
    with make_executor(mode) as executor:
        errors = list(executor.imap(decorated.dead, [path] * 400, range(400), on_error="return", buffersize=400))
    assert len(payloads.read_executions(path)) <= 5 + 1
    assert decorated.breaker.state is CircuitState.OPEN
    assert sum(isinstance(error, CircuitBreakerError) for error in errors) >= 394
    decorated.breaker.reset()


@across
def test_inner_guards_work_in_the_worker_with_a_warning(mode, tmp_path):
    """Below another decorator they stay where they are, and the user is told, once."""
    with make_executor(mode) as executor:
        with pytest.warns(UserWarning, match="below another decorator") as told:
            assert executor.submit(decorated.flaky_inside, tmp_path / "a").result() == "done"
        assert told[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert executor.submit(decorated.flaky_inside, tmp_path / "b").result() == "done"
        assert executor.stats()["calls_retried"] == 0
    with make_executor(mode) as executor, pytest.warns(UserWarning, match="below another decorator") as told:
        assert list(executor.map(decorated.flaky_inside, [tmp_path / "c"])) == ["done"]
    assert [warning.filename for warning in told] == [__file__]


@across
def test_guards_below_one_that_is_lifted_are_warned_of_too(mode, tmp_path):
    """The outer breaker moves to the parent, the retry below another decorator does not."""
    with make_executor(mode) as executor, pytest.warns(UserWarning, match="below another decorator") as told:
        assert list(executor.map(decorated.flaky_inside_guarded, [tmp_path / "a"])) == ["done"]
    assert [warning.filename for warning in told] == [__file__]


def test_decorated_functions_pickle(tmp_path):
    """By their own name where that leads to them, by value otherwise; methods with their object."""
    assert pickle.loads(pickle.dumps(decorated.flaky)) is decorated.flaky
    assert b"flaky" in pickle.dumps(decorated.flaky)
    copy = pickle.loads(pickle.dumps(decorated.called))
    assert copy is decorated.called or copy.guard is decorated.called.guard
    method = pickle.loads(pickle.dumps(Service(tmp_path / "runs").fetch))
    assert method("x") == "x"
    assert pickle.loads(pickle.dumps(decorated.dead)).guard is decorated.breaker


@across
def test_a_decorated_function_works_inside_a_worker_too(mode, tmp_path):
    """As an argument it keeps its guards."""
    with make_executor(mode) as executor:
        assert executor.submit(call_it, decorated.flaky, tmp_path / "runs").result() == ("x", True)
        assert executor.stats()["calls_retried"] == 0


def call_it(function, path):
    """Call a function here."""
    return function(path), os.getpid() > 0


def test_views_show_their_options():
    """Repr names what a view was given."""
    with AdaptiveExecutor() as executor:
        shown = repr(executor.options(priority=2, key="k", retry=Retry(RetryPolicy(max_retries=7))))
    assert shown.startswith("<view with priority=2, key='k', retry=Retry(max_retries=7) of <AdaptiveExecutor")


class BusyError(Exception):
    """Asks to be left alone for a while."""

    def __init__(self, retry_after) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


def be_busy(retry_after):
    """Ask to be left alone."""
    raise BusyError(retry_after)


@every_mode
def test_a_service_that_asks_for_ages_breaks_nothing(mode):
    """A call backs off for longer than any timer of the system can wait; others run, and it can be cancelled."""
    asked = threading.Event()
    policy = RetryPolicy(max_retries=1, initial_delay=0.001, on_retry=lambda *_: asked.set())
    with make_executor(mode, retry=policy) as executor:
        futures = [executor.submit(be_busy, seconds) for seconds in (1e7, 1e300)]
        assert asked.wait(LIMIT_S)
        assert poll_until(lambda: executor.stats()["calls_retried"] == 2, LIMIT_S)
        assert executor.submit(abs, -1).result() == 1
        assert all(future.cancel() for future in futures)


def test_a_number_of_seconds_that_no_float_holds_asks_for_nothing():
    """The call's own error comes back."""
    with AdaptiveExecutor(max_workers=1, retry=QUICK) as executor:
        assert isinstance(executor.submit(be_busy, 10**400).exception(), BusyError)
