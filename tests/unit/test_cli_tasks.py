"""The verbs about a function and its items: optimize, execute, validate, compare."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from amorsize_executor import load_config
from amorsize_executor.cli import data, task
from amorsize_executor.cli.execute import say_crew
from amorsize_executor.cli.main import make_parser
from amorsize_executor.cli.render import Renderer, dump_json
from amorsize_executor.cli.target import TargetError, load_function
from tests import payloads
from tests.processes import environment, poll_until

pytestmark = pytest.mark.slow

LIMIT_S = 30
SQUARE = "tests.payloads:square"
IDENTITY = "tests.payloads:identity"
RANGE = "--data-range", "20"


class Terminal(io.StringIO):
    """Collects what a terminal would show."""

    def isatty(self):
        """It is one."""
        return True


def start(*arguments, **options):
    """Start the command line as a process of its own."""
    chosen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    return subprocess.Popen([sys.executable, "-m", "amorsize_executor", *map(str, arguments)], **chosen | options)


def run(*arguments, stdin="", **options):
    """Run the command line as a process; return its status, stdout and stderr."""
    with start(*arguments, stdin=subprocess.PIPE, **options) as process:
        out, err = process.communicate(stdin, timeout=60)
    return process.returncode, out, err


# --- optimize ---


def test_a_recommendation_is_text_in_80_columns(amorsize):
    """With its reason, and nothing on stderr."""
    status, out, err = amorsize("optimize", SQUARE, *RANGE)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "Recommendation"
    assert [line.split()[0] for line in lines[1:5]] == ["n_jobs", "chunksize", "executor", "estimated_speedup"]
    assert "Reason: " in out
    assert max(map(len, lines)) <= 80
    assert "\033" not in out


def test_a_recommendation_as_json(amorsize):
    """The keys that programs read; the profile only where it is asked for."""
    status, out, err = amorsize("optimize", SQUARE, *RANGE, "--json")
    answer = json.loads(out)
    assert (status, err) == (0, "")
    assert {"mode", "n_jobs", "chunksize", "estimated_speedup", "reason", "warnings", "executor_type"} <= set(answer)
    assert (answer["mode"], answer["n_jobs"], "profile" in answer) == ("optimize", 1, False)
    for option in ("--profile", "-p", "--explain", "--tips", "--show-overhead"):
        found = json.loads(amorsize("optimize", SQUARE, *RANGE, "--json", option)[1])["profile"]
        assert found["total_items"] == 20
        assert {"physical_cores", "logical_cores", "available_memory_gb", "start_method"} <= set(found)
        assert {"workload_type", "spawn_cost_ms", "avg_execution_time_ms"} <= set(found)


def test_quiet_is_one_line(amorsize):
    """For scripts that want three numbers."""
    out = amorsize("optimize", SQUARE, *RANGE, "-q")[1]
    assert re.fullmatch(r"n_jobs=1 chunksize=\d+ speedup=1\.00x\n", out)


def test_more_is_told_on_demand(amorsize):
    """Each option adds its section."""
    out = amorsize("optimize", SQUARE, *RANGE, "--profile", "--explain", "--tips", "--show-overhead")[1]
    lines = out.splitlines()
    assert {"Overhead", "Tips", "Profile"} <= set(lines)
    assert any("avg_execution_time" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_advice_names_options_of_the_command_line(amorsize):
    """Not parameters of the library; and nothing is fine beside a warning."""
    arguments = "optimize", "tests.payloads:nap", "--data-range", 200, "--tips"
    for form in ("text", "json"):
        out = " ".join(amorsize(*arguments, "--format", form)[1].split())
        assert "times as fast as serial code: --threads" in out
        assert "prefer_threads_for_io" not in out
    words = " ".join(amorsize("optimize", IDENTITY, "--data-range", 10**15, "--tips")[1].split())
    assert "memory: use execute, which writes them as they come" in words
    assert "it is fine as it is" not in words


def test_verbose_and_progress_go_to_stderr(amorsize, monkeypatch):
    """Stdout is the answer's alone; a bar is drawn on terminals only."""
    status, out, err = amorsize("optimize", SQUARE, *RANGE, "--verbose", "--json", "--progress")
    assert (status, json.loads(out)["mode"]) == (0, "optimize")
    assert "Sampling" in err
    assert "#" not in err
    assert task.create_progress_callback() is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    draw = task.create_progress_callback(verbose=True)
    draw("Sampling", 0.5)
    draw("Complete", 1.0)
    shown = sys.stderr.getvalue()
    assert "[###############...............]  50% Sampling" in shown
    assert shown.endswith("100% Complete\n")


