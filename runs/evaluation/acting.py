"""An agent's actions in many episodes at once, each the same as if its episode were played alone.

Two things make an episode independent of those beside it. Stochastic actions are drawn with a generator per
episode, not from torch's one stream. And a batch is filled up to a multiple of 32 rows: matrix products of
other sizes choose other kernels, which round differently (measured with torch 2.13 on a CPU: of 13,000 rows
of three networks up to 400 changed in their last bits with the size of the batch or their place in it; none
where the number of rows was a multiple of 16).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

from ...agents import DQN, Agent

PolicyName = Literal["deterministic", "stochastic"]

_ROWS = 32


class Actor:
    """The present policy of an agent, for evaluation.

    ``deterministic`` is the distribution's mode, or the action of the largest Q-value. ``stochastic`` samples
    the distribution (of gSDE each step by itself); DQN takes random actions at its final exploration rate.
    """

    def __init__(self, agent: Agent, policy: PolicyName) -> None:
        self.agent = agent
        self.stochastic = policy == "stochastic"

    def act(
        self, observations: Sequence[Any], generators: Sequence[np.random.Generator]
    ) -> np.ndarray[Any, Any]:
        """One action per observation, ``[n, ...]``, as the environment takes it.

        Args:
            observations: one per episode.
            generators: one per episode, drawn from if the policy is stochastic.
        """
        count = len(observations)
        tensor, _ = self.agent.policy.obs_to_tensor(_filled_up(observations))
        if isinstance(self.agent, DQN):
            values = self.agent.q_net(tensor)[:count]
            return self._from_values(values, self.agent.exploration_final_eps, generators)
        policy: Any = self.agent.policy  # an actor's or a classifier's
        return self._from_distribution(policy.get_distribution(tensor), count, generators)

    def _from_values(
        self, values: Tensor, epsilon: float, generators: Sequence[np.random.Generator]
    ) -> np.ndarray[Any, Any]:
        actions: np.ndarray[Any, Any] = values.argmax(dim=1).cpu().numpy()
        if self.stochastic:
            for row, generator in enumerate(generators):
                if generator.random() < epsilon:
                    actions[row] = generator.integers(values.shape[1])
        return actions

    def _from_distribution(
        self, distribution: Distribution, count: int, generators: Sequence[np.random.Generator]
    ) -> np.ndarray[Any, Any]:
        if self.stochastic:
            actions = sample(distribution.distribution, count, generators)
        else:
            actions = distribution.mode()[:count].cpu().numpy()
        space = self.agent.action_space
        if isinstance(space, spaces.Box):
            actions = np.clip(actions, space.low, space.high)
        return actions.reshape(count, *(space.shape or ()))


def sample(distribution: Any, count: int, generators: Sequence[np.random.Generator]) -> np.ndarray[Any, Any]:
    """Draw the first ``count`` rows of a torch distribution, row i with ``generators[i]``.

    Args:
        distribution: Normal, Categorical, Bernoulli, or a list of Categoricals: what SB3's policies have.
        count: rows to draw.
        generators: one per row.
    """
    if isinstance(distribution, list):
        return np.stack([sample(one, count, generators) for one in distribution], axis=1)
    if isinstance(distribution, Categorical):  # the inverse of the cumulative distribution
        cumulative = distribution.probs[:count].double().cumsum(dim=1).cpu().numpy()
        drawn = np.array([generator.random() for generator in generators]) * cumulative[:, -1]
        chosen: np.ndarray[Any, Any] = (cumulative <= drawn[:, None]).sum(axis=1)
        return chosen
    width = distribution.batch_shape[1]
    if isinstance(distribution, Normal):
        mean, std = (x[:count].cpu().numpy() for x in (distribution.mean, distribution.stddev))
        noise = np.stack([generator.standard_normal(width) for generator in generators])
        return np.asarray(mean + std * noise.astype(mean.dtype))
    assert isinstance(distribution, Bernoulli), f"SB3 has no policy with {type(distribution).__name__}"
    uniform = np.stack([generator.random(width) for generator in generators])
    return (uniform < distribution.probs[:count].cpu().numpy()).astype(np.int8)


@contextmanager
def evaluation_mode(agent: Agent) -> Iterator[None]:
    """Evaluation mode and no gradients within the block; each module's own mode after it."""
    modes = [(module, module.training) for module in agent.policy.modules()]
    agent.policy.set_training_mode(False)
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _filled_up(observations: Sequence[Any]) -> Any:
    """Observations as one batch, with rows of zeros up to the next multiple of ``_ROWS``; Dicts by key."""
    first = observations[0]
    if isinstance(first, dict):
        return {key: _filled_up([one[key] for one in observations]) for key in first}
    first = np.asarray(first)
    rows = -(-len(observations) // _ROWS) * _ROWS
    batch = np.zeros((rows, *first.shape), first.dtype)
    batch[: len(observations)] = observations
    return batch
