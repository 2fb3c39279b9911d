"""Which arms keep learning: from a sweep's run folders to CSV and a picture.

``python docs/evidence/arms.py results/digits-random-labels ...`` writes for each sweep, beside this file,

* ``data/<sweep>.csv``: a row per run and task: its return at the end and over how many episodes, what was
  measured before the task,
* ``data/<sweep>-arms.csv``: a row per arm: interquartile means with 95 % intervals,
* ``data/<sweep>-kept.csv``: a row per arm: what it measured before the last fifth of the tasks,
* ``data/<sweep>-chosen.csv``: the setting of each arm, if the sweep tuned them,
* ``images/<sweep>.png``.
"""

import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pliant.runs.report.comparison import Arm, Comparison, gather
from pliant.runs.report.looks import FRESH, OKABE_ITO
from pliant.runs.report.records import RunRecord
from pliant.runs.report.statistics import stratified_bootstrap

HERE = Path(__file__).parent

MEASURED = {
    "epsilon_rank": "spectrum/{part}/epsilon_rank_0.01",
    "epsilon_rank_low": "spectrum/{part}/epsilon_rank_0.01_low",
    "epsilon_rank_high": "spectrum/{part}/epsilon_rank_0.01_high",
    "rank_of_norm": "spectrum/{part}/relative_rank_0.01",
    "hessian_effective_rank": "spectrum/{part}/effective_rank",
    "largest_eigenvalue": "spectrum/{part}/largest",
    "ggn_epsilon_rank": "spectrum/{part}-ggn/epsilon_rank_0.01",
    "ggn_effective_rank": "spectrum/{part}-ggn/effective_rank",
    "gram_effective_rank": "spectrum/{part}-gram/effective_rank",
    "ntk_effective_rank": "spectrum/{part}-gram/ntk_effective_rank",
    "feature_rank": "plasticity/{part}/{last}/effective_rank",
    "dead_units": "plasticity/{part}/{last}/dead",
    "weight_norm": "plasticity/{part}/weight_norm",
    "gradient_norm": "plasticity/{part}/gradient_norm",
    "readiness": "plasticity/{part}/optimization_readiness",
    "trainability_share": "switch/{part}/trainability/share",
}
"""Column and tag, of every objective and its last hidden layer; what a run did not measure is left out."""

NAMES = {
    "epsilon_rank": "ε-rank of the Hessian",
    "rank_of_norm": "rank above 1 % of the largest",
    "hessian_effective_rank": "effective rank of the Hessian",
    "largest_eigenvalue": "largest eigenvalue",
    "ggn_epsilon_rank": "ε-rank of the Gauss-Newton matrix",
    "ggn_effective_rank": "effective rank of the Gauss-Newton matrix",
    "gram_effective_rank": "effective rank of the Gram matrix",
    "ntk_effective_rank": "effective rank of the tangent kernel",
    "feature_rank": "effective feature rank",
    "dead_units": "dead units",
    "weight_norm": "weight norm",
    "gradient_norm": "gradient norm",
    "readiness": "optimization readiness",
    "trainability_share": "trainability share",
}
"""What the columns are called in tables and pictures; ε is 0.01 throughout."""

KEPT = ("epsilon_rank", "feature_rank", "dead_units", "weight_norm", "gradient_norm")
"""Of those, what shows what an arm kept."""

FOREMOST = ("reset", "l2-er", "er", "l2", "bp", "layer-norm-l2", "redo", "parseval")
"""The arms whose curves are shown; the others stand in the list beside them."""

TITLES = {
    "all_tasks": "all tasks",
    "gap": "plasticity gap",
    "last_fifth": "last fifth",
    "gap_last_fifth": "plasticity gap, last fifth",
    "more_than_bp": "more than bp",
    "beats_bp": "beats bp",
}
"""The columns of the arms' table that pages show."""

MANY_TASKS = 20
"""So many of them are shown as means of neighbours."""

COLOURS = dict(zip(FOREMOST, (FRESH, *OKABE_ITO), strict=False))

Array = NDArray[np.float64]
Row = dict[str, Any]


