"""The one arithmetic of costs."""

import random

import pytest

from amorsize_executor.tuning.cost_model import (
    Costs,
    after_gap,
    after_shipping,
    after_start_up,
    byte_cost,
    predict_parallel_s,
    predict_serial_s,
)


def test_serial_time_is_calls_times_seconds():
    """Serial code has no costs."""
    assert predict_serial_s(300, 0.02) == pytest.approx(6.0)


def test_long_calls_are_shared():
    """Where calls are long, only the workers' time counts."""
    parallel_s = predict_parallel_s(100, 0.1, Costs(), workers=2, cores=2)
    assert parallel_s == pytest.approx(5.0, rel=0.01)


def test_cheap_calls_are_bound_by_shipping():
    """Where a call takes less than shipping it, more workers bring nothing."""
    few_s = predict_parallel_s(10**6, 1e-6, Costs(), workers=2, cores=64, chunksize=1000)
    many_s = predict_parallel_s(10**6, 1e-6, Costs(), workers=64, cores=64, chunksize=1000)
    assert many_s >= 3.0 > predict_serial_s(10**6, 1e-6)
    assert few_s >= many_s


def test_shipping_takes_a_processor():
    """On one core workers and dispatcher take turns."""
    costs = Costs(ship_call_s=1e-3)
    assert predict_parallel_s(100, 1e-3, costs, workers=1, cores=1, chunksize=100) >= 0.2


def test_waiting_needs_no_processor():
    """Workers that wait are not held up by the number of cores."""
    parallel_s = predict_parallel_s(320, 0.1, Costs(), workers=32, cores=2, waiting_share=0.99)
    assert parallel_s == pytest.approx(1.0, rel=0.05)


def test_start_up_is_added_once():
    """Workers that have to be started cost the first one's start-up, and a fork for each further one."""
    warm_s = predict_parallel_s(10, 0.1, Costs(), workers=2, cores=2)
    cold_s = predict_parallel_s(10, 0.1, Costs(), workers=2, cores=2, start_up=True)
    assert cold_s - warm_s == pytest.approx(Costs().start_up_s + Costs().fork_s)


def test_whole_calls_are_shared():
    """Three calls on two workers take as long as two, one after the other; many workers take long to fork."""
    costs = Costs(dispatch_s=0.0)
    assert predict_parallel_s(3, 1.0, costs, workers=2, cores=2) == pytest.approx(2.0)
    few, many = (
        predict_parallel_s(300, 0.02, costs, workers=w, cores=2, waiting_share=1.0, start_up=True) for w in (32, 300)
    )
    assert few < many


def test_no_calls_take_no_time():
    """Nothing left is predicted to take nothing, with no start-up either."""
    assert predict_parallel_s(0, 1.0, Costs(), workers=2, cores=2, start_up=True) == 0.0


def test_gaps_are_followed_and_outliers_are_not():
    """A lasting change of the gap is learnt within tens of chunks, one stopped second hardly moves it."""
    once = after_gap(Costs(), 1.0)
    assert once.dispatch_s < 2 * Costs().dispatch_s
    costs = Costs()
    for _ in range(40):
        costs = after_gap(costs, 5e-3)
    assert costs.dispatch_s == pytest.approx(5e-3, rel=0.2)
    assert after_gap(costs, -1.0).dispatch_s > 0


def test_shipping_costs_are_told_apart():
    """Chunks of different shapes teach the cost of a chunk, of a call and of a byte."""
    true = Costs(ship_call_s=2e-5, ship_byte_s=4e-9, ship_chunk_s=2e-4)
    costs, draw = Costs(), random.Random(3)
    for _ in range(3000):
        calls, size = draw.choice([1, 10, 100, 1000]), draw.choice([0, 10**4, 10**6])
        seconds = true.ship_chunk_s + calls * true.ship_call_s + size * true.ship_byte_s
        costs = after_shipping(costs, seconds, calls, size)
    assert costs.ship_call_s == pytest.approx(true.ship_call_s, rel=0.1)
    assert costs.ship_byte_s == pytest.approx(true.ship_byte_s, rel=0.1)
    assert costs.ship_chunk_s == pytest.approx(true.ship_chunk_s, rel=0.3)


def test_a_byte_costs_what_is_left():
    """Of a chunk's time, less what chunks and calls cost; more than nothing in any case."""
    costs = Costs(ship_call_s=1e-5, ship_chunk_s=1e-3)
    assert byte_cost(costs, 1e-3 + 2e-5 + 0.1, 2, 10**6) == pytest.approx(1e-7)
    assert byte_cost(costs, 0.0, 2, 10**6) > 0


def test_shipping_costs_stay_above_zero():
    """Chunks that seem to cost nothing never make a cost zero or negative."""
    costs = Costs()
    for _ in range(10_000):
        costs = after_shipping(costs, 0.0, 10, 100)
    assert min(costs.ship_call_s, costs.ship_byte_s, costs.ship_chunk_s) > 0


def test_slow_starts_are_known_at_once():
    """After two starts of 0.3 s, as of a clean interpreter, start-up and each worker are known to be dear."""
    costs = after_start_up(Costs(), 0.3, starts=0)
    costs = after_start_up(costs, 0.3, starts=1, together=2)
    assert costs.start_up_s > 0.2
    assert costs.fork_s > 0.02


def test_workers_asked_for_together_wait_for_each_other():
    """Hundred workers of 1.5 ms each, the last ready after 150 ms, teach 1.5 ms and not 150."""
    costs = Costs()
    for place in range(1, 101):
        costs = after_start_up(costs, 1.5e-3 * place, starts=10, together=place)
    assert costs.fork_s == pytest.approx(1.5e-3, rel=0.2)


def test_loading_takes_turns_on_the_cores():
    """What each worker loads once costs as many times as there are workers a core; fewer may be faster."""
    few_s, many_s = (
        predict_parallel_s(300, 0.02, Costs(), workers=workers, cores=2, waiting_share=1.0, load_s=0.1)
        for workers in (8, 64)
    )
    assert few_s == pytest.approx(300 * 0.02 / 8 + 0.1 * 8 / 2, rel=0.05)
    assert many_s > few_s
