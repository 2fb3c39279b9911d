"""CIFAR-10 and CIFAR-100 in their binary version; the Python version is a pickle, and is never opened.

A file is a row of records: the label (CIFAR-100: the coarse label, then the fine one), then the red, green
and blue planes of a 32 x 32 image, a byte each (https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedData
from .data_set import ArrayData, DataSet, Split
from .places import find_files

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


def read_records(path: Path, labels: int) -> NDArray[np.uint8]:
    """Read the records of a file, ``[n, labels + 3072]``.

    Args:
        path: The file.
        labels: Bytes of labels before each image.

    Raises:
        DamagedData: It is empty, or does not end with a record.
    """
    size, record = path.stat().st_size, labels + _PIXELS
    if size == 0 or size % record:
        raise DamagedData(
            f"{path} has {size:,} bytes, no whole number of records of {record:,} bytes: it is truncated, or "
            "not of CIFAR's binary version; get the file again"
        )
    try:
        return np.fromfile(path, np.uint8).reshape(-1, record)
    except (OSError, ValueError) as error:
        raise DamagedData(f"{path} cannot be read: {error}") from None


@dataclass(frozen=True)
class CifarFiles:
    """One of the two data sets.

    Attributes:
        place: The folder that its archive unpacks to.
        train: Files of the training split.
        test: Files of the test split.
        classes: How many there are.
        labels: Bytes of labels before each image, of which the last counts.
    """

    place: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: int
    labels: int

    def load(self, name: str, folder: Path, split: Split) -> DataSet:
        """Read one split; all files must be there.

        Raises:
            MissingData: A file is missing.
            DamagedData: A file is damaged.
        """
        files = find_files(name, folder, (self.place, name), self.train + self.test)
        chosen = [files[file] for file in (self.train if split == "train" else self.test)]
        parts = [read_records(path, self.labels) for path in chosen]
        for path, part in zip(chosen, parts, strict=True):
            largest = int(part[:, self.labels - 1].max())
            if largest >= self.classes:
                raise DamagedData(
                    f"{path} has the label {largest}; those of {name} end at {self.classes - 1}"
                )
        records = np.concatenate(parts)
        inputs = np.ascontiguousarray(records[:, self.labels :]).reshape(-1, *_SHAPE)
        return ArrayData(inputs, records[:, self.labels - 1].astype(np.int64), self.classes, 255.0)


CIFAR_DATA: dict[str, CifarFiles] = {
    "cifar10": CifarFiles(
        "cifar-10-batches-bin", tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",), 10, 1
    ),
    "cifar100": CifarFiles("cifar-100-binary", ("train.bin",), ("test.bin",), 100, 2),
}
