"""What the policies' networks are made of: activations, initialisations and features extractors, by name."""

import math
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, TypeVar

import gymnasium
import torch
from stable_baselines3.common.preprocessing import (
    get_flattened_obs_dim,
)
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from torch import Tensor, nn

from .errors import InvalidSetting
from .pictures import Pictures, bounds, picture_shape
from .resnet import ResNet18

T = TypeVar("T")

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def lecun_uniform(weight: Tensor) -> None:
    """Draw from U(-sqrt(3 / fan_in), sqrt(3 / fan_in)): variance 1 / fan_in (LeCun et al. 1998)."""
    fan_in = weight[0].numel()  # [out, in, ...]: inputs of one output unit
    bound = math.sqrt(3 / fan_in)
    nn.init.uniform_(weight, -bound, bound)


def he_uniform(weight: Tensor) -> None:
    """Draw from U(-sqrt(6 / fan_in), sqrt(6 / fan_in)): variance 2 / fan_in (He et al. 2015)."""
    nn.init.kaiming_uniform_(weight, nonlinearity="relu")


def orthogonal(weight: Tensor) -> None:
    """Draw a random orthogonal matrix times sqrt(2), the gain that keeps the variance through ReLU."""
    nn.init.orthogonal_(weight, gain=math.sqrt(2))


INITIALISATIONS: dict[str, Callable[[Tensor], None] | None] = {
    "sb3": None,  # leave what stable-baselines3 drew
    "lecun-uniform": lecun_uniform,  # the paper's
    "he-uniform": he_uniform,
    "orthogonal": orthogonal,
}


