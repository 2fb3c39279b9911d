"""Layer normalisation before every activation."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..remodel import normalise
from ..wiring import trace
from .base import Mitigation
from .checks import require_flag

if TYPE_CHECKING:
    from ..base import Agent


@dataclass
class LayerNorm(Mitigation):
    """Layer normalisation (Ba et al. 2016) of what enters each hidden activation.

    ``h = f(g (z - mean z) / sqrt(var z + 1e-5) + b)`` with the layer's preactivations z, of a picture over
    channels and positions together; g and b per unit or channel begin at 1 and 0 and are trained (and decayed
    by `L2`) like all parameters. Lyle et al. (2024, arXiv 2402.18762) found it, with weight decay, among the
    most reliable ways of staying plastic. It is the placement of the reference of arXiv 2509.22335. DQN's
    target network has it, too.

    Units can no longer be revived without a change of the outputs: a normalisation lets each one be heard by
    all others of its layer.

    Args:
        affine: whether there are g and b.

    Logs ``plasticity/norm_scale``: the mean of g over all layers.
    """

    conflicts: ClassVar[dict[str, str]] = {
        "NormalizeAndProject": "it brings a layer normalisation of its own; leave LayerNorm out."
    }
    remodel_rank: ClassVar[int] = 1
    affine: bool = True
    _scales: tuple[Tensor, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_flag(self, affine=self.affine)

    def remodel(self, agent: "Agent") -> None:
        """Put the normalisations in."""
        normalise(agent.policy, trace(agent), agent.hidden_layers(), self.affine)

    def attach(self, agent: "Agent") -> None:
        """Find the scales."""
        norms: tuple[Any, ...] = trace(agent).norms
        self._scales = tuple(norm.weight for norm in norms if norm.weight is not None)

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """``norm_scale``."""
        if not self._scales:
            return {}
        return {"norm_scale": torch.cat([scale.flatten() for scale in self._scales]).mean().item()}
