"""A sequence of tasks that one agent can be trained on."""

from collections.abc import Iterable, Sequence
from typing import Any, overload

from gymnasium.spaces import Box, Space

from .errors import EnvError, InvalidTask, SpaceMismatch
from .make import make_env
from .task import Task


class TaskSequence(Sequence[Task]):
    """Tasks in order, all with one observation space and one action space.

    Building it makes the environment of every distinct task once, so whatever is wrong with any of them is
    known before the training starts.

    Attributes:
        tasks: The tasks.
        observation_space: That of every task.
        action_space: That of every task.

    Args:
        tasks: The tasks, at least one.

    Raises:
        SpaceMismatch: Two tasks have different spaces.
        EnvError: The environment of a task cannot be made; the text begins with ``tasks[i]``.

    Example:
        >>> task = Task(env="CartPole-v1", length=1000)
        >>> sequence = TaskSequence([task, task])
        >>> len(sequence), sequence.total_length, sequence.action_space
        (2, 2000, Discrete(2))
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.tasks = tuple(tasks)
        if not self.tasks:
            raise InvalidTask("a sequence needs at least one task")
        spaces = [_spaces(i, task) for i, task in _distinct(self.tasks)]
        self.observation_space, self.action_space = spaces[0]
        for (i, task), (observation_space, action_space) in zip(_distinct(self.tasks), spaces, strict=True):
            self._compare(i, task, "observation", observation_space, self.observation_space)
            self._compare(i, task, "action", action_space, self.action_space)

    def _compare(self, i: int, task: Task, kind: str, space: Space[Any], first: Space[Any]) -> None:
        if space == first:
            return
        text = (
            f"tasks[{i}] ({task.name}) has the {kind} space {space}, but "
            f"tasks[0] ({self.tasks[0].name}) has {first}; all tasks of a sequence must share one"
        )
        if (
            isinstance(space, Box)
            and isinstance(first, Box)
            and space.shape == first.shape
            and space.dtype.kind == "f"
        ):
            text += (
                ". Only the bounds differ: give the task without observation shifts the shift "
                '{ type = "observation-offset", std = 0.0 }, which changes nothing but the bounds'
            )
        raise SpaceMismatch(text)

    @property
    def total_length(self) -> int:
        """Environment steps of all tasks together."""
        return sum(task.length for task in self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Task, ...]: ...
    def __getitem__(self, index: int | slice) -> Task | tuple[Task, ...]:
        return self.tasks[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskSequence) and self.tasks == other.tasks

    def __hash__(self) -> int:
        return hash(self.tasks)

    def __repr__(self) -> str:
        return f"TaskSequence({len(self)} tasks, {self.total_length} environment steps)"


def _distinct(tasks: Sequence[Task]) -> list[tuple[int, Task]]:
    """Each task once, with its first index: cycles and repeats need no second look."""
    first: dict[Task, int] = {}
    for i, task in enumerate(tasks):
        first.setdefault(task, i)
    return [(i, task) for task, i in first.items()]


def _spaces(i: int, task: Task) -> tuple[Space[Any], Space[Any]]:
    try:
        env = make_env(task)
    except EnvError as error:
        raise type(error)(f"tasks[{i}]: {error}") from error
    spaces = env.observation_space, env.action_space
    env.close()
    return spaces
