"""The project's own means of measuring: their arithmetic, their workloads and their page."""

from __future__ import annotations

import pytest

pytest.importorskip("numpy", reason="the workloads use NumPy")

from tests.benchmarks import efficiency, figures, race, report, tasks
from tests.benchmarks.contest import CONTESTANTS, check
from tests.benchmarks.floors import FLOORS
from tests.benchmarks.probes import PROBES
from tests.benchmarks.workloads import KNOWN, WORKLOADS, make

pytestmark = pytest.mark.slow

ROWS = {
    "tiny_few": {"serial": 0.005, "adaptive": 0.015, "loky": None},
    "io": {"serial": 0.075, "adaptive": 0.005, "loky": 0.035},
}
ABOUT = {
    "machine": "a processor",
    "system": "a system",
    "cores": 2,
    "physical_cores": 2,
    "memory_bytes": 8 << 30,
    "python": "a Python",
    "versions": {"numpy": "2.0"},
    "load_before": 0.0,
    "runs": 3,
    "repeats": 3,
}


def test_ratios_to_the_best():
    """Five milliseconds are added to each time before it is divided by the best; who failed has no ratio."""
    assert race.ratios(ROWS["tiny_few"]) == {"serial": 1.0, "adaptive": 2.0}
    assert race.ratios({"loky": None}) == {}


def test_standing_is_a_geometric_mean():
    """A contestant's mean is geometric, over the rows that it finished, and its worst row is named."""
    mean, worst, workload, ran = race.standing(ROWS, "serial")
    assert (mean, worst, workload, ran) == (pytest.approx(8**0.5), pytest.approx(8.0), "io", 2)
    assert race.standing(ROWS, "loky").ran == 1
    assert race.standing(ROWS, "mpire") is None


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_have_right_results(name, monkeypatch):
    """Each workload gives the same results each time, which is how contestants are checked."""
    monkeypatch.setenv(tasks.ROUND_US, "1000")
    work = make(name, share=0.002)
    check(work, CONTESTANTS["serial"].run(work))
    if work.items:
        with pytest.raises(AssertionError, match=r"results of \d+"):
            check(work, [])


def test_a_part_of_the_race_joins_the_rest():
    """If it was run in the same way; else it stands alone."""
    about = {"machine": "a", "runs": 3, "load_before": 0.5}
    before = {
        "about": about,
        "seconds": {"io": {"a": 1.0}, "tiny_few": {"a": 2.0}},
        "what": {"io": "x", "tiny_few": "y"},
    }
    again = {"about": {**about, "load_before": 0.1}, "seconds": {"io": {"a": 3.0}}, "what": {"io": "z"}}
    joined = race.join(before, again)
    assert list(joined["seconds"].items()) == [("tiny_few", {"a": 2.0}), ("io", {"a": 3.0})]
    assert joined["what"] == {"tiny_few": "y", "io": "z"}
    assert race.join(None, again) == again
    for other in ({"about": {**about, "runs": 1}}, {"seconds": {"io": {"a": 1.0, "b": 2.0}}}):
        assert race.join({**before, **other}, again) == again


def test_the_known_workloads_are_fourteen():
    """Targets are for these, however many others join the race."""
    assert len(KNOWN) == 14
    assert len(WORKLOADS) > 2 * len(KNOWN)


@pytest.mark.parametrize("duration_us", efficiency.DURATIONS_US)
@pytest.mark.parametrize("cores", [1, 2, 7, 64])
def test_every_core_has_its_share(duration_us, cores):
    """Calls are as many for each core, at least two, and no more in all than may be."""
    calls = efficiency.calls_of(duration_us, cores)
    assert calls % cores == 0
    assert 2 * cores <= calls <= efficiency.MOST_CALLS


def test_every_part_of_a_figure_is_measured():
    """Figures name probes and floors that exist, and none is left over."""
    named = {name for figure in figures.FIGURES.values() for name in (*figure.parts, *figure.floors)}
    assert named == PROBES.keys() | FLOORS.keys()


def test_a_figure_is_the_median_of_ratios():
    """The parts of one turn are divided by each other, and the figure is the median of the quotients."""
    figure = figures.FIGURES["flood"]
    turns = [{"flood.adaptive": a, "flood.ppe": b, "floor.futures_alone": 1.0} for a, b in ((1, 10), (4, 20), (9, 30))]
    row = figures.describe(figure, turns)
    assert (row["value"], row["lowest"], row["highest"]) == (0.2, 0.1, 0.3)
    assert row["parts"]["flood.ppe"] == 20


@pytest.mark.filterwarnings("ignore")  # of matplotlib, where it is installed
def test_the_page_has_what_was_measured(tmp_path):
    """Every section shows its values; what was not measured is left out."""
    point = {"call_s": 1e-3, "calls": 2000, "efficiency": {"adaptive": 0.95, "ppe": None}}
    data = {
        "race": {"about": ABOUT, "seconds": ROWS, "what": {"tiny_few": "A few.", "io": "Some."}},
        "efficiency": {"about": {**ABOUT, "contestants": {"adaptive": "Ours", "ppe": "Other"}}, "points": [point]},
    }
    report.write(data, tmp_path)
    page = (tmp_path / report.PAGE).read_text(encoding="utf-8")
    assert "| `io`: Some | 75.0 ms (8.00) | 35.0 ms (4.00) | **5.00 ms (1.00)** |" in page
    assert "| `adaptive`, worst of the 14 | 2.00 | 1.25 |" in page
    assert "| 1.00 ms | 2,000 | 0.95 | failed |" in page
    assert "## Figures" not in page
