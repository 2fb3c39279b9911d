"""Continual backprop: replace the least useful of the mature units, a few at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InvalidSetting
from ..types import Update
from ..units import UnitLayer, compensate, renew
from ..wiring import trace
from .base import Mitigation
from .checks import require_count, require_fraction
from .redo import FROZEN_HEADS, unit_layers

if TYPE_CHECKING:
    from ..base import Agent


@dataclass
class _Record:
    """What is known of the units of one layer."""

    utility: Tensor  # [units], exponential mean, biased towards 0
    means: list[Tensor]  # of x for each consumer, [parts, units, positions], likewise
    age: Tensor  # [units], updates since they were made
    due: Tensor  # [], replacements that are due, a fraction

    def tensors(self) -> dict[str, Tensor]:
        means = {f"mean-{i}": mean for i, mean in enumerate(self.means)}
        return {"utility": self.utility, **means, "age": self.age, "due": self.due}


@dataclass
class ContinualBackprop(Mitigation):
    """Continual backprop (Dohare et al. 2024, Nature 632; arXiv 2306.13812).

    After every update each unit i of a hidden layer has its contribution utility updated,

        ``u_i <- decay u_i + (1 - decay) mean_w (|w| mean|x_w|)``,

    the means over its outgoing weights w and, for each, over what it multiplies in the minibatch: x_w is the
    unit's output as it enters the next layer, pooled if there is pooling, at one position if channels were
    flattened, at all places of the kernel before a convolution, and one of two where an activation has two
    outputs. In a plain network all x_w of a unit are its output h, and this is ``mean|w| mean|h|``. Each unit
    ages by one. ``replacement_rate`` times the number of units older than ``maturity`` is added to what is
    due; whenever that reaches one, the mature unit of least ``u_i / (1 - decay^age)`` is replaced: incoming
    weights drawn as at construction, outgoing weights zero, the sum of ``w mean x_w`` (an exponential mean,
    too) over the old outgoing weights added to the biases of the next layer, so that this says on average
    what it said before, age and utility zero, the optimiser's moments cleared (see ``units.renew``). That is
    the authors' code for reinforcement learning (github.com/shibhansh/loss-of-plasticity, lop/algos/gnt.py)
    with its ``accumulate``; their Adam counts steps per weight, torch's per tensor; for convolutions it has a
    file of its own (convGnT.py), which takes the mean of a whole channel before a convolution, borders or
    not, and compensates nothing. (The jax reference of arXiv 2509.22335, github.com/KevinGuo27/lop-jax, takes
    the *largest* utilities and draws outgoing weights at random.)

    Only the online network of DQN is changed; the target network follows. Layers in a residual stream are
    left alone. Where a layer is drawn anew (resets), all of its units are new.

    Strengths of the authors: rate 1e-4, decay 0.99, maturity 10,000 updates (PPO on Ant and Slippery Ant,
    with weight decay 1e-4 and Adam's betas at 0.99), 1e-5 and 1,000 (incremental CIFAR).

    Args:
        replacement_rate: share of the mature units that is replaced per update, from 0 to 1.
        maturity: updates for which a new unit is left alone.
        decay: of the means, from 0 to below 1.
        layers: names or patterns of hidden layers; by default all.

    Logs ``plasticity/cbp_replaced``, how many have been replaced so far, and ``plasticity/cbp_utility``, the
    mean utility.
    """

    conflicts: ClassVar[dict[str, str]] = {"PlasticityInjection": FROZEN_HEADS}
    replacement_rate: float = 1e-4
    maturity: int = 10_000
    decay: float = 0.99
    layers: Sequence[str] = ("*",)
    _layers: dict[str, UnitLayer] = field(default_factory=dict, init=False, repr=False, compare=False)
    _records: dict[str, _Record] = field(default_factory=dict, init=False, repr=False, compare=False)
    _replaced: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_fraction(self, replacement_rate=self.replacement_rate, decay=self.decay)
        if self.decay == 1:
            raise InvalidSetting("ContinualBackprop needs a decay below 1: with 1 no mean would ever begin.")
        require_count(self, maturity=self.maturity)

    def attach(self, agent: "Agent") -> None:
        """Find the units; all are new."""
        self._layers = unit_layers(self, trace(agent), self.layers)
        self._records = {name: _new_record(layer) for name, layer in self._layers.items()}
        self._replaced = 0

    def on_redraw(self, agent: "Agent", parameters: Mapping[str, nn.Parameter]) -> None:
        """The units of redrawn layers are new."""
        redrawn = set(parameters.values())
        for name, layer in self._layers.items():
            if layer.incoming.weight in redrawn:
                self._records[name] = _new_record(layer)

    @torch.no_grad()
    def after_update(self, agent: "Agent", update: Update) -> None:
        """Judge every unit on this minibatch, and replace those that are due."""
        consumers = dict.fromkeys(c for layer in self._layers.values() for c in layer.consumers)
        inputs = agent.inputs(consumers, update.observations)
        for name, layer in self._layers.items():
            self._judge(layer, self._records[name], [inputs[consumer] for consumer in layer.consumers])
        # The deepest first, so that outgoing weights end at zero even where they lead into a new unit.
        for name, layer in reversed(self._layers.items()):
            units = self._due(self._records[name])
            if len(units):
                self._replace(agent, layer, self._records[name], units)

    def _judge(self, layer: UnitLayer, record: _Record, inputs: list[Tensor]) -> None:
        given = list(zip(layer.consumers, inputs, strict=True))
        contribution = layer.contribution([layer.multiplied(consumer, x.abs()) for consumer, x in given])
        record.utility.lerp_(contribution, 1 - self.decay)
        for mean, (consumer, x) in zip(record.means, given, strict=True):
            mean.lerp_(layer.multiplied(consumer, x), 1 - self.decay)
        record.age += 1

    def _due(self, record: _Record) -> Tensor:
        """The units to replace now, ``[n]``."""
        mature = (record.age > self.maturity).nonzero().flatten()
        record.due += self.replacement_rate * len(mature)
        count = min(int(record.due), len(mature))
        record.due -= count
        utility = record.utility[mature] / self._correction(record.age[mature])
        return mature[torch.argsort(utility, stable=True)[:count]]

    def _replace(self, agent: "Agent", layer: UnitLayer, record: _Record, units: Tensor) -> None:
        correction = self._correction(record.age[units])[:, None]
        compensate(layer, units, [mean[:, units] / correction for mean in record.means])
        renew(layer, units, *agent.fresh_units(layer.incoming, len(units)), agent.policy.optimizer)
        record.utility[units] = 0
        for mean in record.means:
            mean[:, units] = 0
        record.age[units] = 0
        self._replaced += len(units)

    def _correction(self, age: Tensor) -> Tensor:
        """What an exponential mean that began at 0 lacks, as with Adam's moments."""
        return 1 - self.decay**age

    def values(self) -> dict[str, float]:
        """``cbp_replaced`` and ``cbp_utility``."""
        if not self._records:
            return {}
        utilities = torch.cat(
            [r.utility / self._correction(r.age.clamp(min=1)) for r in self._records.values()]
        )
        return {"cbp_replaced": float(self._replaced), "cbp_utility": utilities.mean().item()}

    def state(self) -> dict[str, int]:
        """How many have been replaced."""
        return {"replaced": self._replaced}

    def load_state(self, state: dict[str, int]) -> None:
        """Put it back."""
        self._replaced = state["replaced"]

    def tensors(self) -> dict[str, Tensor]:
        """The records."""
        return {f"{name}/{key}": t for name, r in self._records.items() for key, t in r.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put them back."""
        for name, record in self._records.items():
            for key, tensor in record.tensors().items():
                tensor.copy_(tensors[f"{name}/{key}"])


def _new_record(layer: UnitLayer) -> _Record:
    zeros = layer.incoming.weight.detach().new_zeros
    return _Record(
        utility=zeros(layer.width),
        means=[torch.zeros_like(layer.outgoing(consumer)[0].detach()) for consumer in layer.consumers],
        age=zeros(layer.width),
        due=torch.zeros((), dtype=torch.float64),
    )
