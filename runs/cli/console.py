"""What every verb shares: where it prints, how it exits, how it refuses."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from ..interrupt import Interrupt


class _Console(Console):
    """Falls silent when nobody reads it any more: ``train-agent ... | head -1`` must not end training."""

    def on_broken_pipe(self) -> None:
        """Called by rich (13.8 or newer), whose own method exits."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(
            nowhere, (sys.stderr if self.stderr else sys.stdout).fileno()
        )  # for what is flushed at the end


out = _Console(highlight=False)
err = _Console(stderr=True, highlight=False)

BAD_INPUT = 2
"""Exit code of everything that the person at the keyboard can mend."""
FAILED = 1
INTERRUPTED = 130


def plain_table(*columns: str, title: str | None = None) -> Table:
    """A table without lines, in which a long name goes on in the next line: one that is cut off is none."""
    folding = (Column(name, overflow="fold") for name in columns)
    return Table(*folding, box=None, pad_edge=False, title=title, title_justify="left")


class Usage(ValueError):
    """Arguments that do not go together, or cannot be."""


def until_ctrl_c() -> Interrupt:
    """Within its block the first Ctrl-C is told, and asks runs to stop; the second stops at once."""
    return Interrupt(lambda: err.print("stopping at the next rollout (Ctrl-C again stops at once)"))


Device = Literal["auto", "cpu", "cuda"]


def _look_for_data_in(folder: Path | None) -> None:
    """Through the environment: child processes see it too, and no task or run folder holds a path."""
    if folder is not None:
        if not folder.is_dir():
            raise Usage(f"--data {folder}: there is no such folder")
        os.environ["PLIANT_DATA"] = str(folder.absolute())


Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Where data sets lie; by default the folder that the variable PLIANT_DATA names, or data.",
        callback=_look_for_data_in,
        expose_value=False,
    ),
]
