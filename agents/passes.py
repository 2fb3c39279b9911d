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
        generator: gives each pass's order, as ``generator.permutation(N)`` when its first sample is due.
    """

    def __init__(self, samples: ClassifierBatch, generator: np.random.Generator) -> None:
        self.samples = samples
        self._generator = generator
        self._before = self._order = samples.labels.new_empty(0)
        self._shown = 0

    @property
    def over(self) -> bool:
        """Whether the latest sample was the last of its pass."""
        return self._shown == len(self._order)

    def take(self, size: int) -> ClassifierBatch:
        """The next ``size`` samples, or as many as the pass has left."""
        if self.over:
            self._before, self._shown = self._order, 0
            order = torch.from_numpy(self._generator.permutation(len(self.samples.labels)))
            self._order = order.to(self.samples.labels.device)
        chosen = self._order[self._shown : self._shown + size]
        self._shown += len(chosen)
        return select(self.samples, chosen)

    def recent(self, count: int) -> Tensor:
        """The inputs of the latest ``count`` samples; fewer if this pass and the last have shown fewer."""
        shown = self._order[: self._shown]
        if len(shown) < count:
            shown = torch.cat([self._before, shown])
        return self.samples.observations.index_select(0, shown[-count:])


def select(samples: ClassifierBatch, index: Tensor) -> ClassifierBatch:
    """Some of the samples, in the order of ``index`` ``[B]`` int64."""
    # index_select: a third faster than brackets on minibatches of digits
    return ClassifierBatch(
        samples.observations.index_select(0, index), samples.labels.index_select(0, index), samples.classes
    )
