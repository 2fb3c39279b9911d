"""Effective rank of a feature matrix, and its gradient, without a singular value decomposition."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def effective_rank(features: Tensor) -> Tensor:
    r"""``exp(-sum_i p_i log p_i)`` with ``p_i = sigma_i / sum_j sigma_j`` (Roy & Vetterli 2007).

    Between 1 (one direction) and min(B, D) (all singular values equal); 0 for the zero matrix. It does not
    change when the features are scaled, so its gradient grows as they shrink: bound the steps along it.

    The singular values are square roots of the eigenvalues of ``F'F`` or ``F F'``, whichever is smaller,
    accumulated in float64. With ``H`` the entropy, ``S`` the sum of the singular values and
    ``g_i = -exp(H) (log p_i + H) / S``, the gradient is ``F V diag(g / sigma) V'``, where ``V`` are the
    eigenvectors: unlike the derivative of an eigendecomposition it divides by no gap between eigenvalues.
    Directions with ``sigma_i^2 <= sigma_1^2 max(B, D) 2.2e-16`` are zero to working precision; they count for
    nothing and get no gradient, so the gradient is finite on dead and on exactly low-rank features.
    Accumulating in float32 would save a quarter of the time, but resolve only ``sigma > 3e-4 sigma_1``, and
    much of the tail of a small network's features lies below that.

    Args:
        features: ``[B, D]``, not centred.

    Returns:
        A scalar of the dtype of ``features``; NaN (with zero gradient) where these are not finite.

    Example:
        >>> effective_rank(torch.eye(3))
        tensor(3.)
    """
    rank: Tensor = _EffectiveRank.apply(features)  # type: ignore[no-untyped-call]
    return rank


def ranks_and_gradients(matrices: Sequence[Tensor]) -> tuple[list[float], list[Tensor]]:
    """`effective_rank` of several feature matrices and the gradient of each, of its shape, without a graph.

    Those with Gram matrices of one size are taken together, as small networks spend their time in calls.
    """
    ranks, gradients = [0.0] * len(matrices), list(matrices)
    alike: dict[int, list[int]] = defaultdict(list)
    for index, features in enumerate(matrices):
        alike[min(features.shape)].append(index)
    with torch.no_grad():
        for indices in alike.values():
            grams = torch.stack([_gram(matrices[index]) for index in indices])
            found, weights = _ranks_and_weights(grams, [max(matrices[index].shape) for index in indices])
            for index, rank, weight in zip(indices, found.tolist(), weights, strict=True):
                ranks[index], gradients[index] = rank, _gradient(matrices[index], weight)
    return ranks, gradients


class _EffectiveRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ranks, weights = _ranks_and_weights(_gram(features)[None], [max(features.shape)])
        ctx.save_for_backward(features, weights[0])
        return ranks[0].to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * _gradient(*ctx.saved_tensors)


def _gram(features: Tensor) -> Tensor:
    """``F'F`` ``[D, D]`` or ``F F'`` ``[B, B]``, whichever is smaller, in float64."""
    precise = features.double()
    return precise.T @ precise if features.shape[0] >= features.shape[1] else precise @ precise.T


def _gradient(features: Tensor, weights: Tensor) -> Tensor:
    if not weights.any():  # else features that are not finite would make it NaN
        return torch.zeros_like(features)
    weights = weights.to(features.dtype)
    return features @ weights if len(weights) == features.shape[1] else weights @ features


def _ranks_and_weights(grams: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """The ranks ``[L]``, and what the gradients are the products of the features with, ``[L, n, n]``.

    Args:
        grams: ``[L, n, n]``.
        sizes: the larger dimension of each feature matrix.
    """
    masses = grams.diagonal(dim1=1, dim2=2).sum(dim=1)  # of squares: finite where all features are
    usable = torch.tensor([math.isfinite(mass) and mass > 0 for mass in masses.tolist()], device=grams.device)
    whole = bool(usable.all())
    if not whole:  # eigh would raise
        identity = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
        grams = torch.where(usable[:, None, None], grams, identity)
    eigenvalues, eigenvectors = torch.linalg.eigh(grams)
    scales = torch.tensor(sizes, dtype=grams.dtype, device=grams.device) * torch.finfo(grams.dtype).eps
    ranks, slopes = _ranks_and_slopes(eigenvalues, eigenvalues[:, -1:] * scales[:, None])
    weights = (eigenvectors * slopes[:, None]) @ eigenvectors.mT  # V diag(g / sigma) V'
    if not whole:
        ranks = torch.where(usable, ranks, 0 * masses)  # 0 for dead features, NaN for infinite ones
        weights = torch.where(usable[:, None, None], weights, 0.0)
    return ranks, weights


def _ranks_and_slopes(eigenvalues: Tensor, floors: Tensor) -> tuple[Tensor, Tensor]:
    """Effective ranks and, 0 for null directions, their derivatives by each singular value over that value.

    Args:
        eigenvalues: of the Gram matrices, ``[L, n]``, the largest of each positive.
        floors: below which an eigenvalue is zero, ``[L, 1]``.
    """
    alive = eigenvalues > floors
    sigma = torch.where(alive, eigenvalues, 0.0).sqrt()
    total = sigma.sum(dim=1, keepdim=True)
    log_p = torch.where(alive, sigma / total, 1.0).log()
    entropy = -(sigma * log_p).sum(dim=1, keepdim=True) / total
    ranks = entropy.exp()
    slopes = torch.where(alive, -ranks * (log_p + entropy) / (total * sigma), 0.0)
    return ranks[:, 0], slopes
