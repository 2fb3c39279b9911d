"""A mixture of experts in place of the network that decides."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from ..errors import InvalidSetting
from ..mixture import Gate, Mixture
from ..remodel import redrawn, replace
from ..types import Observations, Update
from ..units import WEIGHTED
from .base import Mitigation
from .checks import require_count

if TYPE_CHECKING:
    from ..base import Agent

MOST_EXPERTS = 1_000
"""All of them are run on every sample."""


def experts_in_use(load: torch.Tensor) -> float:
    """``exp(-sum q log q)`` of the experts' mean weights q ``[E]``: 1 if one has all, E if all have the same.

    Example:
        >>> experts_in_use(torch.tensor([0.5, 0.5, 0.0]))
        2.0
    """
    q = load.double()
    return float(torch.exp(-torch.special.xlogy(q, q).sum()))


@dataclass
class MixtureOfExperts(Mitigation):
    """A sparsely gated mixture of experts (Shazeer et al. 2017, arXiv 1701.06538) as SPHERE has it.

    ``f(x) = sum_i p_i(x) f_i(x)``: each expert ``f_i`` is all that follows the features extractor of the
    network that decides (PPO's actor, the Q-network, the classifier), hidden layers and output layer; the
    gate has hidden layers of the same widths and one logit per expert. The ``active`` experts of largest
    logits have the softmax over these logits as weights p, the others zero. Nothing balances their load, and
    no noise is added to the logits. This is the actor of SPHERE's code (Luo et al. 2026, arXiv 2605.04712,
    github.com/sphere-rl/sphere), for PPO with continuous actions there. PPO's critic and log standard
    deviation are as they were; DQN's target network is a mixture, too. A classifier's ``new_head`` is every
    expert's output layer.

    The first expert is the network's own layers. The others and the gate are drawn as those were; where that
    is stable-baselines3's orthogonal scheme, the gate's output layer has rows of length 1, so that its logits
    are not near zero as an actor's outputs are at first. With one expert the agent is the plain one.

    Experts have no features extractor of their own: where it has weights (a CNN), they share it. Hidden
    layers are called ``actor/expert-0/0``, ``actor/gate/0``; ``actor/mixture`` are the last features of all
    experts times their weights, which `Isotropy` then takes, and instruments measure.

    Strengths: the authors have 10 experts, 2 of them active.

    Args:
        experts: how many there are.
        active: how many count for a sample.

    Logs ``plasticity/experts_in_use``: of the latest minibatch, see `experts_in_use`.
    """

    remodel_rank: ClassVar[int] = -1
    experts: int = 10
    active: int = 2
    _seen: "tuple[Agent, Observations] | None" = field(default=None, init=False, repr=False, compare=False)
    _in_use: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_count(self, experts=self.experts, active=self.active)
        if self.active > self.experts:
            raise InvalidSetting(
                f"MixtureOfExperts' active is {self.active}, but there are only {self.experts} experts."
            )
        if self.experts > MOST_EXPERTS:
            raise InvalidSetting(
                f"MixtureOfExperts runs every expert on every sample, so at most {MOST_EXPERTS:,} are "
                f"possible, not {self.experts:,}."
            )

    def remodel(self, agent: "Agent") -> None:
        """Put the mixture into the place of the network that decides.

        Raises:
            InvalidSetting: its features are needed elsewhere, or it has no hidden layer.
        """
        if getattr(agent, "use_sde", False):
            raise InvalidSetting(
                "MixtureOfExperts has a last hidden layer per expert, but gSDE's noise is made of the one of "
                "a plain actor: use_sde = false."
            )
        _, parts = agent.deciding()
        chain = [module for part in parts for module in (part if isinstance(part, nn.Sequential) else [part])]
        *hidden, output = chain
        if not any(isinstance(module, WEIGHTED) for module in hidden) or not isinstance(output, nn.Linear):
            raise InvalidSetting(
                "MixtureOfExperts makes experts of what follows the features extractor, which must be at "
                "least one hidden layer and the output layer; give the network a hidden layer."
            )
        others = [nn.Sequential(*(_fresh(agent, part) for part in chain)) for _ in range(self.experts - 1)]
        logits = redrawn(agent, output, self.experts, output.in_features, length=1.0)
        gate = Gate(nn.Sequential(*(_fresh(agent, part) for part in hidden), logits), self.active)
        mixture = Mixture([nn.Sequential(*chain), *others], gate)
        for part in parts[:-1]:
            replace(agent.policy, part, nn.Sequential())
        replace(agent.policy, parts[-1], mixture)

    def attach(self, agent: "Agent") -> None:
        """Nothing has been seen yet."""
        self._seen = self._in_use = None

    def after_update(self, agent: "Agent", update: Update) -> None:
        """Keep what was seen, for the log."""
        self._seen = (agent, update.observations)

    def values(self) -> dict[str, float]:
        """``experts_in_use``."""
        if self._seen is not None:
            agent, observations = self._seen
            with agent._undisturbed(seed=0):
                (weights,) = agent.expert_weights(observations).values()
            self._in_use = experts_in_use(weights.mean(dim=0))
            self._seen = None
        return {} if self._in_use is None else {"experts_in_use": self._in_use}

    def state(self) -> dict[str, float | None]:
        """The latest value, for the log of a resumed run."""
        return {"experts_in_use": self.values().get("experts_in_use")}

    def load_state(self, state: dict[str, float | None]) -> None:
        """Put it back."""
        self._in_use = state["experts_in_use"]


def _fresh(agent: "Agent", module: nn.Module) -> nn.Module:
    """A new module of the same kind; layers are drawn, what else there is begins the same everywhere."""
    if isinstance(module, WEIGHTED):
        return redrawn(agent, module, *module.weight.shape[:2])
    return copy.deepcopy(module)
