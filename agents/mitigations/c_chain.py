"""C-CHAIN: keep what the network says about other data from churning while it learns."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ..errors import InvalidSetting
from ..types import Objective, Observations, Seen, Update
from .base import Mitigation
from .checks import require_count, require_strength

if TYPE_CHECKING:
    from ..base import Agent


def squared_churn(now: Tensor, before: Tensor) -> Tensor:
    """``mean (now - before)^2`` over samples and outputs: values, Q-values, means of Gaussians."""
    return (now - before).square().mean()


def categorical_churn(now: Tensor, before: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """``(D, H)``: mean ``KL(before || now)`` of softmaxes, and the mean entropy of ``before``.

    Their sum is the cross-entropy of ``now`` relative to ``before``.

    Args:
        now: logits ``[B, K]``.
        before: the same of the other network.
        sizes: of the softmaxes that lie side by side in K.
    """
    divergence, entropy = now.new_zeros(()), now.new_zeros(())
    for new, old in zip(torch.split(now, sizes, dim=-1), torch.split(before, sizes, dim=-1), strict=True):
        log_p, log_q = old.log_softmax(dim=-1), new.log_softmax(dim=-1)
        divergence = divergence + (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()
        entropy = entropy - (log_p.exp() * log_p).sum(dim=-1).mean()
    return divergence, entropy


class _Strengths(NamedTuple):
    """Those of the authors' code; counts are of rollouts (PPO) or gradient updates (the others)."""

    ratio: float
    initial: float
    least: float
    warmup: int
    window: int


_DEFAULTS = {
    "categorical policy": _Strengths(1e4, 1.0, 1.0, 10, 50),  # classic control
    "gaussian policy": _Strengths(0.05, 100.0, 0.0, 50, 100),  # DeepMind control
    "q-values": _Strengths(0.01, 50.0, 0.0, 10_000, 50_000),  # MinAtar
    "classifier": _Strengths(0.01, 1.0, 0.0, 1_000, 10_000),  # ours: the authors have no classifier
}


