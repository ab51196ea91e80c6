"""A tour of AdaptiveExecutor: a few seconds, and it says what it does as it goes.

    python examples/quickstart.py

There is no ``if __name__ == "__main__":`` here, and no function has to live in a module of its own.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import signal
import tempfile
import textwrap
import time
from concurrent.futures import wait
from pathlib import Path

from amorsize_executor import AdaptiveExecutor, WorkerDiedError

BEGAN = time.perf_counter()
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has only the latter, and it does the same there
FATAL = 7


def title(text: str) -> None:
    """Begin a part of the tour."""
    print(f"\n{text}\n{'-' * len(text)}")


def say(text: str) -> None:
    """Print a sentence, wrapped to 80 columns."""
    print(textwrap.fill(text, 79, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))


def show_plan(executor: AdaptiveExecutor) -> None:
    """Print what the executor is doing, and why."""
    say(repr(executor))
    say(f"why: {executor.plan.reason}")


# --- what is called ---


def count_primes(start: int) -> tuple[int, float, int]:
    """Count the primes in a thousand numbers, the slow way; return (primes, seconds, process id)."""
    began = time.perf_counter()
    primes = sum(
        all(number % divisor for divisor in range(2, math.isqrt(number) + 1)) for number in range(start, start + 1_000)
    )
    return primes, time.perf_counter() - began, os.getpid()


def ask_a_server(question: int) -> int:
    """Wait as a network call does, without using a processor."""
    time.sleep(0.1)
    return question * question


def die_once(marker: str, number: int) -> int:
    """Return a number; but the first process to run the fatal one is killed."""
    if number == FATAL and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), KILL)
    return number


def always_die(_number: int) -> None:
    """Take the process along."""
    os.kill(os.getpid(), KILL)


def nap(name: str) -> str:
    """Take 20 ms."""
    time.sleep(0.02)
    return name


# --- the tour ---


def cheap_work(executor: AdaptiveExecutor) -> None:
    """Show that small work never pays for processes."""
    title("1. Cheap work stays here")
    began = time.perf_counter()
    total = sum(executor.map(math.sqrt, range(20_000)))
    took_s = time.perf_counter() - began
    say(f"20,000 square roots add up to {total:,.0f}, in {took_s * 1e3:.0f} ms.")
    here = executor.stats()["calls_run_by_the_caller"]
    say(f"{here:,} of the calls ran in this very thread, which waited for them anyway.")
    show_plan(executor)


def heavy_work(executor: AdaptiveExecutor) -> None:
    """Show how the cores share what is worth it."""
    title("2. Heavy work spreads")
    began = time.perf_counter()
    results = list(executor.map(count_primes, range(10_000_000, 10_150_000, 1_000)))
    took_s = time.perf_counter() - began
    serial_s = sum(seconds for _primes, seconds, _pid in results)
    say(f"{sum(primes for primes, _seconds, _pid in results):,} primes, in {took_s:.2f} s.")
    pids = {pid for _primes, _seconds, pid in results}
    among = "this one among them" if os.getpid() in pids else "none of them this one"
    say(f"Added up, the calls took {serial_s:.2f} s, in {len(pids)} processes, {among}.")
    show_plan(executor)


def waiting_work(executor: AdaptiveExecutor) -> None:
    """Show that workers are not bound to cores."""
    title("3. Waiting work gets more workers than there are cores")
    began = time.perf_counter()
    calls = 300
    for done, _answer in enumerate(executor.imap(ask_a_server, range(calls)), 1):
        if done == calls // 2:
            say(f"after {done} of {calls} calls:")
            show_plan(executor)
    took_s = time.perf_counter() - began
    say(f"{calls} calls that wait 0.1 s each: {took_s:.2f} s instead of 30 s, on {os.cpu_count()} cores.")


def endless_source(executor: AdaptiveExecutor) -> None:
    """Show that ``imap`` pulls as results are taken."""
    title("4. A stream needs no end")
    drawn = itertools.count(1)
    squares = executor.imap(lambda number: number * number, drawn)
    first = list(itertools.islice(squares, 10))
    squares.close()
    say(f"the first ten squares of all natural numbers: {first}")
    say(f"{next(drawn) - 1:,} numbers were drawn from the source until the stream was closed.")


def priorities(executor: AdaptiveExecutor) -> None:
    """Show what ``options`` is for."""
    title("5. What is urgent goes first")
    order: list[str] = []
    futures = [executor.submit(nap, "background") for _ in range(500)]
    futures += [executor.options(priority=10).submit(nap, "urgent") for _ in range(3)]
    for future in futures:
        future.add_done_callback(lambda future: order.append(future.result()))
    wait(futures)
    places = [place for place, name in enumerate(order, 1) if name == "urgent"]
    say(f"3 urgent calls, submitted after 500 others, ended as number {', '.join(map(str, places))}.")
    say("Only those that workers had in hand already came first.")


def errors_as_values(executor: AdaptiveExecutor) -> None:
    """Show that a stream goes on after an error."""
    title("6. Errors can be values")
    numbers = [3, 2, 1, 0, -1]
    results = executor.imap(lambda number: 60 // number, numbers, on_error="return")
    for number, result in zip(numbers, results):
        say(f"60 // {number}: {result!r}")


def killed_workers() -> None:
    """Show what happens to calls whose worker is killed."""
    title("7. A killed worker costs nothing")
    with AdaptiveExecutor(isolate=True) as executor, tempfile.TemporaryDirectory() as folder:
        marker = str(Path(folder, "marker"))
        results = list(executor.map(die_once, itertools.repeat(marker), range(100)))
        say(f"all results are there and in order: {results == list(range(100))}")
        future = executor.submit(always_die, 0)
        try:
            future.result()
        except WorkerDiedError as error:
            say(f"a call that kills every worker fails alone: {error}")
        say(f"and the executor goes on: {executor.submit(nap, 'done').result()}")
        say(repr(executor))


class Indented(logging.StreamHandler):
    """Shows the log among the rest of the tour."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        say(f"log: {record.getMessage()}")


logging.getLogger("amorsize_executor").addHandler(Indented())
with AdaptiveExecutor() as tuned:
    cheap_work(tuned)
    heavy_work(tuned)
    waiting_work(tuned)
    endless_source(tuned)
    priorities(tuned)
    errors_as_values(tuned)
killed_workers()
print(f"\nThe tour took {time.perf_counter() - BEGAN:.1f} s.")