def measured(run: RunRecord, task: int, moment: str = "init") -> Row:
    """What the run measured on ``task``: before its first update (``init``), or after its last (``end``)."""
    if (found := run.moments.get((task, moment))) is None:
        return {}
    numbers = found.scalars
    row: Row = {}
    for part in sorted({tag.split("/")[1] for tag in numbers if tag.endswith("/weight_norm")}):
        layers = [
            tag.split("/")[2] for tag in numbers if tag.startswith(f"plasticity/{part}/") and "/width" in tag
        ]
        last = max(layers, key=lambda name: (len(name), name), default="0")
        for column, tag in MEASURED.items():
            if (key := tag.format(part=part, last=last)) in numbers:
                row[f"{part}_{column}"] = numbers[key]
    return row


def late_episodes(comparison: Comparison, run: RunRecord, task: int) -> int:
    """How many episodes ended in the last tenth of the task, the one of which the return is the mean."""
    first, last = comparison.boundaries[task : task + 2]
    steps = run.episodes.env_steps[run.episodes.task == task]
    return int((steps > last - (last - first) / 10).sum())


def rows_of(comparison: Comparison) -> list[Row]:
    """A row per run and task."""
    return [
        {
            "arm": arm.label,
            "seed": run.seed,
            "task": task,
            "return": float(value),
            "episodes": late_episodes(comparison, run, task),
        }
        | measured(run, task)
        for arm in comparison.arms
        for run in arm.runs
        for task, value in enumerate(comparison.final_returns(run))
    ]


def finished(comparison: Comparison, arm: Arm) -> list[RunRecord]:
    """The runs that went far enough, in the order of their seeds."""
    return [run for run in arm.runs if comparison.counts(run)]


def scores(comparison: Comparison, arm: Arm) -> Array:
    """Returns at the end of the tasks, ``[seeds, tasks]``."""
    return np.array([comparison.final_returns(run) for run in finished(comparison, arm)])


def seeds(comparison: Comparison, arm: Arm) -> list[int]:
    """Of the same runs."""
    return [run.seed for run in finished(comparison, arm)]


def plasticity_gap(comparison: Comparison, arm: Arm) -> Array | None:
    """What fresh agents with the same seed have more than these; None unless every seed has one."""
    fresh = [comparison.fresh_for(run) for run in finished(comparison, arm)]
    if arm.fresh or not all(fresh):
        return None
    return np.array([comparison.final_returns(one) for one in fresh if one]) - scores(comparison, arm)


def mean(values: Array) -> Array:
    """Over runs and tasks, ``[..., runs, tasks] -> [...]``."""
    whole: Array = values.mean((-2, -1))
    return whole


