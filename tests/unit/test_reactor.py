"""The dispatcher's event loop."""

from __future__ import annotations

import os
import threading

import pytest

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.backends.thread import ThreadBackend
from amorsize_executor.engine.reactor import EventLoop
from tests.interrupts import interrupt, points_of


def test_no_wake_is_lost(loop):
    """Whatever threads post while the loop runs is done; were one wake lost, the loop would sleep for ever."""
    threads, posts = 8, 2_000
    done = []
    gates = [threading.Event() for _ in range(threads)]

    def hammer(number):
        for index in range(posts):
            loop.call_soon(lambda: done.append(number))
            if index % 50 == 49:  # wait until the loop has nothing left, so that it really sleeps in between
                gates[number].clear()
                loop.call_soon(gates[number].set)
                assert gates[number].wait(20)

    workers = [threading.Thread(target=hammer, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    while len(done) < threads * posts:
        loop.run(loop.wait())
    while any(worker.is_alive() for worker in workers):
        loop.run([])
    for worker in workers:
        worker.join()
    assert sorted(done) == sorted(number for number in range(threads) for _ in range(posts))


def test_a_wake_whose_write_comes_late_is_heard_once(loop, monkeypatch):
    """The loop may turn between a waker's flag and its write; it does not turn for ever then."""
    write = loop._waker.wake
    monkeypatch.setattr(loop._waker, "wake", lambda: (loop.run([]), write()))
    for _ in range(2):
        loop.wake()
        loop.run(loop.wait())
        assert loop._selector.select(0) == []


def test_order_of_posts(loop):
    """What one thread posts is done in its order."""
    done = []
    for number in range(10):
        loop.call_soon(lambda number=number: done.append(number))
    loop.run(loop.wait())
    assert done == list(range(10))


def test_timers_in_order_of_their_time(loop):
    """Due timers run by time, and among equals in the order of asking."""
    done = []
    loop.call_later(-1, lambda: done.append("second"))
    loop.call_later(-2, lambda: done.append("first"))
    loop.call_later(1_000, lambda: done.append("never"))
    loop.run(loop.wait())
    assert done == ["first", "second"]


@pytest.mark.parametrize("seconds", [1e7, 1e300, float("inf")])
def test_a_timer_may_be_further_away_than_the_selector_can_wait(loop, seconds):
    """The loop waits in parts, and is woken as ever."""
    loop.call_later(seconds, lambda: None)
    waker = threading.Timer(0.01, loop.call_soon, [lambda: None])
    waker.start()
    loop.wait()
    waker.join()


def test_a_descriptor_let_go_in_the_same_turn_is_not_called(loop):
    """A callback that lets another descriptor go keeps that one's callback from running."""
    called = []
    pipes = [os.pipe() for _ in range(2)]
    for reader, writer in pipes:
        os.write(writer, b"x")

        def callback(_events, reader=reader):
            called.append(reader)
            for other, _ in pipes:
                loop.unwatch(other)

        loop.watch(reader, callback)
    loop.run(loop.wait())
    assert len(called) == 1
    for pipe in pipes:
        for end in pipe:
            os.close(end)


def test_waking_after_the_end():
    """``wake`` after ``close`` does nothing, and never touches a descriptor that is somebody else's by now."""
    loop = EventLoop()
    loop.open()
    descriptor = loop._waker.descriptor
    loop.close()
    reader, writer = os.pipe()
    assert descriptor is not None
    loop.wake()
    loop.call_soon(lambda: None)
    os.close(reader)
    os.close(writer)


def test_waking_often_costs_one_turn(loop):
    """Many wakes before the loop looks are one."""
    for _ in range(1_000):
        loop.wake()
    loop.run(loop.wait())
    loop.call_later(0, lambda: None)
    assert loop.wait() == []


def test_a_failed_start_lets_go_of_the_loop(monkeypatch):
    """A backend that does not open costs no descriptor, and the next call tries anew."""
    opened = ThreadBackend.open
    with AdaptiveExecutor(backend="thread") as executor:
        with monkeypatch.context() as patch:
            patch.setattr(ThreadBackend, "open", lambda *_arguments: os.open("/nonexistent/file", os.O_RDONLY))
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                with pytest.raises(FileNotFoundError):
                    executor.submit(abs, -1)
            assert len(os.listdir("/proc/self/fd")) == before
        assert ThreadBackend.open is opened
        assert executor.submit(abs, -1).result() == 1


def test_an_interrupt_while_it_is_woken(loop):
    """Ctrl-C, wherever it comes in ``wake``, leaves no flag that keeps all others from waking it."""
    points = points_of(loop.wake)
    assert len(points) >= 3
    for point in points:
        loop.run(loop.wait())
        assert interrupt(loop.wake, point)
        loop.wake()
        assert loop._selector.select(0), point
