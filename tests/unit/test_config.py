"""Saved configs: what files hold, and what executors make of them."""

from __future__ import annotations

import functools
import json
import math
import operator
import stat
import sys
import warnings
from datetime import datetime
from pathlib import Path

import pytest

from amorsize_executor import (
    AdaptiveExecutor,
    ConfigData,
    ConfigFileError,
    InvalidParameterError,
    MissingExtraError,
    StorageError,
    get_default_config_dir,
    list_configs,
    load_config,
    save_config,
)
from amorsize_executor.storage import place, plan_file
from amorsize_executor.tuning.saved_plan import describe_system
from tests import payloads

PLAN = ConfigData(3, 40, function_name="square", estimated_speedup=1.9, avg_execution_time=1e-3, notes="größer")


@pytest.fixture
def saved(tmp_path):
    """Return a function that writes a document as JSON and returns its path."""

    def save(**changes):
        path = tmp_path / "plan.json"
        document = {**PLAN.to_dict(), **changes}
        path.write_text(json.dumps({key: value for key, value in document.items() if value is not ...}), "utf-8")
        return path

    return save


# --- files ---


@pytest.mark.parametrize("name", ["plan.json", "plan.yaml", "plan.yml", "plan", "deep/er/plan.JSON"])
def test_a_config_comes_back_as_it_was(tmp_path, name):
    """Whatever the suffix, and into directories that are not there yet."""
    if "y" in Path(name).suffix:
        pytest.importorskip("yaml", reason="needs PyYAML")
    path = tmp_path / name
    save_config(PLAN, path)
    assert load_config(path) == PLAN
    text = path.read_text(encoding="utf-8")
    assert text.startswith("n_jobs: 3\nchunksize: 40\n" if "y" in path.suffix else '{\n  "n_jobs": 3,\n')
    assert "größer" in text
    assert {entry.name for entry in path.parent.iterdir()} == {path.name}


def test_a_config_says_when_and_where_it_was_made():
    """The moment, this machine and this package."""
    document = PLAN.to_dict()
    assert document["system_info"] == describe_system() | {
        "available_memory": document["system_info"]["available_memory"]
    }
    assert {"platform", "platform_version", "python_version", "physical_cores", "start_method"} <= set(
        document["system_info"]
    )
    assert (document["format"], document["source"]) == (1, "optimize")
    assert datetime.fromisoformat(document["timestamp"]).tzinfo is None
    assert "3" in str(PLAN)
    assert "square" in str(PLAN)
    assert "1.90x" in str(PLAN)


def test_a_file_is_replaced_only_on_demand(tmp_path):
    """And never by half."""
    path = tmp_path / "plan.json"
    save_config(PLAN, path)
    with pytest.raises(FileExistsError, match=r"plan\.json"):
        save_config(ConfigData(1, 1), path)
    assert load_config(path) == PLAN
    save_config(ConfigData(1, 1), path, overwrite=True)
    assert load_config(path).n_jobs == 1


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_failed_write_leaves_no_trace(tmp_path, monkeypatch, overwrite):
    """A full disk leaves the old file whole, and no temporary one."""
    path = tmp_path / "plan.json"
    if overwrite:
        save_config(PLAN, path)

    def fail(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(place.os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left"):
        save_config(ConfigData(1, 1), path, overwrite=overwrite)
    assert [entry.name for entry in tmp_path.iterdir()] == (["plan.json"] if overwrite else [])
    assert not overwrite or load_config(path) == PLAN


def test_without_hard_links_nothing_is_overwritten_either(tmp_path, monkeypatch):
    """Some file systems know no links."""

    def fail(*_names):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(place.os, "link", fail)
    path = tmp_path / "plan.json"
    save_config(PLAN, path)
    assert load_config(path) == PLAN
    with pytest.raises(FileExistsError):
        save_config(ConfigData(1, 1), path)
    assert load_config(path) == PLAN


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda path: save_config({"n_jobs": 1}, path), TypeError),
        (lambda path: save_config(PLAN, path, format="toml"), ValueError),
        (lambda path: load_config(path, format="toml"), ValueError),
        (lambda _path: save_config(PLAN, ""), ValueError),
        (lambda _path: load_config(3), TypeError),
        (lambda path: save_config(PLAN, path, overwrite=1), TypeError),
        (load_config, FileNotFoundError),
        (lambda path: save_config(PLAN, path.parent), FileExistsError),
        (lambda path: save_config(PLAN, path.parent, overwrite=True), StorageError),
    ],
)
def test_wrong_calls_are_clear_errors(tmp_path, call, error):
    """Of types, formats and paths."""
    with pytest.raises(error):
        call(tmp_path / "plan.json")


