"""``pliant export``: a saved agent for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import Data, Usage, out


def export(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    sb3: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A new zip, which stable-baselines3 opens without pliant."),
    ] = None,
    after_task: Annotated[
        int | None,
        typer.Option(min=-1, help="The checkpoint after this task; -1: untrained. Default: the last."),
    ] = None,
    data: Data = None,
) -> None:
    """Write a saved agent as a file of stable-baselines3."""
    from ..folder import RunFolder

    if sb3 is None:
        raise Usage("say what to write, for example `pliant export results/<run> --sb3 model.zip`")
    folder = RunFolder.open(run)

    from ..checkpoints.sb3 import export_sb3

    after = export_sb3(folder, sb3, after_task)
    moment = "before training" if after == -1 else f"after task {after}"
    out.print(f"the agent {moment} is in {sb3}", soft_wrap=True)