def test_colour_can_be_had_or_not(monkeypatch):
    """On a terminal, unless an option, ``NO_COLOR`` or the terminal itself says no."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Renderer(Terminal()).bold("x") == "\033[1mx\033[0m"
    assert Renderer(Terminal(), may_colour=False).bold("x") == "x"
    assert Renderer(io.StringIO()).bold("x") == "x"
    assert make_parser().parse_args(["optimize", SQUARE, *RANGE, "--no-color"]).no_color
    monkeypatch.setenv("NO_COLOR", "")
    assert Renderer(Terminal()).bold("x") == "x"


@pytest.mark.parametrize(
    ("form", "said"),
    [("table", r"n_jobs +1\n"), ("markdown", r"\| n_jobs \| 1 \|\n"), ("json", '"n_jobs": 1,'), ("text", "n_jobs")],
)
def test_recommendations_have_other_forms(amorsize, form, said):
    """Tables of the same facts; JSON wins over all of them."""
    status, out, _err = amorsize("optimize", SQUARE, *RANGE, "--format", form)
    assert status == 0
    assert re.search(said, out)
    assert json.loads(amorsize("optimize", SQUARE, *RANGE, "--format", form, "--json", "-q")[1])["n_jobs"] == 1


def test_yaml_needs_its_package(amorsize, monkeypatch):
    """And says how to get it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    status, out, err = amorsize("optimize", SQUARE, *RANGE, "--format", "yaml")
    assert (status, out) == (1, "")
    assert "pip install 'amorsize-executor[yaml]'" in err
    monkeypatch.undo()
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    assert yaml.safe_load(amorsize("optimize", SQUARE, *RANGE, "--format", "yaml")[1])["n_jobs"] == 1


def test_a_recommendation_is_exported(amorsize, tmp_path):
    """To a file that is replaced, whatever is printed."""
    path = tmp_path / "out.json"
    path.write_text("old", "utf-8")
    assert amorsize("optimize", SQUARE, *RANGE, "-q", "--export", path)[0] == 0
    assert json.loads(path.read_text(encoding="utf-8"))["mode"] == "optimize"
    status, out, err = amorsize("optimize", SQUARE, *RANGE, "--json", "--export", tmp_path / "no" / "out.json")
    assert (status, out) == (1, "")
    assert "cannot be written" in err


