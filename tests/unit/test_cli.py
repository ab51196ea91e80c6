"""The command line: verbs, what they print, and how they fail."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amorsize_executor import CheckpointManager, CheckpointPolicy, CheckpointState, DeadLetterQueue, DLQPolicy
from amorsize_executor.cli.target import load_function
from amorsize_executor.middleware.base import Call
from amorsize_executor.middleware.checkpoint import layer_of
from amorsize_executor.middleware.dead_letters import layer_of as dead_letters_of
from tests import payloads
from tests.layers import run_call
from tests.processes import environment


@pytest.fixture
def letters(tmp_path):
    """Return the directory of a queue with three calls."""
    directory = tmp_path / "dlq"
    layer = dead_letters_of(DLQPolicy(directory))
    layer.open()
    for item in ("x", "y" * 100):
        with pytest.raises(ValueError, match=item):
            run_call(layer, Call(payloads.raise_for_text, (item,), {}))
    with pytest.raises(TypeError):
        run_call(layer, Call(payloads.add, (1, 1j), {"more": 2}))
    layer.close()
    return directory


@pytest.fixture
def checkpoints(tmp_path):
    """Return a directory with a journal and a snapshot."""
    directory = tmp_path / "checkpoints"
    layer = layer_of(CheckpointPolicy(directory, checkpoint_name="run"))
    layer.open()
    for position in range(3):
        run_call(layer, Call(payloads.square, (position,), {}, position, batch=0))
    layer.close()
    manager = CheckpointManager(CheckpointPolicy(directory))
    for number in range(2):
        manager.save_checkpoint("shot", CheckpointState([], [], number, 0.0, 1, 1, {}))
    return directory


# --- dead letters ---


def test_dead_letters_are_listed_in_80_columns(amorsize, letters):
    """The oldest first; filters and limits apply."""
    status, out, err = amorsize("dlq", "list", "--directory", letters)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["id", "failed", "at", "error", "retries", "function", "arguments"]
    assert [line.split()[3] for line in lines[1:]] == ["ValueError", "ValueError", "TypeError"]
    assert all(len(line) <= 80 for line in lines)
    assert "\033" not in out
    assert len(amorsize("dlq", "list", "--directory", letters, "--limit", 2)[1].splitlines()) == 3
    found = json.loads(amorsize("dlq", "list", "--directory", letters, "--error-type", "TypeError", "--json")[1])
    assert [entry["error_type"] for entry in found] == ["TypeError"]
    assert found[0]["item"]["$tuple"][1] == {"more": 2}


def test_a_dead_letter_is_shown_with_its_traceback(amorsize, letters):
    """By the beginning of its id."""
    entries = json.loads(amorsize("dlq", "list", "--directory", letters, "--json")[1])
    status, out, _err = amorsize("dlq", "show", entries[0]["entry_id"][:10], "--directory", letters)
    assert status == 0
    assert "ValueError: x" in out
    assert "tests.payloads:raise_for_text" in out
    assert "Traceback (most recent call last):" in out
    shown = json.loads(amorsize("dlq", "show", entries[0]["entry_id"], "--directory", letters, "--json")[1])
    assert shown == entries[0]
    status, out, err = amorsize("dlq", "show", "", "--directory", letters)
    assert (status, out) == (1, "")
    assert err == "amorsize: error: 3 calls have an id that begins with ''\n"


def test_metadata_are_the_users_and_hide_nothing(amorsize, tmp_path):
    """Whatever their names and types."""
    directory = tmp_path / "own"
    with DeadLetterQueue(DLQPolicy(directory)) as queue:
        queue.add("x", ValueError("bad"), metadata={"function": payloads.identity, "id": 17, "error": 404})
        (entry,) = queue.get_entries()
    where = "--directory", directory
    status, out, _err = amorsize("dlq", "list", *where)
    assert (status, out.splitlines()[1].split()[-2:]) == (0, ["-", "'x'"])
    status, out, _err = amorsize("dlq", "show", entry.entry_id, *where)
    assert status == 0
    assert entry.entry_id in out
    assert "ValueError: bad" in out
    assert "404" in out
    status, out, _err = amorsize("dlq", "replay", "tests.payloads:identity", *where, "--json")
    assert (status, json.loads(out)["succeeded"]) == (0, 1)


def test_dead_letters_are_replayed(amorsize, letters):
    """Those of the named function; what succeeds is gone, what fails again stays, and the status tells."""
    where = "--directory", letters
    status, out, _err = amorsize("dlq", "replay", "tests.payloads:raise_for_text", *where)
    assert (status, " ".join(out.split())) == (
        1,
        "2 calls replayed: 0 succeeded, 2 failed again; 1 of other functions were left alone (--all)",
    )
    assert max(map(len, out.splitlines())) <= 80
    status, out, _err = amorsize("dlq", "replay", "tests.payloads.identity", *where, "--json")
    assert (status, json.loads(out)) == (0, {"replayed": 0, "succeeded": 0, "still_failed": 0, "left_alone": 3})
    status, out, _err = amorsize("dlq", "replay", "tests.payloads:Anything.take", "--all", *where, "--json")
    assert (status, json.loads(out)["succeeded"]) == (0, 3)
    assert amorsize("dlq", "list", *where) == (0, "no dead letters\n", "")


def test_dead_letters_are_exported(amorsize, letters, tmp_path):
    """To a file that a queue can read."""
    path = tmp_path / "out.jsonl"
    assert amorsize("dlq", "export", path, "--directory", letters) == (0, f"3 calls written to {path}\n", "")
    with DeadLetterQueue(DLQPolicy(tmp_path / "other")) as queue:
        assert queue.import_lines(path, allow_pickle=True) == 3


@pytest.mark.parametrize("name", ["dlq.sqlite3", "dlq.sqlite3-wal"])
def test_an_export_does_not_write_over_the_store(amorsize, letters, name):
    """By whatever way the path leads there."""
    where = "--directory", letters
    status, out, err = amorsize("dlq", "export", letters / ".." / letters.name / name, *where)
    assert (status, out) == (1, "")
    assert "is the store itself" in err
    assert len(json.loads(amorsize("dlq", "list", *where, "--json")[1])) == 3


def test_dead_letters_are_purged_only_when_it_is_said_which(amorsize, letters):
    """Nothing is removed by a slip."""
    where = "--directory", letters
    status, out, err = amorsize("dlq", "purge", *where)
    assert (status, out) == (2, "")
    assert "--older-than AGE" in err
    assert amorsize("dlq", "purge", *where, "--older-than", "1h") == (0, "0 calls removed\n", "")
    assert amorsize("dlq", "purge", *where, "--error-type", "ValueError") == (0, "2 calls removed\n", "")
    assert json.loads(amorsize("dlq", "purge", *where, "--all", "--json")[1]) == {"purged": 1}


# --- checkpoints ---


def test_checkpoints_are_listed_and_shown(amorsize, checkpoints):
    """Journals by map, snapshots by version."""
    where = "--directory", checkpoints
    found = json.loads(amorsize("checkpoint", "list", *where, "--json")[1])
    assert [(entry["kind"], entry["name"]) for entry in found] == [("journal", "run"), ("snapshot", "shot")]
    lines = amorsize("checkpoint", "list", *where)[1].splitlines()
    assert [line.split()[-1] for line in lines] == ["name", "run", "shot"]
    (checkpoints / "run.sqlite3-wal").write_bytes(bytes(10_000))  # as a kill leaves it: the newest results are here
    os.utime(checkpoints / "run.sqlite3", (1, 1))
    journal = json.loads(amorsize("checkpoint", "list", *where, "--json")[1])[0]
    assert journal["bytes"] == found[0]["bytes"] + 10_000
    assert journal["modified_at"] > found[0]["modified_at"]
    (checkpoints / "run.sqlite3-wal").unlink()
    out = amorsize("checkpoint", "show", "run", *where)[1]
    assert "map 0" in out
    assert "tests.payloads:square" in out
    shown = json.loads(amorsize("checkpoint", "show", "run", *where, "--json")[1])["maps"][0]
    assert (shown["results"], type(shown["bytes"])) == (3, int)
    (checkpoints / "shot_checkpoint.pkl").write_bytes(b"broken")
    lines = amorsize("checkpoint", "show", "shot", *where)[1].splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["DAMAGED", "whole"]


def test_other_programs_files_are_no_checkpoints(amorsize, checkpoints):
    """They are not listed, do no harm to the list, and are never deleted, whatever their names."""
    where = "--directory", checkpoints
    with DeadLetterQueue(DLQPolicy(checkpoints)) as queue:
        queue.add(1, ValueError("x"))
    with contextlib.closing(sqlite3.connect(checkpoints / "mine.sqlite3")) as database:
        database.execute("CREATE TABLE mine (a)")
    for name in ("odd!_checkpoint.pkl", "odd!.sqlite3"):
        (checkpoints / name).touch()
    (checkpoints / "gone.sqlite3").symlink_to("nowhere")
    before = sorted(checkpoints.iterdir())
    status, out, err = amorsize("checkpoint", "list", *where, "--json")
    assert (status, err, [entry["name"] for entry in json.loads(out)]) == (0, "", ["run", "shot"])
    for name in ("mine", "dlq"):
        status, out, err = amorsize("checkpoint", "delete", name, *where)
        assert (status, out) == (1, "")
        assert "is a database of something else" in err
    assert sorted(checkpoints.iterdir()) == before


def test_damaged_checkpoints_are_deleted(amorsize, checkpoints):
    """With what a killed save left of them, and nothing of others."""
    (checkpoints / "run.sqlite3").write_bytes(b"no database" * 100)
    (checkpoints / ".run_checkpoint.pkl.a1_b").touch()
    (checkpoints / ".run_checkpoint_2_checkpoint.pkl.a1_b").touch()
    status, out, err = amorsize("checkpoint", "delete", "run", "--directory", checkpoints, "--json")
    assert (status, err, json.loads(out)) == (0, "", {"deleted": ["run.sqlite3", ".run_checkpoint.pkl.a1_b"]})


def test_checkpoints_are_deleted(amorsize, checkpoints):
    """All files of a name, and no other."""
    where = "--directory", checkpoints
    assert amorsize("checkpoint", "delete", "run", *where) == (0, "deleted run.sqlite3\n", "")
    assert json.loads(amorsize("checkpoint", "delete", "shot", *where, "--json")[1]) == {
        "deleted": ["shot_checkpoint.pkl", "shot_checkpoint_v1.pkl"]
    }
    assert list(checkpoints.iterdir()) == []
    assert amorsize("checkpoint", "list", *where) == (0, "no checkpoints\n", "")
    for action in ("show", "delete"):
        status, out, err = amorsize("checkpoint", action, "run", *where)
        assert (status, out) == (1, "")
        assert err.endswith("there is no checkpoint 'run'\n")


# --- failures ---


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["dlq", "list", "--directory", "nowhere"], 1, "no such store"),
        (["checkpoint", "list", "--directory", "nowhere"], 1, "nowhere"),
        (["checkpoint", "show", "../run"], 1, "name='../run'"),
        (["dlq"], 2, "ACTION"),
        (["dlq", "what"], 2, "invalid choice"),
        (["dlq", "list", "--limit", "0"], 2, "at least 1"),
        (["dlq", "purge", "--older-than", "soon"], 2, "'soon' is no age"),
        (["what"], 2, "invalid choice"),
    ],
)
def test_errors_are_one_line(amorsize, tmp_path, monkeypatch, arguments, status, said):
    """On stderr, without a traceback, and nothing on stdout."""
    monkeypatch.chdir(tmp_path)
    got, out, err = amorsize(*arguments)
    assert (got, out) == (status, "")
    assert err.count("\n") == 1
    assert said.replace("name=", "") in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_disk_is_told_in_words():
    """Without the number of the error."""
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123 - a device
        arguments = [sys.executable, "-m", "amorsize_executor", "completion", "bash"]
        ended = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "amorsize: error: No space left on device\n")


def test_a_traceback_is_shown_only_with_debug(amorsize, tmp_path):
    """Before the one line."""
    arguments = "dlq", "list", "--directory", tmp_path
    assert "Traceback" not in amorsize(*arguments)[2]
    assert amorsize(*arguments, "--debug")[2].startswith("Traceback")


def test_an_unexpected_error_names_its_type(amorsize, letters, monkeypatch):
    """Whatever happens, it is one line and status 1."""

    def fail(_timestamp):
        raise KeyError("x")

    monkeypatch.setattr(time, "localtime", fail)
    assert amorsize("dlq", "list", "--directory", letters) == (1, "", "amorsize: error: KeyError: 'x'\n")


def test_ctrl_c_is_status_130(amorsize, letters, monkeypatch):
    """With one line, as the shell has it."""

    def interrupt(_timestamp):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "localtime", interrupt)
    assert amorsize("dlq", "list", "--directory", letters) == (130, "", "amorsize: interrupted\n")
    monkeypatch.setattr("amorsize_executor.cli.main.make_parser", lambda: interrupt(0))  # while verbs are loaded
    assert amorsize("dlq", "list", "--directory", letters) == (130, "", "amorsize: interrupted\n")


def test_without_a_verb_the_help_is_shown(amorsize):
    """And nothing was done."""
    status, out, err = amorsize()
    assert (status, err) == (1, "")
    assert "checkpoint" in out
    assert "dlq" in out
    assert amorsize("--help")[0] == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("square", "names no function"),
        ("nowhere.here:f", "cannot import"),
        ("tests.payloads:nothing", "has no"),
        ("tests.payloads:WAIT_LIMIT_S", "cannot be called"),
        (":f", "names no function"),
        ("tests/payloads.py", "names no function"),
    ],
)
def test_functions_that_are_not_there_are_errors(name, said):
    """They say what is missing."""
    with pytest.raises(ValueError, match=said):
        load_function(name)
    assert load_function("tests.payloads:Anything.take") is payloads.Anything.take
    assert load_function("tests.payloads.square") is payloads.square


def test_as_a_process_json_stands_alone_on_stdout(letters, tmp_path):
    """Whatever the replayed function prints, in this process or in workers."""
    (tmp_path / "loud.py").write_text("import os\ndef loud(*args, **kwargs):\n    print('LOUD', flush=True)\n", "utf-8")
    arguments = "dlq", "replay", "loud:loud", "--all", "--json", "--directory", str(letters)
    done = subprocess.run(
        [sys.executable, "-m", "amorsize_executor", *arguments],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["succeeded"] == 3
    assert "LOUD" in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
@pytest.mark.parametrize(("extra", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals(letters, extra, is_coloured):
    """And never under NO_COLOR."""
    controller, terminal = os.openpty()
    subprocess.run(
        [sys.executable, "-m", "amorsize_executor", "dlq", "list", "--directory", str(letters)],
        env={**environment(TERM="xterm"), **extra},
        stdout=terminal,
        check=True,
        timeout=60,
    )
    shown = os.read(controller, 65_536)
    os.close(controller)
    os.close(terminal)
    assert (b"\033[1m" in shown) == is_coloured


def test_a_reader_that_has_seen_enough_is_no_error(letters):
    """As ``head`` closes its end."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "amorsize_executor", "dlq", "list", "--directory", str(letters)],
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_console_script_is_the_same():
    """It is declared in the project's metadata."""
    text = Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert 'amorsize = "amorsize_executor.cli.main:main"' in text
