"""Fetch 2,000 pages from a service with moods, and get every page that can be had.

    python examples/resilient_fetch.py [--calls 2000] [--seed 7]

It starts a small web server of its own, which by a seeded plan is busy (429 with Retry-After), broken (500), silent, or
down altogether for a while. A few pages do not exist at all. Retry, circuit breaker, rate limit and timeout see to it.
"""

from __future__ import annotations

import argparse
import http.client
import logging
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from amorsize_executor import AdaptiveExecutor, CircuitBreakerPolicy, RateLimitPolicy, RetryPolicy

OK, GONE, BUSY, BROKEN, SILENT = 200, 410, 429, 500, 0
MEANINGS = {OK: "pages", GONE: "'no such page'", BUSY: "'too busy'", BROKEN: "'I am broken'", SILENT: "silence"}


class ServiceError(Exception):
    """The service answered, but not with the page; a ``retry_after`` in seconds is obeyed by the retry."""

    def __init__(self, status: int, retry_after: float = 0.0) -> None:
        super().__init__(status, retry_after)
        self.status, self.retry_after = status, retry_after


class NoSuchPageError(Exception):
    """The service is well, and has no such page; nothing is gained by asking again."""


# --- the service ---


class MoodyService(ThreadingHTTPServer):
    """Answers by a plan: what each page's first requests get, and which requests of all fall into an outage."""

    def __init__(self, pages: int, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        draw = random.Random(seed)
        moods = (BUSY, BROKEN)
        self.plan = {page: [draw.choice(moods)] for page in draw.sample(range(pages), pages // 10)}
        self.plan.update((page, [SILENT]) for page in draw.sample(range(pages), 4))
        self.gone = set(draw.sample(range(pages), 5))
        self.outage = range(pages // 2, pages // 2 + 40)
        self.asked: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.ends = threading.Event()

    def next_status(self, page: int) -> int:
        """Return what a request for a page gets, and count it."""
        with self.lock:
            status = OK
            if sum(self.answers.values()) in self.outage:
                status = BROKEN
            elif page in self.gone:
                status = GONE
            else:
                moods = self.plan.get(page, [])
                if self.asked[page] < len(moods):
                    status = moods[self.asked[page]]
                self.asked[page] += 1
            self.answers[status] += 1
            return status

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that were stopped in the middle."""


class Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    server: MoodyService

    def do_GET(self) -> None:
        """Answer, or stay silent until the service ends."""
        page = int(self.path[1:])
        status = self.server.next_status(page)
        if status == SILENT:
            self.server.ends.wait()
            self.close_connection = True
            return
        body = f"page {page}".encode()
        self.send_response(status)
        if status == BUSY:
            self.send_header("Retry-After", "0.05")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""


# --- what workers do ---

connections: dict[int, http.client.HTTPConnection] = {}


def fetch(port: int, page: int) -> str:
    """Return a page; each worker keeps its connection."""
    connection = connections.setdefault(port, http.client.HTTPConnection("127.0.0.1", port))
    try:
        connection.request("GET", f"/{page}")
        response = connection.getresponse()
        body = response.read().decode()
    except BaseException:
        connection.close()
        raise
    if response.status == GONE:
        raise NoSuchPageError(page)
    if response.status != OK:
        raise ServiceError(response.status, float(response.getheader("Retry-After", "0")))
    return body


# --- the program ---


def report_opening(failures: int, error: BaseException | None) -> None:
    """Say that the circuit opened, unless it was only a probe that failed."""
    if failures > 1:
        print(f"  the circuit opens after {failures} failures in a row, the last one {error!r}; calls wait")


def main() -> None:
    """Run the service and fetch all of its pages."""
    parser = argparse.ArgumentParser(description="Fetch pages from a service with moods.")
    parser.add_argument("--calls", type=int, default=2_000, help="pages to fetch, at least 100")
    parser.add_argument("--seed", type=int, default=7, help="draws the service's moods")
    options = parser.parse_args()
    logging.getLogger("amorsize_executor").setLevel(logging.ERROR)  # this program tells by itself

    service = MoodyService(options.calls, options.seed)
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    port = service.server_address[1]
    print(f"a service with moods listens on port {port}; {options.calls:,} pages are wanted")

    began = time.perf_counter()
    try:
        with AdaptiveExecutor(
            max_workers=4,
            retry=RetryPolicy(
                max_retries=50, initial_delay=0.005, max_delay=0.1, retry_on_exceptions=(ServiceError, TimeoutError)
            ),
            circuit_breaker=CircuitBreakerPolicy(
                failure_threshold=10,
                timeout=0.05,
                while_open="hold",
                excluded_exceptions=(NoSuchPageError,),
                on_open=report_opening,
                on_close=lambda: print("  the circuit closes: the service is well again"),
            ),
            rate_limit=RateLimitPolicy(requests_per_second=5_000, burst_size=100),
            timeout=0.5,
        ) as executor:
            ports = [port] * options.calls
            results = list(executor.imap(fetch, ports, range(options.calls), on_error="return"))
            facts = executor.stats()
    finally:
        service.ends.set()
        service.shutdown()
        thread.join()
        service.server_close()

    failed = {page: result for page, result in enumerate(results) if isinstance(result, BaseException)}
    shown = ", ".join(f"{count:,} times {MEANINGS[status]}" for status, count in service.answers.most_common())
    print(f"done in {time.perf_counter() - began:.1f} s; the service gave {shown}")
    print(
        f"attempts: {facts['calls_retried']:,} were tried again, {facts['calls_timed_out']} of them because the "
        f"service was silent; calls had to wait {facts['calls_held']:,} times"
    )
    for page, error in failed.items():
        print(f"  page {page} cannot be had: {error!r}")
    good = sum(result == f"page {page}" for page, result in enumerate(results))
    print(f"{good:,} pages + {len(failed)} failures = {good + len(failed):,} calls")


main()
