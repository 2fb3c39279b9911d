"""The report's pictures, as SVG that stands in the page and as PDF to keep; each with its numbers as rows.

Figures are made through matplotlib's object interface. Colours are those of Okabe & Ito (2008), which people
with any of the common colour-vision deficiencies tell apart; line styles and markers say the same again.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from .comparison import BINS, Comparison
from .records import RunRecord
from .statistics import Interval, spearman_interval

Array = NDArray[np.float64]

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
FRESH = "#5b6370"
"""Fresh agents are a reference, not a contender: grey and dashed."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT, GRID = "#1c2430", "#5b6370", "#e6e8ec"

PANEL = (4.6, 3.1)
WIDE = (10.6, 3.7)

DENSITY_POINTS = 140
RANK_POINTS = 100
LOWEST_DENSITY = 1e-4

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the reader's own font
    # Helvetica, which every reader of PDF has: embedding a font took half the time of the whole report.
    "pdf.use14corefonts": True,
    "axes.unicode_minus": False,  # the standard fonts of PDF have no such character
    "font.size": 10.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "path.simplify_threshold": 0.2,
}


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Attributes:
        name: of its files and of its place in the page.
        title: above it.
        caption: below it.
        svg: markup to stand in HTML.
        pdf: to keep; pictures that change with the slider have a page for every switch.
        columns: of its numbers.
        rows: its numbers.
        wide: whether it takes the whole width.
    """

    name: str
    title: str
    caption: str
    svg: str
    pdf: bytes
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    wide: bool = False

    @property
    def csv(self) -> str:
        """Its numbers as a CSV file."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([["" if _missing(cell) else cell for cell in row] for row in self.rows])
        return text.getvalue()


@dataclass(frozen=True)
class Look:
    """How an arm is drawn."""

    colour: str
    dash: Literal["-", "--"]
    marker: str


def looks(comparison: Comparison) -> dict[str, Look]:
    """A look for every arm; fresh agents are grey and dashed."""
    styles = zip(cycle(OKABE_ITO), cycle(MARKERS), strict=False)
    found = {}
    for arm in comparison.arms:
        if arm.fresh:
            found[arm.label] = Look(FRESH, "--", ".")
        else:
            colour, marker = next(styles)
            found[arm.label] = Look(colour, "-", marker)
    return found


def learning_curves(comparison: Comparison) -> Picture:
    """Training return over environment steps, a line per arm, a band from its lowest to its highest seed."""
    styles = looks(comparison)
    steps = np.concatenate(
        [
            np.linspace(first, last, BINS + 1)[1:]
            for first, last in zip(comparison.boundaries, comparison.boundaries[1:], strict=False)
        ]
    )
    rows: list[tuple[Any, ...]] = []
    with _panel(WIDE) as (figure, panel):
        for arm in comparison.arms:
            curves = np.stack([comparison.curve(run) for run in arm.runs])  # [runs, N, BINS]
            middle, low, high = _over_runs(curves)
            look = styles[arm.label]
            for task in range(comparison.task_count):  # a line per task: a switch is no slope
                place = slice(task * BINS, (task + 1) * BINS)
                label = arm.label if task == 0 else "_"
                panel.plot(steps[place], middle[task], look.dash, color=look.colour, label=label)
                if len(arm.runs) > 1:
                    panel.fill_between(
                        steps[place], low[task], high[task], color=look.colour, alpha=0.16, linewidth=0
                    )
            for run, curve in zip(arm.runs, curves, strict=True):
                rows += [
                    (arm.label, run.seed, task, int(step), value)
                    for task in range(comparison.task_count)
                    for step, value in zip(
                        steps[task * BINS : (task + 1) * BINS], curve[task].tolist(), strict=True
                    )
                    if not _missing(value)
                ]
        for step in comparison.boundaries[1:-1]:
            panel.axvline(step, color="#a3a9b3", linewidth=0.8, linestyle=":", zorder=0.5)
        panel.set_xlim(0, comparison.boundaries[-1])
        panel.xaxis.set_major_formatter(_thousands)
        panel.set_xlabel("environment steps")
        panel.set_ylabel("training return")
        _legend(panel, len(comparison.arms))
    return _picture(
        figure,
        "return",
        "Return over environment steps",
        "Mean over seeds; the band runs from the lowest seed to the highest. Dotted lines are switches"
        + (
            "; grey and dashed: a fresh agent at every task."
            if any(a.fresh for a in comparison.arms)
            else "."
        ),
        ("arm", "seed", "task", "env_steps", "return"),
        rows,
        wide=True,
    )


