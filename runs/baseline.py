"""Fresh agents to hold runs against: the spec with ``reset = true``, found beside the run or trained there.

A run of the arm ``reset`` begins every task with a fresh agent and gives it the task's whole budget, so it
*is* one fresh agent per task. It is kept as a run like any other, beside those that it serves, for every
run of the same spec and seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import RunError
from .folder import RunFolder, run_folders
from .spec import RunSpec

_OF_THE_ARM = {"name", "description", "arm", "mitigations", "reset", "threads", "diagnostics", "evaluation"}
"""What may differ between a run and its baseline: the arm, and what does not change the training."""


def fresh_spec(spec: RunSpec) -> RunSpec:
    """The spec of the fresh agents: the same agent without mitigations, new at every task."""
    return spec.model_copy(update={"arm": "reset", "reset": True, "mitigations": {}})


def find_fresh(run: Path) -> Path | None:
    """A finished run of fresh agents beside ``run``, of the same spec and seed; the newest of several."""
    spec = RunFolder.open(run).read_spec()
    found = []
    for path in run_folders(run.absolute().parent):
        try:
            folder = RunFolder.open(path)
            about = folder.read_manifest()
            if about["status"] != "complete" or about["seed"] != spec.seed:
                continue
            other = folder.read_spec()
        except (RunError, KeyError):
            continue  # not ours to report: nobody named that folder
        if other.reset and not other.mitigations and experiment(other) == experiment(spec):
            found.append((str(about.get("created")), folder.path))
    return max(found)[1] if found else None


def with_baselines(runs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The fresh runs that are there for ``runs``, and the runs for which one has to be trained.

    Of the latter one stands for all that would share a baseline.
    """
    found: dict[Path, None] = {}
    missing: dict[object, Path] = {}
    for run in runs:
        spec = RunFolder.open(run).read_spec()
        if spec.reset:
            continue
        fresh = find_fresh(run)
        if fresh is None:
            missing.setdefault((run.absolute().parent, repr(experiment(spec))), run)
        elif not any(fresh.samefile(given) for given in runs):
            found[fresh] = None
    return list(found), list(missing.values())


def start_fresh(run: Path) -> Path:
    """A new run folder beside ``run`` for its fresh agents; :mod:`.execute` trains them.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    folder = RunFolder.open(run)
    boundaries = folder.read_manifest()["boundaries"]
    return RunFolder.create(run.absolute().parent, fresh_spec(folder.read_spec()), boundaries).path


def experiment(spec: RunSpec) -> object:
    """What a run and its baseline have in common."""
    return spec.model_dump(mode="json", exclude=_OF_THE_ARM)
