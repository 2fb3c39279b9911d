"""``pliant list``: the runs of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import err, out


def list_runs(
    results: Annotated[Path, typer.Argument(help="The folder that runs were written to.")] = Path("results"),
) -> None:
    """List the runs of a folder, the newest first."""
    from rich.table import Column, Table
    from rich.text import Text

    from ..index import entries
    from ..statistics import number

    table = Table(
        Column("run", overflow="fold"),  # of a sweep, with its settings: the only column that may break
        *(Column(name, no_wrap=True) for name in ("spec", "arm", "seed", "status", "last return", "age")),
        box=None,
        pad_edge=False,
    )
    found = entries(results)
    for entry in found:
        cells = (entry.id, entry.spec, entry.arm, entry.seed, entry.status)
        table.add_row(*(Text(cell) for cell in cells), number(entry.last_return), entry.age)
    out.print(table if found else f"no runs in {results}")
    for entry in found:
        if entry.note:
            err.print(entry.note, markup=False, soft_wrap=True)
