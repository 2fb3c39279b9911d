"""Isotropy: SPHERE's penalty, which spreads the features over all directions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..features import network_of
from ..types import Observations
from .base import Mitigation
from .checks import require_member, require_strength, selected

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


def gradient_norm(scalar: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """``sqrt(sum g^2 + 1e-8)`` of the scalar's gradient g; its graph is kept."""
    gradients = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True)
    norms = torch._foreach_norm([g for g in gradients if g is not None])
    return torch.stack(norms).square().sum().add(1e-8).sqrt()


@dataclass
class Isotropy(Mitigation):
    """The penalty of SPHERE (Luo et al. 2026, arXiv 2605.04712).

    The authors apply it to an actor that is a mixture of experts: to the last features of all experts times
    their weights, side by side. That is what it acts on, and on nothing else, if `MixtureOfExperts` is there,
    too. Without a mixture it acts on the last hidden layer of every network, a relative of effective rank
    that needs no singular values.

    The descended loss gains ``c * isotropy_penalty(features)`` for each. The coefficient is adapted at every
    minibatch, as in the authors' code (github.com/sphere-rl/sphere), and not differentiated: ``c = ratio *
    |L| / (penalty + 1e-8)``, L that network's share of the loss (PPO's actor: policy and entropy loss; its
    critic: the value loss). Or relative to the gradient: ``c = ratio * |grad L| / (|grad penalty| + 1e-8)``
    with the norms ``|g| = sqrt(sum g^2 + 1e-8)`` over all parameters that L moves, at the cost of two more
    backward passes. The penalty shrinks with the fourth power of the features, and is zero for dead ones: use
    it with something that keeps them alive.

    Strengths of that code: ratio 0.05 relative to the loss, its default; 0.001 relative to the gradient, in
    its script for HumanoidBench. Its projection of conflicting gradients and its penalty on the gate, both
    off by default, are not here.

    Args:
        ratio: of penalty to loss, or of their gradients, at least 0.
        relative_to: ``"loss"`` or ``"gradient"``.
        strength: if given, the coefficient itself, and nothing is adapted.
        layers: names or patterns of hidden layers or mixtures (``["actor/*"]``); by default as above.

    Logs ``plasticity/anisotropy``: the sum of the penalties without coefficients, at the latest update.
    """

    ratio: float = 0.05
    relative_to: str = "loss"
    strength: float | None = None
    layers: Sequence[str] | None = None
    _chosen: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _moved: dict[str, list[nn.Parameter]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _anisotropy: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_strength(self, ratio=self.ratio)
        require_member(self, ("loss", "gradient"), relative_to=self.relative_to)
        if self.strength is not None:
            require_strength(self, strength=self.strength)

    def attach(self, agent: "Agent") -> None:
        """Choose the layers, and find what their networks' losses move."""
        trained, mixtures = agent.networks(), list(agent.mixtures())
        hidden = [name for name in agent.hidden_layers() if network_of(name) in trained]
        if self.layers is None:
            self._chosen = mixtures or list({network_of(name): name for name in hidden}.values())
        else:
            self._chosen = selected(self, self.layers, [*hidden, *mixtures])
        moved = trained | {name: o.parameters for name, o in agent.objectives().items()}
        self._moved = {name: list(parameters.values()) for name, parameters in moved.items()}

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
                terms.append(self._coefficient(network_of(name), losses[network_of(name)], penalty) * penalty)
        return torch.stack(terms).sum() if terms else None

    def _coefficient(self, network: str, loss: Tensor, penalty: Tensor) -> Tensor:
        if self.relative_to == "loss":
            return self.ratio * loss.detach().abs() / (penalty.detach() + 1e-8)
        moved = self._moved[network]
        return self.ratio * gradient_norm(loss, moved) / (gradient_norm(penalty, moved) + 1e-8)

    def values(self) -> dict[str, float]:
        """``anisotropy``."""
        return {} if self._anisotropy is None else {"anisotropy": self._anisotropy}

    def state(self) -> dict[str, float | None]:
        """The latest value, for the log of a resumed run."""
        return {"anisotropy": self._anisotropy}

    def load_state(self, state: dict[str, float | None]) -> None:
        """Put it back."""
        self._anisotropy = state["anisotropy"]
