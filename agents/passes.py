"""An environment's labelled samples, and endless passes over them, each in a new random order."""

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecTransposeImage,
    unwrap_vec_normalize,
    unwrap_vec_wrapper,
)
from torch import Tensor

from .errors import AgentError
from .types import ClassifierBatch, LabelledSamples

_AT_ONCE = 2**18
"""Bytes of inputs that are copied out together: no more, so that they are still in the cache when used."""


def labelled_samples(env: VecEnv) -> LabelledSamples:
    """What ``env`` offers as ``samples``: any record with ``inputs``, ``labels`` and perhaps ``classes``.

    Raises:
        AgentError: it offers none, or some that are not of its spaces.
    """
    try:
        record: Any = env.get_attr("samples")[0]
    except AttributeError:
        raise AgentError(
            "The classifier learns from labelled samples, but its environment offers none as an attribute "
            "'samples'. Use an environment made for it, or an agent that learns from rewards: PPO or DQN."
        ) from None
    if unwrap_vec_normalize(env) is not None:
        raise AgentError(
            "VecNormalize changes observations as it goes, which the environment's samples do not follow. "
            "Scale the data instead."
        )
    inputs, labels = np.asarray(record.inputs), np.asarray(record.labels)
    transposed = unwrap_vec_wrapper(env, VecTransposeImage)
    if transposed is not None:  # pictures with channels last, as stable-baselines3 shows them to an agent
        inputs = np.asarray(transposed.transpose_observations(inputs))
    _check(inputs, labels, env)
    return LabelledSamples(inputs, labels, getattr(record, "classes", None))


def _check(inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], env: VecEnv) -> None:
    shape, classes = env.observation_space.shape, int(env.action_space.n)  # type: ignore[attr-defined]
    if inputs.shape[1:] != shape or len(inputs) == 0 or labels.shape != inputs.shape[:1]:
        raise AgentError(
            f"The environment's samples have inputs of shape {inputs.shape} and labels of shape "
            f"{labels.shape}, but its observations have the shape {shape}: expected (N, "
            f"{', '.join(map(str, shape or ()))}) and (N,) with at least one sample."
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise AgentError(
            f"The environment's labels must be integers from 0 to {classes - 1}, the actions that it has, "
            f"not {labels.dtype} from {labels.min()} to {labels.max()}."
        )


class Passes:
    """Minibatches of labelled samples; a pass shows each sample once and ends with a smaller minibatch.

    Args:
        samples: all of them.
        size: samples of a minibatch.
        generator: gives each pass's order, as ``generator.permutation(N)`` when its first sample is due.
    """

    def __init__(self, samples: ClassifierBatch, size: int, generator: np.random.Generator) -> None:
        self.samples = samples
        self.size = size
        self._generator = generator
        self._before = self._order = samples.labels.new_empty(0)
        self._shown = self._fetched = 0
        self._ready: list[ClassifierBatch] = []  # the next one last

    @property
    def over(self) -> bool:
        """Whether the latest sample was the last of its pass."""
        return self._shown == len(self._order)

    def take(self, limit: int) -> ClassifierBatch:
        """The next minibatch; of more than ``limit`` samples those after it are left for the next call."""
        if not self._ready:
            self._fetch()
        batch = self._ready.pop()
        if len(batch.labels) > limit:
            batch, rest = _cut(batch, limit)
            self._ready.append(rest)
        self._shown += len(batch.labels)
        return batch

    def recent(self, count: int) -> Tensor:
        """The inputs of the latest ``count`` samples; fewer if this pass and the last have shown fewer."""
        shown = self._order[: self._shown]
        if len(shown) < count:
            shown = torch.cat([self._before, shown])
        return self.samples.observations.index_select(0, shown[-count:])

    def _fetch(self) -> None:
        """Copy out the next few minibatches at once, which takes hardly longer than one if they are small."""
        if self._fetched == len(self._order):
            self._before, self._shown, self._fetched = self._order, 0, 0
            order = torch.from_numpy(self._generator.permutation(len(self.samples.labels)))
            self._order = order.to(self.samples.labels.device)
        one = self.samples.observations[0]
        count = max(_AT_ONCE // (self.size * one.numel() * one.element_size()), 1) * self.size
        chosen = select(self.samples, self._order[self._fetched : self._fetched + count])
        self._fetched += len(chosen.labels)
        pairs = zip(*(torch.split(part, self.size) for part in chosen[:2]), strict=True)
        self._ready = [ClassifierBatch(inputs, labels, chosen.classes) for inputs, labels in pairs][::-1]


def _cut(batch: ClassifierBatch, size: int) -> tuple[ClassifierBatch, ClassifierBatch]:
    """The first ``size`` samples, and the others."""
    first, others = slice(None, size), slice(size, None)
    return (
        batch._replace(observations=batch.observations[first], labels=batch.labels[first]),
        batch._replace(observations=batch.observations[others], labels=batch.labels[others]),
    )


def select(samples: ClassifierBatch, index: Tensor) -> ClassifierBatch:
    """Some of the samples, in the order of ``index`` ``[B]`` int64."""
    return ClassifierBatch(
        samples.observations.index_select(0, index), samples.labels.index_select(0, index), samples.classes
    )
