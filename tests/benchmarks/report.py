"""Write the page on performance, and its pictures, from what was measured.

    python -m tests.benchmarks.report [--json docs/explanation/performance.json] [--folder docs/explanation]

The page is ``performance.md``, the pictures are ``performance-race.svg`` and ``performance-efficiency.svg``; they need
matplotlib (``pip install -e '.[plots]'``). Sections that were not measured are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import record
from tests.benchmarks.contest import CONTESTANTS
from tests.benchmarks.race import known_of, ratios, standing

PAGE, RACE, EFFICIENCY = "performance.md", "performance-race.svg", "performance-efficiency.svg"
OURS = "adaptive"
TARGETS = {"mean": 1.05, "worst": 1.25, "isolated": 1.25}
ISOLATED_LEAST_S = 0.1  # rows with less work are no measure of a pool that runs nothing in the caller

HEAD = """# Performance

Written by `tests/benchmarks/report.py` from [performance.json](performance.json); nothing here is typed by hand.
Figures depend on the machine, ratios less so. All that is compared was measured in turns in one run, and each
measurement had a process of its own.

## Measure again

On a quiet machine, from the project's folder (an hour or two; `--quick` takes minutes and only shows that all runs):

```text
python -m pip install -e '.[benchmarks]'
python -m tests.benchmarks.race
python -m tests.benchmarks.figures
python -m tests.benchmarks.efficiency
python -m tests.benchmarks.report
```

Each of the first three puts its section into `performance.json` and leaves the others as they are, so one can be
measured alone; `--help` tells of its options, such as `--who adaptive,serial --workloads io` for a part of the race.
What must not get worse unnoticed is counted by `tests/unit/test_counts.py` and `tests/integration/test_counts.py`,
which fail the build.
"""

RACE_HEAD = """## The race

Every contestant on every workload: median time from the making of the pool to its end, imports aside, with the
results checked. In parentheses the ratio to the best of the row; 5 ms are added to both before, since nobody feels
less. The means are geometric, of these ratios: 1 is whoever is best in every row. Targets are for the 14 workloads
that come first; the others show whether they hold elsewhere.
"""

FIGURES_HEAD = """## Figures

Each is the median of what was measured in turns, with the lowest and the highest in parentheses. Below are the
parts of each, and the floor: the least code that could do the same work.
"""

EFFICIENCY_HEAD = """## When parallel work pays

Efficiency is serial time / (cores * elapsed time), from the making of the pool to its end: 1 is every core at work all
the time, and 1 / cores is what serial code has. So a pool pays where its curve is above the dashed line. Each point is
a second of work a core, but at most 100,000 calls, and at least two a core.
"""


# --- Tables -----------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are flush right."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def conditions(about: dict[str, Any]) -> str:
    """Return on what a section was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    cores = f"{about['cores']} cores ({about['physical_cores']} physical)"
    warning = "\n\n**A quick run: it shows that all runs, and measures nothing.**" if is_quick(about) else ""
    times = about.get("runs") or about.get("repeats")
    return (
        f"Measured {times} times on {about['machine']}, {cores}, {about['memory_bytes'] / 2**30:.0f} GiB, "
        f"{about['system']}, {about['python']}, {versions}; load before: {about['load_before']}.{warning}\n"
    )


def is_quick(about: dict[str, Any]) -> bool:
    """Tell whether a section measured too little to mean anything."""
    return bool(about.get("quick")) or about.get("share", 1.0) < 1.0


def duration(seconds: float) -> str:
    """Return a duration with three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds * 1e9)} ns" if seconds else "0"


def number(value: float) -> str:
    """Return a number with three digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def race_section(section: dict[str, Any]) -> str:
    """Return the race: standings, then all rows."""
    rows, what = section["seconds"], section["what"]
    whos = contestants_of(rows)
    shown = {who: (standing(known_of(rows), who), standing(rows, who)) for who in whos}
    standings = [
        [f"`{who}`: {CONTESTANTS[who].what}", *spot(known), *spot(every)] for who, (known, every) in shown.items()
    ]
    head = ["contestant", "mean, 14", "worst, 14", "mean, all", "worst, all"]
    parts = [RACE_HEAD, conditions(section["about"]), f"![Every contestant on every workload]({RACE})\n"]
    parts += [table(head, standings), goals(rows)]
    lines = []
    for name, row in rows.items():
        shares = ratios(row)
        best = min(shares, key=shares.__getitem__)
        cells = [cell(row.get(who), shares.get(who), is_best=who == best) for who in whos]
        lines.append([f"`{name}`: {what[name].rstrip('.')}", *cells])
    return "\n".join([*parts, table(["workload", *(f"`{who}`" for who in whos)], lines)])


