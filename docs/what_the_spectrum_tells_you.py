"""The table and the pictures of what-the-spectrum-tells-you.md, from run folders alone.

``python docs/what_the_spectrum_tells_you.py results/cartpole-offset-*`` writes, beside this file,
``data/cartpole-offset-init.csv`` (one row per run and task) and two pictures, and prints the correlations.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from pliant.diagnostics import Snapshot
from pliant.runs.folder import RunFolder
from pliant.runs.report.statistics import spearman_interval
from pliant.runs.summary import task_returns

DOCS = Path(__file__).parent

INIT = {
    "critic: rank at 1e-2 of the norm": "spectrum/critic/relative_rank_0.01",
    "critic: effective rank of the Hessian": "spectrum/critic/effective_rank",
    "critic: largest eigenvalue": "spectrum/critic/largest",
    "critic: trainability share": "switch/critic/trainability/share",
    "critic: optimization readiness": "plasticity/critic/optimization_readiness",
    "actor: rank at 1e-2": "spectrum/actor/epsilon_rank_0.01",
    "actor: rank at 1e-2 of the norm": "spectrum/actor/relative_rank_0.01",
    "actor: effective rank of the Hessian": "spectrum/actor/effective_rank",
    "actor: largest eigenvalue": "spectrum/actor/largest",
    "actor: gradient norm": "plasticity/actor/gradient_norm",
    "actor: effective feature rank": "plasticity/actor/1/effective_rank",
    "critic: effective feature rank": "plasticity/critic/1/effective_rank",
    "actor: dead units": "plasticity/actor/1/dead",
    "critic: dead units": "plasticity/critic/1/dead",
    "actor: weight norm": "plasticity/actor/weight_norm",
    "critic: weight norm": "plasticity/critic/weight_norm",
}
"""What is compared with the return of the task that follows; last hidden layer where there are several."""

PANELS = (
    ("return", False),
    ("actor: rank at 1e-2 of the norm", False),
    ("critic: rank at 1e-2 of the norm", False),
    ("critic: largest eigenvalue", True),
    ("critic: effective feature rank", False),
    ("actor: effective feature rank", False),
    ("critic: dead units", False),
    ("critic: weight norm", False),
)

COLOURS = {"reset": "#009E73", "l2-er": "#0072B2", "bp": "#D55E00"}  # Okabe and Ito's, safe for most eyes


def rows_of(path: Path) -> list[dict[str, float | str]]:
    """One row per task of the run at ``path``: its init-time measurements and the return that followed."""
    folder = RunFolder.open(path)
    manifest = folder.read_manifest()
    rows: list[dict[str, float | str]] = []
    for task in task_returns(folder):
        snapshot = Snapshot.load(folder.snapshots / f"task-{task.task:03d}-init.npz")
        numbers = snapshot.scalars()
        rows.append(
            {"arm": manifest["arm"], "seed": manifest["seed"], "task": task.task}
            | {"return": np.nan if task.last_tenth is None else task.last_tenth}
            | {name: numbers.get(tag, np.nan) for name, tag in INIT.items()}
        )
    return rows


def series(rows: Sequence[dict], arm: str, name: str) -> np.ndarray:
    """``[seeds, tasks]``."""
    seeds = sorted({row["seed"] for row in rows if row["arm"] == arm})
    return np.array([[r[name] for r in rows if r["arm"] == arm and r["seed"] == seed] for seed in seeds])


def over_switches(rows: Sequence[dict], arms: Sequence[str]) -> Figure:
    """Means over seeds with the range between them, task by task."""
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    for panel, (name, log) in zip(figure.subplots(2, 4).flat, PANELS, strict=True):
        for arm in arms:
            values = series(rows, arm, name)
            tasks = np.arange(values.shape[1])
            panel.plot(tasks, values.mean(0), color=COLOURS[arm], label=arm, linewidth=1.6)
            panel.fill_between(tasks, values.min(0), values.max(0), color=COLOURS[arm], alpha=0.15)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("task")
        if log:
            panel.set_yscale("log")
    figure.axes[0].legend(fontsize=9)
    return figure


def before_and_after(rows: Sequence[dict], arms: Sequence[str], name: str) -> Figure:
    """Each task as a point: a measurement before its first update, and its return afterwards."""
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    panel = figure.subplots()
    for arm in arms:
        panel.plot(
            series(rows, arm, name), series(rows, arm, "return"), "o", color=COLOURS[arm], markersize=4
        )
        panel.plot([], [], "o", color=COLOURS[arm], label=arm)
    panel.set_xlabel(name)
    panel.set_ylabel("return of the task (last tenth)")
    panel.legend(fontsize=9)
    return figure


def main(paths: Sequence[Path]) -> None:
    """Read, write, print."""
    rows = [row for path in paths for row in rows_of(path)]
    arms = [arm for arm in COLOURS if any(row["arm"] == arm for row in rows)]
    (DOCS / "data").mkdir(exist_ok=True)
    with (DOCS / "data" / "cartpole-offset-init.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )
    over_switches(rows, arms).savefig(DOCS / "images" / "over-switches.png", dpi=110)
    before_and_after(rows, arms, "actor: rank at 1e-2").savefig(
        DOCS / "images" / "rank-and-return.png", dpi=110
    )

    print("mean return of the last tenth, first four and last eight tasks")
    for arm in arms:
        values = series(rows, arm, "return")
        print(f"  {arm:6} {values[:, :4].mean():7.1f} {values[:, -8:].mean():7.1f}   {len(values)} seeds")
    print("Spearman's correlation with the return of the task that follows, 95 % interval over runs")
    for name in INIT:
        line = f"  {name:40}"
        for group in ([arm for arm in arms if arm != "reset"], *[[arm] for arm in arms]):
            points: dict[tuple, list] = defaultdict(list)
            for row in rows:
                if row["arm"] in group and row["task"] > 0 and np.isfinite([row[name], row["return"]]).all():
                    points[row["arm"], row["seed"]].append((row[name], row["return"]))
            found = spearman_interval([tuple(np.array(pairs).T) for pairs in points.values()])
            line += f"{'+'.join(group)} {found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]  "
        print(line)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
