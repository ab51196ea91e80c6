"""An interrupt at any line of what runs in the caller's thread: nothing hangs, nothing is missing without a word."""

from __future__ import annotations

import concurrent.futures
import contextlib
import linecache
import signal
import sys
import threading
from collections import Counter

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.backends import zygote
from amorsize_executor.engine import dispatcher, helper, reactor, span, stream
from tests import payloads
from tests.interrupts import interrupt as interrupt_at
from tests.interrupts import points_of

CALLS = 40
LIMIT_S = 10
PER_LINE = 2
"""How often a line is interrupted, at its first passages."""

pytestmark = pytest.mark.timeout(120, method="signal")


class Tracer:
    """Calls ``strike`` at one passage of one line of some files, in this thread; or counts all passages."""

    def __init__(self, files, strike=None, where=None, passage=1):
        self._files = frozenset(files)
        self._strike = strike
        self._target = where, passage
        self.passages = Counter()
        self._lines = []  # held: Python 3.11 may call one that tracing's end has let go

    def __enter__(self):
        sys.settrace(self._enter)

    def __exit__(self, *_details):
        sys.settrace(None)

    def _enter(self, frame, _event, _argument):
        if frame.f_code.co_filename not in self._files or is_finalizing(frame):
            return None
        before = 0

        def line(frame, event, _argument):
            nonlocal before
            if event == "line":
                where = frame.f_code.co_filename, frame.f_lineno
                text = linecache.getline(*where).strip()
                leaves = frame.f_lineno < before and text.startswith("with ")
                before = frame.f_lineno
                # No interpreter looks for signals between the body of a with block and its exit, nor at a try.
                if not leaves and text != "try:":
                    self._pass(where)
            return line

        self._lines.append(line)
        return line

    def _pass(self, where):
        self.passages[where] += 1
        if self._strike is not None and (where, self.passages[where]) == self._target:
            sys.settrace(None)
            self._strike()


def is_finalizing(frame):
    """Tell whether a frame is that of a ``__del__`` or below one: what is raised there, Python itself throws away."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def interrupt():
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def passages_of(files, act):
    """Return the lines that ``act`` passes, each once for each of its first passages."""
    tracer = Tracer(files)
    with tracer:
        act()
    return [
        (where, passage)
        for where, count in sorted(tracer.passages.items())
        for passage in range(1, min(count, PER_LINE) + 1)
    ]


def in_time(act):
    """Return what ``act`` returns, or fail if it hangs."""
    done = concurrent.futures.Future()
    threading.Thread(target=lambda: done.set_result(act()), daemon=True).start()
    return done.result(LIMIT_S)


def rest_of(iterator):
    """Return what an iterator still gives: values, and the errors that it goes on after."""
    rest = []
    for _ in range(2 * CALLS):
        try:
            rest.append(next(iterator))
        except StopIteration:
            return rest
        except Exception as error:  # noqa: BLE001 - the case judges it
            rest.append(error)
            if "interrupted" in str(error):
                return rest
    return rest


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["map", "imap"])
def test_interrupts_while_results_are_taken(kind):
    """After Ctrl-C an iterator gives the rest, or says that it was interrupted; the executor goes on."""
    files = [helper.__file__, stream.__file__]

    def take_all():
        with AdaptiveExecutor(max_workers=2) as executor:
            assert list(getattr(executor, kind)(payloads.square, range(CALLS))) == [n * n for n in range(CALLS)]

    struck = 0
    for where, passage in passages_of(files, take_all):
        got = []
        with AdaptiveExecutor(max_workers=2) as executor:
            results = None
            try:
                with Tracer(files, interrupt, where, passage):
                    results = getattr(executor, kind)(payloads.square, range(CALLS))
                    for value in results:
                        got.append(value)  # noqa: PERF402 - what came before the interrupt counts
            except KeyboardInterrupt:
                struck += 1
            place = f"{where}, passage {passage}"
            rest = in_time(lambda: [] if results is None else rest_of(results))  # noqa: B023
            values = got + [value for value in rest if isinstance(value, int)]
            errors = [error for error in rest if not isinstance(error, int)]
            expected = [n * n for n in range(CALLS)]
            if results is None or any("interrupted" in str(error) for error in errors):
                assert values == [value for value in expected if value in set(values)], place
            else:  # at most the value that was on its way to the consumer is gone
                missing = sorted(set(expected) - set(values))
                assert len(missing) + len(errors) <= 1, (place, missing, errors)
                assert values == [value for value in expected if value not in missing], place
            assert in_time(executor.submit(payloads.square, 3).result) == 9, place
            in_time(executor.shutdown)
    assert struck > 20


@pytest.mark.slow
def test_interrupts_while_futures_are_waited_for():
    """Whatever line Ctrl-C hits, every future resolves and the executor goes on."""
    files = [helper.__file__]

    def wait_all():
        with AdaptiveExecutor(max_workers=2) as executor:
            for future in [executor.submit(payloads.square, n) for n in range(5)]:
                future.result()

    for where, passage in passages_of(files, wait_all):
        with AdaptiveExecutor(max_workers=2) as executor:
            futures = [executor.submit(payloads.square, n) for n in range(5)]
            with Tracer(files, interrupt, where, passage):
                for future in futures:
                    try:
                        future.result()
                    except KeyboardInterrupt:
                        continue
            ends = in_time(lambda: [future.exception() or future.result() for future in futures])  # noqa: B023
            for n, end in enumerate(ends):
                assert end == n * n or isinstance(end, KeyboardInterrupt), (where, passage)
            assert in_time(executor.submit(payloads.square, 3).result) == 9, (where, passage)
            in_time(executor.shutdown)


def test_interrupts_while_a_call_is_taken_from_the_queue():
    """Wherever in the queue Ctrl-C comes, the caller's call and those after it resolve, and the executor ends."""

    def submit(executor):
        future = executor.submit(payloads.square, 2)
        while future._span.is_queued is future._span.has_begun:  # it is neither queued nor taken yet
            pass
        return future

    with AdaptiveExecutor(max_workers=2) as executor:
        points = [point for point in points_of(submit(executor).result, 9) if point[0][0] == span.__file__]
    assert points
    for point in points:
        with AdaptiveExecutor(max_workers=2) as executor:
            future = submit(executor)
            interrupt_at(future.result, point)
            assert in_time(future.result) == 4, point
            assert executor.submit(payloads.square, 3).result(LIMIT_S) == 9, point
            in_time(executor.shutdown)


