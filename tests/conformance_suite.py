"""Point CPython's own tests of ``concurrent.futures`` at ``AdaptiveExecutor``.

Nothing is copied: the tests are those of the running interpreter, where it ships them (many distributions
leave them out). A mode says how the executor is built; each mode runs with every policy for dying workers::

    python tests/conformance_suite.py --mode isolate [--on-worker-death break] [-k substring]
    python tests/conformance_suite.py --all

How it runs: a supervisor hands test after test to a few runner processes (most tests sleep, so more runners than
cores pay). A runner that hangs or dies fails the one test it was running, is killed with its process group, and
a new one goes on with the rest. So no hang outlives its time limit.

    supervisor  ── one thread per runner ──  test name ──stdin──►  runner (own session): import, adapt, run one test
                                             ◄── result, JSON ──pipe──

The few tests that this executor does not pass on purpose stand in ``DEVIATIONS``. They run all the same: one that
passes is an error too, so that the table stays true.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import fnmatch
import functools
import gc
import importlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

SUITE = "test.test_concurrent_futures"
MODULES = ("test_process_pool", "test_wait", "test_as_completed", "test_deadlock", "test_shutdown", "test_init")
EXECUTOR = "amorsize_executor:AdaptiveExecutor"
REPLACED = futures.ProcessPoolExecutor

# The suite asks for a context by its mixins. Without an mp_context this executor promises what a fork server
# promises, so the default modes take the tests written for one, and the adapter drops the context again.
START_METHODS = {
    "default": "forkserver",
    "isolate": "forkserver",
    "fork": "fork",
    "spawn": "spawn",
    "forkserver": "forkserver",
}
MIXINS = {
    "fork": "ProcessPoolForkMixin",
    "spawn": "ProcessPoolSpawnMixin",
    "forkserver": "ProcessPoolForkserverMixin",
}
MODES = tuple(START_METHODS)
POLICIES = ("retry", "break")

RUNNERS = 4
TEST_TIMEOUT_S = 40.0  # the longest test sleeps 6 s
MODE_TIMEOUT_S = 150.0
DUMP_GRACE_S = 1.0
LEFTOVER_GRACE_S = 5.0


@dataclass(frozen=True)
class Deviation:
    """A test that is not passed on purpose.

    Attributes:
        test: Its name, as printed: class and method.
        modes: Patterns of ``mode/policy`` in which it fails.
        reason: Why this executor does otherwise.
        is_certain: False where it depends on who comes first, the caller who waits or a worker.
    """

    test: str
    modes: tuple[str, ...]
    reason: str
    is_certain: bool = True


DEVIATIONS = (
    Deviation(
        "ProcessPoolExecutorTest.test_killed_child",
        ("*/retry",),
        "a killed worker costs its call another attempt, not the executor",
    ),
    Deviation(
        "ProcessPoolExecutorTest.test_killed_child",
        ("default/break",),
        "the caller who waits may run the call itself before the worker that is killed has got it",
        is_certain=False,
    ),
    Deviation(
        "ProcessPoolExecutorTest.test_saturation",
        ("default/*", "isolate/*", "spawn/*", "forkserver/*"),
        "the number of workers follows what calls need, not the number of calls",
    ),
    Deviation(
        "ProcessPoolShutdownTest.test_processes_terminate",
        ("default/*", "isolate/*", "spawn/*", "forkserver/*"),
        "the number of workers follows what calls need, not the number of calls",
    ),
    Deviation(
        "ExecutorDeadlockTest.test_crash_big_data",
        ("default/*",),
        "the caller who waits for a map runs calls itself; isolate=True is for those that crash the interpreter",
    ),
    Deviation(
        "ExecutorDeadlockTest.test_shutdown_deadlock_pickle",
        ("default/*",),
        "the arguments of a call that the waiting caller runs itself are not pickled",
        is_certain=False,
    ),
    Deviation(
        "ProcessPoolExecutorTest.test_idle_process_reuse_one",
        ("default/*",),
        "calls that the waiting caller runs itself start no process",
    ),
    Deviation(
        "ProcessPoolExecutorTest.test_ressources_gced_in_workers",
        ("default/*",),
        "the arguments of a call that the waiting caller runs itself are not copies in a worker",
    ),
    Deviation(
        "ProcessPoolExecutorTest.test_traceback",
        ("default/*",),
        "the error of a call that the waiting caller runs itself has its own traceback, not a remote one",
    ),
    Deviation(
        "ExecutorDeadlockTest.test_error_at_task_unpickle",
        ("*/retry",),
        "arguments that do not unpickle fail their own call with the error they raised",
    ),
    Deviation(
        "ExecutorDeadlockTest.test_exit_at_task_unpickle",
        ("*/retry",),
        "arguments that do not unpickle fail their own call with the error they raised",
    ),
    Deviation(
        "ExecutorDeadlockTest.test_error_during_result_unpickle_in_result_handler",
        ("*/retry",),
        "a result that does not unpickle fails its own call with the error it raised",
    ),
    Deviation(
        "ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler",
        ("*/retry",),
        "a result that does not unpickle fails its own call with the error it raised",
    ),
    Deviation(
        "ProcessPoolExecutorTest.test_python_finalization_error",
        ("*",),
        "forbids the second thread to start; this executor has only one",
    ),
)


def interpreter_ships_suite() -> bool:
    """Tell whether the running interpreter has the tests."""
    return importlib.util.find_spec("test") is not None and importlib.util.find_spec(SUITE) is not None


# --- The executor under test ---------------------------------------------------------------------------------


class _ExhaustedQueue:
    """Stands in for ``_call_queue``, which the suite joins after a shutdown."""

    def join_thread(self) -> None:
        """Return at once: there is no feeder thread."""


def build_executor_type(executor: str, mode: str, on_worker_death: str) -> type[futures.Executor]:
    """Derive the class that the suite builds its executors from.

    Args:
        executor: ``"module:Class"`` of the executor under test.
        mode: One of ``MODES``; says what is passed on and what is added.
        on_worker_death: One of ``POLICIES``; ``"retry"`` is the default and is not passed.

    Returns:
        A subclass of the executor, of the same name, that takes the arguments of ``ProcessPoolExecutor``.
    """
    module, _, name = executor.partition(":")
    base = getattr(importlib.import_module(module), name)
    options: dict[str, Any] = {}
    if base is not REPLACED:  # the standard library's own pool serves to check this harness
        if mode == "isolate":
            options["isolate"] = True
        if on_worker_death != "retry":
            options["on_worker_death"] = on_worker_death
    takes_context = mode not in {"default", "isolate"} or base is REPLACED

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - becomes the method
        if not takes_context:
            kwargs.pop("mp_context", None)
        base.__init__(self, *args, **options, **kwargs)

    members: dict[str, Any] = {"__init__": __init__, "__module__": base.__module__}
    if base is not REPLACED and not hasattr(base, "_call_queue"):
        members["_call_queue"] = _ExhaustedQueue()
    return type(name, (base,), members)


# --- The runner: one process that runs tests one by one ------------------------------------------------------


@functools.cache
def suite_modules() -> tuple[Any, ...]:
    """Import the suite: a package since 3.12, one module before.

    The package's other modules test threads and bare futures, which have nothing to do with an executor of ours.
    """
    suite = importlib.import_module(SUITE)
    if not hasattr(suite, "__path__"):
        return (suite,)
    return tuple(importlib.import_module(f"{SUITE}.{name}") for name in MODULES)


def test_name(test: unittest.TestCase) -> str:
    """Name a test alike in all modes and versions: the class it was written in, and the method."""
    written_in = type(test).__bases__[0]
    owner = type(test) if written_in is unittest.TestCase else written_in
    return f"{owner.__name__}.{test.id().rpartition('.')[2]}"


def collect(start_method: str) -> dict[str, unittest.TestCase]:
    """Collect the tests that the suite generates for one start method, by name."""
    found: dict[str, unittest.TestCase] = {}
    for module in suite_modules():
        for test in _flatten(unittest.defaultTestLoader.loadTestsFromModule(module)):
            bases = {base.__name__ for base in type(test).__mro__}
            of_resources = "FailingInitializerResourcesTest" in bases and test.id().endswith(f"_{start_method}")
            if MIXINS[start_method] in bases or of_resources:
                found[test_name(test)] = test
    return found


def _flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _flatten(item)
        else:
            yield item


def adapt_suite(executor: str, mode: str, on_worker_death: str) -> type[futures.Executor]:
    """Make the imported tests build our executor wherever they would build a process pool."""
    executor_type = build_executor_type(executor, mode, on_worker_death)
    for module in suite_modules():
        for mixin in MIXINS.values():
            if hasattr(module, mixin):
                getattr(module, mixin).executor_type = executor_type
        if hasattr(module, "assert_python_ok"):
            module.assert_python_ok = _adapt_scripts(module.assert_python_ok, executor, mode, on_worker_death)
        if hasattr(module, "threading_helper"):
            _collect_before_looking(module.threading_helper)
    return executor_type


def _collect_before_looking(threading_helper: Any) -> None:
    """Have the suite's look for threads left behind see living ones, not objects in cycles that await collection."""
    look = threading_helper.threading_cleanup
    if not hasattr(look, "__wrapped__"):

        @functools.wraps(look)
        def collect_and_look(*before: Any) -> Any:
            gc.collect()
            return look(*before)

        threading_helper.threading_cleanup = collect_and_look


