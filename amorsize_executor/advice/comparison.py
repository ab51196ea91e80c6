"""``compare_strategies``: settings side by side, measured in turns on the executor."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from amorsize_executor.advice.arguments import check_flags, check_task, take_first
from amorsize_executor.advice.benchmark import Stopwatch
from amorsize_executor.advice.narration import Narration
from amorsize_executor.advice.optimization import OptimizationResult
from amorsize_executor.advice.optimize import advise
from amorsize_executor.advice.outlook import Wishes
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.parameters import check_choice, check_count, check_seconds
from amorsize_executor.wording import say_seconds

_ROUNDS = 3
_SAMPLE = 5
_CLEARLY = 0.95


@dataclass(frozen=True)
class ComparisonConfig:
    """A setting.

    Attributes:
        name: What it is called in the answer.
        n_jobs: Workers, >= 1; 1 with processes or ``"serial"`` means plain serial code.
        chunksize: Calls that travel together, >= 1.
        executor_type: ``"process"``, ``"thread"`` or ``"serial"``.
    """

    name: str
    n_jobs: int = 1
    chunksize: int = 1
    executor_type: str = "process"

    def __post_init__(self) -> None:
        check_count("n_jobs", self.n_jobs, optional=False)
        check_count("chunksize", self.chunksize, optional=False)
        check_choice("executor_type", self.executor_type, ("process", "thread", "serial"))

    @property
    def is_serial(self) -> bool:
        """Whether it is plain serial code."""
        return self.executor_type == "serial" or (self.n_jobs == 1 and self.executor_type == "process")


class ComparisonResult:
    """What settings took.

    Attributes:
        configs: The settings, as given.
        execution_times: Seconds of each, medians.
        speedups: Times faster than the first.
        best_config_index: Which took least.
        recommendations: What to make of it.
    """

    def __init__(
        self,
        configs: list[ComparisonConfig],
        execution_times: list[float],
        speedups: list[float],
        best_config_index: int,
        recommendations: list[str] | None = None,
    ) -> None:
        self.configs = configs
        self.execution_times = execution_times
        self.speedups = speedups
        self.best_config_index = best_config_index
        self.recommendations = recommendations or []

    @property
    def best_config(self) -> ComparisonConfig:
        """The setting that took least."""
        return self.configs[self.best_config_index]

    @property
    def best_time(self) -> float:
        """Its seconds."""
        return self.execution_times[self.best_config_index]

    def get_sorted_configs(self) -> list[tuple[ComparisonConfig, float, float]]:
        """Return (setting, seconds, speed-up), the fastest first."""
        return sorted(zip(self.configs, self.execution_times, self.speedups), key=lambda row: row[1])

    def __str__(self) -> str:
        width = max(len(config.name) for config in self.configs)
        lines = ["=== Strategy Comparison ===", ""]
        for config, seconds, speedup in self.get_sorted_configs():
            mark = "*" if config is self.best_config else " "
            setting = f"n_jobs={config.n_jobs}, chunksize={config.chunksize}, {config.executor_type}"
            lines.append(f"{mark} {config.name:<{width}}  {say_seconds(seconds):>9}  {speedup:5.2f}x  {setting}")
        if self.recommendations:
            lines += ["", "Recommendations:", *(f"  - {text}" for text in self.recommendations)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"ComparisonResult({len(self.configs)} configs, best={self.best_config.name!r})"


def compare_strategies(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    configs: Sequence[ComparisonConfig],
    max_items: int | None = None,
    timeout: float = 120.0,
    verbose: bool = False,  # noqa: FBT001, FBT002 - the contract's order
) -> ComparisonResult:
    """Measure settings in turns, up to three rounds of changing order, and compare their medians.

    Args:
        func: What is called with each item, several times.
        data: Any finite iterable; it is collected.
        configs: At least one setting; speed-ups are relative to the first.
        max_items: Use this many items, the first ones; None for all.
        timeout: Seconds for everything, > 0; fewer rounds are run where there is no time for more.
        verbose: Write to stderr what is measured.

    Raises:
        ValueError: A parameter is out of its range or of the wrong type, or there are no items or settings.
        ExecutionError: A call failed (a ``RuntimeError``).
        TimeoutError: Not even one round ended in time.
    """
    check_task(func, data)
    check_count("max_items", max_items, most=sys.maxsize)
    check_seconds("timeout", timeout)
    check_flags(verbose=verbose)
    chosen = list(configs) if configs is not None else []
    if not chosen:
        raise InvalidParameterError("configs", configs, "must hold at least one ComparisonConfig")
    for config in chosen:
        if not isinstance(config, ComparisonConfig):
            raise InvalidParameterTypeError("configs", config, "must hold ComparisonConfig objects")
    items = take_first(data, max_items)
    if not items:
        raise InvalidParameterError("data", data, "must not be empty")
    times = take_turns(Stopwatch(func, items, timeout), chosen, Narration(verbose=verbose))
    medians = [statistics.median(seconds) for seconds in times]
    speedups = [medians[0] / max(seconds, 1e-9) for seconds in medians]
    best = min(range(len(medians)), key=medians.__getitem__)
    return ComparisonResult(chosen, medians, speedups, best, recommend(chosen, medians, best))


def take_turns(watch: Stopwatch, configs: list[ComparisonConfig], narration: Narration) -> list[list[float]]:
    """Return the seconds of each setting's runs; every other round goes backwards."""
    times: list[list[float]] = [[] for _ in configs]
    for number in range(_ROUNDS):
        if number and not watch.has_time_for(1.5 * sum(max(seconds) for seconds in times)):
            break
        order = range(len(configs))
        for index in reversed(order) if number % 2 else order:
            config = configs[index]
            if config.is_serial:
                seconds = watch.time_serial()
            else:
                seconds = watch.time_workers(config.n_jobs, config.chunksize, config.executor_type)
            times[index].append(seconds)
            narration.say(f"Round {number + 1}, {config.name}: {say_seconds(seconds)}")
    return times


