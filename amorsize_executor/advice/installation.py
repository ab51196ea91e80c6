"""Is the package installed as it should be, and what does the machine look like? What ``amorsize doctor`` shows."""

from __future__ import annotations

import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any, NamedTuple

from amorsize_executor import system
from amorsize_executor.advice.execute import execute
from amorsize_executor.advice.optimize import optimize
from amorsize_executor.executor import AdaptiveExecutor
from amorsize_executor.tuning.machine import probe_machine
from amorsize_executor.wording import say_seconds

_LIMIT_S = 30.0
_ITEMS = 100
_NEEDED = "cloudpickle", "loky", "psutil", "tblib"


class Check(NamedTuple):
    """What came of a check.

    Attributes:
        name: What was looked at.
        is_passed: Whether it is as it should be.
        detail: What was found.
    """

    name: str
    is_passed: bool
    detail: str


class StartCost(NamedTuple):
    """What starting a process costs.

    Attributes:
        name: A start method of multiprocessing's, or ``"amorsize"`` for the workers of an executor.
        seconds: From asking for a process to its answer; NaN where there was none.
        is_default: Whether multiprocessing starts processes so unless told otherwise.
        problem: Why there was no answer; empty if there was.
    """

    name: str
    seconds: float
    is_default: bool = False
    problem: str = ""


def check() -> list[Check]:
    """Run the six checks, each by itself; one that raises has failed. Blocks for less than a second."""
    return [
        _run("import and version", _check_version),
        _run("optimize on a small range", _check_optimize),
        _run("the machine makes sense", _check_machine),
        _run("a generator keeps its items", _check_generator),
        _run("results pickle", _check_pickling),
        _run("workers return the right results", _check_execute),
    ]


def _run(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, is_passed=True, detail=look())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is the matter
        return Check(name, is_passed=False, detail=f"{type(error).__name__}: {error}")


class _UnexpectedError(Exception):
    """A check has found something else than it should be."""


def _expect(is_so: bool, otherwise: str) -> None:  # noqa: FBT001
    if not is_so:
        raise _UnexpectedError(otherwise)


def _check_version() -> str:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    _expect(not missing, f"not installed: pip install {' '.join(missing)}")
    try:
        return f"amorsize-executor {metadata.version('amorsize-executor')}"
    except metadata.PackageNotFoundError:
        return "amorsize-executor, run from a source tree"


def _check_optimize() -> str:
    found = optimize(abs, range(10))
    _expect(found.n_jobs >= 1 and found.chunksize >= 1, repr(found))
    return f"n_jobs={found.n_jobs}, chunksize={found.chunksize}"


def _check_machine() -> str:
    machine = probe_machine()
    _expect(
        1 <= machine.physical_cores <= machine.cores <= (os.cpu_count() or machine.cores)
        and 0 < machine.available_memory <= machine.memory_limit,
        repr(machine),
    )
    return f"{machine.cores} cores, {machine.available_memory >> 20:,} MiB available"


def _check_generator() -> str:
    data = optimize(abs, (number for number in range(_ITEMS))).data
    _expect(data is not None and list(data) == list(range(_ITEMS)), "items were lost or doubled")
    return f"{_ITEMS} of {_ITEMS} items"


def _check_pickling() -> str:
    profile = optimize(abs, range(_ITEMS), profile=True).profile
    _expect(profile is not None and profile.is_picklable, "a plain function is said not to pickle")
    seconds = profile.avg_pickle_time if profile is not None else math.nan
    _expect(0 <= seconds < 1, f"pickling a number took {seconds} s")
    return f"{say_seconds(seconds)} a result"


def _check_execute() -> str:
    wanted = list(range(_ITEMS))
    _expect(execute(abs, [-number for number in wanted]) == wanted, "execute() returned something else")
    with AdaptiveExecutor(max_workers=2, isolate=True) as executor:
        pids = set(executor.map(_pid_of, wanted, timeout=_LIMIT_S))
        _expect(list(executor.map(abs, [-number for number in wanted], timeout=_LIMIT_S)) == wanted, "map() is wrong")
        how = executor.stats()["how_started"]
    _expect(os.getpid() not in pids, "calls that were to be isolated ran here")
    return f"{how}"


def _pid_of(_item: object) -> int:
    return os.getpid()


def describe_machine() -> dict[str, Any]:
    """Return what may be used, and what the system can do for us; cores in counts, memory in bytes."""
    machine = probe_machine()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        **machine._asdict(),
        "how_workers_start": "forked by a zygote" if system.has("zygote") else "by loky's context",
        "features": {feature: system.has(feature) for feature in ("zygote", "memfd", "pidfd")},
    }


def measure_start_methods() -> list[StartCost]:
    """Measure how long each start method takes until a process has answered; about a second altogether."""
    default = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    methods = multiprocessing.get_all_start_methods()
    return [_measure_own(), *(_measure_method(name, is_default=name == default) for name in methods)]


def _measure_own() -> StartCost:
    began = time.perf_counter()
    with AdaptiveExecutor(max_workers=1, isolate=True) as executor:
        executor.submit(os.getpid).result(timeout=_LIMIT_S)
        return StartCost("amorsize", time.perf_counter() - began)


def _measure_method(name: str, *, is_default: bool) -> StartCost:
    return _measure(multiprocessing.get_context(name), name, is_default=is_default, target=os.getpid)


def _measure(context: Any, name: str, *, is_default: bool = False, **called: Any) -> StartCost:
    """Measure a process that calls something which imports nothing."""
    began = time.perf_counter()
    process = context.Process(**called)
    try:
        process.start()
    except OSError as error:
        return StartCost(name, math.nan, is_default, str(error))
    process.join(_LIMIT_S)
    seconds, problem = time.perf_counter() - began, ""
    if process.exitcode != 0:
        problem = f"no answer within {_LIMIT_S:g} s" if process.is_alive() else f"exit status {process.exitcode}"
        process.kill()
        process.join()
    process.close()
    return StartCost(name, math.nan if problem else seconds, is_default, problem)
