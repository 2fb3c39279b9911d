"""Does data alone move the spectrum? The same parameters on the data before and after a switch.

``python docs/evidence/data_alone.py results/cartpole-offset ...`` writes for all sweeps together

* ``data/data-alone.csv``: a row per sweep, arm, part and measurement: the factor by which the number changes
  while a task is trained (``end`` of a task over its ``init``), at the switch, where the parameters stay and
  the data change (``init`` of the next over ``end``), and from ``init`` to ``init``, their product; then the
  last again without the first task, whose ``init`` is that of an untrained network,
* ``images/data-alone.png``.

Of a rank, which may be 0 at a switch, a factor is that between a run's means over its switches; of the
largest eigenvalue and the gradient norm, which change by orders of magnitude, the geometric mean over the
switches. Either way the third is the product of the other two, and a matter of the first and the last reading
alone. Then follows the geometric mean over the runs of an arm, with 95 % intervals from resampling whole
runs. Fresh agents are left out: at a switch their parameters do change. What leaves out the first task comes
from the rows that arms.py wrote, ``data/<sweep>.csv``; without a folder of that name the other factors stay
as they are in the file.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from arms import NAMES, Row, Run, arms_of, measured, read, write
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pliant.runs.report.comparison import gather
from pliant.runs.report.records import RunRecord
from pliant.runs.report.statistics import Interval

HERE = Path(__file__).parent
FILE = HERE / "data" / "data-alone.csv"
REPETITIONS = 1_000
LEAST_RUNS = 3

CHANGES = ("epsilon_rank", "hessian_effective_rank", "largest_eigenvalue", "gradient_norm", "feature_rank")
"""What is positive, so that it can change by a factor."""

KINDS = {
    "training": ("while a task is trained", "#0072B2", "o"),
    "data": ("data alone", "#D55E00", "D"),
    "both": ("from task to task", "#1c2430", "|"),
    "later": ("from task to task, the first left out", "#009E73", "s"),
}
"""Label, colour and marker: of the two parts that every change is made of, and of the changes."""

SPLIT = ("training", "data", "both")
"""Those for which both ends of the tasks have to be measured."""

RANKS = ("epsilon_rank", "hessian_effective_rank", "feature_rank")

Array = NDArray[np.float64]


def log_changes(run: RunRecord) -> dict[tuple[str, str, str], float]:
    """The logarithm of the factor by part, measurement and kind of ``KINDS``; none that is not finite."""
    trios: dict[str, list[list[float]]] = defaultdict(list)
    tasks = len(run.manifest["boundaries"]) - 1
    for task in range(tasks - 1):
        readings = (
            measured(run, task, "init"),
            measured(run, task, "end"),
            measured(run, task + 1, "init"),
        )
        for column in readings[1]:
            if column.partition("_")[2] in CHANGES and all(column in reading for reading in readings):
                trios[column].append([reading[column] for reading in readings])
    found = {}
    for column, values in trios.items():
        part, _, name = column.partition("_")
        first, middle, last = (level(name, one) for one in zip(*values, strict=True))
        changes = {"training": middle - first, "data": last - middle, "both": last - first}
        if len(values) == tasks - 1 and np.isfinite(list(changes.values())).all():
            found |= {(part, name, kind): float(change) for kind, change in changes.items()}
    return found


def level(name: str, values: Sequence[float]) -> float:
    """The logarithm of a run's mean over its switches, arithmetic for ranks, geometric for the others."""
    with np.errstate(divide="ignore"):
        return float(np.log(np.mean(values)) if name in RANKS else np.mean(np.log(values)))


def later(runs: Iterable[Run], part: str, name: str) -> Interval | None:
    """The factor from ``init`` to ``init``, without the first that was measured; None of too few runs."""
    logs = []
    for run in runs:
        values = [reading.get(f"{part}_{name}", np.nan) for reading in run.readings[1:]]
        logs.append(level(name, values[1:]) - level(name, values[:-1]))
    known = np.array(logs)[np.isfinite(logs)]
    return factor(known) if len(known) >= LEAST_RUNS else None


