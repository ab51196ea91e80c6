"""The dead-letter queue, its store, its layer, and replay."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from amorsize_executor import (
    AdaptiveExecutor,
    CheckpointManager,
    CheckpointPolicy,
    DeadLetterQueue,
    DLQEntry,
    DLQFormat,
    DLQPolicy,
    StorageError,
    replay_failed_items,
)
from amorsize_executor.cli.main import main
from amorsize_executor.errors import InvalidParameterTypeError
from amorsize_executor.middleware.base import Call, Middleware, Outcome
from amorsize_executor.middleware.dead_letters import DeadLetters, layer_of
from amorsize_executor.storage.encoding import Unrestorable, to_json
from tests import payloads
from tests.layers import run_call
from tests.processes import environment


@pytest.fixture(params=list(DLQFormat), ids=lambda form: form.value)
def policy(request, tmp_path):
    """Return a policy of either format, with a directory of its own."""
    return DLQPolicy(tmp_path / "dlq", format=request.param)


@pytest.fixture
def queue(policy):
    """Return a queue that is closed at the end."""
    with DeadLetterQueue(policy) as queue:
        yield queue


def failure(error: BaseException) -> BaseException:
    """Return an error as it is when it was raised here."""
    try:
        payloads.raise_error(error)
    except BaseException as raised:  # noqa: BLE001
        return raised


def stored(policy) -> list[DLQEntry]:
    """Return what the store holds, as another program sees it."""
    with DeadLetterQueue(policy) as other:
        other.load()
        return other.get_entries()


# --- entries ---


def test_an_entry_tells_what_failed_and_how(queue, policy):
    """It is in memory and in the store, equal in both."""
    queue.add((1, {"a": {2}}), failure(ValueError("bad")), retry_count=2, metadata={"url": "x"})
    (entry,) = queue.get_entries()
    assert (entry.item, entry.error_type, entry.error_message) == ((1, {"a": {2}}), "ValueError", "bad")
    assert (entry.retry_count, entry.metadata) == (2, {"url": "x"})
    assert "in raise_error\n    raise error" in entry.traceback
    assert stored(policy) == [entry]


def test_the_traceback_is_the_errors_own(queue):
    """Not that of whatever is handled at the moment; an error that was never raised has none."""
    queue.add(1, ValueError("never raised"))
    assert queue.get_entries()[0].traceback is None
    with DeadLetterQueue(DLQPolicy(queue.policy.directory, include_traceback=False)) as other:
        other.add(1, failure(ValueError("no")))
        assert other.get_entries()[0].traceback is None


def test_a_new_queue_starts_empty_and_erases_nothing(queue, policy):
    """``size`` speaks of this object, ``load`` brings in what is stored."""
    queue.add(1, ValueError("one"))
    with DeadLetterQueue(policy) as other:
        assert (other.size(), other.get_entries()) == (0, [])
        other.add(2, ValueError("two"))
        assert other.size() == 1
        assert other.load() == 2
        assert [entry.item for entry in other.get_entries()] == [1, 2]
    assert queue.size() == 1


def test_clear_removes_this_objects_entries_only(queue, policy):
    """Those of others stay in the store."""
    queue.add(1, ValueError("one"))
    with DeadLetterQueue(policy) as other:
        other.add(2, ValueError("two"))
        assert queue.clear() == 1
    assert queue.size() == 0
    assert [entry.item for entry in stored(policy)] == [2]


def test_the_oldest_go_first(tmp_path):
    """The bound holds in memory and in the store, whoever adds."""
    policy = DLQPolicy(tmp_path / "dlq", max_entries=3)
    for start in (0, 2):
        with DeadLetterQueue(policy) as queue:
            for number in range(start, start + 5):
                queue.add(number, ValueError(str(number)))
            assert [entry.item for entry in queue.get_entries()] == [start + 2, start + 3, start + 4]
    assert [entry.item for entry in stored(policy)] == [4, 5, 6]


def test_no_bound_means_none(tmp_path):
    """``max_entries=0`` keeps everything."""
    with DeadLetterQueue(DLQPolicy(tmp_path, max_entries=0, auto_persist=False)) as queue:
        for number in range(20_000):
            queue.add(number, ValueError("x"))
        assert queue.size() == 20_000


def test_without_auto_persist_nothing_is_written_until_save(tmp_path):
    """Then entries are added to the store, once."""
    policy = DLQPolicy(tmp_path / "dlq", auto_persist=False)
    with DeadLetterQueue(policy) as queue:
        queue.add(1, ValueError("one"))
        assert not (tmp_path / "dlq").exists()
        with pytest.raises(OSError, match="no such store"):
            queue.load()
        path = queue.save()
        assert queue.save() == path == str(tmp_path / "dlq" / "dlq.sqlite3")
    assert len(stored(policy)) == 1


def test_what_json_cannot_hold_is_kept_beside_a_repr(tmp_path):
    """Nothing is dropped; what does not even pickle leaves its repr."""
    policy = DLQPolicy(tmp_path / "dlq")
    with DeadLetterQueue(policy) as queue:
        queue.add({"z": 1j}, ValueError("x"))
        queue.add(threading.Lock(), ValueError("y"))
        shown = [row["item"] for row in queue.stored()]
    assert shown[0]["z"]["repr"] == "1j"
    restored, lost = stored(policy)
    assert restored.item == {"z": 1j}
    assert restored.can_rerun
    assert isinstance(lost.item, Unrestorable)
    assert not lost.can_rerun


def test_the_summary_counts(queue):
    """By type of error, with mean retries and the span of time."""
    assert queue.get_summary() == {
        "total_entries": 0,
        "error_types": {},
        "avg_retry_count": 0.0,
        "oldest_timestamp": None,
        "newest_timestamp": None,
    }
    for retries, error in enumerate([ValueError("a"), KeyError("b"), ValueError("c")]):
        queue.add(retries, error, retry_count=retries)
    summary = queue.get_summary()
    assert (summary["total_entries"], summary["error_types"]) == (3, {"ValueError": 2, "KeyError": 1})
    assert summary["avg_retry_count"] == 1.0
    assert summary["oldest_timestamp"] <= summary["newest_timestamp"]


def test_an_error_that_cannot_be_shown_is_kept(queue, policy):
    """A broken ``__str__`` hides nothing."""

    class BrokenError(Exception):
        def __str__(self):
            raise LookupError

    queue.add(1, BrokenError())
    assert stored(policy)[0].error_type == "BrokenError"


def test_an_error_that_refuses_questions_is_kept(queue, policy):
    """One whose ``__getattr__`` fails cannot be asked for its notes; where it was raised is known all the same."""

    class ClosedError(Exception):
        def __getattr__(self, name):
            raise RuntimeError(name)

    wrapped = OSError()
    wrapped.__cause__ = ClosedError()
    for error in (ClosedError(), wrapped):
        queue.add(1, failure(error))
    assert [entry.error_type for entry in stored(policy)] == ["ClosedError", "OSError"]
    assert all("raise_error" in entry.traceback for entry in stored(policy))


def test_texts_with_bytes_that_are_no_characters_are_kept(queue, policy):
    """As an error has them that names such a file; the item comes back as it was."""
    name = "caf\udcff"
    queue.add(name, failure(OSError(name)))
    queue.add("plain", OSError("plain"))
    queue.add_soon(DLQEntry.of(name, failure(OSError(name))))
    queue.update(queue.get_entries()[0].failed_again(failure(KeyError(name))))
    assert [entry.item for entry in stored(policy)] == [name, "plain", name]
    assert [entry.error_message for entry in stored(policy)] == [r"'caf\udcff'", "plain", r"caf\udcff"]


def test_several_threads_and_queues_add_at_once(policy):
    """Each entry is there exactly once."""

    def add(index):
        with DeadLetterQueue(policy) as queue:
            for number in range(20):
                queue.add(index * 20 + number, ValueError("x"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert sorted(entry.item for entry in stored(policy)) == list(range(80))


def test_a_store_that_fails_is_an_error_and_the_entry_stays(tmp_path):
    """Nothing is swallowed."""
    with DeadLetterQueue(DLQPolicy(tmp_path / "dlq")) as queue:
        queue.journal.path.write_bytes(b"")
        queue.journal._writer.execute("PRAGMA query_only = 1")
        with pytest.raises(StorageError, match="cannot be written"):
            queue.add(1, ValueError("x"))
        assert queue.size() == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and rights are POSIX's")
def test_stores_of_others_are_not_read(policy):
    """Neither is a directory that others can write into used."""
    with DeadLetterQueue(policy) as queue:
        queue.add(1, ValueError("x"))
        path = queue.journal.path
    path.chmod(0o664)
    with pytest.raises(OSError, match="chmod go-w"), DeadLetterQueue(policy):
        pass
    path.chmod(0o600)
    path.parent.chmod(0o777)
    with pytest.raises(OSError, match="chmod go-w"):
        DeadLetterQueue(policy)
    path.parent.chmod(0o700)


def test_a_queue_travels_as_its_policy(queue, policy):
    """Another process gets a queue on the same store."""
    copy = pickle.loads(pickle.dumps(queue))
    copy.add(1, ValueError("x"))
    copy.close()
    assert len(stored(policy)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"directory": ""},
        {"directory": 7},
        {"format": "json"},
        {"max_entries": -1},
        {"max_entries": True},
        {"include_traceback": 1},
        {"auto_persist": None},
    ],
)
def test_wrong_policies_are_refused(options):
    """The error is a ValueError that names the parameter."""
    with pytest.raises(ValueError, match=f"{next(iter(options))}[= ]"):
        DLQPolicy(**options)


@pytest.mark.parametrize("make", [DeadLetterQueue, CheckpointManager])
def test_a_directory_is_no_policy(make):
    """The error names the parameter, and nothing is made."""
    with pytest.raises(InvalidParameterTypeError, match="policy='somewhere': must be a"):
        make("somewhere")


def test_entries_are_dictionaries_and_back():
    """What has a default may be missing."""
    entry = DLQEntry(1, "ValueError", "x", 1.5)
    assert DLQEntry.from_dict(entry.to_dict()) == entry
    short = {"item": 1, "error_type": "ValueError", "error_message": "x", "timestamp": 1.5}
    assert DLQEntry.from_dict(short).metadata == {}
    for wrong in ({**short, "more": 1}, {"item": 1}, {**short, "style": "what"}):
        with pytest.raises(ValueError, match=r"dead letter|style"):
            DLQEntry.from_dict(wrong)


def test_a_queue_that_is_dropped_or_outlives_the_program_is_closed(policy):
    """Without a word on stderr, and with one file left."""
    DeadLetterQueue(policy).add(1, ValueError("x"))
    program = "import sys; from amorsize_executor import *; "
    program += "queue = DeadLetterQueue(DLQPolicy(sys.argv[1])); queue.add(2, ValueError('y'))"
    command = [sys.executable, "-W", "error", "-c", program, str(policy.directory)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert [path.name for path in policy.directory.iterdir()] == ["dlq.sqlite3"]
    assert [entry.item for entry in stored(policy)] == [1, 2]


# --- files ---


@pytest.mark.parametrize("name", ["out.json", "out.pkl", "out.jsonl", "out"])
def test_files_hold_what_the_queue_holds(queue, tmp_path, name):
    """The suffix decides on the format, else the policy does."""
    for item in [1, (2, 3), {4j}]:
        queue.add(item, ValueError(str(item)))
    path = tmp_path / name
    assert queue.save(path) == str(path)
    with DeadLetterQueue(DLQPolicy(tmp_path / "other", auto_persist=False, format=queue.policy.format)) as other:
        assert other.load(path) == 3
        assert other.get_entries() == queue.get_entries()


@pytest.mark.parametrize("content", [b"", b"{", b"[{}]", b"[1]", b'{"a": 1}'])
def test_damaged_files_are_errors(tmp_path, content):
    """And the entries that the queue had stay."""
    path = tmp_path / "out.json"
    path.write_bytes(content)
    with DeadLetterQueue(DLQPolicy(tmp_path / "dlq")) as queue:
        queue.add(1, ValueError("x"))
        with pytest.raises(OSError, match="damaged"):
            queue.load(path)
        with pytest.raises(OSError, match=r"No such file|is damaged"):
            queue.load(tmp_path / "missing.json")
        assert queue.size() == 1


def test_a_failed_save_leaves_the_old_file(queue, tmp_path, monkeypatch):
    """A full disk never costs what was saved before."""
    queue.add(1, ValueError("x"))
    path = tmp_path / "out.json"
    queue.save(path)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    queue.add(2, ValueError("y"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        queue.save(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("column", "content"), [("item", b'{"$tup\xff'), ("item", b"{"), ("metadata", "{"), ("style", "itxm")]
)
def test_a_damaged_entry_does_not_hide_the_others(queue, policy, column, content):
    """It is listed, it stays in the store, and its arguments are not guessed at."""
    for number in range(3):
        queue.add(number, ValueError(number))
    queue.journal.write([(f"UPDATE entries SET {column} = ? WHERE number = 2", (content,))])  # noqa: S608
    assert [row["shown"] for row in queue.stored()] == ["0", "1", "2"]
    with DeadLetterQueue(policy) as other:
        assert other.load() == 3
        replay = replay_failed_items(other, str)
        assert replay.results == (["0", "1", "2"] if column == "metadata" else ["0", "2"])
        assert len(other.stored()) == len(replay.still_failed) == 3 - len(replay.results)


def test_lines_are_imported_into_the_store(queue, policy, tmp_path):
    """Twice the same is once; another queue's entries come to those that are there."""
    queue.add((1, 2), ValueError("x"))
    path = tmp_path / "out.jsonl"
    queue.save(path)
    target = DLQPolicy(tmp_path / "target")
    with DeadLetterQueue(target) as other:
        other.add(0, ValueError("y"))
        assert other.import_lines(path) == 1
        assert other.import_lines(path) == 1
        assert [entry.item for entry in other.get_entries()] == [0, (1, 2)]
    assert [entry.item for entry in stored(target)] == [0, (1, 2)]


