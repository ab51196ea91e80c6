"""The checkpoint layer, and the snapshot classes."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
import threading
from contextlib import closing, contextmanager

import pytest

from amorsize_executor import (
    AdaptiveExecutor,
    CheckpointManager,
    CheckpointMismatchError,
    CheckpointPolicy,
    CheckpointState,
    StorageError,
    UnstableKeyError,
    execute,
    get_pending_items,
    merge_results,
)
from amorsize_executor.cli.main import main
from amorsize_executor.errors import InvalidParameterError, InvalidParameterTypeError
from amorsize_executor.middleware.base import RUN, Call, Middleware, Outcome
from amorsize_executor.middleware.checkpoint import Checkpoint, layer_of
from tests import payloads
from tests.layers import run_call


@pytest.fixture
def policy(tmp_path):
    """Return a policy with a directory of its own."""
    return CheckpointPolicy(tmp_path / "checkpoints", checkpoint_name="run")


@contextmanager
def opened(policy):
    """Yield an open layer."""
    layer = layer_of(policy)
    layer.open()
    try:
        yield layer
    finally:
        layer.close()


def run_map(layer, function, items, *, batch=0, key=None):
    """Run a map's calls through a layer; return the values and the positions that ran."""
    values, ran = [], []
    for position, item in enumerate(items):
        value, is_new = run_call(layer, Call(function, (item,), {}, position, key=key, batch=batch))
        values.append(value)
        ran += [position] if is_new else []
    return values, ran


# --- what is kept and given out ---


@pytest.mark.parametrize("form", ["pickle", "json"])
def test_a_second_run_computes_only_the_rest(tmp_path, form):
    """Finished results come from the journal; longer data with an equal beginning goes on behind them."""
    policy = CheckpointPolicy(tmp_path, checkpoint_name="run", save_format=form)
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, range(5)) == ([0, 1, 4, 9, 16], [0, 1, 2, 3, 4])
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, range(8)) == ([0, 1, 4, 9, 16, 25, 36, 49], [5, 6, 7])
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, range(3)) == ([0, 1, 4], [])


def test_errors_are_not_kept(policy):
    """A call that failed runs again."""
    for _ in range(2):
        with opened(policy) as layer, pytest.raises(ValueError, match="no"):
            run_map(layer, payloads.raise_value_error, ["no"])


def test_maps_of_one_function_over_the_same_data_do_not_mix(policy):
    """The map's ordinal is part of the key, and so is a name."""
    counter = iter(range(100))

    def draw(_item):
        return next(counter)

    with opened(policy) as layer:
        assert run_map(layer, draw, "ab", key="vouched")[0] == [0, 1]
        assert run_map(layer, payloads.identity, "ab", batch=0)[1] == [0, 1]
        assert run_map(layer, payloads.identity, "ab", batch=1)[1] == [0, 1]
    with opened(policy) as layer:
        assert run_map(layer, payloads.identity, "ab", batch=1)[1] == []
        assert run_map(layer, payloads.identity, "ab", batch=2)[1] == [0, 1]


def test_keys_name_calls_and_maps_wherever_they_are(policy):
    """A key stands for the ordinal; values that compare equal and are of two types are two keys."""
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [2], key="a", batch=None) == ([4], [0])
        assert run_map(layer, payloads.square, [3], key=1, batch=None) == ([9], [0])
        assert run_map(layer, payloads.square, [4], key=True, batch=None) == ([16], [0])
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [4], key=True, batch=5) == ([16], [])
        assert run_map(layer, payloads.square, [2], key="a", batch=None) == ([4], [])
        with pytest.raises(InvalidParameterTypeError, match="key=\\[1\\]"):
            run_map(layer, payloads.square, [2], key=[1])


