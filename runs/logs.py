"""The rows that a run writes as it goes: progress.csv, episodes.csv and TensorBoard.

A checkpoint remembers how long they were. A run that goes on cuts off what came later, half-written lines
too, and writes it anew: the same.
"""

from __future__ import annotations

import csv
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger

from .board import Board, BoardMark
from .errors import DamagedFile
from .folder import RunFolder
from .reading import read_rows

STEP = "time/total_timesteps"
"""The column that orders progress.csv: environment steps since the run began."""

_CLOCK = ("time/fps", "time/time_elapsed", "seconds")
"""Columns that a rerun would not reproduce are left to TensorBoard."""

EPISODE_COLUMNS = ("env_steps", "task", "return", "length")


@dataclass(frozen=True)
class LogMarks:
    """How long the logs were when a checkpoint was made."""

    progress_rows: int
    episode_rows: int
    board: BoardMark
    pending: dict[str, tuple[Any, int, tuple[str, ...]]]
    """What was recorded and not yet written: value, how often, and where it is left out, by its name."""

    def to_json(self) -> dict[str, Any]:
        """As a table for :func:`json.dumps`."""
        return asdict(self)

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> LogMarks:
        """What :meth:`to_json` made, read back.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        pending = {
            str(name): (value, int(count), tuple(excluded))
            for name, (value, count, excluded) in table["pending"].items()
        }
        board = BoardMark(str(table["board"]["file"]), _count(table["board"]["size"]))
        return cls(_count(table["progress_rows"]), _count(table["episode_rows"]), board, pending)


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a number of rows or bytes")
    return value


class RunLogs:
    """All that a run logs to; entered, the files are open.

    Args:
        folder: of the run.
        keep: how much of the logs to keep; None: nothing.
        env_steps: where the run begins, or goes on.

    Attributes:
        logger: SB3's, over progress.csv and TensorBoard.
        episodes: episodes.csv.
    """

    def __init__(self, folder: RunFolder, keep: LogMarks | None = None, env_steps: int = 0) -> None:
        self._folder, self._keep, self._env_steps = folder, keep, env_steps
        self._open = ExitStack()
        self.logger: Logger
        self.episodes: EpisodeCsv

    def __enter__(self) -> Self:
        keep = self._keep
        with ExitStack() as opened:  # closes what is open already if the next cannot be opened
            self._board = Board(self._folder.tensorboard, keep.board if keep else None, self._env_steps)
            opened.callback(self._board.close)
            self._progress = ProgressCsv(self._folder.progress_file, keep.progress_rows if keep else 0)
            opened.callback(self._progress.close)
            self.episodes = EpisodeCsv(self._folder.episodes_file, keep.episode_rows if keep else 0)
            opened.callback(self.episodes.close)
            self._open = opened.pop_all()
        self.logger = Logger(str(self._folder.path), [self._board, self._progress])
        for name, (value, count, excluded) in (keep.pending if keep else {}).items():
            self.logger.name_to_value[name] = value
            self.logger.name_to_excluded[name] = excluded
            if count:
                self.logger.name_to_count[name] = count
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def marks(self) -> LogMarks:
        """How long the logs are now; all of it is on the disk then: a checkpoint counts on it."""
        logger = self.logger
        pending = {
            name: (_plain(value), logger.name_to_count.get(name, 0), logger.name_to_excluded[name])
            for name, value in logger.name_to_value.items()
            if isinstance(value, np.ScalarType)
        }
        return LogMarks(self._progress.sync(), self.episodes.sync(), self._board.mark(), pending)


class ProgressCsv(KVWriter):
    """SB3's progress.csv, but continued where an earlier writer stopped, and free of the clock.

    Args:
        path: of the file.
        keep: rows to keep of those that are there.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        self._columns, self._rows = _keep_rows(path, (STEP,), keep)
        self._file, self._writer = _append(path, self._columns)

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append one row of the scalars among ``key_values``."""
        row = {
            key: _plain(value)
            for key, value in sorted(key_values.items())
            if "csv" not in key_excluded.get(key, ()) and not key.endswith(_CLOCK)
        }
        row = {key: value for key, value in row.items() if isinstance(value, (int, float))}
        if not row:
            return
        row[STEP] = step
        new = [key for key in row if key not in self._columns]
        if new:
            self._file.close()
            self._columns += new
            _widen(self.path, self._columns, len(new))
            self._file, self._writer = _append(self.path, self._columns)
        self._writer.writerow(row)
        self._file.flush()
        self._rows += 1

    def sync(self) -> int:
        """Have all rows on the disk; returns their number."""
        _sync(self._file)
        return self._rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class EpisodeCsv:
    """One row per training episode; see EPISODE_COLUMNS.

    Args:
        path: of the file.
        keep: rows to keep of those that are there.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self.path = path
        columns, self._rows = _keep_rows(path, EPISODE_COLUMNS, keep)
        self._file, self._writer = _append(path, columns)

    def write(self, env_steps: int, task: int, episode: Mapping[str, float]) -> None:
        """Append the episode that ended at ``env_steps``; ``episode`` is what SB3's Monitor says of it."""
        row = (env_steps, task, float(episode["r"]), episode["l"])
        self._writer.writerow(dict(zip(EPISODE_COLUMNS, row, strict=True)))
        self._rows += 1

    def returns(self, task: int) -> list[tuple[int, float]]:
        """Environment step and return of every episode of a task so far.

        Raises:
            DamagedFile: the file is damaged; the text names the line.
        """
        self.flush()
        found = []
        for line, row in read_rows(self.path, EPISODE_COLUMNS):
            try:
                if int(row["task"]) == task:
                    found.append((int(row["env_steps"]), float(row["return"])))
            except (KeyError, ValueError):
                raise DamagedFile(f"{str(self.path)!r} is damaged in line {line}; mend that line") from None
        return found

    def flush(self) -> None:
        """Hand the rows to the operating system."""
        self._file.flush()

    def sync(self) -> int:
        """Have all rows on the disk; returns their number."""
        _sync(self._file)
        return self._rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _plain(value: Any) -> Any:
    """Scalars of numpy and torch as Python's; anything else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _keep_rows(path: Path, columns: Sequence[str], keep: int) -> tuple[list[str], int]:
    """Cut ``path`` after ``keep`` rows, or make it with ``columns``; returns its columns and rows.

    A row is a line: nothing that is written here has a line break in it. A line without its end is none.
    """
    if keep and path.exists():
        with path.open("rb+") as file:
            header = file.readline()
            end, rows = file.tell(), 0
            while rows < keep and file.readline().endswith(b"\n"):
                end, rows = file.tell(), rows + 1
            file.truncate(end)
        if header.endswith(b"\n"):
            if rows < keep:
                _warn_of_lost_rows(path, keep - rows, keep)
            return next(csv.reader([header.decode()])), rows
    if keep:
        _warn_of_lost_rows(path, keep, keep)
    path.write_text(",".join(columns) + "\n", encoding="utf-8")
    return list(columns), 0


def _warn_of_lost_rows(path: Path, lost: int, of: int) -> None:
    text = f"{str(path)!r} has lost {lost} of the {of} rows that it had; the run goes on without them"
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _widen(path: Path, columns: Sequence[str], new: int) -> None:
    """Give ``path`` a header of ``columns``, whose last ``new`` are empty in its rows, line by line."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with path.open("rb") as old, temporary.open("wb") as wide:
        old.readline()
        wide.write((",".join(columns) + "\n").encode())
        for line in old:
            wide.write(line[:-1] + b"," * new + b"\n")
        _sync(wide)
    shutil.copymode(path, temporary)
    temporary.replace(path)


def _append(path: Path, columns: Sequence[str]) -> tuple[Any, csv.DictWriter[str]]:
    file = path.open("a", newline="", encoding="utf-8")
    return file, csv.DictWriter(file, columns, restval="", lineterminator="\n")


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
