"""Kinds of work that people have, each with its size: the rows of the race.

Sizes are in microseconds of work; how many rounds of ``tasks.compute`` these are is measured once a race and handed
on in the environment, so that every contestant has the same work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import random
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tests.benchmarks import tasks


class Workload(NamedTuple):
    """One kind of work.

    Attributes:
        function: Called with each item.
        items: The arguments.
        is_lazy: Whether the items come from a generator and results are taken as they come, in order.
    """

    function: Callable[[Any], Any]
    items: Sequence[Any]
    is_lazy: bool = False

    def source(self) -> Iterable[Any]:
        """Return what contestants iterate over."""
        return (item for item in self.items) if self.is_lazy else self.items


class Sizes:
    """Counts and durations, both as the machine and the asked share of the work need them.

    Args:
        share: Of the calls of each workload that are made, > 0 and <= 1.
    """

    def __init__(self, share: float = 1.0) -> None:
        self.share = share
        self.random = random.Random(7)

    def calls(self, count: int) -> int:
        """Return how many calls are made of those that a workload has; at least one."""
        return max(1, round(count * self.share))

    def rounds(self, microseconds: float) -> int:
        """Return how many rounds of ``tasks.compute`` take so long; at least one."""
        return tasks.rounds_of(microseconds)

    def text(self, words: int) -> str:
        """Return so many words."""
        return " ".join(self.random.choice(WORDS) for _ in range(words))


WORDS = tuple(
    f"{head}{tail}" for head in ("lo", "mi", "ra", "te", "su", "ne") for tail in ("rem", "da", "kon", "st", "")
)


# --- What the calls do ----------------------------------------------------------------------------------------


def parse_json(text: str) -> float:
    """Parse a document and add up one of its columns."""
    return math.fsum(row["price"] for row in json.loads(text))


def match_line(line: str) -> tuple[str, int] | None:
    """Find the request in a line of a server's log."""
    found = LINE.search(line)
    return None if found is None else (found["path"], int(found["status"]))


LINE = re.compile(r'"(?:GET|POST) (?P<path>/[\w/.-]*)[^"]*" (?P<status>\d{3})')


def build_page(number: int) -> str:
    """Build some kilobytes of text, piece by piece."""
    rows = [f"<tr><td>{row}</td><td>{row * number % 97:>8}</td></tr>" for row in range(120)]
    return "<table>" + "\n".join(rows).replace("8", "eight") + "</table>"


def count_words(text: str) -> dict[str, int]:
    """Count words in a dictionary, one by one."""
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def smooth(values: np.ndarray) -> np.ndarray:
    """Do a few steps on a small array."""
    return np.convolve(np.sqrt(np.abs(values)), np.ones(5) / 5, mode="same")


def solve(seed: int) -> float:
    """Solve a system of 150 equations."""
    matrix = np.random.default_rng(seed).random((150, 150)) + 150 * np.eye(150)
    return float(np.linalg.solve(matrix, np.ones(150)).sum())


def query(number: int) -> int:
    """Ask a fresh database in memory, after the wait of a network."""
    time.sleep(0.004)
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE things (name TEXT, price INTEGER)")
        rows = [(f"thing {row}", row * number % 1013) for row in range(500)]
        database.executemany("INSERT INTO things VALUES (?, ?)", rows)
        (total,) = database.execute("SELECT sum(price) FROM things WHERE name LIKE '%7'").fetchone()
        return int(total)


def wait_and_compute(rounds: int) -> int:
    """Wait as long as the work that follows takes."""
    time.sleep(0.003)
    return tasks.compute(rounds)


def dive(depth: int) -> str:
    """Recurse, fail at the bottom and tell how it ended."""
    try:
        return _descend(depth)
    except LookupError as error:
        return f"{type(error.__cause__).__name__} below {depth}"


def _descend(depth: int) -> str:
    if depth == 0:
        message = "the bottom"
        raise ValueError(message)
    try:
        return _descend(depth - 1)
    except (ValueError, LookupError) as error:
        raise LookupError(depth) from error


def unfold(seed: int) -> list[float]:
    """Return much more than was given."""
    draw = random.Random(seed).random
    return [draw() for _ in range(10_000)]


def digest(data: bytes) -> str:
    """Hash, without the interpreter's lock."""
    return hashlib.sha256(data).hexdigest()


def squeeze(data: bytes) -> bytes:
    """Compress, without the interpreter's lock."""
    return zlib.compress(data, 6)


@dataclass(frozen=True)
class Order:
    """An object with a few fields."""

    number: int
    customer: str
    prices: tuple[float, ...]


def discount(order: Order) -> Order:
    """Make another object from one."""
    return Order(order.number, order.customer.title(), tuple(round(price * 0.9, 2) for price in order.prices))


