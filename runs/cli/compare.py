"""``pliant compare``: the metrics of several runs side by side, in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .baselines import Baseline, Runs, baselines
from .console import Data, Device, err, out, plain_table

if TYPE_CHECKING:
    from ..report.comparison import Comparison


def compare(
    runs: Runs,
    baseline: Baseline = None,
    device: Annotated[Device, typer.Option(help="To train a baseline on.")] = "auto",
    data: Data = None,
) -> None:
    """Print the metrics of several runs side by side."""
    from ..report.comparison import gather
    from ..sweep.folder import expand

    runs = expand(runs)
    comparison, problems = gather([*runs, *baselines(runs, baseline, device)], spectra=False)
    _print_comparison(comparison)
    for text in [*problems, *comparison.notes]:
        err.print(text, markup=False, soft_wrap=True)


def _print_comparison(comparison: Comparison) -> None:
    from rich.text import Text

    from ..report.statistics import LEAST_RUNS

    table = plain_table("metric")
    for arm in comparison.arms:
        table.add_column(Text(arm.label), overflow="fold")
    for metric, cells in comparison.table:
        arrow = "↑" if metric.better == "more" else "↓"
        texts = (Text(f"{cell.interval} ({cell.runs})") if cell else "–" for cell in cells)
        table.add_row(f"{metric.name} {arrow}", *texts)
    out.print(table)
    how = "interquartile mean over seeds [95 % bootstrap interval] (number of seeds)"
    out.print(f"\nunit: {comparison.unit}; {how}", markup=False)
    if 0 < comparison.fewest_runs < LEAST_RUNS:
        out.print(f"no interval from fewer than {LEAST_RUNS} seeds: it would be those seeds themselves")
    if comparison.tasks_compared == 1:
        out.print("over one task, which cannot be forgotten yet, nor be transferred to another")
    out.print()
    for first, second, chance in comparison.improvements:
        out.print(Text(f"{first.label} beats {second.label} with probability {chance}"))
