"""A labelled data set as an environment: a sample per environment step, its label the action to take."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isqrt, prod
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from .data import DataSet, load_data
from .errors import InvalidTask, explain
from .task import Task
from .variations import input_permutation, noisy_labels, random_labels, rotated, subset

Floats = NDArray[np.float32]
Index = NDArray[np.int64]

Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

_AT_A_TIME = 4096
"""Samples that are worked on at once: what is needed in passing stays small beside the result."""


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples of a task as its environment shows them, for agents that draw minibatches.

    Attributes:
        inputs: ``[N, *shape]``, in the observation space, read only.
        labels: ``[N]``, the action that is rewarded for each, read only.
        classes: ``[K]``, the labels that can occur, ascending; where classes come one after another, fewer
            than there are actions.
    """

    inputs: Floats
    labels: Index
    classes: Index


class Variation(BaseModel):
    """The arguments of a `Stream`: what differs from task to task, as the rules of a sequence draw it.

    They combine; those that contradict one another are refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    data: str = "digits"
    """A name of `pliant.envs.data.DATA_SETS`."""
    split: Literal["train", "test"] = "train"
    """The test split shows other inputs, varied in the same way; its labels have no noise."""
    classes: Annotated[list[Seed], Field(min_length=1)] | None = None
    """Only samples of these classes; of all if not given."""
    relabel: bool = False
    """Labels are positions in ``classes``, and there are as many actions, instead of the data set's classes:
    all pairs of Continual ImageNet share two actions."""
    samples: Annotated[int, Field(gt=0)] | None = None
    """So many of the training samples, drawn without replacement; all if not given."""
    test_samples: Annotated[int, Field(gt=0)] | None = None
    """So many of the test samples; all if not given."""
    sample_seed: Seed = 0
    """Draws them."""
    permute_inputs: Seed | None = None
    """The seed of a permutation of the entries of all inputs, as in Permuted MNIST."""
    permuted_share: Share = 1.0
    """How far it is carried out; see `pliant.envs.variations.input_permutation`."""
    rotation: FiniteFloat = 0.0
    """Of images, in degrees counter-clockwise."""
    shuffle_labels: Seed | None = None
    """The seed of a permutation of the classes, the same for all samples."""
    random_labels: Seed | None = None
    """The seed of a label for each sample, whatever it shows. There is no test split then."""
    label_noise: Share = 0.0
    """The share of the training samples whose label is replaced by another one."""
    noise_seed: Seed = 0
    """Draws them."""
    shape: Literal["flat", "image"] = "flat"
    """Observations are ``[D]``, or ``[C, H, W]``."""
    normalise: bool = False
    """Subtract the mean of each channel over the training split, and divide by its standard deviation."""
    reward: Literal["one", "accuracy"] = "one"
    """Of a right answer: 1, or 1 / N, so that the return of a pass is its accuracy."""
    data_dir: str | None = None
    """The folder that data sets lie in. Better left out and named by ``--data`` or the variable
    ``PLIANT_DATA``: a task then says nothing about a machine."""

    @model_validator(mode="after")
    def _consistent(self) -> "Variation":
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise InvalidTask(f"classes must be different from one another, got {self.classes}")
        if self.relabel and self.classes is None:
            raise InvalidTask("relabel gives labels by their position in classes: name the classes")
        if self.permuted_share != 1 and self.permute_inputs is None:
            raise InvalidTask("permuted_share is that of a permutation: give permute_inputs a seed")
        if self.random_labels is not None:
            if self.split == "test":
                raise InvalidTask(
                    "random_labels have no test split: what is random cannot be learned from other samples; "
                    "evaluate on the training split"
                )
            if self.shuffle_labels is not None:
                raise InvalidTask("random_labels cannot be shuffled: leave out shuffle_labels")
            if self.label_noise:
                raise InvalidTask(
                    "random_labels have nothing for label_noise to spoil: leave one of them out"
                )
        return self


class Stream(gymnasium.Env[Floats, np.int64]):
    """Show the samples of a data set in random order, and reward the action that is a sample's label.

    An episode is one pass over the split, in an order drawn at ``reset``. ``info["label"]`` says what was
    right. Observations lie in [0, 1] unless normalised.

    Args:
        **variation: The fields of `Variation`.

    Raises:
        InvalidTask: An argument is unknown or out of range, or two contradict one another.
        MissingData: The files of the data set are not there.
        DamagedData: They are damaged.

    Example:
        >>> env = gymnasium.make("pliant/Stream-v0", classes=[3, 8], relabel=True, samples=100)
        >>> env.observation_space.shape, env.action_space, env.unwrapped.samples.inputs.shape
        ((64,), Discrete(2), (100, 64))
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own form)

    def __init__(self, **variation: Any) -> None:
        try:
            self.variation = chosen = Variation.model_validate(variation)
        except ValidationError as error:
            raise InvalidTask(explain(error, Variation.model_fields)) from None
        self._data = data = load_data(chosen.data, chosen.split, chosen.data_dir)
        self._image = _image_shape(data, chosen)
        self._which, self._labels, self.classes = _labelled(data, chosen)
        self._shape = shape = self._image if chosen.shape == "image" else (prod(data.shape),)
        low, high = (-np.inf, np.inf) if chosen.normalise else (0.0, 1.0)
        self.observation_space = Box(low, high, shape, np.float32)
        self.action_space = Discrete(len(self.classes) if chosen.relabel else data.classes)
        self._permutation = (
            None
            if chosen.permute_inputs is None
            else input_permutation(prod(shape), chosen.permute_inputs, chosen.permuted_share)
        )
        self._worth = 1.0 if chosen.reward == "one" else 1.0 / len(self._which)
        self._order: Index = np.empty(0, np.int64)
        self._at = 0

    @property
    def max_steps(self) -> int:
        """Environment steps of an episode: the number of samples."""
        return len(self._which)

    @property
    def order(self) -> Index:
        """The order in which this episode shows the samples, ``[N]``; it does not depend on the actions."""
        return self._order

    @cached_property
    def samples(self) -> Samples:
        """All samples, in the order of the data set."""
        inputs = np.empty((self.max_steps, *self._shape), np.float32)
        for start in range(0, len(inputs), _AT_A_TIME):
            here = slice(start, start + _AT_A_TIME)
            inputs[here] = self._shown(self._which[here])
        inputs.flags.writeable = self._labels.flags.writeable = False
        return Samples(inputs, self._labels, self.classes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Draw a new order and show its first sample."""
        super().reset(seed=seed)
        self._order, self._at = self.np_random.permutation(self.max_steps), 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Compare ``action`` with the label of the sample last shown, and show the next.

        After the last there is none, and the last is shown again.
        """
        if self._at >= len(self._order):
            raise gymnasium.error.ResetNeeded("the pass over the samples is over: call reset() for another")
        label = int(self._labels[self._order[self._at]])
        self._at += 1
        over = self._at == len(self._order)
        return self._observation(), self._worth * (int(action) == label), over, False, {"label": label}

    def _observation(self) -> Floats:
        at = min(self._at, len(self._order) - 1)
        if "samples" in vars(self):  # all have been worked out
            observation: Floats = self.samples.inputs[self._order[at]].copy()
        else:
            observation = self._shown(self._which[self._order[at : at + 1]])[0]
        return observation

    @cached_property
    def _statistics(self) -> tuple[Floats, Floats]:
        return _statistics(load_data(self.variation.data, "train", self.variation.data_dir))

    def _shown(self, indices: Index) -> Floats:
        """The inputs at ``indices`` of the data set as the task varies them, ``[n, *shape]``."""
        inputs, chosen = self._data.take(indices), self.variation
        if chosen.rotation % 360:
            inputs = rotated(inputs.reshape(-1, *self._image), chosen.rotation)
        if chosen.normalise:
            mean, std = self._statistics
            inputs = (inputs.reshape(-1, *self._data.shape) - mean) / std
        inputs = inputs.reshape(len(indices), -1)
        if self._permutation is not None:
            inputs = inputs[:, self._permutation]
        return inputs.reshape(-1, *self._shape)


def fingerprints(tasks: Iterable[Task]) -> dict[str, str]:
    """The checksum of each data set that the tasks show, by its name; see `DataSet.fingerprint`.

    Raises:
        MissingData: Its files are not there.
        DamagedData: They are damaged.
    """
    default = Variation.model_fields["data"].default
    shown = [task.kwargs for task in tasks if task.env == "pliant/Stream-v0"]
    names = dict.fromkeys((str(kwargs.get("data", default)), kwargs.get("data_dir")) for kwargs in shown)
    return {name: load_data(name, "train", folder).fingerprint for name, folder in names}


def _labelled(data: DataSet, chosen: Variation) -> tuple[Index, Index, Index]:
    """The indices of a task's samples in the data set, their labels, and the labels that can occur.

    Raises:
        InvalidTask: The data set has no such classes, or not so many samples.
    """
    classes = np.arange(data.classes) if chosen.classes is None else np.array(chosen.classes)
    if classes.max() >= data.classes:
        raise InvalidTask(
            f"classes: {chosen.data} has the classes 0 to {data.classes - 1}, not {classes.max()}"
        )
    which = np.arange(len(data.labels))
    if chosen.classes is not None:
        which = np.sort(np.concatenate([_members(data)[label] for label in classes]))
    position = np.zeros(data.classes, np.int64)
    position[classes] = np.arange(len(classes))
    name, size = (
        ("samples", chosen.samples) if chosen.split == "train" else ("test_samples", chosen.test_samples)
    )
    if len(which) < (size or 1):
        raise InvalidTask(
            f"{name}: the {chosen.split} split of {chosen.data} has {len(which):,} samples of the task's "
            f"{len(classes)} classes, not {size or 'one'}"
        )
    if size is not None:
        which = which[subset(len(which), size, chosen.sample_seed)]
    labels = _task_labels(position[data.labels[which]], len(classes), chosen)
    actions = np.arange(len(classes)) if chosen.relabel else classes
    return which, actions[labels], np.sort(actions)


@lru_cache(maxsize=8)  # by the identity of the data set
def _members(data: DataSet) -> list[Index]:
    """The indices of each class's samples; a task of two classes in a thousand looks at no other."""
    order = np.argsort(data.labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(data.labels, minlength=data.classes))[:-1])


