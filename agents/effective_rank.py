"""Effective rank of a feature matrix, and its gradient, without a singular value decomposition."""

import math
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


class _EffectiveRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        precise = features.double()
        tall = features.shape[0] >= features.shape[1]
        gram = precise.T @ precise if tall else precise @ precise.T  # [D, D] or [B, B]
        ctx.tall = tall
        mass = gram.trace().item()  # a sum of squares: finite and positive only if eigh has something to do
        if not math.isfinite(mass) or mass == 0:
            ctx.save_for_backward(torch.zeros_like(features), torch.zeros_like(gram, dtype=features.dtype))
            return features.new_full((), 0.0 if mass == 0 else torch.nan)
        eigenvalues, eigenvectors = torch.linalg.eigh(gram)
        rank, slope = _rank_and_slope(eigenvalues, max(features.shape))
        weights = (eigenvectors * slope) @ eigenvectors.T  # V diag(g / sigma) V'
        ctx.save_for_backward(features, weights.to(features.dtype))
        return rank.to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        features, weights = ctx.saved_tensors
        slope: Tensor = features @ weights if ctx.tall else weights @ features
        return grad * slope


def _rank_and_slope(eigenvalues: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Effective rank and, 0 for null directions, its derivative by each singular value over that value.

    Args:
        eigenvalues: of the Gram matrix, ascending, the last positive.
        size: the larger dimension of the features.
    """
    floor = eigenvalues[-1] * (size * torch.finfo(eigenvalues.dtype).eps)
    alive = eigenvalues > floor
    sigma = torch.where(alive, eigenvalues, 0.0).sqrt()
    total = sigma.sum()
    log_p = torch.where(alive, sigma / total, 1.0).log()
    entropy = -(sigma * log_p).sum() / total
    rank = entropy.exp()
    return rank, torch.where(alive, -rank * (log_p + entropy) / (total * sigma), 0.0)
