"""Plasticity injection: new parameters for the head, without a change of what the network says."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InvalidSetting
from ..features import Frozen
from ..remodel import replace
from ..units import forget
from ..wiring import Wiring, trace
from .base import Mitigation
from .checks import as_tuple

if TYPE_CHECKING:
    from ..base import Agent


class Passage(nn.Module):
    """Where a layer was that now belongs to an `Injected` head: passes on what comes."""

    def forward(self, features: Tensor) -> Tensor:
        """``x -> x``."""
        return features


class Injected(nn.Module):
    """``h(x) + sum_i (f_i(x) - a_i(x))`` over the injections so far: h learns, f_i and a_i are frozen.

    At injection i, ``f_i`` becomes what h was, and h and ``a_i`` the same new network: the sum stays what it
    was, to the last bit, because it is taken from the latest injection to the first, each ``(. - a_i) +
    f_i``.

    Args:
        learner: h.
        times: injections to come.
    """

    def __init__(self, learner: nn.Module, times: int) -> None:
        super().__init__()
        self.learner = learner
        self.before = nn.ModuleList(Frozen(copy.deepcopy(learner)) for _ in range(times))
        self.anchors = nn.ModuleList(Frozen(copy.deepcopy(learner)) for _ in range(times))
        self.count = 0

    def forward(self, features: Tensor) -> Tensor:
        """``[B, D] -> [B, outputs]``."""
        outputs: Tensor = self.learner(features)
        for i in reversed(range(self.count)):
            outputs = (outputs - self.anchors[i](features)) + self.before[i](features)
        return outputs

    def inject(self, fresh: nn.Module) -> None:
        """Go on learning from the parameters of ``fresh``, a network of the same shape."""
        self.before[self.count].body.load_state_dict(self.learner.state_dict())  # type: ignore[union-attr]
        self.anchors[self.count].body.load_state_dict(fresh.state_dict())  # type: ignore[union-attr]
        self.learner.load_state_dict(fresh.state_dict())
        self.count += 1

    def get_extra_state(self) -> Tensor:
        """The count, as part of the state dict."""
        return torch.tensor(self.count)

    def set_extra_state(self, state: Any) -> None:
        """Put it back."""
        self.count = int(state)


@dataclass
class PlasticityInjection(Mitigation):
    """Plasticity injection (Nikishin et al. 2023, arXiv 2305.15555), see `Injected`.

    The head of each network is its last hidden layer and its output layer; what lies before goes on learning
    as it is. At the start of the given tasks every head is frozen as it stands and a fresh one, drawn as at
    construction, learns the difference to its own beginning. The optimiser and the other mitigations forget
    the head. The number of trained parameters stays what it was; a forward pass of a head costs three, five,
    ... times as much after one, two, ... injections. DQN's target network becomes a copy of the online
    network at that moment, so that it holds the same frozen parts.

    Strengths: the paper injects once, in the middle of training.

    Args:
        tasks: numbers (from 0) of the tasks at whose start to inject.

    Logs ``plasticity/injections``: how many there have been.
    """

    remodel_rank: ClassVar[int] = 2
    tasks: Sequence[int] = (1,)
    _heads: tuple[Injected, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.tasks = as_tuple(self.tasks)
        if not self.tasks or not all(type(task) is int and task >= 0 for task in self.tasks):
            raise InvalidSetting(
                "PlasticityInjection's tasks must be numbers of tasks, counted from 0, at least one: "
                f"for example [1], not {list(self.tasks)!r}."
            )

    def note(self, tasks: int) -> str | None:
        """The tasks at which to inject that there will not be."""
        if not (missing := [task for task in self.tasks if task >= tasks]):
            return None
        return (
            f"tasks = {list(self.tasks)}: the run has the tasks 0 to {tasks - 1}, so nothing is injected at "
            f"{', '.join(map(str, missing))}"
        )

    def remodel(self, agent: "Agent") -> None:
        """Give every network a head that can be injected into.

        Raises:
            InvalidSetting: a network has no hidden layer of its own right before its output, or the head's
                input is asked for elsewhere.
        """
        if getattr(agent, "use_sde", False):
            raise InvalidSetting(
                "PlasticityInjection moves the last hidden layer, whose features gSDE needs: use_sde = false."
            )
        if getattr(agent, "new_head", "keep") != "keep":
            raise InvalidSetting("PlasticityInjection keeps heads: use new_head = 'keep'.")
        wiring = trace(agent)
        for head in wiring.heads:
            chain = _chain(wiring, head)
            learner = nn.Sequential(*chain)
            for module in chain[:-1]:
                replace(agent.policy, module, Passage())
            replace(agent.policy, head, Injected(learner, len(self.tasks)))

    def attach(self, agent: "Agent") -> None:
        """Find the heads."""
        trained = {id(p) for network in agent.networks().values() for p in network.values()}
        self._heads = tuple(
            module
            for module in agent.policy.modules()
            if isinstance(module, Injected) and id(next(module.learner.parameters())) in trained
        )

    def on_task_start(self, agent: "Agent", task: int) -> None:
        """Inject, if it is one of the tasks.

        Raises:
            InvalidSetting: one of them begins more often than they say.
        """
        if task not in self.tasks:
            return
        if any(head.count == len(head.before) for head in self._heads):
            raise InvalidSetting(
                f"PlasticityInjection's tasks {list(self.tasks)} leave room for as many injections, and task "
                f"{task} begins after all of them: name each task as often as it begins."
            )
        fresh = dict(agent.fresh().policy.named_modules())
        names = {module: name for name, module in agent.policy.named_modules()}
        learning: dict[str, nn.Parameter] = {}
        for head in self._heads:
            head.inject(fresh[names[head]].learner)
            learning |= dict(head.learner.named_parameters(prefix=f"{names[head]}.learner"))
        forget(agent.policy.optimizer, learning.values())
        agent.after_redraw(learning)

    def values(self) -> dict[str, float]:
        """``injections``."""
        return {"injections": float(self._heads[0].count)} if self._heads else {}


def _chain(wiring: Wiring, head: nn.Module) -> list[nn.Module]:
    """The last hidden layer before ``head``, its normalisations and activation, and ``head``."""
    before = [layer for layer in wiring.layers.values() if head in layer.consumers]
    if len(before) != 1 or before[0].consumers != (head,) or not wiring.direct[before[0].name]:
        raise InvalidSetting(
            "PlasticityInjection needs a hidden layer in each network that leads to its output layer and "
            "nowhere else; give every network at least one hidden layer after its features extractor."
        )
    layer = before[0]
    return [layer.incoming, *layer.norms, layer.activation, head]