def test_a_key_that_comes_back_in_the_same_run_is_known_at_once(policy):
    """Not only when its result was committed: it is given out, or told to be another's, as in the next run."""
    for ran in ([0, 1], []):
        with opened(policy) as layer:
            layer._journal._commit_after_s = 3600.0
            assert run_map(layer, payloads.square, [2, 3], key="a") == ([4, 9], ran)
            assert run_map(layer, payloads.square, [2, 3], key="a", batch=1) == ([4, 9], [])
            with pytest.raises(CheckpointMismatchError, match="arguments of call 0"):
                run_map(layer, payloads.square, [5], key="a", batch=None)
            with pytest.raises(CheckpointMismatchError, match=r"the name .* those of tests.payloads:square"):
                run_map(layer, payloads.identity, [2], key="a", batch=None)
            assert run_map(layer, payloads.square, [2], key="a", batch=None) == ([4], [])


def test_parts_of_keys_that_compare_equal_are_told_apart(policy):
    """Inside of a tuple too, in whatever order they come."""
    keys = [("page", 1), ("page", True), ("page", 1.0)]
    for order in (keys, keys[::-1]):
        with opened(policy) as layer:
            for key in order:
                assert run_map(layer, payloads.identity, [repr(key)], key=key, batch=None)[0] == [repr(key)]


def test_a_key_stands_for_one_call_while_it_runs_too(policy):
    """Another one under it is refused before it runs, and not when the program is run again."""
    with opened(policy) as layer:
        first, other, equal = (Call(payloads.square, (item,), {}, 0, key="a") for item in (2, 3, 2))
        assert layer.admit(first) is RUN
        for wrong in (other, Call(payloads.identity, (2,), {}, 0, key="a")):
            with pytest.raises(CheckpointMismatchError, match=r"key 'a': call 0 has .* than one that runs now"):
                layer.admit(wrong)
        assert layer.admit(equal) is RUN
        layer.retract(first, "cancelled")
        with pytest.raises(CheckpointMismatchError, match="than one that runs now"):
            layer.admit(other)  # the equal one does
        layer.retract(equal, "cancelled")
        assert run_call(layer, other) == (9, True)
        assert not layer._running


def test_a_call_that_ends_while_another_one_of_its_key_is_looked_up_keeps_the_key(policy):
    """Two executors share the layer: one settles a call while the other admits one."""
    with opened(policy) as layer:
        first, other = (Call(payloads.square, (item,), {}, 0, key="a") for item in (2, 3))
        assert layer.admit(first) is RUN
        find = layer._find

        def find_and_wait(entry, position):
            found = find(entry, position)
            if first in waiting:
                waiting.remove(first)
                layer.settle(first, Outcome(4))
            return found

        waiting, layer._find = [first], find_and_wait
        with pytest.raises(CheckpointMismatchError):
            layer.admit(other)
        layer._find = find
        if waiting:
            layer.settle(first, Outcome(4))
        with pytest.raises(CheckpointMismatchError, match="arguments of call 0"):
            layer.admit(other)
        assert run_call(layer, Call(payloads.square, (2,), {}, 0, key="a")) == (4, False)
        assert not layer._running


def test_results_that_are_committed_are_not_held_in_memory(policy):
    """Those with a key are, for a while."""
    with opened(policy) as layer:
        for number in range(5):
            run_map(layer, payloads.square, [number], key=number, batch=None)
            layer._journal.flush()
            assert len(layer._fresh) <= 2
        assert run_map(layer, payloads.square, [0], key=0, batch=None) == ([0], [])


def test_a_submitted_call_without_a_key_is_no_part_of_it(policy):
    """Nothing would tell it from others in another run."""
    for _ in range(2):
        with opened(policy) as layer:
            assert run_map(layer, payloads.square, [2], batch=None) == ([4], [0])


def test_an_interval_of_zero_turns_it_off(tmp_path):
    """Then nothing is read or written, and there is no file."""
    policy = CheckpointPolicy(tmp_path / "checkpoints", checkpoint_interval=0, checkpoint_name="run")
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [2]) == ([4], [0])
    assert list(tmp_path.iterdir()) == []


# --- what is refused ---


