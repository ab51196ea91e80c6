"""The examples, and every block of Python in README and docs, do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
LIMIT_S = 50
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def run(*arguments: str | Path) -> str:
    """Run Python in a process of its own, from another directory; return what it printed, or fail with all of it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def find_blocks() -> list[object]:
    """Return each block of Python with its file and line."""
    blocks = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for block in FENCED.finditer(text):
            line = text.count("\n", 0, block.start()) + 2
            blocks.append(pytest.param("\n" * (line - 1) + block[1], id=f"{path.relative_to(ROOT)}:{line}"))
    return blocks


@pytest.mark.parametrize("code", find_blocks())
def test_a_block_of_the_documentation_runs_as_a_script(code, tmp_path):
    """Each block is a whole script, without a ``__main__`` guard."""
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    run(script)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path):
    """A relative link names a file or folder that exists."""
    targets = LINK.findall(path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_block_says_what_it_is():
    """A block is ``python``, and then it is run, or ``text``; only README's two commands are plain."""
    for path in DOCUMENTS:
        fences = re.findall(r"^```(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        plain = 2 if path.name == "README.md" and path.parent == ROOT else 0
        assert sorted(fences[::2])[:plain] == [""] * plain
        assert set(sorted(fences[::2])[plain:]) <= {"python", "text"}
        assert set(fences[1::2]) <= {""}


def test_quickstart_shows_what_it_says():
    """Its parts come to the ends that their titles announce."""
    lines = run(ROOT / "examples" / "quickstart.py")
    assert max(map(len, lines.splitlines())) < 80
    shown = re.sub("\n    ", " ", lines)  # where they are wrapped
    assert re.findall(r"^(\d)\. ", shown, re.MULTILINE) == list("1234567")
    assert "20,000 square roots add up to 1,885,547" in shown
    assert "9,348 primes" in shown
    assert "[1, 4, 9, 16, 25, 36, 49, 64, 81, 100]" in shown
    assert "ZeroDivisionError(" in shown
    assert "all results are there and in order: True" in shown
    assert "a call that kills every worker fails alone: worker process" in shown
    assert "and the executor goes on: done" in shown
    assert shown.count("why: ") == 3
    assert re.search(r"wait 0\.1 s each: ([\d.]+) s instead of 30 s", shown)
    places = [int(place) for place in re.search(r"ended as number (.*)\.$", shown, re.MULTILINE)[1].split(", ")]
    assert len(places) == 3
    assert max(places) < 500


def test_resilient_fetch_gets_every_page_that_can_be_had():
    """Pages and failures are as many as calls, the service had all its moods, and the circuit opened and closed."""
    shown = run(ROOT / "examples" / "resilient_fetch.py", "--calls", "500")
    assert "495 pages + 5 failures = 500 calls" in shown
    assert shown.count("cannot be had: NoSuchPageError(") == 5
    for mood in ("495 times pages", "times 'I am broken'", "times 'too busy'", "4 times silence"):
        assert mood in shown
    assert re.search(r"the circuit opens after 1\d failures.*the circuit closes", shown, re.DOTALL), shown


@pytest.mark.slow
def test_survey_finds_the_heaviest_modules():
    """It counts every file, sorts by branches, and predicts and reports."""
    shown = run(ROOT / "examples" / "survey_stdlib.py", "--limit", "60", "--top", "5")
    assert "standard library: 60 files" in shown
    assert re.search(r"^60 files: [\d,]+ lines, [\d,]+ functions, [\d,]+ branches$", shown, re.MULTILINE)
    table = shown.split("longest function\n")[1].split("\n\n")[0].splitlines()
    branches = [int(row.split()[1].replace(",", "")) for row in table]
    assert len(branches) == 5
    assert branches == sorted(branches, reverse=True)
    assert re.search(r"^took [\d.]+ s", shown, re.MULTILINE)
    assert re.search(r"^predicted for serial code: [\d.]+ s", shown, re.MULTILINE)
    assert "60 done" in shown.split("executor.report():")[1]
    assert str(Path(os.__file__).parent) not in shown


@pytest.mark.slow
def test_survey_compares_equal_results():
    """With ``--compare`` it stops with an error unless all ways give the same figures."""
    shown = run(ROOT / "examples" / "survey_stdlib.py", "--limit", "20", "--compare")
    table = shown.split("all with equal results")[1]
    assert re.findall(r"^(AdaptiveExecutor|serial code|ProcessPoolExecutor.*?)  ", table, re.MULTILINE) == [
        "AdaptiveExecutor",
        "serial code",
        "ProcessPoolExecutor",
        "ProcessPoolExecutor, chunksize=16",
    ]


def test_survey_counts_files_that_do_not_parse(tmp_path):
    """What does not parse is a figure, not the end."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from survey_stdlib import survey
    finally:
        sys.path.remove(str(ROOT / "examples"))
    for content, problem in ((b"def f(:\n", "SyntaxError"), (b"# coding: nothing\n", "SyntaxError"), (b"x = 1\n", "")):
        path = tmp_path / "module.py"
        path.write_bytes(content)
        figures = survey(str(path), "module")
        assert (figures.problem, figures.lines) == (problem, 1)
    path.write_text("def f(x):\n    if x and x > 1:\n        return [y for y in x]\n", encoding="utf-8")
    figures = survey(str(path), "module")
    assert (figures.functions, figures.branches, figures.nesting, figures.longest, figures.longest_lines) == (
        1,
        3,
        1,
        "f",
        3,
    )


def test_resume_after_kill_computes_everything_about_once():
    """Three kills cost no more than what was in flight and not committed, and a finished run computes nothing."""
    shown = run(ROOT / "examples" / "resume_after_kill.py")
    assert [int(number) for number in re.findall(r"^life (\d): killed after", shown, re.MULTILINE)] == [1, 2, 3]
    assert shown.count("all 240 results are right: True") == 2
    cost = int(re.search(r"3 kills cost (\d+) calls", shown)[1])
    assert cost <= 3 * (2 * 10 + 2 * 4 * 6)  # intervals, and what workers had finished within 50 ms
    assert re.search(r"^life 5: 0 calls", shown, re.MULTILINE)


def test_replay_dead_letters_accounts_for_every_order():
    """Shipped orders and dead letters add up, before and after the replay."""
    shown = run(ROOT / "examples" / "replay_dead_letters.py")
    assert "60 orders: 50 shipped" in shown
    assert "10 dead letters: {" in shown
    assert shown.count("(it had failed with LookupError)") == 9
    assert "still failed: order 33 has no address (retries: 1)" in shown
    assert "60 orders = 59 shipped + 1 dead letter" in shown


def test_log_entropy_finds_the_tunnels_in_bounded_memory():
    """All ways give equal figures, the planted domains come first, and the log is never in memory as a whole."""
    shown = run(ROOT / "examples" / "log_entropy.py", "--megabytes", "2", "--workers", "2")
    assert "a log of 2." in shown
    assert "Recommended: imap" in shown
    rows = re.findall(r"^ *(serial|\d+)  +[\d.]+ s +[\d.]+x  \+([\d.]+) MB$", shown, re.MULTILINE)
    assert [name for name, _ in rows] == ["serial", "1", "2"]
    assert all(float(megabytes) < 100 for _, megabytes in rows)
    noisiest = re.findall(r"^  (\S+\.example) +[\d,]+ queries", shown, re.MULTILINE)
    assert sorted(noisiest[:3]) == ["cdn-metrics.example", "img-cache.example", "update-telemetry.example"]


def test_the_page_about_accuracy_can_be_made(tmp_path):
    """One row a workload, and a summary; no figure is expected of a busy machine."""
    workloads = tmp_path / "few_workloads.py"
    workloads.write_text("NAMES = ['cheap']\ndef make(name):\n    return abs, list(range(50))\n", encoding="utf-8")
    page = tmp_path / "page.md"
    run("-m", "tests.benchmarks.accuracy", workloads, "--workers", "2", "--chunksizes", "4", "--out", page)
    text = page.read_text(encoding="utf-8")
    assert re.search(r"^\| `cheap` \| serial \| 1\.00 \| 1\.00 \| \d+ % \|", text, re.MULTILINE)
    assert re.search(r"^Median accuracy: \d+ %\.", text, re.MULTILINE)
