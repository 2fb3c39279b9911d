"""How arms are drawn, in every picture alike.

Colours are those of Okabe & Ito (2008), which people with any of the common colour-vision deficiencies tell
apart; line styles and markers say the same again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from .comparison import Comparison

Array = NDArray[np.float64]

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
FRESH = "#5b6370"
"""Fresh agents are a reference, not a contender: grey and dashed."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = {"-": "", "-.": "8 3 2 3", ":": "2 3", "--": "6 4"}
"""Of lines, by matplotlib's names, with SVG's ``stroke-dasharray``; the last is that of fresh agents."""
INK, SOFT, GRID = "#1c2430", "#5b6370", "#e6e8ec"


@dataclass(frozen=True)
class Look:
    """How an arm is drawn."""

    colour: str
    dash: Literal["-", "-.", ":", "--"]
    marker: str


def looks(comparison: Comparison) -> dict[str, Look]:
    """A look for every arm, 21 of them different; fresh agents are grey and dashed."""
    styles = cycle(
        Look(colour, dash, marker)
        for dash in ("-", "-.", ":")
        for colour, marker in zip(OKABE_ITO, MARKERS, strict=True)
    )
    return {arm.label: Look(FRESH, "--", ".") if arm.fresh else next(styles) for arm in comparison.arms}


def over_runs(values: Array) -> tuple[Array, Array, Array]:
    """Mean, lowest and highest over the first axis, of the values that are there."""
    known = np.isfinite(values)
    count = known.sum(0)
    total = np.where(known, values, 0.0).sum(0)
    middle = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    low = np.where(known, values, np.inf).min(0)
    high = np.where(known, values, -np.inf).max(0)
    return middle, np.where(count > 0, low, np.nan), np.where(count > 0, high, np.nan)


def count_of(values: Array) -> str:
    """``3 seeds``, or ``2 to 3 seeds`` where not every entry has as many, of ``[seeds, ...]``."""
    counts = np.isfinite(values).sum(0)
    counts = counts[counts > 0]
    low, high = int(counts.min(initial=len(values))), int(counts.max(initial=0))
    return f"{high} seed{'s' * (high != 1)}" if low >= high else f"{low} to {high} seeds"


def legend(figure: Figure, handles: Sequence[Any] | None = None) -> None:
    """Name the arms below the panel, where they cover nothing; the figure grows by the rows that they take.

    Args:
        figure: of one panel.
        handles: what has a name; by default everything in the panel that has one.
    """
    handles = figure.axes[0].get_legend_handles_labels()[0] if handles is None else handles
    if not handles:  # of runs that left nothing to draw there is nothing to explain
        return
    width, height = figure.get_size_inches()
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = min(len(handles), max(int(width / (0.6 + 0.07 * longest)), 1))
    figure.set_size_inches(width, height + 0.18 * math.ceil(len(handles) / columns))
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def thousands(value: float, _: Any = None) -> str:
    """``20k``, ``1.5M``, as matplotlib's formatters are called."""
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def plain_decades(*axes: Axis) -> None:
    """Powers of ten as ``1e-3``, no ticks between: typeset exponents took two thirds of the report's time."""
    for axis in axes:
        axis.set_major_formatter(lambda value, _: f"1e{round(math.log10(value))}")
        axis.set_minor_locator(NullLocator())