def _adapt_scripts(assert_python_ok: Any, executor: str, mode: str, on_worker_death: str) -> Any:
    """Let the suite's scripts, which run in isolated interpreters, import our executor instead.

    One of them uses multiprocessing without importing it: for process pools it was never meant to run.
    """
    name = executor.partition(":")[2]
    here = Path(__file__).resolve().parent
    replacement = "; ".join(
        (
            "import multiprocessing, sys",
            f"sys.path[:0] = {[str(here), str(here.parent)]!r}",
            "import conformance_suite",
            f"{name} = conformance_suite.build_executor_type({executor!r}, {mode!r}, {on_worker_death!r})",
        )
    )

    def adapted(flag: str, code: str) -> Any:
        wanted = f"from concurrent.futures import {name}"
        if wanted not in code:
            message = f"the suite's script no longer has the line {wanted!r}"
            raise AssertionError(message)
        return assert_python_ok(flag, code.replace(wanted, replacement))

    return adapted


def run_one(test: unittest.TestCase, executor_type: type[futures.Executor]) -> tuple[str, str]:
    """Run one test.

    Returns:
        ``"passed"``, ``"failed"`` or ``"skipped"``, and the reason or the traceback.
    """
    from test import support  # only a runner may depend on it

    support.environment_altered = False
    # Some tests name the pool in full. One asks whether it has got the standard library's, to skip itself.
    asks = test.id().endswith("test_hang_gh83386")
    futures.ProcessPoolExecutor = REPLACED if asks else executor_type  # type: ignore[misc, assignment]
    result = unittest.TestResult()
    test.run(result)
    vars(test).clear()  # as unittest's suites do: a queue that a test has kept would count as leaked in the next
    problems = [text for _, text in itertools.chain(result.errors, result.failures)]
    if problems:
        return "failed", "\n".join(problems)
    if support.environment_altered:
        return "failed", "the test left threads or processes behind"
    if result.skipped:
        return "skipped", result.skipped[0][1]
    return "passed", ""


