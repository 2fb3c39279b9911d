"""Meta-World's tasks of a robot arm under one observation space. Needs the package metaworld, 3."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from .errors import InvalidTask, unknown
from .shifts.base import Reset, Step


class MetaWorld(gymnasium.Env[NDArray[np.float64], Any]):
    """One of Meta-World's tasks (Yu et al. 2019, arXiv 1910.10897), its object and goal drawn at each reset.

    Observations are the package's 39 numbers, the goal's place among them: hand, gripper and objects, now and
    before. They are declared without bounds, for the package declares each task's own. Actions are 4: where
    the hand goes, and the gripper. ``info["success"]`` says whether the task is solved at this moment.

    The package's environments ignore the seed of ``reset`` and draw from numpy's global generator; here all
    that is random comes from the environment's own. Registered with episodes of 200 environment steps, as in
    Continual World (Wolczyk et al. 2021, arXiv 2105.10919); more than 500 the package refuses.

    Args:
        name: Of the task, ``"hammer-v3"``.
        render_mode: As the package's: ``"rgb_array"``, ``"human"``, ``"depth_array"``.

    Raises:
        InvalidTask: There is no such task.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's own form)
        "render_modes": ["human", "rgb_array", "depth_array"],
        "render_fps": 80,
    }

    def __init__(self, name: str, render_mode: str | None = None) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        if name not in ALL_V3_ENVIRONMENTS:
            raise InvalidTask(unknown("task of Meta-World", str(name), ALL_V3_ENVIRONMENTS))
        self.render_mode = render_mode
        self.arm: Any = ALL_V3_ENVIRONMENTS[name](render_mode=render_mode)
        # What the package's `set_task` does, but for one object and one goal for good.
        self.arm._set_task_called = True
        self.arm._freeze_rand_vec = False
        self.arm.seeded_rand_vec = True
        self.arm._partially_observable = False
        vars(self.arm).pop("sawyer_observation_space", None)  # its bounds, to which it clips, hide the goal
        self.observation_space = Box(-np.inf, np.inf, (39,), np.float64)
        self.action_space = Box(-1, 1, (4,), np.float32)

    @property
    def mujoco_renderer(self) -> Any:
        """What draws."""
        return self.arm.mujoco_renderer

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Draw the places of object and goal, and go back to the beginning."""
        super().reset(seed=seed)
        self.arm.seed(int(self.np_random.integers(2**31)))
        observation, info = self.arm.reset()
        return observation, info

    def step(self, action: Any) -> Step:
        """Move the arm."""
        observation, reward, terminated, truncated, info = self.arm.step(action)
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """A picture."""
        return self.arm.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        self.arm.close()
