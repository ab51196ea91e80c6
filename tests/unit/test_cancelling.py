"""What a shutdown with ``cancel_futures`` makes of calls that no worker has."""

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.engine.future import CallFuture
from amorsize_executor.engine.span import Span
from tests import payloads


def test_calls_that_came_back_from_a_dead_worker_are_not_cancelled(monkeypatch):
    """They are running to the world, so they run again; those that have never travelled are cancelled."""
    engine = AdaptiveExecutor()._engine
    monkeypatch.setattr(engine, "_assign", lambda: None)
    function = engine.functions.register(payloads.square, snapshot=True)
    futures = [CallFuture(engine, function, 0) for _ in range(3)]
    spans = [Span(future, 0, [((2,), {})]) for future in futures]
    back, waiting, late = spans
    engine.begins(back)
    engine.begins(late)
    engine.give_back(back)
    engine.queue.push(waiting)
    engine._cancel_waiting()
    engine.give_back(late)
    engine._deliver(engine._deliveries)
    assert [future.running() for future in futures] == [True, False, True]
    assert futures[1].cancelled()
    assert engine.queue.count == 2
