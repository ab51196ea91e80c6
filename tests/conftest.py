"""What every test is held to: it leaves nothing behind, and its temporary files go to a place of their own."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import pytest

EXIT_LIMIT_S = 5.0  # exits are asynchronous; a leak stays
POLL_S = 0.005
HAS_PROC = Path(f"/proc/self/task/{os.getpid()}/children").exists()
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - looked at, never written to


# --- Leaks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Belongings:
    """What this process has: a test's are compared before and after.

    Attributes:
        processes: Ids of all descendants, zombies too.
        threads: Python's threads. Native ones are left out: NumPy starts some on import, for good.
        descriptors: Open file descriptors, with what they point to (a pipe's or memfd's name has its inode).
        files: Names in the temporary directory, and of shared memory that is ours.
    """

    processes: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[str, str]]
    files: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        """Look; about 0.2 ms. Where there is no ``/proc``, processes and descriptors are not seen."""
        return cls(
            frozenset(_descendants("self")) if HAS_PROC else frozenset(),
            frozenset(threading.enumerate()),
            frozenset(_descriptors()) if HAS_PROC else frozenset(),
            frozenset(_named_files()),
        )

    def has_more_than(self, before: Belongings) -> bool:
        """Tell whether anything is here that was not there before."""
        return bool(
            self.processes - before.processes
            or self.threads - before.threads
            or self.descriptors - before.descriptors
            or self.files - before.files,
        )

    def describe_growth(self, before: Belongings) -> str:
        """List what is here that was not there before, one a line."""
        lines = [f"process {pid}: {_describe_process(pid)}" for pid in sorted(self.processes - before.processes)]
        lines += [f"thread {thread!r}" for thread in self.threads - before.threads]
        lines += [f"descriptor {fd}: {target}" for fd, target in sorted(self.descriptors - before.descriptors)]
        lines += [f"file {name}" for name in sorted(self.files - before.files)]
        return "\n".join(lines)

    def without(self, excepted: Belongings) -> Belongings:
        """Leave out processes and descriptors that no test can be blamed for."""
        fds = {fd for fd, _ in excepted.descriptors}
        return Belongings(
            self.processes - excepted.processes,
            self.threads,
            frozenset(item for item in self.descriptors if item[0] not in fds),
            self.files,
        )


def _descendants(process: str) -> Iterator[int]:
    """Read the process tree from ``/proc``; psutil would walk all processes of the machine."""
    try:
        tasks = os.listdir(f"/proc/{process}/task")
    except OSError:
        return
    for task in tasks:
        try:
            with open(f"/proc/{process}/task/{task}/children", "rb") as file:
                children = file.read().split()
        except OSError:
            continue
        for child in children:
            yield int(child)
            yield from _descendants(child.decode())


def _descriptors() -> Iterator[tuple[str, str]]:
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the descriptor of this very listing
            continue
        if not target.endswith(".ttf"):  # matplotlib keeps its fonts open
            yield fd, target


def _named_files() -> Iterator[str]:
    # pymp-*: multiprocessing's own directory for sockets, one a process, removed at its end.
    directory = tempfile.gettempdir()
    yield from (os.path.join(directory, name) for name in os.listdir(directory) if not name.startswith("pymp-"))
    # Shared memory is the whole machine's: only names that say they are ours can be told from a neighbour's.
    if os.path.isdir(SHARED_MEMORY):
        own = ("amorsize", f"-{os.getpid()}-")
        yield from (
            f"{SHARED_MEMORY}/{name}" for name in os.listdir(SHARED_MEMORY) if any(part in name for part in own)
        )


def _describe_process(pid: int) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "has just ended"
    return "zombie" if state == "Z" else f"state {state}, {command}"


def _standing_services() -> Belongings:
    """Find the helpers that multiprocessing and loky start once a process and keep until its end.

    An explicit ``mp_context`` of spawn, forkserver or loky brings them. They are found by the id that their owner
    keeps, not by command line: workers forked from a fork server have its command line, and they are leaks.
    """
    singletons = (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid", "_fd"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid", "_forkserver_alive_fd"),
        ("loky.backend.resource_tracker", "_resource_tracker", "_pid", "_fd"),
    )
    processes: set[int] = set()
    descriptors: set[tuple[str, str]] = set()
    for module, name, pid_field, fd_field in singletons:
        owner: Any = getattr(sys.modules.get(module), name, None)
        pid, fd = getattr(owner, pid_field, None), getattr(owner, fd_field, None)
        if pid is not None:
            processes.add(pid)
        if fd is not None:
            descriptors.add((str(fd), ""))
    return Belongings(frozenset(processes), frozenset(), frozenset(descriptors), frozenset())


def find_leaks(before: Belongings, *, limit_s: float = EXIT_LIMIT_S) -> str:
    """Compare with now, and give what is on its way out up to ``limit_s`` seconds to go.

    Returns:
        What is left behind, one a line; empty if nothing is.
    """
    after = Belongings.now()
    if not after.has_more_than(before):
        return ""
    gc.collect()  # an executor that was dropped in a cycle ends when it is collected
    deadline_s = time.monotonic() + limit_s
    while True:
        after = Belongings.now().without(_standing_services())
        if not after.has_more_than(before):
            return ""
        if time.monotonic() > deadline_s:
            return after.describe_growth(before)
        time.sleep(POLL_S)


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fail a test that leaves a process, zombie, thread, descriptor or temporary file behind."""
    before = Belongings.now()
    yield
    leaks = find_leaks(before)
    if leaks:
        pytest.fail(f"left behind by this test:\n{leaks}", pytrace=False)


# --- Temporary files ------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Give this run a temporary directory of its own, so that what stays in it is a leak of ours.

    pytest's own ``tmp_path`` directories stay where they are: pytest keeps some of them on purpose.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    private = tempfile.mkdtemp(prefix="amorsize-")
    os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), private))
    tempfile.tempdir = None  # looked up anew at the next use
    # multiprocessing removes its directory in there with priority -100; lower priorities come later.
    Finalize(None, shutil.rmtree, args=(private,), kwargs={"ignore_errors": True}, exitpriority=-101)


# --- What a run says at its end -------------------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts of the conformance runs, which pytest would keep to itself when they pass."""
    lines = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "conformance"
    ]
    if lines:
        terminalreporter.section("conformance with CPython's own tests")
        for line in lines:
            terminalreporter.write_line(f"conformance {line}")