def test_other_data_are_a_mismatch_that_says_where(policy):
    """A wrong result is never given out."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [1, 2, 3])
    with opened(policy) as layer:
        with pytest.raises(CheckpointMismatchError, match="map 0: the arguments of call 1 are not those") as raised:
            run_map(layer, payloads.square, [1, 5, 3])
        assert pickle.loads(pickle.dumps(raised.value)).args == raised.value.args
        assert (raised.value.checkpoint, raised.value.place) == ("run", "map 0")


def test_another_function_is_a_mismatch_that_says_what_differs(policy):
    """Even for positions of which nothing is stored."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [1])
    with (
        opened(policy) as layer,
        pytest.raises(
            CheckpointMismatchError, match=r"the name and the source of .*identity are not those of .*square"
        ),
    ):
        layer.admit(Call(payloads.identity, (7,), {}, 7, batch=0))

    def closing_over(value):
        return lambda item: (item, value)

    with opened(policy) as layer:
        run_map(layer, closing_over(1), [1], batch=1)
    with (
        opened(policy) as layer,
        pytest.raises(CheckpointMismatchError, match=r"map 1: the closure of .* are not as when"),
    ):
        run_map(layer, closing_over(2), [1], batch=1)


def test_a_function_that_left_no_result_is_no_mismatch(policy):
    """Where nothing is stored, nothing can be wrong."""
    with opened(policy) as layer, pytest.raises(ValueError, match="1"):
        run_map(layer, payloads.raise_value_error, ["1"])
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [2]) == ([4], [0])
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [2]) == ([4], [])


def test_what_has_no_stable_hash_asks_for_a_key_and_works_with_one(policy):
    """The name then vouches for what cannot be compared; what can be is compared still."""
    lock = threading.Lock()
    with opened(policy) as layer:
        with pytest.raises(UnstableKeyError, match=r"options\(key="):
            run_map(layer, type, [lock])
        run_call(layer, Call(payloads.add, ([1], [lock]), {}, 0, key="work"))  # its result does not pickle
        assert run_call(layer, Call(bool, ((1, lock),), {}, 0, key="flag")) == (True, True)
    with opened(policy) as layer:
        assert run_call(layer, Call(bool, ((1, lock),), {}, 0, key="flag")) == (True, False)
        with pytest.raises(CheckpointMismatchError, match="key 'flag': the arguments"):
            run_call(layer, Call(bool, ((2, lock),), {}, 0, key="flag"))


def test_a_result_that_cannot_be_stored_is_delivered(policy, caplog):
    """It runs again next time; the log says so, once a map."""
    with opened(policy) as layer:
        _values, ran = run_map(layer, lambda _item: threading.Lock(), range(3))
    assert ran == [0, 1, 2]
    assert len([record for record in caplog.records if "is not stored" in record.message]) == 1


def test_a_damaged_result_is_computed_again_with_a_warning(policy, caplog):
    """Each result has a checksum of its own, and one that is lost costs one call."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [3, 4])
    with closing(sqlite3.connect(policy.checkpoint_dir / "run.sqlite3")) as store, store:
        store.execute("UPDATE results SET value = ? WHERE position = 0", (pickle.dumps(8),))
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [3, 4]) == ([9, 16], [0])
    assert "call 0 of map 0 is damaged, so it is computed again" in caplog.text
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [3, 4]) == ([9, 16], [])


def test_damage_is_not_taken_for_other_arguments(policy, caplog):
    """The checksum covers what a result is known by, too."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [3])
    with closing(sqlite3.connect(policy.checkpoint_dir / "run.sqlite3")) as store, store:
        store.execute("UPDATE results SET digest = ?", (bytes(16),))
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [3]) == ([9], [0])
    assert "call 0 of map 0 is damaged" in caplog.text


