"""ResNet-18 for small pictures: the 32x32 form, with a 3x3 stem and no pooling before the blocks."""

from itertools import pairwise
from typing import Any

import gymnasium
from torch import Tensor, nn

from .batch_norm import BatchNorm2d
from .pictures import Pictures


class ResNet18(Pictures):
    """A 3x3 convolution, eight residual blocks of two, and the mean over what positions are left.

    The network of He et al. 2016 (arXiv 1512.03385) with the stem that is usual for CIFAR: stride 1, no
    pooling. So Dohare et al. 2024 and arXiv 2509.22335 have it for incremental CIFAR. With three channels in
    and a head for ten classes it has 11,173,962 parameters. Weights are drawn as torch draws them.

    Args:
        observation_space: a three-dimensional Box of at least 16x16 pixels, channels last or first.
        base: channels of the first blocks; the later ones have 2, 4 and 8 times as many.

    Raises:
        UnsupportedSpace: the space is no picture, or is smaller than 16x16.
    """

    def __init__(self, observation_space: gymnasium.Space[Any], base: int = 64) -> None:
        super().__init__(observation_space, 8 * base, smallest=16)
        widths = [base, base, base, 2 * base, 2 * base, 4 * base, 4 * base, 8 * base, 8 * base]
        self.stem = nn.Sequential(_convolution(self.channels, base, 3, 1), BatchNorm2d(base), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(before, after) for before, after in pairwise(widths)))

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, H, W, C]`` or ``[B, C, H, W]`` ``-> [B, 8 base]``."""
        features: Tensor = self.blocks(self.stem(self.scaled(observations)))
        return features.mean(dim=(2, 3))


class Block(nn.Module):
    """``relu(f(x) + x)`` with ``f`` two 3x3 convolutions, each batch normalised, a ReLU between them.

    Where the number of channels grows, the first has stride 2 and ``x`` goes through a 1x1 convolution.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.residual = nn.Sequential(
            *(_convolution(before, after, 3, stride), BatchNorm2d(after), nn.ReLU()),
            *(_convolution(after, after, 3, 1), BatchNorm2d(after)),
        )
        self.shortcut = nn.Sequential()
        if before != after:
            self.shortcut.extend([_convolution(before, after, 1, stride), BatchNorm2d(after)])
        self.relu = nn.ReLU()

    def forward(self, pictures: Tensor) -> Tensor:
        """``[B, before, H, W] -> [B, after, H / stride, W / stride]``."""
        features: Tensor = self.relu(self.residual(pictures) + self.shortcut(pictures))
        return features


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)  # the norm has a shift
