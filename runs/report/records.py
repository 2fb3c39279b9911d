"""What a run left behind, read from its folder: whatever can be read, and what could not, by name.

Nothing here needs torch: snapshots are read for their numbers and for the nodes of their spectra.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...diagnostics.files import read_arrays
from ...envs import EnvError, Task
from ..errors import DamagedFile, RunError
from ..folder import RunFolder
from ..manifest import wall_seconds
from ..reading import read_rows
from ..spec import RunSpec

Array = NDArray[np.float64]

SNAPSHOT_SCHEMA = 1
"""The newest format of snapshots that is read here; ``diagnostics.snapshot.SCHEMA``, without its torch."""

LARGEST_SHOWN = 256 * 2**20
"""Bytes of a snapshot's record and nodes; a spectrum has a few thousand nodes."""

MOMENTS = ("init", "end")
POLICIES = ("deterministic", "stochastic")
VIDEOS = {".gif": "image/gif", ".mp4": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True)
class Episodes:
    """Training episodes, in the order in which they ended; all arrays ``[E]``."""

    env_steps: Array
    task: Array
    returns: Array

    @staticmethod
    def none() -> Episodes:
        """No episode."""
        return Episodes(np.empty(0), np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Evaluation:
    """Evaluation episodes; all arrays ``[E]``."""

    after_task: Array
    on_task: Array
    returns: Array
    policy: NDArray[np.str_]

    def matrix(self, tasks: int, policy: str) -> Array:
        """Mean returns ``[N + 1, N]``, row 0 untrained, NaN where nothing was played."""
        chosen = (self.policy == policy) & (self.after_task < tasks) & (self.on_task < tasks)
        where = (self.after_task[chosen].astype(int) + 1, self.on_task[chosen].astype(int))
        sums, counts = np.zeros((tasks + 1, tasks)), np.zeros((tasks + 1, tasks))
        np.add.at(sums, where, self.returns[chosen])
        np.add.at(counts, where, 1.0)
        matrix: Array = np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)
        return matrix


@dataclass(frozen=True)
class Moment:
    """A snapshot: its numbers by tag, and the quadrature of its spectra by part."""

    scalars: Mapping[str, float]
    spectra: Mapping[str, tuple[Array, Array, int]]
    """Nodes, their weights (summing to 1), and the number of parameters."""
    settings: Mapping[str, Any]
    seconds: float
    failures: Mapping[str, str]


@dataclass(frozen=True)
class RunRecord:
    """One run, as far as it went and as far as it can be read."""

    folder: RunFolder
    manifest: Mapping[str, Any]
    spec: RunSpec | None
    tasks: tuple[Task, ...]
    """Empty if the spec cannot be read."""
    episodes: Episodes
    evaluation: Evaluation | None
    moments: Mapping[tuple[int, str], Moment]
    problems: list[str] = field(default_factory=list)
    """What could not be read, each a sentence that names the file."""

    @property
    def id(self) -> str:
        """The name of the run folder."""
        return self.folder.path.name

    @property
    def arm(self) -> str:
        """The arm of its preset."""
        return str(self.manifest.get("arm", "?"))

    @property
    def seed(self) -> int:
        """The seed of the run."""
        seed = self.manifest.get("seed")
        return seed if isinstance(seed, int) else -1

    @cached_property
    def status(self) -> str:
        """Running, complete, interrupted or failed, not started or killed; see :meth:`RunFolder.status`."""
        return self.folder.status(self.manifest)

    @property
    def reset(self) -> bool:
        """Whether each task began with a fresh agent."""
        return self.spec.reset if self.spec else self.arm == "reset"

    @cached_property
    def boundaries(self) -> list[int]:
        """Environment steps at the start of each task, and at the end of the last."""
        return [int(step) for step in self.manifest["boundaries"]]

    @property
    def task_count(self) -> int:
        """Number of tasks that were planned."""
        return len(self.boundaries) - 1

    @cached_property
    def env_steps(self) -> int:
        """How far the run has come, as far as its files tell."""
        if self.status == "complete":
            return self.boundaries[-1]
        checkpoints = [int(path.name) for path in self.folder.checkpoint_list()]
        return int(max([0, *checkpoints, *self.episodes.env_steps[-1:]]))

    @property
    def finished(self) -> int:
        """Number of tasks that were trained to their end."""
        return sum(end <= self.env_steps for end in self.boundaries[1:])

    @property
    def wall_seconds(self) -> float | None:
        """From its start to the last change of status; a pause before a resumption counts, a queue not."""
        return wall_seconds(self.manifest)

    @property
    def snapshot_seconds(self) -> float:
        """Wall time of all snapshots at switches."""
        return sum(moment.seconds for moment in self.moments.values())

    @cached_property
    def videos(self) -> list[Path]:
        """Pictures that move, in order of their names."""
        folder = self.folder.replays
        found = folder.rglob("*") if folder.is_dir() else ()
        return sorted(path for path in found if path.suffix.lower() in VIDEOS)


