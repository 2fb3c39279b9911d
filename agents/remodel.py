"""Changing the modules of a network that has been built: normalisations, wider layers, moved ones."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from .errors import InvalidSetting
from .units import Weighted
from .wiring import Wiring, trace

if TYPE_CHECKING:
    from .base import Agent


def replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` where ``old`` is, in every place that it has within ``root``."""
    for module in list(root.modules()):
        for name, child in list(module.named_children()):
            if child is old:
                setattr(module, name, new)


def normalise(root: nn.Module, wiring: Wiring, activations: dict[str, nn.Module], affine: bool) -> None:
    """Put a layer normalisation before each activation, with scale 1 and shift 0.

    Vectors are normalised over their units; pictures over channels and positions together, as layer
    normalisation has it (Ba et al. 2016), with a scale and a shift per channel.

    Args:
        root: the policy.
        wiring: its.
        activations: hidden layers by name.
        affine: whether scale and shift can be learned; without, there are none.
    """
    for name, activation in activations.items():
        width = wiring.widths[name]
        norm: nn.Module
        if wiring.pictures[name]:
            norm = nn.GroupNorm(1, width, affine=affine)
        else:
            norm = nn.LayerNorm(width, elementwise_affine=affine)
        device = next(root.parameters()).device
        replace(root, activation, nn.Sequential(norm.to(device), activation))


def concatenate(agent: "Agent", owner: str, activation: Callable[[], nn.Module], halve: bool) -> None:
    """Replace every hidden activation by one with two outputs per unit, and layers of other sizes with it.

    Layers that change size are drawn anew, as at construction.

    Args:
        agent: whose policy has just been built.
        owner: whom an error names.
        activation: makes the new activation.
        halve: halve the units of hidden layers, instead of doubling the inputs of the layers after them.

    Raises:
        InvalidSetting: a hidden layer's units cannot be told apart, are odd in number, or are normalised.
    """
    wiring = trace(agent)
    if wiring.skipped:
        name, reason = next(iter(wiring.skipped.items()))
        raise InvalidSetting(f"{owner} cannot change the size of the hidden layer {name}: {reason}.")
    for layer in wiring.layers.values():
        if halve and (layer.width % 2 or layer.norms):
            raise InvalidSetting(
                f"{owner} gives each hidden layer half its units, but {layer.name} has {layer.width} of them"
                f"{' and a normalisation' if layer.norms else ''}: use an even width, or halve = false."
            )
        replace(agent.policy, layer.activation, activation())
    resized: dict[Weighted, tuple[int, int]] = {}  # [out, in] of the new layer
    for layer in wiring.layers.values():
        for module in [layer.incoming] if halve else layer.consumers:
            rows, columns = resized.get(module, tuple(module.weight.shape[:2]))
            resized[module] = (rows // 2, columns) if halve else (rows, 2 * columns)
    for module, (rows, columns) in resized.items():
        replace(agent.policy, module, redrawn(agent, module, rows, columns))


def redrawn(
    agent: "Agent", layer: Weighted, rows: int, columns: int, length: float | None = None
) -> Weighted:
    """A layer of the same kind, perhaps with other numbers of outputs and inputs, drawn as at construction.

    Args:
        agent: whose policy has just been built.
        layer: to take after.
        rows: outputs.
        columns: inputs.
        length: of orthogonal rows; by default that of the layer's own.
    """
    new: Weighted
    if isinstance(layer, nn.Linear):
        new = nn.Linear(columns, rows, bias=layer.bias is not None)
    else:
        kind: Callable[..., Weighted] = type(layer)
        new = kind(
            columns,
            rows,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            bias=layer.bias is not None,
            padding_mode=layer.padding_mode,
        )
    if agent.hidden_scheme() is not None and agent.initialisation == "sb3":
        # Stable-baselines3's orthogonal rows, whose length differs from hidden layers to the last ones.
        own = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        nn.init.orthogonal_(new.weight, own if length is None else length)
        if new.bias is not None:
            nn.init.zeros_(new.bias)
    return new.to(layer.weight.device)
