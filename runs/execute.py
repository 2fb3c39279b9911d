"""Carry out runs: one in this process, several side by side, each in a process and on a thread of its own."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import RunInterrupted
from .folder import RunFolder
from .progress import Reporter
from .workers import WorkerDied, Workers


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    path: Path
    status: Literal["complete", "interrupted", "failed", "not started"]
    message: str = ""
    """Why it failed, or from where an interrupted run goes on."""


def execute(
    path: Path, device: str, report: Reporter, interrupted: Callable[[], bool], *, resume: bool = False
) -> Outcome:
    """Train the run whose folder is ``path``; whatever happens comes back as an outcome."""
    from ..agents import AgentError  # torch is imported here and not before
    from ..envs import EnvError
    from .errors import EnvironmentFault, RunError
    from .plan import make_plan
    from .training import train

    folder = RunFolder.open(path)
    try:
        train(make_plan(folder.read_spec(), device), folder, report, interrupted, resume=resume)
    except RunInterrupted as where:
        return Outcome(path, "interrupted", str(where))
    except EnvironmentFault as error:
        with suppress(OSError):  # whoever mends the environment wants to see where it failed
            folder.write_traceback(traceback.format_exc())
        return Outcome(path, "failed", str(error))
    except (RunError, AgentError, EnvError) as error:
        return Outcome(path, "failed", str(error))
    except Exception as error:
        # Not foreseen: kept for whoever looks into it, and named to the person who waits.
        text = traceback.format_exc()
        try:
            kept = f"its traceback is in {folder.write_traceback(text)}"
        except OSError as full:
            kept = f"its traceback could not be written ({full.strerror}):\n{text}"
        named = f"{type(error).__name__}: {error}".strip()
        return Outcome(path, "failed", f"an unforeseen error, {named}; {kept}")
    return Outcome(path, "complete")


def execute_side_by_side(
    paths: Sequence[Path], device: str, report: Reporter, interrupted: Callable[[], bool], jobs: int
) -> list[Outcome]:
    """Train several runs, ``jobs`` at a time, and pass on what they report.

    An interruption reaches all of them; runs that had not started stay unstarted.
    """
    outcomes: dict[Path, Outcome] = {}
    with Workers[Path, Outcome](jobs, report) as workers:
        for path in paths:
            workers.submit(path, _execute_unless_stopped, path, device)
        stopped = False
        while len(outcomes) < len(paths):
            for path, end in workers.poll(0.2):
                outcomes[path] = _died(path, str(end)) if isinstance(end, WorkerDied) else end
            if interrupted() and not stopped:
                stopped = True
                outcomes |= {path: _not_started(path) for path in workers.stop()}
    return [outcomes[path] for path in paths]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _execute_unless_stopped(
    path: Path, device: str, report: Reporter, interrupted: Callable[[], bool]
) -> Outcome:
    return _not_started(path) if interrupted() else execute(path, device, report, interrupted)


def _not_started(path: Path) -> Outcome:
    RunFolder.open(path).set_status("interrupted")
    return Outcome(path, "not started")


def _died(path: Path, message: str) -> Outcome:
    RunFolder.open(path).set_status("failed", error=message)
    return Outcome(path, "failed", message)
