"""A job: one run of a sweep, its spec, and the folder that follows from the spec."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..errors import RunError, RunFolderError, SpecError
from ..folder import RunFolder
from ..own_mitigations import changed
from ..presets import build_spec
from ..spec import RunSpec
from .definition import SweepDefinition
from .space import Setting

State = Literal["not started", "running", "interrupted", "failed", "diverged", "complete"]
"""How a job stands. ``diverged``: its loss became infinite, which repeats itself, so it is not run again."""

FINAL = ("complete", "diverged")


def identity(spec: RunSpec) -> str:
    """12 hexadecimal digits that say which run this is, whatever it is called.

    SHA-256 of the spec without its description and without what equals its default, so that a new setting
    with a default that changes nothing leaves the identity of older runs as it is.
    """
    table = spec.model_dump(mode="json", exclude={"description"}, exclude_defaults=True)
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        spec: what is run.
        path: its run folder, which may not be there yet.
    """

    spec: RunSpec
    path: Path

    @cached_property
    def total_steps(self) -> int:
        """Environment steps of the run."""
        return self.spec.total_steps

    def state(self) -> State:
        """How it stands, from its folder.

        Raises:
            RunFolderError: the folder is there, but holds something else.
        """
        folder = self.folder()
        if folder is None:
            return "not started"
        about = folder.read_manifest()
        if about.get("status") == "failed" and about.get("diverged"):
            return "diverged"
        status: State = about.get("status", "not started")
        return status

    def folder(self) -> RunFolder | None:
        """Its folder, if it has been begun.

        Raises:
            RunFolderError: the folder cannot be read, is of another spec, or was made with other mitigations
                of the user's own.
        """
        folder = RunFolder(self.path)
        if not folder.begun:
            return None
        if identity(folder.read_spec()) != identity(self.spec):
            raise RunFolderError(
                f"{str(self.path)!r} is the run of another spec than this sweep's; move it away, or give the "
                "sweep another name"
            )
        if (name := changed(folder.read_manifest().get("inputs", {}).get("mitigations", {}))) is not None:
            raise RunFolderError(
                f"{str(self.path)!r} was made with another {name} than there is now; put that one back, or "
                "give the sweep another name"
            )
        return folder

    def open(self) -> RunFolder:
        """Its folder, made if it is not there."""
        return self.folder() or RunFolder.create(
            self.path.parent, self.spec, self.spec.boundaries, name=self.path.name
        )


def make_job(
    sweep: SweepDefinition, arm: str, setting: Mapping[str, Any], seed: int, into: Path, *, tuning: bool
) -> Job:
    """The run of ``arm`` with ``setting`` and ``seed``, in the folder ``into``."""
    own = sweep.arms[arm]
    for_tuning = sweep.tune.set if tuning and sweep.tune else {}
    spec = build_spec(
        sweep.base,
        arm=own.arm or arm,
        changes={**sweep.set, **for_tuning, **own.set, **setting, "arm": arm},
        seed=seed,
        source=f"{arm} of {sweep.name}",
    )
    try:
        spec.boundaries  # noqa: B018 - draws the tasks, which shows whether they can be drawn
    except RunError:
        raise
    except ValueError as error:
        raise SpecError(f"{arm} of {sweep.name}: {error}") from None
    parts = [arm, *([told] if (told := _tell(setting)) else []), f"s{seed}", identity(spec)]
    return Job(spec, into / "-".join(parts))


def _tell(setting: Setting | Mapping[str, Any], limit: int = 80) -> str:
    """The setting as part of a folder's name: ``learning_rate=0.001-strength=1e-05``."""
    words = [f"{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in setting.items()]
    return re.sub(r"[^A-Za-z0-9.=+-]+", "_", "-".join(words))[:limit].strip("_-")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
