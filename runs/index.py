"""The index of a folder of runs: a line per run, from the files that are quick to read."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from .errors import RunError, RunFolderError
from .folder import RunFolder, run_folders
from .sweep.folder import SweepFolder, sweep_folders
from .words import age

LAST_EPISODES = 20
"""Training episodes behind the last return."""

_TAIL_BYTES = 4096
"""Enough for the rows of that many episodes."""


@dataclass(frozen=True)
class Entry:
    """One run in the index, or one sweep.

    Attributes:
        id: name of the folder.
        spec: name of the preset or file.
        arm: of the spec.
        seed: of the run.
        status: running, complete, interrupted or failed, not started or killed (:meth:`RunFolder.status`);
            ``unreadable`` with the reason in ``note``.
        last_return: mean of the last LAST_EPISODES training episodes, None if there is none.
        changed: when the run last changed its status.
        note: why it could not be read.
    """

    id: str
    spec: str = ""
    arm: str = ""
    seed: str = ""
    status: str = "unreadable"
    last_return: float | None = None
    changed: datetime | None = None
    note: str = ""

    @property
    def age(self) -> str:
        """``3 min``, ``5 h``, ``12 d``: how long ago it changed."""
        if self.changed is None:
            return "–"
        return age((datetime.now(UTC) - self.changed).total_seconds())


def entries(results: Path) -> Sequence[Entry]:
    """Every run under ``results``, and every sweep as one entry, or every run of a sweep; the newest first.

    Raises:
        RunFolderError: there is no such folder.
    """
    if not results.is_dir():
        raise RunFolderError(
            f"there is no folder {str(results)!r}; name the folder that runs were written to"
        )
    sweep = SweepFolder(results)
    if sweep.is_one:
        found = [_entry(path) for folder in (sweep.runs, sweep.tuning) for path in run_folders(folder)]
    else:
        found = [_entry(path) for path in run_folders(results)]
        found += [_sweep_entry(folder) for folder in sweep_folders(results)]
    return sorted(found, key=lambda e: (e.changed or datetime.min.replace(tzinfo=UTC), e.id), reverse=True)


def _sweep_entry(sweep: SweepFolder) -> Entry:
    """One line for all runs of a sweep, those of its tuning included."""
    runs = [_entry(path) for folder in (sweep.runs, sweep.tuning) for path in run_folders(folder)]
    states = Counter(run.status for run in runs)
    return Entry(
        id=sweep.path.name,
        spec=runs[0].spec if runs else "?",
        arm="sweep",
        seed="-",
        status=", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no runs yet",
        changed=max((run.changed for run in runs if run.changed), default=None),
    )


def _entry(path: Path) -> Entry:
    try:
        folder = RunFolder.open(path)
        about = folder.read_manifest()
    except RunError as error:
        return Entry(path.name, note=str(error))
    try:
        changed = datetime.fromisoformat(about.get("updated") or about["created"])
        changed = changed if changed.tzinfo else changed.replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError):
        changed = None
    return Entry(
        id=path.name,
        spec=str(about.get("preset", "?")),
        arm=str(about.get("arm", "?")),
        seed=str(about.get("seed", "?")),
        status=folder.status(about),
        last_return=_last_return(folder),
        changed=changed,
    )


def _last_return(folder: RunFolder) -> float | None:
    """From the end of the file alone: a long run has millions of episodes."""
    try:
        with folder.episodes_file.open("rb") as file:
            header = file.readline(_TAIL_BYTES).decode()
            start = file.tell()
            file.seek(max(start, file.seek(0, 2) - _TAIL_BYTES))
            if file.tell() > start:
                file.readline()  # the rest of a row
            rows = list(csv.DictReader(io.StringIO(header + file.read().decode(errors="replace"))))
        return float(np.mean([float(row["return"]) for row in rows[-LAST_EPISODES:]])) if rows else None
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return None
