"""Carry out runs: one in this process, several side by side, each in a process and on a thread of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty
from typing import Literal

from .errors import RunInterrupted
from .folder import RunFolder
from .progress import Report, Reporter


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
    from .errors import RunError
    from .plan import make_plan
    from .training import train

    folder = RunFolder.open(path)
    try:
        train(make_plan(folder.read_spec(), device), folder, report, interrupted, resume=resume)
    except RunInterrupted as where:
        return Outcome(path, "interrupted", str(where))
    except (RunError, AgentError, EnvError) as error:
        return Outcome(path, "failed", str(error))
    except Exception:
        # Not foreseen: kept for whoever looks into it, and named to the person who waits.
        text = traceback.format_exc()
        try:
            kept = f"its traceback is in {folder.write_traceback(text)}"
        except OSError as error:
            kept = f"its traceback could not be written ({error.strerror}):\n{text}"
        return Outcome(path, "failed", f"an unforeseen error; {kept}")
    return Outcome(path, "complete")


def execute_side_by_side(
    paths: Sequence[Path], device: str, report: Reporter, interrupted: Callable[[], bool], jobs: int
) -> list[Outcome]:
    """Train several runs, ``jobs`` at a time, and pass on what they report.

    An interruption reaches all of them; runs that had not started stay unstarted.
    """
    # spawn: a forked torch can hang in its thread pool, and Windows and macOS have nothing else.
    context = multiprocessing.get_context("spawn")
    reports: Queue[Report] = context.Queue()
    stop = context.Event()
    outcomes: dict[Path, Outcome] = {}
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_adopt, initargs=(reports, stop)) as pool:
        waiting: dict[Future[Outcome], Path] = {
            pool.submit(_execute_in_child, path, device): path for path in paths
        }
        while waiting:
            done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            _drain(reports, report)
            if interrupted() and not stop.is_set():
                stop.set()
                for future in waiting:
                    future.cancel()
            for future in done:
                path = waiting.pop(future)
                outcomes[path] = _result(future, path)
        _drain(reports, report)
    return [outcomes[path] for path in paths]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _result(future: Future[Outcome], path: Path) -> Outcome:
    if future.cancelled():
        RunFolder.open(path).set_status("interrupted")
        return Outcome(path, "not started")
    error = future.exception()
    if error is not None:  # the process died: out of memory, killed
        RunFolder.open(path).set_status("failed", error=str(error))
        return Outcome(path, "failed", f"its process ended: {error}")
    return future.result()


def _drain(reports: Queue[Report], report: Reporter) -> None:
    while True:
        try:
            report(reports.get_nowait())
        except Empty:
            return


# In the child ------------------------------------------------------------------------------------------

_reports: Queue[Report]
_stop: Event


def _adopt(reports: Queue[Report], stop: Event) -> None:
    """Keep what the parent shares; a Ctrl-C of the terminal is the parent's to hear."""
    global _reports, _stop
    _reports, _stop = reports, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _execute_in_child(path: Path, device: str) -> Outcome:
    if _stop.is_set():
        RunFolder.open(path).set_status("interrupted")
        return Outcome(path, "not started")
    return execute(path, device, _reports.put, _stop.is_set)
