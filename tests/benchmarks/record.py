"""Where measurements are kept, on what they were made, and how one is made in a fresh process."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import loky
import psutil

from tests.benchmarks import tasks

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs" / "explanation" / "performance.json"
LIBRARIES = "amorsize-executor", "numpy", "loky", "joblib", "mpire", "cloudpickle", "psutil", "tblib"
LIMIT_S = 240.0


class FailedRunError(Exception):
    """A measuring process failed, or took too long."""


def run_fresh(module: str, *arguments: object, limit_s: float = LIMIT_S) -> str:
    """Run a module of this folder in a process of its own and return the last line that it prints.

    Raises:
        FailedRunError: It failed, printed nothing, or took longer than ``limit_s`` seconds.
    """
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"longer than {limit_s:g} s"
        raise FailedRunError(message) from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise FailedRunError((done.stderr.strip().splitlines() or ["it printed nothing"])[-1])
    return lines[-1]


def environment() -> dict[str, str]:
    """Return the environment of measuring processes: one thread inside NumPy, and work of a known size."""
    if tasks.ROUND_US not in os.environ:
        os.environ[tasks.ROUND_US] = repr(tasks.measure_round())
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(ROOT)}


def median(values: Sequence[float]) -> float | None:
    """Return the median; None of nothing."""
    return statistics.median(values) if values else None


def describe() -> dict[str, Any]:
    """Say on what something is measured, and how busy it was with other things before."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "machine": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": loky.cpu_count(),
        "physical_cores": loky.cpu_count(only_physical_cores=True),
        "memory_bytes": psutil.virtual_memory().total,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": versions,
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    """Return the name of the processor, or the architecture's where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def parser(text: str) -> argparse.ArgumentParser:
    """Return the options that all scripts have."""
    made = argparse.ArgumentParser(description=text)
    made.add_argument("--json", type=Path, default=RECORD, help="the record that the results join (%(default)s)")
    made.add_argument("--quick", action="store_true", help="little work, once: shows that it runs, measures nothing")
    return made


def load(path: Path) -> dict[str, Any]:
    """Return the record; empty if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(path: Path, section: str, content: Mapping[str, Any]) -> None:
    """Put a section into the record and leave the others as they are."""
    record = {**load(path), section: content}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
