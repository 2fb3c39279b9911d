"""Resets at switches: of the whole network, or of its last layers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from ..errors import InvalidSetting
from ..units import forget
from ..wiring import trace
from .base import Mitigation
from .checks import require_count

if TYPE_CHECKING:
    from ..base import Agent

_FROZEN = {"PlasticityInjection": "what it has frozen would not be reset; choose one of them."}


@torch.no_grad()
def redraw(agent: "Agent", names: Iterable[str]) -> None:
    """Draw parameters anew as at construction, and let whatever remembers them forget.

    That is the optimiser, buffers of the same modules (running statistics of batch norm), DQN's target, which
    follows, and the other mitigations.

    Args:
        agent: whose.
        names: of parameters, as in the policy.
    """
    fresh, policy = agent.fresh().policy, agent.policy
    own = dict(policy.named_parameters())
    chosen = {name: own[name] for name in names}
    for name, parameter in chosen.items():
        parameter.copy_(fresh.get_parameter(name))
    for module in {name.rpartition(".")[0] for name in chosen}:
        for name, buffer in policy.get_submodule(module).named_buffers(recurse=False):
            buffer.copy_(fresh.get_submodule(module).get_buffer(name))
    forget(policy.optimizer, chosen.values())
    agent.after_redraw(chosen)


@dataclass
class _AtSwitches(Mitigation, ABC):
    """What resets have in common: they act at the start of every task but the first, and count."""

    conflicts: ClassVar[dict[str, str]] = _FROZEN
    _count: int = field(default=0, init=False, repr=False, compare=False)

    def attach(self, agent: "Agent") -> None:
        self._count = 0

    def on_task_start(self, agent: "Agent", task: int) -> None:
        if task > 0:
            self.apply(agent)
            self._count += 1

    @abstractmethod
    def apply(self, agent: "Agent") -> None:
        """Reset what is to be reset."""

    def values(self) -> dict[str, float]:
        """``resets``."""
        return {"resets": float(self._count)}

    def state(self) -> dict[str, int]:
        """How often it has acted."""
        return {"count": self._count}

    def load_state(self, state: dict[str, int]) -> None:
        """Put it back."""
        self._count = state["count"]


@dataclass
class FullReset(_AtSwitches):
    """At every switch all parameters are drawn anew; the optimiser and the other mitigations start afresh.

    The agent keeps the rest: DQN's replay buffer (Nikishin et al. 2022, arXiv 2205.07802, whose resets rely
    on it), running means of observations, counters. The run setting ``reset = true`` makes a new agent at
    every task instead, buffer and all. DQN's target network becomes a copy of the new online network.

    Logs ``plasticity/resets``: how often it has acted.
    """

    def apply(self, agent: "Agent") -> None:
        """Draw everything anew."""
        redraw(agent, [name for network in agent.networks().values() for name in network])


@dataclass
class LayerReset(_AtSwitches):
    """At every switch the last layers of each network are drawn anew.

    Nikishin et al. 2022 (arXiv 2205.07802). With normalisations that belong to them; the optimiser (step
    counters included) and the other mitigations forget them. DQN's target network becomes a copy of the
    online network at that moment.

    Strengths: the paper resets the last layer (SPR), the last three (DrQ) or all (SAC), every 2e4 to 2e5
    gradient updates; here the switches are the occasions.

    Args:
        last: number of linear or convolutional layers, counted from each network's output.

    Logs ``plasticity/resets``: how often it has acted.
    """

    last: int = 1

    def __post_init__(self) -> None:
        require_count(self, last=self.last)

    def attach(self, agent: "Agent") -> None:
        """See that there are so many layers."""
        super().attach(agent)
        for names in trace(agent).order:
            if len(names) < self.last:
                raise InvalidSetting(
                    f"LayerReset's last is {self.last}, but a network has only {len(names)} layers: "
                    f"{', '.join(names)}. Use FullReset for all of them."
                )

    def apply(self, agent: "Agent") -> None:
        """Draw the last layers anew."""
        wiring = trace(agent)
        chosen = {name for names in wiring.order for name in names[-self.last :]}
        modules: dict[str, nn.Module] = {name: wiring.weighted[name] for name in chosen}
        own = dict(agent.policy.named_modules())
        names = {module: name for name, module in own.items()}
        for layer in wiring.layers.values():
            if layer.incoming in modules.values():
                modules |= {names[norm]: norm for norm in layer.norms}
        redraw(
            agent, [f"{n}.{kind}" for n, module in modules.items() for kind, _ in module.named_parameters()]
        )