def serve(executor: str, mode: str, on_worker_death: str, result_fd: int) -> None:
    """Run the tests whose names come in on standard input, one a line, until it ends."""
    faulthandler.register(signal.SIGUSR1)  # not dump_traceback_later: a second thread would change what is tested
    os.set_inheritable(result_fd, False)
    from test import support

    support.verbose = False
    executor_type = adapt_suite(executor, mode, on_worker_death)
    tests = collect(START_METHODS[mode])
    with open(result_fd, "w", encoding="utf-8", buffering=1) as results:
        results.write(json.dumps(sorted(tests)) + "\n")
        results.writelines(json.dumps(run_one(tests[line.strip()], executor_type)) + "\n" for line in sys.stdin)
    with contextlib.suppress(AttributeError):  # ends the fork server and the resource tracker, if any
        multiprocessing.util._cleanup_tests()  # type: ignore[attr-defined]


# --- The supervisor -------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of one mode.

    Attributes:
        mode: ``mode/policy``.
        passed, skipped, deviations: Names of tests.
        failed: Why each test failed, by name; also what was left behind, and deviations that passed.
        seconds: Wall time.
    """

    mode: str
    passed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def counts(self) -> str:
        """Say the counts in one line."""
        return (
            f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped "
            f"(deviations listed: {len(self.deviations)})"
        )

    def add(self, test: str, status: str, detail: str, deviation: Deviation | None) -> None:
        """Book one test's outcome."""
        if status == "skipped":
            self.skipped.append(test)
        elif deviation is not None and deviation.is_certain and status == "passed":
            self.failed[test] = f"passes, but is listed as a deviation: {deviation.reason}"
        elif deviation is not None and status != "passed":
            self.deviations.append(test)
        elif status == "passed":
            self.passed.append(test)
        else:
            self.failed[test] = detail


