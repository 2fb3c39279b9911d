"""NaP: layer normalisation, and weights that keep their norm."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InvalidSetting
from ..remodel import normalise
from ..types import Update
from ..wiring import trace
from .base import Mitigation
from .checks import require_count, require_member

if TYPE_CHECKING:
    from ..base import Agent

_AFFINE = ("project", "free", "none")


def joint_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Norm of several tensors as one vector."""
    return nn.utils.get_total_norm(parameters)


@dataclass
class NormalizeAndProject(Mitigation):
    """Normalize-and-project (Lyle et al. 2024, arXiv 2407.01800).

    A layer normalisation stands before every hidden activation (see `LayerNorm`), so that the network does
    not change when a hidden layer's weights and biases are scaled together. After every update each hidden
    layer is: ``(W, b) <- (W, b) rho / |(W, b)|`` with the norm ``rho`` it had at construction. Norms then
    cannot grow, which would lower the effective learning rate. Only the layers before a normalisation are
    projected; the last layer of each network is free to scale its outputs.

    The normalisations' own scale g and shift b of n units may be: ``"project"``, rescaled together to the
    norm ``sqrt(n)`` that they begin with (for ReLU networks this rescales features, which the last layer
    notices, and a later hidden layer if it has a bias); ``"free"``; or ``"none"``, left out.

    DQN's target network has the normalisations and follows the online one.

    Strengths: there is none to choose. The paper projects after every update; a port of it
    (github.com/RLE-Foundation/Plasticine) does so every 10 rollouts.

    Args:
        every: updates from one projection to the next.
        affine: as above.

    Logs ``plasticity/norm_growth``: the mean over hidden layers of ``|(W, b)| / rho`` before the latest
    projection.
    """

    conflicts: ClassVar[dict[str, str]] = {
        "WeightClipping": "the projection scales clipped weights beyond their bound again; choose one.",
    }
    remodel_rank: ClassVar[int] = 1
    every: int = 1
    affine: str = "project"
    _layers: list[list[nn.Parameter]] = field(default_factory=list, init=False, repr=False, compare=False)
    _norms: list[float] = field(default_factory=list, init=False, repr=False, compare=False)
    _growth: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_count(self, every=self.every)
        require_member(self, _AFFINE, affine=self.affine)

    def remodel(self, agent: "Agent") -> None:
        """Put the normalisations in."""
        normalise(agent.policy, trace(agent), agent.hidden_layers(), self.affine != "none")

    def attach(self, agent: "Agent") -> None:
        """Remember the norms.

        Raises:
            InvalidSetting: the networks are linear.
        """
        wiring = trace(agent)
        if not wiring.normalised:
            raise InvalidSetting(
                "NormalizeAndProject needs a hidden layer to normalise, and there is none (the networks are "
                "linear)."
            )
        self._layers = [list(layer.parameters()) for layer in wiring.normalised.values()]
        if self.affine == "project":
            self._layers += [list(norm.parameters()) for norm in wiring.norms]
        self._norms = [joint_norm(parameters).item() for parameters in self._layers]

    @torch.no_grad()
    def after_update(self, agent: "Agent", update: Update) -> None:
        """Project, if due."""
        if (update.count + 1) % self.every == 0:
            self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Give every layer the norm that it began with."""
        present = torch.stack([joint_norm(parameters) for parameters in self._layers]).tolist()
        for parameters, norm, rho in zip(self._layers, present, self._norms, strict=True):
            if norm > 0 and math.isfinite(norm):
                for parameter in parameters:
                    parameter.mul_(rho / norm)
        ratios = [norm / rho for norm, rho in zip(present, self._norms, strict=True) if rho > 0]
        self._growth = sum(ratios) / len(ratios) if ratios else 1.0

    def values(self) -> dict[str, float]:
        """``norm_growth``."""
        return {} if self._growth is None else {"norm_growth": self._growth}

    def state(self) -> dict[str, Any]:
        """The norms, and the latest growth."""
        return {"norms": self._norms, "growth": self._growth}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self._norms, self._growth = list(state["norms"]), state["growth"]
