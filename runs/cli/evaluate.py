"""``pliant evaluate``: what the checkpoints of a run can do, played afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .console import Data, Device, out, plain_table

if TYPE_CHECKING:
    from ..evaluation.acting import PolicyName
    from ..evaluation.table import Row
    from ..folder import RunFolder

_POLICIES: dict[str, tuple[PolicyName, ...]] = {
    "deterministic": ("deterministic",),
    "stochastic": ("stochastic",),
    "both": ("deterministic", "stochastic"),
}


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    after_task: Annotated[
        list[int] | None,
        typer.Option(min=-1, help="The checkpoint after this task; -1: untrained; repeatable. Default: all."),
    ] = None,
    on_task: Annotated[
        list[int] | None, typer.Option(min=0, help="The task to play; repeatable. Default: all.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Per checkpoint and task. Default: the spec's.")
    ] = None,
    policy: Annotated[
        Literal["deterministic", "stochastic", "both"] | None,
        typer.Option(help="How actions are chosen. Default: the spec's."),
    ] = None,
    record: Annotated[bool, typer.Option("--replays/--no-replays", help="Record the episodes.")] = True,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Checkpoints at a time; all cores by default.")
    ] = None,
    device: Annotated[Device, typer.Option()] = "auto",
    data: Data = None,
) -> None:
    """Play evaluation episodes that are not in the run's evaluation.csv yet, and add them to it."""
    from ..folder import RunFolder

    folder = RunFolder.open(run)

    from ..evaluation.afterwards import evaluate as evaluate_run
    from ..execute import available_cores

    def tell(after: int, rows: list[Row]) -> None:
        out.print(f"after task {after}: {len(rows)} episodes")

    done = evaluate_run(
        folder,
        after_tasks=after_task or (),
        on_tasks=on_task or (),
        episodes=episodes,
        policies=_POLICIES[policy] if policy else (),
        replays=record,
        jobs=jobs or available_cores(),
        device=device,
        tell=tell,
    )
    _print_means(folder)
    out.print(
        f"\n{done.played} episodes played, {done.present} were there; all rows in {folder.evaluation_file}",
        soft_wrap=True,
    )


def _print_means(folder: RunFolder) -> None:
    from statistics import fmean

    from ..evaluation.table import read_rows
    from ..words import number

    rows = read_rows(folder.evaluation_file)
    for policy in dict.fromkeys(row.policy for row in rows):
        ours = [row for row in rows if row.policy == policy]
        tasks = sorted({row.on_task for row in ours})
        table = plain_table("after task", *(f"on {task}" for task in tasks), title=f"mean return, {policy}")
        for after in sorted({row.after_task for row in ours}):
            cells = [[r.total for r in ours if (r.after_task, r.on_task) == (after, on)] for on in tasks]
            table.add_row(str(after), *(number(fmean(cell)) if cell else "-" for cell in cells))
        out.print(table)
