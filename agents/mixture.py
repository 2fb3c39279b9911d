"""A mixture of experts: networks side by side, and a gate that weighs a few of them for each sample."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def expert_weights(logits: Tensor, active: int) -> Tensor:
    """Softmax over the ``active`` largest logits of each sample, zero for all others: ``[B, E] -> [B, E]``.

    Of equal logits the first count, so that the choice is the same on every machine.

    Example:
        >>> expert_weights(torch.tensor([[0.0, 5.0, 5.0, 5.0]]), active=2)
        tensor([[0.0000, 0.5000, 0.5000, 0.0000]])
    """
    ranking = logits.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ranking[:, :active], True)
    return logits.masked_fill(~chosen, -torch.inf).softmax(dim=-1)


def weighted_rows(weights: Tensor, features: Sequence[Tensor]) -> Tensor:
    """``[p_1 phi_1 | ... | p_E phi_E]``: each expert's features times its weight, side by side.

    Args:
        weights: p, ``[B, E]``.
        features: E times ``[B, D]``.

    Returns:
        ``[B, E D]``.
    """
    return torch.cat([weights[:, i, None] * phi for i, phi in enumerate(features)], dim=1)


class Gate(nn.Module):
    """Says for each sample how much each expert counts.

    Args:
        body: features to one logit per expert.
        active: this many experts count at a time.
    """

    def __init__(self, body: nn.Sequential, active: int) -> None:
        super().__init__()
        self.body = body
        self.active = active

    def forward(self, features: Tensor) -> Tensor:
        """``[B, D] -> [B, E]``, see `expert_weights`."""
        return expert_weights(self.body(features), self.active)


class Mixture(nn.Module):
    """``sum_i p_i(x) f_i(x)`` of experts f and a gate p.

    Every expert is run on every sample, also where its weight is zero, as in SPHERE's code: instruments then
    see each layer once in a forward pass. The gradient of an expert whose weight is zero is exactly zero.

    Args:
        experts: from features to outputs, the last module of each its output layer.
        gate: weighs them.
    """

    def __init__(self, experts: Sequence[nn.Sequential], gate: Gate) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gate = gate

    def forward(self, features: Tensor) -> Tensor:
        """``[B, D] -> [B, outputs]``."""
        outputs = torch.stack([expert(features) for expert in self.experts], dim=1)  # [B, E, outputs]
        weights: Tensor = self.gate(features)
        return (weights[:, :, None] * outputs).sum(dim=1)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The networks within, by the name that their hidden layers have."""
        for i, expert in enumerate(self.experts):
            yield f"expert-{i}", expert
        yield "gate", self.gate

    def output_layers(self) -> list[Any]:
        """The last module of every expert."""
        return [expert[-1] for expert in self.experts]  # type: ignore[index]
