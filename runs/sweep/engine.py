"""Engines: what carries out the jobs of a sweep; here, processes of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from ..errors import RunError
from ..execute import Outcome, execute
from ..folder import RunFolder
from ..progress import Reporter
from ..workers import WorkerDied, Workers
from .jobs import FINAL, Job


class Engine(Protocol):
    """Carries out jobs, each to its end from wherever it stands, in any order."""

    def submit(self, job: Job) -> None:
        """Have ``job`` carried out when there is room."""

    def poll(self, timeout: float) -> list[Outcome]:
        """What ended by now, after waiting for at most ``timeout`` seconds."""

    def stop(self) -> list[Path]:
        """Ask all runs to stop at their next rollout; returns those that will not begin any more."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back whatever it holds."""


class ProcessEngine:
    """Processes of this machine.

    Args:
        count: runs at a time.
        device: as for ``pliant train``.
        report: gets the runs' progress.
        retries: how often a run is gone on with after its process died.
    """

    def __init__(self, count: int, device: str, report: Reporter, retries: int) -> None:
        self.device = device
        self._workers: Workers[Path, Outcome] = Workers(count, report, retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.__exit__()

    def submit(self, job: Job) -> None:
        """Have ``job`` carried out when a process is free."""
        self._workers.submit(job.path, carry_out, job, self.device)

    def poll(self, timeout: float) -> list[Outcome]:
        """What ended by now, after waiting for at most ``timeout`` seconds."""
        return [
            died(key, str(end)) if isinstance(end, WorkerDied) else end
            for key, end in self._workers.poll(timeout)
        ]

    def stop(self) -> list[Path]:
        """Ask all runs to stop at their next rollout; returns those that will not begin any more."""
        return self._workers.stop()


def carry_out(job: Job, device: str, report: Reporter, interrupted: Callable[[], bool]) -> Outcome:
    """Bring ``job`` to its end from wherever it stands; whatever happens comes back as an outcome."""
    if interrupted():
        return Outcome(job.path, "not started")
    try:
        if job.state() in FINAL:
            return Outcome(job.path, "complete")
        folder = job.open()
    except (RunError, OSError) as error:
        return Outcome(job.path, "failed", str(error))
    return execute(job.path, device, report, interrupted, resume=bool(folder.checkpoint_list()))


def died(path: Path, message: str) -> Outcome:
    """The outcome of a run whose processes were killed."""
    if RunFolder(path).begun:
        RunFolder(path).set_status("failed", error=message)
    return Outcome(path, "failed", message)