def evaluation_matrices(comparison: Comparison) -> list[Picture]:
    """A heat map per arm: return on each task after each task, mean over seeds."""
    means = {}
    for arm in comparison.arms:
        tables = [table for run in arm.runs if (table := comparison.matrix(run)) is not None]
        if tables:
            means[arm.label] = (_over_runs(np.stack(tables))[0], _count(np.stack(tables)))
    known = [table[np.isfinite(table)] for table, _ in means.values()]
    if not known or not np.concatenate(known).size:
        return []
    values = np.concatenate(known)
    low, high = float(values.min()), float(values.max())
    if comparison.bounds is not None and len(set(comparison.bounds)) == 1:
        low, high = comparison.bounds[0]
    pictures = []
    for label, (table, seeds) in means.items():
        n = comparison.task_count
        with _panel((PANEL[0], PANEL[0] * 0.92)) as (figure, panel):
            panel.grid(False)
            image = panel.imshow(table, cmap="cividis", vmin=low, vmax=max(high, low + 1e-9), aspect="auto")
            panel.set_facecolor("#f1f2f4")
            for task in range(n):  # what was just trained
                panel.add_patch(
                    mpl.patches.Rectangle(
                        (task - 0.5, task + 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.1
                    )
                )
            if n <= 8:
                for after, on in np.argwhere(np.isfinite(table)):
                    shade = (table[after, on] - low) / max(high - low, 1e-9)
                    panel.text(
                        on,
                        after,
                        f"{table[after, on]:.3g}",
                        ha="center",
                        va="center",
                        fontsize=8.5,
                        color="white" if shade < 0.55 else INK,
                    )
            every = max(1, -(-n // 10))
            panel.set_xticks(range(0, n, every), [str(task) for task in range(0, n, every)])
            panel.set_yticks(
                [0, *range(1, n + 1, every)], ["untrained", *(str(task) for task in range(0, n, every))]
            )
            panel.set_xlabel("on task")
            panel.set_ylabel("after task")
            panel.set_title(label)
            bar = figure.colorbar(image, ax=panel, fraction=0.05, pad=0.03)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=8)
        rows = [
            (label, after - 1, on, table[after, on] if np.isfinite(table[after, on]) else None)
            for after in range(n + 1)
            for on in range(n)
        ]
        pictures.append(
            _picture(
                figure,
                f"evaluation-{_slug(label)}",
                f"Evaluation: {label}",
                f"Return of the {comparison.policy} policy, mean over {seeds}. "
                "Outlined: the task that was just trained; grey: not evaluated.",
                ("arm", "after_task", "on_task", "return"),
                rows,
            )
        )
    return pictures


# Instruments over switches -------------------------------------------------------------------------------

_QUANTITIES = (
    # What is read of a snapshot's scalars, where, and what it is called.
    (r"plasticity/([^/]+)/(.+/)?\d+/effective_rank", "effective feature rank", "units' worth of directions"),
    (r"plasticity/([^/]+)/(.+/)?\d+/dead", "dead units", "share of the layer"),
    (r"plasticity/([^/]+)/weight_norm", "weight norm", "norm"),
)


def instruments(comparison: Comparison) -> list[Picture]:
    """Ranks, dead units and norms at every switch, before the first update on the new task."""
    pictures = []
    for part, tag in sorted(rank_tags(comparison).items()):
        picture = _over_switches(
            comparison,
            f"rank-{part}",
            f"{tag_title(tag)}: {part}",
            "share of eigenvalues",
            partial(_scalar, tag=tag),
            partial(_bracket, tag=tag),
        )
        if picture:
            pictures.append(picture)
    tags = sorted({tag for run in comparison.runs for m in run.moments.values() for tag in m.scalars})
    for pattern, title, unit in _QUANTITIES:
        networks = sorted({found[1] for tag in tags if (found := re.fullmatch(pattern, tag))})
        for network in networks:
            picture = _over_switches(
                comparison,
                f"{_slug(title)}-{network}",
                f"{title}: {network}",
                unit,
                _mean_of(pattern.replace("([^/]+)", re.escape(network))),
            )
            if picture:
                pictures.append(picture)
    return pictures


def _scalar(scalars: Mapping[str, float], tag: str) -> float | None:
    return scalars.get(tag)


def _bracket(scalars: Mapping[str, float], tag: str) -> tuple[float | None, float | None]:
    return scalars.get(f"{tag}_low"), scalars.get(f"{tag}_high")


def _mean_of(pattern: str) -> Callable[[Mapping[str, float]], float | None]:
    def value(scalars: Mapping[str, float]) -> float | None:
        found = [number for tag, number in scalars.items() if re.fullmatch(pattern, tag)]
        return float(np.mean(found)) if found else None

    return value


def _over_switches(
    comparison: Comparison,
    name: str,
    title: str,
    unit: str,
    read: Callable[[Mapping[str, float]], float | None],
    bracket: Callable[[Mapping[str, float]], tuple[float | None, float | None]] | None = None,
) -> Picture | None:
    styles, rows, drawn = looks(comparison), list[tuple[Any, ...]](), False
    tasks = np.arange(comparison.task_count)
    with _panel(PANEL) as (figure, panel):
        for arm in comparison.arms:
            values = np.full((3, len(arm.runs), len(tasks)), np.nan)
            for index, run in enumerate(arm.runs):
                for task in tasks:
                    moment = run.moments.get((int(task), "init"))
                    value = read(moment.scalars) if moment else None
                    if moment is None or value is None:
                        continue
                    ends = bracket(moment.scalars) if bracket else (None, None)
                    values[:, index, task] = [value, *(value if end is None else end for end in ends)]
                    rows.append((arm.label, run.seed, int(task), value, *(ends if bracket else ())))
            if not np.isfinite(values).any():
                continue
            drawn = True
            middle, low, high = _over_runs(values[0])
            if bracket:
                low, high = _over_runs(values[1])[1], _over_runs(values[2])[2]
            look = styles[arm.label]
            panel.plot(
                tasks, middle, look.dash, color=look.colour, marker=look.marker, markersize=4, label=arm.label
            )
            panel.fill_between(tasks, low, high, color=look.colour, alpha=0.16, linewidth=0)
        if not drawn:
            return None
        panel.set_title(title)
        panel.set_xlabel("switch to task")
        panel.set_ylabel(unit)
        panel.set_ylim(bottom=min(0.0, panel.get_ylim()[0]))
        panel.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        _legend(panel, len(comparison.arms))
    columns = ("arm", "seed", "task", "value", *(("low", "high") if bracket else ()))
    return _picture(figure, name, title, "", columns, rows)


# Epsilon-rank ----------------------------------------------------------------------------------------------


def rank_tags(comparison: Comparison) -> dict[str, str]:
    """By part, the tag of the epsilon-rank that is shown.

    The first threshold of the spec that every spectrum of the part resolves; absolute ones before those
    relative to the norm. Nothing is chosen by what it shows: the table of correlations has them all.
    """
    resolved: dict[str, dict[str, int]] = {}
    total: dict[str, int] = {}
    for run in comparison.runs:
        for (_, moment), found in run.moments.items():
            if moment != "init":
                continue
            for part in found.spectra:
                total[part] = total.get(part, 0) + 1
            for tag in found.scalars:
                match = re.fullmatch(r"spectrum/([^/]+)/((?:epsilon|relative)_rank_[^_]+)", tag)
                if match:
                    counts = resolved.setdefault(match[1], {})
                    counts[tag] = counts.get(tag, 0) + 1
    return {
        part: next(
            (tag for tag, n in counts.items() if n == total[part]), max(counts, key=lambda t: counts[t])
        )
        for part, counts in resolved.items()
        if "." not in part and part in total  # spectra of single layers stay in the files
    }


def tag_title(tag: str) -> str:
    """``spectrum/actor/epsilon_rank_0.01`` -> ``rank beyond 0.01``."""
    name = tag.rsplit("/", 1)[1]
    kind, threshold = name.rsplit("_", 1)
    return f"rank beyond {threshold}" + (" of the norm" if kind == "relative_rank" else "")


@dataclass(frozen=True)
class Correlation:
    """Epsilon-rank at a switch against the return of the task that began there."""

    part: str
    threshold: str
    points: int
    interval: Interval


def correlations(comparison: Comparison) -> list[Correlation]:
    """Spearman's correlation for every part and threshold, tasks and runs of all arms together."""
    finals = {run.id: comparison.final_returns(run) for run in comparison.runs}
    tags = sorted(
        {
            tag
            for run in comparison.runs
            for found in run.moments.values()
            for tag in found.scalars
            if re.fullmatch(r"spectrum/[^/.]+/(epsilon|relative)_rank_[^_]+", tag)
        }
    )
    return [row for tag in tags if (row := _correlation(comparison, tag, finals))]


def _correlation(comparison: Comparison, tag: str, finals: Mapping[str, Array]) -> Correlation | None:
    points = [_points(run, tag, finals)[:2] for run in comparison.runs]
    interval = spearman_interval(points)
    if not np.isfinite(interval.value):
        return None
    return Correlation(tag.split("/")[1], tag_title(tag), sum(len(x) for x, _ in points), interval)


def rank_against_return(comparison: Comparison) -> list[Picture]:
    """A point per task and run: epsilon-rank before the first update, its bracket, and what came of it."""
    styles, pictures = looks(comparison), []
    finals = {run.id: comparison.final_returns(run) for run in comparison.runs}
    for part, tag in sorted(rank_tags(comparison).items()):
        rows: list[tuple[Any, ...]] = []
        with _panel(PANEL) as (figure, panel):
            for arm in comparison.arms:
                look = styles[arm.label]
                joined: list[NDArray[Any]] = []
                for run in arm.runs:
                    points = np.array(_points(run, tag, finals))  # [rank return low high task]
                    joined.append(points)
                    rows += [
                        (arm.label, run.seed, int(task), rank, low, high, value)
                        for rank, value, low, high, task in points.T.tolist()
                    ]
                rank, value, low, high, _ = np.concatenate(joined, axis=1)
                if not len(rank):
                    continue
                panel.errorbar(
                    rank,
                    value,
                    xerr=np.maximum([rank - low, high - rank], 0.0),
                    fmt=look.marker,
                    color=look.colour,
                    markersize=4.5,
                    elinewidth=0.8,
                    alpha=0.85,
                    label=arm.label,
                )
            panel.set_title(part)
            panel.set_xlabel(f"{tag_title(tag)} (share of eigenvalues)")
            panel.set_ylabel("return at the end of the task")
            if handles := panel.get_legend_handles_labels()[0]:  # beside the points, of which there are many
                figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 3))
        if rows:
            columns = ("arm", "seed", "task", "rank", "low", "high", "return")
            name = f"rank-against-return-{part}"
            found = _correlation(comparison, tag, finals)
            caption = f"Spearman's correlation {found.interval}" if found else ""
            pictures.append(_picture(figure, name, f"Rank against return: {part}", caption, columns, rows))
    return pictures


