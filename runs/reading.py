"""Reading files that somebody else may have written: their size is known before memory is taken for them.

Only regular files are read. A link could lead out of the run folder, and a pipe or a device would never end.
"""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from .errors import DamagedFile

LARGEST_CSV = 256 * 2**20
"""Bytes: ten million episodes."""

LARGEST_TOML = 2**19
DEEPEST = 40
"""Levels of tables and lists in a TOML file; the deepest spec has six."""

_PART = r"""(?:"(?:[^"\\\n]|\\.){0,100}+"|'[^'\n]{0,100}+'|[\w-]++)"""
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_PART}[ \t]*+\.[ \t]*+){{{DEEPEST}}}")
"""``a.b.c. ...``: for one of n parts tomllib takes memory like n^2, all that there is for 100 kB of them."""

_LONGEST_LINE = 2**20


def checked_size(path: Path, limit: int, *, named: bool = False) -> int:
    """The size of the regular file at ``path`` in bytes, which may not be more than ``limit``.

    Args:
        path: of the file.
        limit: bytes.
        named: whether a person named it; then it may be a link, for they know where it leads.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it is a link, a folder, a pipe or a device, or is larger than any file of its kind.
    """
    status = path.stat() if named else path.lstat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
        raise DamagedFile(f"{str(path)!r} is {kind}; pliant writes and reads only regular files")
    if status.st_size > limit:
        raise DamagedFile(
            f"{str(path)!r} has {status.st_size:,} bytes, more than the {limit:,} that such a file may have"
        )
    return status.st_size


def read_text(path: Path, limit: int, *, named: bool = False) -> str:
    """The contents of a UTF-8 file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it cannot be read; see :func:`checked_size`, also for the arguments.
    """
    try:
        checked_size(path, limit, named=named)
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8")  # the limit again: the file may have grown since
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFile(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{str(path)!r} cannot be read, it is no text: {error}") from None


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


def read_toml(path: Path, *, named: bool = False) -> dict[str, Any]:
    """What is in a TOML file of at most ``LARGEST_TOML`` bytes.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it cannot be read, is no TOML, or is nested deeper than any spec.
    """
    text = read_text(path, LARGEST_TOML, named=named)
    try:
        return parse_toml(text)
    except ValueError as error:
        raise DamagedFile(f"{str(path)!r} is not valid TOML: {error}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """What ``text`` says in TOML.

    Raises:
        ValueError: it is none, or is nested deeper than any spec (whatever walks through one recurses).
    """
    if _DEEP_KEY.search(text):
        raise ValueError(f"it has a key of more than {DEEPEST} parts")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    level: list[Any] = [table]
    for _ in range(DEEPEST):
        level = [
            part
            for value in level
            for part in (value.values() if isinstance(value, dict) else value)
            if isinstance(part, (dict, list))
        ]
        if not level:
            return table
    raise ValueError(f"it is nested more than {DEEPEST} levels deep")


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file below its header, each with the number of the line that it ends on.

    A row has no cell where it ends early, and none at all if it has more than the header.

    Args:
        path: of the file.
        columns: that it must have.

    Raises:
        FileNotFoundError: there is none.
        DamagedFile: it cannot be read, lacks a column, or has a line longer than any that pliant writes.
    """
    checked_size(path, LARGEST_CSV)
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.reader(lines(file))
            header = next(reader, [])
            if missing := [column for column in columns if column not in header]:
                raise ValueError(f"its header has no {' and no '.join(missing)}")
            for cells in reader:
                fits = len(cells) <= len(header)
                yield reader.line_num, dict(zip(header, cells, strict=False)) if fits else {}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DamagedFile(f"{str(path)!r} cannot be read to its end: {error}") from None


def lines(file: IO[str]) -> Iterator[str]:
    """The lines of ``file``; without a limit one of 10 GB would be read at once.

    Raises:
        ValueError: one is longer than any that pliant writes.
    """
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"it has a line of more than {_LONGEST_LINE:,} characters")
        yield line


def refuse_links(folder: Path) -> None:
    """See that nothing below ``folder`` leads out of it.

    Raises:
        DamagedFile: there is a symbolic link; the text names it.
    """
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                raise DamagedFile(
                    f"{str(path)!r} is a symbolic link, which could lead anywhere; a run folder holds files "
                    "and folders alone. Put what it leads to in its place, or remove it"
                )
