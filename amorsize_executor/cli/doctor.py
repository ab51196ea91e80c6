"""``amorsize doctor``: is it installed as it should be, and what does this machine look like?"""

from __future__ import annotations

import argparse
from typing import Any

from amorsize_executor.cli.main import FAILED
from amorsize_executor.cli.render import Renderer, size, wrap
from amorsize_executor.wording import say_seconds


def add_to(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the parser."""
    parser = verbs.add_parser("doctor", parents=[common], help="check the installation, and show the machine")
    parser.add_argument("--no-measure", action="store_true", help="start no processes to measure what they cost")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, renderer: Renderer) -> int | None:
    """Run the six checks, and show what there is."""
    from amorsize_executor.advice import installation  # noqa: PLC0415 - loads the executor

    checks = installation.check()
    machine = installation.describe_machine()
    methods = [] if arguments.no_measure else installation.measure_start_methods()
    passed = sum(check.is_passed for check in checks)
    answer = {
        "checks": [check._asdict() for check in checks],
        "checks_passed": passed,
        "checks_failed": len(checks) - passed,
        "machine": machine,
        "start_methods": [method._asdict() for method in methods],
    }
    lines = []
    for check in checks:
        first, *rest = wrap(f"{check.name}: {check.detail}", 74)
        lines += [
            f"{renderer.bold('PASS' if check.is_passed else 'FAIL')}  {first}",
            *(f"      {line}" for line in rest),
        ]
    memory = f"{size(machine['available_memory'])} of {size(machine['memory_limit'])} available"
    quota = "none" if machine["quota_cores"] is None else f"{machine['quota_cores']:g} cores"
    facts = {
        "python": machine["python"],
        "system": machine["system"],
        "cores": f"{machine['cores']} usable, {machine['physical_cores']} physical",
        "quota": quota,
        "memory": memory,
        "workers start": machine["how_workers_start"],
    }
    costs = [
        f"  {method.name.ljust(12)}  {method.problem or say_seconds(method.seconds)}"
        f"{'  (the default of multiprocessing)' if method.is_default else ''}"
        for method in methods
    ]
    lines += [
        "",
        *renderer.pairs(facts),
        *(["", renderer.bold("a process until it has answered"), *costs] if costs else []),
    ]
    lines += ["", f"{passed} of {len(checks)} checks passed"]
    renderer.show(answer, *lines)
    return None if passed == len(checks) else FAILED