def _points(
    run: RunRecord, tag: str, finals: Mapping[str, Array]
) -> tuple[list[float], list[float], list[float], list[float], list[int]]:
    """Rank, return, the bracket's ends and the task, of every finished task of a run."""
    rows = []
    for task in range(run.task_count):
        moment, value = run.moments.get((task, "init")), float(finals[run.id][task])
        if moment is None or tag not in moment.scalars or not np.isfinite(value):
            continue
        rank = moment.scalars[tag]
        ends = (moment.scalars.get(f"{tag}_{end}", rank) for end in ("low", "high"))
        rows.append((rank, value, *ends, task))
    ranks, values, lows, highs, tasks = zip(*rows, strict=True) if rows else ((),) * 5
    return list(ranks), list(values), list(lows), list(highs), list(tasks)


# Spectra -------------------------------------------------------------------------------------------------


def spectra(comparison: Comparison) -> list[Picture]:
    """Density and rank curve of every part; the lines of each switch are a group that the slider shows."""
    moments = [
        (arm, run, task, m) for arm in comparison.arms for run in arm.runs for (task, m) in run.moments
    ]
    parts = sorted(
        {
            part
            for _, run, task, moment in moments
            if moment == "init"
            for part in run.moments[task, moment].spectra
            if "." not in part
        }
    )
    return [
        picture
        for part in parts
        for picture in (_densities(comparison, part), _rank_curves(comparison, part))
    ]


