"""The network of a classifier, as a stable-baselines3 policy: extractor, hidden layers, one head."""

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn


class ClassifierPolicy(BasePolicy):
    """``observation -> features extractor -> hidden layers -> head -> logits``; the action is a class.

    Takes the arguments of stable-baselines3's ``DQNPolicy``, with the same defaults.

    Args:
        observation_space: a Box.
        action_space: Discrete, one action per class.
        lr_schedule: progress remaining -> learning rate.
        net_arch: widths of the hidden layers between extractor and head; may be empty.
        activation_fn: after each of them.
        features_extractor_class: turns observations into the first layer's input.
        features_extractor_kwargs: for it, besides the space.
        normalize_images: divide uint8 pictures by 255.
        optimizer_class: of all parameters.
        optimizer_kwargs: for it, besides the learning rate.
    """

    absent: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.net_arch = [64, 64] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        self.features_extractor = self.make_features_extractor()
        # What the extractor does then is done without it: calling it costs 2 % of an update of digits.
        self._only_flattens = type(self.features_extractor) is FlattenExtractor and not (
            normalize_images and is_image_space(observation_space)
        )
        width = self.features_extractor.features_dim
        self.body = nn.Sequential(*create_mlp(width, -1, self.net_arch, activation_fn))
        self.head = nn.Linear(self.net_arch[-1] if self.net_arch else width, int(action_space.n))
        # Classes that are not to be predicted: those that the present task lacks, if the agent is told to.
        self.register_buffer("absent", torch.zeros(int(action_space.n), dtype=torch.bool))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def logits(self, observations: Tensor) -> Tensor:
        """``[B, ...] -> [B, classes]``."""
        if self._only_flattens:
            features = observations.float().flatten(start_dim=1)
        else:
            features = self.extract_features(observations, self.features_extractor)
        logits: Tensor = self.head(self.body(features))
        return logits

    def get_distribution(self, observations: PyTorchObs) -> CategoricalDistribution:
        """The softmax over the classes that may be predicted."""
        assert isinstance(observations, Tensor)
        logits = self.logits(observations).masked_fill(self.absent, -torch.inf)
        return CategoricalDistribution(len(self.absent)).proba_distribution(action_logits=logits)

    def forward(self, observations: PyTorchObs, deterministic: bool = True) -> Tensor:
        """The predicted classes ``[B]``."""
        return self._predict(observations, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.get_distribution(observation).get_actions(deterministic=deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "lr_schedule": self._dummy_schedule,  # loading a policy alone trains nothing
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }
