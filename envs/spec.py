"""The description of a sequence: what stands under ``[tasks]`` in a preset."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from .errors import EnvError, InvalidRule, InvalidTask, explain, plain
from .rules import resolve
from .sequence import TaskSequence
from .task import Task

MOST_TASKS = 1_000_000
"""Of a sequence: all of them are in memory."""


class SequenceSpec(BaseModel):
    """A sequence of tasks, generated from rules and a seed, or written out one by one.

    Any value in ``env``, ``kwargs``, ``shifts``, ``length``, ``name`` and the entries of ``list`` may be a
    rule (see `pliant.envs.rules`): it gets its value when `build` knows the seed.

    Attributes:
        env: Gymnasium id of every task that has none of its own.
        kwargs: Its arguments.
        shifts: Its shifts.
        length: Environment steps of a task.
        name: Of a task; made from the rest if empty.
        count: How many tasks the rules give. Only without ``list``.
        list: The tasks one by one, each a table that overrides the keys above (as a whole: its ``shifts``
            replace those above).
        repeats: Each task this many times in a row.
        cycles: All of that this many times over, with the same tasks.
        seed: From which the rules draw: ``"run"``, the seed of the run, or a number, for the same tasks in
            every run.

    Example:
        >>> friction = {"rule": "list", "values": [0.3, 0.1]}
        >>> shift = {"type": "physics", "parameter": "length", "value": friction}
        >>> spec = SequenceSpec(env="CartPole-v1", shifts=[shift], length=1000, count=2, cycles=2)
        >>> [task.shifts[0].parameters["value"] for task in spec.build(seed=0)]
        [0.3, 0.1, 0.3, 0.1]
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: Any = ""
    kwargs: dict[str, Any] = {}
    shifts: tuple[dict[str, Any], ...] = ()
    length: Any = 0
    name: Any = ""
    count: Annotated[PositiveInt, Field(strict=True)] = 1
    list: tuple[dict[str, Any], ...] = ()
    repeats: Annotated[PositiveInt, Field(strict=True)] = 1
    cycles: Annotated[PositiveInt, Field(strict=True)] = 1
    seed: Literal["run"] | Annotated[int, Field(strict=True, ge=0)] = "run"

    @field_validator("env", "kwargs", "shifts", "length", "name", "list", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return plain(value)

    def build(self, seed: int) -> TaskSequence:
        """Draw the tasks and check them; see `draw`.

        Raises:
            EnvError: As `draw` and `TaskSequence`.
        """
        return TaskSequence(self.draw(seed))

    def draw(self, seed: int) -> Sequence[Task]:
        """Draw the tasks, without making their environments.

        Args:
            seed: The seed of the run, >= 0; without effect if this description has a seed of its own.

        Raises:
            InvalidRule: A rule is unknown or has wrong parameters.
            InvalidTask: What the rules gave is no task.
        """
        if self.list and self.count != 1:
            raise InvalidTask("tasks are either written out (list) or generated (count), not both")
        seed = seed if self.seed == "run" else self.seed
        if (wanted := (len(self.list) or self.count) * self.repeats * self.cycles) > MOST_TASKS:
            raise InvalidTask(
                f"count, list, repeats and cycles make {wanted:,} tasks, at most {MOST_TASKS:,}"
            )
        entries = self.list or ({},) * self.count
        tasks = [self._task(entry, seed, i, len(entries)) for i, entry in enumerate(entries)]
        return [task for task in tasks for _ in range(self.repeats)] * self.cycles

    def _task(self, entry: dict[str, Any], seed: int, index: int, count: int) -> Task:
        defaults = {key: getattr(self, key) for key in Task.model_fields}
        try:
            return Task.model_validate(resolve(defaults | entry, seed, index, count))
        except InvalidRule as error:
            raise InvalidRule(f"tasks[{index}]: {error}") from None
        except ValidationError as error:
            cause = error.errors()[0].get("ctx", {}).get("error")
            kind = type(cause) if isinstance(cause, EnvError) else InvalidTask
            raise kind(f"tasks[{index}]: {explain(error, Task.model_fields)}") from None
