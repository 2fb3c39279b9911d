"""The sensors are miscalibrated: every entry of the observation has its own gain."""

from typing import Any

import numpy as np

from .base import Env, GradualShift, Reset, Step, box, real, unbounded, whole


class ObservationScale(GradualShift):
    """Multiply each entry of the observations by a constant gain ``exp(std z)``, z drawn from N(0, 1).

    Args:
        env: An environment with observations in a Box of floats.
        std: Standard deviation of the logarithm of the gains, at most 10; 0 changes nothing, ln 2 = 0.69
            typically doubles or halves.
        seed: Draws the gains.
        ramp: Environment steps over which the gains move linearly from 1; 0 is at once.
        elapsed: Environment steps of the ramp already taken.

    Raises:
        InvalidShift: The observations are no Box of floats, or a parameter is out of range.
    """

    def __init__(self, env: Env, std: float, seed: int = 0, ramp: int = 0, elapsed: int = 0) -> None:
        super().__init__(env, std=std, seed=seed, ramp=ramp, elapsed=elapsed)
        space = box(env, floating=True)
        rng = np.random.default_rng(whole("seed", seed))
        self._full = np.exp(real("std", std, low=0, high=10) * rng.standard_normal(space.shape))
        self._dtype = space.dtype
        self.observation_space = unbounded(space)
        self._apply(self.progress)

    def _apply(self, progress: float) -> None:
        self._gain = ((1 - progress) + progress * self._full).astype(self._dtype)

    def _shifted(self, inputs: Any) -> Any:
        self._settled()
        return inputs * self._gain

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Reset and multiply by the gains."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation * self._gain, info

    def step(self, action: Any) -> Step:
        """Step and multiply by the gains."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation * self._gain, reward, terminated, truncated, info
