"""Where data sets are looked for, and what is said when they are not there."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import MissingData

VARIABLE = "PLIANT_DATA"
"""The environment variable that names the folder of data sets; no path needs to stand in a task."""

DEFAULT = "data"
"""The folder, seen from the current one, if nothing names another."""


def data_folder(given: str | None = None) -> Path:
    """The folder that holds data sets: ``given``, else that of the variable, else ``data``."""
    return Path(given or os.environ.get(VARIABLE) or DEFAULT).expanduser()


def find_files(
    name: str, folder: Path, places: Sequence[str], files: Sequence[str], *, gzipped: bool = False
) -> dict[str, Path]:
    """Find all ``files`` of the data set ``name`` in the first of ``places`` that has all of them.

    Args:
        name: The data set, for the message.
        folder: The folder of data sets.
        places: Sub-folders of it, the first being the one that is recommended.
        files: Names of files.
        gzipped: Whether each may have the ending ``.gz`` instead.

    Raises:
        MissingData: No place has all of them.
    """
    endings = ("", ".gz") if gzipped else ("",)
    found = [
        {
            file: path
            for file in files
            for path in [folder / place / f"{file}{ending}" for ending in reversed(endings)]
            if path.is_file()
        }
        for place in places
    ]
    best = max(found, key=len)  # the first of the largest
    if len(best) == len(files):
        return best
    where = folder / places[found.index(best)]
    missing = [file for file in files if file not in best]
    ending = ", each as it is or with the ending .gz" if gzipped else ""
    raise MissingData(
        f"the data set {name!r} is not there: put {' and '.join(missing)} into {where}/{ending}"
        f"{elsewhere(folder)}"
    )


def elsewhere(folder: Path) -> str:
    """The end of a message: how to name another folder of data sets than ``folder``."""
    return f"; or name another folder than {folder}/ with --data DIR or the variable {VARIABLE}"
