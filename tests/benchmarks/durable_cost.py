"""What does it cost to keep a result? Per result at 1,000 and at 100,000 of them, which should be the same.

    python -m tests.benchmarks.durable_cost

"dispatcher" is what the layer takes of the dispatcher's thread, "in all" includes the writer thread's commits,
"resumed" is what a finished result costs in the next run. Dead letters are written with their tracebacks.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures.process import _RemoteTraceback
from pathlib import Path

from amorsize_executor.middleware import checkpoint, dead_letters
from amorsize_executor.middleware.base import Call, Middleware, Outcome
from tests import payloads

COUNTS = 1_000, 100_000


def drive(layer: Middleware, count: int, outcome: Outcome | None) -> tuple[float, float]:
    """Take calls through a layer; return seconds until the last one, and until all is on the disk."""
    layer.open()
    began = time.perf_counter()
    for position in range(count):
        call = Call(payloads.square, (position,), {}, position, batch=0)
        layer.admit(call)
        if outcome is not None:
            layer.settle(call, outcome)
    passed = time.perf_counter() - began
    layer.close()
    return passed, time.perf_counter() - began


def failed() -> Outcome:
    """Return the outcome of a call that failed in a worker."""
    try:
        payloads.raise_value_error("no")
    except ValueError as error:
        error.__cause__ = _RemoteTraceback("the worker's traceback, of some lines" * 20)
        return Outcome(error=error)


def show(what: str, count: int, seconds: tuple[float, float]) -> None:
    """Print a line."""
    passed_us, all_us = (part / count * 1e6 for part in seconds)
    print(f"{what:<24} {count:>8,}: {passed_us:6.1f} us in the dispatcher, {all_us:6.1f} us in all")


def main() -> None:
    """Print a line for each store and number of results."""
    with tempfile.TemporaryDirectory() as folder:
        warm_up = checkpoint.CheckpointPolicy(folder, checkpoint_name="warm-up")
        drive(checkpoint.layer_of(warm_up), 10, Outcome(1.5))
        for count in COUNTS:
            policy = checkpoint.CheckpointPolicy(folder, checkpoint_name=f"run {count}")
            make: Callable[[], Middleware] = lambda policy=policy: checkpoint.layer_of(policy)  # noqa: E731
            show("checkpoint, new", count, drive(make(), count, Outcome(1.5)))
            show("checkpoint, resumed", count, drive(make(), count, None))
        for count in COUNTS:
            layer = dead_letters.layer_of(str(Path(folder, f"dlq {count}")))
            show("dead letters", count, drive(layer, count, failed()))
            layer = dead_letters.layer_of(str(Path(folder, f"dlq {count}")))
            show("dead letters, no failure", count, drive(layer, count, Outcome(1.5)))


if __name__ == "__main__":
    main()
