"""What a person sees while a sweep goes on: one line for all of it, and one for each run that is running."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..progress import Report, pace
from .jobs import FINAL, Job, State


class Tally:
    """Where a sweep stands.

    Args:
        runs: how many it has in all.
        env_steps: environment steps of them all.
        jobs: those that are known by now, for what was done before.
    """

    def __init__(self, runs: int, env_steps: int, jobs: Sequence[Job]) -> None:
        self.runs = runs
        self.env_steps = env_steps
        ended = [job for job in jobs if job.state() in FINAL]
        self.done = len(ended)
        self.failed = 0
        self.running: dict[str, Report] = {}
        self._steps_ended = sum(job.total_steps for job in ended)

    def told(self, report: Report) -> None:
        """A run is running."""
        self.running[report.run] = report

    def ended(self, job: Job, state: State) -> None:
        """A run is not running any more."""
        self.running.pop(job.path.name, None)
        if state in FINAL:
            self.done += 1
            self._steps_ended += job.total_steps
        elif state == "failed":
            self.failed += 1

    @property
    def steps(self) -> int:
        """Environment steps done, those of the running runs included."""
        return self._steps_ended + sum(report.steps for report in self.running.values())

    @property
    def steps_per_second(self) -> float:
        """Of the runs that are running, together."""
        return sum(report.steps_per_second for report in self.running.values())

    def __str__(self) -> str:
        return (
            f"runs: {self.done}/{self.runs} done, {len(self.running)} running, {self.failed} failed  "
            f"{pace(self.steps, self.env_steps, self.steps_per_second)}"
        )


class Watch(Protocol):
    """Is told what happens to runs, and shows it."""

    def __call__(self, report: Report) -> None:
        """A run has come further."""

    def ended(self, job: Job, state: State) -> None:
        """A run has ended, one way or another."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""


class PlainWatch:
    """A line for every run that ends, and one for the whole every ``interval`` seconds."""

    def __init__(self, console: Console, tally: Tally, interval: float = 30.0) -> None:
        self.console = console
        self.tally = tally
        self.interval = interval
        self._next = time.monotonic() + interval

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, report: Report) -> None:
        """Print the whole if it is due."""
        self.tally.told(report)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.interval
            self._print(str(self.tally))

    def ended(self, job: Job, state: State) -> None:
        """Print how the run ended."""
        self.tally.ended(job, state)
        self._print(f"{job.path.name}: {state}; {self.tally.done}/{self.tally.runs} runs done")

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)


class LiveWatch:
    """Bars, redrawn in place."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self.tally = tally
        self._progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            console=console,
            refresh_per_second=4,
        )
        self._all = self._progress.add_task(str(tally), total=tally.env_steps)
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, report: Report) -> None:
        """Redraw the line of ``report``'s run, and that of the whole."""
        self.tally.told(report)
        if report.run not in self._lines:
            self._lines[report.run] = self._progress.add_task("", total=report.total_steps)
        line = self._lines[report.run]
        self._progress.update(line, completed=report.steps, description=f"{report.run}  {report}")
        self._redraw()

    def ended(self, job: Job, state: State) -> None:
        """Take the run's line away; a run that failed is named for good."""
        self.tally.ended(job, state)
        line = self._lines.pop(job.path.name, None)
        if line is not None:
            self._progress.remove_task(line)
        if state != "complete":
            self._progress.console.print(f"{job.path.name}: {state}", markup=False, highlight=False)
        self._redraw()

    def _redraw(self) -> None:
        self._progress.update(self._all, completed=self.tally.steps, description=str(self.tally))


def watcher(console: Console, tally: Tally) -> LiveWatch | PlainWatch:
    """The one that suits ``console``."""
    return LiveWatch(console, tally) if console.is_terminal else PlainWatch(console, tally)
