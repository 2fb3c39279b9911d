"""L2-Init: pull the parameters back to where they began."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..types import Observations
from .base import Mitigation
from .checks import require_strength

if TYPE_CHECKING:
    from ..base import Agent


def squared_distance(parameters: list[nn.Parameter], origin: list[Tensor]) -> Tensor:
    """``sum |w - w_0|^2`` over all parameters."""
    return torch.stack([(w - w_0).square().sum() for w, w_0 in zip(parameters, origin, strict=True)]).sum()


@dataclass
class L2Init(Mitigation):
    """Regenerative regularisation (Kumar et al. 2023, arXiv 2308.11958).

    The descended loss gains ``strength / 2 * sum |w - w_0|^2`` over all trained parameters, ``w_0`` their
    values at construction, or when a reset or a new head last drew them: the gradient is ``strength (w -
    w_0)``, so that parameters on which the loss does not depend drift back to where they could be learned
    from. Unlike the mitigation `L2` it is part of the loss, and so of the gradient's norm that
    ``max_grad_norm`` clips. DQN's target network follows the online one and is not pulled itself.

    Strengths: the paper's code (github.com/skumar9876/L2_Init, which has the factor 1/2) searches 1e-2, 1e-3,
    1e-4, 1e-5; 1e-3, the default, is also what Parseval's authors use for it in continual reinforcement
    learning (github.com/wechu/parseval_reg, there per parameter tensor and divided by its size). The paper
    leaves normalisation layers out; here they are pulled to their initial 1 and 0.

    Args:
        strength: at least 0.

    Logs ``plasticity/l2_init``: half the squared distance.
    """

    strength: float = 1e-3
    _parameters: list[nn.Parameter] = field(default_factory=list, init=False, repr=False, compare=False)
    _origin: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_strength(self, strength=self.strength)

    def attach(self, agent: "Agent") -> None:
        """Remember the parameters as they are now."""
        named = {n: p for network in agent.networks().values() for n, p in network.items()}
        self._parameters = list(named.values())
        self._origin = {name: p.detach().clone() for name, p in named.items()}

    def on_redraw(self, agent: "Agent", parameters: Mapping[str, nn.Parameter]) -> None:
        """They are pulled back to here from now on."""
        self._origin |= {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def distance(self) -> Tensor:
        """``1/2 sum |w - w_0|^2``, differentiable."""
        return 0.5 * squared_distance(self._parameters, list(self._origin.values()))

    def penalty(self, agent: "Agent", observations: Observations) -> Tensor | None:
        """``strength`` times the distance."""
        return self.strength * self.distance()

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """``l2_init``."""
        return {"l2_init": self.distance().item()} if self._parameters else {}

    def tensors(self) -> dict[str, Tensor]:
        """Where the parameters began."""
        return dict(self._origin)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put them back."""
        self._origin = {
            name: tensors[name].to(p.device) for name, p in zip(self._origin, self._parameters, strict=True)
        }
