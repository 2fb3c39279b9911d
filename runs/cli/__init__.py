"""The command line: ``pliant`` and its verbs, one module each; ``train-agent`` is ``pliant train``.

The only package that prints or exits. Nothing that needs torch is imported before there is work for it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, TextIO

import typer

from .compare import compare
from .console import BAD_INPUT, INTERRUPTED, Usage, err, out
from .evaluate import evaluate
from .export import export
from .list import list_runs
from .measure import measure
from .replay import replay
from .report import report
from .sweep import sweep
from .train import train

app = typer.Typer(name="pliant", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"pliant {metadata.version('pliant')}")
        raise typer.Exit


@app.callback()
def _pliant(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and stop.")
    ] = False,
) -> None:
    """Continual reinforcement-learning agents that keep their ability to learn."""


app.command(name="train")(train)
app.command(name="sweep")(sweep)
app.command(name="measure")(measure)
app.command(name="evaluate")(evaluate)
app.command(name="replay")(replay)
app.command(name="export")(export)
app.command(name="report")(report)
app.command(name="compare")(compare)
app.command(name="list")(list_runs)

_train_app = typer.Typer(name="train-agent", add_completion=False, pretty_exceptions_enable=False)
_train_app.command()(train)


def main() -> None:
    """Entry point of ``pliant``."""
    _guarded(app)


def train_agent() -> None:
    """Entry point of ``train-agent``."""
    _guarded(_train_app)


def _guarded(command: Callable[[], None]) -> None:
    """Run ``command``; what a person can mend becomes one message and exit code 2."""
    # Before numpy is loaded: its linear algebra starts a thread per core, and where cores are shared the
    # small eigenproblems of a snapshot then took 40 times as long (17 s instead of 0.35 s).
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command()
    except KeyboardInterrupt:
        err.print("stopped at once")
        sys.exit(INTERRUPTED)
    except OSError as error:  # a path that cannot be: too long, forbidden, a file where a folder should be
        if error.filename is None:
            raise
        err.print(f"error: {str(error.filename)!r}: {error.strerror}", markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT)
    except Exception as error:
        if not _meant_for_a_person(error):
            raise
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are for a person, who has no use for the line that they come from."""
    if Path(filename).is_relative_to(Path(__file__).parents[2]):
        err.print(f"warning: {message}", markup=False, soft_wrap=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def _meant_for_a_person(error: Exception) -> bool:
    from ..errors import RunError

    if isinstance(error, (Usage, RunError)):
        return True
    from ...agents import AgentError
    from ...diagnostics import MeasurementError
    from ...envs import EnvError

    return isinstance(error, (AgentError, EnvError, MeasurementError))
