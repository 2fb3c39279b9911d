"""An environment that fails is told from a program that does: which one, when, and what it did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ..envs import EnvError
from .errors import EnvironmentFault


class Guard(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Passes everything on as it is, but turns whatever an environment may not do into one error.

    It may not raise, give an observation or a reward that is not finite (every network that learns from one
    is lost), give observations of another shape, or change its spaces.

    Args:
        env: the environment, shifted.
        name: of the task, for the error.

    Raises:
        EnvironmentFault: from ``reset`` and ``step``.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name
        self._spaces = env.observation_space, env.action_space
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset, and see that the environment is still the one that it was."""
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        except EnvError:
            raise
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__} in reset(): {error}") from error
        if (self.env.observation_space, self.env.action_space) != self._spaces:
            raise self._fault("has other spaces than when it was made")
        self._check(observation, self._spaces[0], "observation")
        return observation, info

    def step(self, action: Any) -> Any:
        """Step, and look at what comes."""
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except EnvError:
            raise
        except Exception as error:
            raise self._fault(f"raised {type(error).__name__} in step({action!r}): {error}") from error
        self._steps += 1
        self._check(observation, self._spaces[0], "observation")
        if not math.isfinite(reward):
            raise self._fault(f"gave the reward {reward}")
        return observation, reward, terminated, truncated, info

    def _check(self, value: Any, space: spaces.Space[Any], what: str) -> None:
        if isinstance(space, spaces.Dict):
            if not isinstance(value, Mapping) or value.keys() != space.spaces.keys():
                raise self._fault(f"gave an {what} without the keys {', '.join(space.spaces)}")
            for key, part in space.items():
                self._check(value[key], part, f"{what} {key!r}")
        elif isinstance(space, spaces.Box):
            array = np.asarray(value)
            if array.shape != space.shape:
                raise self._fault(f"gave an {what} of shape {array.shape}, its space has {space.shape}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise self._fault(f"gave an {what} that is not finite")

    def _fault(self, did: str) -> EnvironmentFault:
        return EnvironmentFault(
            f"the environment of {self._name} {did}, {self._steps:,} environment steps after it was made; "
            "the checkpoints are kept: mend the environment, and go on with --resume"
        )
