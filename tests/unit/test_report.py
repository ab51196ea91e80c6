"""What an executor says of itself."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise

import pytest

from amorsize_executor import AdaptiveExecutor, Decision, InvalidParameterError, Lane
from amorsize_executor.engine import helper
from amorsize_executor.events import CircuitChanged
from amorsize_executor.observe.report import MOST_LINES, WIDTH, render, render_as
from amorsize_executor.wire.functions import measured_under
from amorsize_executor.wording import make_sentence, name_function, say_count, say_seconds
from tests import payloads
from tests.processes import poll_until

LIMIT_S = 30


def counts_of(executor):
    """Return where the calls are."""
    facts = executor.stats()
    return {name: facts[f"calls_{name}"] for name in ("waiting", "running", "done", "cancelled")}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ns"),
        (2e-9, "2 ns"),
        (1.5e-5, "15 µs"),
        (0.0032, "3.2 ms"),
        (0.99949, "999 ms"),
        (0.9996, "1 s"),
        (1.0, "1 s"),
        (90.0, "90 s"),
        (999.6, "1,000 s"),
        (5034.0, "5,034 s"),
    ],
)
def test_durations_have_the_unit_that_suits_them(seconds, text):
    """Every duration is written alike."""
    assert say_seconds(seconds) == text


def test_counts_and_sentences():
    """One thing is singular, others plural; a sentence begins with a capital unless a parameter does."""
    assert [say_count(number, "worker") for number in (0, 1, 2000)] == ["0 workers", "1 worker", "2,000 workers"]
    assert make_sentence("calls wait") == "Calls wait."
    assert make_sentence("max_workers is 2") == "max_workers is 2."


def test_a_circuit_breakers_changes_are_told_in_words():
    """For the log."""
    changed = CircuitChanged("closed", "half_open", 1)
    assert str(changed) == "a circuit breaker is half open after it was closed (1 failure)"


def test_functions_have_names():
    """Functions go by their names, lambdas by their place, and objects by the names that they carry."""
    numpy = pytest.importorskip("numpy")
    line = test_functions_have_names.__code__.co_firstlineno + 4
    anonymous = lambda: None  # noqa: E731
    names = [name_function(measured_under(item)) for item in (payloads.add, anonymous, abs, str.upper)]
    assert names == ["add", f"<lambda> (test_report.py:{line})", "abs", "str.upper"]
    assert [name_function(measured_under(item)) for item in (numpy.sum, numpy.sqrt)] == ["sum", "sqrt"]
    assert name_function(measured_under(threading.Event().wait)).endswith("wait")


def test_numpys_functions_are_told_apart():
    """Functions of one type that is not Python's own are measured each by itself."""
    numpy = pytest.importorskip("numpy")
    assert measured_under(numpy.sum) != measured_under(numpy.mean)


def test_a_report_is_a_page():
    """However much there is to tell, a report is short, and no wider than a terminal."""
    with AdaptiveExecutor() as executor:
        facts = executor.stats()
    entry = {"function": "outer.<locals>." * 9, "calls": 1, "mean_s": 2e-6, "waiting_share": 0.25}
    facts["functions"] = [entry] * 25
    decision = Decision(1.0, "lane", "caller", "processes", "Because " + "of this " * 20, "long" * 99)
    lines = render(facts, [decision] * 300).splitlines()
    assert len(lines) < 80
    assert max(map(len, lines)) <= WIDTH < 80
    page = "\n".join(lines)
    assert f"… and {300 - MOST_LINES} earlier decisions: executor.decisions()" in page
    assert f"… and {25 - MOST_LINES} earlier functions" in page
    assert "1 call, 2 µs each, 25% of it waiting" in " ".join(page.split())


FORMS = "json", "markdown", "html"


@pytest.fixture(scope="module")
def eventful():
    """Return the facts and decisions of an executor that has done something, with awkward names in them."""
    with AdaptiveExecutor(isolate=True) as executor:
        list(executor.map(payloads.square, range(50)))
    facts = executor.stats()
    facts["functions"][0]["function"] = "<lambda> (a|b_c.py:1)"
    return facts, [*executor.decisions(), Decision(1.5, "lane", "caller", "processes", "Because <&> of *this*", "f|g")]


def test_json_reports_hold_everything(eventful):
    """As plain numbers and strings, all functions and decisions."""
    facts, decisions = eventful
    document = json.loads(render_as("json", facts, decisions))
    assert document["stats"]["calls_done"] == 50
    assert document["functions"][0]["calls"] == 50
    assert document["decisions"][-1] == decisions[-1]._asdict()
    assert len(document["decisions"]) == len(decisions)


def test_markdown_reports_are_tables(eventful):
    """Every row of a table has as many cells as its head, whatever a name holds."""
    lines = render_as("markdown", *eventful).splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# AdaptiveExecutor: ended",
        "## Counts",
        "## Functions",
        "## Decisions",
    ]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert set(widths) == {3, 6, 7}
    assert sum(a != b for a, b in pairwise(widths)) == 2
    assert r"\<lambda\> (a\|b\_c.py:1)" in "\n".join(lines)


def test_html_reports_stand_alone(eventful):
    """They load nothing, and names in them are no markup."""
    page = render_as("html", *eventful)
    assert page.startswith("<!doctype html>")
    assert "&lt;lambda&gt;" in page
    assert "Because &lt;&amp;&gt;" in page
    assert not re.search("<lambda|<script|src=|href=|http", page)
    assert page.count("<table>") == page.count("</table>") == 3


