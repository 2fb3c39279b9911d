"""The records that travel between agents, mitigations and instruments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor, nn

Observations: TypeAlias = Tensor | dict[str, Tensor]
"""Observations ``[B, ...]``, or one such tensor per key of a Dict observation space."""


class PPOBatch(NamedTuple):
    """Everything constant in the PPO loss; the first axis of each tensor is the sample."""

    observations: Observations
    actions: Tensor  # [B] int64 for Discrete, else [B, A]
    advantages: Tensor  # [B], already normalised if the agent normalises
    returns: Tensor  # [B], targets of the critic
    old_values: Tensor  # [B], of the policy that acted
    old_log_prob: Tensor  # [B], of the policy that acted
    clip_range: float
    clip_range_vf: float | None


class LabelledSamples(NamedTuple):
    """What an environment that can teach a classifier offers as its attribute ``samples``."""

    inputs: np.ndarray[Any, Any]  # [N, ...], each an observation of the environment
    labels: np.ndarray[Any, Any]  # [N] integers, the right action for each
    classes: np.ndarray[Any, Any] | None = None  # [K] the labels that can occur, ascending, if that is known


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that a batch's samples are told apart among, where these are not all.

    Attributes:
        index: their numbers, ascending, ``[K]`` int64.
    """

    index: Tensor


class ClassifierBatch(NamedTuple):
    """Everything constant in the cross-entropy; the first axis of each tensor is the sample."""

    observations: Tensor  # [B, ...]
    labels: Tensor  # [B] int64; where there are `classes`, the position among them
    classes: Classes | None = None


class DQNBatch(NamedTuple):
    """Everything constant in the TD loss; the first axis of each tensor is the sample."""

    observations: Observations
    actions: Tensor  # [B, 1] int64
    targets: Tensor  # [B, 1], r + discount (1 - done) max_a Q_target(s', a)


class Seen(NamedTuple):
    """As much of a batch as the outputs of a network depend on."""

    observations: Observations
    classes: None = None  # a classifier's outputs are then those of all classes


class Loss(NamedTuple):
    """A loss with its parts; all are means over samples.

    ``total`` is what training descends and curvature differentiates. ``parts`` are its unweighted summands,
    ``monitors`` detached by-products for the log (PPO: ``approx_kl``, ``clip_fraction``), ``outputs`` those
    of the network where a training loop wants them (the classifier's logits ``[B, K]``), detached too.
    """

    total: Tensor
    parts: dict[str, Tensor]
    monitors: dict[str, Tensor]
    outputs: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """One part of the loss as an instrument of curvature wants it.

    Attributes:
        name: ``"actor"``, ``"critic"``, ``"total"``, ``"q"`` or ``"classifier"``.
        parameters: every parameter that the loss depends on, by its name in the policy.
        loss: batch -> scalar, differentiable in ``parameters``, a mean over samples.
        outputs: batch -> network outputs ``[B, K]``.
        output_loss: (outputs, batch) -> scalar, a convex function of the outputs, a mean over samples: with
            it the generalised Gauss-Newton matrix is J' (d2 output_loss) J. ``None`` where there is no such
            form.
        divergence: whether that is a divergence from the present outputs, which curves there but has no
            slope.
    """

    name: str
    parameters: dict[str, nn.Parameter]
    loss: Callable[[Any], Tensor]
    outputs: Callable[[Any], Tensor]
    output_loss: Callable[[Tensor, Any], Tensor] | None
    divergence: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """Where training stands at one gradient update.

    Attributes:
        count: gradient updates taken so far in the agent's life.
        observations: of the minibatch of this update.
        index: position of the minibatch in its epoch, from 0 (DQN: always 0).
        per_epoch: minibatches in an epoch (DQN: 1). The classifier's epoch is its rollout.
        rollout: returns the observations of the whole rollout; ``None`` for agents that learn from replay.
    """

    count: int
    observations: Observations
    index: int = 0
    per_epoch: int = 1
    rollout: Callable[[], Observations] | None = None
