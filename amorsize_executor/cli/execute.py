"""``amorsize execute``: call a function with each item, and write all results as JSON lines, as they come."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from amorsize_executor.cli import data, task
from amorsize_executor.cli.number import count, seconds
from amorsize_executor.cli.render import ESCAPED, Renderer, dump_json, wrap
from amorsize_executor.errors import AmorsizeError, StorageError
from amorsize_executor.wording import describe_error, say_count, say_error, say_seconds

if TYPE_CHECKING:
    from amorsize_executor.advice.optimization import OptimizationResult
    from amorsize_executor.advice.sample import Outcome
    from amorsize_executor.executor import AdaptiveExecutor
    from amorsize_executor.tuning.saved_plan import ConfigData

_SHOWN = 10
_REDRAW_S = _FLUSH_S = 0.1


class CallError(AmorsizeError):
    """A call failed, and it was not said that others are to go on."""

    def __init__(self, position: int, error: BaseException) -> None:
        self.position, self.error = position, error
        super().__init__(
            f"item {position}: {describe_error(error)}; --on-error skip or return goes on after such items"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.position, self.error)


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parser."""
    parser = task.make_parser(verbs, common, "execute", "call a function with each item, in parallel")
    task.add_sampling_to(parser)
    group = parser.add_argument_group("execution")
    group.add_argument("-o", "--output", default="-", metavar="FILE", help="JSON lines, in order (default: stdout)")
    group.add_argument("--on-error", choices=("raise", "return", "skip"), default="raise", help="when a call fails")
    group.add_argument("--load-config", metavar="FILE", help="begin with a saved plan instead of a sample")
    group.add_argument("--memory", metavar="FILE", help="remember there what is learned, for the next run")
    group.add_argument("--workers", type=count, metavar="N", help="most workers")
    group.add_argument("--retry", type=count, metavar="N", help="run failed calls again, so often")
    group.add_argument("--timeout", type=seconds, metavar="S", help="seconds that a call may run")
    group.add_argument("--checkpoint", metavar="NAME", help="keep results; a rerun goes on where this one ended")
    group.add_argument("--dead-letters", metavar="DIR", help="keep the calls there that fail for good")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, renderer: Renderer) -> None:
    """Run the calls, write their results, and say how it went."""
    function, items = task.task_of(arguments)
    is_document = renderer.form != "text"
    writer = Writer(arguments, renderer.out, keeps_all=is_document and arguments.output == "-")
    began = time.perf_counter()
    with open_output(arguments.output, renderer.out, is_document=is_document) as writer.out:
        facts = Run(arguments, function, items, writer).run()
        writer.begin()
    facts = {
        "mode": "execute",
        "function": arguments.function,
        "results_count": writer.count,
        "errors_count": writer.errors,
        "execution_time": time.perf_counter() - began,
        "sample_results": writer.first,
        **({"results": writer.results} if writer.keeps_all else {}),
        **({} if arguments.output == "-" else {"output": arguments.output}),
        **facts,
    }
    tell(arguments, facts, renderer)


class Writer:
    """Takes results in order, and writes each as a line."""

    def __init__(self, arguments: argparse.Namespace, out: TextIO, *, keeps_all: bool) -> None:
        self.out: TextIO | None = out
        self.keeps_all = keeps_all
        self.count = self.errors = 0
        self.first: list[Any] = []
        self.results: list[Any] = []
        self._on_error = arguments.on_error
        self._replaced = None if arguments.output == "-" else Path(arguments.output)
        self._flushed_s = 0.0

    def begin(self) -> None:
        """Let go of what the output file held: there are results in its place, or none at all."""
        if self._replaced is not None and self.out is not None and self._replaced.is_file():
            self.out.truncate(0)
        self._replaced = None

    def take(self, position: int, outcome: Outcome) -> None:
        """Write a call's outcome.

        Raises:
            CallError: It failed, and that ends the run.
        """
        value = outcome.value
        if outcome.error is not None:
            if self._on_error == "raise":
                raise CallError(position, outcome.error) from outcome.error
            self.errors += 1
            if self._on_error == "skip":
                return
            value = {"item": position, "error": type(outcome.error).__name__, "message": say_error(outcome.error, str)}
        self.count += 1
        self.begin()
        if len(self.first) < _SHOWN:
            self.first.append(value)
        if self.keeps_all:
            self.results.append(value)
        if self.out is not None:
            self.out.write(dump_json(value) + "\n")
            now = time.monotonic()
            if now - self._flushed_s >= _FLUSH_S:  # who reads along is not kept waiting
                self._flushed_s = now
                self.out.flush()


