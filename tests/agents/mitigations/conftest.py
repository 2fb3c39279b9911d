"""Small agents of every kind, to try a mitigation on."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from pliant.agents import DQN, PPO, Classifier
from pliant.agents.base import Agent
from pliant.agents.mitigations import Mitigation

PICTURE = spaces.Box(0, 10, (5, 5, 2), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
POLICIES: dict[str, tuple[spaces.Space, dict[str, Any]]] = {
    "mlp": (VECTOR, {"net_arch": [8, 8], "activation_fn": "relu"}),
    "cnn": (
        PICTURE,
        {
            "features_extractor_class": "small-cnn",
            "features_extractor_kwargs": {"features_dim": 8},
            "net_arch": [8],
            "activation_fn": "relu",
        },
    ),
}
SMALL: dict[type[Agent], dict[str, Any]] = {
    PPO: {"n_steps": 32, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
    Classifier: {"batch_size": 8, "updates_per_rollout": 4},
}


class Labelled(gymnasium.Env):
    """48 random inputs whose class is where their first numbers lie."""

    def __init__(self, space: spaces.Space, classes: int) -> None:
        self.observation_space, self.action_space = space, spaces.Discrete(classes)
        space.seed(0)
        inputs = np.stack([space.sample() for _ in range(48)]).astype(np.float32)
        labels = (inputs.reshape(48, -1)[:, :2].sum(axis=1) * 7).astype(np.int64) % classes
        self.samples = SimpleNamespace(inputs=inputs, labels=labels)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return self.samples.inputs[0].astype(self.observation_space.dtype), {}


@pytest.fixture
def make(toy: Callable[..., Any]) -> Callable[..., Agent]:
    """``make(PPO, [mitigation], policy="cnn", actions=box, learning_rate=0.1)`` -> an agent."""

    def environment(algorithm: type[Agent], space: spaces.Space, actions: spaces.Space | None) -> Any:
        if algorithm is Classifier:
            return DummyVecEnv([lambda: Labelled(space, 3)])
        return toy(space, actions)

    def build(
        algorithm: type[Agent],
        mitigations: Sequence[Mitigation] = (),
        policy: str = "mlp",
        actions: spaces.Space | None = None,
        initialisation: str = "sb3",
        seed: int | None = 0,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Agent:
        space, own = POLICIES[policy]
        return algorithm(
            "MlpPolicy",
            environment(algorithm, space, actions),
            mitigations=mitigations,
            initialisation=initialisation,
            seed=seed,
            device="cpu",
            policy_kwargs={**own, **(policy_kwargs or {})},
            **{**SMALL[algorithm], **kwargs},
        )

    return build


@pytest.fixture
def observe() -> Callable[..., torch.Tensor]:
    """``observe("cnn", 20)`` -> observations for such a policy."""

    def observations(policy: str = "mlp", count: int = 20, seed: int = 0) -> torch.Tensor:
        space, _ = POLICIES[policy]
        generator = torch.Generator().manual_seed(seed)
        if policy == "cnn":
            return torch.randint(0, 11, (count, *space.shape), generator=generator).float()
        return torch.rand(count, *space.shape, generator=generator) * 2 - 1

    return observations


@pytest.fixture
def outputs() -> Callable[[Agent, torch.Tensor], torch.Tensor]:
    """``outputs(agent, observations)`` -> everything that the networks say, without gradients."""

    def read(agent: Agent, observations: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            if isinstance(agent, DQN):
                return agent.q_net(observations)
            if isinstance(agent, Classifier):
                return agent.policy.logits(observations)
            distribution = agent.policy.get_distribution(observations).distribution
            inner = distribution.logits if hasattr(distribution, "logits") else distribution.mean
            return torch.cat([inner, agent.policy.predict_values(observations)], dim=1)

    return read


@pytest.fixture
def parameters() -> Callable[[Agent], dict[str, torch.Tensor]]:
    """``parameters(agent)`` -> copies of what it trains, by name."""

    def copies(agent: Agent) -> dict[str, torch.Tensor]:
        return {n: p.detach().clone() for net in agent.networks().values() for n, p in net.items()}

    return copies
