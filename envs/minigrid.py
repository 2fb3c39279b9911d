"""MiniGrid's observations as the image alone; the package minigrid itself is not needed here."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import RecordConstructorArgs


class GridImage(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Keep only the view, ``[7, 7, 3]`` bytes: object, colour and state of each cell.

    The mission, a text, and the compass are left out. The bounds are the true ones, 0 to 10 (the largest
    index, that of the object "agent"), where MiniGrid declares 0 to 255; for what is declared 0 to 255
    stable-baselines3 takes for a picture, divides it by 255 and sends it to a network for pictures of at
    least 36 x 36.

    Args:
        env: A MiniGrid or BabyAI environment.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.ObservationWrapper.__init__(self, env)
        view = env.observation_space["image"]  # type: ignore[index]
        self.observation_space = Box(0, 10, view.shape, dtype=np.uint8)

    def observation(self, observation: dict[str, Any]) -> Any:
        """The view."""
        return observation["image"]


def is_minigrid(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether ``env`` is one of MiniGrid's, told by the name of its base class (no import of minigrid)."""
    return any(cls.__name__ == "MiniGridEnv" for cls in type(env.unwrapped).__mro__)
