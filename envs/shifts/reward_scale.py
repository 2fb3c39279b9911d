"""The goal changes: the reward is multiplied by a constant, negative to reverse it."""

from typing import Any

from .base import Env, GradualShift, Step, real


class RewardScale(GradualShift):
    """Multiply the reward by a constant.

    Args:
        env: The environment.
        scale: The factor; 1 changes nothing, -1 rewards what was punished.
        ramp: Environment steps over which the factor moves linearly from 1; 0 is at once.
        elapsed: Environment steps of the ramp already taken.

    Raises:
        InvalidShift: ``scale`` is not finite, or a parameter is out of range.
    """

    def __init__(self, env: Env, scale: float, ramp: int = 0, elapsed: int = 0) -> None:
        super().__init__(env, scale=scale, ramp=ramp, elapsed=elapsed)
        self._full = real("scale", scale)
        self._apply(self.progress)

    def _apply(self, progress: float) -> None:
        self._scale = (1 - progress) + progress * self._full

    def step(self, action: Any) -> Step:
        """Step and scale the reward."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, float(reward) * self._scale, terminated, truncated, info
