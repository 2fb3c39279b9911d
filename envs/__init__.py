"""The world that shifts: tasks, sequences of tasks, and the shifts that make one task differ from the next.

Importing it registers the ``pliant/`` environments with gymnasium. Needs neither torch nor stable-baselines3.
"""

from .errors import (
    DamagedData,
    EnvError,
    InvalidRule,
    InvalidShift,
    InvalidTask,
    MissingData,
    MissingPackage,
    SpaceMismatch,
    StrangeModule,
    UnknownEnvironment,
)
from .make import make_env, own_modules
from .minigrid import GridImage
from .registration import register
from .rules import RULES
from .sequence import TaskSequence
from .shifts import SHIFTS
from .spec import SequenceSpec
from .streams import Samples, Stream, fingerprints
from .task import ShiftSpec, Task

register()

__all__ = [
    "RULES",
    "SHIFTS",
    "DamagedData",
    "EnvError",
    "GridImage",
    "InvalidRule",
    "InvalidShift",
    "InvalidTask",
    "MissingData",
    "MissingPackage",
    "Samples",
    "SequenceSpec",
    "ShiftSpec",
    "SpaceMismatch",
    "StrangeModule",
    "Stream",
    "Task",
    "TaskSequence",
    "UnknownEnvironment",
    "fingerprints",
    "make_env",
    "own_modules",
]
