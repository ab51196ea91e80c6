"""An executor in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from amorsize_executor.records import Lane, Profile
from amorsize_executor.wording import name_function, say_count, say_seconds

if TYPE_CHECKING:
    from amorsize_executor.engine.dispatcher import Engine
    from amorsize_executor.records import Decision, Plan

WIDTH = 79
MOST_LINES = 10
"""Functions, and decisions, that a report shows."""

_LABEL = 11  # columns before the text of a line
_NAME = 40


def stats(engine: Engine) -> dict[str, Any]:
    """Return counts and measurements so far. Reads without the lock: figures may be a moment apart."""
    now = plan(engine)
    workers = [worker for worker in list(engine.workers.values()) if not worker.is_killed]
    counts = engine.counts
    return {
        "state": state(engine),
        "lane": str(now.lane),
        "workers": len(workers),
        "workers_busy": sum(bool(worker.in_hand) for worker in workers),
        "workers_wanted": now.workers,
        "workers_started": counts["workers started"],
        "workers_lost": counts["workers lost"],
        "workers_retired": counts["workers retired"],
        "how_started": getattr(engine.backend, "how", engine.backend.name),
        "chunksize": now.chunksize,
        "reason": now.reason,
        "calls_waiting": engine.calls_waiting(),
        "calls_running": engine.calls_running(),
        "calls_done": counts["done"],
        "calls_failed": counts["failed"],
        "calls_cancelled": counts["cancelled"],
        "calls_run_by_the_caller": counts["helped"],
        "calls_retried": counts["retried"],
        "calls_held": counts["held"],
        "calls_refused": counts["refused"],
        "calls_answered": counts["answered"],
        "calls_timed_out": counts["timed out"],
        "chunks": counts["chunks"],
        "chunks_taken_back": counts["taken back"],
        "functions": [entry._asdict() | {"lane": str(entry.lane)} for entry in profiles(engine)],
    }


def profiles(engine: Engine) -> list[Profile]:
    """Return what is known of the functions that were called here, the last measured at the end."""
    return [
        Profile(
            name_function(key),
            known.calls - known.remembered,
            known.call_s,
            math.sqrt(known.variance_s2),
            known.longest_s,
            known.waiting_share,
            known.cpu_share,
            known.bytes_in,
            known.bytes_out,
            known.memory_growth,
            known.surprises,
            known.last_lane or Lane.CALLER,
        )
        for key, known in list(engine.tuner.profiles.items())
        if known.calls > known.remembered
    ]


def plan(engine: Engine) -> Plan:
    """Return the plan; where no call is left there is nothing to predict."""
    word = state(engine)
    now = engine.tuner.plan
    if word in ("idle", "ended", "broken"):
        now = now._replace(predicted_s=None, serial_s=None)
    return now._replace(workers=0) if word in ("ended", "broken") else now


def state(engine: Engine) -> str:
    """Return idle, running, broken (it has failed and is not shut down), shutting down or ended."""
    if engine.is_shut_down:
        return "ended" if engine.has_ended else "shutting down"
    if engine.broken is not None:
        return "broken"
    return "running" if engine.calls_running() or engine.calls_waiting() else "idle"


def one_line(engine: Engine) -> str:
    """Return what ``repr`` shows."""
    facts = stats(engine)
    return f"<AdaptiveExecutor {facts['state']}: {_say_pool(facts)}; {_say_calls(facts)}>"


def render(facts: dict[str, Any], decisions: Sequence[Decision]) -> str:
    """Return a page of text, 79 columns wide, from ``stats`` and decisions; of long lists only the end."""
    helped, sent = facts["calls_run_by_the_caller"], facts["chunks"]
    lines = [
        *_wrap(f"{facts['state']}: ", _say_pool(facts)),
        *_line("why", facts["reason"]),
        *_line("calls", f"{_say_calls(facts)}; {helped:,} run by the caller"),
        *_say_layers(facts),
        *_line("chunks", f"{sent:,} sent, {facts['chunks_taken_back']:,} partly taken back"),
        *_line(
            "workers",
            f"{facts['workers_started']:,} started, {facts['workers_lost']:,} lost, "
            f"{facts['workers_retired']:,} retired; {facts['how_started']}",
        ),
    ]
    functions = facts["functions"]
    if functions:
        lines.append("functions, the last measured at the end")
        lines += _earlier(len(functions), "function", 'executor.stats()["functions"]')
    for entry in functions[-MOST_LINES:]:
        took = f"{say_count(entry['calls'], 'call')}, {say_seconds(entry['mean_s'])} each"
        lines += _wrap(f"  {_shorten(entry['function'])}: ", f"{took}, {entry['waiting_share']:.0%} of it waiting")
    if decisions:
        lines.append("decisions, at seconds from the start")
        lines += _earlier(len(decisions), "decision", "executor.decisions()")
    for decision in decisions[-MOST_LINES:]:
        about = f"{_shorten(decision.function)}: " if decision.function else ""
        change = f"{decision.what} {decision.before} -> {decision.after}"
        lines += _line(f"{decision.at_s:.3f}", f"{about}{change}. {decision.reason}")
    return "\n".join(lines)


def render_as(form: str, facts: dict[str, Any], decisions: Sequence[Decision]) -> str:
    """Return ``render``'s page as ``"text"``, or all of it as ``"json"``, ``"markdown"`` or ``"html"``."""
    if form == "text":
        return render(facts, decisions)
    from amorsize_executor.observe import pages  # noqa: PLC0415 - most reports are text

    return pages.RENDERERS[form](facts, decisions)


def _say_pool(facts: dict[str, Any]) -> str:
    workers = f"{say_count(facts['workers'], 'worker')} ({facts['workers_busy']:,} busy)"
    return f"lane {facts['lane']}, {workers}, chunks of {facts['chunksize']:,}"


def _say_calls(facts: dict[str, Any]) -> str:
    """Say where all calls are that were ever submitted, each in one place."""
    waiting, running, done = facts["calls_waiting"], facts["calls_running"], facts["calls_done"]
    failed = f" ({facts['calls_failed']:,} failed)" if facts["calls_failed"] else ""
    cancelled = f", {facts['calls_cancelled']:,} cancelled" if facts["calls_cancelled"] else ""
    return f"{waiting:,} waiting, {running:,} running, {done:,} done{failed}{cancelled}"


def _say_layers(facts: dict[str, Any]) -> list[str]:
    """Say what the layers did; nothing where they did nothing."""
    names = ("retried", "held", "refused", "answered", "timed_out")
    done = [f"{facts[f'calls_{name}']:,} {name.replace('_', ' ')}" for name in names if facts[f"calls_{name}"]]
    return _line("layers", ", ".join(done)) if done else []


def _earlier(total: int, noun: str, where: str) -> Iterator[str]:
    if total > MOST_LINES:
        yield f"  … and {say_count(total - MOST_LINES, f'earlier {noun}')}: {where}"


def _line(label: str, text: str) -> list[str]:
    return _wrap(f"  {label}".ljust(_LABEL), text)


def _wrap(label: str, text: str) -> list[str]:
    import textwrap  # noqa: PLC0415 - a millisecond that only reports are worth

    return textwrap.wrap(f"{label}{text}", WIDTH, subsequent_indent=" " * _LABEL, replace_whitespace=False)


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME else f"…{name[-_NAME + 1 :]}"
