"""Which domains are asked for with names that look like noise? Entropy per domain over a large DNS log, in parallel.

    python examples/log_entropy.py                  # 120 MB, 1 to as many workers as there are cores
    python examples/log_entropy.py --megabytes 4 --workers 2

Data that is smuggled out through DNS goes into host names: they are long, and their letters have a high entropy. The
log is synthetic: a seeded generator writes it, with three domains that tunnel among two thousand that do not. It is
streamed: a block of a mebibyte is a call, and no more than a few blocks a worker are in memory at any time.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import psutil

from amorsize_executor import AdaptiveExecutor, optimize_streaming

SEED = 53
BLOCK = 1 << 20
DOMAINS = 2_000
TUNNELS = ("update-telemetry.example", "cdn-metrics.example", "img-cache.example")
HOSTS = ("www", "mail", "api", "static", "img", "ns1", "login", "cdn7")
HEX = "0123456789abcdef"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TUNNELLED = 0.01  # share of the queries

Totals = dict[str, tuple[int, float, float]]


# --- the log ---


def write_log(path: Path, megabytes: float, seed: int = SEED) -> int:
    """Write a log of so many megabytes: ``seconds client type name`` a line; return the number of lines."""
    rng = random.Random(seed)
    names = ["".join(rng.choices(LETTERS, k=rng.randint(4, 12))) + ".example" for _ in range(DOMAINS)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, DOMAINS + 1)))  # a few are asked for often
    size, lines = int(megabytes * 1_000_000), 0
    with path.open("w", encoding="ascii", newline="\n") as log:
        while log.tell() < size:
            asked = rng.choices(names, cum_weights=weights, k=10_000)
            hosts = rng.choices(HOSTS, k=10_000)
            for place in range(0, 10_000, int(1 / TUNNELLED)):
                asked[place] = rng.choice(TUNNELS)
                hosts[place] = "".join(rng.choices(HEX, k=40))
            log.write(
                "".join(
                    f"{(lines + number) / 500:.3f} 10.0.{number % 7}.{number % 251} A {host}.{name}\n"
                    for number, (host, name) in enumerate(zip(hosts, asked))
                )
            )
            lines += 10_000
    return lines


def read_blocks(path: Path) -> Generator[bytes, None, None]:
    """Yield the log in blocks of whole lines, about a mebibyte each."""
    with path.open("rb") as log:
        while block := log.read(BLOCK):
            yield block + log.readline()


# --- what is called ---


def entropy(text: str) -> float:
    """Return the Shannon entropy of a text's letters, in bits a letter."""
    length = len(text)
    return -sum(count / length * math.log2(count / length) for count in Counter(text).values())


def measure_block(block: bytes) -> Totals:
    """Return (queries, added entropy, highest entropy) of each domain in a block."""
    totals: Totals = {}
    for line in block.decode("ascii").splitlines():
        host, _, domain = line.rpartition(" ")[2].partition(".")
        bits = entropy(host)
        queries, added, highest = totals.get(domain, (0, 0.0, 0.0))
        totals[domain] = queries + 1, added + bits, max(highest, bits)
    return totals


# --- the survey ---


class Survey:
    """Adds up blocks, and watches the memory of this process.

    Attributes:
        totals: (queries, added entropy, highest entropy) by domain.
        growth: The most bytes that this process has had above what it had at the beginning.
    """

    def __init__(self) -> None:
        self.totals: Totals = {}
        self.growth = 0
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss

    def add(self, block: Totals) -> None:
        """Add a block's figures."""
        for domain, (queries, added, highest) in block.items():
            so_far = self.totals.get(domain, (0, 0.0, 0.0))
            self.totals[domain] = so_far[0] + queries, so_far[1] + added, max(so_far[2], highest)
        self.growth = max(self.growth, self._process.memory_info().rss - self._before)

    def noisiest(self, count: int) -> list[tuple[str, int, float]]:
        """Return (domain, queries, mean entropy), the highest entropy first."""
        means = [(domain, queries, added / queries) for domain, (queries, added, _) in self.totals.items()]
        return sorted(means, key=lambda row: (-row[2], row[0]))[:count]


def survey(path: Path, workers: int) -> tuple[Survey, float]:
    """Read the log with so many workers, 0 for plain serial code; return the survey and the seconds."""
    found = Survey()
    began = time.perf_counter()
    if not workers:
        for block in read_blocks(path):
            found.add(measure_block(block))
        return found, time.perf_counter() - began
    with AdaptiveExecutor(max_workers=workers) as executor:
        for totals in executor.imap(measure_block, read_blocks(path), buffersize=4 * workers):
            found.add(totals)
    return found, time.perf_counter() - began


def show_advice(path: Path) -> None:
    """Print what ``optimize_streaming`` recommends for this log."""
    blocks = read_blocks(path)
    print(optimize_streaming(measure_block, blocks))
    blocks.close()


def main() -> None:
    """Write the log, read it in all ways, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=120.0, help="size of the log (default: 120)")
    parser.add_argument("--workers", type=int, default=psutil.cpu_count() or 1, help="most workers (default: cores)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "dns.log")
        lines = write_log(path, options.megabytes)
        size = path.stat().st_size
        print(f"a log of {size / 1e6:.1f} MB, {lines:,} queries\n")
        show_advice(path)
        print("\nworkers      time  speed-up  memory of this process")
        first: tuple[Totals, float] | None = None
        for workers in range(options.workers + 1):
            found, took_s = survey(path, workers)
            first = first or (found.totals, took_s)
            if found.totals != first[0]:
                message = f"{workers} workers found other figures than serial code"
                raise SystemExit(message)
            name = str(workers) if workers else "serial"
            print(f"{name:>7}  {took_s:6.2f} s  {first[1] / took_s:7.2f}x  +{found.growth / 1e6:.1f} MB")
        print("\nall with equal figures; the noisiest domains:")
        for domain, queries, bits in found.noisiest(5):
            print(f"  {domain:<28} {queries:9,} queries  {bits:.2f} bits a letter")


if __name__ == "__main__":
    main()