def total(array: np.ndarray) -> float:
    """Touch all of an array, and no more."""
    return float(array.sum())


def make_array(count: int) -> np.ndarray:
    """Return an array of so many bytes."""
    return np.ones(count, dtype=np.uint8)


def sort_some(array: np.ndarray) -> float:
    """Sort an array."""
    return float(np.sort(array)[::7].sum())


class Table:
    """A function with megabytes of state, which it is costly to send along with each call."""

    def __init__(self, count: int, rounds: int) -> None:
        self.numbers = np.arange(count, dtype=np.float64)
        self.rounds = rounds

    def __call__(self, index: int) -> float:
        """Look up a number, and work a little."""
        return float(self.numbers[index * 7919 % len(self.numbers)]) + tasks.compute(self.rounds)


# --- The rows: the name, and what the docstring says of it ----------------------------------------------------


def tiny_few(sizes: Sizes) -> Workload:
    """100 additions."""
    return Workload(tasks.inc, range(sizes.calls(100)))


def tiny_many(sizes: Sizes) -> Workload:
    """200,000 additions."""
    return Workload(tasks.inc, list(range(sizes.calls(200_000))))


def small(sizes: Sizes) -> Workload:
    """20,000 calls of 50 µs."""
    return Workload(tasks.compute, [sizes.rounds(50)] * sizes.calls(20_000))


def medium(sizes: Sizes) -> Workload:
    """1,000 calls of 2 ms."""
    return Workload(tasks.compute, [sizes.rounds(2000)] * sizes.calls(1000))


def coarse(sizes: Sizes) -> Workload:
    """16 calls of 150 ms."""
    return Workload(tasks.compute, [sizes.rounds(150_000)] * sizes.calls(16))


def heavy_tail(sizes: Sizes) -> Workload:
    """1,200 calls, log-normally distributed around 0.6 ms, the longest 0.4 s."""
    draw = sizes.random.lognormvariate
    items = [sizes.rounds(min(400_000, draw(math.log(600), 1.6))) for _ in range(sizes.calls(1200))]
    return Workload(tasks.compute, items)


def ascending(sizes: Sizes) -> Workload:
    """700 calls of 8 µs to 5.6 ms, the shortest first."""
    return Workload(tasks.compute, [sizes.rounds(8 * (step + 1)) for step in range(sizes.calls(700))])


def descending(sizes: Sizes) -> Workload:
    """The same, the longest first."""
    return Workload(tasks.compute, ascending(sizes).items[::-1])


def io(sizes: Sizes) -> Workload:
    """300 sleeps of 20 ms."""
    return Workload(tasks.nap, [0.02] * sizes.calls(300))


def big_args(sizes: Sizes) -> Workload:
    """64 arrays of 4 MB in, summed."""
    return Workload(total, [np.ones(500_000) for _ in range(sizes.calls(64))])


def big_args_work(sizes: Sizes) -> Workload:
    """32 arrays of 4 MB in, sorted."""
    return Workload(sort_some, [np.random.default_rng(seed).random(500_000) for seed in range(sizes.calls(32))])


def big_results(sizes: Sizes) -> Workload:
    """64 arrays of 4 MB out."""
    return Workload(make_array, [4_000_000] * sizes.calls(64))


def closure(sizes: Sizes) -> Workload:
    """300 calls of 0.5 ms of a function that carries 48 MB."""
    return Workload(Table(6_000_000, sizes.rounds(500)), range(sizes.calls(300)))


def drift(sizes: Sizes) -> Workload:
    """20,000 calls of 5 µs, then 60 of 20 ms."""
    cheap, dear = [sizes.rounds(5)] * sizes.calls(20_000), [sizes.rounds(20_000)] * sizes.calls(60)
    return Workload(tasks.compute, cheap + dear)


def json_documents(sizes: Sizes) -> Workload:
    """2,000 JSON texts of 12 kB, parsed and added up."""
    rows = [{"id": n, "name": sizes.text(2), "price": n / 7, "tags": ["a", "b"]} for n in range(180)]
    return Workload(parse_json, [json.dumps(rows[n % 9 :]) for n in range(sizes.calls(2000))])


def log_lines(sizes: Sizes) -> Workload:
    """60,000 lines of a log, matched by a regular expression."""
    lines = [f'10.0.0.{n} - [{sizes.text(4)}] "GET /{sizes.text(1)}/{n}.html HTTP/1.1" {200 + n}' for n in range(200)]
    return Workload(match_line, [lines[n % 200] for n in range(sizes.calls(60_000))])


