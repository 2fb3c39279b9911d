"""The world that shifts: tasks, sequences of tasks, and the shifts that make one task differ from the next.

Importing it registers the ``pliant/`` environments with gymnasium. Needs neither torch nor stable-baselines3.
"""

from .errors import (
    EnvError,
    InvalidRule,
    InvalidShift,
    InvalidTask,
    MissingPackage,
    SpaceMismatch,
    UnknownEnvironment,
)
from .make import make_env
from .minigrid import GridImage
from .registration import register
from .rules import RULES
from .sequence import TaskSequence
from .shifts import SHIFTS
from .spec import SequenceSpec
from .task import ShiftSpec, Task

register()

__all__ = [
    "RULES",
    "SHIFTS",
    "EnvError",
    "GridImage",
    "InvalidRule",
    "InvalidShift",
    "InvalidTask",
    "MissingPackage",
    "SequenceSpec",
    "ShiftSpec",
    "SpaceMismatch",
    "Task",
    "TaskSequence",
    "UnknownEnvironment",
    "make_env",
]
