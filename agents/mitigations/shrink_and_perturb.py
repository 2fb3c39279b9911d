"""Shrink and perturb: scale the weights down and add noise."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..types import Update
from ..wiring import trace
from .base import Mitigation
from .checks import require_count, require_fraction, require_member, require_strength

if TYPE_CHECKING:
    from ..base import Agent

_MOMENTS = ("update", "task")
_DISTRIBUTIONS = ("normal", "initial")


@dataclass
class ShrinkAndPerturb(Mitigation):
    """``w <- shrink * w + noise * e`` (Ash & Adams 2020, arXiv 1910.08475) for every weight and bias.

    ``e`` is standard normal (``"normal"``), or a fresh draw of the very weights as at construction
    (``"initial"``), so that noise has each layer's own scale. Weights are those of linear and convolutional
    layers; the log standard deviation and normalisations stay. The optimiser's moments stay, too. DQN's
    target network follows the online one, at a switch at once. With shrink 1 and noise 0 nothing happens, and
    nothing is drawn.

    Strengths: continual backprop's authors (github.com/shibhansh/loss-of-plasticity) shrink by weight decay
    and add normal noise of 1e-4, 1e-5, 1e-6 after every update, as does the reference of arXiv 2509.22335 on
    Slippery Ant; the default is the middle, for use with `L2`. Without it: L2-Init's authors have
    ``shrink = 0.9999, noise = 1e-4, distribution = "initial"`` after every update (searched in 1e-2..1e-5).

    Args:
        shrink: factor, from 0 to 1.
        noise: at least 0.
        when: after every ``"update"``, or at the start of every ``"task"`` but the first.
        every: updates from one to the next, where ``when`` is ``"update"``.
        distribution: of the noise.

    Logs ``plasticity/perturbations``: how often it has acted.
    """

    shrink: float = 1.0
    noise: float = 1e-5
    when: str = "update"
    every: int = 1
    distribution: str = "normal"
    _weights: dict[str, nn.Parameter] = field(default_factory=dict, init=False, repr=False, compare=False)
    _count: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_fraction(self, shrink=self.shrink)
        require_strength(self, noise=self.noise)
        require_member(self, _MOMENTS, when=self.when)
        require_member(self, _DISTRIBUTIONS, distribution=self.distribution)
        require_count(self, every=self.every)

    def attach(self, agent: "Agent") -> None:
        """Find the weights and biases."""
        self._weights = {
            f"{name}.{kind}": parameter
            for name, layer in trace(agent).weighted.items()
            for kind, parameter in layer.named_parameters()
        }
        self._count = 0

    def after_update(self, agent: "Agent", update: Update) -> None:
        """Act, if due."""
        if self.when == "update" and (update.count + 1) % self.every == 0:
            self.apply(agent)

    def on_task_start(self, agent: "Agent", task: int) -> None:
        """Act, if due."""
        if self.when == "task" and task > 0:
            self.apply(agent)
            agent.follow()

    @torch.no_grad()
    def apply(self, agent: "Agent") -> None:
        """Shrink and perturb."""
        weights: list[Tensor] = list(self._weights.values())
        if self.shrink != 1:
            torch._foreach_mul_(weights, self.shrink)
        if self.noise > 0:
            torch._foreach_add_(weights, self._draw(agent), alpha=self.noise)
        self._count += 1

    def _draw(self, agent: "Agent") -> list[Tensor]:
        if self.distribution == "normal":  # on the CPU: its generator's state is saved
            return [torch.randn(w.shape).to(w.device) for w in self._weights.values()]
        fresh = dict(agent.fresh().policy.named_parameters())
        return [fresh[name].detach() for name in self._weights]

    def values(self) -> dict[str, float]:
        """``perturbations``."""
        return {"perturbations": float(self._count)}

    def state(self) -> dict[str, int]:
        """How often it has acted."""
        return {"count": self._count}

    def load_state(self, state: dict[str, int]) -> None:
        """Put it back."""
        self._count = state["count"]