class RunnerError(Exception):
    """A runner hung, died or did not start; the message has what it printed."""


class Runner:
    """One runner process, in a session of its own so that it can be killed with all its descendants."""

    def __init__(self, executor: str, mode: str, on_worker_death: str) -> None:
        read_fd, write_fd = os.pipe()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._results = os.fdopen(read_fd, "rb", buffering=0)
        self._buffer = b""
        command = [sys.executable, __file__, "--mode", mode, "--on-worker-death", on_worker_death]
        command += ["--executor", executor, "--serve", str(write_fd)]
        here = Path(__file__).resolve().parent
        path = os.pathsep.join(filter(None, (str(here.parent), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=(write_fd,),
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        os.close(write_fd)
        try:
            self.tests: list[str] = self._receive(TEST_TIMEOUT_S)
        except RunnerError:
            self.close()
            raise

    def run(self, test: str, timeout_s: float) -> tuple[str, str]:
        """Run one test and return its status and detail; RunnerError: the runner is of no more use."""
        self._output.truncate(0)
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(test.encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise RunnerError(self._printed("the runner died between tests")) from None
        status, detail = self._receive(timeout_s)
        if status == "failed":
            detail = self._printed(detail)
        return status, detail

    def finish(self) -> str:
        """Let the runner end; return what is wrong with how it ended, or an empty string."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        try:
            code = self._process.wait(TEST_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGUSR1)
            time.sleep(DUMP_GRACE_S)
            return self._printed("the runner did not end")
        if code:
            return self._printed(f"the runner ended with status {code}")
        deadline = time.monotonic() + LEFTOVER_GRACE_S
        while self._has_descendants():
            if time.monotonic() > deadline:
                return self._printed("processes were left behind")
            time.sleep(0.02)
        return ""

    def close(self) -> None:
        """Kill the runner with its process group, and free everything."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        self._results.close()
        self._output.close()

    def _has_descendants(self) -> bool:
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def _receive(self, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            # The pipe may be held open by descendants of a dead runner, so its end says nothing.
            if select.select([self._results], [], [], 0.2)[0]:
                part = self._results.read(1 << 16)
                if part:
                    self._buffer += part
                    continue
            if self._process.poll() is not None:
                raise RunnerError(self._printed(f"the runner died with status {self._process.returncode}"))
            if time.monotonic() > deadline:
                self._process.send_signal(signal.SIGUSR1)
                time.sleep(DUMP_GRACE_S)
                raise RunnerError(self._printed(f"no result after {timeout_s:.0f} s"))
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _printed(self, headline: str) -> str:
        self._output.seek(0)
        printed = self._output.read().decode(errors="replace").strip("\0\n ")
        return f"{headline}\n{printed[-6000:]}".strip()


def find_deviation(test: str, mode: str) -> Deviation | None:
    """Find the deviation that stands for a test in ``mode/policy``."""
    for deviation in DEVIATIONS:
        if deviation.test == test and any(fnmatch.fnmatchcase(mode, pattern) for pattern in deviation.modes):
            return deviation
    return None


class Supervisor:
    """Runs one mode: each of its threads owns one runner at a time and takes tests from one queue.

    Invariant: each test that was queued is booked once, whatever becomes of the runners.
    """

    def __init__(self, executor: str, mode: str, on_worker_death: str) -> None:
        self.tally = Tally(f"{mode}/{on_worker_death}")
        self._new_runner = functools.partial(Runner, executor, mode, on_worker_death)
        self._executor = executor
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the tally
        self._started_s = time.monotonic()

    def run(self, substring: str) -> Tally:
        """Run all tests whose name has ``substring``."""
        first = self._start_runner()
        if first is not None:
            tests = [test for test in first.tests if substring in test]
            for test in tests:
                self._waiting.put(test)
            spares = [None] * (min(RUNNERS, len(tests)) - 1)
            threads = [threading.Thread(target=self._run_share, args=(runner,)) for runner in (first, *spares)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self._fail_rest()
        self.tally.seconds = time.monotonic() - self._started_s
        return self.tally

    def _run_share(self, runner: Runner | None) -> None:
        """Run tests until none is left, with a new runner after each one that was lost."""
        has_more = True
        while has_more:
            runner = runner or self._start_runner()
            if runner is None:
                return
            try:
                has_more = self._run_with(runner)
            finally:
                runner.close()
                runner = None

    def _run_with(self, runner: Runner) -> bool:
        """Run tests with one runner; tell whether it was lost before the queue was empty."""
        while self._left_s() > 0:
            try:
                test = self._waiting.get_nowait()
            except queue.Empty:
                break
            try:
                self._book(test, *runner.run(test, min(TEST_TIMEOUT_S, max(1.0, self._left_s()))))
            except RunnerError as error:
                self._book(test, "failed", str(error))
                return True
            if find_deviation(test, self.tally.mode) is not None:
                return True  # a test that fails half-way leaves executors behind
        problem = runner.finish()
        if problem:
            self._book_problem("end of a runner", problem)
        return False

    def _start_runner(self) -> Runner | None:
        try:
            return self._new_runner()
        except RunnerError as error:
            self._book_problem("start of a runner", str(error))
            return None

    def _fail_rest(self) -> None:
        while not self._waiting.empty():
            self._book(self._waiting.get(), "failed", f"not run: after {MODE_TIMEOUT_S:.0f} s, or no runner was left")

    def _left_s(self) -> float:
        return self._started_s + MODE_TIMEOUT_S - time.monotonic()

    def _book(self, test: str, status: str, detail: str) -> None:
        deviation = find_deviation(test, self.tally.mode) if self._executor == EXECUTOR else None
        with self._lock:
            self.tally.add(test, status, detail, deviation)

    def _book_problem(self, what: str, detail: str) -> None:
        with self._lock:
            self.tally.failed[f"({what}, {len(self.tally.failed) + 1})"] = detail


def run_mode(mode: str, on_worker_death: str, *, executor: str = EXECUTOR, substring: str = "") -> Tally:
    """Run the suite in one mode under one policy.

    Args:
        mode: One of ``MODES``.
        on_worker_death: One of ``POLICIES``.
        executor: ``"module:Class"`` of the executor under test. The deviations are those of ours alone.
        substring: Only tests whose name has it.

    Returns:
        The tally, about ``MODE_TIMEOUT_S`` from now at the latest. Each test is in it once.
    """
    return Supervisor(executor, mode, on_worker_death).run(substring)


def main(argv: Sequence[str] | None = None) -> int:
    """Run by hand; see the module's docstring."""
    options = _parse(argv)
    if options.ships:
        print("yes" if interpreter_ships_suite() else "no")
        return 0
    if options.count_modes:
        print(len(MODES) * len(POLICIES))
        return 0
    if not interpreter_ships_suite():
        print(f"{sys.executable} ({sys.version.split()[0]}) does not ship {SUITE}")
        return 0
    if options.serve is not None:
        serve(options.executor, options.mode, options.on_worker_death, options.serve)
        return 0
    wanted = itertools.product(MODES, POLICIES) if options.all else [(options.mode, options.on_worker_death)]
    has_failed = False
    for mode, on_worker_death in wanted:
        tally = run_mode(mode, on_worker_death, executor=options.executor, substring=options.substring)
        _print_tally(tally, is_verbose=options.verbose)
        has_failed = has_failed or bool(tally.failed) or not (tally.passed or options.substring)
    return int(has_failed)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run CPython's own executor tests on AdaptiveExecutor.")
    parser.add_argument("--mode", choices=MODES, default="default")
    parser.add_argument("--on-worker-death", choices=POLICIES, default="retry")
    parser.add_argument("--all", action="store_true", help="every mode with every policy")
    parser.add_argument("-k", dest="substring", default="", help="only tests whose name has this")
    parser.add_argument("-v", "--verbose", action="store_true", help="name the tests that were skipped or deviate")
    parser.add_argument("--executor", default=EXECUTOR, metavar="MODULE:CLASS", help="another executor to test")
    parser.add_argument("--ships", action="store_true", help="only say whether this interpreter ships the suite")
    parser.add_argument("--count-modes", action="store_true", help="only say how many runs --all makes")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _print_tally(tally: Tally, *, is_verbose: bool) -> None:
    for test, detail in sorted(tally.failed.items()):
        print(f"--- {tally.mode} {test}\n{detail}\n")
    if is_verbose:
        for word, tests in (("skipped", tally.skipped), ("deviates", tally.deviations)):
            for test in sorted(tests):
                print(f"{word}: {test}")
    print(f"{tally.mode}: {tally.counts()} in {tally.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
