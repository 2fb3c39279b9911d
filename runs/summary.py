"""What a run came to, read from its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .errors import DamagedFile
from .folder import RunFolder
from .reading import read_rows


@dataclass(frozen=True)
class TaskReturn:
    """Training returns of one task; None where no episode ended."""

    task: int
    episodes: int
    first_tenth: float | None
    """Mean return of the episodes that ended in the first tenth of the task's environment steps."""
    last_tenth: float | None
    """The same of the last tenth; where none ended there, of the last episode alone: longer episodes than
    that (passes over a data set, say) end a few times in a task."""


def task_return(task: int, episodes: Sequence[tuple[int, float]], first: int, last: int) -> TaskReturn:
    """Sum up a task that takes the environment steps from ``first`` to ``last``.

    Args:
        task: its index.
        episodes: environment step of the run, and return, of every episode of the task.
        first: environment steps of the run before the task.
        last: environment steps of the run after it.
    """
    tenth = (last - first) / 10
    early = [result for step, result in episodes if step <= first + tenth]
    late = [result for step, result in episodes if step > last - tenth]
    return TaskReturn(
        task, len(episodes), _mean(early), _mean(late or [result for _, result in episodes[-1:]])
    )


def task_returns(folder: RunFolder) -> list[TaskReturn]:
    """One row per task that has seen the end of an episode.

    Raises:
        DamagedFile: the file of the episodes is damaged; the text names the line.
    """
    episodes: dict[int, list[tuple[int, float]]] = {}
    spans = list(pairwise(folder.read_manifest()["boundaries"]))
    for line, row in read_rows(folder.episodes_file, ("env_steps", "task", "return")):
        try:
            task, episode = int(row["task"]), (int(row["env_steps"]), float(row["return"]))
            spans[task]
        except (KeyError, ValueError, IndexError) as error:
            raise DamagedFile(
                f"{str(folder.episodes_file)!r} is damaged in line {line}: {error}; delete that line"
            ) from None
        episodes.setdefault(task, []).append(episode)
    return [task_return(task, rows, *spans[task]) for task, rows in sorted(episodes.items())]


def snapshot_cost(folder: RunFolder) -> tuple[int, float]:
    """How many snapshots the run has taken, and the seconds that measuring them took."""
    from ..diagnostics import Snapshot  # brings torch, which reports do without

    snapshots = [Snapshot.load(path) for path in sorted(folder.snapshots.glob("task-*.npz"))]
    return len(snapshots), sum(snapshot.seconds.get("total", 0.0) for snapshot in snapshots)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
