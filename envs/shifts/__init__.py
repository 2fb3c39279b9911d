"""The ways in which an environment can change between tasks: one gymnasium wrapper each, one file each.

``SHIFTS`` maps the ``type`` of a shift in a task to its wrapper, whose constructor's parameters are the other
keys.
"""

from .action_delay import ActionDelay
from .action_remap import ActionRemap
from .base import GradualShift, Shift
from .layout import Layout
from .observation_noise import ObservationNoise
from .observation_offset import ObservationOffset
from .observation_permutation import ObservationPermutation
from .observation_scale import ObservationScale
from .physics import Physics
from .reward_scale import RewardScale
from .sticky_action import StickyAction

SHIFTS: dict[str, type[Shift]] = {
    "action-delay": ActionDelay,
    "action-remap": ActionRemap,
    "layout": Layout,
    "observation-noise": ObservationNoise,
    "observation-offset": ObservationOffset,
    "observation-permutation": ObservationPermutation,
    "observation-scale": ObservationScale,
    "physics": Physics,
    "reward-scale": RewardScale,
    "sticky-action": StickyAction,
}

__all__ = [
    "SHIFTS",
    "ActionDelay",
    "ActionRemap",
    "GradualShift",
    "Layout",
    "ObservationNoise",
    "ObservationOffset",
    "ObservationPermutation",
    "ObservationScale",
    "Physics",
    "RewardScale",
    "Shift",
    "StickyAction",
]