def goals(rows: dict[str, Any]) -> str:
    """Return the race's own targets, with what was reached."""
    known = standing(known_of(rows), OURS)
    loaded = {name: row for name, row in rows.items() if (row.get("serial") or 0.0) > ISOLATED_LEAST_S}
    isolated = standing(loaded, f"{OURS}_isolated")
    lines = []
    if known is not None:
        lines.append(["`adaptive`, mean of the 14", f"{known.mean:.2f}", f"{TARGETS['mean']:g}"])
        lines.append(["`adaptive`, worst of the 14", f"{known.worst:.2f}", f"{TARGETS['worst']:g}"])
    if isolated is not None:
        what = f"`adaptive_isolated`, mean of the {isolated.ran} with more than 100 ms of work"
        lines.append([what, f"{isolated.mean:.2f}", f"{TARGETS['isolated']:g}"])
    return table(["", "measured", "target"], lines)


def contestants_of(rows: dict[str, Any]) -> list[str]:
    """Return who took part, in the order of the contestants."""
    present = {who for row in rows.values() for who in row}
    return [who for who in CONTESTANTS if who in present]


def spot(result: Any) -> list[str]:
    """Return the cells of a standing."""
    return ["", ""] if result is None else [f"{result.mean:.2f}", f"{result.worst:.2f} (`{result.workload}`)"]


def cell(seconds: float | None, share: float | None, *, is_best: bool) -> str:
    """Return what a contestant did on a workload."""
    if seconds is None or share is None:
        return "failed"
    text = f"{duration(seconds)} ({number(share)})"
    return f"**{text}**" if is_best else text


def figures_section(section: dict[str, Any]) -> str:
    """Return the figures: a table of values and targets, then what each is made of."""
    rows = section["rows"]
    lines, details = [], []
    for row in rows.values():
        reached = "yes" if row["value"] <= row["target"] else "no"
        unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
        spread = f"{exact(row['value'])}{unit} ({exact(row['lowest'])} to {exact(row['highest'])})"
        lines.append([row["what"], spread, f"≤ {row['target']:g}{unit}", reached])
        parts = [f"`{name}` {part(value)}" for name, value in row["parts"].items() if name not in row["floors"]]
        parts += [f"floor {part(row['parts'][name])}: {what}" for name, what in row["floors"].items()]
        details.append(f"- {row['what']}: {'; '.join(parts)}")
    head = ["what", "measured", "target", "reached"]
    return "\n".join([FIGURES_HEAD, conditions(section["about"]), table(head, lines), "### Parts\n", *details, ""])


def exact(value: float) -> str:
    """Return a figure's value, which may be small, zero or negative."""
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.0f}"


def part(value: Any) -> str:
    """Return a part of a figure: seconds, bytes, or a dictionary of such."""
    if isinstance(value, dict):
        return ", ".join(f"{key.removesuffix('_s')} {part_of(key, each)}" for key, each in value.items())
    return f"{value / 2**20:.2f} MiB" if isinstance(value, int) else duration(value)


def part_of(key: str, value: float) -> str:
    """Return an entry of a part: seconds, but for counts."""
    return f"{value:g}" if key in ("switches", "threads") else duration(value)


def efficiency_section(section: dict[str, Any]) -> str:
    """Return the efficiencies as a table, with where each contestant begins to pay."""
    whos, cores = section["about"]["contestants"], section["about"]["cores"]
    lines = [
        [
            duration(point["call_s"]),
            f"{point['calls']:,}",
            *(
                "failed" if share is None else number(share) if share >= 0.1 else f"{share:.4f}"
                for share in map(point["efficiency"].get, whos)
            ),
        ]
        for point in section["points"]
    ]
    starts = [f"`{who}` ({what}) from {start_of(section, who, 1 / cores)}" for who, what in whos.items()]
    return "\n".join(
        [
            *(EFFICIENCY_HEAD, conditions(section["about"]), f"![Efficiency against call duration]({EFFICIENCY})\n"),
            table(["a call takes", "calls", *(f"`{who}`" for who in whos)], lines),
            f"More than serial code, at least here and for all longer calls: {', '.join(starts)}.\n",
        ]
    )


def start_of(section: dict[str, Any], who: str, serial: float) -> str:
    """Return from which call duration on a contestant is better than serial code."""
    start = None
    for point in reversed(section["points"]):
        share = point["efficiency"][who]
        if share is None or share <= serial:
            break
        start = point["call_s"]
    return "no duration that was measured" if start is None else duration(start)


# --- Pictures ---------------------------------------------------------------------------------------------------

