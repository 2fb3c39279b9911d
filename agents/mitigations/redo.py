"""ReDo: recycle dormant units."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..errors import InvalidSetting
from ..types import Update
from ..units import UnitLayer, renew
from ..wiring import Wiring, trace
from .base import Mitigation
from .checks import require_count, require_strength, selected

if TYPE_CHECKING:
    from ..base import Agent

FROZEN_HEADS = "renewing units of the layers before a head would change what its frozen parts say."


def dormancy_scores(activity: Tensor) -> Tensor:
    """``s_i = E|h_i| / mean_k E|h_k|`` of a layer, ``[units]``; all zero for a dead layer.

    The mean, not the sum: the paper's text has the scores sum to one, its formula and code do not
    (github.com/google/dopamine/issues/209).

    Args:
        activity: E|h_i|, ``[units]``.
    """
    return activity / (activity.mean() + 1e-9)


def unit_layers(owner: object, wiring: Wiring, patterns: Sequence[str]) -> dict[str, UnitLayer]:
    """The layers that match, whose units can be told apart.

    Raises:
        InvalidSetting: a pattern matches none of them, or there are none.
    """
    if not wiring.layers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in wiring.skipped.items())
        raise InvalidSetting(
            f"{type(owner).__name__} needs hidden layers whose units can be told apart, and there are none "
            f"({reasons or 'the networks are linear'})."
        )
    return {name: wiring.layers[name] for name in selected(owner, patterns, wiring.layers)}


@dataclass
class ReDo(Mitigation):
    """Recycling dormant neurons (Sokar et al. 2023, arXiv 2302.12902).

    Every so many updates a unit whose ``dormancy_scores`` on a sample of the rollout or replay buffer is at
    most the threshold is renewed: incoming weights and bias drawn as at construction, outgoing weights zero,
    the optimiser's moments of both cleared (see ``units.renew``, also for what a first port to torch had got
    wrong). Units are outputs of linear layers and channels of convolutions, the output layers' excepted. A
    dead ReLU unit's renewal changes no output; that of a merely dormant one takes away the little it said.

    The online network alone is recycled; DQN's target network follows at its next update, as in the authors'
    code (github.com/google/dopamine, labs/redo). Layers whose units cannot be told apart, because a residual
    stream runs through them, are left alone, as there.

    Strengths: threshold 0.1 and every 1,000 updates are what a port and continual backprop's authors use (the
    latter every 100 with PPO on Ant); scores are from 256 samples in the authors' code.

    Args:
        threshold: at most this score is dormant; 0 recycles the dead only.
        every: updates from one recycling to the next.
        samples: observations behind the scores.
        layers: names or patterns of hidden layers; by default all.

    Logs, as of the latest recycling, ``plasticity/redo_dormant``, the share of dormant units before it, and
    ``plasticity/redo_recycled``, how many have been recycled so far.
    """

    conflicts: ClassVar[dict[str, str]] = {"PlasticityInjection": FROZEN_HEADS}
    threshold: float = 0.1
    every: int = 1000
    samples: int = 256
    layers: Sequence[str] = ("*",)
    _recycled: int = field(default=0, init=False, repr=False, compare=False)
    _dormant: float = field(default=0.0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_strength(self, threshold=self.threshold)
        require_count(self, every=self.every, samples=self.samples)

    def attach(self, agent: "Agent") -> None:
        """See that there are units to recycle."""
        unit_layers(self, trace(agent), self.layers)
        self._recycled, self._dormant = 0, 0.0

    def after_update(self, agent: "Agent", update: Update) -> None:
        """Recycle, if due."""
        if (update.count + 1) % self.every == 0:
            self.recycle(agent)

    @torch.no_grad()
    def recycle(self, agent: "Agent") -> None:
        """Renew all dormant units."""
        features = agent.features(agent.sample_observations(self.samples))
        layers = unit_layers(self, trace(agent), self.layers)
        dormant = {
            name: (dormancy_scores(layer.activity(features[name])) <= self.threshold).nonzero().flatten()
            for name, layer in layers.items()
        }
        # The deepest first, so that outgoing weights end at zero even where they lead into a renewed unit.
        for name, layer in reversed(layers.items()):
            units = dormant[name]
            if len(units):
                renew(layer, units, *agent.fresh_units(layer.incoming, len(units)), agent.policy.optimizer)
        count = sum(len(units) for units in dormant.values())
        self._recycled += count
        self._dormant = count / sum(layer.width for layer in layers.values())

    def values(self) -> dict[str, float]:
        """``redo_dormant`` and ``redo_recycled``."""
        return {"redo_dormant": self._dormant, "redo_recycled": float(self._recycled)}

    def state(self) -> dict[str, float]:
        """The two."""
        return {"dormant": self._dormant, "recycled": self._recycled}

    def load_state(self, state: dict[str, float]) -> None:
        """Put them back."""
        self._dormant, self._recycled = state["dormant"], int(state["recycled"])