@pytest.mark.parametrize("column", ["checksum", "form"])
def test_a_damaged_text_beside_a_result_costs_that_result_at_most(policy, column):
    """It is no text any more; the result is right all the same."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [3])
    with closing(sqlite3.connect(policy.checkpoint_dir / "run.sqlite3")) as store, store:
        store.execute(f"UPDATE results SET {column} = CAST(? AS TEXT)", (b"\xff",))  # noqa: S608
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [3])[0] == [9]


@pytest.mark.parametrize(
    "damage",
    [
        "parts = '{'",
        "parts = 3.5",
        "parts = replace(parts, '0', '1')",
        "function = NULL",
        "id = id + 1",
    ],
)
def test_a_damaged_entry_of_a_map_costs_no_result(policy, damage, caplog):
    """Each result tells by itself what it came from; the entry is written anew."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [3, 4])
    with closing(sqlite3.connect(policy.checkpoint_dir / "run.sqlite3")) as store, store:
        store.execute(f"UPDATE maps SET {damage}")  # noqa: S608
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [3, 4]) == ([9, 16], [])
    assert "the entry of map 0 is damaged" in caplog.text
    with opened(policy) as layer, pytest.raises(CheckpointMismatchError, match=r"those of tests.payloads:square"):
        run_map(layer, payloads.identity, [3])


@pytest.mark.parametrize("first_at", ["'text'", "NULL", "1e300"])
def test_a_damaged_time_of_a_map_does_not_hide_what_it_holds(policy, first_at, capsys):
    """The command line shows the map all the same."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [3, 4])
    with closing(sqlite3.connect(policy.checkpoint_dir / "run.sqlite3")) as store, store:
        store.execute(f"UPDATE maps SET first_at = {first_at}")  # noqa: S608
    assert main(["checkpoint", "show", "run", "--directory", str(policy.checkpoint_dir)]) == 0
    assert "unknown" in capsys.readouterr().out


def test_behind_a_damaged_entry_of_a_map_results_of_another_function_are_not_given_out(policy):
    """The entry only says it sooner."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [3])
    with closing(sqlite3.connect(policy.checkpoint_dir / "run.sqlite3")) as store, store:
        store.execute("UPDATE maps SET parts = '{'")
    with opened(policy) as layer, pytest.raises(CheckpointMismatchError, match="call 0"):
        run_map(layer, payloads.identity, [3])


