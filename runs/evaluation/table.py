"""evaluation.csv: one row per evaluation episode, read, appended to, cut."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from ..errors import RunFolderError
from ..folder import write_atomically
from ..reading import LARGEST_CSV, checked_size, lines

COLUMNS = (
    "after_task",
    "on_task",
    "episode",
    "policy",
    "env_steps",
    "seed",
    "return",
    "length",
    "success",
)


@dataclass(frozen=True)
class Row:
    """One evaluation episode."""

    after_task: int
    """-1: before training."""
    on_task: int
    episode: int
    policy: str
    env_steps: int
    """Of the training so far."""
    seed: int
    total: float
    """The return, undiscounted; the column is called ``return``."""
    length: int
    success: bool | None
    """None, an empty cell, where the environment does not tell."""

    @property
    def key(self) -> tuple[int, int, int, str]:
        """What no two rows have in common: checkpoint, task, episode, policy."""
        return self.after_task, self.on_task, self.episode, self.policy


def read_rows(path: Path) -> list[Row]:
    """All rows; none if there is no file. A last line without its end is none: it is being written.

    Raises:
        RunFolderError: the file is damaged; the text names the line.
    """
    if not path.exists():
        return []
    checked_size(path, LARGEST_CSV)
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(line for line in lines(file) if line.endswith("\n"))
        try:
            header = next(reader, None)
            if header is None:
                return []
            if tuple(header) != COLUMNS:
                raise RunFolderError(
                    f"{str(path)!r} has the columns {','.join(header)[:200]!r}, expected "
                    f"{','.join(COLUMNS)!r}; move it away and run `pliant evaluate` to write it anew"
                )
            return [_row(cells) for cells in reader]
        except RunFolderError:
            raise
        except (ValueError, csv.Error) as error:
            raise RunFolderError(
                f"{str(path)!r} is damaged in line {reader.line_num}: {error}; delete that line and run "
                "`pliant evaluate`, which plays what is missing"
            ) from None


def append_rows(path: Path, rows: Iterable[Row], *, all_new: bool = False) -> None:
    """Add ``rows`` in one write, behind the header if the file is new; rows already there are left out.

    Args:
        path: of the file.
        rows: to add.
        all_new: none of them is there. Looking costs the more the longer the file is.
    """
    present = set() if all_new else {row.key for row in read_rows(path)}
    _drop_half_a_line(path)
    with path.open("a", encoding="utf-8", newline="") as file:
        header = _text([COLUMNS]) if file.tell() == 0 else ""
        file.write(header + _text(_cells(row) for row in rows if row.key not in present))
        file.flush()
        os.fsync(file.fileno())


def keep_rows_until(path: Path, env_steps: int) -> None:
    """Drop the rows of checkpoints after ``env_steps`` environment steps; the header is there in any case."""
    kept = [row for row in read_rows(path) if row.env_steps <= env_steps]
    write_atomically(path, _text([COLUMNS, *map(_cells, kept)]))


def _drop_half_a_line(path: Path) -> None:
    """Whoever wrote it was stopped in the middle; what is appended must not go on with it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _row(cells: list[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} cells, expected {len(COLUMNS)}")
    after, on, episode, policy, env_steps, seed, total, length, success = cells
    if success not in ("", "0", "1"):
        raise ValueError(f"success is {success!r}, expected 1, 0 or nothing")
    return Row(
        _count(after, -1),
        _count(on),
        _count(episode),
        policy,
        _count(env_steps),
        _count(seed),
        float(total),
        _count(length),
        bool(int(success)) if success else None,
    )


def _count(text: str, least: int = 0) -> int:
    number = int(text)
    if not least <= number < 2**63:
        raise ValueError(f"{number} counts nothing")
    return number


def _cells(row: Row) -> tuple[object, ...]:
    *cells, success = astuple(row)
    return (*cells, "" if success is None else int(success))


def _text(lines: Iterable[Iterable[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()
