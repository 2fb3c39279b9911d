"""What tests of several folders share: a stand-in for Meta-World, which pins an older MuJoCo."""

import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest

from pliant.runs.presets import load_spec


class Arm(gymnasium.Env):
    """As `metaworld.SawyerXYZEnv`: ignores the seed of reset, hides the goal until told otherwise."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.seeded_rand_vec, self._freeze_rand_vec, self._set_task_called = False, True, False
        self._partially_observable = True
        self.sawyer_observation_space = "of the hidden goal"
        self.goal = np.zeros(3)

    def seed(self, seed: int) -> None:
        self._np_random = np.random.default_rng(seed)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert self.seeded_rand_vec
        assert self._set_task_called
        if not self._freeze_rand_vec:
            self.goal = self._np_random.uniform(size=3)
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        hidden = self._partially_observable or "sawyer_observation_space" in vars(self)
        return np.concatenate([np.zeros(36), np.zeros(3) if hidden else self.goal])

    def step(self, action: np.ndarray) -> Any:
        return self._observe(), np.float64(action.sum()), False, False, {"success": float(action[3] > 0)}


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package metaworld, with a stand-in for each task of the preset."""
    names = [task.kwargs["name"] for task in load_spec("metaworld-cw10").tasks.draw(0)]
    module = ModuleType("metaworld.env_dict")
    module.ALL_V3_ENVIRONMENTS = {name: type(name.removesuffix("-v3"), (Arm,), {}) for name in names}
    monkeypatch.setitem(sys.modules, "metaworld", ModuleType("metaworld"))
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", module)