class Run:
    """One execution: with a sample first, or with a saved plan.

    Args:
        arguments: Of the command line.
        function: What is called.
        items: With what.
        writer: Takes the results.
    """

    def __init__(
        self, arguments: argparse.Namespace, function: Callable[..., Any], items: data.Source | range, writer: Writer
    ) -> None:
        self._arguments = arguments
        self._function = function
        self._items = items
        self._writer = writer
        self._total = len(items) if isinstance(items, range) else None
        self._draw = task.create_progress_callback() if arguments.progress else None
        self._drawn_s = 0.0

    def run(self) -> dict[str, Any]:
        """Run all calls; return what the answer says of the plan."""
        arguments = self._arguments
        options: dict[str, Any] = {
            "max_workers": arguments.workers,
            "target_chunk_duration": arguments.target_chunk_duration,
            "timeout": arguments.timeout,
            "checkpoint": arguments.checkpoint,
            "dead_letters": arguments.dead_letters,
            "memory": arguments.memory,
        }
        if arguments.retry is not None:
            from amorsize_executor.middleware.retry import RetryPolicy  # noqa: PLC0415 - most runs have none

            options["retry"] = RetryPolicy(max_retries=arguments.retry)
        if arguments.load_config is not None:
            return self._begin_with_plan(options)
        if any(options.get(name) is not None for name in ("retry", "timeout", "checkpoint", "dead_letters", "memory")):
            return self._begin_with_nothing(options)
        return self._begin_with_sample(options)

    def _begin_with_sample(self, options: dict[str, Any]) -> dict[str, Any]:
        from amorsize_executor.advice.optimization import outcomes_of, supply_of  # noqa: PLC0415 - loads the executor

        result = task.recommend(self._arguments, self._function, self._items)
        if result.backend != "auto":
            most = min(result.n_jobs, self._arguments.workers or result.n_jobs)
            options |= {"backend": result.backend, "max_workers": most}
        sampled = outcomes_of(result)
        executor, _did = self._stream(options, supply_of(result).without(sampled.keys()), sampled)
        return {"optimization": task.facts_of(self._arguments, result), "ran": describe_crew(executor)}

    def _begin_with_nothing(self, options: dict[str, Any]) -> dict[str, Any]:
        """Run all calls through the executor, whose first calls are its sample: layers are to see every call."""
        from amorsize_executor.advice.sample import choose_backend  # noqa: PLC0415 - loads the executor

        given = {name for name, value in options.items() if value is not None}
        options |= choose_backend(self._function, given, prefers_threads=self._arguments.threads)
        executor, did = self._stream(options, self._items, {})
        return {"optimization": task.facts_of(self._arguments, did), "ran": describe_crew(executor)}

    def _begin_with_plan(self, options: dict[str, Any]) -> dict[str, Any]:
        from amorsize_executor.advice.config import load_config  # noqa: PLC0415 - loads the tuner

        plan: ConfigData = load_config(self._arguments.load_config)
        options["config"] = plan
        if plan.executor_type != "process":
            options["backend"] = "thread" if plan.executor_type == "thread" else "caller"
        executor, _did = self._stream(options, self._items, {})
        return {
            "config_source": self._arguments.load_config,
            "n_jobs": plan.n_jobs,
            "chunksize": plan.chunksize,
            "executor_type": plan.executor_type,
            "ran": describe_crew(executor),
        }

    def _stream(
        self, options: dict[str, Any], items: Iterable[Any], sampled: dict[int, Outcome]
    ) -> tuple[AdaptiveExecutor, OptimizationResult]:
        """Run the calls of what the sample has left, and hand all outcomes to the writer in order.

        Returns:
            The executor, which has ended; and what it did, as a recommendation.
        """
        from amorsize_executor.advice.collecting import Source, outcomes_of_calls, weave  # noqa: PLC0415
        from amorsize_executor.advice.execute import describe_run  # noqa: PLC0415
        from amorsize_executor.executor import AdaptiveExecutor  # noqa: PLC0415 - listing dead letters needs none

        began = time.perf_counter()
        with AdaptiveExecutor(**options) as executor:
            source = Source(items)
            stream = executor.imap(self._function, source)
            calls = 0
            for outcome in weave(outcomes_of_calls(stream, source), sampled):
                self._writer.take(calls, outcome)
                calls += 1
                self._show_progress(calls)
            self._show_progress(self._total or 0, is_last=True)
            return executor, describe_run(executor, calls, time.perf_counter() - began)

    def _show_progress(self, done: int, *, is_last: bool = False) -> None:
        if self._draw is None or not self._total:
            return
        now = time.monotonic()
        if is_last or now - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now
            self._draw("", 1.0 if is_last else min(done / self._total, 0.99))


