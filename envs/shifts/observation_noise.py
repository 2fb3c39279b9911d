"""The sensors are noisy: fresh Gaussian noise on every observation."""

from typing import Any

from .base import Env, GradualShift, Reset, Step, box, real, unbounded


class ObservationNoise(GradualShift):
    """Add independent noise from N(0, std^2) to every entry of every observation.

    The noise comes from the environment's own generator: ``reset(seed=...)`` governs it, and it is
    interleaved with whatever the environment draws (later episodes start elsewhere than without noise).

    Args:
        env: An environment with observations in a Box of floats.
        std: Standard deviation, in the units of the observation; 0 changes nothing (and draws nothing).
        ramp: Environment steps over which the standard deviation grows from 0; 0 is at once.
        elapsed: Environment steps of the ramp already taken.

    Raises:
        InvalidShift: The observations are no Box of floats, or a parameter is out of range.
    """

    def __init__(self, env: Env, std: float, ramp: int = 0, elapsed: int = 0) -> None:
        super().__init__(env, std=std, ramp=ramp, elapsed=elapsed)
        space = box(env, floating=True)
        self._full = real("std", std, low=0)
        self._shape, self._dtype = space.shape, space.dtype
        self._base = env.unwrapped  # the owner of np_random, asked directly: the chain of wrappers is slow
        self.observation_space = unbounded(space)
        self._apply(self.progress)

    def _apply(self, progress: float) -> None:
        self._std = progress * self._full

    def _noisy(self, observation: Any) -> Any:
        if self._std == 0:
            return observation
        noise = self._std * self._base.np_random.standard_normal(self._shape)
        return observation + noise.astype(self._dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Reset and add noise."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._noisy(observation), info

    def step(self, action: Any) -> Step:
        """Step and add noise."""
        observation, reward, terminated, truncated, info = super().step(action)
        return self._noisy(observation), reward, terminated, truncated, info