def test_yaml_without_its_package_names_the_command(tmp_path, monkeypatch):
    """``pip install 'amorsize-executor[yaml]'``; and nothing is written."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "plan.yaml"
    with pytest.raises(MissingExtraError, match=r"pip install 'amorsize-executor\[yaml\]'"):
        save_config(PLAN, path)
    assert not path.exists()
    path.write_text("n_jobs: 1\nchunksize: 1\n", "utf-8")
    with pytest.raises(ImportError, match="PyYAML"):
        load_config(path)


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n ", "is empty"),
        (b'{"n_jobs": 2, "chunks', "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"\xff\xfe\x00", "no text file"),
        (b"[1, 2]", "holds a list"),
        (b"null", "holds nothing"),
    ],
)
def test_damaged_files_say_what_is_the_matter(tmp_path, content, said):
    """And which file it is."""
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(ConfigFileError, match=said) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_damaged_yaml_is_one_line(tmp_path):
    """PyYAML's own text has several."""
    pytest.importorskip("yaml", reason="needs PyYAML")
    path = tmp_path / "plan.yaml"
    path.write_text("n_jobs: [1,\nchunksize: 2", "utf-8")
    with pytest.raises(ConfigFileError, match="is not valid YAML") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    path.write_text("!!python/object/apply:os.system ['true']", "utf-8")
    with pytest.raises(ConfigFileError, match="is not valid YAML"):
        load_config(path)


def test_text_may_begin_with_a_mark(tmp_path):
    """As some editors have it; so may data files."""
    path = tmp_path / "plan.json"
    path.write_text('{"n_jobs": 2, "chunksize": 3}', "utf-8-sig")
    assert load_config(path).n_jobs == 2


def test_the_machine_is_told_by_names(tmp_path):
    """YAML has keys that are no text, which nobody could show or write as JSON."""
    pytest.importorskip("yaml", reason="needs PyYAML")
    path = tmp_path / "plan.yaml"
    path.write_text("n_jobs: 2\nchunksize: 3\nsystem_info: {1: 2}\n", "utf-8")
    with pytest.raises(ConfigFileError, match="system_info must be a dictionary by names"):
        load_config(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_jobs": 0},
        {"n_jobs": -3},
        {"n_jobs": True},
        {"n_jobs": 2.0},
        {"n_jobs": "2"},
        {"n_jobs": None},
        {"n_jobs": 10**9},
        {"chunksize": 0},
        {"chunksize": 10**30},
        {"chunksize": math.nan},
        {"executor_type": "rocket"},
        {"estimated_speedup": math.nan},
        {"estimated_speedup": math.inf},
        {"estimated_speedup": -1},
        {"avg_execution_time": -1e-3},
        {"avg_execution_time": "fast"},
        {"data_size": -1},
        {"function_name": 7},
        {"notes": ["x"]},
        {"system_info": "Linux"},
        {"source": None},
    ],
)
def test_what_makes_no_sense_is_refused(saved, changes):
    """In a file as in the constructor; the message names the field."""
    (name,) = changes
    with pytest.raises(ConfigFileError, match=name):
        load_config(saved(**changes))
    with pytest.raises(InvalidParameterError, match=name):
        ConfigData(**{"n_jobs": 1, "chunksize": 1, **changes})


@pytest.mark.parametrize("missing", ["n_jobs", "chunksize"])
def test_a_plan_has_workers_and_a_chunk_size(saved, missing):
    """Nothing is guessed."""
    with pytest.raises(ConfigFileError, match=f"has no {missing}"):
        load_config(saved(**{missing: ...}))
    with pytest.raises(KeyError, match=missing):
        ConfigData.from_dict({name: 1 for name in ("n_jobs", "chunksize") if name != missing})


def test_what_nobody_knows_is_left_alone(saved):
    """Keys of later versions do no harm, and what is absent has its default."""
    assert load_config(saved(colour="red")) == PLAN
    bare = ConfigData.from_dict({"n_jobs": 2, "chunksize": 5})
    assert (bare.source, bare.executor_type, bare.function_name) == ("unknown", "process", None)


@pytest.mark.parametrize(
    ("version", "said"), [(2, "upgrade amorsize-executor"), (0, "must be a number"), ("x", "must be a number")]
)
def test_files_of_another_format_are_refused(saved, version, said):
    """A later version may mean something else by the same words."""
    with pytest.raises(ConfigFileError, match=said):
        load_config(saved(format=version))


def test_another_machine_is_told(saved):
    """As a warning at the user's line: the plan may not suit."""
    path = saved(system_info={**describe_system(), "cores": 64, "platform": "Plan9"})
    with pytest.warns(UserWarning, match=r"another machine \(Plan9 there, .* here; 64 usable cores there") as caught:
        load_config(path)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="another machine") as caught:
        AdaptiveExecutor(config=path).shutdown()
    assert caught[0].filename == __file__


