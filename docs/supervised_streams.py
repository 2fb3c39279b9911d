"""The tables and the pictures of supervised-streams.md, from run folders alone.

``python docs/supervised_streams.py results/digits`` writes, beside this file, ``data/digits.csv`` (a row per
run and task), ``data/digits-summary.csv`` and a picture, and prints the table. Runs whose spec asks for exact
spectra go to ``data/digits-spectra.csv`` and a picture of their own, with correlations.
"""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pliant.diagnostics import Snapshot
from pliant.runs.folder import RunFolder, run_folders
from pliant.runs.statistics import Interval, interquartile_mean, spearman_interval, stratified_bootstrap

DOCS = Path(__file__).parent

ARMS = ("reset", "l2-er", "er", "l2", "bp")
COLOURS = dict(zip(ARMS, ("#5b6370", "#0072B2", "#009E73", "#E69F00", "#D55E00"), strict=True))

INIT = {
    "epsilon-rank at 1e-3": "spectrum/classifier/epsilon_rank_0.001",
    "epsilon-rank at 1e-2": "spectrum/classifier/epsilon_rank_0.01",
    "rank at 1e-2 of the norm": "spectrum/classifier/relative_rank_0.01",
    "effective rank of the Hessian": "spectrum/classifier/effective_rank",
    "largest eigenvalue": "spectrum/classifier/largest",
    "effective feature rank": "plasticity/classifier/2/effective_rank",
    "dead units": "plasticity/classifier/2/dead",
    "weight norm": "plasticity/classifier/weight_norm",
}
"""What is compared with the accuracy of the task that follows; features of the last hidden layer."""

Row = dict[str, Any]


def rows_of(folder: RunFolder) -> list[Row]:
    """One row per task of a complete run: accuracies, and what was measured before its first update."""
    manifest = folder.read_manifest()
    if manifest["status"] != "complete":
        raise SystemExit(f"{folder.path} is {manifest['status']}, not complete")
    with folder.episodes_file.open(newline="", encoding="utf-8") as file:
        passes = [(int(row["task"]), float(row["return"])) for row in csv.DictReader(file)]
    rows = []
    for task, _ in enumerate(pairwise(manifest["boundaries"])):
        accuracies = [accuracy for index, accuracy in passes if index == task]
        row = {"stream": manifest["preset"], "arm": manifest["arm"], "seed": manifest["seed"], "task": task}
        row |= {"online": float(np.mean(accuracies)), "last_pass": accuracies[-1]}
        rows.append(row | _measured(folder, task))
    return rows


def _measured(folder: RunFolder, task: int) -> dict[str, float]:
    spec = folder.read_spec().diagnostics
    path = folder.snapshots / f"task-{task:03d}-init.npz"
    if spec.spectrum.method != "exact" or not path.exists():
        return {}
    numbers = Snapshot.load(path).scalars()
    return {name: numbers.get(tag, np.nan) for name, tag in INIT.items()}


def series(rows: Sequence[Row], stream: str, arm: str, name: str) -> np.ndarray:
    """``[seeds, tasks]``."""
    chosen = [row for row in rows if (row["stream"], row["arm"]) == (stream, arm)]
    seeds = sorted({row["seed"] for row in chosen})
    return np.array([[row[name] for row in chosen if row["seed"] == seed] for seed in seeds])


