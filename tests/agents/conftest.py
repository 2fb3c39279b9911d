"""A toy world for every space, and a log that remembers."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from pliant.agents import LabelledSamples


def draw(space: spaces.Box, generator: np.random.Generator) -> np.ndarray:
    low, high = np.clip(space.low, -1, None), np.clip(space.high, None, 255)
    return generator.uniform(low, high).astype(space.dtype)


class Toy(gymnasium.Env):
    """Random observations; the reward is the mean action; episodes end at random or are cut off."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def _observe(self) -> Any:
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            return {key: draw(part, self.np_random) for key, part in space.items()}
        return draw(space, self.np_random)

    @property
    def samples(self) -> LabelledSamples:
        """Fifty observations with an action each, for those who learn from them; always the same."""
        generator = np.random.default_rng(7)
        inputs = np.stack([draw(self.observation_space, generator) for _ in range(50)])
        return LabelledSamples(inputs, generator.integers(0, self.action_space.n, 50))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.steps += 1
        terminated = bool(self.np_random.random() < 0.1)
        return self._observe(), float(np.mean(action)), terminated, self.steps >= 9, {}


class Memory(KVWriter):
    """Keeps every dump, without the clock's entries."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict, step: int = 0) -> None:
        self.dumps.append({k: v for k, v in key_values.items() if not k.startswith("time/")})

    def close(self) -> None:
        pass


VECTOR = spaces.Box(-1, 1, (3,), np.float32)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def toy() -> Callable[..., VecEnv]:
    """``toy(observation_space, action_space, copies)`` -> a vector environment, not yet seeded."""

    def make(
        observations: spaces.Space = VECTOR, actions: spaces.Space | None = None, copies: int = 1
    ) -> VecEnv:
        return DummyVecEnv([lambda: Toy(observations, actions or spaces.Discrete(3))] * copies)

    return make


@pytest.fixture
def memory_logger() -> Callable[[], tuple[Logger, Memory]]:
    """A logger, and the memory that it writes to."""

    def make() -> tuple[Logger, Memory]:
        memory = Memory()
        return Logger(folder=None, output_formats=[memory]), memory

    return make
