"""What a layer's features ``[B, width]`` say: ranks, dead, dormant and saturated units, norms.

Pure functions. Features are post-activation, on a probe batch, not centred. Convolutional layers come
flattened over space, as ``[B H W, channels]``, so that a unit is a channel. Singular values are taken in
float64 from the triangular factor of a QR
decomposition: as accurate as from the features themselves, at the cost of ``width x width``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .errors import EmptyBatch, InvalidSetting

#: srank holds ``1 - delta`` of the sum of singular values (Kumar et al. 2021).
SRANK_DELTA = 0.01
#: A unit is dormant below this share of its layer's mean activity (Sokar et al. 2023 use 0.025; their ReDo
#: recycles at 0.1).
DORMANT_SHARE = 0.025
#: A tanh unit is saturated beyond this magnitude.
SATURATION = 0.99


@dataclass(frozen=True)
class FeatureStatistics:
    """One layer's features in numbers.

    Attributes:
        effective_rank: :func:`effective_rank`, between 1 and the width (0 for a layer of zeros).
        srank: :func:`srank`.
        stable_rank: :func:`stable_rank`.
        dead: fraction of units that are zero on the whole batch.
        dormant: fraction of units with a mean magnitude of at most 0.025 of the layer's.
        active: fraction of entries that are not zero.
        saturated: fraction of entries beyond 0.99 in magnitude; means something for tanh.
        norm: root mean square over samples of the feature vector's length.
        width: number of units.
    """

    effective_rank: float
    srank: float
    stable_rank: float
    dead: float
    dormant: float
    active: float
    saturated: float
    norm: float
    width: int


def singular_values(features: Tensor) -> Tensor:
    """Singular values of ``[B, width]``, descending, float64 ``[min(B, width)]``."""
    matrix = _checked(features).double()
    if len(matrix) > matrix.shape[1]:
        matrix = torch.linalg.qr(matrix, mode="r").R
    values: Tensor = torch.linalg.svdvals(matrix)
    return values


def effective_rank(sigma: Tensor) -> float:
    """``exp(-sum p log p)``, ``p = sigma / sum sigma`` (Roy & Vetterli 2007); 0 when all are zero.

    >>> round(effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0], dtype=torch.float64)), 9)
    3.0
    """
    total = sigma.sum()
    if total == 0:
        return 0.0
    p = sigma / total
    return float(torch.exp(-torch.special.xlogy(p, p).sum()))


def srank(sigma: Tensor, delta: float = SRANK_DELTA) -> int:
    """The fewest leading singular values that hold ``1 - delta`` of their sum.

    Some codes call this the stable rank.
    """
    total = sigma.sum()
    if total == 0:
        return 0
    held = torch.cumsum(sigma, 0) / total
    return min(int((held < 1.0 - delta).sum()) + 1, len(sigma))  # rounding may leave the last below 1


def stable_rank(sigma: Tensor) -> float:
    """``|F|_F^2 / |F|_2^2``: the sum of squares over the largest square; 0 when all are zero."""
    return float((sigma**2).sum() / sigma[0] ** 2) if sigma[0] > 0 else 0.0


def dead(features: Tensor) -> Tensor:
    """Which units are exactly zero on the whole batch ``[width]``."""
    return (_checked(features) == 0).all(0)


def dormant(features: Tensor, share: float = DORMANT_SHARE) -> Tensor:
    """Which units have a mean magnitude of at most ``share`` of the layer's mean over units ``[width]``."""
    activity = _checked(features).double().abs().mean(0)
    return activity <= share * activity.mean()


def statistics(features: Tensor) -> FeatureStatistics:
    """All of them for one layer's features ``[B, width]``."""
    features = _checked(features.detach())
    sigma = singular_values(features)
    return FeatureStatistics(
        effective_rank=effective_rank(sigma),
        srank=float(srank(sigma)),
        stable_rank=stable_rank(sigma),
        dead=float(dead(features).double().mean()),
        dormant=float(dormant(features).double().mean()),
        active=float((features != 0).double().mean()),
        saturated=float((features.abs() > SATURATION).double().mean()),
        norm=float((features.double() ** 2).sum(1).mean().sqrt()),
        width=features.shape[1],
    )


def measure_features(features: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """The statistics of every layer, by layer and name of the statistic."""
    return {layer: asdict(statistics(values)) for layer, values in features.items()}


def norm(tensors: Mapping[str, Tensor]) -> float:
    """Euclidean norm of all entries together, accumulated in float64; 0 for none."""
    squares = sum(float((t.detach().double() ** 2).sum()) for t in tensors.values())
    return float(squares**0.5)


def distance(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Euclidean distance between two sets of tensors of the same names."""
    if tensors.keys() != reference.keys():
        raise InvalidSetting(
            "the reference parameters have other names than the present ones; keep one network's copy for it"
        )
    return norm(
        {name: t.detach().double() - reference[name].detach().double() for name, t in tensors.items()}
    )


def _checked(features: Tensor) -> Tensor:
    if features.dim() != 2:
        raise InvalidSetting(
            f"features must be [samples, units], got shape {tuple(features.shape)}; flatten space into "
            "samples"
        )
    if features.numel() == 0:
        raise EmptyBatch(f"features of shape {tuple(features.shape)} hold no sample; gather a batch first")
    return features