def test_a_plan_is_saved_and_never_replaced(amorsize, tmp_path):
    """What was saved can be begun with; stdout is JSON all the same."""
    path = tmp_path / "plan.json"
    status, out, err = amorsize("optimize", SQUARE, *RANGE, "--save-config", path, "--json")
    assert (status, json.loads(out)["mode"]) == (0, "optimize")
    assert err == f"amorsize: the plan is saved in {path}\n"
    plan = load_config(path)
    assert (plan.n_jobs, plan.function_name, plan.data_size) == (1, SQUARE, 20)
    assert plan.is_for(payloads.square)
    status, _out, err = amorsize("optimize", SQUARE, *RANGE, "--save-config", path, "-q")
    assert status == 1
    assert "File exists" in err
    assert load_config(path) == plan


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--export", "no/out.json", "cannot be written: there is no such directory"),
        ("--export", ".", "cannot be written: is a directory"),
        ("--save-config", "plan.json", "File exists; give the plan another name"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(amorsize, tmp_path, option, name, said):
    """No call is made in vain."""
    (tmp_path / "plan.json").touch()
    verb = "optimize" if option == "--save-config" else "execute"
    status, out, err = amorsize(verb, "tests.payloads:refuse_odd", "--data-range", 2, option, tmp_path / name)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert said in err


def test_a_function_that_raises_on_the_sample_is_an_error(amorsize):
    """The answer is to stay serial; the status and one line say what went wrong."""
    status, out, err = amorsize("optimize", "tests.payloads:raise_value_error", *RANGE, "--json")
    assert (status, json.loads(out)["n_jobs"]) == (1, 1)
    assert err == (
        "amorsize: error: tests.payloads:raise_value_error raised ValueError: 0 for a sampled item; "
        "mend it, or leave out the items that it cannot take\n"
    )


# --- execute ---


def test_all_results_are_lines_on_stdout(amorsize):
    """In order, as JSON; how it went is told on stderr."""
    status, out, err = amorsize("execute", SQUARE, "--data-range", 500)
    assert status == 0
    assert [json.loads(line) for line in out.splitlines()] == [n * n for n in range(500)]
    assert err.startswith("500 results in ")
    assert amorsize("execute", SQUARE, *RANGE, "--quiet")[2] == ""


def test_an_execution_as_json(amorsize):
    """One document with everything; results stand in it unless they go to a file."""
    status, out, err = amorsize("execute", SQUARE, *RANGE, "--json")
    answer = json.loads(out)
    assert (status, err) == (0, "")
    assert (answer["mode"], answer["results_count"]) == ("execute", 20)
    assert answer["results"] == [n * n for n in range(20)]
    assert answer["sample_results"] == answer["results"][:10]
    assert {"n_jobs", "chunksize", "estimated_speedup", "reason", "warnings"} <= set(answer["optimization"])
    assert "profile" in json.loads(amorsize("execute", SQUARE, *RANGE, "--json", "-p")[1])["optimization"]


def test_results_go_to_a_file(amorsize, tmp_path):
    """Then stdout has the summary, or its JSON."""
    path = tmp_path / "out.jsonl"
    status, out, err = amorsize("execute", SQUARE, *RANGE, "--output", path)
    assert (status, err) == (0, "")
    assert out.startswith("20 results in ")
    assert path.read_text(encoding="utf-8").splitlines() == [str(n * n) for n in range(20)]
    answer = json.loads(amorsize("execute", SQUARE, "--data-range", 3, "-o", path, "--json")[1])
    assert (answer["output"], "results" in answer, answer["results_count"]) == (str(path), False, 3)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    "options", [("--load-config", "nowhere.json"), ("--checkpoint", "../run"), ("--dead-letters", "")]
)
def test_a_run_without_any_result_replaces_no_file(amorsize, tmp_path, options):
    """The results of the run before are still there; no items are a result."""
    path = tmp_path / "out.jsonl"
    path.write_text("old\n", encoding="utf-8")
    status, out, err = amorsize("execute", SQUARE, *RANGE, "-o", path, *options)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert path.read_text(encoding="utf-8") == "old\n"
    assert amorsize("execute", SQUARE, "--data-range", 0, "-o", path)[0] == 0
    assert path.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize(
    "options",
    [
        ("--output", "items.txt"),
        ("--export", "items.txt"),
        ("--export", "./items.txt"),
        ("--output", "out.jsonl", "--export", "out.jsonl"),
        ("--export", "work.py"),
        ("--memory", "memory.db", "--export", "memory.db"),
    ],
)
def test_nothing_that_is_read_is_written_over(amorsize, options, tmp_path, monkeypatch):
    """That would empty a file before it is read, or lose one of two answers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "items.txt").write_text("a\nb\n", "utf-8")
    (tmp_path / "work.py").write_text("def same(item):\n    return item\n", "utf-8")
    status, out, err = amorsize("execute", "work.py:same", "--data-file", "items.txt", *options)
    assert (status, out) == (2, "")
    assert "give it another name" in err
    assert (tmp_path / "items.txt").read_text(encoding="utf-8") == "a\nb\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["items.txt", "work.py"]


@pytest.mark.parametrize("name", ["work:same", "work.same", "work.py:same"])
def test_the_functions_own_source_is_not_written_over(name, tmp_path):
    """However the function was named."""
    text = "def same(item):\n    return item\n"
    (tmp_path / "work.py").write_text(text, "utf-8")
    for option in ("--output", "--export"):
        status, out, err = run("execute", name, *RANGE, option, "work.py", cwd=tmp_path)
        assert (status, out) == (2, "")
        assert "over the function's module" in err
    assert (tmp_path / "work.py").read_text(encoding="utf-8") == text


def test_the_summary_tells_what_ran_the_calls(amorsize):
    """Not what was recommended."""
    _status, _out, err = amorsize("execute", SQUARE, "--data-range", 5)
    assert "no workers: this process ran the calls" in err
    answer = json.loads(amorsize("execute", SQUARE, "--data-range", 50, "--json", "--timeout", 60)[1])
    assert answer["ran"]["workers_started"] >= 1
    assert (answer["ran"]["calls_run_by_the_caller"], answer["ran"]["calls_done"]) == (0, 50)
    idle = {"workers_started": 1, "calls_done": 20, "calls_run_by_the_caller": 20}
    idle |= {"calls_answered": 0, "lane": "caller"}
    assert say_crew(idle) == "no workers: this process ran the calls"
    assert say_crew({**idle, "calls_run_by_the_caller": 3, "lane": "threads"}) == "1 thread ran the calls"
    assert say_crew({**idle, "calls_run_by_the_caller": 3, "workers_started": 2}) == "2 workers ran the calls"


def test_the_summary_tells_what_the_checkpoint_had(amorsize, tmp_path, monkeypatch):
    """Nobody ran these calls, whatever workers were started."""
    monkeypatch.chdir(tmp_path)
    err = amorsize("execute", SQUARE, "--data-range", 50, "--checkpoint", "run")[2]
    assert re.search(r"; \d+ workers? ran the calls\n", err)
    err = amorsize("execute", SQUARE, "--data-range", 60, "--checkpoint", "run")[2]
    assert "; the checkpoint had 50 of them, and " in err
    status, out, err = amorsize("execute", SQUARE, "--data-range", 60, "--checkpoint", "run")
    assert (status, len(out.splitlines())) == (0, 60)
    assert err.endswith("; the checkpoint had all of them\n")
    assert "Reason" not in err
    answer = json.loads(amorsize("execute", SQUARE, "--data-range", 60, "--checkpoint", "run", "--json")[1])
    assert (answer["ran"]["calls_answered"], answer["ran"]["calls_done"]) == (60, 60)


@pytest.mark.parametrize(
    ("on_error", "status", "lines"),
    [
        ("raise", 1, ["0"]),
        ("skip", 0, ["0", "2"]),
        ("return", 0, ["0", '{"item": 1, "error": "ValueError", "message": "1 is odd"}', "2"]),
    ],
)
def test_what_becomes_of_errors(amorsize, on_error, status, lines):
    """They end the run, are left out, or stand in their place; every call runs once."""
    got, out, err = amorsize("execute", "tests.payloads:refuse_odd", "--data-range", 3, "--on-error", on_error)
    assert (got, out.splitlines()) == (status, lines)
    assert ("item 1: ValueError: 1 is odd" in err) == (on_error == "raise")
    assert err.count("\n") == 1 or "1 call failed" in err


def test_errors_that_cannot_be_written_are_errors_like_others(tmp_path):
    """A run goes on after them, and tells their class."""
    text = "class E(Exception):\n    def __str__(self):\n        return 1 / 0\ndef f(item):\n    raise E\n"
    (tmp_path / "mute.py").write_text(text, "utf-8")
    status, out, _err = run("execute", "mute:f", "--data-range", 2, "--on-error", "return", cwd=tmp_path)
    assert (status, [json.loads(line)["message"] for line in out.splitlines()]) == (0, ["E", "E"])
    status, out, err = run("execute", "mute:f", "--data-range", 2, cwd=tmp_path)
    assert (status, out, "item 0: E: E;" in err) == (1, "", True)


def test_an_execution_begins_with_a_saved_plan(amorsize, tmp_path):
    """And tells where it has it from; what is no plan is one line."""
    path = tmp_path / "plan.json"
    document = {"n_jobs": 2, "chunksize": 3, "executor_type": "thread", "function_name": "square"}
    path.write_text(json.dumps(document), "utf-8")
    status, out, err = amorsize("execute", SQUARE, *RANGE, "--load-config", path, "--json")
    answer = json.loads(out)
    assert (status, err) == (0, "")
    assert (answer["config_source"], answer["n_jobs"], answer["chunksize"]) == (str(path), 2, 3)
    assert (answer["executor_type"], answer["results_count"]) == ("thread", 20)
    path.write_text(json.dumps({**document, "n_jobs": -1}), "utf-8")
    for file, said in (
        (path, "n_jobs must be greater than 0, got -1"),
        (tmp_path / "no.json", f"error: {tmp_path / 'no.json'}: No such file"),
    ):
        status, out, err = amorsize("execute", SQUARE, *RANGE, "--load-config", file)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert said in err


def test_a_plan_of_another_function_is_a_warning(tmp_path):
    """One line on stderr; the function begins without a plan."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"n_jobs": 2, "chunksize": 3, "function_name": "other"}), "utf-8")
    status, out, err = run("execute", SQUARE, "--data-range", 3, "--load-config", path, "-q")
    assert (status, out) == (0, "0\n1\n4\n")
    assert re.fullmatch(r"amorsize: warning: the saved config is for other, not for square, which .*\n", err)


