"""TensorBoard's files, written so that a run can go on after any of its records.

TensorBoard hides what a new writer declares void, by environment step, and reads files in the order of
their names, which begin with the time of day. Two things would go wrong with that: at the step of a
checkpoint there are records from before it and from after it, and a clock that was set back puts the new file
in front of the old one. So the files here are numbered, and a run that goes on cuts off what came later.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import TensorBoardOutputFormat
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch.utils.tensorboard import FileWriter, SummaryWriter

_NAME = "events.out.tfevents.{:010d}.pliant"
"""TensorBoard knows its files by the beginning, and reads them in the order of their names."""


@dataclass(frozen=True)
class BoardMark:
    """Where TensorBoard's records end: in the last file, after so many bytes of it."""

    file: str
    size: int


class Board(TensorBoardOutputFormat):
    """SB3's output to TensorBoard, into files that can be cut and continued.

    Args:
        folder: TensorBoard's; made if it is not there.
        keep: what to keep of the records there; None: nothing.
        env_steps: where the run goes on; a TensorBoard that is watching forgets the steps after it.
    """

    def __init__(self, folder: Path, keep: BoardMark | None = None, env_steps: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / _NAME.format(_cut(folder, keep) + 1)
        self.writer = _Writer(self._file)
        self._is_closed = False
        if keep is not None:
            restart = Event(session_log=SessionLog(status=SessionLog.START))
            self.writer._get_file_writer().add_event(restart, env_steps + 1)

    def mark(self) -> BoardMark:
        """Where the records end now; they are on the disk when this returns."""
        self.writer.flush()
        with self._file.open("rb") as file:
            os.fsync(file.fileno())
            return BoardMark(self._file.name, file.seek(0, os.SEEK_END))


class _Writer(SummaryWriter):
    """torch's writer of summaries into one given file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(str(path.parent))

    def _get_file_writer(self) -> Any:
        """The one place where torch opens a file."""
        if self.file_writer is None:
            self.file_writer: Any = _FileWriter(self._path)
            self.all_writers: Any = {self.log_dir: self.file_writer}
        return self.file_writer


class _FileWriter(FileWriter):
    def __init__(self, path: Path) -> None:
        self.event_writer = _EventFile(path)


class _EventFile:
    """What torch's FileWriter writes to. In this thread: a full disk is then an error where it happens."""

    def __init__(self, path: Path) -> None:
        self._folder = str(path.parent)
        self._records = RecordWriter(path.open("xb"))
        self.add_event(Event(file_version="brain.Event:2"))

    def get_logdir(self) -> str:
        return self._folder

    def add_event(self, event: Any) -> None:
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()


def _cut(folder: Path, keep: BoardMark | None) -> int:
    """Drop all records but those to ``keep``; returns the highest number that a file there had."""
    files = sorted((_number(path), path) for path in folder.glob("events.out.tfevents.*"))
    kept_number = -1 if keep is None else _number(folder / keep.file)
    for number, path in files:
        if number > kept_number:
            path.unlink()
        elif keep is not None and path.name == keep.file and path.stat().st_size > keep.size:
            os.truncate(path, keep.size)
    return max((number for number, _ in files), default=0)


def _number(path: Path) -> int:
    match = re.match(r"events\.out\.tfevents\.(\d+)", path.name)
    return int(match[1]) if match else 0
