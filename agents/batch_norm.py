"""Batch normalisation that a measurement can look at without changing it, as training sees it.

Training normalises each minibatch by its own mean and variance, and differentiates through them. So that is
the loss that curvature has to be taken of, however large the batch that it is measured on: samples are
normalised in groups as large as a minibatch of training. It depends on parameters and batch alone. The
running statistics, which belong to an earlier task at a switch, serve for predictions only, and learn from
the minibatches of training only.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """As torch's, except within `by_minibatch`."""

    group: int | None = None
    """Samples that are normalised together; ``None``: as torch has it."""
    learns = False
    """Whether the running statistics follow."""

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, H, W]``, of the same shape."""
        if self.group is None:
            return super().forward(input)
        if self.learns:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return torch.cat([self._normalised(group) for group in torch.split(input, self.group)])

    def _normalised(self, group: Tensor) -> Tensor:
        mean, variance = (self.running_mean, self.running_var) if self.learns else (None, None)
        momentum = self.momentum or 0.0
        return F.batch_norm(group, mean, variance, self.weight, self.bias, True, momentum, self.eps)


def batch_norms(module: nn.Module) -> list[BatchNorm2d]:
    """Those within a network."""
    return [layer for layer in module.modules() if isinstance(layer, BatchNorm2d)]


@contextmanager
def by_minibatch(layers: Sequence[BatchNorm2d], size: int) -> Iterator[None]:
    """Within the block each ``size`` samples are normalised by their own statistics, whatever the mode.

    The last group of a batch may be smaller. The running statistics stay as they are, unless within
    `learning`.
    """
    before = [layer.group for layer in layers]
    for layer in layers:
        layer.group = size
    try:
        yield
    finally:
        for layer, group in zip(layers, before, strict=True):
            layer.group = group


@contextmanager
def learning(layers: Sequence[BatchNorm2d]) -> Iterator[None]:
    """Within the block the running statistics follow the minibatches that pass through."""
    for layer in layers:
        layer.learns = True
    try:
        yield
    finally:
        for layer in layers:
            layer.learns = False