def test_an_execution_has_the_executors_layers(amorsize, tmp_path, monkeypatch):
    """Retry, timeout, checkpoint, dead letters and memory."""
    monkeypatch.chdir(tmp_path)
    arguments = ("execute", "tests.payloads:refuse_odd", "--data-range", 4, "--on-error", "skip", "--json")
    layers = ("--retry", 1, "--timeout", 20, "--checkpoint", "run", "--dead-letters", "dlq", "--memory", "memory.db")
    status, out, _err = amorsize(*arguments, *layers, "--workers", 1)
    answer = json.loads(out)
    assert (status, answer["results"], answer["errors_count"]) == (0, [0, 2], 2)
    assert {path.name for path in tmp_path.iterdir()} >= {"checkpoints", "dlq", "memory.db"}
    assert len(json.loads(amorsize("dlq", "list", "--directory", "dlq", "--json")[1])) == 2


@pytest.mark.parametrize("on_error", ["raise", "return", "skip"])
def test_a_checkpoint_of_other_work_ends_the_run(amorsize, tmp_path, monkeypatch, on_error):
    """No item is to blame, so none is skipped; and nothing else is advised."""
    monkeypatch.chdir(tmp_path)
    assert amorsize("execute", SQUARE, "--data-range", 3, "--checkpoint", "run", "-q")[0] == 0
    arguments = "execute", IDENTITY, "--data-range", 3, "--checkpoint", "run", "--on-error", on_error
    status, out, err = amorsize(*arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("amorsize: error: checkpoint 'run' cannot be resumed: ")
    assert "--on-error" not in err


def test_a_run_with_layers_tells_of_the_workers_that_it_had(amorsize, tmp_path):
    """Which there are none of any more when it is told."""
    path = tmp_path / "items.jsonl"
    path.write_text("0.01\n" * 100, encoding="utf-8")
    command = "execute", "tests.payloads:sleep_return", "--data-file", path, "--retry", 1, "--workers", 2, "--json"
    answer = json.loads(amorsize(*command)[1])
    assert (answer["optimization"]["n_jobs"], answer["ran"]["workers_started"]) == (2, 2)


def test_what_json_does_not_know_is_written_all_the_same():
    """No result is lost after all the work."""
    numpy = pytest.importorskip("numpy")
    values = [float("nan"), {1: 2}, {(1, 2): 3}, {3, 1}, b"x", numpy.float64(2), numpy.arange(2), Path("x"), "ü"]
    assert [dump_json(value) for value in values] == [
        "null",
        '{"1": 2}',
        '{"(1, 2)": 3}',
        "[1, 3]",
        "\"b'x'\"",
        "2.0",
        "[0, 1]",
        '"x"',
        '"ü"',
    ]
    assert json.loads(dump_json("half a pair: \ud800").encode()) == "half a pair: \ud800"
    assert json.loads(dump_json({"a": [float("inf"), {"b": {2, 1}}]})) == {"a": [None, {"b": [1, 2]}]}


def test_results_without_end_are_written_all_the_same(amorsize):
    """One of them does not cost the others."""
    looped, deep = [1], []
    looped.append(looped)
    for _ in range(10_000):
        deep = [deep]
    assert dump_json(looped) == '[1, "[1, [...]]"]'
    assert json.loads(dump_json([deep, 2]))[1] == 2
    digits = str(Decimal(10**5000))
    assert json.loads(dump_json([10**5000, -(10**5000), 3, True])) == [digits, f"-{digits}", 3, True]
    status, out, _err = amorsize("execute", "tests.payloads:take_long_number", "--data-range", 3, "-q")
    assert (status, out.splitlines()) == (0, ["1", f'"{digits}"', f'"{Decimal(10**10_000)}"'])


def test_a_result_whose_text_fails_is_written_all_the_same():
    """By its address."""
    assert json.loads(dump_json([payloads.Nameless(), 1]))[1] == 1
    assert json.loads(dump_json({payloads.Nameless(): 1}))


def test_an_execution_draws_a_bar_on_a_terminal(amorsize, monkeypatch):
    """To its end, and only where it is asked for."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert amorsize("execute", SQUARE, *RANGE, "--progress", "-q")[0] == 0
    assert sys.stderr.getvalue().endswith("] 100%\n")


def test_results_that_do_not_pickle_are_written_all_the_same(amorsize, tmp_path, monkeypatch):
    """Their calls stay in this process."""
    (tmp_path / "locks.py").write_text("import threading\ndef make(_n):\n    return threading.Lock()\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    status, out, _err = amorsize("execute", "locks:make", "--data-range", 200, "-q")
    assert status == 0
    assert [line.startswith('"<unlocked _thread.lock') for line in out.splitlines()] == [True] * 200


def test_what_cannot_travel_has_a_plan_that_keeps_it_here(tmp_path):
    """It runs with the plan as it does without."""
    text = "import threading, time\ndef make(_n):\n    time.sleep(0.01)\n    return threading.Lock()\n"
    (tmp_path / "locks.py").write_text(text, "utf-8")
    items = "locks:make", "--data-range", 50
    assert run("optimize", *items, "--save-config", "plan.json", cwd=tmp_path)[0] == 0
    assert load_config(tmp_path / "plan.json").executor_type == "serial"
    status, out, _err = run("execute", *items, "--load-config", "plan.json", cwd=tmp_path)
    assert (status, len(out.splitlines())) == (0, 50)


def test_calls_that_wait_run_in_threads_where_that_is_said(amorsize):
    """``--threads`` says that the function is thread-safe."""
    out = amorsize("execute", "tests.payloads:nap", "--data-range", 200, "--threads", "--json")[1]
    answer = json.loads(out)
    assert answer["results"] == list(range(200))
    assert answer["optimization"]["executor_type"] == "thread"
    command = "execute", "tests.payloads:nap", "--data-range", 20, "--threads", "--json", "--retry", 1
    assert json.loads(amorsize(*command)[1])["ran"]["lane"] == "threads"


# --- validate and compare ---


def test_a_prediction_is_validated(amorsize):
    """As text, as one line, and as JSON with all figures."""
    status, out, err = amorsize("validate", SQUARE, *RANGE)
    assert (status, err) == (0, "")
    assert "Serial execution time" in out
    assert "Accuracy:" in out
    assert max(map(len, out.splitlines())) <= 80
    answer = json.loads(amorsize("validate", SQUARE, *RANGE, "--json", "--quick", "--max-items", 5)[1])
    assert (answer["mode"], answer["optimization"]["n_jobs"]) == ("validate", 1)
    assert {"serial_time", "parallel_time", "actual_speedup", "predicted_speedup"} <= set(answer)
    assert {"accuracy_percent", "error_percent", "is_accurate", "recommendations"} <= set(answer)
    out = amorsize("validate", SQUARE, *RANGE, "-q")[1]
    assert re.fullmatch(r"accuracy=\d+% actual=[\d.]+x predicted=[\d.]+x\n", out)


def test_options_bound_what_is_measured(amorsize):
    """All of it: a quick validation too, and what a recommendation among others is for."""
    nap = "tests.payloads:nap"
    status, out, err = amorsize("validate", nap, *RANGE, "--quick", "--timeout", 0.001)
    assert (status, out) == (1, "")
    assert "timeout of 0.001 s" in err
    answer = json.loads(amorsize("compare", nap, "--data-range", 1000, "--max-items", 1, "--json")[1])
    assert {entry["name"]: entry["n_jobs"] for entry in answer["strategies"]} == {"Serial": 1, "Optimizer": 1}


def test_settings_are_compared(amorsize):
    """The fastest first; serial code is among them unless it is left out."""
    settings = "--configs", "two:2,5", "1,5,thread"
    answer = json.loads(amorsize("compare", SQUARE, *RANGE, *settings, "--include-optimizer", "--json")[1])
    names = {entry["name"] for entry in answer["strategies"]}
    assert names == {"Serial", "Optimizer", "two", "1 x 5, thread"}
    times = [entry["time"] for entry in answer["strategies"]]
    assert times == sorted(times)
    assert answer["best_strategy"] == answer["strategies"][0]
    assert set(answer["best_strategy"]) == {"name", "n_jobs", "chunksize", "executor_type", "time", "speedup"}
    out = amorsize("compare", SQUARE, *RANGE, *settings, "--no-baseline")[1]
    assert out.splitlines()[0].split() == ["time", "speed-up", "workers", "chunksize", "executor", "name"]
    assert "Serial" not in out.splitlines()[1]
    assert max(map(len, out.splitlines())) <= 80


def test_without_settings_the_recommendation_is_compared_with_serial_code(amorsize):
    """That is what most people want to know."""
    out = amorsize("compare", SQUARE, *RANGE, "-q")[1]
    assert re.fullmatch(r"best=(Serial|Optimizer) time=[\d.e-]+s speedup=[\d.]+x\n", out)
    names = {entry["name"] for entry in json.loads(amorsize("compare", SQUARE, *RANGE, "--json")[1])["strategies"]}
    assert names == {"Serial", "Optimizer"}


@pytest.mark.parametrize("verb", ["validate", "compare"])
def test_a_function_that_raises_cannot_be_measured(amorsize, verb):
    """One line says why."""
    status, out, err = amorsize(verb, "tests.payloads:raise_value_error", *RANGE)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "ValueError" in err
    status, out, err = amorsize(verb, SQUARE, "--data-range", 0)
    assert (status, out) == (1, "")
    assert "data" in err


# --- items ---


@pytest.mark.parametrize(
    ("name", "content", "options", "items"),
    [
        ("a.txt", b"one\n\n  two \r\nthree", (), ["one", "two", "three"]),
        ("a.txt", b"\xef\xbb\xbfone\n", (), ["one"]),
        ("a.jsonl", b'1\n\n{"a": [2]}\n', (), [1, {"a": [2]}]),
        ("a.ndjson", b"null\n", (), [None]),
        ("a.json", b'[1, "x"]', (), [1, "x"]),
        ("a.txt", b'"x"\n', ("--input-format", "jsonl"), ["x"]),
        ("a.json", b"[1]\n", ("--input-format", "lines"), ["[1]"]),
    ],
)
def test_items_are_lines_or_json(amorsize, tmp_path, name, content, options, items):
    """By the suffix, or as it is said."""
    path = tmp_path / name
    path.write_bytes(content)
    out = amorsize("execute", IDENTITY, "--data-file", path, *options, "-q")[1]
    assert [json.loads(line) for line in out.splitlines()] == items


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", None, "cannot be read: No such file"),
        ("a.txt", b"", "is empty; give a file with an item a line"),
        ("a.txt", b" \n\n", "holds no items"),
        ("a.json", b"[]", "holds no items"),
        ("a.txt", b"one\n\xff\xfe\n", "line 2 is no UTF-8 text"),
        ("a.txt", b"one\n\0\n", "line 2 is no UTF-8 text"),
        ("a.jsonl", b'1\n{"a": ', "line 2: not valid JSON, or cut"),
        ("a.json", b"[1, 2", "not valid JSON, or cut"),
        ("a.json", b'{"a": 1}', "a JSON dict where a list of items is expected"),
    ],
)
@pytest.mark.parametrize("verb", ["optimize", "execute", "validate", "compare"])
def test_items_that_cannot_be_read_are_clear_errors(amorsize, tmp_path, verb, name, content, said):
    """They name the file and the line, and are no reason to advise anything."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    status, out, err = amorsize(verb, IDENTITY, "--data-file", path)
    assert status == 1
    assert verb == "execute" or out == ""
    assert err.count("\n") == 1
    assert f"{path}: " in err
    assert said in err


def test_a_file_that_may_not_be_looked_at_is_told(monkeypatch):
    """In the same words as one that may not be read."""

    def refuse(*_arguments, **_flags):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(data.DataError, match=r"items\.txt: cannot be read: Permission denied"):
        data.Source(Path("items.txt"), "lines").check()


def test_a_directory_is_no_data_file(amorsize, tmp_path):
    """Nor is what cannot be opened."""
    status, _out, err = amorsize("optimize", IDENTITY, "--data-file", tmp_path)
    assert status == 1
    assert "Is a directory" in err


def test_items_come_from_standard_input():
    """Once, as they come; without any it is an error."""
    assert run("execute", IDENTITY, "--data-stdin", "-q", stdin="a\nb\n") == (0, '"a"\n"b"\n', "")
    status, out, err = run("execute", IDENTITY, "--data-stdin")
    assert (status, out) == (1, "")
    assert "standard input: holds no items" in err


def test_programs_that_calls_start_read_no_items(tmp_path):
    """As with xargs; ssh and others read what is there, and the items would be gone."""
    (tmp_path / "greedy.py").write_text(
        "import subprocess\ndef f(item):\n    return len(subprocess.check_output(['cat'])), item\n", "utf-8"
    )
    items = [f"{number:0100}" for number in range(200)]  # more than is read at once
    status, out, _err = run("execute", "greedy:f", "--data-stdin", cwd=tmp_path, stdin="\n".join(items))
    assert (status, [json.loads(line) for line in out.splitlines()]) == (0, [[0, item] for item in items])


def test_a_closed_standard_input_is_told(amorsize, monkeypatch):
    """As programs have it that nobody watches."""
    monkeypatch.setattr(sys, "stdin", None)
    status, out, err = amorsize("execute", IDENTITY, "--data-stdin")
    assert (status, out) == (1, "")
    assert "standard input: is closed" in err


def test_a_pipe_with_a_name_loses_no_items():
    """Shells make one of ``<(command)``; looking whether it is empty would take its first lines."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        file.writelines(f"{number}\n" for number in range(2000))
    try:
        command = "execute", "builtins:int", "--data-file", f"/dev/fd/{reading}"
        with start(*command, pass_fds=[reading]) as process:
            out, _err = process.communicate(timeout=60)
    finally:
        os.close(reading)
    assert out.split() == [str(number) for number in range(2000)]


def test_a_file_can_be_read_again(tmp_path):
    """Each iteration opens it anew, and closes it."""
    path = tmp_path / "items.txt"
    path.write_text("a\nb\n", "utf-8")
    source = data.Source(path, "lines")
    first = iter(source)
    assert next(first) == "a"
    first.close()
    assert list(source) == ["a", "b"]
    assert source.error is None


# --- functions ---


def test_functions_of_files_are_found(tmp_path, monkeypatch):
    """By their path; they import their neighbours, and workers find them."""
    (tmp_path / "near.py").write_text("FACTOR = 3\n", "utf-8")
    (tmp_path / "work-1.py").write_text("from near import FACTOR\ndef f(x):\n    return x * FACTOR\n", "utf-8")
    status, out, err = run("execute", f"{tmp_path / 'work-1.py'}:f", "--data-range", 4, "-q", "--timeout", "20")
    assert (status, out, err) == (0, "0\n3\n6\n9\n", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "json.py").write_text("def f(x):\n    return x\n", "utf-8")
    with pytest.raises(TargetError, match="which is something else here; rename the file"):
        load_function("json.py:f")
    (tmp_path / "a.b.py").write_text("def f(x):\n    return x\n", "utf-8")
    with pytest.raises(TargetError, match="which is something else here; rename the file"):
        load_function("a.b.py:f")
    with pytest.raises(TargetError, match="there is no file"):
        load_function("nowhere.py:f")


def test_a_file_of_a_package_is_its_module(tmp_path):
    """Relative imports and those of neighbours by their bare names find what they name, in workers too."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for directory in (inner, inner.parent):
        (directory / "__init__.py").write_text("from os.path import basename\n", "utf-8")
    (inner / "near.py").write_text("FACTOR = 3\n", "utf-8")
    text = "import near\nfrom .near import FACTOR\ndef f(x):\n    return [__name__, x * FACTOR * near.FACTOR]\n"
    (inner / "work.py").write_text(text, "utf-8")
    name = '"outer.inner.work"'
    for directory, path in ((tmp_path, "outer/inner/work.py"), (inner, "work.py")):
        status, out, err = run("execute", f"{path}:f", "--data-range", 2, "-q", "--timeout", "20", cwd=directory)
        assert (status, out, err) == (0, f"[{name}, 0]\n[{name}, 9]\n", "")
    assert (
        run("execute", "inner/__init__.py:basename", "--data-file", inner / "near.py", "-q", cwd=inner.parent)[0] == 0
    )


def test_dotted_names_reach_into_classes():
    """Modules end where they end."""
    assert load_function("tests.payloads.Anything.take") is payloads.Anything.take
    assert load_function("os.path.join") is os.path.join
    with pytest.raises(TargetError, match=r"cannot import 'tests\.nothing\.here'"):
        load_function("tests.nothing.here.f")
    with pytest.raises(TargetError, match="did you mean 'square'"):
        load_function("tests.payloads:sqare")


def test_what_a_module_raises_is_told(tmp_path, monkeypatch):
    """Also SystemExit of a script without a guard, and what is no Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name, text, said in (
        ("exits_at_once", "raise SystemExit(3)", "SystemExit: 3"),
        ("divides_at_once", "1 / 0", "ZeroDivisionError: division by zero"),
        ("is_no_python", "def (", "SyntaxError"),
    ):
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
        for form in (f"{name}:f", f"{name}.f", f"{name}.py:f"):
            with pytest.raises(TargetError, match=f"cannot import '{name}': {said}"):
                load_function(form)


# --- wrong usage ---


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["optimize", SQUARE], 2, "one of the arguments --data-range --data-file --data-stdin is required"),
        (["optimize", SQUARE, "--data-range", "-1"], 2, "must be at least 0"),
        (["optimize", SQUARE, "--data-range", "many"], 2, "must be a whole number, not 'many'"),
        (["optimize", SQUARE, "--data-range", "9" * 30], 2, "must be at most"),
        (["optimize", SQUARE, *RANGE, "--data-stdin"], 2, "not allowed with"),
        (["optimize", SQUARE, *RANGE, "--format", "rtf"], 2, "invalid choice"),
        (["optimize", SQUARE, *RANGE, "--sample-size", "0"], 2, "--sample-size: must be at least 1"),
        (["optimize", SQUARE, *RANGE, "--sample-size", "10001"], 2, "--sample-size: must be at most 10000"),
        (["optimize", SQUARE, *RANGE, "--target-chunk-duration", "nan"], 2, "above 0, at most 3600, not 'nan'"),
        (["optimize", "square", *RANGE], 1, "names no function"),
        (["optimize", "tests.payloads:WAIT_LIMIT_S", *RANGE], 1, "cannot be called"),
        (["execute", SQUARE, *RANGE, "--workers", "0"], 2, "at least 1"),
        (["execute", SQUARE, *RANGE, "--timeout", "-1"], 2, "--timeout: must be a number of seconds above 0"),
        (["execute", SQUARE, *RANGE, "--output", "no/where/out"], 1, "cannot be written"),
        (["execute", SQUARE, *RANGE, "--checkpoint", "../x"], 1, "'../x'"),
        (["compare", SQUARE, *RANGE, "--configs", "2"], 2, "is no setting"),
        (["compare", SQUARE, *RANGE, "--configs", "0,1"], 2, "is no setting"),
        (["compare", SQUARE, *RANGE, "--configs", "2,1,rocket"], 2, "is no setting"),
        (["compare", SQUARE, *RANGE, "--configs", "2,1", "--no-baseline"], 2, "compare needs two settings"),
    ],
)
def test_wrong_usage_is_one_line(amorsize, arguments, status, said):
    """Status 2 for what makes no sense, 1 for what cannot be done."""
    got, out, err = amorsize(*arguments)
    assert (got, out, err.count("\n")) == (status, "", 1)
    assert said in err


# --- as a process ---


@pytest.mark.parametrize(
    "arguments",
    [
        ("optimize", SQUARE, *RANGE, "-v", "--progress", "--explain"),
        ("execute", SQUARE, *RANGE, "-v", "--progress", "--format", "table"),
        ("validate", SQUARE, *RANGE, "-v"),
        ("compare", SQUARE, *RANGE, "-v", "-q"),
        ("doctor", "--no-measure"),
        ("config", "list", "--directory", "nowhere"),
        ("completion", "fish"),
    ],
)
def test_json_is_all_there_is_on_stdout(arguments):
    """Of every verb, whatever the other options; and no answer leaves a process behind."""
    status, out, err = run(*arguments, "--json")
    assert status == 0, err
    assert json.loads(out) is not None
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("optimize", SQUARE), 2, "is required"),
        (("execute", "nowhere:f", *RANGE), 1, "cannot import 'nowhere'"),
        (("validate", SQUARE, "--data-file", "nowhere.txt"), 1, "cannot be read"),
        (("compare", SQUARE, *RANGE, "--configs", "1"), 2, "is no setting"),
        (("config", "show", "nowhere.json"), 1, "error: nowhere.json: No such file"),
    ],
)
def test_errors_of_processes_are_one_line(arguments, status, said):
    """With their status, a traceback with ``--debug`` alone."""
    got, out, err = run(*arguments)
    assert (got, out, err.count("\n")) == (status, "", 1)
    assert said in err
    assert status == 2 or "Traceback" in run(*arguments, "--debug")[2]


def test_text_that_cannot_be_encoded_is_escaped(tmp_path):
    """Results of a long run are not lost to one character, and JSON stays JSON."""
    items = ["caf\xe9", "\udc80", "\U0001f600"]
    path, output = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    command = "execute", "builtins:str", "--data-file", path
    ascii_only = environment() | {"PYTHONIOENCODING": "ascii"}
    status, out, _err = run(*command, env=ascii_only)
    assert (status, [json.loads(line) for line in out.splitlines()]) == (0, items)
    assert json.loads(run(*command, "--json", "--export", tmp_path / "e.json", env=ascii_only)[1])["results"] == items
    assert json.loads((tmp_path / "e.json").read_bytes())["results"] == items
    assert run(*command, "-o", output)[0] == 0
    assert [json.loads(line) for line in output.read_bytes().splitlines()] == items
    status, out, _err = run("optimize", SQUARE, *RANGE, env=ascii_only)
    assert (status, "\\u00b5s" in out or " ns" in out or " ms" in out) == (0, True)


def test_what_functions_print_is_no_answer(tmp_path):
    """It goes to stderr, from here and from workers; with ``--json`` and without."""
    (tmp_path / "loud.py").write_text("def loud(item):\n    print('LOUD', flush=True)\n    return item\n", "utf-8")
    for arguments, kind in ((("--json",), "json"), (("--timeout", "20"), "lines")):
        status, out, err = run("execute", "loud:loud", "--data-range", 3, "-v", *arguments, cwd=tmp_path)
        assert status == 0, err
        found = json.loads(out)["results"] if kind == "json" else [json.loads(line) for line in out.splitlines()]
        assert found == [0, 1, 2]
        assert err.count("LOUD") == 3


@pytest.mark.parametrize(
    ("closed", "items", "status", "out", "err"),
    [
        (">&-", RANGE, 0, "", ""),
        ("2>&-", ("--data-range", 2), 0, "0\n1\n", ""),
        ("<&-", ("--data-stdin",), 1, "", "standard input: is closed"),
    ],
)
def test_a_closed_stream_leads_nowhere(closed, items, status, out, err):
    """Output goes where ``/dev/null`` goes; input is missed."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "amorsize_executor"]
    arguments = ("execute", IDENTITY, *items, "-q")
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment(), check=False
    )
    assert (done.returncode, done.stdout, err in done.stderr, "NoneType" in done.stderr) == (status, out, True, False)