def factor(logs: Array) -> Interval:
    """Geometric mean over runs and its 95 % interval, from the mean log changes of the runs ``[runs]``."""
    picks = np.random.default_rng(0).integers(len(logs), size=(REPETITIONS, len(logs)))
    low, high = np.quantile(logs[picks].mean(1), [0.025, 0.975])
    return Interval(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)))


def changes(sweep: Path) -> list[Row]:
    """A row per arm, part and measurement."""
    comparison, problems = gather(sorted((sweep / "runs").iterdir()))
    if problems or comparison.notes:
        print("\n".join((*problems, *comparison.notes)), file=sys.stderr)
    table = []
    for arm in comparison.arms:
        runs = [] if arm.fresh else [log_changes(run) for run in arm.runs if comparison.counts(run)]
        for part, name in dict.fromkeys(key[:2] for run in runs for key in run):
            row: Row = {"sweep": sweep.name, "arm": arm.label, "part": part, "measurement": name}
            for kind in SPLIT:
                logs = np.array([run[part, name, kind] for run in runs if (part, name, kind) in run])
                if len(logs) < LEAST_RUNS:
                    break
                found = factor(logs)
                row |= {"runs": len(logs), kind: found.value}
                row |= {f"{kind}_low": found.low, f"{kind}_high": found.high}
            else:
                table.append(row)
    return table


def with_later(table: Sequence[Row], sweep: str) -> list[Row]:
    """The rows of a sweep, and what leaves out the first task, from the table that arms.py wrote."""
    arms = arms_of(read(HERE / "data" / f"{sweep}.csv"))
    rows = []
    for row in table:
        found = later(arms[row["arm"]].values(), row["part"], row["measurement"])
        known = {"later": found.value, "later_low": found.low, "later_high": found.high} if found else {}
        rows.append(row | known)
    return rows


def kept(sweep: str) -> list[Row]:
    """The rows that the file has of a sweep."""
    words = ("sweep", "arm", "part", "measurement")
    return [
        {column: value if column in words else float(value) for column, value in row.items() if value}
        for row in read(FILE)
        if row["sweep"] == sweep
    ]


def picture(table: Sequence[Row]) -> Figure:
    """A panel per sweep and part: the factors by measurement and arm."""
    # What the parts have is in the total already.
    panels = [key for key in dict.fromkeys((row["sweep"], row["part"]) for row in table) if key[1] != "total"]
    arms = list(dict.fromkeys(row["arm"] for row in table))
    places = {
        (name, arm): -(len(arms) + 0.8) * m - a
        for m, name in enumerate(CHANGES)
        for a, arm in enumerate(arms)
    }
    size = (3.0 * len(panels) + 3.0, 1.4 + 0.17 * len(places))
    figure = Figure(figsize=size, layout="constrained")
    for panel, key in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True
    ):
        for row in table:
            if (row["sweep"], row["part"]) == key:
                place = places[row["measurement"], row["arm"]]
                for kind in KINDS.keys() & row.keys():
                    _, colour, marker = KINDS[kind]
                    ends = [row[f"{kind}_low"], row[f"{kind}_high"]]
                    panel.plot(ends, [place] * 2, color=colour, linewidth=1.4)
                    panel.plot(row[kind], place, marker, color=colour, markersize=4)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.axvline(1.0, color="#5b6370", linewidth=0.8)
        panel.set_title(": ".join(key), fontsize=10, loc="left")
        panel.set_xlabel("factor")
        panel.grid(axis="x", color="#e6e8ec")
        panel.spines[["top", "right"]].set_visible(False)
    labels = [f"{NAMES[name]}   {arm}" if arm == arms[0] else arm for name, arm in places]
    figure.axes[0].set_yticks(list(places.values()), labels, fontsize=8)
    for label, colour, marker in KINDS.values():
        figure.axes[0].plot([], [], marker, color=colour, label=label)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    return figure


def main(sweeps: Sequence[Path]) -> None:
    """Read and write."""
    table = []
    for sweep in sweeps:
        rows = changes(sweep) if sweep.exists() else kept(sweep.name)
        table += with_later(rows, sweep.name)
    if not table:
        sys.exit("no run was measured at both ends of its tasks: set diagnostics.at = ['init', 'end']")
    write(FILE, table)
    picture(table).savefig(HERE / "images" / "data-alone.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
