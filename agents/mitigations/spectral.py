"""Spectral regularisation: keep the largest singular value of each layer where it began."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..types import Observations
from ..units import NORMS, Weighted
from ..wiring import trace
from .base import Mitigation
from .checks import require_count, require_strength

if TYPE_CHECKING:
    from ..base import Agent


@torch.no_grad()
def power_iteration(matrix: Tensor, right: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Left and right vectors ``(u, v)`` that approach those of the largest singular value.

    Where the matrix sends ``right`` to zero, u is zero and ``right`` stays: a layer that is set to zero (a
    new head) would otherwise have no direction for good, and never be held again.

    Args:
        matrix: ``[out, in]``.
        right: where to begin, of length 1, ``[in]``.
        iterations: at least 1; the error falls by ``(sigma_2 / sigma_1)^2`` with each.
    """
    left = right
    for _ in range(iterations):
        left = nn.functional.normalize(matrix @ right, dim=0)
        following = nn.functional.normalize(matrix.T @ left, dim=0)
        right = torch.where(following.any(), following, right)
    return left, right


def spectral_penalty(weight: Tensor, left: Tensor, right: Tensor, target: float, power: int) -> Tensor:
    """``(sigma^k - target)^2`` with ``sigma = u' W v``, whose gradient in W is ``u v'``."""
    sigma = left @ weight.flatten(1) @ right
    return (sigma**power - target) ** 2


@dataclass
class Spectral(Mitigation):
    """Spectral regularisation (Lewandowski et al. 2025, arXiv 2406.06811).

    The descended loss gains ``strength * (sum over weights (sigma^k - target)^2 + sum over biases |b|^2 + sum
    over normalisations (|g - 1|^2 + |b|^2))`` over every linear and convolutional layer (a kernel counts as
    the matrix of its channels' rows) and every normalisation; sigma is the largest singular value. It
    is followed by power iteration: the singular vectors are kept from update to update, so that one iteration
    each suffices (Miyato et al. 2018), and belong to the checkpoint.

    Strengths: the reference of arXiv 2509.22335 (github.com/KevinGuo27/lop-jax) has k = 2 and target 2 with
    strengths searched in 1e-2, 1e-3, 1e-4 on Slippery Ant, the default being their middle. The regulariser's
    own paper has the target 1.

    Args:
        strength: at least 0.
        target: of ``sigma^power``.
        power: k, at least 1.
        iterations: of the power method, per update.

    Logs ``plasticity/spectral_norm``: the mean over layers of sigma.
    """

    strength: float = 1e-3
    target: float = 2.0
    power: int = 2
    iterations: int = 1
    _layers: dict[str, Weighted] = field(default_factory=dict, init=False, repr=False, compare=False)
    _norms: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    _right: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_strength(self, strength=self.strength, target=self.target)
        require_count(self, power=self.power, iterations=self.iterations)

    def attach(self, agent: "Agent") -> None:
        """Find the layers, and their leading singular vectors."""
        trained = {p for network in agent.networks().values() for p in network.values()}
        self._layers = trace(agent).weighted
        self._norms = [m for m in agent.policy.modules() if isinstance(m, NORMS) and m.weight in trained]
        self._right = {}
        for name, layer in self._layers.items():
            matrix = layer.weight.detach().flatten(1)
            # Of no special direction, and without randomness; 100 rounds find the leader.
            start = torch.arange(1.0, 1.0 + matrix.shape[1], device=matrix.device).sin()
            self._right[name] = power_iteration(matrix, nn.functional.normalize(start, dim=0), 100)[1]

    def penalty(self, agent: "Agent", observations: Observations) -> Tensor | None:
        """``strength`` times the sum of the deviations."""
        terms = []
        for name, layer in self._layers.items():
            matrix = layer.weight.detach().flatten(1)
            left, self._right[name] = power_iteration(matrix, self._right[name], self.iterations)
            terms.append(spectral_penalty(layer.weight, left, self._right[name], self.target, self.power))
            if layer.bias is not None:
                terms.append(layer.bias.square().sum())
        for norm in self._norms:
            terms.append((norm.weight - 1).square().sum())
            if norm.bias is not None:
                terms.append(norm.bias.square().sum())
        return self.strength * torch.stack(terms).sum()

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """``spectral_norm``."""
        if not self._layers:
            return {}
        sigmas = [
            (layer.weight.flatten(1) @ self._right[name]).norm() for name, layer in self._layers.items()
        ]
        return {"spectral_norm": torch.stack(sigmas).mean().item()}

    def tensors(self) -> dict[str, Tensor]:
        """The right singular vectors."""
        return dict(self._right)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put them back."""
        self._right = {name: tensors[name].to(old.device) for name, old in self._right.items()}
