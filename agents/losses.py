"""The losses as pure functions. Every one is a mean over samples, so micro-batches weighted by size add up.

Formulas: Schulman et al. 2017 (PPO, arXiv 1707.06347), Mnih et al. 2015 (DQN). They agree with
stable-baselines3 2.9 to the last bit, including the order of the operations.
"""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F


def surrogate_loss(ratio: Tensor, advantages: Tensor, clip_range: float | None) -> Tensor:
    """PPO's policy loss ``-mean(min(r A, clip(r, 1 - c, 1 + c) A))``.

    Args:
        ratio: probability of each action now over that when it was taken, ``[B]``.
        advantages: ``[B]``.
        clip_range: c; ``None`` leaves the surrogate unclipped, ``-mean(r A)``, which is the twice
            differentiable one away from ``r = 1``.
    """
    surrogate = advantages * ratio
    if clip_range is not None:
        surrogate = torch.min(surrogate, advantages * torch.clamp(ratio, 1 - clip_range, 1 + clip_range))
    return -surrogate.mean()


def value_loss(values: Tensor, returns: Tensor, old_values: Tensor, clip_range: float | None) -> Tensor:
    """Mean squared error of the critic, ``mean((R - V)^2)``.

    With a clip range c the prediction stays near the old one: ``V <- V_old + clip(V - V_old, -c, c)``. Unlike
    the original PPO2 this takes no maximum with the unclipped loss (as stable-baselines3).
    """
    if clip_range is not None:
        values = old_values + torch.clamp(values - old_values, -clip_range, clip_range)
    return F.mse_loss(returns, values)


def entropy_loss(entropy: Tensor | None, log_prob: Tensor) -> Tensor:
    """Negative mean entropy; estimated by ``mean(log_prob)`` where the entropy has no closed form."""
    return -torch.mean(-log_prob) if entropy is None else -torch.mean(entropy)


def td_loss(q_values: Tensor, actions: Tensor, targets: Tensor) -> Tensor:
    """Huber loss (delta 1) of the chosen actions' values to fixed targets.

    Args:
        q_values: ``[B, A]``.
        actions: ``[B, 1]`` int64.
        targets: ``[B, 1]``.
    """
    return F.smooth_l1_loss(torch.gather(q_values, dim=1, index=actions), targets)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """``-mean(log softmax(logits)[label])``, in nats.

    Args:
        logits: ``[B, K]``.
        labels: ``[B]`` int64.
    """
    return F.cross_entropy(logits, labels)


def correct_predictions(logits: Tensor, labels: Tensor) -> Tensor:
    """How many samples have their largest logit at their label; of several largest, the first counts."""
    return torch.count_nonzero(logits.argmax(dim=1) == labels)


def approximate_kl(ratio: Tensor, log_ratio: Tensor) -> Tensor:
    """Low-variance estimate of KL(old || new), ``mean(r - 1 - log r)`` (joschu.net/blog/kl-approx)."""
    return torch.mean((ratio - 1) - log_ratio)


def clip_fraction(ratio: Tensor, clip_range: float) -> Tensor:
    """Share of samples whose ratio is outside ``[1 - c, 1 + c]``."""
    return torch.mean((torch.abs(ratio - 1) > clip_range).float())


def kl_from_present(outputs: Tensor, action_space: spaces.Space[Any]) -> Tensor:
    """Mean KL(present || outputs), the present outputs held fixed: value 0, gradient 0, Hessian = Fisher.

    Args:
        outputs: the distribution's parameters ``[B, K]``: logits (Discrete, MultiDiscrete one after the
            other, MultiBinary), or means then log standard deviations (Box).
        action_space: says which family it is.
    """
    present = outputs.detach()
    if isinstance(action_space, spaces.Box):
        return _gaussian_kl(present, outputs)
    if isinstance(action_space, spaces.MultiBinary):
        return _bernoulli_kl(present, outputs)
    sizes = [int(n) for n in getattr(action_space, "nvec", [outputs.shape[-1]])]
    pairs = zip(torch.split(present, sizes, dim=-1), torch.split(outputs, sizes, dim=-1), strict=True)
    return torch.stack([_categorical_kl(p, q) for p, q in pairs]).sum()


def _gaussian_kl(p: Tensor, q: Tensor) -> Tensor:
    (mean_p, log_std_p), (mean_q, log_std_q) = p.chunk(2, dim=-1), q.chunk(2, dim=-1)
    scaled = (torch.exp(2 * log_std_p) + (mean_p - mean_q) ** 2) * torch.exp(-2 * log_std_q)
    return (log_std_q - log_std_p + 0.5 * scaled - 0.5).sum(dim=-1).mean()


def _categorical_kl(p: Tensor, q: Tensor) -> Tensor:
    log_p, log_q = p.log_softmax(dim=-1), q.log_softmax(dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def _bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    ones = p.sigmoid() * (F.logsigmoid(p) - F.logsigmoid(q))
    zeros = (-p).sigmoid() * (F.logsigmoid(-p) - F.logsigmoid(-q))
    return (ones + zeros).sum(dim=-1).mean()