@pytest.mark.parametrize("form", FORMS)
def test_executors_report_in_every_format(form):
    """Also before anything has run; there is no other format."""
    with AdaptiveExecutor() as executor:
        assert "idle" in executor.report(format=form)
        assert executor.report("text") == executor.report()
        with pytest.raises(InvalidParameterError, match="'text', 'json', 'markdown', 'html'"):
            executor.report(format="pdf")


def test_profiles_are_records():
    """One for each function that was called."""
    with AdaptiveExecutor(isolate=True) as executor:
        list(executor.map(payloads.square, range(50)))
    (profile,) = executor.profiles()
    assert (profile.function, profile.calls, profile.lane) == ("square", 50, Lane.PROCESSES)
    assert 0 < profile.mean_s <= profile.longest_s
    assert profile.deviation_s >= 0
    assert profile.bytes_out > 0


def test_an_executor_that_has_run_nothing_is_idle():
    """Before the first call an executor is idle, predicts nothing, and with ``isolate=True`` not in the caller."""
    with AdaptiveExecutor(isolate=True) as executor:
        assert repr(executor).startswith("<AdaptiveExecutor idle: lane processes, 0 workers (0 busy)")
        assert (executor.plan.predicted_s, executor.plan.serial_s) == (None, None)
    assert executor.stats()["state"] == "ended"


def test_every_call_is_counted_somewhere(tmp_path):
    """Submitted calls are waiting, running, done or cancelled, also before the dispatcher has seen them."""
    with AdaptiveExecutor(max_workers=1, isolate=True, chunksize=1) as executor:
        futures = [executor.submit(payloads.wait_for_file, tmp_path / "go") for _ in range(10)]
        assert sum(counts_of(executor).values()) == 10
        assert poll_until(lambda: counts_of(executor)["running"] == 1, LIMIT_S)
        assert counts_of(executor) == {"waiting": 9, "running": 1, "done": 0, "cancelled": 0}
        assert executor.stats()["state"] == "running"
        assert futures[-1].cancel()
        assert poll_until(lambda: counts_of(executor)["cancelled"] == 1, LIMIT_S)
        executor.shutdown(wait=False)
        assert executor.stats()["state"] == "shutting down"
        (tmp_path / "go").touch()
    assert counts_of(executor) == {"waiting": 0, "running": 0, "done": 9, "cancelled": 1}
    assert repr(executor).endswith("0 waiting, 0 running, 9 done, 1 cancelled>")


def test_a_helped_call_is_counted_while_it_runs(monkeypatch):
    """A call in the hands of a waiting caller runs; afterwards the executor is idle again."""
    monkeypatch.setattr(helper, "PATIENCE_S", 60.0)  # however busy the machine is, the caller is waited for
    with AdaptiveExecutor() as executor:
        during = next(executor.map(lambda _: (counts_of(executor), executor.stats()["state"]), [0]))
        assert during == ({"waiting": 0, "running": 1, "done": 0, "cancelled": 0}, "running")
        assert counts_of(executor)["done"] == 1
        assert executor.stats()["state"] == "idle"


def test_what_is_cancelled_by_shutdown_is_counted(tmp_path):
    """``cancel_futures`` and ``kill_workers`` leave every call done or cancelled, and the executor ended."""
    for end in ("cancel", "kill"):
        executor = AdaptiveExecutor(max_workers=1, isolate=True, chunksize=1)
        go = tmp_path / end
        futures = [executor.submit(payloads.wait_for_file, go) for _ in range(5)]
        assert poll_until(futures[0].running, LIMIT_S)
        if end == "cancel":
            executor.shutdown(wait=False, cancel_futures=True)
            go.touch()
        else:
            executor.kill_workers()
        executor.shutdown()
        counts = counts_of(executor)
        assert counts == {"waiting": 0, "running": 0, "done": 1, "cancelled": 4}
        assert executor.stats()["state"] == "ended"


def test_closing_a_stream_cancels_what_has_not_started():
    """Calls of a map that nobody wants any more count as cancelled."""
    with AdaptiveExecutor(max_workers=1, isolate=True) as executor:
        results = executor.imap(payloads.identity, range(100), buffersize=100)
        next(results)
        results.close()
        assert poll_until(lambda: executor.stats()["state"] == "idle", LIMIT_S)
        assert sum(counts_of(executor).values()) == 100


def test_broken_until_it_is_shut_down():
    """A failed initializer leaves an executor broken; shutting it down ends it."""
    executor = AdaptiveExecutor(max_workers=1, initializer=payloads.raise_value_error, initargs=("no",))
    with pytest.raises(Exception, match="initializer"):
        executor.submit(payloads.identity, 1).result()
    assert executor.stats()["state"] == "broken"
    executor.shutdown()
    assert executor.stats()["state"] == "ended"


@pytest.mark.parametrize(("kind", "lane"), [(ThreadPoolExecutor, "threads"), (ProcessPoolExecutor, "processes")])
def test_a_standard_executor_names_the_lane(kind, lane):
    """With an executor of the standard library as backend, the lane is what its workers are."""
    with kind(1) as inner, AdaptiveExecutor(backend=inner) as executor:
        assert executor.plan.lane == lane
        assert re.search(rf"lane {lane}, 0 workers", repr(executor))