def test_configs_are_listed(tmp_path, monkeypatch):
    """By name; the default directory is made at home."""
    for name in ("b.json", "a.yml", "c.YAML", "d.txt"):
        (tmp_path / name).touch()
    (tmp_path / "e.json").mkdir()
    assert [path.name for path in list_configs(tmp_path)] == ["a.yml", "b.json", "c.YAML"]
    assert list_configs(tmp_path / "nowhere") == []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    directory = get_default_config_dir()
    assert directory == tmp_path / ".amorsize" / "configs"
    assert directory.is_dir()
    assert stat.S_IMODE(directory.stat().st_mode) in (0o700, 0o777)
    assert get_default_config_dir() == directory


def test_formats_are_as_said_or_by_the_suffix():
    """JSON where a suffix says nothing."""
    assert [plan_file.format_of(Path(name), "auto") for name in ("a.json", "a.YML", "a", "a.txt")] == [
        "json",
        "yaml",
        "json",
        "json",
    ]
    assert plan_file.format_of(Path("a.json"), "yaml") == "yaml"


# --- executors ---


@pytest.mark.parametrize(
    ("name", "is_for"),
    [
        (None, True),
        ("square", True),
        ("tests.payloads:square", True),
        ("tests.payloads.square", True),
        ("tests/payloads.py:square", True),
        ("other", False),
        ("elsewhere:square", False),
    ],
)
def test_a_plan_is_for_a_function_by_name(name, is_for):
    """With or without its module; without a name, for any."""
    assert ConfigData(1, 1, function_name=name).is_for(payloads.square) is is_for
    assert ConfigData(1, 1, function_name=name).is_for(functools.partial(payloads.square)) is is_for


def test_a_plan_is_for_a_function_that_a_module_has_from_another():
    """What was named on the command line need not be where the function was written."""
    assert operator.neg.__module__ == "_operator"
    for name, is_for in (("operator:neg", True), ("operator.neg", True), ("operator:pos", False), ("neg.", False)):
        assert ConfigData(1, 1, function_name=name).is_for(operator.neg) is is_for


def test_an_executor_begins_with_a_saved_plan(tmp_path):
    """With its workers and its chunk size, and says so."""
    path = tmp_path / "plan.json"
    save_config(ConfigData(2, 5, function_name="square"), path)
    with AdaptiveExecutor(config=path, isolate=True) as executor:
        assert list(executor.map(payloads.square, range(40))) == [n * n for n in range(40)]
    decisions = [(entry.what, entry.after, entry.reason) for entry in executor.decisions()]
    assert ("chunksize", "5", "A saved plan says so.") in decisions
    assert ("workers", "2", "A saved plan says 2 workers.") in decisions


def test_of_several_plans_the_functions_own_counts():
    """One for any function is for the others; a function without a plan is told."""
    plans = [ConfigData(1, 7), ConfigData(2, 5, function_name="square")]
    with AdaptiveExecutor(config=plans, isolate=True) as executor:
        list(executor.map(payloads.square, range(20)))
        list(executor.map(payloads.identity, range(20)))
    sizes = {entry.function: entry.after for entry in reversed(executor.decisions()) if entry.what == "chunksize"}
    assert sizes == {"square": "5", "identity": "7"}
    with AdaptiveExecutor(config=plans[1:], isolate=True) as executor:
        with pytest.warns(UserWarning, match="for square, not for") as caught:
            list(executor.map(payloads.identity, range(20)))
        assert caught[0].filename == __file__
        with warnings.catch_warnings(record=True) as again:
            list(executor.map(payloads.identity, range(20)))
        assert again == []
        with pytest.warns(UserWarning, match="for square, not for") as caught:
            executor.submit(payloads.add, 1, 2).result()
        assert caught[0].filename == __file__


@pytest.mark.parametrize(("kind", "backend"), [("thread", "thread"), ("serial", "caller")])
def test_a_plan_for_another_backend_is_a_warning(kind, backend):
    """As many processes as it has threads may not suit; it says which backend would."""
    plan = ConfigData(2, 5, kind)
    with AdaptiveExecutor(config=plan) as executor:
        with pytest.warns(UserWarning, match=f"for backend='{backend}', not for processes") as caught:
            assert list(executor.map(payloads.square, range(3))) == [0, 1, 4]
        assert caught[0].filename == __file__
    with AdaptiveExecutor(config=plan, backend=backend) as executor:
        assert list(executor.map(payloads.square, range(3))) == [0, 1, 4]


@pytest.mark.parametrize(
    ("config", "error"),
    [(3, TypeError), ([3], TypeError), ("", ValueError), ("nowhere.json", FileNotFoundError), ({}, TypeError)],
)
def test_what_is_no_config_is_refused_at_once(config, error):
    """Before anything starts."""
    with pytest.raises(error):
        AdaptiveExecutor(config=config)
