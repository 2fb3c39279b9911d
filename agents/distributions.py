"""Action distributions: skipping torch's checks of them, and reading off their parameters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from stable_baselines3.common.distributions import Distribution
from torch import Tensor
from torch.distributions import Distribution as TorchDistribution
from torch.distributions import Normal


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Leave out torch's validation of distributions' arguments within the block (or decorated function).

    It took about a tenth of PPO's time on CartPole, waits for the device each time on a GPU, and cannot be
    traced or batched, for it branches on data. What it would catch, NaN, training looks for once per update.
    """
    checking = TorchDistribution._validate_args
    TorchDistribution.set_default_validate_args(False)
    try:
        yield
    finally:
        TorchDistribution.set_default_validate_args(checking)


def distribution_parameters(distribution: Distribution) -> Tensor:
    """What the policy network puts out, ``[B, K]``: logits, or means and log standard deviations."""
    inner = distribution.distribution
    if isinstance(inner, list):  # MultiDiscrete
        return torch.cat([one.logits for one in inner], dim=1)  # type: ignore[attr-defined]
    if isinstance(inner, Normal):
        return torch.cat([inner.mean, inner.stddev.log()], dim=1)
    logits: Tensor = inner.logits  # type: ignore[attr-defined]
    return logits
