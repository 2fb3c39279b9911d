"""What a person sees while runs train: one live line per run on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .words import duration, number


@dataclass(frozen=True)
class Report:
    """How far a run has come."""

    run: str
    task: int
    """Counted from 1."""
    tasks: int
    task_name: str
    steps: int
    """Environment steps since the run began."""
    total_steps: int
    steps_per_second: float
    """Since the run began or was resumed, all work included."""
    last_return: float | None
    """Mean over the last episodes of this task; None before the first has ended."""
    measuring: bool = False
    """Whether a snapshot is being taken: that may last, and no step is taken meanwhile."""

    def __str__(self) -> str:
        return (
            f"task {self.task}/{self.tasks}  "
            f"{pace(self.steps, self.total_steps, self.steps_per_second)}  return {number(self.last_return)}"
            f"{'  measuring' * self.measuring}"
        )


def pace(steps: int, total_steps: int, steps_per_second: float) -> str:
    """How far, how fast, and for how long it will go on at that speed.

    >>> pace(500, 2_000, 10.0)
    '500/2,000 env steps  10/s  2 min 30 s left'
    """
    left = max(total_steps - steps, 0) / steps_per_second if steps_per_second else None
    speed = f"{steps_per_second:,.0f}" if steps_per_second else "–"
    return f"{steps:,}/{total_steps:,} env steps  {speed}/s  {duration(left)} left"


Reporter = Callable[[Report], None]


class PlainReporter:
    """A line when a task begins, and one every ``interval`` seconds per run."""

    def __init__(self, console: Console, interval: float = 10.0) -> None:
        self.console = console
        self.interval = interval
        self._last: dict[str, tuple[int, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, report: Report) -> None:
        """Print ``report`` if it is due."""
        now = time.monotonic()
        task, printed = self._last.get(report.run, (0, 0.0))
        if report.task != task or now - printed >= self.interval or report.steps >= report.total_steps:
            self._last[report.run] = (report.task, now)
            self.console.print(f"{report.run}: {report}", highlight=False, soft_wrap=True)


class LiveReporter:
    """One line with a bar per run, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[run]}", style="bold"),
            BarColumn(bar_width=20),
            TextColumn("{task.description}"),
            console=console,
            refresh_per_second=4,
        )
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, report: Report) -> None:
        """Redraw the line of ``report``'s run."""
        if report.run not in self._lines:
            self._lines[report.run] = self._progress.add_task("", total=report.total_steps, run=report.run)
        line = self._lines[report.run]
        self._progress.update(line, completed=report.steps, description=str(report))


def reporter(console: Console) -> LiveReporter | PlainReporter:
    """The one that suits ``console``."""
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)
