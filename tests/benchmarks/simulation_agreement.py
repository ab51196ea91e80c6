"""Does the simulator tell the truth? Real pools of 2, 4 and 8 workers on sleeping calls, against simulated ones.

    python -m tests.benchmarks.simulation_agreement

The prices that the simulator charges are measured by the real run just before it. Prints the ratio of makespans.
"""

from __future__ import annotations

import time

from amorsize_executor import AdaptiveExecutor
from amorsize_executor.tuning.planner import Limits
from tests.simulation.pool import Prices, Workload, simulate

CALL_S = 0.01
CALLS_A_WORKER = 200


def run_real(workers: int) -> tuple[float, float, Prices]:
    """Return the seconds of a real run, those that one sleep really took, and the prices that it measured."""
    with AdaptiveExecutor(max_workers=workers, min_workers=workers, isolate=True) as executor:
        began = time.perf_counter()
        results = list(executor.map(time.sleep, [CALL_S] * (CALLS_A_WORKER * workers)))
        took_s = time.perf_counter() - began
        costs = executor._engine.tuner.costs
        call_s = next(iter(executor._engine.tuner.profiles.values())).call_s
    assert results == [None] * (CALLS_A_WORKER * workers)
    return (
        took_s,
        call_s,
        Prices(costs.ship_chunk_s, costs.ship_call_s, costs.dispatch_s, costs.start_up_s, costs.fork_s),
    )


def main() -> None:
    """Print a line for each number of workers."""
    for workers in (2, 4, 8):
        real_s, call_s, prices = run_real(workers)
        workload = Workload([call_s] * (CALLS_A_WORKER * workers), waiting_share=1.0)
        limits = Limits(min_workers=workers, max_workers=workers)
        simulated = simulate(workload, cores=workers, limits=limits, prices=prices)
        print(
            f"{workers} workers: real {real_s:.3f} s, simulated {simulated.makespan_s:.3f} s, "
            f"ratio {real_s / simulated.makespan_s:.3f}; a chunk costs the dispatcher {prices.chunk_s * 1e6:.0f} us, "
            f"a call {prices.call_s * 1e6:.1f} us"
        )


if __name__ == "__main__":
    main()
