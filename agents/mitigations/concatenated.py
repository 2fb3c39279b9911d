"""Concatenated activations: CReLU and deep Fourier features."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from ..activations import Concatenated, ConcatenatedReLU, SineCosine
from ..errors import InvalidSetting
from ..remodel import concatenate
from .base import Mitigation
from .checks import require_flag

if TYPE_CHECKING:
    from ..base import Agent


@dataclass
class _Concatenation(Mitigation):
    """What the two have in common: every hidden activation is replaced, whatever it was."""

    halve: bool
    activation: ClassVar[type[Concatenated]]

    def __post_init__(self) -> None:
        require_flag(self, halve=self.halve)

    def build(self, policy_kwargs: dict[str, Any], agent_name: str) -> dict[str, Any]:
        """See that no other activation was asked for.

        Raises:
            InvalidSetting: one was.
        """
        given = policy_kwargs.get("activation_fn", nn.ReLU)
        if given is not nn.ReLU:
            raise InvalidSetting(
                f"{type(self).__name__} replaces the activation of every hidden layer, but activation_fn is "
                f"{getattr(given, '__name__', given)}: leave it out, or have ReLU, the field's usual one."
            )
        return policy_kwargs

    def remodel(self, agent: "Agent") -> None:
        """Replace the activations, and the layers whose sizes change with them."""
        if getattr(agent, "use_sde", False) and not self.halve:
            raise InvalidSetting(
                f"{type(self).__name__} doubles the features that gSDE has a weight for: use_sde = false, or "
                "halve = true."
            )
        concatenate(agent, type(self).__name__, self.activation, self.halve)


@dataclass
class CReLU(_Concatenation):
    """Concatenated ReLU (Shang et al. 2016; Abbas et al. 2023, arXiv 2303.07507).

    Every hidden activation becomes ``z -> (max(z, 0), max(-z, 0))``: a unit is never dead, and the sign of
    its preactivation is kept. Features double, and so do the inputs of the layers that follow, which are
    drawn anew for that size. The units of a layer are the same number as before; each has two outputs. DQN's
    target network has the same activations.

    Args:
        halve: give each hidden layer half its units instead, so that features and the layers after them keep
            their sizes; widths must be even.
    """

    conflicts: ClassVar[dict[str, str]] = {
        "DeepFourier": "both replace the activation of every hidden layer; choose one."
    }
    activation: ClassVar[type[Concatenated]] = ConcatenatedReLU
    halve: bool = False


@dataclass
class DeepFourier(_Concatenation):
    """Deep Fourier features (Lewandowski et al. 2025, arXiv 2410.20634).

    Every hidden activation becomes ``z -> (sin z, cos z)``. Wherever z is, one of the two is nearly linear
    in it, so that a unit can neither die nor saturate. The paper pairs it with regularisation (`L2`,
    `Spectral`). DQN's target network has the same activations.

    Args:
        halve: give each hidden layer half its units, so that features and the layers after them keep their
            sizes; widths must be even. Without it features double.
    """

    activation: ClassVar[type[Concatenated]] = SineCosine
    halve: bool = True