def pages(sizes: Sizes) -> Workload:
    """8,000 texts of 5 kB, built from pieces."""
    return Workload(build_page, range(sizes.calls(8000)))


def word_counts(sizes: Sizes) -> Workload:
    """1,500 texts of 3,000 words, counted in dictionaries."""
    texts = [sizes.text(3000) for _ in range(20)]
    return Workload(count_words, [texts[n % 20] for n in range(sizes.calls(1500))])


def small_arrays(sizes: Sizes) -> Workload:
    """12,000 NumPy arrays of 1,000 numbers, in and out."""
    arrays = [np.random.default_rng(seed).random(1000) for seed in range(50)]
    return Workload(smooth, [arrays[n % 50] for n in range(sizes.calls(12_000))])


def equations(sizes: Sizes) -> Workload:
    """600 systems of 150 equations, solved by LAPACK on one thread."""
    return Workload(solve, range(sizes.calls(600)))


def queries(sizes: Sizes) -> Workload:
    """300 SQLite queries, each after a wait of 4 ms."""
    return Workload(query, range(sizes.calls(300)))


def half_waiting(sizes: Sizes) -> Workload:
    """300 calls that wait for 3 ms and compute for 3 ms."""
    return Workload(wait_and_compute, [sizes.rounds(3000)] * sizes.calls(300))


def failures(sizes: Sizes) -> Workload:
    """8,000 recursions, 40 deep, with an exception raised anew at each step up."""
    return Workload(dive, [40] * sizes.calls(8000))


def tiny_and_huge(sizes: Sizes) -> Workload:
    """10,000 calls of 2 µs, each 500th of them 60 ms."""
    cheap, dear = sizes.rounds(2), sizes.rounds(60_000)
    return Workload(tasks.compute, [cheap if n % 500 else dear for n in range(sizes.calls(10_000))])


def last_is_longest(sizes: Sizes) -> Workload:
    """400 calls of 2 ms, then one of 300 ms."""
    return Workload(tasks.compute, [sizes.rounds(2000)] * sizes.calls(400) + [sizes.rounds(300_000)])


def generator(sizes: Sizes) -> Workload:
    """5,000 calls of 200 µs from a generator, results taken one by one."""
    return Workload(tasks.compute, [sizes.rounds(200)] * sizes.calls(5000), is_lazy=True)


def generator_tiny(sizes: Sizes) -> Workload:
    """50,000 additions from a generator, results taken one by one."""
    return Workload(tasks.inc, range(sizes.calls(50_000)), is_lazy=True)


def unfolding(sizes: Sizes) -> Workload:
    """800 numbers in, 800 lists of 10,000 numbers out."""
    return Workload(unfold, range(sizes.calls(800)))


def hashes(sizes: Sizes) -> Workload:
    """400 times a megabyte of bytes, hashed without the interpreter's lock."""
    data = sizes.random.randbytes(1 << 20)
    return Workload(digest, [data] * sizes.calls(400))


def compression(sizes: Sizes) -> Workload:
    """60 times 300 kB of text, compressed without the interpreter's lock."""
    data = sizes.text(75_000).encode()
    return Workload(squeeze, [data] * sizes.calls(60))


def orders(sizes: Sizes) -> Workload:
    """15,000 objects of a dataclass in, as many out."""
    return Workload(discount, [Order(n, "jo doe", (n / 3, n / 7, 1.0)) for n in range(sizes.calls(15_000))])


def single(sizes: Sizes) -> Workload:
    """One call of 100 ms."""
    return Workload(tasks.compute, [sizes.rounds(100_000)])


def nothing(_sizes: Sizes) -> Workload:
    """No call at all."""
    return Workload(tasks.inc, [])


KNOWN = (
    *(tiny_few, tiny_many, small, medium, coarse, heavy_tail, ascending, descending, io),
    *(big_args, big_args_work, big_results, closure, drift),
)
"""The fourteen whose mean and worst row have a target."""

MORE = (
    *(json_documents, log_lines, pages, word_counts, small_arrays, equations, queries, half_waiting, failures),
    *(tiny_and_huge, last_is_longest, generator, generator_tiny, unfolding, hashes, compression, orders),
    *(single, nothing),
)
"""What else people have."""

WORKLOADS: dict[str, Callable[[Sizes], Workload]] = {make.__name__: make for make in (*KNOWN, *MORE)}


def make(name: str, share: float = 1.0) -> Workload:
    """Return a workload by its name, or ``uniform:microseconds:calls``: so many calls, each so long."""
    sizes = Sizes(share)
    if name.startswith("uniform:"):
        _, microseconds, calls = name.split(":")
        return Workload(tasks.compute, [sizes.rounds(float(microseconds))] * int(calls))
    return WORKLOADS[name](sizes)
