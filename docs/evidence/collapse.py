"""Does collapse precede failure? Measurements before a task, and the return at its end: rank correlations.

``python docs/evidence/collapse.py`` reads the tables that arms.py wrote, ``data/<sweep>.csv``, and writes
``data/collapse.csv`` and ``images/collapse.png``. Fresh agents and first tasks are left out: nothing can have
collapsed there. Intervals come from resampling whole runs within their arm, for the tasks of a run share an
agent.

A hard task can spoil both the reading and the return. So where fresh agents trained on the same tasks, there
is a third correlation: within arms, with the return less that of the fresh agent of the same seed.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from arms import MEASURED, write
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pliant.runs.report.statistics import Interval, spearman

HERE = Path(__file__).parent
REPETITIONS = 1_000
LEAST_RUNS = 3

KINDS = {
    "within": ("within arms", "#0072B2", "o"),
    "across": ("across arms", "#D55E00", "D"),
    "fresh": ("within arms, less fresh agents' return", "#009E73", "s"),
}
"""Label, colour and marker of the correlations."""

Points = NDArray[np.float64]
"""``[2, tasks]`` of a run: what was measured, and the return that followed (less that of a fresh agent)."""
Arms = dict[str, list[Points]]


def tables() -> dict[str, list[dict[str, str]]]:
    """The rows of every sweep by its name."""
    found = {}
    for path in sorted((HERE / "data").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if rows and {"arm", "seed", "task", "return"} <= set(rows[0]):
            found[path.stem] = rows
    return found


def points_of(rows: Sequence[dict[str, str]], column: str, *, less_fresh: bool = False) -> Arms:
    """The points of every run by its arm."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    fresh = {(row["seed"], row["task"]): float(row["return"]) for row in rows if row["arm"] == "reset"}
    for row in rows:
        if row["arm"] == "reset" or row["task"] == "0" or not row[column] or not row["return"]:
            continue
        held_against = fresh.get((row["seed"], row["task"]), np.nan) if less_fresh else 0.0
        pair = (float(row[column]), float(row["return"]) - held_against)
        if np.isfinite(pair).all():
            points[row["arm"], row["seed"]].append(pair)
    arms: Arms = defaultdict(list)
    for (arm, _), pairs in points.items():
        arms[arm].append(np.array(pairs).T)
    return {arm: runs for arm, runs in arms.items() if len(runs) >= LEAST_RUNS}


def across(arms: Arms) -> float:
    """Spearman's correlation over the tasks of all arms."""
    return spearman(*np.concatenate([run for runs in arms.values() for run in runs], axis=1))


def within(arms: Arms) -> float:
    """Mean over arms of Spearman's correlation over the tasks of one."""
    return float(np.mean([spearman(*np.concatenate(runs, axis=1)) for runs in arms.values()]))


def bootstrap(arms: Arms, statistic: Callable[[Arms], float]) -> Interval:
    """The statistic, and its 95 % interval from resampling the runs of each arm."""
    generator = np.random.default_rng(0)
    samples = [
        statistic(
            {
                arm: [runs[i] for i in generator.integers(len(runs), size=len(runs))]
                for arm, runs in arms.items()
            }
        )
        for _ in range(REPETITIONS)
    ]
    known = [sample for sample in samples if np.isfinite(sample)]
    low, high = np.quantile(known, [0.025, 0.975]) if known else (np.nan, np.nan)
    return Interval(statistic(arms), float(low), float(high))


def correlations() -> list[dict[str, str | int | float]]:
    """A row per sweep and measurement, strongest first within a sweep."""
    found = []
    for sweep, rows in tables().items():
        mine = []
        for column in rows[0]:
            part, _, name = column.partition("_")
            if name not in MEASURED or name.endswith(("_low", "_high")):
                continue
            arms = points_of(rows, column)
            if not arms:
                continue
            found_here = {"within": bootstrap(arms, within), "across": bootstrap(arms, across)}
            if held := points_of(rows, column, less_fresh=True):
                found_here["fresh"] = bootstrap(held, within)
            row: dict[str, str | int | float] = {
                "sweep": sweep,
                "part": part,
                "measurement": name,
                "arms": len(arms),
                "tasks": sum(run.shape[1] for runs in arms.values() for run in runs),
            }
            for kind, one in found_here.items():
                row |= {kind: one.value, f"{kind}_low": one.low, f"{kind}_high": one.high}
            mine.append(row)
        found += sorted(mine, key=lambda row: -abs(row["within"]) if np.isfinite(row["within"]) else 1.0)
    return found


def picture(table: Sequence[dict]) -> Figure:
    """A panel per sweep: the correlations with their intervals."""
    sweeps = list(dict.fromkeys(row["sweep"] for row in table))
    most = max(sum(row["sweep"] == sweep for row in table) for sweep in sweeps)
    lines = -(-len(sweeps) // 2)
    figure = Figure(figsize=(10.8, (0.9 + 0.25 * most) * lines + 0.4), layout="constrained")
    grid = figure.subplots(lines, 2, squeeze=False).ravel()
    for panel in grid[len(sweeps) :]:
        panel.remove()
    for panel, sweep in zip(grid, sweeps, strict=False):
        rows = [row for row in table if row["sweep"] == sweep][::-1]
        parts = {row["part"] for row in rows}
        for place, row in enumerate(rows):
            for (kind, (label, colour, marker)), shift in zip(KINDS.items(), (0.22, 0.0, -0.22), strict=True):
                if kind in row:
                    ends, height = [row[f"{kind}_low"], row[f"{kind}_high"]], place + shift
                    panel.plot(ends, [height] * 2, color=colour, linewidth=1.4)
                    said = None if place else label
                    panel.plot(row[kind], height, marker, color=colour, ms=4, label=said, linestyle="")
        names = [row["measurement"].replace("_", " ") for row in rows]
        names = [
            f"{row['part']}: {name}" if len(parts) > 1 else name
            for row, name in zip(rows, names, strict=True)
        ]
        panel.set_yticks(range(len(rows)), names, fontsize=9)
        panel.axvline(0.0, color="#5b6370", linewidth=0.8)
        panel.set(xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1))
        panel.set_title(sweep, fontsize=10, loc="left")
        panel.set_xlabel("Spearman's correlation with the return of the task")
        panel.grid(axis="x", color="#e6e8ec")
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def main() -> None:
    """Read, write, print."""
    table = correlations()
    write(HERE / "data" / "collapse.csv", table)
    picture(table).savefig(HERE / "images" / "collapse.png", dpi=110, metadata={"Software": None})
    print(
        f"| sweep | before the first update | {' | '.join(label for label, *_ in KINDS.values())} | tasks |"
    )
    print("|---|---|---|---|---|---|")
    for row in table:
        cells = [
            str(Interval(row[kind], row[f"{kind}_low"], row[f"{kind}_high"])) if kind in row else ""
            for kind in KINDS
        ]
        name = f"{row['part']}: {row['measurement'].replace('_', ' ')}"
        print(f"| {row['sweep']} | {name} | {' | '.join(cells)} | {row['tasks']} |")


if __name__ == "__main__":
    main()
