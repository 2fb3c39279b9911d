"""Pictures of the spectra at the switches: density and rank curve, drawn in frames that the slider shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .comparison import Comparison
from .looks import legend, looks, over_runs, plain_decades
from .picture import PANEL, Picture, panel_of, picture

Array = NDArray[np.float64]

DENSITY_POINTS = 140
RANK_POINTS = 100
LOWEST_DENSITY = 1e-4

_Key = tuple[str, int, int]
"""Arm, seed, task."""


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
    with panel_of(PANEL) as (figure, panel):
        panel.set_xscale("asinh", linear_width=bulk)
        panel.set_yscale("log")
        plain_decades(panel.yaxis)
        rows = _frames(comparison, figure, bulk * np.sinh(grid), curves)
        panel.set_ylim(LOWEST_DENSITY, 2.0 * max(float(curve.max()) for curve in curves.values()))
        panel.set_title(f"{part}: density", gid="heading")
        panel.set_xlabel("eigenvalue")
        panel.set_ylabel("density (log)")
        ticks = _signed_decades(bulk, float(np.abs(extremes).max()))
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.set_xticks([], minor=True)
        # Last: ticks beyond the data, where there is nothing of that sign, would widen the axis to them.
        panel.set_xlim(bulk * np.sinh(grid[0]), bulk * np.sinh(grid[-1]))
    columns = ("task", "arm", "seeds", "eigenvalue", "density", "lowest", "highest")
    name = f"spectrum-{part}"
    return picture(figure, name, f"Spectrum: {part}", "", columns, rows)


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
    with panel_of(PANEL) as (figure, panel):
        panel.set_xscale("log")
        panel.set_yscale("log")
        plain_decades(panel.xaxis, panel.yaxis)
        rows = _frames(comparison, figure, epsilons, curves)
        panel.set_ylim(0.7 * floor, 1.4)
        panel.set_xlim(epsilons[0], 1.3 * top)
        panel.set_title(f"{part}: epsilon-rank", gid="heading")
        panel.set_xlabel("epsilon")
        panel.set_ylabel("share beyond epsilon")
    columns = ("task", "arm", "seeds", "epsilon", "share_beyond", "lowest", "highest")
    return picture(figure, f"epsilon-rank-{part}", f"Epsilon-rank: {part}", "", columns, rows)


def _spectra_of(comparison: Comparison, part: str) -> dict[_Key, tuple[Array, Array, int]]:
    return {
        (arm.label, run.seed, task): moment.spectra[part]
        for arm in comparison.arms
        for run in arm.runs
        for (task, when), moment in run.moments.items()
        if when == "init" and part in moment.spectra
    }


def _frames(
    comparison: Comparison, figure: Figure, x: Array, curves: Mapping[_Key, Array]
) -> list[tuple[Any, ...]]:
    """Draw every switch into one panel, in groups that the page shows one at a time; the numbers drawn."""
    styles, panel = looks(comparison), figure.axes[0]
    rows: list[tuple[Any, ...]] = []
    for task in sorted({task for _, _, task in curves}):
        number = 0
        for arm in comparison.arms:
            mine = [curves[key] for run in arm.runs if (key := (arm.label, run.seed, task)) in curves]
            if not mine:
                continue
            middle, low, high = over_runs(np.stack(mine))
            rows += [
                (task, arm.label, len(mine), f"{at:.5g}", *(f"{value:.4g}" for value in drawn))
                for at, *drawn in np.stack([x, middle, low, high], 1).tolist()
            ]
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
    legend(figure, handles)
    return rows
