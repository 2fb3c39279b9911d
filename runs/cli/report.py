"""``pliant report``: a page about one or several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .baselines import Baseline, Runs, baselines
from .console import Data, Device, out


def report(
    runs: Runs,
    page: Annotated[
        Path | None, typer.Option("--out", help="A new HTML file; report.html by default.")
    ] = None,
    baseline: Baseline = None,
    device: Annotated[Device, typer.Option(help="To train a baseline on.")] = "auto",
    data: Data = None,
) -> None:
    """Write one self-contained HTML page about one or several runs."""
    from ..report.page import first_free, write_report
    from ..sweep.folder import expand

    runs = expand(runs)
    written = write_report(
        [*runs, *baselines(runs, baseline, device)],
        first_free(Path("report.html")) if page is None else page,
    )
    out.print(f"report in {written}", soft_wrap=True)