def test_an_interrupt_in_a_callback(caplog):
    """Ctrl-C in a callback that runs in the caller's thread is the caller's; the future was resolved already."""

    def interrupted(_future):
        raise KeyboardInterrupt

    with AdaptiveExecutor(max_workers=1) as executor:
        future = executor.submit(payloads.square, 2)
        future.add_done_callback(interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            future.result()
        assert future.result(LIMIT_S) == 4
    assert "InvalidStateError" not in caplog.text


@pytest.mark.parametrize("is_forked", [True, False], ids=["forked", "clean"])
def test_interrupts_while_all_is_started(monkeypatch, is_forked):
    """Ctrl-C waits until processes and thread are there; so the executor knows of all, goes on and ends.

    The initializer makes it start a clean zygote in the caller's thread, too.
    """
    monkeypatch.setattr(zygote, "may_fork", lambda: is_forked)

    def submit_first():
        with AdaptiveExecutor(max_workers=1, initializer=int) as executor:
            executor.submit(payloads.square, 1)

    starting = (zygote.__file__, reactor.__file__)
    points = [point for point in points_of(submit_first) if point[0][0] in starting]
    assert len(points) > 20
    for point in points:
        with AdaptiveExecutor(max_workers=1, initializer=int) as executor:
            interrupt_at(lambda: executor.submit(payloads.square, 2), point)
            assert executor.submit(payloads.square, 3).result(LIMIT_S) == 9, point
            in_time(executor.shutdown)


@pytest.mark.parametrize("options", [{}, {"backend": "thread"}], ids=["default", "thread"])
def test_a_signal_handler_submits_during_the_very_first_submit(options):
    """Whatever line the signal hits, both calls give their values."""
    files = [dispatcher.__file__, reactor.__file__]

    def submit_one():
        with AdaptiveExecutor(max_workers=1, **options) as executor:
            executor.submit(payloads.square, 1).result()

    for where, passage in passages_of(files, submit_one):
        from_handler = []
        with AdaptiveExecutor(max_workers=1, **options) as executor:

            def handle():
                from_handler.append(executor.submit(payloads.square, 2))  # noqa: B023

            with Tracer(files, handle, where, passage):
                future = executor.submit(payloads.square, 1)
            assert in_time(future.result) == 1, (where, passage)
            for extra in from_handler:
                assert in_time(extra.result) == 4, (where, passage)


def test_an_interrupt_as_results_are_locked():
    """It leaves no lock behind that others wait for, who deliver."""

    def hear(frame, event, _builtin):
        code, caller = frame.f_code, frame.f_back
        is_inside = code.co_filename == threading.__file__ and code.co_name == "__enter__"
        if event == "c_return" and is_inside and caller is not None and caller.f_code.co_name == "take":
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    with AdaptiveExecutor(1) as executor:
        results = executor.map(payloads.square, range(3))
        sys.setprofile(hear)
        with contextlib.suppress(KeyboardInterrupt):
            assert list(results) == [0, 1, 4]
        sys.setprofile(None)
        deliverer = threading.Thread(target=results._stream.cancel_calls, args=(0, 0), daemon=True)
        deliverer.start()
        deliverer.join(5)
        assert not deliverer.is_alive()
