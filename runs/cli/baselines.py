"""What `report` and `compare` share: the runs that they take, and the fresh agents beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import FAILED, INTERRUPTED, Device, err, out, until_ctrl_c

Runs = Annotated[list[Path], typer.Argument(help="Run folders; sweeps and folders of runs stand for theirs.")]
Baseline = Annotated[
    Literal["fresh"] | None,
    typer.Option(help="fresh: agents that start anew at each task, found beside the runs or trained there."),
]


def baselines(runs: list[Path], baseline: str | None, device: Device) -> list[Path]:
    """The fresh runs to report beside ``runs``; those that are not there yet are trained."""
    if baseline is None:
        return []
    from ..baseline import start_fresh, with_baselines
    from ..report.comparison import gather

    found, missing = with_baselines(runs)
    if not missing:
        return found
    gather(runs)  # runs that cannot be compared are refused before anything is trained
    from ..execute import available_cores, execute_side_by_side
    from ..progress import reporter

    started = [start_fresh(run) for run in missing]
    for path in started:
        out.print(f"training fresh agents in {path}", soft_wrap=True)

    with reporter(out) as progress, until_ctrl_c() as interrupted:
        workers = min(available_cores(), len(started))
        outcomes = execute_side_by_side(started, device, progress, interrupted, workers)
    for outcome in outcomes:
        if outcome.status == "failed":
            err.print(f"error: {outcome.path.name}: {outcome.message}", soft_wrap=True, markup=False)
        elif outcome.status != "complete":
            err.print(f"stopped; go on with: train-agent --resume {outcome.path}", soft_wrap=True)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)
    if any(outcome.status != "complete" for outcome in outcomes):
        raise typer.Exit(INTERRUPTED)
    return [*found, *started]