@pytest.mark.parametrize("damage", ["value = 'text'", "value = NULL", "digest = NULL", "position = 1 - position"])
def test_a_result_of_another_type_or_place_is_computed_again(policy, damage):
    """Damage of a database may be anywhere in it."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [3])
    with closing(sqlite3.connect(policy.checkpoint_dir / "run.sqlite3")) as store, store:
        store.execute(f"UPDATE results SET {damage}")  # noqa: S608
    with opened(policy) as layer:
        assert run_map(layer, payloads.square, [3, 3]) == ([9, 9], [0, 1])


def test_a_result_whose_class_is_gone_is_computed_again_with_a_warning(policy, monkeypatch, caplog):
    """It is not computed again in silence; and the others of the run can still be had."""
    kind = type("Fleeting", (), {"__module__": payloads.__name__, "__qualname__": "Fleeting"})
    monkeypatch.setattr(payloads, "Fleeting", kind, raising=False)
    text = "getattr(payloads, 'Fleeting', int)()"
    with opened(policy) as layer:
        run_call(layer, Call(eval, (text, {"payloads": payloads}), {}, key="it"))
    monkeypatch.delattr(payloads, "Fleeting")
    with opened(policy) as layer:
        assert run_call(layer, Call(eval, (text, {"payloads": payloads}), {}, key="it")) == (0, True)
    assert "cannot be read back (AttributeError" in caplog.text


def test_nothing_is_unpickled_from_what_others_can_write(policy):
    """Calls fail with an error that says why, and the file is not read."""
    with opened(policy) as layer:
        run_map(layer, payloads.square, [3])
    (policy.checkpoint_dir / "run.sqlite3").chmod(0o666)
    with opened(policy) as layer, pytest.raises(StorageError, match="written by others"):
        run_map(layer, payloads.square, [3])


def test_a_full_disk_fails_calls_to_come_and_no_result_that_is_there(policy):
    """What was computed is delivered; then calls are refused, and the error says why."""
    with opened(policy) as layer:
        journal = layer._journal
        journal._writer.execute("PRAGMA max_page_count = 1")
        started = [Call(payloads.identity, ("x" * 100_000,), {}, position, batch=0) for position in range(2)]
        assert [layer.admit(call) for call in started] == [RUN, RUN]
        for call in started:
            assert layer.settle(call, Outcome(call.args[0])) is None  # it reaches the caller as it came
            with pytest.raises(StorageError, match="disk is full"):
                journal.flush()
        with pytest.raises(StorageError, match="disk is full"):
            layer.admit(Call(payloads.identity, ("y",), {}, 2, batch=0))


def test_a_directory_that_cannot_be_locked_refuses_calls(policy, monkeypatch):
    """As every other reason why a journal does not open."""

    def no_locks(_descriptor, _how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with opened(policy) as layer, pytest.raises(StorageError, match="cannot be locked: No locks"):
        layer.admit(Call(payloads.square, (1,), {}, batch=0))


def test_two_executors_may_share_a_layer(policy):
    """The last one closes the journal."""
    layer = layer_of(policy)
    layer.open()
    layer.open()
    run_map(layer, payloads.square, [1])
    layer.close()
    assert run_map(layer, payloads.square, [2], batch=1) == ([4], [0])
    layer.close()


# --- with an executor ---


def executor_on(policy, **options):
    """Return an executor with a checkpoint."""
    return AdaptiveExecutor(max_workers=2, checkpoint=policy, **options)


def test_an_executor_resumes(policy, tmp_path):
    """A second run of a map over more items runs only those."""
    log = tmp_path / "log"
    work = payloads.Logged(str(log))
    with executor_on(policy) as executor:
        assert list(executor.map(work, range(20))) == list(range(20))
    with executor_on(policy) as executor:
        assert list(executor.map(work, range(30))) == list(range(30))
    assert sorted(map(int, log.read_text(encoding="ascii").split())) == list(range(30))


def test_errors_of_the_store_reach_who_asks(policy):
    """A mismatch is raised where results are taken; the executor goes on."""
    with executor_on(policy) as executor:
        list(executor.map(payloads.square, range(5)))
    with executor_on(policy) as executor, pytest.raises(CheckpointMismatchError):
        list(executor.map(payloads.identity, range(5)))
    with executor_on(policy) as executor:
        results = list(executor.imap(payloads.identity, range(5), on_error="return"))
        assert [type(result) for result in results] == [CheckpointMismatchError] * 5
        assert executor.submit(payloads.square, 3).result() == 9
    with executor_on(CheckpointPolicy("/proc/self/nowhere", checkpoint_name="run")) as executor:
        call = executor.options(key="three").submit(payloads.square, 3)
        assert isinstance(call.exception(), StorageError)


# --- policies ---


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"checkpoint_interval": -1}, ValueError),
        ({"checkpoint_interval": True}, TypeError),
        ({"save_format": "yaml"}, ValueError),
        ({"keep_history": 0}, ValueError),
        ({"checkpoint_name": "../x"}, ValueError),
        ({"checkpoint_dir": ""}, ValueError),
        ({"checkpoint_dir": None}, TypeError),
        ({"auto_cleanup": 1}, TypeError),
    ],
)
def test_wrong_policies_are_refused(options, kind):
    """The error names the parameter."""
    with pytest.raises(kind, match=next(iter(options))):
        CheckpointPolicy(**options)


def test_a_layer_is_made_of_a_name_a_policy_or_a_layer(policy):
    """Anything else is a TypeError."""
    assert layer_of("run").policy == CheckpointPolicy(checkpoint_name="run")
    assert isinstance(layer_of(policy), Checkpoint)
    layer = Middleware()
    assert layer_of(layer) is layer
    with pytest.raises(InvalidParameterTypeError, match="checkpoint=7"):
        layer_of(7)
    with pytest.raises(InvalidParameterError, match="checkpoint_name=None"):
        layer_of(CheckpointPolicy())
    with pytest.raises(InvalidParameterError, match=r"'\.\./run'"):
        layer_of("../run")


# --- snapshots ---


def state_of(results, total=10, **metadata) -> CheckpointState:
    """Return a state whose first items are done."""
    return CheckpointState(list(range(len(results))), list(results), total, 1.5, 2, 3, metadata)


@pytest.fixture(params=["pickle", "json"])
def manager(request, tmp_path):
    """Return a manager of either format."""
    return CheckpointManager(CheckpointPolicy(tmp_path / "snapshots", save_format=request.param))


def test_what_is_saved_is_loaded(manager):
    """Equal, of the same types, and the seven fields are in the file as the contract has them."""
    assert manager.load_checkpoint("run") is None
    state = state_of([(1, 2), {3: None}, float("inf")], note="x")
    path = manager.save_checkpoint("run", state)
    assert path.name == ("run_checkpoint.pkl" if manager.policy.save_format == "pickle" else "run_checkpoint.json")
    assert manager.load_checkpoint("run") == state
    content = path.read_bytes()
    plain = pickle.loads(content) if path.suffix == ".pkl" else json.loads(content)
    assert set(state.to_dict()) <= set(plain)
    assert isinstance(plain, dict)
    assert path.stat().st_mode & 0o777 == 0o600


def test_history_is_kept_and_deleted(manager):
    """The newest and ``keep_history`` older versions."""
    for number in range(4):
        manager.save_checkpoint("run", state_of([number]))
    suffix = {"pickle": "pkl", "json": "json"}[manager.policy.save_format]
    names = sorted(path.name for path in manager.policy.checkpoint_dir.iterdir())
    assert names == [f"run_checkpoint.{suffix}", f"run_checkpoint_v1.{suffix}", f"run_checkpoint_v2.{suffix}"]
    assert manager.load_checkpoint("run").results == [3]
    assert manager.delete_checkpoint("run") == 3
    assert manager.delete_checkpoint("run") == 0


def test_names_are_listed_whatever_they_look_like(manager):
    """A name that looks like a version is a name."""
    for name in ("b", "a_checkpoint_v1", "a"):
        manager.save_checkpoint(name, state_of([]))
        manager.save_checkpoint(name, state_of([]))
    (manager.policy.checkpoint_dir / "unrelated.txt").touch()
    assert manager.list_checkpoints() == ["a", "a_checkpoint_v1", "b"]
    with pytest.raises(ValueError, match=r"name='\.\./a'"):
        manager.load_checkpoint("../a")


def test_the_other_format_is_found_too(tmp_path):
    """Switching formats hides nothing: what was saved last is loaded."""
    managers = [CheckpointManager(CheckpointPolicy(tmp_path, save_format=form)) for form in ("pickle", "json")]
    for turn, manager in enumerate([*managers, *managers]):
        path = manager.save_checkpoint("run", state_of([turn]))
        os.utime(path, (turn, turn))
        assert [each.load_checkpoint("run").results for each in managers] == [[turn], [turn]]
    assert managers[0].list_checkpoints() == ["run"]
    assert managers[1].delete_checkpoint("run") == 4


@pytest.mark.parametrize("broken", [b"", b"broken", b"[" * 100_000], ids=["empty", "broken", "nested"])
@pytest.mark.parametrize("newest", ["json", "pickle"])
def test_where_one_format_is_damaged_the_other_is_taken(tmp_path, newest, broken):
    """And where both are, the error names the newest."""
    formats = sorted(["json", "pickle"], key=newest.__eq__)
    managers = [CheckpointManager(CheckpointPolicy(tmp_path, save_format=form)) for form in formats]
    paths = [manager.save_checkpoint("run", state_of([turn])) for turn, manager in enumerate(managers)]
    os.utime(paths[0], (1, 1))
    assert managers[0].load_checkpoint("run").results == [1]
    paths[1].write_bytes(broken)
    assert managers[0].load_checkpoint("run").results == [0]
    paths[0].write_bytes(broken)
    os.utime(paths[0], (1, 1))
    with pytest.raises(StorageError, match=f"{paths[1].name}: is damaged"):
        managers[1].load_checkpoint("run")


def test_what_json_cannot_hold_is_an_error_and_the_last_version_stays(tmp_path):
    """It is an OSError that says what."""
    manager = CheckpointManager(CheckpointPolicy(tmp_path, save_format="json"))
    manager.save_checkpoint("run", state_of([1]))
    with pytest.raises(OSError, match="type complex"):
        manager.save_checkpoint("run", state_of([1j]))
    assert manager.load_checkpoint("run").results == [1]


def test_snapshots_of_others_are_not_unpickled(manager):
    """Neither is a version that others can write."""
    manager.save_checkpoint("run", state_of([1])).chmod(0o622)
    with pytest.raises(OSError, match="chmod go-w"):
        manager.load_checkpoint("run")


def test_threads_may_save_the_same_name(manager):
    """Versions are whole at the end, and none is lost to a race."""
    threads = [
        threading.Thread(target=manager.save_checkpoint, args=("run", state_of([number]))) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(manager.policy.checkpoint_dir.iterdir())) == 3
    assert manager.load_checkpoint("run").results[0] in range(8)


def test_fields_that_are_missing_are_an_error():
    """So are fields that nobody knows."""
    whole = state_of([1]).to_dict()
    assert CheckpointState.from_dict(whole) == state_of([1])
    for wrong in ({}, {**whole, "more": 1}, {key: whole[key] for key in list(whole)[1:]}):
        with pytest.raises(ValueError, match="fields"):
            CheckpointState.from_dict(wrong)


def test_pending_items_and_merged_results_are_each_others_counterpart():
    """Results come together in the order of the items; new ones win."""
    data = iter("abcde")
    state = CheckpointState([3, 0], ["D", "A"], 5, 0.0, 1, 1, {})
    assert get_pending_items("ab", None) == ([0, 1], ["a", "b"])
    pending, items = get_pending_items(data, state)
    assert (pending, items) == ([1, 2, 4], ["b", "c", "e"])
    assert merge_results(["B", "C", "E"], pending, state, 5) == list("ABCDE")
    assert merge_results(["x"], [0], CheckpointState([0, 1, 9], ["a", "b", "j"], 2, 0.0, 1, 1, {}), 2) == ["x", "b"]
    assert merge_results([1, 2], [0, 1], None, 2) == [1, 2]


@pytest.mark.parametrize(
    ("results", "pending", "message"),
    [([1], [0, 1], "1 for 2 indices"), ([1, 2], [0, -1], "below 0: -1"), ([1], [0], "2 of 4 items .* first is 1")],
)
def test_what_does_not_fit_together_is_an_error(results, pending, message):
    """Nothing is cut off, and gaps are filled only when that is asked for."""
    state = CheckpointState([3], ["d"], 4, 0.0, 1, 1, {})
    with pytest.raises(ValueError, match=message):
        merge_results(results, pending, state, 4)
    assert merge_results([1], [0], state, 4, allow_gaps=True) == [1, None, None, "d"]


def test_a_total_that_is_far_too_large_is_told_at_once():
    """Without a list of all that is missing."""
    with pytest.raises(ValueError, match="999999999998 of 1000000000000 items have no result, the first is 2"):
        merge_results([1, 2], [0, 1], None, 10**12)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_mismatch_is_not_skipped(policy, method):
    """Who leaves out calls that fail would be left with nothing, and not know why."""
    with AdaptiveExecutor(checkpoint=policy) as executor:
        assert list(executor.imap(int, ["1", "2"])) == [1, 2]
    with AdaptiveExecutor(checkpoint=policy) as executor:
        results = getattr(executor, method)(float, ["x", "1", "2", "3"], on_error="skip")
        with pytest.raises(CheckpointMismatchError):
            list(results)
    for on_error in ("skip", "return"):
        with pytest.raises(CheckpointMismatchError):
            execute(float, ["1", "2"], checkpoint=policy, on_error=on_error)
