"""ER: keep the effective rank of the hidden features high."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..effective_rank import effective_rank, ranks_and_gradients
from ..errors import InvalidSetting
from ..features import network_of
from ..norms import total_norm
from ..types import Observations, Update
from .base import Mitigation
from .checks import require_count, require_member, require_strength, selected

if TYPE_CHECKING:
    from ..base import Agent

_MODES = ("relative", "raw", "penalty")


@dataclass
class EffectiveRank(Mitigation):
    """Raise ``sum over networks of the mean over its hidden layers of effective_rank(features)``.

    The networks are actor and critic (PPO), a features extractor that they share, the Q-network or the
    classifier. Effective rank does not change when features shrink, so its gradient grows without bound as
    they die: a raw step then destroys the network (measured: weight norms of 1e5 and more). Hence the modes:

    - ``"relative"``: a plain gradient-ascent step beside the optimiser, for each network on its own, of
      length ``step`` times the norm of that network's parameters. Nothing happens where the gradient is zero.
    - ``"raw"``: the reference's step of size ``step`` along the gradient (plain SGD, not through Adam).
    - ``"penalty"``: ``-step`` times the objective is part of the descended loss of every minibatch.

    A gradient that is not finite is never followed.

    Strengths: the paper (arXiv 2509.22335, Slippery Ant) took raw steps once per epoch, of 1e-6 with L2 and
    1e-7 without, searched in 1e-7..1e-5. Relative steps of 1e-3, three per epoch, held up in our CartPole
    runs with drifting observations, where 3e-3 was too long.

    Args:
        step: strength, at least 0; see the modes.
        mode: ``"relative"``, ``"raw"`` or ``"penalty"``.
        steps_per_epoch: this many steps in each epoch of PPO, spread evenly among its minibatches, over the
            observations of the whole rollout. One, the default for PPO, comes before the epoch's first
            update, as in the reference. The classifier's epoch is a rollout of ``updates_per_rollout``
            minibatches, and the observations are as many of the latest.
        every: instead, one step every so many gradient updates, over the minibatch. The default for DQN and
            the classifier: 10.
        samples: use only this many of the observations, evenly spaced; by default all, as in the reference.
            A step over 512 instead of 2048 costs half as much at width 256. With ``every`` they come from the
            whole rollout if the minibatch has fewer.
        layers: names or patterns of hidden layers (``["actor/*", "critic/1"]``); by default all.

    Logs ``plasticity/er_loss``, the negative objective as of the latest evaluation.
    """

    step: float = 1e-3
    mode: str = "relative"
    steps_per_epoch: int | None = None
    every: int | None = None
    samples: int | None = None
    layers: Sequence[str] = ("*",)
    _chosen: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _every: int | None = field(default=None, init=False, repr=False, compare=False)
    _objective: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_strength(self, step=self.step)
        require_member(self, _MODES, mode=self.mode)
        require_count(self, steps_per_epoch=self.steps_per_epoch, every=self.every, samples=self.samples)
        if self.steps_per_epoch is not None and self.every is not None:
            raise InvalidSetting("EffectiveRank takes steps_per_epoch or every, not both.")
        if self.mode == "penalty" and (self.steps_per_epoch or self.every):
            raise InvalidSetting(
                "EffectiveRank in mode 'penalty' acts on every minibatch: omit steps_per_epoch and every."
            )

    def attach(self, agent: "Agent") -> None:
        """Check that the layers exist and that the agent has epochs if steps are counted by them."""
        trained = agent.networks()
        hidden = [layer for layer in agent.hidden_layers() if network_of(layer) in trained]
        self._chosen = selected(self, self.layers, hidden)
        if self.steps_per_epoch is not None and agent.name == "dqn":
            raise InvalidSetting("DQN has no epochs: give EffectiveRank every=N instead of steps_per_epoch.")
        by_epochs = agent.has_epochs or self.steps_per_epoch is not None
        self._every = self.every or (None if by_epochs else 10)
        by_minibatch = self.mode == "penalty" or self._every is not None
        if self.samples == 1 or (by_minibatch and self.samples is None and _batch_size(agent) == 1):
            raise InvalidSetting(
                "The effective rank of one sample is always 1, and there are no more here: give "
                "EffectiveRank samples=100, say, or the agent a larger batch_size."
            )

    def penalty(self, agent: "Agent", observations: Observations) -> Tensor | None:
        """``-step`` times the objective in mode ``"penalty"``."""
        return -self.step * self.objective(agent, observations) if self.mode == "penalty" else None

    def before_update(self, agent: "Agent", update: Update) -> None:
        """Take the steps that are due at this update."""
        if self.mode == "penalty":
            return
        for _ in range(self._steps_due(update)):
            enough = self._every is not None and (self.samples or 0) <= _count(update.observations)
            if update.rollout is None or enough:
                self.ascend(agent, update.observations)
            else:
                self.ascend(agent, update.rollout())

    def objective(self, agent: "Agent", observations: Observations) -> Tensor:
        """The sum over networks of the mean effective rank of their selected layers."""
        features, shares = self._selected(agent, observations)
        ranks = torch.stack([effective_rank(layer) for layer in features])
        objective = (ranks * ranks.new_tensor(shares)).sum()
        self._objective = objective.item()
        return objective

    def ascend(self, agent: "Agent", observations: Observations) -> None:
        """One step of gradient ascent on the objective."""
        networks = [list(network.values()) for network in agent.networks().values()]
        parameters = [parameter for network in networks for parameter in network]
        with torch.enable_grad():
            features, shares = self._selected(agent, observations)
        # Backwards from the features, not from the objective: half as many operations on a small network
        ranks, slopes = ranks_and_gradients(features)
        self._objective = sum(share * rank for share, rank in zip(shares, ranks, strict=True))
        cotangents = torch._foreach_mul(slopes, shares)
        gradients = torch.autograd.grad(features, parameters, cotangents, allow_unused=True)
        by_parameter = dict(zip(parameters, gradients, strict=True))
        for network in networks:
            moved = {p: g for p in network if (g := by_parameter[p]) is not None}
            if moved:
                self._step(network, moved)

    def _selected(self, agent: "Agent", observations: Observations) -> tuple[list[Tensor], list[float]]:
        """The features of the layers that count, and the share of each in its network's mean."""
        features = agent.features(_thinned(observations, self.samples))
        layers = Counter(map(network_of, self._chosen))
        shares = [1 / layers[network_of(layer)] for layer in self._chosen]
        return [features[layer] for layer in self._chosen], shares

    @torch.no_grad()
    def _step(self, network: list[nn.Parameter], gradients: dict[nn.Parameter, Tensor]) -> None:
        length = total_norm(list(gradients.values()))
        if length == 0 or not math.isfinite(length):
            return
        size = self.step
        if self.mode == "relative":
            size *= total_norm([*network]) / length
        torch._foreach_add_(list(gradients), list(gradients.values()), alpha=size)

    def _steps_due(self, update: Update) -> int:
        if self._every is not None:
            return int(update.count % self._every == 0)
        # Of K steps in M minibatches, those before the minibatches floor(j M / K), j = 0 .. K - 1
        steps, minibatches = self.steps_per_epoch or 1, update.per_epoch
        due_before = -(-update.index * steps // minibatches)
        return -(-(update.index + 1) * steps // minibatches) - due_before

    def values(self) -> dict[str, float]:
        """``er_loss``."""
        return {} if self._objective is None else {"er_loss": -self._objective}

    def state(self) -> dict[str, float | None]:
        """The latest value of the objective, for the log of a resumed run."""
        return {"objective": self._objective}

    def load_state(self, state: dict[str, float | None]) -> None:
        """Put it back."""
        self._objective = state["objective"]


def _batch_size(agent: "Agent") -> int | None:
    return getattr(agent, "batch_size", None)


def _count(observations: Observations) -> int:
    parts = observations.values() if isinstance(observations, dict) else [observations]
    return len(next(iter(parts)))


def _thinned(observations: Observations, samples: int | None) -> Observations:
    """About ``samples`` evenly spaced observations: never fewer, unless there are fewer."""
    step = 1 if samples is None else max(_count(observations) // samples, 1)
    if step == 1:
        return observations
    if isinstance(observations, dict):
        return {key: part[::step] for key, part in observations.items()}
    return observations[::step]
