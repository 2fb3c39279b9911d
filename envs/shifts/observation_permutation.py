"""The sensors are rewired: the entries of every observation change places."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import Env, Reset, Shift, Step, box, rearrangement, unbounded, whole


class ObservationPermutation(Shift):
    """Permute the entries of every observation: the new entry i is the old entry ``permutation[i]``.

    Observations of more than one axis are permuted as if they were flat, as in Permuted MNIST.

    Args:
        env: An environment with observations in a Box of D entries.
        seed: Draws the permutation (any, also that which changes nothing).
        permutation: The permutation itself, instead of a drawn one; ``[0, 1, ..., D - 1]`` changes nothing.

    Raises:
        InvalidShift: The observations are no Box, or ``permutation`` is none of their entries.
    """

    def __init__(self, env: Env, seed: int = 0, permutation: Sequence[int] | None = None) -> None:
        super().__init__(env, seed=seed, permutation=permutation)
        space = box(env, floating=False)
        size = int(np.prod(space.shape))
        drawn = np.random.default_rng(whole("seed", seed)).permutation(size)
        self._order = (
            drawn if permutation is None else np.array(rearrangement("permutation", permutation, size))
        )
        self._order = self._order.reshape(space.shape)
        self.observation_space = unbounded(space)

    def _shifted(self, inputs: Any) -> Any:
        return inputs.reshape(len(inputs), -1)[:, self._order.ravel()].reshape(inputs.shape)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Reset and permute."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation.take(self._order), info

    def step(self, action: Any) -> Step:
        """Step and permute."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation.take(self._order), reward, terminated, truncated, info
