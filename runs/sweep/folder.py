"""SweepFolder: where a sweep keeps its files. The only module that knows their names.

::

    results/<name>/
        sweep.toml       the definition as resolved: it depends on no other file
        sweep-1.toml     an earlier one, if the sweep has grown since
        sweep.json       schema version, when it was made, versions, command line
        runs/            run folders: of a plain sweep, or those on the test seeds
        tuning/          run folders of the tuning
        chosen/          one .json per arm: the setting that tuning chose, written once
        optuna/          one database per arm
        trials.csv       one row per tuning run
        chosen.csv       one row per arm
        runs.csv         one row per run in runs/
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DamagedFile, RunFolderError
from ..folder import RunFolder, installed_versions, now, run_folders, write_atomically
from ..reading import read_json
from .definition import SweepDefinition, dump_definition, load_definition

SCHEMA_VERSION = 1
"""Of the folder as a whole; raised when a reader of an older folder would misread a newer one."""

_GROWS = ("seeds", "test", "arms", "base", "description")
"""Keys in which a definition may change without leaving a run behind: see :meth:`SweepFolder.take`."""


_LARGEST_JSON = 2**20
"""Bytes."""


class SweepFolder:
    """The files of one sweep. Made by :meth:`take`, found again by :meth:`open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def take(cls, out: Path, definition: SweepDefinition) -> SweepFolder:
        """The folder of ``definition`` under ``out``: made, or found and, where the sweep has grown, updated.

        A sweep may grow by seeds, test seeds and arms, and be judged by another metric as long as nothing has
        been chosen: no run is left behind then. Processes that take the same folder at the same time write
        the same files.

        Raises:
            RunFolderError: ``out`` cannot be written, or holds another sweep or something else of that name.
        """
        folder = cls(out / definition.name)
        if not folder.is_one:
            folder._make(definition)
        elif folder.check(definition) != definition:
            folder._keep_definition()
            write_atomically(folder.definition_file, dump_definition(definition))
        return folder

    def check(self, definition: SweepDefinition) -> SweepDefinition:
        """The definition of the sweep that is here, which ``definition`` may be put in place of.

        Raises:
            RunFolderError: it may not: this is another sweep, or was written by a newer pliant.
        """
        before = self.open(self.path).read_definition()
        if reason := _left_behind(before, definition, chosen=self.has_choices):
            raise RunFolderError(
                f"{str(self.path)!r} holds another sweep: {reason}. A sweep grows by seeds and arms; for "
                'anything else give it another name = "..." in its file. --resume goes on with it as it was'
            )
        return before

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """The folder of an earlier sweep.

        Raises:
            RunFolderError: it is not one, or was written by a newer pliant.
        """
        folder = cls(path)
        if not folder.is_one:
            raise RunFolderError(f"{str(path)!r} is not a sweep's folder: it has no {folder._manifest.name}")
        version = folder.read_manifest().get("schema_version")
        if version != SCHEMA_VERSION:
            raise RunFolderError(
                f"{str(path)!r} has schema version {version!r} of sweeps, this pliant reads {SCHEMA_VERSION}"
            )
        return folder

    @classmethod
    def holds(cls, run: Path) -> bool:
        """Whether the run folder ``run``, which may not be there yet, is within a sweep that can be seen."""
        return cls(run.parent.parent).is_one

    # Where things are --------------------------------------------------------------------------------

    @property
    def is_one(self) -> bool:
        """Whether there is a sweep at this path."""
        return self._manifest.is_file()

    @property
    def definition_file(self) -> Path:
        """The definition as resolved."""
        return self.path / "sweep.toml"

    @property
    def runs(self) -> Path:
        """The folder of the runs that the sweep is for."""
        return self.path / "runs"

    @property
    def tuning(self) -> Path:
        """The folder of the runs that settings are judged by."""
        return self.path / "tuning"

    @property
    def trials_file(self) -> Path:
        """One row per tuning run."""
        return self.path / "trials.csv"

    @property
    def chosen_file(self) -> Path:
        """One row per arm."""
        return self.path / "chosen.csv"

    @property
    def runs_file(self) -> Path:
        """One row per run in runs/."""
        return self.path / "runs.csv"

    def database(self, arm: str) -> Path:
        """Where Optuna keeps the trials of ``arm``, unless it is told another place."""
        return self.path / "optuna" / f"{arm}.db"

    @property
    def _manifest(self) -> Path:
        return self.path / "sweep.json"

    def _choice(self, arm: str) -> Path:
        return self.path / "chosen" / f"{arm}.json"

    # What is in them ---------------------------------------------------------------------------------

    def read_definition(self) -> SweepDefinition:
        """What the sweep is made of."""
        return load_definition(self.definition_file)

    def read_manifest(self) -> dict[str, Any]:
        """What the sweep says of itself."""
        return _read_json(self._manifest)

    def read_choice(self, arm: str) -> dict[str, Any] | None:
        """What tuning chose for ``arm``; None if it has not yet."""
        path = self._choice(arm)
        return _read_json(path) if path.exists() else None

    @property
    def has_choices(self) -> bool:
        """Whether tuning has chosen a setting for any arm."""
        return any((self.path / "chosen").glob("*.json"))

    def write_choice(self, arm: str, choice: dict[str, Any]) -> None:
        """Record what tuning chose, once: test runs that were made with it must not lose their ground."""
        path = self._choice(arm)
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            write_atomically(path, json.dumps(choice, indent=2) + "\n")

    def _make(self, definition: SweepDefinition) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Another process may be making the same folder at this moment: its files are no strangers.
            if (
                any(not path.name.startswith((".", "sweep.")) for path in self.path.iterdir())
                and not self.is_one
            ):
                raise RunFolderError(
                    f"{str(self.path)!r} is there already and is no sweep's folder; give the sweep another "
                    'name = "..." in its file, or another --out'
                )
            write_atomically(self.definition_file, dump_definition(definition))
            manifest = {
                "schema_version": SCHEMA_VERSION,
                "id": self.path.name,
                "created": now(),
                "command": sys.argv,
                "versions": installed_versions(),
            }
            write_atomically(self._manifest, json.dumps(manifest, indent=2) + "\n")
        except OSError as error:
            raise RunFolderError(
                f"no sweep can be written to {str(self.path)!r}: {error.strerror}; name another with --out"
            ) from None

    def _keep_definition(self) -> None:
        """Put the definition aside before another takes its place."""
        number = 1
        while (kept := self.path / f"sweep-{number}.toml").exists():
            number += 1
        write_atomically(kept, self.definition_file.read_text(encoding="utf-8"))


def expand(paths: Sequence[Path]) -> list[Path]:
    """Run folders as they are; in place of a sweep, or of a folder of runs, the runs in it.

    Of a tuned sweep these are the runs on the test seeds: those of the tuning are no evidence.

    Raises:
        RunFolderError: a sweep has no runs yet.
    """
    found: list[Path] = []
    for path in paths:
        sweep = SweepFolder(path)
        if sweep.is_one:
            found += run_folders(sweep.runs) or _none_yet(sweep)
        elif RunFolder(path).begun:
            found.append(path)
        else:
            found += run_folders(path) or [path]
    return list(dict.fromkeys(found))


def _none_yet(sweep: SweepFolder) -> list[Path]:
    tuned = f"; those of its tuning are in {str(sweep.tuning)!r}" if run_folders(sweep.tuning) else ""
    raise RunFolderError(f"the sweep {str(sweep.path)!r} has no runs to show yet{tuned}")


def sweep_folders(results: Path) -> list[SweepFolder]:
    """The sweeps directly under ``results``, in order of their names."""
    if not results.is_dir():
        return []
    return [folder for path in sorted(results.iterdir()) if (folder := SweepFolder(path)).is_one]


def _left_behind(before: SweepDefinition, after: SweepDefinition, *, chosen: bool) -> str:
    """Why ``after`` is not ``before`` grown; empty if it is."""
    ours, theirs = before.model_dump(exclude=set(_GROWS)), after.model_dump(exclude=set(_GROWS))
    if before.tune and after.tune and not chosen:
        ours["tune"]["metric"] = theirs["tune"]["metric"]
    for key in ours:
        if ours[key] != theirs[key]:
            return f"{key} differs"
    for name, arm in before.arms.items():
        if after.arms.get(name) != arm:
            return f"the arm {name!r} {'differs' if name in after.arms else 'is missing'}"
    for where, first, second in (
        ("seeds", before.seeds or (), after.seeds or ()),
        ("test.seeds", before.test.seeds if before.test else (), after.test.seeds if after.test else ()),
    ):
        missing = {*first} - {*second}
        if missing:
            return f"{where} lacks {', '.join(map(str, sorted(missing)[:10]))}"
    old, new = (
        {k: v for k, v in d.base.items() if k not in ("arms", "description")} for d in (before, after)
    )
    kept = {name: arm for name, arm in after.base["arms"].items() if name in before.base["arms"]}
    return "its base differs" if old != new or before.base["arms"] != kept else ""


def _read_json(path: Path) -> dict[str, Any]:
    table = read_json(path, _LARGEST_JSON)
    if not isinstance(table, dict):
        raise DamagedFile(f"{str(path)!r} is damaged: it holds no table")
    return table
