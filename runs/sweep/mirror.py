"""Mirror: run folders kept at a URL on the way, for machines that share no filesystem.

A run works in a folder of its own machine, which is copied to the URL whenever there is a new checkpoint, and
once more at its end; another machine that takes the run up begins by copying it back.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import RunError
from ..execute import Outcome
from ..folder import RunFolder, copying_order
from ..progress import Report, Reporter
from .engine import carry_out
from .jobs import Job

_AGAIN_AFTER = 30.0
"""Seconds after a copy that failed."""


class MirrorError(RunError):
    """A URL that cannot be used."""


@dataclass
class Mirror:
    """Run folders at ``url``, each under its name and that of the folder it is in (``runs/``, ``tuning/``).

    Args:
        url: any that fsspec knows: ``s3://bucket/sweep``, ``gs://``, ``sftp://``, ...; its keys and passwords
            come from where its package looks for them.
    """

    url: str
    _copied: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Size and time of what is there already, by name of run and file."""

    def check(self) -> None:
        """See that the URL can be written to.

        Raises:
            MirrorError: it cannot; the text says why.
        """
        try:
            system, root = self._at("")
            system.makedirs(root, exist_ok=True)
            system.pipe_file(f"{root}/.pliant", b"pliant keeps the folders of runs here\n")
        except Exception as error:  # whatever the package behind the URL raises
            raise MirrorError(f"{self.url!r} cannot be written to: {error}") from None

    def push(self, folder: Path) -> None:
        """Copy what has changed in the run folder ``folder`` to the URL."""
        system, root = self._at(_name(folder))
        here = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if _counts(path)}
        for name in sorted(here, key=_order):
            status = here[name].stat()
            stamp = (status.st_size, status.st_mtime_ns)
            key = f"{_name(folder)}/{name}"
            if self._copied.get(key) != stamp:
                system.makedirs(f"{root}/{PurePosixPath(name).parent}", exist_ok=True)
                system.put_file(str(here[name]), f"{root}/{name}")
                self._copied[key] = stamp
        for name in self._there(system, root):
            if name not in here:
                system.rm_file(f"{root}/{name}")
                self._copied.pop(f"{_name(folder)}/{name}", None)

    def fetch(self, folder: Path) -> None:
        """Copy the run folder of that name from the URL, over whatever is here of it; the manifest last.

        Raises:
            FileNotFoundError: there is none.
            MirrorError: it holds a name that leads out of it.
        """
        system, root = self._at(_name(folder))
        there = self._there(system, root)
        if RunFolder(folder).manifest_file.name not in there:
            raise FileNotFoundError(root)
        for name in sorted(there, key=_order):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.part")
            system.get_file(f"{root}/{name}", str(partial))
            partial.replace(path)
            status = path.stat()
            self._copied[f"{_name(folder)}/{name}"] = (status.st_size, status.st_mtime_ns)
        for path in [path for path in folder.rglob("*") if _counts(path)]:
            if path.relative_to(folder).as_posix() not in there:
                path.unlink()
                with suppress(OSError):  # an empty folder would be a checkpoint without files
                    path.parent.rmdir()

    def _at(self, name: str) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        system, root = url_to_fs(self.url)
        return system, f"{root.rstrip('/')}/{name}".rstrip("/")

    @staticmethod
    def _there(system: Any, root: str) -> list[str]:
        """Names of all files below ``root``, relative to it."""
        system.invalidate_cache()
        names = [str(PurePosixPath(found).relative_to(root)) for found in system.find(root)]
        for name in names:
            if ".." in PurePosixPath(name).parts:
                raise MirrorError(f"{root!r} holds {name!r}, which leads out of it")
        return names


def carry_out_mirrored(
    job: Job, mirror: Mirror, device: str, report: Reporter, interrupted: Callable[[], bool]
) -> Outcome:
    """As :func:`.engine.carry_out`, in a temporary folder of this machine that is mirrored."""
    with tempfile.TemporaryDirectory(prefix="pliant-") as scratch:
        here = Job(job.spec, Path(scratch, job.path.parent.name, job.path.name))
        try:
            mirror.fetch(here.path)
        except FileNotFoundError:
            pass  # nobody has begun it
        except Exception as error:  # whatever the package behind the URL raises
            return Outcome(job.path, "failed", f"{mirror.url!r} cannot be read: {error}")
        push = _PushWhenSaved(mirror, here.path, report)
        outcome = carry_out(here, device, push, interrupted)
        try:
            if RunFolder(here.path).begun:
                mirror.push(here.path)
        except Exception as error:
            return Outcome(job.path, "failed", f"its folder could not be copied to {mirror.url!r}: {error}")
        return outcome


class _PushWhenSaved:
    """A reporter that copies the run when there is a new checkpoint, between two rollouts.

    A network that is away for a while holds nobody up: the copy is tried again, and must come off at the end.
    """

    def __init__(self, mirror: Mirror, folder: Path, report: Reporter) -> None:
        self.mirror = mirror
        self.folder = folder
        self.report = report
        self._copied = _newest(folder)
        self._next = 0.0

    def __call__(self, report: Report) -> None:
        self.report(report)
        newest = _newest(self.folder)
        if newest == self._copied or time.monotonic() < self._next:
            return
        try:
            self.mirror.push(self.folder)
            self._copied = newest
        except Exception:
            self._next = time.monotonic() + _AGAIN_AFTER


def _newest(folder: Path) -> str:
    return max((path.name for path in RunFolder(folder).checkpoint_list()), default="")


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _counts(path: Path) -> bool:
    """Whether it is a file of the run: not a lock, nor half of something."""
    return path.is_file() and not path.name.startswith(".") and not path.parent.name.startswith(".")


def _order(name: str) -> tuple[int, str]:
    return copying_order(name), name
