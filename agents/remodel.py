"""Changing the modules of a network that has been built: normalisations, wider layers, moved ones."""

from torch import nn

from .units import Wiring


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
