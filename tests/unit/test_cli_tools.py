"""The verbs beside the work: doctor, config, completion."""

from __future__ import annotations

import json
import math
import shutil
import subprocess

import pytest

from amorsize_executor import ConfigData, save_config
from amorsize_executor.advice import installation
from amorsize_executor.advice.installation import StartCost
from amorsize_executor.cli import completion
from amorsize_executor.cli.main import VERBS, make_parser
from amorsize_executor.tuning.machine import probe_machine

pytestmark = pytest.mark.slow

BASH = shutil.which("bash")

# --- doctor ---


@pytest.fixture
def costs(monkeypatch):
    """Have start methods cost what is said here, one of them without an answer."""
    made = [StartCost("amorsize", 0.008), StartCost("fork", 0.004, True), StartCost("spawn", math.nan, False, "broken")]
    monkeypatch.setattr(installation, "measure_start_methods", lambda: made)


def test_a_sound_installation_passes_six_checks(amorsize, costs):
    """One line each, then the machine, in 80 columns."""
    status, out, err = amorsize("doctor")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert sum(line.startswith("PASS") for line in lines) == 6
    assert lines[-1] == "6 of 6 checks passed"
    assert max(map(len, lines)) <= 80
    for name in ("cores", "quota", "memory", "workers start"):
        assert any(line.startswith(name) for line in lines)
    assert "  fork          4 ms  (the default of multiprocessing)" in lines
    assert "  spawn         broken" in lines


def test_what_a_doctor_finds_as_json(amorsize, costs):
    """What could not be measured is null, which JSON knows."""
    answer = json.loads(amorsize("doctor", "--json")[1])
    assert (answer["checks_passed"], answer["checks_failed"], len(answer["checks"])) == (6, 0, 6)
    assert answer["machine"]["cores"] == probe_machine().cores
    assert {"physical_cores", "quota_cores", "available_memory", "memory_limit"} <= set(answer["machine"])
    assert [entry["seconds"] for entry in answer["start_methods"]] == [0.008, 0.004, None]


def test_what_is_broken_fails_its_check_and_no_other(amorsize, monkeypatch):
    """The status is 1, and the line says what is the matter."""

    def fail(*_args, **_options):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(installation, "execute", fail)
    status, out, _err = amorsize("doctor", "--no-measure")
    assert status == 1
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert "workers return the right results: OSError: [Errno 24] Too many open files" in line
    assert out.endswith("5 of 6 checks passed\n")
    monkeypatch.setattr(installation, "execute", lambda *_args: [])
    assert "returned something else" in installation.check()[-1].detail
    monkeypatch.setattr(installation, "_NEEDED", ("loky", "no_such_package"))
    assert "pip install no_such_package" in installation.check()[0].detail


def test_start_methods_are_measured():
    """A process of each answers, and the executor's own worker."""
    found = installation.measure_start_methods()
    assert found[0].name == "amorsize"
    assert {"spawn"} <= {cost.name for cost in found}
    assert all(0 < cost.seconds < 30 and not cost.problem for cost in found)
    assert sum(cost.is_default for cost in found) == 1


def test_a_process_that_fails_to_answer_is_told():
    """With its exit status; there is nothing left of it."""
    context = installation.multiprocessing.get_context("spawn")
    cost = installation._measure(context, "spawn", target=exit, args=(3,))
    assert (cost.problem, math.isnan(cost.seconds)) == ("exit status 3", True)


# --- config ---