COLOURS = {"adaptive": "#0b6e4f", "ppe": "#c8553d", "joblib": "#2e5eaa", "mpire": "#8a5a9e"}
MARKS = {"adaptive": "o", "ppe": "s", "joblib": "^", "mpire": "D"}
GREY = "#555555"
WORST_COLOUR = 100.0  # ratio at which the colour no longer changes
LIGHT_TEXT = 0.55  # share of the scale above which numbers are white


def draw_race(section: dict[str, Any], path: Path) -> None:
    """Draw a field for each contestant and workload: its ratio to the best in figures and colour."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    rows, whos = section["seconds"], contestants_of(section["seconds"])
    grid = [[ratios(row).get(who) for who in whos] for row in rows.values()]
    figure, axes = plt.subplots(figsize=(1.6 + 0.78 * len(whos), 1.9 + 0.3 * len(rows)), layout="constrained")
    scale = LogNorm(1.0, WORST_COLOUR, clip=True)
    values = [[float("nan") if share is None else share for share in line] for line in grid]
    image = axes.imshow(values, norm=scale, cmap="YlOrRd", aspect="auto")
    for y, line in enumerate(grid):
        for x, share in enumerate(line):
            text, dark = ("failed", False) if share is None else (number(share), scale(share) > LIGHT_TEXT)
            style = {"color": "white" if dark else "black", "fontsize": 8}
            axes.text(x, y, text, ha="center", va="center", weight="bold" if share == 1.0 else "normal", **style)
    axes.set_xticks(range(len(whos)), whos, rotation=40, ha="left", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for label in axes.get_xticklabels():
        if label.get_text().startswith(OURS):
            label.set_weight("bold")
    axes.axhline(len(known_of(rows)) - 0.5, color="black", linewidth=1.2)  # above it: rows with a target
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.02, pad=0.01, aspect=50)
    bar.set_ticks([1, 2, 5, 10, 20, 50, 100], labels=["1 (best)", "2", "5", "10", "20", "50", "≥ 100"])
    bar.set_label("time, as a ratio to the best contestant on that workload", fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def draw_efficiency(section: dict[str, Any], path: Path) -> None:
    """Draw efficiency against call duration, both logarithmic, one line a contestant."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    cores, points = section["about"]["cores"], section["points"]
    figure, axes = plt.subplots(figsize=(8.4, 5.2), layout="constrained")
    least = 1.0
    for who, what in section["about"]["contestants"].items():
        line = [(point["call_s"], point["efficiency"][who]) for point in points if point["efficiency"][who]]
        if not line:
            continue
        least = min(least, *(share for _, share in line))
        style = {"color": COLOURS.get(who, GREY), "marker": MARKS.get(who, "v"), "markersize": 5}
        axes.plot(*zip(*line), label=what, linewidth=2.4 if who == OURS else 1.5, **style)
    axes.axhline(1 / cores, color=GREY, linestyle="--", linewidth=1.2, label=f"serial code (1 of {cores} cores)")
    axes.axhline(1.0, color=GREY, linewidth=0.8)
    axes.set(xscale="log", yscale="log", ylim=(least * 0.7, 1.3), xlabel="duration of a call", ylabel="efficiency")
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in range(-6, 1)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{duration_of_ten(value)}"))
    axes.yaxis.set_major_locator(FixedLocator([1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=True, fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def duration_of_ten(seconds: float) -> str:
    """Return a power of ten as a duration."""
    unit, size = next(
        (unit, size) for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if seconds >= size * 0.999
    )
    return f"{seconds / size:.0f} {unit}"


SECTIONS = {
    "race": (race_section, draw_race, RACE),
    "figures": (figures_section, None, ""),
    "efficiency": (efficiency_section, draw_efficiency, EFFICIENCY),
}


def write(data: dict[str, Any], folder: Path) -> None:
    """Write the page and its pictures; without matplotlib pictures that are there stay as they are."""
    parts = [HEAD, *(show(data[name]) for name, (show, _, _) in SECTIONS.items() if name in data)]
    (folder / PAGE).write_text("\n".join(parts), encoding="utf-8")
    try:
        import matplotlib as mpl
    except ImportError:
        print("no pictures: matplotlib is missing; pip install -e '.[plots]'", file=sys.stderr)
        return
    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "performance", "svg.fonttype": "none", "font.family": "sans-serif"})
    for name, (_, draw, picture) in SECTIONS.items():
        if name in data and draw is not None:
            draw(data[name], folder / picture)


def main() -> None:
    """Write."""
    options = argparse.ArgumentParser(description="Write the page on performance, and its pictures.")
    options.add_argument("--json", type=Path, default=record.RECORD, help="what was measured (%(default)s)")
    options.add_argument("--folder", type=Path, default=record.RECORD.parent, help="where to write (%(default)s)")
    chosen = options.parse_args()
    write(record.load(chosen.json), chosen.folder)


if __name__ == "__main__":
    main()