def test_results_stand_before_the_summary():
    """Where both go to one place."""
    _status, out, _err = run("execute", IDENTITY, "--data-range", 4, stderr=subprocess.STDOUT)
    lines = out.splitlines()
    assert lines[:4] == ["0", "1", "2", "3"]
    assert lines[4].startswith("4 results in ")
    _status, out, _err = run("optimize", "tests.payloads:refuse_odd", "--data-range", 2, stderr=subprocess.STDOUT)
    assert out.startswith("Recommendation")


def test_ctrl_c_ends_a_run_with_130(tmp_path):
    """Workers end too, and there is one line."""
    began = tmp_path / "began"
    text = f"import pathlib, time\ndef wait(n):\n    pathlib.Path({str(began)!r}).touch()\n    time.sleep(60)\n"
    (tmp_path / "slow.py").write_text(text, "utf-8")
    process = start("execute", "slow:wait", "--data-range", 8, "--timeout", 60, cwd=tmp_path)
    with process:
        assert poll_until(began.exists, LIMIT_S)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, out) == (130, "")
    assert err == "amorsize: interrupted\n"


def test_who_reads_only_the_beginning_is_no_error():
    """As ``head`` does it, in the middle of the results."""
    process = start("execute", IDENTITY, "--data-range", 10**6, "-q")
    with process:
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(LIMIT_S) == 0