@dataclass
class CChain(Mitigation):
    """Continual churn approximated reduction (Tang et al., ICML 2025, openreview.net/forum?id=EkoFXfSauv).

    Learning from one minibatch changes the outputs on all other data: churn. The descended loss gains
    ``c * D(before, now)`` on *another* minibatch from the same rollout or replay buffer, where ``now`` is the
    network and ``before`` what it was one update earlier. As in the authors' code
    (github.com/bluecontra/C-CHAIN), D is

    - for PPO with discrete actions the cross-entropy of the policies; here less the entropy of ``before``, a
      constant, so that D is 0 at equal networks;
    - for PPO with continuous actions the mean squared difference of the means;
    - for DQN the mean squared difference of all Q-values;

    and for a classifier as for discrete actions. PPO's critic is left to itself, as there, and DQN's target
    network plays no part.

    The coefficient c is ``initial`` at first, and after a warm-up ``max(ratio * mean |L| / mean (D + H),
    least)``, where L is PPO's actor loss, the TD loss or the cross-entropy, and H the entropy where D is a KL
    divergence. Of each rollout of PPO there is one L and one D: as in that code, for discrete actions their
    averages over all of its minibatches, signs included; for continuous actions those of the last minibatch.
    The means are exponential with the time constant ``window`` (over the last ``window`` there). They go on
    over all tasks, as in the authors' MinAtar code; their PPO begins anew with each task, which has 200
    rollouts there or more, whereas tasks may be shorter than the warm-up here.

    Strengths of that code, for PPO counted in rollouts, for DQN in updates: ratio 1e4, initial 1, least 1,
    warmup 10, window 50 (discrete actions, classic control, where the actor's loss is near zero); 0.05, 100,
    0, 50, 100 (continuous actions); 0.01, 50, 0, 10,000, 50,000 (DQN). They are the defaults, each where it
    applies; a classifier's are ours.

    Args:
        ratio: of the penalty to the loss.
        initial: the first coefficient.
        least: the coefficient is never below it.
        warmup: rollouts (PPO) or updates on the initial coefficient, once in the agent's life.
        window: rollouts (PPO) or updates, time constant of the means.

    Logs ``plasticity/churn``, D at the latest update, and ``plasticity/churn_coefficient``.
    """

    ratio: float | None = None
    initial: float | None = None
    least: float | None = None
    warmup: int | None = None
    window: int | None = None
    _kind: str = field(default="", init=False, repr=False, compare=False)
    _sizes: tuple[int, ...] = field(default=(), init=False, repr=False, compare=False)
    _before: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    _other: Observations | None = field(default=None, init=False, repr=False, compare=False)
    _reference: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    _means: "_Means" = field(default_factory=lambda: _Means(), init=False, repr=False, compare=False)
    _churn: float | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("ratio", "initial", "least"):
            if getattr(self, name) is not None:
                require_strength(self, **{name: getattr(self, name)})
        require_count(self, warmup=self.warmup, window=self.window)

    def attach(self, agent: "Agent") -> None:
        """See what kind of outputs there are.

        Raises:
            InvalidSetting: the policy is neither categorical nor Gaussian.
        """
        space = agent.action_space
        names = agent.objectives().keys()
        if "actor" in names and isinstance(space, spaces.Box):
            self._kind = "gaussian policy"
        elif "q" in names:
            self._kind = "q-values"
        elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            self._kind = "categorical policy" if "actor" in names else "classifier"
            self._sizes = tuple(int(n) for n in getattr(space, "nvec", [getattr(space, "n", 0)]))
        else:
            raise InvalidSetting(f"CChain knows no churn for the action space {space}.")
        self._before = {}
        self._reference = None
        self._means = _Means()

    @property
    def coefficient(self) -> float:
        """C at the present."""
        strengths = self._strengths
        if self._means.count < strengths.warmup:
            return strengths.initial
        loss, churn = self._means.corrected(strengths.window)
        return max(strengths.ratio * loss / (churn + 1e-8), strengths.least)

    @property
    def _strengths(self) -> _Strengths:
        given = {name: getattr(self, name) for name in _Strengths._fields}
        return _DEFAULTS[self._kind]._replace(**{k: v for k, v in given.items() if v is not None})

    def before_update(self, agent: "Agent", update: Update) -> None:
        """Draw the other minibatch, and see what the network of one update ago says about it."""
        objective = self._objective(agent)
        seen = update.observations
        size = len(next(iter(seen.values()))) if isinstance(seen, dict) else len(seen)
        self._other = agent.sample_observations(size)
        if self._before:
            with torch.no_grad(), _exchanged(objective.parameters, self._before):
                self._reference = self._outputs(objective, self._other)
        self._before = {name: p.detach().clone() for name, p in objective.parameters.items()}

    def penalty(self, agent: "Agent", observations: Observations) -> Tensor | None:
        """Coefficient times churn; nothing at a task's first update, which has nothing before it."""
        if self._reference is None or self._other is None:
            return None
        now = self._outputs(self._objective(agent), self._other)
        churn, entropy = self._distance(now, self._reference)
        losses = agent.losses_of_networks()
        loss = losses["actor"] if "actor" in losses else next(iter(losses.values()))
        self._churn = churn.item()
        coefficient = self.coefficient
        self._means.add(
            loss.item(),
            self._churn + entropy.item(),
            group=agent.num_timesteps if self._kind.endswith("policy") else agent.gradient_updates,
            window=self._strengths.window,
            last=self._kind == "gaussian policy",
        )
        return coefficient * churn

    def on_task_start(self, agent: "Agent", task: int) -> None:
        """What a switch does to the network (a new head, a reset) is no churn: compare with nothing."""
        self._before, self._reference = {}, None

    def _objective(self, agent: "Agent") -> Objective:
        objectives = agent.objectives()
        return objectives["actor"] if "actor" in objectives else next(iter(objectives.values()))

    def _outputs(self, objective: Objective, observations: Observations) -> Tensor:
        outputs = objective.outputs(Seen(observations))
        return outputs.chunk(2, dim=-1)[0] if self._kind == "gaussian policy" else outputs

    def _distance(self, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        if self._sizes:
            return categorical_churn(now, before, list(self._sizes))
        return squared_churn(now, before), now.new_zeros(())

    def values(self) -> dict[str, float]:
        """``churn`` and ``churn_coefficient``."""
        return {} if self._churn is None else {"churn": self._churn, "churn_coefficient": self.coefficient}

    def state(self) -> dict[str, Any]:
        """The means and the latest value."""
        return {"means": vars(self._means), "churn": self._churn}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self._means, self._churn = _Means(**state["means"]), state["churn"]

    def tensors(self) -> dict[str, Tensor]:
        """The parameters before the latest update."""
        return dict(self._before)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put them back."""
        self._before = dict(tensors)


@dataclass
class _Means:
    """Exponential means of |loss| and churn over groups of updates: a rollout's are one observation.

    That is their average, or the last of them.
    """

    count: int = 0
    loss: float = 0.0
    churn: float = 0.0
    group: int | None = None
    group_loss: float = 0.0
    group_churn: float = 0.0
    group_size: int = 0

    def add(self, loss: float, churn: float, group: int, window: int, last: bool = False) -> None:
        """Count one update; the group it belongs to is complete when another one begins.

        Args:
            loss: of this update.
            churn: of this update.
            group: any number of its own.
            window: the time constant.
            last: a group counts by its last update, not by their average.
        """
        if group != self.group:
            self._close(window)
        if group != self.group or last:
            self.group, self.group_loss, self.group_churn, self.group_size = group, 0.0, 0.0, 0
        self.group_loss += loss
        self.group_churn += churn
        self.group_size += 1

    def _close(self, window: int) -> None:
        if self.group_size:
            keep = 1 - 1 / window
            self.loss = keep * self.loss + abs(self.group_loss / self.group_size) / window
            self.churn = keep * self.churn + self.group_churn / self.group_size / window
            self.count += 1

    def corrected(self, window: int) -> tuple[float, float]:
        """The means without the bias of their beginning at 0."""
        weight = 1 - (1 - 1 / window) ** self.count
        return (self.loss / weight, self.churn / weight) if weight else (0.0, 0.0)


@contextmanager
def _exchanged(parameters: dict[str, nn.Parameter], others: dict[str, Tensor]) -> Iterator[None]:
    """Within the block the parameters have other values; no graph may be built in it."""
    own = {name: p.data for name, p in parameters.items()}
    try:
        for name, p in parameters.items():
            p.data = others[name].to(p.device)
        yield
    finally:
        for name, p in parameters.items():
            p.data = own[name]