def _densities(comparison: Comparison, part: str) -> Picture:
    """Log-density over eigenvalues on an axis that is linear near zero and logarithmic beyond."""
    found = _spectra_of(comparison, part)
    extremes = np.array([[nodes.min(), nodes.max()] for nodes, _, _ in found.values()])
    bulk = max(1e-3 * float(np.abs(extremes).max()), 1e-12)
    low, high = np.arcsinh(np.array([extremes.min(), extremes.max()]) / bulk)
    margin = 0.06 * (high - low) or 1.0
    grid = np.linspace(low - margin, high + margin, DENSITY_POINTS)
    width = 1.5 * (grid[1] - grid[0])
    curves = {}
    for key, (nodes, weights, _) in found.items():
        distance = (grid[:, None] - np.arcsinh(nodes / bulk)) / width
        density = np.exp(-0.5 * distance**2) @ weights / (width * np.sqrt(2 * np.pi))
        curves[key] = np.maximum(density, LOWEST_DENSITY)
    with _panel(PANEL) as (figure, panel):
        panel.set_xscale("asinh", linear_width=bulk)
        panel.set_yscale("log")
        _plain_decades(panel.yaxis)
        rows = _frames(comparison, panel, bulk * np.sinh(grid), curves)
        panel.set_ylim(LOWEST_DENSITY, 2.0 * max(float(curve.max()) for curve in curves.values()))
        panel.set_title(f"{part}: density", gid="heading")
        panel.set_xlabel("eigenvalue")
        panel.set_ylabel("density (log)")
        ticks = _signed_decades(bulk, float(np.abs(extremes).max()))
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xticks([], minor=True)
        # Last: ticks beyond the data, where there is nothing of that sign, would widen the axis to them.
        panel.set_xlim(bulk * np.sinh(grid[0]), bulk * np.sinh(grid[-1]))
    columns = ("task", "arm", "seed", "eigenvalue", "density")
    name = f"spectrum-{part}"
    return _picture(figure, name, f"Spectrum: {part}", "", columns, rows)


