"""L2: weight decay, before Adam's moments or after them."""

from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InvalidSetting
from ..optimizers import decays_decoupled
from .base import Mitigation
from .checks import require_flag, require_member, require_strength

if TYPE_CHECKING:
    from ..base import Agent

_SELECTIONS = ("all", "weights")


@dataclass
class L2(Mitigation):
    """Weight decay through the optimiser's own option, so that its other settings stay as they are.

    *Coupled* (the default and the paper's): ``strength * w`` is added to the gradient after clipping and
    before Adam's moments: the gradient of ``strength / 2 |w|^2``. *Decoupled* (AdamW): each step also takes
    ``w <- (1 - learning_rate * strength) w``, untouched by the moments; the only kind that AdamW, Muon and
    Kron (which decays matrices and kernels alone) have. DQN's target network follows the online one and is
    not decayed itself.

    Strengths of the paper's arms (arXiv 2509.22335, Slippery Ant, learning rate 1e-4, Adam betas 0.99 /
    0.99): L2 alone and L2-ER 1e-3, searched in 1e-5..1e-3. They do not carry over: on CartPole at learning
    rate 3e-3, 1e-3 stops PPO from learning and 1e-5 halves the weight norm.

    Args:
        strength: at least 0.
        decoupled: as above.
        parameters: ``"all"``, biases and log standard deviations included, as the paper has it, or
            ``"weights"``, only matrices and convolution kernels.

    Logs ``plasticity/l2``: half the sum of the squared decayed parameters.
    """

    strength: float
    decoupled: bool = False
    parameters: str = "all"
    _decayed: tuple[Tensor, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_strength(self, strength=self.strength)
        require_member(self, _SELECTIONS, parameters=self.parameters)
        require_flag(self, decoupled=self.decoupled)

    def attach(self, agent: "Agent") -> None:
        """Set the decay in the optimiser's parameter groups, splitting them where only weights decay.

        Raises:
            InvalidSetting: the optimiser has no such option.
        """
        optimizer = agent.policy.optimizer
        always_decoupled = decays_decoupled(optimizer)
        if always_decoupled and not self.decoupled:
            raise InvalidSetting(
                f"{type(optimizer).__name__} decays weights decoupled from the gradient: give L2 decoupled = "
                "true, or use Adam or SGD."
            )
        switch = ["decoupled_weight_decay"] if self.decoupled and not always_decoupled else []
        for group in optimizer.param_groups:
            for option in ["weight_decay", *switch]:
                if option not in group:
                    raise InvalidSetting(
                        f"L2 needs an optimiser with the option {option!r}, which "
                        f"{type(optimizer).__name__} lacks. Use Adam."
                    )
        names = {p: name for network in agent.networks().values() for name, p in network.items()}
        weights = {p for p, name in names.items() if p.ndim > 1 and not name.endswith("log_std")}  # gSDE's
        if self.parameters == "weights":
            optimizer.param_groups = [
                part for group in optimizer.param_groups for part in _parted(group, weights)
            ]
        decayed = []
        for group in optimizer.param_groups:
            if self.parameters == "all" or group["params"][0] in weights:
                group["weight_decay"] = self.strength
                group.update(dict.fromkeys(switch, True))
                decayed += group["params"]
            else:
                group["weight_decay"] = 0.0  # whatever the optimiser's own would be
        self._decayed = tuple(decayed)

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """``l2``: half the sum of squares."""
        if not self._decayed:
            return {}
        return {"l2": 0.5 * torch.stack([weight.square().sum() for weight in self._decayed]).sum().item()}


def _parted(group: dict[str, Any], weights: Set[Tensor]) -> list[dict[str, Any]]:
    """One parameter group as two, weights before the rest; as it is if it holds only one kind."""
    first = [p for p in group["params"] if p in weights]
    rest = [p for p in group["params"] if p not in weights]
    return [{**group, "params": params} for params in (first, rest) if params]
