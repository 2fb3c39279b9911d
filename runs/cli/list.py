"""``pliant list``: the runs of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from .console import err, out

COLUMNS = ("spec", "arm", "seed", "status", "last return", "age")


def list_runs(
    results: Annotated[Path, typer.Argument(help="The folder that runs were written to.")] = Path("results"),
) -> None:
    """List the runs of a folder, the newest first."""
    from rich.table import Column, Table
    from rich.text import Text

    from ..index import entries
    from ..words import number

    found = entries(results)

    def table(left_out: Sequence[str]) -> Table:
        columns = [
            Column("run", overflow="fold"),  # of a sweep, with its settings: the only column that may break
            *(Column(name, no_wrap=True) for name in COLUMNS if name not in left_out),
        ]
        table = Table(*columns, box=None, pad_edge=False)
        for entry in found:
            texts = (entry.spec, entry.arm, entry.seed, entry.status, number(entry.last_return), entry.age)
            shown = [cell for name, cell in zip(COLUMNS, texts, strict=True) if name not in left_out]
            table.add_row(*(Text(cell) for cell in (entry.id, *shown)))
        return table

    # The name of a run says its spec, arm and seed: they go first where a terminal is narrow.
    tables = [table(("spec", "arm", "seed")[:count]) for count in range(4)]
    unlimited = out.options.update(max_width=10_000)
    fitting = (one for one in tables if out.measure(one, options=unlimited).maximum <= out.width)
    out.print(next(fitting, tables[-1]) if found else f"no runs in {results}")
    for entry in found:
        if entry.note:
            err.print(entry.note, markup=False, soft_wrap=True)
