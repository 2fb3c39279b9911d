"""The tables of a sweep: every trial, the chosen settings, every run; made from the folders."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..folder import write_atomically
from .jobs import Job
from .objective import objective, values
from .protocol import Sweep

SHOWN = ("return at the end of a task", "average performance")
"""Metrics of a run in runs.csv."""

Row = dict[str, Any]


def write_tables(sweep: Sweep) -> None:
    """Write trials.csv, chosen.csv and runs.csv as far as they can be, each whole or not at all."""
    folder, definition = sweep.folder, sweep.definition
    if definition.tune is not None:
        _write(folder.trials_file, trial_rows(sweep))
        _write(folder.chosen_file, chosen_rows(sweep))
    _write(folder.runs_file, run_rows(sweep))


def trial_rows(sweep: Sweep) -> list[Row]:
    """A row per tuning run: arm, trial, seed, state, score, setting."""
    tune = sweep.definition.tune
    assert tune is not None
    return [
        {
            "arm": arm,
            "trial": trial.number,
            "seed": job.spec.seed,
            "run": job.path.name,
            "state": "pruned" if trial.pruned and job.state() == "not started" else job.state(),
            **_scores(job, [tune.metric]),
            **_cells(trial.setting),
        }
        for arm in sweep.definition.arms
        for trial in sweep.trials(arm)
        for job in trial.jobs
    ]


def chosen_rows(sweep: Sweep) -> list[Row]:
    """A row per arm whose setting is chosen: what it was chosen from, and the setting."""
    choices = [sweep.folder.read_choice(arm) for arm in sweep.definition.arms]
    return [
        {key: value for key, value in choice.items() if key not in ("setting", "tuning_seeds", "made")}
        | _cells(choice.get("setting", {}))
        for choice in choices
        if choice is not None
    ]


def run_rows(sweep: Sweep) -> list[Row]:
    """A row per run that counts: arm, seed, state, what it came to, setting."""
    jobs = sweep.known_jobs()
    keys = {key for arm in sweep.definition.arms for key in sweep.definition.space_of(arm)}
    rows = []
    for job in jobs:
        if job.path.parent != sweep.folder.runs:
            continue
        table = job.spec.model_dump(mode="json")
        rows.append(
            {
                "arm": job.spec.arm,
                "seed": job.spec.seed,
                "run": job.path.name,
                "state": job.state(),
                **_scores(job, SHOWN),
                **_cells({key: _look_up(table, key) for key in sorted(keys)}),
            }
        )
    return rows


def _look_up(table: Any, key: str) -> Any:
    for name in key.split("."):
        if isinstance(table, Mapping):
            table = table.get(name)
        elif isinstance(table, list) and name.isdecimal() and int(name) < len(table):
            table = table[int(name)]
        else:
            return None
    return table


def _scores(job: Job, names: Sequence[str]) -> Row:
    """Empty where there is none, or none yet; what a choice needs is looked at by ``protocol.choose``."""
    found: list[float | None] = [None] * len(names)
    if job.state() == "complete":
        with contextlib.suppress(RunError):
            found = values(job.path, [objective(name) for name in names])
    return dict(zip(names, found, strict=True))


def _cells(setting: Mapping[str, Any]) -> Row:
    return {
        key: value if isinstance(value, (str, int, float)) or value is None else json.dumps(value)
        for key, value in setting.items()
    }


def _write(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