@torch.no_grad()
def initialise(module: nn.Module, scheme: str) -> None:
    """Redraw, in place, every linear and convolutional weight of ``module`` and set its biases to zero.

    In place, because the optimiser holds references to these very tensors. ``"sb3"`` changes nothing.
    """
    draw = INITIALISATIONS[scheme]
    if draw is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            draw(layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()


class ScaledFlatten(BaseFeaturesExtractor):
    """Flatten the observation, each entry scaled by the space's finite bounds to [0, 1].

    MiniGrid's 7x7x3 codes (0..10) reach an MLP in [0, 1] this way; entries without finite bounds pass
    unscaled.
    """

    low: Tensor
    extent: Tensor

    def __init__(self, observation_space: gymnasium.Space[Any]) -> None:
        super().__init__(observation_space, get_flattened_obs_dim(observation_space))
        low, extent = bounds(observation_space)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", extent, persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, ...] -> [B, D]``."""
        return ((observations - self.low) / self.extent).flatten(start_dim=1)


class SmallCNN(Pictures):
    """Convolutional, for pictures as small as 4x4: MiniGrid's have 7x7, and SB3's NatureCNN needs 36x36.

    Three 2x2 convolutions of 16, 32 and 64 channels and a linear layer, all followed by the activation: the
    network of Minigrid's own training guide. Values are scaled to [0, 1] by the space's bounds (MiniGrid:
    10).

    Args:
        observation_space: a three-dimensional Box, channels last or first (the smallest axis is the
        channels).
        features_dim: width of the linear layer.
        activation_fn: a name of ``ACTIVATIONS`` or a module class.

    Raises:
        UnsupportedSpace: the space is no picture, or is smaller than 4x4.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space[Any],
        features_dim: int = 128,
        activation_fn: str | type[nn.Module] = "relu",
    ) -> None:
        super().__init__(observation_space, features_dim, smallest=4)
        activation = named(ACTIVATIONS, activation_fn, "activation_fn")
        self.cnn = nn.Sequential(
            *(nn.Conv2d(self.channels, 16, kernel_size=2), activation()),
            *(nn.Conv2d(16, 32, kernel_size=2), activation()),
            *(nn.Conv2d(32, 64, kernel_size=2), activation()),
            nn.Flatten(),
        )
        positions = (self.height - 3) * (self.width - 3)
        self.linear = nn.Sequential(nn.Linear(64 * positions, features_dim), activation())

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, H, W, C]`` or ``[B, C, H, W]`` ``-> [B, features_dim]``."""
        features: Tensor = self.linear(self.cnn(self.scaled(observations)))
        return features


class PooledCNN(BaseFeaturesExtractor):
    """Three convolutions, each followed by the activation and 2x2 max pooling, then flat: ``[B, D]``.

    5x5 with 32 channels, 3x3 with 64, 3x3 with 128: the network of Dohare et al. 2024
    (``lop/nets/conv_net.py``), which has two linear layers of 128 after it (``hidden = [128, 128]``). The
    edges are padded as in the code of arXiv 2509.22335 (``imagenet/models.py``), so a side of S leaves S / 8
    rounded down, and D = 2048 for 32x32; Dohare et al. pad nothing and have D = 512. Observations are taken
    as they come.

    Args:
        observation_space: a three-dimensional Box, channels last or first (the smallest axis is the
            channels).
        activation_fn: a name of ``ACTIVATIONS`` or a module class.

    Raises:
        UnsupportedSpace: the space is no picture, or is smaller than 8x8.
    """

    def __init__(
        self, observation_space: gymnasium.Space[Any], activation_fn: str | type[nn.Module] = "relu"
    ) -> None:
        self.channels_first, channels, height, width = picture_shape(observation_space, "PooledCNN", 8)
        super().__init__(observation_space, 128 * (height // 8) * (width // 8))
        activation = named(ACTIVATIONS, activation_fn, "activation_fn")
        self.cnn = nn.Sequential(
            *(nn.Conv2d(channels, 32, kernel_size=5, padding="same"), activation(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, kernel_size=3, padding="same"), activation(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, kernel_size=3, padding="same"), activation(), nn.MaxPool2d(2)),
            nn.Flatten(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, C, H, W]`` or ``[B, H, W, C]`` ``-> [B, D]``."""
        pictures = observations if self.channels_first else observations.movedim(-1, 1)
        features: Tensor = self.cnn(pictures)
        return features


class MinAtarCNN(Pictures):
    """One 3x3 convolution of 16 channels, the activation, then flat: ``[B, D]``, D = 1,024 for 10x10 cells.

    With ``hidden = [128]`` it is the DQN network of Young & Tian 2019 (arXiv 1903.03176). Values are scaled
    to [0, 1] by the space's bounds, which MinAtar's are already.

    Args:
        observation_space: a three-dimensional Box, channels last or first (the smallest axis is the
            channels; the first if there are as many as cells).
        activation_fn: a name of ``ACTIVATIONS`` or a module class.

    Raises:
        UnsupportedSpace: the space is no picture, or is smaller than 3x3.
    """

    def __init__(
        self, observation_space: gymnasium.Space[Any], activation_fn: str | type[nn.Module] = "relu"
    ) -> None:
        _, _, height, width = picture_shape(observation_space, "MinAtarCNN", 3)
        super().__init__(observation_space, 16 * (height - 2) * (width - 2), smallest=3)
        activation = named(ACTIVATIONS, activation_fn, "activation_fn")
        self.cnn = nn.Sequential(nn.Conv2d(self.channels, 16, kernel_size=3), activation(), nn.Flatten())

    def forward(self, observations: Tensor) -> Tensor:
        """``[B, C, H, W]`` or ``[B, H, W, C]`` ``-> [B, D]``."""
        features: Tensor = self.cnn(self.scaled(observations))
        return features


FEATURES_EXTRACTORS: dict[str, type[BaseFeaturesExtractor]] = {
    "flatten": FlattenExtractor,
    "scaled-flatten": ScaledFlatten,
    "small-cnn": SmallCNN,
    "pooled-cnn": PooledCNN,
    "minatar-cnn": MinAtarCNN,
    "nature-cnn": NatureCNN,
    "resnet-18": ResNet18,
    "combined": CombinedExtractor,
}


def named(registry: dict[str, T], choice: str | T, argument: str) -> T:
    """The member that ``choice`` names; anything but a string is returned as it is."""
    if not isinstance(choice, str):
        return choice
    if choice in registry:
        return registry[choice]
    near = get_close_matches(choice, registry, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise InvalidSetting(f"{argument} is {choice!r}. {hint}Known: {', '.join(registry)}.")


def resolve_names(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """``policy_kwargs``, where ``activation_fn`` and ``features_extractor_class`` may be names."""
    registries: dict[str, dict[str, Any]] = {
        "activation_fn": ACTIVATIONS,
        "features_extractor_class": FEATURES_EXTRACTORS,
    }
    return {
        key: named(registries[key], value, key) if key in registries else value
        for key, value in policy_kwargs.items()
    }
