"""One contestant on one workload, in a process of its own.

    python -m tests.benchmarks.contest CONTESTANT WORKLOAD [SHARE]

Prints the seconds from making the pool to its end; imports and making the items are paid before. A contestant whose
results are wrong fails.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from tests.benchmarks.workloads import Workload, make

Results = list[Any]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serial(work: Workload) -> Results:
    """Use no pool at all."""
    return [work.function(item) for item in work.source()]


def threads(work: Workload) -> Results:
    """Use ThreadPoolExecutor as it is by default."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as executor:
        return list(executor.map(work.function, work.source()))


def process_pool(work: Workload, *, chunksize: int = 1) -> Results:
    """Use ProcessPoolExecutor."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor() as executor:
        return list(executor.map(work.function, work.source(), chunksize=chunksize))


def multiprocessing_pool(work: Workload) -> Results:
    """Use multiprocessing.Pool, which chooses a chunk size by itself."""
    from multiprocessing import Pool

    with Pool() as pool:
        return list(pool.imap(work.function, work.source())) if work.is_lazy else pool.map(work.function, work.source())


def loky(work: Workload) -> Results:
    """Use loky's executor."""
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(CORES) as executor:
        return list(executor.map(work.function, work.source()))


def joblib(work: Workload) -> Results:
    """Use joblib with its default backend."""
    from joblib import Parallel, delayed

    return Parallel(n_jobs=CORES)(delayed(work.function)(item) for item in work.source())


def mpire(work: Workload) -> Results:
    """Use mpire; items in tuples, since it would spread arrays over the arguments."""
    from mpire import WorkerPool

    with WorkerPool(n_jobs=CORES) as pool:
        if work.is_lazy:
            source = ((item,) for item in work.source())
            return list(pool.imap(work.function, source, iterable_len=len(work.items)))
        return pool.map(work.function, [(item,) for item in work.items], concatenate_numpy_output=False)


def adaptive(work: Workload, **options: Any) -> Results:
    """Use AdaptiveExecutor."""
    from amorsize_executor import AdaptiveExecutor

    with AdaptiveExecutor(**options) as executor:
        walk: Callable[..., Iterable[Any]] = executor.imap if work.is_lazy else executor.map
        return list(walk(work.function, work.source()))


def adaptive_submit(work: Workload) -> Results:
    """Use AdaptiveExecutor by ``submit``, all calls first."""
    from amorsize_executor import AdaptiveExecutor

    with AdaptiveExecutor() as executor:
        return [future.result() for future in [executor.submit(work.function, item) for item in work.source()]]


def adaptive_execute(work: Workload) -> Results:
    """Use ``execute``, which decides once from a sample."""
    from amorsize_executor import execute

    return list(execute(work.function, work.source()))


class Contestant(NamedTuple):
    """Who takes part.

    Attributes:
        run: Does the work.
        module: What is imported before the clock starts.
        what: How it is called in the report.
        name: Of the module's that is used, where not every version has it.
    """

    run: Callable[[Workload], Results]
    module: str
    what: str
    name: str = ""


CONTESTANTS = {
    "serial": Contestant(serial, "time", "a list comprehension"),
    "threads": Contestant(threads, "concurrent.futures.thread", "ThreadPoolExecutor()"),
    "ppe": Contestant(process_pool, "concurrent.futures.process", "ProcessPoolExecutor(), chunksize 1"),
    "ppe_32": Contestant(
        partial(process_pool, chunksize=32), "concurrent.futures.process", "ProcessPoolExecutor(), chunksize 32"
    ),
    "ppe_256": Contestant(
        partial(process_pool, chunksize=256), "concurrent.futures.process", "ProcessPoolExecutor(), chunksize 256"
    ),
    "pool": Contestant(multiprocessing_pool, "multiprocessing.pool", "multiprocessing.Pool()"),
    "loky": Contestant(loky, "loky", "loky.ProcessPoolExecutor"),
    "joblib": Contestant(joblib, "joblib", "joblib.Parallel"),
    "mpire": Contestant(mpire, "mpire", "mpire.WorkerPool"),
    "adaptive": Contestant(adaptive, "amorsize_executor", "AdaptiveExecutor()"),
    "adaptive_isolated": Contestant(
        partial(adaptive, isolate=True), "amorsize_executor", "AdaptiveExecutor(isolate=True)"
    ),
    "adaptive_submit": Contestant(adaptive_submit, "amorsize_executor", "AdaptiveExecutor() by submit"),
    "adaptive_execute": Contestant(adaptive_execute, "amorsize_executor", "execute()", "execute"),
}


def is_installed(who: str) -> bool:
    """Tell whether a contestant can take part."""
    contestant = CONTESTANTS[who]
    try:
        module = importlib.import_module(contestant.module)
    except ModuleNotFoundError:
        return False
    return not contestant.name or hasattr(module, contestant.name)


def check(work: Workload, results: Results) -> None:
    """Raise if there are too few results, or if the first, the middle or the last one is wrong."""
    count = len(work.items)
    assert len(results) == count, f"{len(results)} results of {count}"
    for index in {0, count // 2, count - 1} if count else ():
        wanted, given = work.function(work.items[index]), results[index]
        same = wanted == given
        assert same if isinstance(same, bool) else same.all(), f"result {index} is wrong"


def main() -> None:
    """Run one contestant once."""
    who, name, *share = sys.argv[1:]
    contestant = CONTESTANTS[who]
    work = make(name, *map(float, share))
    importlib.import_module(contestant.module)
    began = time.perf_counter()
    results = contestant.run(work)
    seconds = time.perf_counter() - began
    check(work, results)
    print(f"{seconds:.6f}")


if __name__ == "__main__":
    main()
