"""Hidden units: which weights lead into each of them and which lead out, and giving them new ones.

A *unit* is one output of a linear layer or one channel of a convolution, before its activation. `wiring`
finds those of an agent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

Weighted: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
"""Layers that have a weight ``[out, in, ...]`` and perhaps a bias ``[out]``."""

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, _BatchNorm)


@dataclass(frozen=True, eq=False)
class UnitLayer:
    """One hidden layer as a row of units.

    Attributes:
        name: as in ``Agent.hidden_layers``.
        incoming: row ``i`` of its weight leads into unit ``i``.
        norms: normalisations between it and the activation; their scale and shift are per unit.
        activation: the activation module.
        parts: outputs of the activation per unit: 1, or 2 where it concatenates two functions.
        consumers: the layers that the units lead to: the next one, or several heads.
    """

    name: str
    incoming: Weighted
    norms: tuple[nn.Module, ...]
    activation: nn.Module
    parts: int
    consumers: tuple[Weighted, ...]

    @property
    def width(self) -> int:
        """Number of units."""
        return self.incoming.weight.shape[0]

    def outgoing(self, consumer: Weighted, tensor: Tensor | None = None) -> Tensor:
        """The weights from the units to a consumer, ``[out, parts, units, positions]``: a view to write to.

        ``positions`` are the places at which a channel's picture was flattened, times the taps of a kernel.

        Args:
            consumer: one of ``consumers``.
            tensor: of the shape of its weight (a moment of the optimiser, a gradient), to view instead of it.
        """
        weight = consumer.weight if tensor is None else tensor
        return weight.view(len(weight), self.parts, self.width, -1)

    def contribution(self, magnitudes: Sequence[Tensor]) -> Tensor:
        """Mean over a unit's outgoing weights w of ``|w| E|x|``, x what w multiplies, ``[units]``.

        Args:
            magnitudes: E|x| for each consumer, ``[parts, units, positions]``, see `multiplied`.
        """
        weights = [self.outgoing(consumer).detach().abs() for consumer in self.consumers]
        count = sum(w[:, :, 0].numel() for w in weights)
        sums = [(w.sum(dim=0) / count * x).sum(dim=(0, 2)) for w, x in zip(weights, magnitudes, strict=True)]
        return torch.stack(sums).sum(dim=0)

    def multiplied(self, consumer: Weighted, inputs: Tensor) -> Tensor:
        """The mean of what the weights to a consumer multiply, ``[parts, units, positions]``.

        Over samples and, for a convolution, the places that the kernel is laid on, borders included.

        Args:
            consumer: one of ``consumers``.
            inputs: its own, ``[B, ...]``, or their absolute values.
        """
        mean = inputs.mean(dim=0)
        if not isinstance(consumer, nn.Linear):
            mean = _under_the_kernel(consumer, mean)
        return self.outgoing(consumer, mean[None])[0]

    def activity(self, features: Tensor) -> Tensor:
        """Mean absolute output of each unit, ``[units]``.

        Args:
            features: of this layer, as `Agent.features` has them, ``[samples, parts * units]``.
        """
        return features.detach().abs().view(-1, self.parts, self.width).mean(dim=(0, 1))


@torch.no_grad()
def renew(layer: UnitLayer, units: Tensor, weight: Tensor, bias: Tensor | None, optimizer: Any) -> None:
    """Give units new incoming weights and no outgoing ones, and let the optimiser forget them.

    New units say nothing until they have learned to; where the old ones said nothing either (dead ReLUs), and
    no normalisation stands between, the network's outputs are exactly what they were. Biases of the consumers
    stay: resetting them, as a first port of ReDo to torch did, makes new dormant units one layer further on
    (github.com/timoklein/redo, issue 1 and pull request 2). Every moment of the optimiser that has a weight's
    shape is zeroed where the weight was changed; its step counter is one per tensor and stays, as in ReDo's
    own code (github.com/google/dopamine, labs/redo): Adam's next step on a renewed weight is then
    ``(1 - beta_1) / sqrt(1 - beta_2)`` learning rates long, 3.2 with its default betas, 0.1 with 0.99 / 0.99.

    Args:
        layer: of a `Wiring`.
        units: indices ``[n]``.
        weight: their new incoming weights ``[n, in, ...]``.
        bias: their new biases ``[n]``, if the layer has any.
        optimizer: whose state to clear; found by parameter, not by position.
    """
    layer.incoming.weight[units] = weight.to(layer.incoming.weight)
    _forget(optimizer, layer.incoming.weight, units)
    if layer.incoming.bias is not None and bias is not None:
        layer.incoming.bias[units] = bias.to(layer.incoming.bias)
        _forget(optimizer, layer.incoming.bias, units)
    for norm in layer.norms:
        _renew_norm(norm, units, layer.width, optimizer)
    for consumer in layer.consumers:
        layer.outgoing(consumer)[:, :, units] = 0
        for moment in _moments(optimizer, consumer.weight):
            layer.outgoing(consumer, moment)[:, :, units] = 0


@torch.no_grad()
def compensate(layer: UnitLayer, units: Tensor, means: Sequence[Tensor]) -> None:
    """Add to the consumers' biases what units contribute on average, before they are renewed.

    The mean of what a consumer puts out, over samples and positions, is then what it was.

    Args:
        layer: of a `Wiring`.
        units: indices ``[n]``.
        means: for each consumer, of what their weights to it multiply, ``[parts, n, positions]``.
    """
    for consumer, mean in zip(layer.consumers, means, strict=True):
        if consumer.bias is not None:
            weights = layer.outgoing(consumer)[:, :, units]  # [out, parts, n, positions]
            consumer.bias += torch.einsum("opns,pns->o", weights, mean.to(weights))


def _under_the_kernel(convolution: Weighted, picture: Tensor) -> Tensor:
    """The mean over all places of a kernel of what each of its entries lies on, ``[in, ...]``.

    It is the gradient of one output channel's mean, whatever the padding, stride and dilation.
    """
    one = {name: torch.zeros_like(p[:1], requires_grad=True) for name, p in convolution.named_parameters()}
    with torch.enable_grad():
        output = functional_call(convolution, one, (picture[None],))
        (gradient,) = torch.autograd.grad(output.mean(), one["weight"])
    return gradient[0]


def _renew_norm(norm: nn.Module, units: Tensor, width: int, optimizer: Any) -> None:
    initial = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
    for name, value in initial.items():
        tensor = getattr(norm, name, None)
        if tensor is not None and tensor.shape == (width,):
            tensor[units] = value
            _forget(optimizer, tensor, units)


def _forget(optimizer: Any, parameter: Tensor, units: Tensor) -> None:
    for moment in _moments(optimizer, parameter):
        moment[units] = 0


def _moments(optimizer: Any, parameter: Tensor) -> list[Tensor]:
    """What the optimiser remembers of each entry of a parameter; factors of whole axes do not count."""
    slots = optimizer.state.get(parameter, {}).items()
    return [
        slot.view(parameter.shape)
        for name, slot in slots
        if isinstance(slot, Tensor)
        and slot.ndim
        and slot.numel() == parameter.numel()
        and not name.startswith("factor_")
    ]


def forget(optimizer: Any, parameters: Any) -> None:
    """Let the optimiser forget parameters altogether, step counters included."""
    for parameter in parameters:
        optimizer.state.pop(parameter, None)
