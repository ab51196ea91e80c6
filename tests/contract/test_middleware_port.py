"""The middleware port, proven with small layers: order, answers, holds, back-offs, retractions."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.middleware.base import RUN, Again, Answered, Deliver, Hold, Middleware, Outcome, Run
from tests import payloads


class Diary(Middleware):
    """Writes down what it is asked."""

    def __init__(self, name: str, entries: list) -> None:
        self.name, self.entries = name, entries

    def open(self):
        self.entries.append((self.name, "open"))

    def close(self):
        self.entries.append((self.name, "close"))

    def admit(self, call):
        self.entries.append((self.name, "admit", call.position, call.attempt))
        return RUN

    def settle(self, call, outcome):
        self.entries.append((self.name, "settle", call.position, call.attempt))
        return Deliver(outcome)

    def retract(self, call, reason):
        self.entries.append((self.name, "retract", call.position, reason))


class Retry(Middleware):
    """Runs failed calls again, up to so many attempts."""

    def __init__(self, attempts: int, delay_s: float = 0.0) -> None:
        self.attempts, self.delay_s = attempts, delay_s
        self.backs_off = threading.Event()

    def settle(self, call, outcome):
        if outcome.error is not None and call.attempt < self.attempts:
            self.backs_off.set()
            return Again(self.delay_s)
        return Deliver(outcome)


class HoldOnce(Middleware):
    """Holds every call once."""

    def admit(self, call):
        if call.state.setdefault(self, False):
            return RUN
        call.state[self] = True
        return Hold(0.0)


def test_layers_are_asked_from_the_outside_in_and_told_from_the_inside_out():
    """Admission goes inward, settlement outward, and each layer is opened and closed once."""
    entries: list = []
    with AdaptiveExecutor(middleware=[Diary("outer", entries), Diary("inner", entries)]) as executor:
        assert executor.submit(payloads.square, 3).result() == 9
    assert entries == [
        ("inner", "open"),
        ("outer", "open"),
        ("outer", "admit", 0, 0),
        ("inner", "admit", 0, 0),
        ("inner", "settle", 0, 1),
        ("outer", "settle", 0, 1),
        ("outer", "close"),
        ("inner", "close"),
    ]


def test_an_answer_runs_nothing_and_is_settled_by_outer_layers_only():
    """A layer that knows the outcome ends the call; those inside it are not asked."""

    class Cache(Middleware):
        def admit(self, call):
            return Answered(Outcome("known")) if call.args == (1,) else RUN

    entries: list = []
    layers = [Diary("outer", entries), Cache(), Diary("inner", entries)]
    with AdaptiveExecutor(middleware=layers) as executor:
        assert list(executor.map(payloads.identity, [0, 1, 2])) == [0, "known", 2]
    about_one = [entry[:2] for entry in entries if entry[2:3] == (1,)]
    assert about_one == [("outer", "admit"), ("outer", "settle")]


def test_a_retry_asks_only_its_own_layer_and_those_inside_it_again():
    """Attempts are counted, outer layers see one admission and the final outcome."""
    entries: list = []
    with AdaptiveExecutor(middleware=[Diary("outer", entries), Retry(3), Diary("inner", entries)]) as executor:
        error = executor.submit(payloads.raise_value_error, "no").exception()
    assert isinstance(error, ValueError)
    asked = [entry for entry in entries if len(entry) == 4]
    assert asked == [
        ("outer", "admit", 0, 0),
        ("inner", "admit", 0, 0),
        ("inner", "settle", 0, 1),
        ("inner", "admit", 0, 1),
        ("inner", "settle", 0, 2),
        ("inner", "admit", 0, 2),
        ("inner", "settle", 0, 3),
        ("outer", "settle", 0, 3),
    ]


def test_a_hold_gives_outer_admissions_back_and_asks_again():
    """A call that is held further in counts nowhere meanwhile, and is admitted anew by all."""
    entries: list = []
    with AdaptiveExecutor(middleware=[Diary("outer", entries), HoldOnce()]) as executor:
        assert executor.submit(payloads.square, 4).result() == 16
    assert [entry[1:2] + entry[3:] for entry in entries if len(entry) == 4] == [
        ("admit", 0),
        ("retract", "held"),
        ("admit", 0),
        ("settle", 1),
    ]


def test_a_back_off_occupies_no_worker():
    """While one call backs off for an hour, the only worker runs the others; then it can be cancelled."""
    retry = Retry(2, delay_s=3600.0)
    with AdaptiveExecutor(max_workers=1, middleware=[retry]) as executor:
        held = executor.submit(payloads.raise_value_error, "later")
        assert retry.backs_off.wait(30)
        assert list(executor.map(payloads.square, range(20))) == [n * n for n in range(20)]
        assert not held.done()
        assert held.cancel()
        assert held.cancelled()


def test_cancelling_at_shutdown_ends_back_offs():
    """shutdown(cancel_futures=True) does not wait for a back-off of an hour."""
    retry, entries = Retry(2, delay_s=3600.0), []
    executor = AdaptiveExecutor(max_workers=1, middleware=[Diary("outer", entries), retry])
    held = executor.submit(payloads.raise_value_error, "later")
    assert retry.backs_off.wait(30)
    executor.shutdown(cancel_futures=True)
    assert held.cancelled()
    assert ("outer", "retract", 0, "shutdown") in entries


def test_shutdown_waits_for_back_offs():
    """A call that backs off when the with block ends is run to its end."""
    with AdaptiveExecutor(max_workers=1, middleware=[Retry(3, delay_s=0.01)]) as executor:
        future = executor.submit(payloads.raise_value_error, "again")
    assert isinstance(future.exception(timeout=0), ValueError)


def test_a_dead_worker_retracts_the_attempt_and_admits_it_again():
    """An attempt that ends without an outcome is taken back before the call is admitted once more."""
    entries: list = []
    with AdaptiveExecutor(middleware=[Diary("only", entries)], worker_death_retries=0) as executor:
        future = executor.submit(payloads.exit_now, 3)
        assert type(future.exception()).__name__ == "WorkerDiedError"
    with AdaptiveExecutor(middleware=[Diary("only", entries)], worker_death_retries=1) as executor:
        assert executor.submit(payloads.exit_now, 3).exception() is not None
    assert [entry[1] for entry in entries if len(entry) == 4] == [
        "admit",
        "settle",
        "admit",
        "retract",
        "admit",
        "settle",
    ]


@pytest.mark.parametrize("hook", ["admit", "settle"])
def test_what_a_hook_raises_is_its_calls_error(hook):
    """A failing hook fails the call that it was asked about, and no other."""

    class Broken(Middleware):
        def admit(self, call):
            if hook == "admit" and call.position == 1:
                raise LookupError(hook)
            return RUN

        def settle(self, call, outcome):
            if hook == "settle" and call.position == 1:
                raise LookupError(hook)
            return Deliver(outcome)

    with AdaptiveExecutor(middleware=[Broken()]) as executor:
        results = list(executor.imap(payloads.identity, range(3), on_error="return"))
    assert results[::2] == [0, 2]
    assert isinstance(results[1], LookupError)


@pytest.mark.parametrize(
    ("hook", "answer"),
    [
        ("admit", lambda: None),
        ("admit", lambda: Deliver(Outcome(1))),
        ("admit", lambda: Answered(1)),
        ("admit", lambda: Run(timeout_s="soon")),
        ("admit", lambda: Run(stop_after_errors="few")),
        ("admit", lambda: Hold("5")),
        ("admit", lambda: Hold(10**400)),
        ("settle", lambda: Again(float("nan"))),
        ("settle", lambda: 5),
        ("settle", lambda: Deliver(None)),
    ],
)
def test_an_answer_that_is_none_is_its_calls_error(hook, answer):
    """The error says which layer; the other calls and the executor go on."""

    class Forgetful(Middleware):
        def __repr__(self):
            return "Forgetful"

    def hook_of(_self, call, *_outcome):
        return answer() if call.args == (-1,) else (Run() if hook == "admit" else None)

    setattr(Forgetful, hook, hook_of)
    with AdaptiveExecutor(max_workers=1, middleware=[Forgetful()]) as executor:
        error = executor.submit(abs, -1).exception(timeout=30)
        assert isinstance(error, (TypeError, ValueError))
        assert any(
            word in str(error) for word in ("Forgetful answered", "outcome=", "timeout_s=", "errors=", "seconds=")
        )
        assert executor.submit(abs, -2).result(timeout=30) == 2


@pytest.mark.parametrize("hook", ["errors_left", "retract", "close"])
def test_what_other_hooks_raise_is_told_and_ends_nothing(hook, caplog):
    """No call is at fault, whatever it is that they raise."""

    def fail(_self, *_arguments):
        raise SystemExit

    broken = type("Broken", (Middleware,), {hook: fail})()
    with AdaptiveExecutor(max_workers=1, middleware=[broken, HoldOnce()]) as executor:
        assert isinstance(executor.submit(payloads.raise_value_error, "no").exception(timeout=30), ValueError)
        assert executor.submit(abs, -2).result(timeout=30) == 2
    assert "failed to" in caplog.text


@pytest.mark.parametrize("answer", ["five", float("nan"), -1])
def test_errors_left_that_is_no_count_is_told_and_bounds_nothing(answer, caplog):
    """The executor neither breaks nor waits for ever."""
    layer = type("Confused", (Middleware,), {"errors_left": lambda _self: answer})()
    with AdaptiveExecutor(max_workers=2, middleware=[layer]) as executor:
        assert isinstance(executor.submit(payloads.raise_value_error, "no").exception(timeout=30), ValueError)
        assert executor.submit(abs, -2).result(timeout=30) == 2
    assert "errors_left" in caplog.text


def test_layers_that_compare_equal_are_each_opened_and_closed():
    """A layer may be a dataclass."""

    @dataclass
    class Equal(Middleware):
        log: list

        def open(self):
            self.log.append("open")

        def close(self):
            self.log.append("close")

    log: list = []
    with AdaptiveExecutor(max_workers=1, middleware=[Equal(log), Equal(log)]) as executor:
        assert executor.submit(abs, -2).result(timeout=30) == 2
    assert log == ["open", "open", "close", "close"]


def test_a_chunk_stops_after_so_many_errors(tmp_path):
    """stop_after_errors bounds what fails in a row in a chunk; the rest is given back and admitted again."""

    class StopAfterTwo(Middleware):
        def __init__(self):
            self.retracted = 0

        def admit(self, call):
            return Run(stop_after_errors=2)

        def retract(self, call, reason):
            assert reason == "taken back"
            self.retracted += 1

    layer = StopAfterTwo()
    with AdaptiveExecutor(max_workers=1, chunksize=10, middleware=[layer]) as executor:
        results = list(executor.imap(payloads.raise_value_error, ["no"] * 10, buffersize=10, on_error="return"))
    assert [type(result) for result in results] == [ValueError] * 10
    assert layer.retracted == 8 + 6 + 4 + 2


def test_what_is_no_middleware_is_refused():
    """A layer has to derive from Middleware; the error names what was given."""
    with pytest.raises(TypeError, match="middleware=<object"):
        AdaptiveExecutor(middleware=[object()])
