"""Activations that put out two numbers per unit."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Concatenated(nn.Module, ABC):
    """``z -> (f(z), g(z))`` along the channels, ``[B, n, ...] -> [B, 2 n, ...]``; base of the two below."""

    def forward(self, preactivations: Tensor) -> Tensor:
        """The first function of all units, then the second."""
        return torch.cat(self.halves(preactivations), dim=1)

    @abstractmethod
    def halves(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``f(z), g(z)``."""


class ConcatenatedReLU(Concatenated):
    """``max(z, 0), max(-z, 0)``: their difference is z, so that no sign is lost.

    Example:
        >>> ConcatenatedReLU()(torch.tensor([[-1.0, 2.0]]))
        tensor([[0., 2., 1., 0.]])
    """

    def halves(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``max(z, 0), max(-z, 0)``."""
        return torch.relu(z), torch.relu(-z)


class SineCosine(Concatenated):
    """``sin(z), cos(z)``: their squares sum to one, so that no unit can die."""

    def halves(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``sin(z), cos(z)``."""
        return torch.sin(z), torch.cos(z)