def describe_crew(executor: AdaptiveExecutor) -> dict[str, Any]:
    """Return what an executor that has ended came to do, whatever was recommended: workers, chunk size and lane."""
    facts = executor.stats()
    return {
        "workers_started": facts["workers_started"],
        "calls_done": facts["calls_done"],
        "calls_answered": facts["calls_answered"],
        "calls_run_by_the_caller": facts["calls_run_by_the_caller"],
        "chunksize": facts["chunksize"],
        "lane": facts["lane"],
    }


def say_crew(ran: dict[str, Any]) -> str:
    """Say who ran an execution's calls, and how many results the checkpoint had."""
    stored, ran_calls = ran["calls_answered"], ran["calls_done"] - ran["calls_answered"]
    if stored and not ran_calls:
        return "the checkpoint had all of them"
    if ran["calls_run_by_the_caller"] == ran_calls:
        crew = "no workers: this process"
    else:
        crew = say_count(ran["workers_started"], "thread" if ran["lane"] == "threads" else "worker")
    if stored:
        return f"the checkpoint had {stored:,} of them, and {crew} ran the other calls"
    return f"{crew} ran the calls"


@contextlib.contextmanager
def open_output(path: str, out: TextIO, *, is_document: bool) -> Iterator[TextIO | None]:
    """Yield where result lines go; None for nowhere, where they are part of the answer.

    What a file holds stays until the writer begins, since a run may fail before it has any result.
    """
    if path == "-":
        yield None if is_document else out
        return
    try:
        file = Path(path).open("a", encoding="utf-8", errors=ESCAPED)  # noqa: SIM115 - closed below
    except OSError as error:
        raise StorageError(path, f"cannot be written: {error.strerror or error}") from error
    with file:
        yield file


def tell(arguments: argparse.Namespace, facts: dict[str, Any], renderer: Renderer) -> None:
    """Say how it went: as the answer, or, where stdout has the results, on stderr."""
    took_s, done = facts["execution_time"], facts["results_count"]
    line = f"{say_count(done, 'result')} in {say_seconds(took_s)}"
    if facts["errors_count"]:
        line += f", {say_count(facts['errors_count'], 'call')} failed"
    plan = facts.get("optimization", facts)
    ran = facts["ran"]
    lines = wrap(f"{line}; {say_crew(ran)}")
    ran_nothing = 0 < ran["calls_answered"] == ran["calls_done"]
    if "reason" in plan and not arguments.quiet and not ran_nothing:
        lines += wrap(f"Reason: {plan['reason']}")
    if renderer.form != "text" or arguments.output != "-":
        renderer.show(facts, *lines)
        return
    renderer.export(facts)
    if not arguments.quiet:
        renderer.out.flush()  # results first
        print(*lines, sep="\n", file=sys.stderr)