def recommend(configs: list[ComparisonConfig], medians: list[float], best: int) -> list[str]:
    """Say which setting to use, and which simpler one is as good."""
    chosen = configs[best]
    if chosen.is_serial:
        return [f"{chosen.name}: plain serial code is fastest; the work does not repay workers."]
    advice = [f"{chosen.name} is fastest: {say_seconds(medians[best])}."]
    simpler = [
        config.name
        for config, seconds in zip(configs, medians)
        if config.n_jobs < chosen.n_jobs and medians[best] > _CLEARLY * seconds
    ]
    if simpler:
        advice.append(f"{simpler[0]} is within 5 % of it, with fewer workers.")
    return advice


def compare_with_optimizer(
    func: Callable[[Any], Any],
    data: Iterable[Any],
    additional_configs: Sequence[ComparisonConfig] | None = None,
    max_items: int | None = None,
    timeout: float = 120.0,
    verbose: bool = False,  # noqa: FBT001, FBT002 - the contract's order
) -> tuple[ComparisonResult, OptimizationResult]:
    """Compare ``"Serial"``, ``"Optimizer"`` (what ``optimize`` recommends) and settings of your own."""
    check_task(func, data)
    check_count("max_items", max_items, most=sys.maxsize)
    check_seconds("timeout", timeout)
    check_flags(verbose=verbose)
    items = take_first(data, max_items)
    if not items:
        raise InvalidParameterError("data", data, "must not be empty")
    advice = advise(func, items, _SAMPLE, Wishes(), Narration(verbose=verbose))
    configs = [
        ComparisonConfig("Serial", executor_type="serial"),
        ComparisonConfig("Optimizer", advice.n_jobs, advice.chunksize, advice.executor_type),
        *(additional_configs or ()),
    ]
    return compare_strategies(func, items, configs, None, timeout, verbose), advice
