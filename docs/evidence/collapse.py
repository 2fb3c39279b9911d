"""Does collapse precede failure? Measurements before a task, and the return at its end: rank correlations.

``python docs/evidence/collapse.py`` reads the tables that arms.py wrote, ``data/<sweep>.csv``, and writes
``data/collapse.csv`` and ``images/collapse.png``. Fresh agents and first tasks are left out: nothing can have
collapsed there. Intervals come from resampling whole runs within their arm, for the tasks of a run share an
agent.

What both follow would make them go together: time, in which both may fall, and the task, which may be hard.
So there are two partial correlations within arms: given the number of the task, and given the return of the
fresh agent with the same seed on the same task, where there is one.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from arms import FRESH_ARM, MEASURED, NAMES, read, write
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pliant.runs.report.statistics import Interval, spearman

HERE = Path(__file__).parent
REPETITIONS = 1_000
LEAST_RUNS = 3

KINDS = {
    "within": ("within arms", "#0072B2", "o"),
    "across": ("across arms", "#D55E00", "D"),
    "given_task": ("within, given the task's number", "#009E73", "s"),
    "given_fresh": ("within, given a fresh agent's return", "#CC79A7", "^"),
}
"""Label, colour and marker of the correlations."""

Points = NDArray[np.float64]
"""``[4, tasks]`` of a run: what was measured, the return that followed, the task, a fresh agent's return."""
Arms = dict[str, list[Points]]
Row = dict[str, Any]


def tables() -> dict[str, list[dict[str, str]]]:
    """The rows of every sweep by its name."""
    found = {}
    for path in sorted((HERE / "data").glob("*.csv")):
        rows = read(path)
        if rows and {"arm", "seed", "task", "return"} <= set(rows[0]):
            found[path.stem] = rows
    return found


def points_of(rows: Sequence[dict[str, str]], column: str) -> Arms:
    """The points of every run by its arm."""
    points: dict[tuple[str, str], list[tuple[float, ...]]] = defaultdict(list)
    fresh = {(row["seed"], row["task"]): float(row["return"]) for row in rows if row["arm"] == FRESH_ARM}
    for row in rows:
        if row["arm"] == FRESH_ARM or row["task"] == "0" or not row[column] or not row["return"]:
            continue
        pair = (float(row[column]), float(row["return"]))
        if np.isfinite(pair).all():
            held_against = fresh.get((row["seed"], row["task"]), np.nan)
            points[row["arm"], row["seed"]].append((*pair, float(row["task"]), held_against))
    arms: Arms = defaultdict(list)
    for (arm, _), pairs in points.items():
        arms[arm].append(np.array(pairs).T)
    return {arm: runs for arm, runs in arms.items() if len(runs) >= LEAST_RUNS}


def across(arms: Arms) -> float:
    """Spearman's correlation over the tasks of all arms."""
    return spearman(*np.concatenate([run[:2] for runs in arms.values() for run in runs], axis=1))


def within(arms: Arms, given: int | None = None) -> float:
    """Mean over arms of Spearman's correlation over the tasks of one, or of the partial one given a row.

    An arm in which a reading never changes, as dead units do not where there are none, says nothing.
    """
    found = []
    for runs in arms.values():
        points = np.concatenate(runs, axis=1)
        one = spearman(points[0], points[1])
        if given is not None:
            first, second = (spearman(points[i], points[given]) for i in (0, 1))
            scale = np.sqrt((1 - first**2) * (1 - second**2))
            one = (one - first * second) / scale if scale > 0 else np.nan
        found.append(one)
    known = np.array(found)[np.isfinite(found)]
    return float(known.mean()) if len(known) else np.nan


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


def correlated(sweep: str, column: str, arms: Arms) -> Row:
    """The row of one measurement."""
    part, _, name = column.partition("_")
    found = {
        "within": bootstrap(arms, within),
        "across": bootstrap(arms, across),
        "given_task": bootstrap(arms, partial(within, given=2)),
    }
    if all(np.isfinite(run[3]).all() for runs in arms.values() for run in runs):
        found["given_fresh"] = bootstrap(arms, partial(within, given=3))
    row: Row = {
        "sweep": sweep,
        "part": part,
        "measurement": name,
        "arms": len(arms),
        "tasks": sum(run.shape[1] for runs in arms.values() for run in runs),
    }
    for kind, one in found.items():
        row |= {kind: one.value, f"{kind}_low": one.low, f"{kind}_high": one.high}
    return row


def correlations() -> list[Row]:
    """A row per sweep and measurement, strongest first within a sweep; on all cores, for it takes minutes."""
    work = [
        (sweep, column, arms)
        for sweep, rows in tables().items()
        for column in rows[0]
        if (name := column.partition("_")[2]) in MEASURED and not name.endswith(("_low", "_high"))
        if (arms := points_of(rows, column))
    ]
    with ProcessPoolExecutor() as processes:
        found = list(processes.map(correlated, *zip(*work, strict=True)))
    sweeps = list(dict.fromkeys(sweep for sweep, *_ in work))

    def place(row: Row) -> tuple[int, float]:
        within = row["within"]
        return sweeps.index(row["sweep"]), -abs(within) if np.isfinite(within) else 1.0

    return sorted(found, key=place)


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
            for (kind, (label, colour, marker)), shift in zip(
                KINDS.items(), (0.3, 0.1, -0.1, -0.3), strict=True
            ):
                if kind in row:
                    ends, height = [row[f"{kind}_low"], row[f"{kind}_high"]], place + shift
                    panel.plot(ends, [height] * 2, color=colour, linewidth=1.4)
                    said = None if place else label
                    panel.plot(row[kind], height, marker, color=colour, ms=4, label=said, linestyle="")
        names = [NAMES[row["measurement"]] for row in rows]
        if len(parts) > 1:
            names = [f"{row['part']}: {name}" for row, name in zip(rows, names, strict=True)]
        panel.set_yticks(range(len(rows)), names, fontsize=9)
        panel.axvline(0.0, color="#5b6370", linewidth=0.8)
        panel.set(xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1))
        panel.set_title(sweep, fontsize=10, loc="left")
        panel.set_xlabel("Spearman's correlation")
        panel.grid(axis="x", color="#e6e8ec")
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def main() -> None:
    """Read and write."""
    table = correlations()
    write(HERE / "data" / "collapse.csv", table)
    picture(table).savefig(HERE / "images" / "collapse.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
