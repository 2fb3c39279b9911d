"""The rows that a run writes as it goes: progress.csv, episodes.csv and TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat
from torch.utils.tensorboard import SummaryWriter

from .folder import RunFolder, write_atomically

STEP = "time/total_timesteps"
"""The column that orders progress.csv: environment steps since the run began."""

_CLOCK = ("time/fps", "time/time_elapsed", "seconds")
"""Columns that a rerun would not reproduce are left to TensorBoard."""

EPISODE_COLUMNS = ("env_steps", "task", "return", "length")


class ProgressCsv(KVWriter):
    """SB3's progress.csv, but continued where an earlier writer stopped, and free of the clock.

    A column that appears later is added by rewriting the file: a few times in a run's first minute.
    """

    def __init__(self, path: Path, keep_until: int) -> None:
        self.path = path
        rows = _rows_until(path, STEP, keep_until)
        self._columns = list(rows[0]) if rows else [STEP]
        self._rewrite(rows)

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Append one row of the scalars among ``key_values``."""
        row = {
            key: value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
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
            self._rewrite(_rows_until(self.path, STEP, step))
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self._file, self._writer = _reopen(self.path, self._columns, rows)


class EpisodeCsv:
    """One row per training episode; see EPISODE_COLUMNS."""

    def __init__(self, path: Path, keep_until: int) -> None:
        self._file, self._writer = _reopen(path, EPISODE_COLUMNS, _rows_until(path, "env_steps", keep_until))

    def write(self, env_steps: int, task: int, episode: Mapping[str, float]) -> None:
        """Append the episode that ended at ``env_steps``; ``episode`` is what SB3's Monitor says of it."""
        self._writer.writerow(
            dict(zip(EPISODE_COLUMNS, (env_steps, task, episode["r"], episode["l"]), strict=True))
        )

    def flush(self) -> None:
        """Hand the rows to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def run_logger(folder: RunFolder, keep_until: int = 0) -> Logger:
    """SB3's logger over this run's files, without their rows after ``keep_until`` environment steps."""
    board = TensorBoardOutputFormat(str(folder.tensorboard))
    if keep_until:
        board.writer = SummaryWriter(log_dir=str(folder.tensorboard), purge_step=keep_until + 1)
    return Logger(str(folder.path), [board, ProgressCsv(folder.progress_file, keep_until)])


def _rows_until(path: Path, column: str, limit: int) -> list[dict[str, str]]:
    """The rows of ``path`` whose ``column`` is at most ``limit``; none if there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row[column] and int(row[column]) <= limit]


def _reopen(path: Path, columns: Any, rows: list[dict[str, str]]) -> tuple[Any, csv.DictWriter[str]]:
    """``path`` with exactly this header and these rows, open for more."""
    lines = [",".join(columns)] + [",".join(row.get(column) or "" for column in columns) for row in rows]
    write_atomically(path, "\n".join(lines) + "\n")
    file = path.open("a", newline="", encoding="utf-8")
    return file, csv.DictWriter(file, columns, restval="", lineterminator="\n")