def last_fifth(values: Array) -> Array:
    """Of the tasks, ``[seeds, tasks]``."""
    return values[:, -max(values.shape[1] // 5, 1) :]


def summary(comparison: Comparison) -> list[Row]:
    """A row per arm, best first by the last fifth of the tasks."""
    bp = next((arm for arm in comparison.arms if arm.label == "bp"), None)
    table = []
    for arm in comparison.arms:
        values, gap = scores(comparison, arm), plasticity_gap(comparison, arm)
        found = {
            "all_tasks": stratified_bootstrap(values),
            "last_fifth": stratified_bootstrap(last_fifth(values)),
        }
        if gap is not None:
            found |= {
                "gap": stratified_bootstrap(gap),
                "gap_last_fifth": stratified_bootstrap(last_fifth(gap)),
            }
        if bp is not None and arm is not bp and seeds(comparison, arm) == seeds(comparison, bp):
            more = values - scores(comparison, bp)  # of the same seed on the same task
            found["more_than_bp"] = stratified_bootstrap(more)
            found["mean_more_than_bp"] = stratified_bootstrap(more, statistic=mean)
            found["beats_bp"] = stratified_bootstrap((np.sign(more) + 1) / 2, statistic=mean)
        row: Row = {"arm": arm.label, "seeds": len(values)}
        for name, interval in found.items():
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        table.append(row)
    return sorted(table, key=lambda row: -row["last_fifth"])


def kept(comparison: Comparison) -> list[Row]:
    """A row per arm: interquartile means of what was measured before the last fifth of the measured tasks."""
    table = []
    for arm in comparison.arms:
        row: Row = {"arm": arm.label}
        late = []
        for run in finished(comparison, arm):
            readings = [reading for task in range(comparison.task_count) if (reading := measured(run, task))]
            late.append(readings[-max(len(readings) // 5, 1) :])
        for column in dict.fromkeys(name for run in late for reading in run for name in reading):
            values = np.array([[reading.get(column, np.nan) for reading in run] for run in late])
            if column.partition("_")[2] in KEPT and np.isfinite(values).all():
                found = stratified_bootstrap(values)
                row |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
        table.append(row)
    return table


def picture(comparison: Comparison, table: Sequence[Row], title: str) -> Figure:
    """Left, returns task by task of the foremost arms; right, the last fifth of the tasks of all arms."""
    figure = Figure(figsize=(10.6, max(3.6, 1.2 + 0.2 * len(table))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    neighbours = 5 if comparison.task_count >= MANY_TASKS else 1
    for arm in comparison.arms:
        if arm.label not in COLOURS:
            continue
        values = _smooth(scores(comparison, arm), neighbours)
        found = [stratified_bootstrap(values[:, [task]]) for task in range(values.shape[1])]
        tasks, dash = np.arange(len(found)), "--" if arm.fresh else "-"
        left.plot(
            tasks,
            [one.value for one in found],
            dash,
            color=COLOURS[arm.label],
            label=arm.label,
            linewidth=1.6,
        )
        low, high = [one.low for one in found], [one.high for one in found]
        left.fill_between(tasks, low, high, color=COLOURS[arm.label], alpha=0.15, linewidth=0)
    averaged = f" (mean of {neighbours} neighbours)" if neighbours > 1 else ""
    left.set(xlabel=f"task{averaged}", ylabel="return at the end of a task")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(fontsize=9, frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 1))
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    apart = _far_below(table)
    for place, row in enumerate(reversed(table)):
        if row is apart:
            at = (0.02, place)
            right.text(*at, f"◂ {row['last_fifth']:.3g}", transform=right.get_yaxis_transform(), va="center")
            continue
        colour = COLOURS.get(row["arm"], "#1c2430")
        right.plot([row["last_fifth_low"], row["last_fifth_high"]], [place, place], color=colour, linewidth=2)
        right.plot(row["last_fifth"], place, "o", color=colour, markersize=5)
    right.set_yticks(range(len(table)), [row["arm"] for row in reversed(table)])
    right.set_title("last fifth of the tasks", fontsize=10, loc="left")
    right.set_xlabel("return, interquartile mean and 95 % interval")
    for panel in (left, right):
        panel.grid(color="#e6e8ec")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _far_below(table: Sequence[Row]) -> Row | None:
    """The last arm of all, if the others would have less than half of the axis because of it."""
    *others, last = table
    if not others or last["arm"] in COLOURS:
        return None
    highest = max(row["last_fifth_high"] for row in table)
    lowest = min(row["last_fifth_low"] for row in others)
    return last if highest - lowest < (highest - last["last_fifth_low"]) / 2 else None


def _smooth(values: Array, width: int) -> Array:
    """Means over so many neighbouring tasks, fewer at the ends, ``[seeds, tasks]``."""
    tasks = range(values.shape[1])
    windows = [slice(max(task - width // 2, 0), task + width // 2 + 1) for task in tasks]
    return np.stack([values[:, window].mean(1) for window in windows], 1)


def write(path: Path, rows: Sequence[Row]) -> None:
    """The rows as CSV, numbers in five digits, empty where there is none."""
    path.parent.mkdir(exist_ok=True)
    columns = dict.fromkeys(column for row in rows for column in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def main(sweeps: Sequence[Path]) -> None:
    """Read and write."""
    for sweep in sweeps:
        comparison, problems = gather(sorted((sweep / "runs").iterdir()))
        if problems or comparison.notes:
            print("\n".join((*problems, *comparison.notes)), file=sys.stderr)
        write(HERE / "data" / f"{sweep.name}.csv", rows_of(comparison))
        table = summary(comparison)
        write(HERE / "data" / f"{sweep.name}-arms.csv", table)
        write(HERE / "data" / f"{sweep.name}-kept.csv", kept(comparison))
        if (chosen := sweep / "chosen.csv").exists():
            shutil.copyfile(chosen, HERE / "data" / f"{sweep.name}-chosen.csv")
        image = HERE / "images" / f"{sweep.name}.png"
        image.parent.mkdir(exist_ok=True)
        picture(comparison, table, sweep.name).savefig(image, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
