"""Which arms keep learning: from a sweep's run folders to CSV and a picture.

``python docs/evidence/arms.py results/digits-random-labels ...`` writes for each sweep, beside this file,

* ``data/<sweep>.csv``: a row per run and task: its return at the end and over how many episodes, what was
  measured before the task,
* ``data/<sweep>-chosen.csv``: the setting of each arm, if the sweep tuned them,

and from these rows

* ``data/<sweep>-arms.csv``: a row per arm: interquartile means with 95 % intervals,
* ``data/<sweep>-kept.csv``: a row per arm: what it measured before the last fifth of the tasks,
* ``images/<sweep>.png``.

Arms of the definition that have no run in the folder keep the rows that they have: one can be added
without running all others again. Without a folder of that name all is made from the rows.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pliant.runs.report.comparison import Comparison, gather
from pliant.runs.report.looks import FRESH, OKABE_ITO
from pliant.runs.report.records import RunRecord
from pliant.runs.report.statistics import stratified_bootstrap
from pliant.runs.sweep.definition import load_definition

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

KEYS = ("arm", "seed", "task", "return", "episodes")
"""The columns that are no measurement."""

FRESH_ARM = "reset"
"""The arm that begins anew at every task."""

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
    """A row per run and task, of the runs that went far enough."""
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
        if comparison.counts(run)
        for task, value in enumerate(comparison.final_returns(run))
    ]


@dataclass(frozen=True)
class Run:
    """What the rows say of one run.

    Attributes:
        returns: at the end of each task, ``[tasks]``.
        readings: of the tasks before which something was measured, in their order.
    """

    returns: Array
    readings: list[dict[str, float]]


Arms = dict[str, dict[str, Run]]
"""The runs by arm and seed."""


def arms_of(rows: Sequence[Mapping[str, str]]) -> Arms:
    """The runs that rows of a file are of."""
    grouped: dict[str, dict[str, list[Mapping[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["arm"]][row["seed"]].append(row)
    return {arm: {seed: _run(mine) for seed, mine in runs.items()} for arm, runs in grouped.items()}


def _run(rows: Sequence[Mapping[str, str]]) -> Run:
    readings = [
        {name: float(value) for name, value in row.items() if name not in KEYS and value} for row in rows
    ]
    return Run(np.array([float(row["return"]) for row in rows]), [one for one in readings if one])


def scores(runs: Mapping[str, Run]) -> Array:
    """Returns at the end of the tasks, ``[seeds, tasks]``."""
    return np.array([run.returns for run in runs.values()])


def mean(values: Array) -> Array:
    """Over runs and tasks, ``[..., runs, tasks] -> [...]``."""
    whole: Array = values.mean((-2, -1))
    return whole


def last_fifth(values: Array) -> Array:
    """Of the tasks, ``[seeds, tasks]``."""
    return values[:, -max(values.shape[1] // 5, 1) :]


def summary(arms: Arms) -> list[Row]:
    """A row per arm, best first by the last fifth of the tasks."""
    table = []
    for name, runs in arms.items():
        values = scores(runs)
        found = {
            "all_tasks": stratified_bootstrap(values),
            "last_fifth": stratified_bootstrap(last_fifth(values)),
        }
        fresh, bp = arms.get(FRESH_ARM, {}), arms.get("bp", {})
        if name != FRESH_ARM and runs.keys() <= fresh.keys():
            gap = scores({seed: fresh[seed] for seed in runs}) - values  # of the same seed on the same task
            found |= {
                "gap": stratified_bootstrap(gap),
                "gap_last_fifth": stratified_bootstrap(last_fifth(gap)),
            }
        if name != "bp" and runs.keys() <= bp.keys():
            more = values - scores({seed: bp[seed] for seed in runs})
            found["more_than_bp"] = stratified_bootstrap(more)
            found["mean_more_than_bp"] = stratified_bootstrap(more, statistic=mean)
            found["beats_bp"] = stratified_bootstrap((np.sign(more) + 1) / 2, statistic=mean)
        row: Row = {"arm": name, "seeds": len(values)}
        for column, interval in found.items():
            row |= {column: interval.value, f"{column}_low": interval.low, f"{column}_high": interval.high}
        table.append(row)
    return sorted(table, key=lambda row: -row["last_fifth"])


def kept(arms: Arms) -> list[Row]:
    """A row per arm: interquartile means of what was measured before the last fifth of the measured tasks."""
    table = []
    for name, runs in arms.items():
        row: Row = {"arm": name}
        late = [run.readings[-max(len(run.readings) // 5, 1) :] for run in runs.values()]
        for column in dict.fromkeys(name for run in late for reading in run for name in reading):
            values = np.array([[reading.get(column, np.nan) for reading in run] for run in late])
            if column.partition("_")[2] in KEPT and np.isfinite(values).all():
                found = stratified_bootstrap(values)
                row |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
        table.append(row)
    return table


def picture(arms: Arms, table: Sequence[Row], title: str) -> Figure:
    """Left, returns task by task of the foremost arms; right, the last fifth of the tasks of all arms."""
    figure = Figure(figsize=(10.6, max(3.6, 1.2 + 0.2 * len(table))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    neighbours = 5 if max(scores(runs).shape[1] for runs in arms.values()) >= MANY_TASKS else 1
    for name, runs in arms.items():
        if name not in COLOURS:
            continue
        values = _smooth(scores(runs), neighbours)
        found = [stratified_bootstrap(values[:, [task]]) for task in range(values.shape[1])]
        tasks, dash = np.arange(len(found)), "--" if name == FRESH_ARM else "-"
        left.plot(tasks, [one.value for one in found], dash, color=COLOURS[name], label=name, linewidth=1.6)
        low, high = [one.low for one in found], [one.high for one in found]
        left.fill_between(tasks, low, high, color=COLOURS[name], alpha=0.15, linewidth=0)
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


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows as CSV, numbers in five digits, empty where there is none."""
    path.parent.mkdir(exist_ok=True)
    columns = dict.fromkeys(column for row in rows for column in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


def update(path: Path, rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> None:
    """Put rows into a file, in the order of their arms: for those arms instead of what it has of them."""
    new = {row["arm"] for row in rows}
    rest = [row for row in read(path) if row["arm"] not in new and row["arm"] in order]
    if rows or rest:
        write(path, sorted([*rest, *rows], key=lambda row: order.index(row["arm"])))


def main(sweeps: Sequence[Path]) -> None:
    """Read and write."""
    for sweep in sweeps:
        order = list(load_definition(HERE / f"{sweep.name}.toml").arms)
        rows: list[Row] = []
        if sweep.exists():
            comparison, problems = gather(sorted((sweep / "runs").iterdir()))
            if problems or comparison.notes:
                print("\n".join((*problems, *comparison.notes)), file=sys.stderr)
            rows = rows_of(comparison)
        data = HERE / "data" / f"{sweep.name}.csv"
        update(data, rows, order)
        update(data.with_stem(f"{sweep.name}-chosen"), read(sweep / "chosen.csv"), order)
        arms = arms_of(read(data))
        if missing := set(order) - arms.keys():
            print(f"{sweep.name}: no run of {', '.join(sorted(missing))}", file=sys.stderr)
        table = summary(arms)
        write(data.with_stem(f"{sweep.name}-arms"), table)
        write(data.with_stem(f"{sweep.name}-kept"), kept(arms))
        image = HERE / "images" / f"{sweep.name}.png"
        image.parent.mkdir(exist_ok=True)
        picture(arms, table, sweep.name).savefig(image, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
