"""``pliant compare``: the metrics of several runs side by side, in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .baselines import Baseline, Runs, baselines
from .console import Data, Device, err, out

if TYPE_CHECKING:
    from ..comparison import Comparison


def compare(
    runs: Runs,
    baseline: Baseline = None,
    device: Annotated[Device, typer.Option(help="To train a baseline on.")] = "auto",
    data: Data = None,
) -> None:
    """Print the metrics of several runs side by side."""
    from ..report import gather
    from ..sweep.folder import expand

    runs = expand(runs)
    comparison, problems = gather([*runs, *baselines(runs, baseline, device)], spectra=False)
    _print_comparison(comparison)
    for text in [*problems, *comparison.notes]:
        err.print(text, markup=False, soft_wrap=True)


def _print_comparison(comparison: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("metric", box=None, pad_edge=False)
    for arm in comparison.arms:
        table.add_column(Text(f"{arm.label} ({len(arm.runs)})"))
    for metric, cells in comparison.table:
        arrow = "↑" if metric.better == "more" else "↓"
        table.add_row(f"{metric.name} {arrow}", *("–" if cell is None else Text(str(cell)) for cell in cells))
    out.print(table)
    how = "interquartile mean over seeds, 95 % bootstrap interval; seeds in brackets"
    out.print(f"\nunit: {comparison.unit}; {how}\n")
    for first, second, chance in comparison.improvements:
        out.print(Text(f"{first.label} beats {second.label} with probability {chance}"))