def summary(rows: Sequence[Row]) -> list[Row]:
    """Interquartile means over seeds and tasks with 95 % intervals: of all tasks and of the last fifth."""
    table = []
    for stream, arm in _groups(rows):
        for measure in ("online", "last_pass"):
            scores = series(rows, stream, arm, measure)
            last = scores[:, -max(scores.shape[1] // 5, 1) :]
            for tasks, chosen in (("all", scores), ("last fifth", last)):
                found = stratified_bootstrap(chosen, statistic=interquartile_mean)
                table.append(
                    {"stream": stream, "arm": arm, "measure": measure, "tasks": tasks, "seeds": len(scores)}
                    | {"iqm": found.value, "low": found.low, "high": found.high}
                )
    return table


def _groups(rows: Sequence[Row]) -> list[tuple[str, str]]:
    there = {(row["stream"], row["arm"]) for row in rows}
    return sorted(there, key=lambda pair: (pair[0], ARMS.index(pair[1])))


def curves(rows: Sequence[Row], measures: Mapping[str, str]) -> Figure:
    """Accuracy task by task: interquartile mean over seeds and 95 % interval, of five tasks at a time."""
    streams = [stream for stream in measures if any(row["stream"] == stream for row in rows)]
    figure = Figure(figsize=(5.4 * len(streams), 3.6), layout="constrained")
    for panel, stream in zip(np.atleast_1d(figure.subplots(1, len(streams))), streams, strict=True):
        for arm in [arm for name, arm in _groups(rows) if name == stream]:
            values = _smooth(series(rows, stream, arm, measures[stream]), 5)
            found = [stratified_bootstrap(values[:, [task]]) for task in range(values.shape[1])]
            tasks = np.arange(len(found))
            panel.plot(tasks, [one.value for one in found], color=COLOURS[arm], label=arm, linewidth=1.6)
            low, high = [one.low for one in found], [one.high for one in found]
            panel.fill_between(tasks, low, high, color=COLOURS[arm], alpha=0.15, linewidth=0)
        panel.set_title(stream, fontsize=10, loc="left")
        panel.set_xlabel("task")
        panel.set_ylabel(
            {"online": "online accuracy", "last_pass": "accuracy of the last pass"}[measures[stream]]
        )
        panel.grid(color="#e6e8ec")
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=9, frameon=False)
    return figure


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Means over so many neighbouring tasks, fewer at the ends, ``[seeds, tasks]``."""
    tasks = range(values.shape[1])
    windows = [slice(max(task - width // 2, 0), task + width // 2 + 1) for task in tasks]
    return np.stack([values[:, window].mean(1) for window in windows], 1)


def correlations(rows: Sequence[Row]) -> Iterable[tuple[str, str, Interval]]:
    """Spearman's correlation of each measurement with the accuracy that follows, within and across arms."""
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    for name in INIT:
        for group in [[arm for arm in arms if arm != "reset"], *[[arm] for arm in arms]]:
            points: dict[tuple[str, int], list[tuple[float, float]]] = {}
            for row in rows:
                pair = (row[name], row["last_pass"])
                if row["arm"] in group and row["task"] > 0 and np.isfinite(pair).all():
                    points.setdefault((row["arm"], row["seed"]), []).append(pair)
            if points:
                yield name, "+".join(group), spearman_interval([np.array(one).T for one in points.values()])


def before_and_after(rows: Sequence[Row], names: Sequence[str]) -> Figure:
    """Each task as a point: a measurement before its first update, and its accuracy afterwards."""
    figure = Figure(figsize=(4.4 * len(names), 3.6), layout="constrained")
    for panel, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names, strict=True):
        for arm in [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]:
            points = np.array([(row[name], row["last_pass"]) for row in rows if row["arm"] == arm])
            panel.plot(*points.T, "o", color=COLOURS[arm], markersize=3, alpha=0.6, label=arm)
        panel.set_xlabel(f"{name}, before the first update")
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("accuracy of the last pass")
    figure.axes[0].legend(fontsize=9, frameon=False)
    return figure


def write(path: Path, rows: Sequence[Row]) -> None:
    """The rows as CSV, numbers in six digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def main(results: Path) -> None:
    """Read, write, print."""
    rows = [row for path in run_folders(results) for row in rows_of(RunFolder.open(path))]
    exact = [row for row in rows if next(iter(INIT)) in row]
    plain = [row for row in rows if next(iter(INIT)) not in row]
    (DOCS / "data").mkdir(exist_ok=True)
    if plain:
        write(DOCS / "data" / "digits.csv", plain)
        table = summary(plain)
        write(DOCS / "data" / "digits-summary.csv", table)
        shown = {"digits-random-labels": "last_pass", "digits-permuted": "online"}
        curves(plain, shown).savefig(DOCS / "images" / "digits.png", dpi=110)
        print("| stream | arm | all tasks | last fifth of the tasks | seeds |\n|---|---|---|---|---|")
        for stream, arm in _groups(plain):
            of = {
                row["tasks"]: Interval(row["iqm"], row["low"], row["high"])
                for row in table
                if (row["stream"], row["arm"], row["measure"]) == (stream, arm, shown[stream])
            }
            seeds = len(series(plain, stream, arm, "online"))
            print(f"| {stream} | {arm} | {of['all']} | {of['last fifth']} | {seeds} |")
    if exact:
        write(DOCS / "data" / "digits-spectra.csv", exact)
        names = ("epsilon-rank at 1e-2", "effective feature rank")
        before_and_after(exact, names).savefig(DOCS / "images" / "digits-spectra.png", dpi=110)
        print("\nSpearman's correlation with the accuracy of the last pass of the task that follows")
        for name, group, found in correlations(exact):
            print(f"| {name} | {group} | {found} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
