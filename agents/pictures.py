"""What networks for pictures share: which axis holds the channels, and scaling by the space's bounds."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import (
    get_flattened_obs_dim,
    is_image_space,
    is_image_space_channels_first,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from .errors import UnsupportedSpace


def bounds(space: gymnasium.Space[Any]) -> tuple[Tensor, Tensor]:
    """Lower bound and range of each entry as it arrives at an extractor; 0 and 1 where it needs no scaling.

    Entries are left alone where a bound is infinite (or so large that the range overflows float32), and when
    SB3 has scaled the space already (pictures with bounds 0 and 255).
    """
    if not isinstance(space, spaces.Box) or is_image_space(space):
        shape = (get_flattened_obs_dim(space),) if not isinstance(space, spaces.Box) else space.shape
        return torch.zeros(shape), torch.ones(shape)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        extent = high - low
    usable = (extent > 0) & (extent < np.finfo(np.float32).max)
    low, extent = np.where(usable, low, 0.0), np.where(usable, extent, 1.0)
    return torch.as_tensor(low, dtype=torch.float32), torch.as_tensor(extent, dtype=torch.float32)


def picture_shape(space: gymnasium.Space[Any], name: str, smallest: int) -> tuple[bool, int, int, int]:
    """Whether the channels come first, then channels, height and width. The smallest axis is the channels.

    Args:
        space: of the observations.
        name: of the network that wants to know.
        smallest: pixels that each side needs.

    Raises:
        UnsupportedSpace: the space is no picture, or too small a one.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        raise UnsupportedSpace(
            f"{name} needs a Box of shape (height, width, channels) or (channels, height, width), not "
            f"{space}. Use the features extractor 'scaled-flatten' for it, or give a stream shape = 'image'."
        )
    first = is_image_space_channels_first(space)
    channels, height, width = space.shape if first else (space.shape[2], *space.shape[:2])
    if min(height, width) < smallest:
        raise UnsupportedSpace(
            f"{name} needs pictures of at least {smallest}x{smallest}, not {height}x{width}."
        )
    return first, channels, height, width


class Pictures(BaseFeaturesExtractor):
    """Base of features extractors for pictures, channels last or first (the smallest axis is the channels).

    Args:
        observation_space: a three-dimensional Box.
        features_dim: width of what comes out.
        smallest: pixels that each side needs.

    Raises:
        UnsupportedSpace: the space is no picture, or too small a one.
    """

    low: Tensor
    extent: Tensor

    def __init__(self, observation_space: gymnasium.Space[Any], features_dim: int, smallest: int) -> None:
        super().__init__(observation_space, features_dim)
        shape = picture_shape(observation_space, type(self).__name__, smallest)
        self.channels_first, self.channels, self.height, self.width = shape
        low, extent = bounds(observation_space)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", extent, persistent=False)

    def scaled(self, observations: Tensor) -> Tensor:
        """``[B, H, W, C]`` or ``[B, C, H, W]`` ``-> [B, C, H, W]``, in [0, 1] where the bounds are finite."""
        pictures = (observations - self.low) / self.extent
        return pictures if self.channels_first else pictures.movedim(-1, 1)
