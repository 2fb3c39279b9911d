"""Weight clipping: no weight beyond a multiple of where it may have begun."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ..errors import InvalidSetting
from ..types import Update
from ..units import Weighted
from ..wiring import trace
from .base import Mitigation
from .checks import is_number, require_flag

if TYPE_CHECKING:
    from ..base import Agent


@dataclass
class WeightClipping(Mitigation):
    """After every update, weights and biases are clipped to ``[-kappa s, kappa s]``.

    Elsayed et al. 2024 (arXiv 2407.01704). ``s = 1 / sqrt(fan_in)`` of the layer, for its weights and for its
    biases: the bound of torch's own uniform initialisation, as in the authors' code
    (github.com/mohmdelsayed/weight-clipping), whatever the initialisation here. PPO's orthogonal rows have
    entries of about 1.4 s and single ones far beyond: a kappa of 1 would cut into them at once. The log
    standard deviation and normalisations are left alone, and so is DQN's target network, which follows.

    Strengths: that code searches kappa in 1, 2, 3, 4, 5; with Adam the best were 1, 3 and 4. Default 3.

    Args:
        kappa: above 0.
        heads: whether the last layer of each network is clipped, too, as in the paper.

    Logs ``plasticity/clipped``: the share of weights and biases that the latest update took beyond the bound.
    """

    kappa: float = 3.0
    heads: bool = True
    _layers: list[Weighted] = field(default_factory=list, init=False, repr=False, compare=False)
    _clipped: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (is_number(self.kappa) and self.kappa > 0):
            raise InvalidSetting(f"WeightClipping needs a finite kappa above 0, not {self.kappa!r}.")
        require_flag(self, heads=self.heads)

    def attach(self, agent: "Agent") -> None:
        """Find the layers."""
        wiring = trace(agent)
        self._layers = list((wiring.weighted if self.heads else wiring.hidden).values())

    @torch.no_grad()
    def after_update(self, agent: "Agent", update: Update) -> None:
        """Clip."""
        beyond, total = [], 0
        for layer in self._layers:
            bound = self.kappa / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters():
                beyond.append((parameter.abs() > bound).sum())
                total += parameter.numel()
                parameter.clamp_(-bound, bound)
        self._clipped = torch.stack(beyond).sum().item() / total if beyond else 0.0

    def values(self) -> dict[str, float]:
        """``clipped``."""
        return {} if self._clipped is None else {"clipped": self._clipped}

    def state(self) -> dict[str, float | None]:
        """The latest value, for the log of a resumed run."""
        return {"clipped": self._clipped}

    def load_state(self, state: dict[str, float | None]) -> None:
        """Put it back."""
        self._clipped = state["clipped"]
