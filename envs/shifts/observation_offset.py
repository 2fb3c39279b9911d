"""The sensors are biased: a constant is added to every observation."""

from typing import Any

import numpy as np

from .base import Env, GradualShift, Reset, Step, box, real, unbounded, whole


class ObservationOffset(GradualShift):
    """Add a constant offset to the observations, each entry drawn from N(0, std^2).

    The shift of the CartPole and Acrobot experiments of TRAC (arXiv 2405.16642) and C-CHAIN (arXiv
    2506.00592), with ``std`` 2.

    Args:
        env: An environment with observations in a Box of floats.
        std: Standard deviation of the offset's entries, in the units of the observation; 0 changes nothing.
        seed: Draws the offset. Two offsets of the same seed differ only by the ratio of their ``std``.
        ramp: Environment steps over which the offset grows from 0; 0 is at once.
        elapsed: Environment steps of the ramp already taken.

    Raises:
        InvalidShift: The observations are no Box of floats, or a parameter is out of range.
    """

    def __init__(self, env: Env, std: float, seed: int = 0, ramp: int = 0, elapsed: int = 0) -> None:
        super().__init__(env, std=std, seed=seed, ramp=ramp, elapsed=elapsed)
        space = box(env, floating=True)
        rng = np.random.default_rng(whole("seed", seed))
        self._full = real("std", std, low=0) * rng.standard_normal(space.shape)
        self._dtype = space.dtype
        self.observation_space = unbounded(space)
        self._apply(self.progress)

    def _apply(self, progress: float) -> None:
        self._offset = (progress * self._full).astype(self._dtype)

    def _shifted(self, inputs: Any) -> Any:
        self._settled()
        return inputs + self._offset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Reset and add the offset."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation + self._offset, info

    def step(self, action: Any) -> Step:
        """Step and add the offset."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation + self._offset, reward, terminated, truncated, info
