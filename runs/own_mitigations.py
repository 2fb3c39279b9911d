"""Mitigations of a user's own: a Python file that the user names, beside those that come with pliant.

The environment variable ``PLIANT_MITIGATIONS`` has its path, or several as in ``PATH``. The file is executed,
which is why it must be named so: no spec, run folder or checkpoint can name one. They hold the mitigation's
name and settings, and a run's manifest the file's checksum, without which a run does not go on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Container, Mapping
from functools import lru_cache
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import SpecError

if TYPE_CHECKING:
    from ..agents import Mitigation

VARIABLE = "PLIANT_MITIGATIONS"

_DICT = "MITIGATIONS"
"""What the file calls its classes by their names, as ``agents/mitigations/__init__.py`` does."""


def files() -> list[Path]:
    """The files that the user named; absolute, for workers in other folders."""
    return [
        Path(name).expanduser().absolute() for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name
    ]


def checksums(used: Container[str] | None = None) -> dict[str, str]:
    """Of each file by its name, or of those alone that hold one of the mitigations ``used``."""
    return {
        path.name: f"sha256 {hashlib.sha256(_read(path)).hexdigest()[:12]}"
        for path in files()
        if used is None or any(name in used for name in _executed(path))
    }


def changed(recorded: Mapping[str, str]) -> str | None:
    """A file that the user names now and that is not the one that was ``recorded``; None if there is none."""
    return next((name for name, now in checksums().items() if recorded.get(name, now) != now), None)


def known_mitigations() -> dict[str, type[Mitigation]]:
    """Those that come with pliant and those of the user's files, by name.

    Raises:
        SpecError: a file cannot be read, fails, or has no dict of mitigations under names of their own.
    """
    from ..agents import MITIGATIONS  # torch is imported here and not before

    known = dict(MITIGATIONS)
    for path in files():
        own = _executed(path)
        if taken := sorted(own.keys() & known.keys()):
            raise SpecError(
                f"{VARIABLE}: {str(path)!r} has a mitigation {taken[0]!r}, but there is one; rename it"
            )
        known |= own
    return known


@lru_cache
def _executed(path: Path) -> Mapping[str, type[Mitigation]]:
    """The dict of the file at ``path``, which becomes a module: SB3's ``save`` looks for classes there."""
    from ..agents import Mitigation

    _read(path)
    name = f"pliant_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{VARIABLE}: {str(path)!r} is no Python file; its name has to end in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever stands in it
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise SpecError(f"{VARIABLE}: {str(path)!r}{where}: {type(error).__name__}: {error}") from error
    own = getattr(module, _DICT, None)
    if not isinstance(own, dict) or not all(
        isinstance(key, str) and isinstance(kind, type) and issubclass(kind, Mitigation)
        for key, kind in own.items()
    ):
        raise SpecError(
            f'{VARIABLE}: {str(path)!r} needs a dict {_DICT} = {{"my-penalty": MyPenalty}} of subclasses of '
            "pliant.agents.Mitigation, by the names that specs call them"
        )
    hooks = [name for name, value in vars(Mitigation).items() if isfunction(value) and name[0] != "_"]
    for key, kind in own.items():
        if all(getattr(kind, hook) is getattr(Mitigation, hook) for hook in hooks):
            raise SpecError(
                f"{VARIABLE}: {str(path)!r}: {key!r} does nothing: it has none of the hooks "
                f"{', '.join(hooks)}; is the name of one misspelt?"
            )
    return own


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"{VARIABLE}: {str(path)!r} cannot be read: {error.strerror}") from None