def _task_labels(labels: Index, classes: int, chosen: Variation) -> Index:
    """The labels that a task gives, below ``classes``, where ``labels`` are the true ones."""
    if chosen.random_labels is not None:
        return random_labels(len(labels), classes, chosen.random_labels)
    if chosen.shuffle_labels is not None:
        labels = np.random.default_rng(chosen.shuffle_labels).permutation(classes)[labels]
    if chosen.label_noise and chosen.split == "train":
        if classes == 1:
            raise InvalidTask("label_noise needs a second class to mistake the first for")
        labels = noisy_labels(labels, classes, chosen.label_noise, chosen.noise_seed)
    return labels


def _image_shape(data: DataSet, chosen: Variation) -> tuple[int, ...]:
    """``(C, H, W)`` of an input; empty if it is no image, and need be none.

    Raises:
        InvalidTask: It is no image, and something is asked for that only an image has.
    """
    if len(data.shape) == 3:
        return data.shape
    side = isqrt(data.shape[0])
    if side * side == data.shape[0]:  # OpenML's images come flat
        return (1, side, side)
    if chosen.shape == "image" or chosen.rotation:
        raise InvalidTask(
            f"{chosen.data} has {data.shape[0]} features and no images: there is nothing to rotate, and "
            "shape must be 'flat'"
        )
    return ()


@lru_cache(maxsize=4)  # by the identity of the data set
def _statistics(data: DataSet) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel of images, ``[C, 1, 1]``, or of each feature, ``[D]``."""
    axes = (0, 2, 3) if len(data.shape) == 3 else (0,)
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(data.labels), _AT_A_TIME):
        part = data.take(np.arange(start, min(start + _AT_A_TIME, len(data.labels)))).astype(np.float64)
        count += part.size // prod(np.delete(part.shape, axes))
        total = total + part.sum(axes, keepdims=True)[0]
        squares = squares + (part**2).sum(axes, keepdims=True)[0]
    mean: Any = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