GOOD = {"item": [1], "error_type": "E", "error_message": "m", "timestamp": 1.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"error_type": [1]},
        {"error_message": None},
        {"timestamp": "yesterday"},
        {"timestamp": True},
        {"timestamp": float("nan")},
        {"traceback": 7},
        {"retry_count": "z"},
        {"retry_count": -1},
        {"metadata": 5},
        {"entry_id": 7},
        {"style": "none"},
        {"style": "args", "item": 1},
        {"style": "call"},
        {"style": "call", "item": [[], {1: 2}]},
        {"more": 1},
    ],
    ids=str,
)
def test_lines_that_are_no_dead_letters_are_refused(queue, tmp_path, wrong):
    """All of the file, before anything of it can spoil the store."""
    path = tmp_path / "out.jsonl"
    path.write_text("".join(to_json({**GOOD, **more}) + "\n" for more in ({}, wrong)))
    with pytest.raises(StorageError, match="holds no dead letters"):
        queue.import_lines(path)
    assert (queue.size(), queue.journal.read("SELECT * FROM entries")) == (0, [])


def test_pickles_are_imported_only_when_that_is_said_and_safe(tmp_path):
    """They could run any code."""
    path = tmp_path / "out.jsonl"
    with DeadLetterQueue(DLQPolicy(tmp_path / "dlq")) as queue:
        queue.add(1j, ValueError("x"))
        queue.save(path)
        queue.clear()
        with pytest.raises(OSError, match="allow_pickle=True"):
            queue.import_lines(path)
        assert queue.size() == 0
        assert queue.import_lines(path, allow_pickle=True) == 1
        path.chmod(0o666)
        with pytest.raises(OSError, match="chmod go-w"):
            queue.import_lines(path, allow_pickle=True)


