"""TRAC: a parameter-free scale on how far the parameters may have come from where they began."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import erfi
from torch import Tensor, nn

from ..errors import InvalidSetting, NonFiniteLoss
from .base import Mitigation
from .checks import as_tuple, is_number, require_strength

if TYPE_CHECKING:
    from ..base import Agent

Array = npt.NDArray[np.float64]


@dataclass
class Scale:
    """The scalar part of TRAC: one tuner per discount, their sum S, at least 0.

    With ``h_t = <Delta_t, g_t>``, every tuner has ``v <- beta^2 v + h^2``, ``sigma <- beta sigma - h`` and

        ``s = s_0 / erfi(1 / sqrt 2) * erfi(sigma / (sqrt(2 v) + eps))``.
    """

    betas: tuple[float, ...]
    initial: float
    eps: float
    variance: Array = field(init=False)
    sigma: Array = field(init=False)
    total: float = 0.0
    """S."""

    def __post_init__(self) -> None:
        self.variance = np.zeros(len(self.betas))
        self.sigma = np.full(len(self.betas), 1e-8)

    def update(self, product: float) -> float:
        """Take in h and return the new S."""
        betas = np.array(self.betas)
        self.variance = betas**2 * self.variance + product**2
        self.sigma = betas * self.sigma - product
        argument = self.sigma / (math.sqrt(2) * np.sqrt(self.variance) + self.eps)
        unit = erfi(1 / math.sqrt(2))
        self.total = max(float((self.initial / unit * erfi(argument)).sum()), 0.0)
        return self.total


@dataclass
class Trac(Mitigation):
    """TRAC (Muppidi et al. 2024, arXiv 2405.16642), around whatever optimiser the agent has.

    The optimiser's steps u_t are added up, and the parameters are

        ``theta_t = theta_ref + S_t Delta_t``, ``Delta_t = Delta_{t-1} + u_t``

    with the parameters ``theta_ref`` where they began and a scale S that a betting argument tunes from the
    products of Delta with the (clipped) gradient, see `Scale`: parameters move away from where they began as
    long as that pays, and are drawn back when it does not. Numbers are those of the authors' code
    (github.com/ComputationalRobotics/TRAC), which recovers Delta from the parameters instead, as
    ``(theta_{t-1} - theta_ref) / (S_{t-1} + eps)``, and so forgets it whenever S comes to 0; here it is kept.

    It hooks into the optimiser's ``step``. What changes parameters elsewhere (ER steps, clipping, ReDo) moves
    ``theta_ref`` by as much. What draws them anew (resets, a new head) makes them begin there, and where all
    of them do, S begins anew, too. DQN's target network follows the online one.

    S begins near zero and grows exponentially, so that a run starts slowly.

    Strengths: the authors' discounts and ``initial`` 1e-8; there is nothing to tune.

    Args:
        betas: discounts of the tuners, each in (0, 1].
        initial: s_0, above 0.
        eps: above 0.

    Logs ``plasticity/trac_scale``: S.
    """

    betas: Sequence[float] = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
    initial: float = 1e-8
    eps: float = 1e-8
    _names: dict[str, nn.Parameter] = field(default_factory=dict, init=False, repr=False, compare=False)
    _reference: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _way: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _before: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _scale: Scale | None = field(default=None, init=False, repr=False, compare=False)
    _handles: tuple[Any, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.betas = as_tuple(self.betas)
        if not self.betas or not all(is_number(beta) and 0 < beta <= 1 for beta in self.betas):
            raise InvalidSetting(f"Trac's betas must lie above 0 and at most at 1, not {list(self.betas)}.")
        require_strength(self, initial=self.initial, eps=self.eps)
        if self.initial == 0 or self.eps == 0:
            raise InvalidSetting("Trac's initial and eps must be above 0.")

    def attach(self, agent: "Agent") -> None:
        """Remember where the parameters are, and listen to the optimiser."""
        for handle in self._handles:
            handle.remove()
        self._names = {n: p for network in agent.networks().values() for n, p in network.items()}
        self._reference, self._way = {}, {}
        self.on_redraw(agent, self._names)
        optimizer = agent.policy.optimizer
        self._handles = (
            optimizer.register_step_pre_hook(lambda *_: self._remember()),
            optimizer.register_step_post_hook(lambda *_: self._rescale(agent)),
        )

    def on_redraw(self, agent: "Agent", parameters: Mapping[str, nn.Parameter]) -> None:
        """Here they begin; S, too, if they are all."""
        for name, parameter in parameters.items():
            self._reference[name] = parameter.detach().clone()
            self._way[name] = torch.zeros_like(parameter)
        if self._names.keys() <= parameters.keys():
            self._scale = Scale(tuple(self.betas), self.initial, self.eps)

    def _place(self, name: str) -> Tensor:
        """``theta_ref + S Delta``."""
        assert self._scale is not None
        return self._reference[name] + self._scale.total * self._way[name]

    @torch.no_grad()
    def _remember(self) -> None:
        """Before the optimiser's step."""
        self._before = {name: p.detach().clone() for name, p in self._names.items()}
        for name, place in self._before.items():
            self._reference[name] += place - self._place(name)  # what others did

    @torch.no_grad()
    def _rescale(self, agent: "Agent") -> None:
        """After it: from the optimiser's step to TRAC's."""
        assert self._scale is not None
        products = [(self._way[n] * p.grad).sum() for n, p in self._names.items() if p.grad is not None]
        if not math.isfinite(self._scale.update(torch.stack(products).sum().item())):
            for name, p in self._names.items():
                p.copy_(self._before[name])
            raise NonFiniteLoss("the scale of Trac", agent.gradient_updates)
        for name, p in self._names.items():
            self._way[name] += p - self._before[name]
            p.copy_(self._place(name))

    def values(self) -> dict[str, float]:
        """``trac_scale``."""
        return {} if self._scale is None else {"trac_scale": self._scale.total}

    def state(self) -> dict[str, Any]:
        """The scalars."""
        if self._scale is None:
            return {}
        scale = self._scale
        return {"variance": scale.variance.tolist(), "sigma": scale.sigma.tolist(), "total": scale.total}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put them back."""
        assert self._scale is not None
        self._scale.variance = np.array(state["variance"])
        self._scale.sigma = np.array(state["sigma"])
        self._scale.total = float(state["total"])

    def tensors(self) -> dict[str, Tensor]:
        """Where the parameters began, and Delta."""
        reference = {f"reference/{name}": tensor for name, tensor in self._reference.items()}
        return reference | {f"way/{name}": tensor for name, tensor in self._way.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put them back."""
        for kind, own in (("reference", self._reference), ("way", self._way)):
            for name, tensor in own.items():
                tensor.copy_(tensors[f"{kind}/{name}"])
