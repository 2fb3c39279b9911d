"""Reading files that somebody else may have written: their size is known before memory is taken for them.

Only regular files are read. A link could lead out of the run folder, and a pipe or a device would never end.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from .errors import DamagedFile


def checked_size(path: Path, limit: int) -> int:
    """The size of the regular file at ``path`` in bytes, which may not be more than ``limit``.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is a link, a folder, a pipe or a device, or is larger than any file of its kind.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
        raise DamagedFile(f"{str(path)!r} is {kind}; pliant writes and reads only regular files")
    if status.st_size > limit:
        raise DamagedFile(
            f"{str(path)!r} has {status.st_size:,} bytes, more than the {limit:,} that such a file may have"
        )
    return status.st_size


def read_text(path: Path, limit: int) -> str:
    """The contents of a UTF-8 file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it cannot be read; see :func:`checked_size`.
    """
    checked_size(path, limit)
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8")  # the limit again: the file may have grown since
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{str(path)!r} cannot be read: {error}") from None


def read_json(path: Path, limit: int) -> Any:
    """What is in a JSON file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it cannot be read, is no JSON, or is nested deeper than anything that pliant writes.
    """
    text = read_text(path, limit)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{str(path)!r} is not valid JSON: {error}") from None