def _signed_decades(bulk: float, top: float) -> list[float]:
    """Zero and at most three powers of ten on either side, from ten times ``bulk`` to ``top``."""
    first, last = int(np.ceil(np.log10(10 * bulk))), int(np.floor(np.log10(top)))
    powers = [10.0**exponent for exponent in range(last, first - 1, -max(1, -(-(last - first + 1) // 3)))]
    return [*(-power for power in powers), 0.0, *reversed(powers)]


def _rank_curves(comparison: Comparison, part: str) -> Picture:
    """Share of eigenvalues beyond epsilon, read at the middles of the nodes."""
    found = _spectra_of(comparison, part)
    top = max(float(np.abs(nodes).max()) for nodes, _, _ in found.values()) or 1.0
    epsilons = np.geomspace(1e-5 * top, top, RANK_POINTS)
    curves = {}
    for key, (nodes, weights, _) in found.items():
        size = np.abs(nodes)
        order = np.argsort(-size)
        beyond = np.cumsum(weights[order]) - weights[order] / 2
        logs = np.log(np.maximum(size[order], 1e-300))
        curves[key] = np.interp(-np.log(epsilons), -logs, beyond, left=0.0)
    floor = min(1.0 / size for _, _, size in found.values())
    with _panel(PANEL) as (figure, panel):
        panel.set_xscale("log")
        panel.set_yscale("log")
        _plain_decades(panel.xaxis, panel.yaxis)
        rows = _frames(comparison, panel, epsilons, curves)
        panel.set_ylim(0.7 * floor, 1.4)
        panel.set_xlim(epsilons[0], 1.3 * top)
        panel.set_title(f"{part}: epsilon-rank", gid="heading")
        panel.set_xlabel("epsilon")
        panel.set_ylabel("share beyond epsilon")
    columns = ("task", "arm", "seed", "epsilon", "share_beyond")
    return _picture(figure, f"epsilon-rank-{part}", f"Epsilon-rank: {part}", "", columns, rows)


_Key = tuple[str, int, int]
"""Arm, seed, task."""


def _spectra_of(comparison: Comparison, part: str) -> dict[_Key, tuple[Array, Array, int]]:
    return {
        (arm.label, run.seed, task): moment.spectra[part]
        for arm in comparison.arms
        for run in arm.runs
        for (task, when), moment in run.moments.items()
        if when == "init" and part in moment.spectra
    }


def _frames(
    comparison: Comparison, panel: Axes, x: Array, curves: Mapping[_Key, Array]
) -> list[tuple[Any, ...]]:
    """Draw every switch into the same axes, in groups by which the page shows one at a time."""
    styles = looks(comparison)
    for task in sorted({task for _, _, task in curves}):
        number = 0
        for arm in comparison.arms:
            mine = [curves[key] for run in arm.runs if (key := (arm.label, run.seed, task)) in curves]
            if not mine:
                continue
            middle, low, high = _over_runs(np.stack(mine))
            look = styles[arm.label]
            artists: list[Any] = panel.plot(x, middle, look.dash, color=look.colour)
            if len(mine) > 1:
                artists.append(panel.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0))
            for artist in artists:
                artist.set_gid(f"switch-{task}-{number}")
                number += 1
    handles = [
        mpl.lines.Line2D(
            [], [], color=styles[arm.label].colour, linestyle=styles[arm.label].dash, label=arm.label
        )
        for arm in comparison.arms
    ]
    panel.legend(handles=handles, loc="upper right")  # "best" looks at every line of every switch
    return [
        (task, label, seed, f"{at:.5g}", f"{value:.4g}")
        for (label, seed, task), curve in sorted(curves.items(), key=lambda item: (item[0][2], item[0][:2]))
        for at, value in zip(x.tolist(), curve.tolist(), strict=True)
        if np.isfinite(value)
    ]


# Shared --------------------------------------------------------------------------------------------------


@contextmanager
def _panel(size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots()


def _plain_decades(*axes: Axis) -> None:
    """Powers of ten as ``1e-3``, no ticks between: typeset exponents took two thirds of the report's time."""
    for axis in axes:
        axis.set_major_formatter(lambda value, _: f"1e{round(math.log10(value))}")
        axis.set_minor_locator(NullLocator())


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _picture(
    figure: Figure,
    name: str,
    title: str,
    caption: str,
    columns: Sequence[str],
    rows: list[tuple[Any, ...]],
    *,
    wide: bool = False,
) -> Picture:
    """Draw the figure, as SVG and as PDF."""
    name = _slug(name)
    svg = io.StringIO()
    # The salt makes ids the same every time, and the prefix makes them this picture's alone.
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        FigureCanvasAgg(figure)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # the places that it found stay
        pdf = _pdf(figure, title)
    return Picture(
        name, title, caption, _inline(svg.getvalue(), name, title), pdf, tuple(columns), rows, wide
    )


def _pdf(figure: Figure, title: str) -> bytes:
    """The figure as PDF: one page, or a page for every switch that its artists belong to."""
    frames: dict[str, list[Artist]] = {}
    for artist in figure.findobj(lambda one: (one.get_gid() or "").startswith("switch-")):
        frames.setdefault(str(artist.get_gid()).split("-")[1], []).append(artist)
    heading = figure.axes[0].get_title(loc="left")
    file = io.BytesIO()
    canvas = FigureCanvasPdf(figure)  # its own print_pdf draws once, where savefig draws twice
    with (
        _quiet("matplotlib.font_manager"),  # Helvetica calls its normal weight medium
        PdfPages(file, metadata={"CreationDate": None, "Title": title}) as pages,
    ):
        for task in sorted(frames, key=int) or [""]:
            for frame, artists in frames.items():
                for artist in artists:
                    artist.set_visible(frame == task)
            if task:
                figure.axes[0].set_title(f"{heading} at the switch to task {task}")
            canvas.print_pdf(pages)  # type: ignore[no-untyped-call]
    return file.getvalue()


def _inline(svg: str, name: str, title: str) -> str:
    """An SVG file as markup in a page: ids of its own, shorter numbers, the reader's fonts, a name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'="[^"]*\d\.\d{3}[^"]*"', lambda m: re.sub(r"(\d\.\d{2})\d+", r"\1", m[0]), svg)
    svg = re.sub(r"\n+\s*", "\n", svg)
    # Only the frame of the last switch is seen until the slider moves.
    last = max((int(task) for task in re.findall(rf'<g id="{name}-switch-(\d+)-\d+">', svg)), default=0)
    svg = re.sub(
        rf'<g id="{name}-switch-(\d+)-(\d+)">',
        lambda m: (
            f'<g id="{name}-switch-{m[1]}-{m[2]}" data-switch="{m[1]}"'
            + (">" if int(m[1]) == last else ' style="display:none">')
        ),
        svg,
    )
    svg = re.sub(
        r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*",
        r"\1system-ui, 'Helvetica Neue', Arial, sans-serif",
        svg,
    )
    width, height = re.findall(r'(?:width|height)="([\d.]+)pt"', svg)[:2]
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace(
        "<svg", f'<svg role="img" aria-label="{_attribute(title)}" data-size="{width} {height}"', 1
    )


def _over_runs(values: Array) -> tuple[Array, Array, Array]:
    """Mean, lowest and highest over the first axis, of the values that are there."""
    known = np.isfinite(values)
    count = known.sum(0)
    total = np.where(known, values, 0.0).sum(0)
    middle = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    low = np.where(known, values, np.inf).min(0)
    high = np.where(known, values, -np.inf).max(0)
    return middle, np.where(count > 0, low, np.nan), np.where(count > 0, high, np.nan)


def _count(values: Array) -> str:
    """``3 seeds``, or ``2 to 3 seeds`` where not every entry has as many, of ``[seeds, ...]``."""
    counts = np.isfinite(values).sum(0)
    counts = counts[counts > 0]
    low, high = int(counts.min(initial=len(values))), int(counts.max(initial=0))
    return f"{high} seed{'s' * (high != 1)}" if low >= high else f"{low} to {high} seeds"


def _legend(panel: Axes, arms: int) -> None:
    if panel.get_legend_handles_labels()[0]:  # of runs that left nothing to draw there is nothing to explain
        panel.legend(loc="best", ncols=min(arms, 3))


def _thousands(value: float, _: Any = None) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not np.isfinite(value))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "picture"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
