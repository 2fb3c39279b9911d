"""RunFolder: where a run keeps its files. The only module that knows their names.

::

    results/<run id>/
        run.toml         the resolved spec
        initial.safetensors  networks to begin with, if they came from elsewhere
        manifest.json    schema version, status, seed, versions, git commit, command line
        progress.csv     one row per log entry, over environment steps
        episodes.csv     one row per training episode
        evaluation.csv   one row per evaluation episode
        tb/              TensorBoard
        checkpoints/     one folder per checkpoint, named by its environment step
        snapshots/       one .npz per measured moment
        replays/         recorded evaluation episodes, one .npz per checkpoint and task
        error.txt        traceback of an error that nobody foresaw, if there was one
        .lock            locked by the process that writes here
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from .errors import DamagedFile, RunFolderError, SpecError
from .lock import is_abandoned, locked
from .manifest import what_is_wrong
from .own_mitigations import checksums
from .presets import assign, dump, validate
from .reading import read_json, read_toml, refuse_links
from .spec import RunSpec

SCHEMA_VERSION = 1
"""Of the folder as a whole; raised when a reader of an older folder would misread a newer one."""

_LARGEST_MANIFEST = 32 * 2**20
"""Bytes: the boundaries of a million tasks."""

Status = Literal["running", "complete", "interrupted", "failed"]

_PACKAGES = (
    "pliant",
    "torch",
    "stable-baselines3",
    "gymnasium",
    "minigrid",
    "mujoco",
    "box2d",
    "minatar",
    "metaworld",
    "scikit-learn",
    "kron-torch",
    "numpy",
    "tensorboard",
)


class RunFolder:
    """The files of one run. Made by :meth:`create`, found again by :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, out: Path, spec: RunSpec, boundaries: Sequence[int], name: str | None = None
    ) -> RunFolder:
        """Make a new folder under ``out``; an existing one is never touched.

        Args:
            out: where run folders are kept; made if it is not there.
            spec: the resolved spec.
            boundaries: environment steps of the run at the start of each task, and at the end of the last.
            name: of the folder, where it follows from the spec, as in a sweep; one with the time if None.

        Raises:
            RunFolderError: ``out`` cannot be written, or holds another run of that ``name``.
        """
        stamp = dt.datetime.now().strftime("%Y%m%d-%H%M%S")
        stem = f"{spec.name}-{spec.arm}-s{spec.seed}-{stamp}"
        try:
            out.mkdir(parents=True, exist_ok=True)
            path = _make_first_free(out, stem) if name is None else _make_unless_begun(out / name)
        except OSError as error:
            raise RunFolderError(
                f"no run can be written to {str(out)!r}: {error.strerror}; name another folder with --out"
            ) from None
        folder = cls(path)
        write_atomically(folder.spec_file, dump(spec))
        folder.write_manifest(
            {
                "schema_version": SCHEMA_VERSION,
                "id": path.name,
                "status": "running",
                "preset": spec.name,
                "arm": spec.arm,
                "seed": spec.seed,
                "boundaries": list(boundaries),
                "created": now(),
                "command": sys.argv,
                "python": platform.python_version(),
                "versions": installed_versions(),
                "git_commit": _git_commit(),
            }
        )
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The folder of an earlier run.

        Raises:
            RunFolderError: it is not one, was written by a newer pliant, or holds a link that could lead out
                of it.
        """
        folder = cls(path)
        refuse_links(path)
        version = folder.read_manifest().get("schema_version")
        if version != SCHEMA_VERSION:
            raise RunFolderError(
                f"{str(path)!r} has schema version {version!r}, this pliant reads {SCHEMA_VERSION}; "
                "open it with the pliant named under 'versions' in its manifest.json"
            )
        return folder

    @property
    def begun(self) -> bool:
        """Whether there is a run at this path, however far it has come."""
        return self.manifest_file.exists()

    # Where things are --------------------------------------------------------------------------------

    @property
    def manifest_file(self) -> Path:
        """What the run says of itself."""
        return self.path / "manifest.json"

    @property
    def spec_file(self) -> Path:
        """The resolved spec."""
        return self.path / "run.toml"

    @property
    def initial_file(self) -> Path:
        """The networks that the agent begins with, if they came from elsewhere."""
        return self.path / "initial.safetensors"

    @property
    def progress_file(self) -> Path:
        """One row per log entry."""
        return self.path / "progress.csv"

    @property
    def episodes_file(self) -> Path:
        """One row per training episode."""
        return self.path / "episodes.csv"

    @property
    def tensorboard(self) -> Path:
        """The folder that TensorBoard opens."""
        return self.path / "tb"

    @property
    def snapshots(self) -> Path:
        """The folder of measured moments."""
        return self.path / "snapshots"

    @property
    def evaluation_file(self) -> Path:
        """One row per evaluation episode."""
        return self.path / "evaluation.csv"

    @property
    def replays(self) -> Path:
        """The folder of recorded evaluation episodes."""
        return self.path / "replays"

    def snapshot_at(self, task: int, moment: str) -> Path:
        """What was measured at ``init`` or ``end`` of a task, if it was."""
        return self.snapshots / f"task-{task:03d}-{moment}.npz"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def new_snapshot(self, stem: str) -> Path:
        """A name in the folder of measured moments that no file has yet."""
        return _first_free_npz(self.snapshots, stem)

    def new_replays(self, after_task: int, on_task: int) -> Path:
        """A name for episodes of a checkpoint on a task that no file has yet."""
        return _first_free_npz(self.replays, f"after-{after_task:03d}-on-{on_task:03d}")

    def replay_files(self) -> dict[tuple[int, int], list[Path]]:
        """Files of recorded episodes, oldest first, by task of the checkpoint and task played."""
        found: dict[tuple[int, int], list[tuple[int, Path]]] = {}
        for path in self.replays.glob("after-*.npz"):
            match = re.fullmatch(r"after-(-?\d+)-on-(\d+)(?:-(\d+))?", path.stem)
            if match:
                after, on, number = match.groups()
                found.setdefault((int(after), int(on)), []).append((int(number or 1), path))
        return {key: [path for _, path in sorted(files)] for key, files in sorted(found.items())}

    def checkpoint(self, steps: int) -> Path:
        """The checkpoint after ``steps`` environment steps."""
        return self.checkpoints / f"{steps:012d}"

    def checkpoint_list(self) -> list[Path]:
        """All complete checkpoints, oldest first."""
        return sorted(path for path in self.checkpoints.glob("*") if path.is_dir() and path.name.isdecimal())

    def checkpoints_after(self, boundaries: Sequence[int], wanted: Sequence[int] = ()) -> list[int]:
        """The tasks of ``wanted``, or all, at whose end the agent was saved; -1 is the untrained agent.

        Args:
            boundaries: environment steps of the run at the start of each task, and at the end of the last.
            wanted: tasks, each of which must have a checkpoint; empty: all that have one.

        Raises:
            RunFolderError: there is none at a switch, or none after a task that is wanted.
        """
        names = {path.name for path in self.checkpoint_list()}
        saved = [task - 1 for task, steps in enumerate(boundaries) if self.checkpoint(steps).name in names]
        if not saved:
            raise RunFolderError(
                f"{str(self.path)!r} has no checkpoint at a switch: the first is saved when training begins; "
                "if the run is still starting, try again later, else go on with it: train-agent --resume "
                f"{self.path}"
            )
        for after in wanted:
            if after not in saved:
                raise RunFolderError(
                    f"{str(self.path)!r} has no checkpoint after task {after}; it has those after: "
                    f"{', '.join(map(str, saved))}"
                )
        return list(dict.fromkeys(wanted)) or saved

    def has_episodes(self) -> bool:
        """Whether a training episode has been written down."""
        try:
            with self.episodes_file.open("rb") as file:
                return len(file.readlines(2**10)) > 1
        except FileNotFoundError:
            return False

    def remove_checkpoint(self, steps: int) -> None:
        """Remove the checkpoint after ``steps`` environment steps; what is left half-way is no checkpoint."""
        path = self.checkpoint(steps)
        hidden = path.with_name(f".{path.name}.{os.getpid()}")
        path.rename(hidden)
        shutil.rmtree(hidden)

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed had half written; call it with the lock held."""
        for folder in (self.path, self.checkpoints, self.snapshots, self.replays):
            for path in folder.glob(".*"):
                if re.fullmatch(r"\..+\.(\d+|replaced)", path.name) and not path.is_symlink():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def locked(self) -> AbstractContextManager[None]:
        """Within the block nobody else writes here.

        Raises:
            FolderInUse: somebody does.
            RunFolderError: the folder cannot be written.
        """
        return locked(self._lock, f"the run folder {str(self.path)!r}")

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    # What is in them ---------------------------------------------------------------------------------

    def read_spec(self, settings: Sequence[str] = ()) -> RunSpec:
        """The spec that this run was started with, changed by ``settings`` as by ``--set``."""
        try:
            table = read_toml(self.spec_file)
        except FileNotFoundError:
            raise SpecError(f"{str(self.path)!r} has no {self.spec_file.name}") from None
        except DamagedFile as error:
            raise SpecError(str(error)) from None
        return validate(assign(table, settings), source=str(self.spec_file))

    def read_manifest(self) -> dict[str, Any]:
        """What the run says of itself."""
        path = self.manifest_file
        try:
            manifest = read_json(path, _LARGEST_MANIFEST)
        except FileNotFoundError:
            raise RunFolderError(f"{str(self.path)!r} is not a run folder: it has no {path.name}") from None
        if not isinstance(manifest, dict):
            raise DamagedFile(f"{str(path)!r} is damaged: it holds no table")
        if manifest.get("schema_version") == SCHEMA_VERSION and (wrong := what_is_wrong(manifest)):
            raise DamagedFile(f"{str(path)!r} is damaged: {wrong}")
        return manifest

    def status(self, manifest: Mapping[str, Any]) -> str:
        """How the run stands: as its ``manifest`` says, but for two things that it cannot know.

        Where nobody holds the lock of a run that says it is running, its process was killed (``killed``);
        where none has ever held it, it has not begun (``not started``).
        """
        status = str(manifest.get("status", "?"))
        if status != "running":
            return status
        if "started" not in manifest:
            return "not started"
        if not is_abandoned(self._lock):
            return status
        again = self.read_manifest().get("status")  # it may have ended between the two looks
        return "killed" if again == "running" else str(again)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace what the run says of itself."""
        write_atomically(self.manifest_file, json.dumps(manifest, indent=2) + "\n")

    def set_status(self, status: Status, **more: Any) -> None:
        """Record how the run stands, with the time and whatever else is to be said."""
        manifest, time = self.read_manifest(), now()
        if status == "running":
            manifest.setdefault("started", time)  # one of several seeds may have waited for a core
        self.write_manifest({**manifest, "status": status, "updated": time, **more})

    def write_traceback(self, text: str) -> Path:
        """Keep the traceback of an error that nobody foresaw."""
        path = self.path / "error.txt"
        path.write_text(text, encoding="utf-8")
        return path


def run_folders(results: Path) -> list[Path]:
    """The run folders directly under ``results``, readable or not, in order of their names."""
    return sorted(path.parent for path in results.glob("*/manifest.json"))


def copying_order(name: str) -> int:
    """Which files of a run folder come first, so that a copy that is cut off anywhere is one to go on from.

    First what is only ever added to, of which a checkpoint says how much counts; then the checkpoints, of
    which a damaged one is passed over; last the manifest, without which there is no run.

    Args:
        name: of a file, relative to its run folder.
    """
    first = PurePosixPath(name).parts[0]
    return {"manifest.json": 2, "checkpoints": 1}.get(first, 0)


def write_atomically(path: Path, text: str) -> None:
    """Write the whole of ``text`` or nothing: to a temporary name, synced, then renamed."""
    # On a shared filesystem two machines may have processes of the same number.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _first_free_npz(folder: Path, stem: str) -> Path:
    folder.mkdir(exist_ok=True)
    number, path = 1, folder / f"{stem}.npz"
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.npz"
    return path


def _make_first_free(out: Path, stem: str) -> Path:
    """Two runs of the same second meet here: mkdir is the lock, the later one gets a number."""
    number = 1
    while True:
        path = out / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _make_unless_begun(path: Path) -> Path:
    """A folder without manifest is what a process left that was killed at this very place."""
    path.mkdir(exist_ok=True)
    if RunFolder(path).begun:
        raise FileExistsError(errno.EEXIST, "there is a run of that name already", str(path))
    return path


def now() -> str:
    """The time as manifests have it."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on, and checksums of the user's own files."""
    return {**_package_versions(), **checksums()}


@cache
def _package_versions() -> dict[str, str]:
    """Looked up once: a stream of short tasks asks at every evaluation."""
    found = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _git_commit() -> str | None:
    """The commit of this source tree, marked where it has uncommitted changes; None for an installed copy."""
    if not (Path(__file__).parents[1] / ".git").exists():
        return None  # an installed copy may lie within somebody else's repository
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
