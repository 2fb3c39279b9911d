"""The IDX format of MNIST, EMNIST and their relatives, plain or gzipped.

A file is ``00 00 08 n`` (unsigned bytes in n dimensions), the n sizes as big-endian 32-bit numbers, then the
bytes (http://yann.lecun.com/exdb/mnist/).
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedData
from .data_set import ArrayData, DataSet, Split
from .places import find_files

_LARGEST_EXPANSION = 1032
"""Deflate cannot expand a byte to more (zlib's technical notes): a gzipped file that promises more lies."""


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an array of unsigned bytes; nothing is allocated before its size has been found possible.

    Args:
        path: The file; gzipped if it ends in ``.gz``.
        dimensions: How many axes it must have.

    Raises:
        DamagedData: It is truncated, too long, or of another format.
    """
    zipped = path.suffix == ".gz"
    try:
        size = path.stat().st_size
        with gzip.open(path) if zipped else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]):
                raise DamagedData(
                    f"{path} is no IDX file of unsigned bytes in {dimensions} dimension(s): it begins with "
                    f"{header[:4].hex(' ') or 'nothing'}, not 00 00 08 {dimensions:02x}"
                )
            if len(header) < 4 + 4 * dimensions:
                raise DamagedData(f"{path} is truncated: it ends within its header; get the file again")
            sizes = struct.unpack_from(f">{dimensions}I", header, 4)
            expected = prod(sizes)
            possible = size * _LARGEST_EXPANSION if zipped else size
            content = file.read(expected) if expected <= possible else b""
            if len(content) < expected:
                promised = " x ".join(map(str, sizes))
                raise DamagedData(
                    f"{path} is truncated: its header promises {promised} bytes; get the file again"
                )
            if file.read(1):
                raise DamagedData(f"{path} goes on after the {expected:,} bytes that its header promises")
    except (OSError, EOFError, zlib.error) as error:  # of gzip: no gzip, a wrong checksum, cut off
        raise DamagedData(f"{path} cannot be read: {error}; get the file again") from None
    return np.frombuffer(content, np.uint8).reshape(sizes)


@dataclass(frozen=True)
class IdxFiles:
    """A data set of four IDX files: images and labels, for training and for tests.

    Attributes:
        prefix: What the files' names begin with.
        test: What stands for "test" in them.
        classes: How many there are.
        first: The number of the first class.
        places: Sub-folders it may lie in, ours first, then torchvision's.
        transposed: Whether images are stored column by column, as all of EMNIST's are.
    """

    prefix: str
    test: str
    classes: int
    places: tuple[str, ...]
    first: int = 0
    transposed: bool = False

    def load(self, name: str, folder: Path, split: Split) -> DataSet:
        """Read one split; all four files must be there.

        Raises:
            MissingData: A file is missing.
            DamagedData: A file is damaged, or images and labels do not fit together.
        """
        images, labels = (f"{self.prefix}{{}}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        names = {"train": "train", "test": self.test}
        files = find_files(
            name,
            folder,
            self.places,
            [kind.format(part) for part in names.values() for kind in (images, labels)],
            gzipped=True,
        )
        image_file, label_file = files[images.format(names[split])], files[labels.format(names[split])]
        inputs, targets = read_idx(image_file, 3), read_idx(label_file, 1).astype(np.int64) - self.first
        if not len(inputs) == len(targets) > 0:
            raise DamagedData(f"{image_file} has {len(inputs)} images, {label_file} {len(targets)} labels")
        if targets.min() < 0 or targets.max() >= self.classes:
            raise DamagedData(
                f"{label_file} has labels from {targets.min() + self.first} to {targets.max() + self.first}; "
                f"those of {name} go from {self.first} to {self.first + self.classes - 1}"
            )
        if self.transposed:
            inputs = np.ascontiguousarray(inputs.transpose(0, 2, 1))
        return ArrayData(inputs[:, None], targets, self.classes, 255.0)  # [N, H, W] -> [N, 1, H, W]


def _emnist(split: str, classes: int, first: int = 0) -> IdxFiles:
    places = ("emnist", "EMNIST/raw", "emnist/gzip")  # torchvision's, and as NIST's archive unpacks
    return IdxFiles(f"emnist-{split}-", "test", classes, places, first, transposed=True)


IDX_DATA: dict[str, IdxFiles] = {
    "mnist": IdxFiles("", "t10k", 10, ("mnist", "MNIST/raw")),
    "fashion-mnist": IdxFiles("", "t10k", 10, ("fashion-mnist", "FashionMNIST/raw")),
    "kmnist": IdxFiles("", "t10k", 10, ("kmnist", "KMNIST/raw")),
    # Cohen et al. 2017; labels of the letters begin at 1.
    "emnist-balanced": _emnist("balanced", 47),
    "emnist-byclass": _emnist("byclass", 62),
    "emnist-bymerge": _emnist("bymerge", 47),
    "emnist-digits": _emnist("digits", 10),
    "emnist-letters": _emnist("letters", 26, first=1),
    "emnist-mnist": _emnist("mnist", 10),
}