def test_purging_removes_what_is_chosen(queue, policy):
    """From the store, whoever left it."""
    with DeadLetterQueue(policy) as other:
        for error in (ValueError("a"), KeyError("b"), ValueError("c")):
            other.add(1, error)
    assert queue.purge(before=0.0) == 0
    assert queue.purge(error_type="ValueError") == 2
    assert [entry.error_type for entry in stored(policy)] == ["KeyError"]
    assert queue.purge() == 1


@pytest.mark.parametrize(
    "damage",
    [
        "error_type = NULL, error_message = X'00', timestamp = NULL, traceback = X'00', retry_count = NULL",
        "metadata = NULL, style = NULL, form = NULL, item = NULL, shown = NULL",
        "timestamp = 1e300, metadata = '[1]', item = 'text'",
    ],
)
def test_columns_of_other_types_do_not_hide_the_other_entries(queue, policy, damage, capsys):
    """Damage of a database may be anywhere in it; what is left is listed, loaded, written and counted."""
    for number in range(3):
        queue.add(number, ValueError(number), metadata={"function": "m:f"})
    queue.journal.write([(f"UPDATE entries SET {damage} WHERE number = 2", ())])  # noqa: S608
    assert main(["dlq", "list", "--directory", str(policy.directory)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    with DeadLetterQueue(policy) as other:
        assert other.load() == other.get_summary()["total_entries"] == 3
        other.save(policy.directory / "letters.jsonl")
        assert other.load(policy.directory / "letters.jsonl") == 3
        whole = [entry.item for entry in other.get_entries() if entry.can_rerun]
        assert whole == ([0, 2] if "item" in damage else [0, 1, 2])


# --- the layer ---


def test_the_layer_keeps_failed_calls_and_lets_them_fail(queue, policy):
    """Successes leave no trace."""
    layer = layer_of(queue)
    layer.open()
    assert run_call(layer, Call(payloads.square, (3,), {})) == (9, True)
    with pytest.raises(ValueError, match="no"):
        run_call(layer, Call(payloads.raise_value_error, ("no",), {}, 4, 2, batch=1))
    with pytest.raises(TypeError):
        run_call(layer, Call(payloads.add, (1, None), {}))
    with pytest.raises(TypeError):
        run_call(layer, Call(payloads.add, (1,), {"right": None}, key="k"))
    layer.close()
    one, two, three = stored(policy)
    assert (one.style, one.item, one.retry_count) == ("item", "no", 2)
    assert one.metadata == {
        "function": "tests.payloads:raise_value_error",
        "attempts": 3,
        "position": 4,
        "map": 1,
    }
    assert (two.style, two.item, two.arguments()) == ("args", (1, None), ((1, None), {}))
    assert (three.style, three.arguments()) == ("call", ((1,), {"right": None}))
    assert three.metadata["key"] == "k"


def test_where_failures_cannot_be_kept_calls_are_refused():
    """Nothing fails unnoticed."""
    layer = DeadLetters(DeadLetterQueue(DLQPolicy("/proc/self/nowhere", auto_persist=False)))
    layer.queue.policy = DLQPolicy("/proc/self/nowhere")
    layer.open()
    with pytest.raises(StorageError, match="cannot be used"):
        layer.admit(Call(payloads.square, (3,), {}))
    layer.close()


def test_a_program_that_is_run_again_keeps_the_latest_failure_of_each_call(policy, tmp_path):
    """With a checkpoint: what failed twice is kept once, and what has succeeded at last is kept no more."""
    checkpoint = CheckpointPolicy(tmp_path / "checkpoints", checkpoint_name="run")
    marker = tmp_path / "service is up"
    for run in (1, 2, 3):
        with AdaptiveExecutor(max_workers=1, checkpoint=checkpoint, dead_letters=policy) as executor:
            failed = [executor.submit(payloads.raise_value_error, "no key, no identity").exception()]
            failed += executor.imap(Path.read_text, [marker] * 3, on_error="return")
        if run < 3:
            assert [type(error) for error in failed] == [ValueError] + [FileNotFoundError] * 3
            kinds = sorted(entry.error_type for entry in stored(policy))
            assert kinds == ["FileNotFoundError"] * 3 + ["ValueError"] * run
        if run == 2:
            marker.write_text("text", encoding="ascii")
    assert failed[1:] == ["text"] * 3
    assert [entry.error_type for entry in stored(policy)] == ["ValueError"] * 3


def test_a_queue_that_is_closed_while_an_executor_uses_it_loses_nothing(policy):
    """Who has only added to it closes it, too."""
    queue = DeadLetterQueue(policy)
    with AdaptiveExecutor(max_workers=1, dead_letters=queue) as executor:
        assert executor.submit(payloads.raise_value_error, "one").exception()
        queue.close()
        assert executor.submit(payloads.raise_value_error, "two").exception()
        queue.journal.flush()
        assert isinstance(executor.submit(payloads.raise_value_error, "three").exception(), ValueError)
    assert [entry.item for entry in stored(policy)] == ["one", "two", "three"]


def test_the_latest_failure_takes_the_place_of_the_one_before_in_one_transaction(policy):
    """Killed at any moment, a program leaves one of the two."""
    layer = layer_of(DeadLetterQueue(policy))
    layer.open()
    journal = layer.queue.journal
    seen: list = []
    commit = journal._commit

    def watched(rows):
        commit(rows)
        seen.append([entry.error_message for entry in stored(policy)])

    def at_once(statement, row):
        append(statement, row)
        journal.flush()

    append, journal.append = journal.append, at_once  # as where the thread is fast
    journal._commit = watched
    for text in ("first", "second"):
        call = Call(payloads.raise_value_error, (text,), {}, identity=("run", 1, 0, b""))
        layer.settle(call, Outcome(error=ValueError(text)))
        journal.flush()
    layer.close()
    assert seen == [["first"], ["second"]]


def test_no_more_is_known_of_failed_calls_than_is_kept(tmp_path):
    """A long run with many failures needs no more memory than its queue."""
    layer = layer_of(DLQPolicy(tmp_path / "dlq", max_entries=3))
    layer.open()
    calls = [Call(payloads.square, (0,), {}, position, identity=("run", 1, position, b"")) for position in range(50)]
    for call in calls:
        layer.settle(call, Outcome(error=ValueError("no")))
    assert layer.queue.size() + sum(len(held) for held in vars(layer).values() if isinstance(held, set)) <= 6
    layer.settle(calls[-1], Outcome(0))
    layer.settle(calls[0], Outcome(0))
    layer.close()
    assert [entry.metadata["position"] for entry in stored(layer.queue.policy)] == [47, 48]


def test_other_data_at_the_same_place_of_a_map_are_another_dead_letter(policy, tmp_path):
    """What an earlier run left is not erased by what has nothing to do with it."""
    checkpoint = CheckpointPolicy(tmp_path / "checkpoints", checkpoint_name="run")
    for item in ("old", "new"):
        with AdaptiveExecutor(max_workers=1, checkpoint=checkpoint, dead_letters=policy) as executor:
            list(executor.imap(payloads.raise_value_error, [item], on_error="skip"))
    assert [entry.item for entry in stored(policy)] == ["old", "new"]


def test_an_executor_keeps_what_has_failed_for_good(policy):
    """Exceptions with the worker's traceback, and calls that kill workers; futures fail all the same."""
    with AdaptiveExecutor(max_workers=2, middleware=[layer_of(policy)]) as executor:
        results = list(executor.imap(payloads.raise_value_error, ["a", "b"], on_error="return"))
        dead = executor.submit(payloads.exit_now, 3).exception()
        assert list(executor.map(payloads.square, range(5))) == [0, 1, 4, 9, 16]
    assert [type(result) for result in results] == [ValueError, ValueError]
    assert type(dead).__name__ == "WorkerDiedError"
    entries = stored(policy)
    assert sorted((entry.error_type, entry.item) for entry in entries) == [
        ("ValueError", "a"),
        ("ValueError", "b"),
        ("WorkerDiedError", 3),
    ]
    by_item = {entry.item: entry for entry in entries}
    assert by_item["a"].traceback.startswith("Traceback")
    assert "raise ValueError(message)" in by_item["a"].traceback
    assert by_item[3].metadata["function"] == "tests.payloads:exit_now"


def test_a_layer_is_made_of_a_directory_a_policy_a_queue_or_a_layer(tmp_path, queue):
    """Anything else is a TypeError."""
    for directory in (str(tmp_path / "d"), tmp_path / "d"):
        assert layer_of(directory).queue.policy == DLQPolicy(directory)
    assert layer_of(queue.policy).queue.policy is queue.policy
    assert layer_of(queue).queue is queue
    layer = Middleware()
    assert layer_of(layer) is layer
    with pytest.raises(InvalidParameterTypeError, match="dead_letters=7"):
        layer_of(7)


# --- replay ---


@pytest.fixture
def three(queue):
    """Return a queue of three failed items."""
    for item in (4, "x", 6):
        queue.add(item, failure(ValueError(f"first {item}")))
    return queue


def half(value: int) -> float:
    """Fail for text."""
    return value / 2


def test_what_succeeds_leaves_and_what_fails_again_stays(three, policy):
    """Results belong to entries; the new error is the entry's, and when it failed first is known."""
    before = three.get_entries()
    with ThreadPoolExecutor(2) as pool:
        replay = replay_failed_items(three, half, executor=pool)
    results, still_failed = replay
    assert results == replay.results == [2.0, 3.0]
    assert replay.succeeded == [before[0], before[2]]
    assert still_failed == replay.still_failed == three.get_entries() == stored(policy)
    (failed,) = still_failed
    assert (failed.item, failed.error_type, failed.retry_count) == ("x", "TypeError", 1)
    assert failed.metadata["first_failed_at"] == before[1].timestamp
    assert before[1].error_type == "ValueError"
    assert "in half" in failed.traceback


@pytest.mark.parametrize("wrong", [{"dlq": "dlq"}, {"func": None}, {"clear_on_success": "no"}, {"executor": 3}])
def test_wrong_arguments_of_a_replay_are_named_before_anything_runs(three, wrong):
    """A text that is true would have cleared the queue."""
    with pytest.raises(InvalidParameterTypeError, match=f"{next(iter(wrong))}="):
        replay_failed_items(**{"dlq": three, "func": abs, **wrong})
    assert three.size() == 3


def test_a_trial_replay_changes_nothing(three, policy):
    """With ``clear_on_success=False`` queue and store stay as they are."""
    before = three.get_entries()
    with ThreadPoolExecutor(2) as pool:
        results, still_failed = replay_failed_items(three, half, clear_on_success=False, executor=pool)
    assert (results, len(still_failed)) == ([2.0, 3.0], 1)
    assert three.get_entries() == before == stored(policy)


def test_a_replay_runs_on_an_executor_of_its_own(three):
    """In workers, with their tracebacks."""
    _results, (failed,) = replay_failed_items(three, payloads.raise_for_text)
    assert failed.error_type == "ValueError"
    assert "payloads.py" in failed.traceback


def test_a_replay_through_an_executor_that_keeps_dead_letters_keeps_each_once(three, policy):
    """What fails again is there already."""
    with AdaptiveExecutor(2, dead_letters=three, backend="thread") as executor:
        for _ in range(2):
            replay_failed_items(three, half, executor=executor)
    (entry,) = stored(policy)
    assert (entry.item, entry.retry_count) == ("x", 2)
    assert three.get_entries() == [entry]


def test_what_is_added_meanwhile_stays(three, policy):
    """A replay deals with the entries that it was given."""

    def add_another(value):
        three.add(f"new {value}", ValueError("new"))
        return value

    with ThreadPoolExecutor(1) as pool:
        replay_failed_items(three, add_another, executor=pool)
    assert [entry.item for entry in stored(policy)] == ["new 4", "new x", "new 6"]


def test_a_replay_that_breaks_off_loses_nothing(three, policy):
    """What has succeeded is gone, all else is still there."""

    class Breaking(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            future = super().submit(fn, *args, **kwargs)
            if args == (6,):
                future = super().submit(payloads.raise_error, BrokenProcessPool("gone"))
            return future

    with Breaking(1) as pool, pytest.raises(BrokenProcessPool):
        replay_failed_items(three, payloads.identity, executor=pool)
    assert [entry.item for entry in stored(policy)] == [6]


def test_a_slow_call_does_not_keep_what_has_succeeded_in_the_store(three, policy, monkeypatch):
    """An entry leaves when its own call has succeeded; the results are in the order of the entries all the same."""
    first, *others = [entry.item for entry in three.get_entries()]
    is_alone, remove = threading.Event(), three.remove

    def removing(entry):
        remove(entry)
        if [left.item for left in stored(policy)] == [first]:
            is_alone.set()

    monkeypatch.setattr(three, "remove", removing)
    with ThreadPoolExecutor(2) as pool:
        replay = replay_failed_items(three, lambda item: is_alone.wait(10) if item == first else item, executor=pool)
    assert replay.results == [True, *others]
    assert [entry.item for entry in replay.succeeded] == [first, *others]


def test_arguments_that_are_lost_are_not_replayed(tmp_path):
    """The entry stays as it is."""
    policy = DLQPolicy(tmp_path / "dlq")
    with DeadLetterQueue(policy) as queue:
        queue.add([threading.Lock()], ValueError("x"))
        queue.load()
        before = queue.get_entries()
        with ThreadPoolExecutor(1) as pool:
            assert replay_failed_items(queue, payloads.identity, executor=pool) == ([], before)
        assert queue.get_entries() == before


def test_calls_are_replayed_as_they_were_made(tmp_path):
    """Several arguments, and keywords."""
    with DeadLetterQueue(DLQPolicy(tmp_path / "dlq")) as queue:
        layer = layer_of(queue)
        for args, kwargs in (((1, None), {}), ((1,), {"right": None})):
            with pytest.raises(TypeError):
                run_call(layer, Call(payloads.add, args, kwargs))
        queue.load()
        with ThreadPoolExecutor(1) as pool:
            results, _failed = replay_failed_items(queue, lambda left, right: (left, right), executor=pool)
        assert results == [(1, None), (1, None)]
        assert queue.size() == 0
