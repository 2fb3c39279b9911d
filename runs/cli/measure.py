"""``pliant measure``: the spectra and features of a saved run, again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Data, Device, err, out, plain_table

if TYPE_CHECKING:
    from ...diagnostics import Snapshot


def measure(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    after_task: Annotated[
        int | None,
        typer.Option(min=-1, help="The checkpoint after this task; -1: untrained. Default: the last."),
    ] = None,
    on_task: Annotated[
        int | None, typer.Option(min=0, help="Data of this task. Default: the one that followed.")
    ] = None,
    probes: Annotated[int | None, typer.Option(min=1, help="Random vectors per spectrum.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Lanczos steps.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="diagnostics.spectrum.operators='[\"ggn\"]'"),
    ] = None,
    device: Annotated[Device, typer.Option()] = "auto",
    data: Data = None,
) -> None:
    """Measure a saved run again: a checkpoint's spectra and features on data of any of its tasks."""
    from ..folder import RunFolder

    folder = RunFolder.open(run)
    changes = list(settings or [])
    changes += [f"diagnostics.spectrum.{k}={v}" for k, v in {"probes": probes, "depth": depth}.items() if v]

    from ..measure import measure as measure_run

    snapshot, path = measure_run(
        folder, after_task=after_task, on_task=on_task, settings=tuple(changes), device=device
    )
    _print_snapshot(snapshot)
    out.print(f"\nsaved in {path}", soft_wrap=True)


def _print_snapshot(snapshot: Snapshot) -> None:
    numbers = snapshot.scalars()
    table = plain_table("quantity", "value", "bracket", title=snapshot.label)
    for tag, value in numbers.items():
        if not tag.endswith(("_low", "_high")):
            low, high = numbers.get(f"{tag}_low"), numbers.get(f"{tag}_high")
            table.add_row(
                tag, f"{value:.4g}", "" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"
            )
    for tag, floor in snapshot.below_floor().items():
        table.add_row(tag, "below the floor", f"of {floor:.2g}")
    out.print(table)
    for instrument, reason in snapshot.failures.items():
        err.print(f"{instrument} failed: {reason}", markup=False, soft_wrap=True)