def test_configs_are_listed_and_shown(amorsize, tmp_path):
    """Those that cannot be used with what is the matter."""
    assert amorsize("config", "list", "--directory", tmp_path)[1] == f"no configs in {tmp_path}\n"
    save_config(ConfigData(2, 50, function_name="m:f", notes="mine"), tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"n_jobs": 0, "chunksize": 1}', "utf-8")
    (tmp_path / "c.json").write_text("", "utf-8")
    status, out, err = amorsize("config", "list", "--directory", tmp_path)
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert lines[0].split() == ["file", "n_jobs", "chunksize", "executor", "for"]
    assert lines[1].split() == ["a.json", "2", "50", "process", "m:f"]
    assert "n_jobs must be greater than 0" in lines[2]
    assert "is empty" in lines[3]
    found = json.loads(amorsize("config", "list", "--directory", tmp_path, "--json")[1])
    assert [entry.get("n_jobs") for entry in found] == [2, None, None]
    status, out, _err = amorsize("config", "show", tmp_path / "a.json")
    assert status == 0
    assert "mine" in out
    assert json.loads(amorsize("config", "show", tmp_path / "a.json", "--json")[1])["chunksize"] == 50
    status, out, err = amorsize("config", "show", tmp_path / "b.json")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert amorsize("config", "show", tmp_path / "no.json")[0] == 1


def test_the_default_directory_is_looked_at_and_not_made(amorsize, tmp_path, monkeypatch):
    """Listing changes nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert amorsize("config", "list")[0] == 0
    assert list(tmp_path.iterdir()) == []


# --- completion ---


def complete(words, tmp_path):
    """Ask bash for completions of the last word."""
    script = tmp_path / "completion.bash"
    script.write_text(completion.make_bash(completion.collect(make_parser())), "utf-8")
    line = " ".join(f"'{word}'" for word in words)
    ask = (
        f'source "{script}"; COMP_WORDS=(amorsize {line}); COMP_CWORD={len(words)}; _amorsize; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run([BASH, "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["opt"], {"optimize"}),
        (["co"], {"compare", "config", "completion"}),
        (["dlq", ""], {"list", "show", "replay", "export", "purge", "-h", "--help"}),
        (["execute", "m:f", "--on-e"], {"--on-error"}),
        (["execute", "m:f", "--on-error", ""], {"raise", "return", "skip"}),
        (["execute", "m:f", "--data-file", "it"], {"items.txt"}),
        (["optimize", "it"], {"items.txt"}),
        (["completion", "f"], {"fish"}),
        (["dlq", "replay", "--all", "--wo"], {"--workers"}),
        (["config", "show", ""], {"-h", "--help", "--json", "--debug", "items.txt", "completion.bash"}),
        (["dlq", "list", "--directory", "i"], {"items.txt"}),
        (["optimize", "m:f", "--data-range", ""], set()),
        (["optimize", "m:f", "--format", "=", "y"], {"yaml"}),
        (["optimize", "m:f", "--format", "="], {"text", "json", "yaml", "table", "markdown"}),
        (["checkpoint", "show", "it"], set()),
    ],
)
def test_bash_completes(tmp_path, words, found):
    """Verbs, actions, options, their values, and files."""
    (tmp_path / "items.txt").touch()
    assert complete(words, tmp_path) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_know_every_verb(amorsize, shell):
    """They are made from the parsers."""
    status, out, err = amorsize("completion", shell)
    assert (status, err) == (0, "")
    for verb in VERBS:
        assert verb in out
    assert "--data-range" in out.replace("-l data-range", "--data-range")
    assert json.loads(amorsize("completion", shell, "--json")[1]) == {"shell": shell, "script": out}


def test_zsh_uses_bashs_script(amorsize):
    """Through ``bashcompinit``, which zsh brings along."""
    bash, zsh = (amorsize("completion", shell)[1] for shell in ("bash", "zsh"))
    assert zsh.startswith("# zsh completion for amorsize")
    assert "bashcompinit\n_amorsize() {" in zsh
    assert zsh.endswith(bash.partition("\n")[2])


def test_fish_has_a_line_for_every_option(amorsize):
    """With its condition, its values and its meaning, quoted."""
    lines = amorsize("completion", "fish")[1].splitlines()
    assert any("__fish_seen_subcommand_from execute' -l on-error -x -a 'raise return skip'" in line for line in lines)
    assert all(line.count("'") % 2 == 0 for line in lines if "\\'" not in line)


def test_unknown_shells_are_refused(amorsize):
    """There are three."""
    status, out, err = amorsize("completion", "powershell")
    assert (status, out) == (2, "")
    assert "invalid choice: 'powershell'" in err
