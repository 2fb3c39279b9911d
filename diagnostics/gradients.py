"""What gradients say: covariance over minibatches, optimization readiness, units they do not reach."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import EmptyBatch, InvalidSetting, NotFinite
from .operators import Parameters, gradient, named

#: A unit whose incoming weights' mean gradient magnitude is at most this share of its layer's mean does not
#: learn.
INACTIVE_SHARE = 0.025


def loss_and_gradient(loss: Callable[[], Tensor], parameters: Parameters) -> tuple[float, Tensor]:
    """The loss and its flat gradient ``[P]``, without a graph.

    Raises:
        NotFinite: one of them holds NaN or infinity.
    """
    items = named(parameters)
    with torch.enable_grad():
        value = loss()
        slope = gradient(value, items).detach()
    if not torch.isfinite(slope).all():
        raise NotFinite("the gradient holds NaN or infinity; look at the loss and the parameters")
    return float(value.detach()), slope


def minibatch_gradients(losses: Iterable[Callable[[], Tensor]], parameters: Parameters) -> Tensor:
    """Flat gradients of several losses ``[M, P]``."""
    rows = [loss_and_gradient(loss, parameters)[1] for loss in losses]
    if not rows:
        raise EmptyBatch("there is no minibatch; give at least one")
    return torch.stack(rows)


def gradient_covariance(gradients: Tensor) -> Tensor:
    """``C_ij = <g_i, g_j> / (|g_i| |g_j|)`` of gradients ``[M, P]``: ``[M, M]``; 0 where a gradient is 0.

    Lyle et al. 2023 draw it: blocks and large off-diagonal entries mean that minibatches move the function
    alike.
    """
    wide = gradients.double()
    norms = wide.norm(dim=1, keepdim=True)
    unit = torch.where(norms > 0, wide / norms.clamp(min=1e-300), 0.0)
    return unit @ unit.T


@dataclass(frozen=True)
class Readiness:
    """How ready a network is to be optimised (arXiv 2605.09044).

    Attributes:
        strength: ``S = |g|^2 / L``, how much of the loss a small step can take.
        reliability: ``R = |g|^2 / mean |g_B|^2``, the share of a minibatch gradient that is no noise.
        readiness: ``S R``.
    """

    strength: float
    reliability: float
    readiness: float


def optimization_readiness(loss: float, full: Tensor, minibatches: Tensor) -> Readiness:
    """From the loss L > 0, its gradient on many samples ``[P]`` and those on small minibatches ``[M, P]``.

    The paper takes 10,000 samples for the one and 128 minibatches of 4 for the other. L must be bounded below
    by zero, so use a value or TD loss, not a policy's.

    Raises:
        InvalidSetting: the loss is not positive.
    """
    if not loss > 0.0:
        raise InvalidSetting(
            f"loss={loss:.3g}; readiness divides by a loss that is positive, a value or TD loss"
        )
    power = float((full.double() ** 2).sum())
    noise = float((minibatches.double() ** 2).sum(1).mean())
    strength, reliability = power / loss, power / noise if noise > 0 else 0.0
    return Readiness(strength, reliability, strength * reliability)


def unit_gradients(parameters: Mapping[str, Tensor], flat: Tensor) -> dict[str, Tensor]:
    """GraMa: each unit's mean gradient magnitude of incoming weights, over the layer's mean ``[units]``.

    Of arXiv 2505.24061, whose released code takes it from the gradient of the weights, as here.
    Weights are the parameters with two axes or more, the first being the unit. A layer without any gradient
    gives zeros.
    """
    blocks = torch.split(flat, [p.numel() for p in parameters.values()])
    scores = {}
    for (name, parameter), block in zip(parameters.items(), blocks, strict=True):
        if parameter.dim() >= 2:
            magnitude = block.reshape(len(parameter), -1).abs().double().mean(1)
            mean = magnitude.mean()
            scores[name] = magnitude / mean if mean > 0 else torch.zeros_like(magnitude)
    return scores


def inactive_fraction(scores: Mapping[str, Tensor], share: float = INACTIVE_SHARE) -> dict[str, float]:
    """Fraction of each layer's units whose score is at most ``share``."""
    return {name: float((score <= share).double().mean()) for name, score in scores.items()}


def slices(samples: int, size: int, count: int, seed: int) -> Sequence[Tensor]:
    """Indices of at most ``count`` disjoint minibatches of ``size`` samples, from a private generator."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    whole = order[: samples // size * size].reshape(-1, size)
    return list(whole[:count])
