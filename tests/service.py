"""A small web service with moods: it answers by a plan, is down for a while, and counts what it was asked."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OK, BUSY, BROKEN, GONE, SILENT = 200, 429, 500, 410, 0


class ServiceError(Exception):
    """The service answered with an error; ``retry_after`` is in seconds, or None."""

    def __init__(self, status: int, retry_after: float | None = None) -> None:
        super().__init__(status, retry_after)
        self.status, self.retry_after = status, retry_after


class GoneError(ServiceError):
    """The service answers, and has no such number."""


class Service(ThreadingHTTPServer):
    """Answers ``GET /<number>`` with ``number * number``, or as the plan says.

    Args:
        plan: By number, the statuses of its first answers; ``OK`` once they are used up.
        doomed: Numbers that are always answered with ``GONE``.
        outage: Requests, counted from 0 over all numbers, that are answered with ``BROKEN``.
    """

    def __init__(self, plan: dict[int, list[int]], doomed: set[int], outage: range) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan, self.doomed, self.outage = plan, doomed, outage
        self.asked: Counter[int] = Counter()
        self.answers: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.ends = threading.Event()
        self.port = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def status_of(self, number: int) -> int:
        """Return the next answer for a number, and count it."""
        with self.lock:
            status = OK
            if self.answers.total() in self.outage:
                status = BROKEN
            elif number in self.doomed:
                status = GONE
            else:
                planned = self.plan.get(number, [])
                if self.asked[number] < len(planned):
                    status = planned[self.asked[number]]
                self.asked[number] += 1
            self.answers[status] += 1
            return status

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was stopped is no error of the service."""

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.ends.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def do_GET(self) -> None:
        """Answer, or stay silent until the service ends."""
        number = int(self.path[1:])
        status = self.server.status_of(number)
        if status == SILENT:
            self.server.ends.wait()
            self.close_connection = True
            return
        body = str(number * number).encode() if status == OK else b"no"
        head = f"HTTP/1.1 {status} \r\nContent-Length: {len(body)}\r\n"
        if status == BUSY:
            head += "Retry-After: 0.02\r\n"
        self.wfile.write(head.encode() + b"\r\n" + body)


_connections: dict[int, http.client.HTTPConnection] = {}


def fetch(port: int, number: int) -> int:
    """Ask the service for a number's square, on this process's own connection.

    Raises:
        GoneError: It has no such number.
        ServiceError: It answered with another status than 200.
    """
    connection = _connections.setdefault(port, http.client.HTTPConnection("127.0.0.1", port))
    try:
        connection.request("GET", f"/{number}")
        response = connection.getresponse()
        body = response.read()
    except BaseException:
        connection.close()
        raise
    if response.status != OK:
        after = response.getheader("Retry-After")
        raise (GoneError if response.status == GONE else ServiceError)(
            response.status, None if after is None else float(after)
        )
    return int(body)
