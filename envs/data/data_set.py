"""What all data sets have in common once they are loaded, and how those without a test split get one."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]
"""The two parts of a data set."""

Index = NDArray[np.int64]


class DataSet(Protocol):
    """One split of a data set: N labelled inputs. Equal to nothing but itself."""

    def __hash__(self) -> int:
        """By identity, so that what is worked out from a data set can be kept beside it."""

    @property
    def labels(self) -> Index:
        """The class of each sample, ``[N]``, from 0."""

    @property
    def classes(self) -> int:
        """How many classes the data set has, whichever of them occur in this split."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input: ``(C, H, W)`` of an image, ``(D,)`` otherwise."""

    @property
    def fingerprint(self) -> str:
        """A checksum by which other data, or data in another order, are told from these."""

    def take(self, indices: Index) -> NDArray[np.float32]:
        """The inputs at ``indices``, ``[n, *shape]``, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class ArrayData:
    """A split that lies in memory as one array, in the type of its file (bytes take a quarter of floats).

    Attributes:
        inputs: ``[N, *shape]``, >= 0.
        labels: ``[N]``.
        classes: Of the whole data set.
        largest: What an input is divided by.
    """

    inputs: NDArray[Any]
    labels: Index
    classes: int
    largest: float

    def __post_init__(self) -> None:
        self.inputs.flags.writeable = self.labels.flags.writeable = False  # all tasks of a process share them

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return self.inputs.shape[1:]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of inputs and labels."""
        digest = hashlib.sha256(f"{self.inputs.dtype} {self.inputs.shape} {self.largest:.9g}".encode())
        digest.update(np.ascontiguousarray(self.inputs).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def take(self, indices: Index) -> NDArray[np.float32]:
        """The inputs at ``indices``, divided by ``largest``."""
        return self.inputs[indices].astype(np.float32) / np.float32(self.largest)


def split_by_class(labels: Index, split: Split) -> Index:
    """A split of data that come without one: of each class the last seventh is for tests.

    In the order of the file, so that it needs no seed. Of Continual ImageNet's 700 images of a class 600 are
    for training and 100 for tests, the split of Dohare et al. 2024 (``lop/imagenet/single_expr.py``).

    Returns:
        The indices, ascending.

    >>> split_by_class(np.zeros(15, np.int64), "test")
    array([13, 14])
    """
    chosen = [_part(np.flatnonzero(labels == label), split) for label in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def training_size(count: int) -> int:
    """How many of the ``count`` samples of a class are for training."""
    return count - count // 7


def _part(indices: Index, split: Split) -> Index:
    size = training_size(len(indices))
    return indices[:size] if split == "train" else indices[size:]
