"""Finding processes from outside: by ancestry and by a mark in their environment, orphans included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

MARK = "AMORSIZE_TEST_MARK"
ROOT = str(Path(__file__).parent.parent)


def descendants(pid: int | str = "self") -> list[int]:
    """Return the ids of all processes below ``pid``, parents first; zombies too."""
    found: list[int] = []
    try:
        tasks = [task.name for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return found
    for task in tasks:
        try:
            children = Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii").split()
        except OSError:
            continue
        for child in children:
            found += [int(child), *descendants(child)]
    return found


def marked(mark: str) -> list[int]:
    """Return the ids of all processes of the machine that carry a mark, wherever they hang in the tree."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in [entry.name for entry in Path("/proc").iterdir()]:
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(name))
    return found


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie has."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "Z"
        )
    except OSError:
        return True


def poll_until(condition, limit_s: float) -> bool:
    """Wait for what other processes do; return whether it came true within the limit."""
    end_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.002)
    return True


def environment(mark: str | None = None, **extra: str) -> dict[str, str]:
    """Return an environment in which the package and the tests can be imported, with a mark."""
    chosen = {**os.environ, "PYTHONPATH": ROOT, **extra}
    if mark is not None:
        chosen[MARK] = mark
    return chosen


def start_script(path: Path, *arguments: str, mark: str | None = None, **options) -> subprocess.Popen[str]:
    """Start a script in a process group of its own, with its output piped as text."""
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env=environment(mark),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )
