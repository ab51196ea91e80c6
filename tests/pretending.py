"""Samples whose calls take what the test says, on a machine and at costs that the test says."""

from __future__ import annotations

from typing import Any

from amorsize_executor.advice import judgement, optimize, outlook, sample
from amorsize_executor.records import Lane, Measurement
from amorsize_executor.tuning.cost_model import Costs
from amorsize_executor.tuning.machine import Machine

GIB = 1 << 30
MACHINE = Machine(cores=2, physical_cores=2, available_memory=10 * GIB, memory_limit=16 * GIB)


class Pretence:
    """Lets calls run as they are, and replaces what was measured."""

    def __init__(self, monkeypatch: Any) -> None:
        self._patch = monkeypatch
        self.call_s: Any = 1e-6
        self.waiting = 0.0
        self.cpu = 1.0
        self.growth = 0
        self.measured: list[str] = []
        self.machine(MACHINE)
        monkeypatch.setattr(outlook, "known_costs", lambda _kind: None)
        monkeypatch.setattr(outlook, "measure_costs", self._measure)
        monkeypatch.setattr(optimize, "take_sample", self._take)

    def machine(self, machine: Machine) -> None:
        """Pretend to be on this machine."""
        self._patch.setattr(judgement, "probe_machine", lambda: machine)

    def calls(self, call_s: Any, *, waiting: float = 0.0, cpu: float | None = None, growth: int = 0) -> Pretence:
        """Pretend that each call takes so many seconds, or the first so many and the second so many, ...

        Args:
            call_s: Seconds.
            waiting: Share of it spent waiting.
            cpu: Processor seconds a second; None for what does not wait.
            growth: Bytes that the process grows by.
        """
        self.call_s, self.waiting, self.growth = call_s, waiting, growth
        self.cpu = 1.0 - waiting if cpu is None else cpu
        return self

    def _measure(self, kind: str, *, again: bool = False) -> Costs:
        del again
        self.measured.append(kind)
        return Costs()

    def _take(self, *args: Any, **kwargs: Any) -> sample.Sample:
        taken = sample.take_sample(*args, **kwargs)
        count = sum(outcome.error is None for outcome in taken.outcomes.values())
        durations = [self.call_s] * count if isinstance(self.call_s, float) else list(self.call_s)[:count]
        measurements = [
            Measurement(
                1, wall, wall * self.cpu, wall * self.waiting, wall * wall, wall, 100, 100, self.growth, Lane.CALLER
            )
            for wall in durations
        ]
        return taken._replace(durations_s=durations, measurements=measurements)