def read_run(path: Path, *, spectra: bool = True) -> RunRecord:
    """Everything that can be read of the run at ``path``.

    Args:
        path: its folder.
        spectra: read the snapshots, too; a table of returns needs none.

    Raises:
        DamagedFile: the manifest cannot be read; without it nothing else can be understood.
        RunFolderError: ``path`` is no run folder, or one of another schema version.
    """
    folder = RunFolder.open(path)
    manifest = folder.read_manifest()
    problems: list[str] = []
    spec, tasks = _read_spec(folder, problems)
    moments = {
        (task, moment): found
        for task in range(len(manifest["boundaries"]) - 1)
        for moment in MOMENTS
        if spectra and (found := _read_snapshot(folder.snapshot_at(task, moment), problems))
    }
    return RunRecord(
        folder=folder,
        manifest=manifest,
        spec=spec,
        tasks=tasks,
        episodes=_read_episodes(folder.episodes_file, problems),
        evaluation=_read_evaluation(folder.evaluation_file, problems),
        moments=moments,
        problems=problems,
    )


def _read_spec(folder: RunFolder, problems: list[str]) -> tuple[RunSpec | None, tuple[Task, ...]]:
    try:
        spec = folder.read_spec()
        return spec, tuple(spec.tasks.draw(spec.seed))
    except (RunError, EnvError) as error:
        problems.append(str(error))
        return None, ()


def _read_episodes(path: Path, problems: list[str]) -> Episodes:
    def parse(row: Mapping[str, str]) -> tuple[float, float, float]:
        return _count(row["env_steps"]), _count(row["task"]), _finite(row["return"])

    rows = _read_rows(path, ("env_steps", "task", "return"), problems, parse)
    if not rows:
        return Episodes.none()
    steps, task, returns = np.array(rows, dtype=np.float64).T
    return Episodes(steps, task, returns)


def _read_evaluation(path: Path, problems: list[str]) -> Evaluation | None:
    if not path.exists():
        return None

    def parse(row: Mapping[str, str]) -> tuple[float, float, float, str]:
        if row["policy"] not in POLICIES:
            raise ValueError(row["policy"])
        return _count(row["after_task"], -1), _count(row["on_task"]), _finite(row["return"]), row["policy"]

    rows = _read_rows(path, ("after_task", "on_task", "return", "policy"), problems, parse)
    if not rows:
        return None
    after, on, returns, policy = zip(*rows, strict=True)
    return Evaluation(
        np.array(after, dtype=np.float64),
        np.array(on, dtype=np.float64),
        np.array(returns, dtype=np.float64),
        np.array(policy),
    )


def _count(text: str, least: int = 0) -> float:
    """A whole number that floats can count up to, as a float."""
    number = int(text)
    if not least <= number <= 2**53:
        raise ValueError(text)
    return float(number)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _read_rows(
    path: Path, columns: Sequence[str], problems: list[str], parse: Callable[[Mapping[str, str]], Any]
) -> list[Any]:
    """The rows that can be understood; the number of the others, and the line of the first, is a problem."""
    rows, bad = [], []
    try:
        for line, row in read_rows(path, columns):
            try:
                rows.append(parse(row))
            except (KeyError, ValueError):
                bad.append(line)
    except FileNotFoundError:
        problems.append(f"{str(path)!r} is missing")
    except DamagedFile as error:
        problems.append(str(error))
    if bad:
        problems.append(
            f"{str(path)!r} is damaged: {len(bad)} of {len(bad) + len(rows)} rows cannot be read, the first "
            f"on line {bad[0]}; they are left out"
        )
    return rows


def _read_snapshot(path: Path, problems: list[str]) -> Moment | None:
    try:
        arrays = read_arrays(path, "snapshot", _is_shown, LARGEST_SHOWN)
        record = json.loads(str(arrays["snapshot"]))
        if record["schema"] > SNAPSHOT_SCHEMA:
            problems.append(
                f"{str(path)!r} has format {record['schema']}, this pliant reads up to "
                f"{SNAPSHOT_SCHEMA}; it is left out"
            )
            return None
        spectra = {}
        for part in record["parts"]:
            nodes, weights = (arrays[f"spectrum/{part}/{name}"] for name in ("nodes", "weights"))
            about = json.loads(str(arrays[f"spectrum/{part}/spectrum"]))
            size = sum(int(piece["size"]) for piece in about["pieces"])
            if nodes.shape != weights.shape or not (np.isfinite(nodes).all() and np.isfinite(weights).all()):
                raise ValueError("nodes and weights do not fit together")
            spectra[str(part)] = (nodes.ravel().astype(float), weights.ravel() / len(weights), size)
        return Moment(
            scalars={tag: float(value) for tag, value in record["scalars"].items()},
            spectra=spectra,
            settings=dict(record["settings"]),
            seconds=float(record["seconds"].get("total", 0.0)),
            failures={str(name): str(reason) for name, reason in record["failures"].items()},
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged file makes of it
        problems.append(f"{str(path)!r} is damaged ({type(error).__name__}); it is left out")
        return None


def _is_shown(name: str) -> bool:
    """Whether an array of a snapshot is needed here: its record, and what spectra are drawn from."""
    return name == "snapshot" or (
        name.startswith("spectrum/") and name.rsplit("/", 1)[-1] in {"nodes", "weights", "spectrum"}
    )
