"""Parseval: keep the rows of each weight matrix orthogonal and of one length."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..types import Observations
from ..units import Weighted
from ..wiring import trace
from .base import Mitigation
from .checks import require_strength, selected

if TYPE_CHECKING:
    from ..base import Agent


def parseval_penalty(weight: Tensor, scale: float) -> Tensor:
    """``|W W' - s I|_F^2`` of a matrix, or of a kernel with one row per channel.

    Zero if and only if the rows are orthogonal and of squared length ``s``; the gradient is
    ``4 (W W' - s I) W``. With more rows than columns the least value is ``(rows - columns) s^2``.

    Args:
        weight: ``[out, in, ...]``.
        scale: s.
    """
    rows = weight.flatten(1)  # [out, in ...] -> [out, fan_in]
    gram = rows @ rows.T
    return (gram - scale * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).square().sum()


@dataclass
class Parseval(Mitigation):
    """Parseval regularisation (Chung et al. 2024, arXiv 2412.07224).

    The descended loss gains ``strength * (64 / width)^2 * |W W' - s I|_F^2`` for the weights ``W`` of every
    linear and convolutional layer but the last of each network; ``width`` is the number of rows of ``W``. The
    factor is that of the authors' code (github.com/wechu/parseval_reg), whose strengths were tuned at width
    64. The authors' extra diagonal layer and learned input scale are left out.

    Strengths of that code: 1e-3 (Gridworld, Meta-World) or 1e-4 (LunarLander, Quadruped), with s = 2, the
    squared gain of the orthogonal initialisation that PPO has, at which the penalty begins at zero where rows
    do not outnumber columns.

    Args:
        strength: at least 0.
        scale: s, the squared length of the rows.
        layers: names or patterns of layers, as the policy names its modules; by default all but the last.

    Logs ``plasticity/parseval``: the penalty without its strength.
    """

    strength: float = 1e-3
    scale: float = 2.0
    layers: Sequence[str] = ("*",)
    _weights: list[Weighted] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_strength(self, strength=self.strength, scale=self.scale)

    def attach(self, agent: "Agent") -> None:
        """Find the layers."""
        hidden = trace(agent).hidden
        self._weights = [hidden[name] for name in selected(self, self.layers, hidden)]

    def deviation(self) -> Tensor:
        """The penalty without its strength."""
        terms = [
            (64 / len(layer.weight)) ** 2 * parseval_penalty(layer.weight, self.scale)
            for layer in self._weights
        ]
        return torch.stack(terms).sum()

    def penalty(self, agent: "Agent", observations: Observations) -> Tensor | None:
        """``strength`` times the deviation."""
        return self.strength * self.deviation()

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """``parseval``."""
        return {"parseval": self.deviation().item()} if self._weights else {}
