"""Isotropy: SPHERE's penalty, which spreads the features over all directions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..types import Observations
from .base import Mitigation
from .checks import require_strength, selected

if TYPE_CHECKING:
    from ..base import Agent


def isotropy_penalty(features: Tensor) -> Tensor:
    """``|A - tr(A)/D I|_F^2 = |A|_F^2 - tr(A)^2 / D`` with ``A = F'F / N``.

    Zero if and only if the features' second moment is a multiple of the identity. From the smaller of ``F'F``
    and ``F F'``, which have the same trace and norm.

    Args:
        features: F, ``[N, D]``, not centred.
    """
    samples, width = features.shape
    gram = features.T @ features if width <= samples else features @ features.T
    gram = gram / samples
    return gram.square().sum() - gram.trace().square() / width


@dataclass
class Isotropy(Mitigation):
    """The penalty of SPHERE (Luo et al. 2026, arXiv 2605.04712) on the last hidden layer of every network.

    The descended loss gains, for each network, ``c * isotropy_penalty(features)``. The coefficient is adapted
    at every minibatch, as in the authors' code (github.com/sphere-rl/sphere): ``c = ratio * |L| / (penalty +
    1e-8)``, not differentiated, L that network's share of the loss (PPO's actor: policy and entropy loss; its
    critic: the value loss). The authors apply it to the gate-weighted features of a mixture of experts; on
    one network it is a relative of effective rank that needs no singular values. It shrinks with the fourth
    power of the features, and is zero for dead ones: use it with something that keeps them alive.

    Strengths of that code: ratio 0.05 relative to the loss, its default. Its script for HumanoidBench has
    0.001 relative to the norm of the loss's gradient instead, which is not offered here; nor is the mixture
    of experts (10, the best 2 weighted by a softmax, in the actor alone, with no loss that balances them).

    Args:
        ratio: of penalty to loss, at least 0.
        strength: if given, the coefficient itself, and nothing is adapted.
        layers: names or patterns of hidden layers (``["actor/*"]``); by default the last of each network.

    Logs ``plasticity/anisotropy``: the sum of the penalties without coefficients, at the latest update.
    """

    ratio: float = 0.05
    strength: float | None = None
    layers: Sequence[str] | None = None
    _chosen: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _anisotropy: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_strength(self, ratio=self.ratio)
        if self.strength is not None:
            require_strength(self, strength=self.strength)

    def attach(self, agent: "Agent") -> None:
        """Choose the layers."""
        known = list(agent.hidden_layers())
        last = {name.split("/")[0]: name for name in known}
        self._chosen = list(last.values()) if self.layers is None else selected(self, self.layers, known)

    def penalty(self, agent: "Agent", observations: Observations) -> Tensor | None:
        """The sum over layers of coefficient times penalty."""
        features = agent.features(observations)
        losses = {} if self.strength is not None else agent.losses_of_networks()
        penalties = {name: isotropy_penalty(features[name]) for name in self._chosen}
        self._anisotropy = sum(penalty.item() for penalty in penalties.values())
        terms = []
        for name, penalty in penalties.items():
            if self.strength is not None:
                terms.append(self.strength * penalty)
            else:
                loss = losses[name.split("/")[0]].detach().abs()
                terms.append(self.ratio * loss / (penalty.detach() + 1e-8) * penalty)
        return torch.stack(terms).sum() if terms else None

    def values(self) -> dict[str, float]:
        """``anisotropy``."""
        return {} if self._anisotropy is None else {"anisotropy": self._anisotropy}

    def state(self) -> dict[str, float | None]:
        """The latest value, for the log of a resumed run."""
        return {"anisotropy": self._anisotropy}

    def load_state(self, state: dict[str, float | None]) -> None:
        """Put it back."""
        self._anisotropy = state["anisotropy"]
