"""A folder with one ``.npy`` file per class, as Continual ImageNet comes (Dohare et al. 2024).

The files are mapped, not read: of a thousand classes a task touches two.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedData, InvalidTask, MissingData
from .data_set import DataSet, Index, Split, training_size
from .places import elsewhere

_CHANNELS = (1, 3)


class ClassFiles:
    """One split of such a folder; class i is the i-th file, by number if all names are numbers, else by name.

    A file is ``[n, C, H, W]``, ``[n, H, W, C]`` (C is 1 or 3), ``[n, H, W]`` or ``[n, D]``; its last seventh
    is for tests. Bytes are divided by 255; other numbers too, unless those of all files lie between 0 and 1.

    Args:
        paths: The files, in the order of the classes.
        split: Which part of each.

    Raises:
        DamagedData: A file is damaged, its inputs are of another shape than those of the first, or some files
            hold bytes and others do not.
    """

    def __init__(self, paths: list[Path], split: Split) -> None:
        self._paths = paths
        shapes, digest, self._largest = [], hashlib.sha256(), 1.0
        of_bytes = _mapped(paths[0]).dtype == np.uint8
        for path in paths:
            array = _mapped(path)
            shapes.append(array.shape)
            if array.shape[1:] != shapes[0][1:]:
                raise DamagedData(
                    f"{path} has inputs of shape {array.shape[1:]}, {paths[0]} of {shapes[0][1:]}"
                )
            if (array.dtype == np.uint8) != of_bytes:
                raise DamagedData(
                    f"either {path} or {paths[0]} holds bytes, the other does not: save all with one type of "
                    "number"
                )
            self._largest = max(self._largest, _scale(path, array))
            digest.update(f"{path.name} {array.dtype} {array.shape}".encode())
            digest.update(array[:1].tobytes() + array[-1:].tobytes())
        self.fingerprint = digest.hexdigest()
        """Of names, types, sizes, first and last inputs: a thousand files are not read for it."""
        self.shape: tuple[int, ...] = shapes[0][1:]
        self.classes = len(paths)
        sizes = np.array([training_size(shape[0]) for shape in shapes])
        first = np.zeros_like(sizes) if split == "train" else sizes
        counts = sizes if split == "train" else np.array([shape[0] for shape in shapes]) - sizes
        self.labels: Index = np.repeat(np.arange(len(paths)), counts)
        self.labels.flags.writeable = False
        # Row in its file of each sample: the samples of a class stand together.
        self._rows = np.arange(len(self.labels)) + np.repeat(first - np.cumsum(counts) + counts, counts)

    def take(self, indices: Index) -> NDArray[np.float32]:
        """The inputs at ``indices``, from the files of their classes."""
        taken = np.empty((len(indices), *self.shape), np.float32)
        labels, rows = self.labels[indices], self._rows[indices]
        for label in np.unique(labels):
            here = labels == label
            taken[here] = _opened(self._paths[label])[rows[here]]
        return taken / np.float32(self._largest)


def load_class_files(name: str, folder: Path, split: Split) -> DataSet:
    """Open the folder that ``name`` (``folder:<sub-folder>``) means, or the folder ``classes`` in it.

    Raises:
        InvalidTask: ``name`` leads out of the folder of data sets.
        MissingData: There are no ``.npy`` files.
        DamagedData: A file is damaged.
    """
    inside = Path(name.partition(":")[2])
    if inside.is_absolute() or ".." in inside.parts:
        raise InvalidTask(
            f"data = {name!r}: expected a folder below that of the data sets; name theirs with --data DIR"
        )
    place = folder / inside
    for candidate in (place, place / "classes"):
        paths = [path for path in candidate.glob("*.npy") if path.is_file()]
        if paths:
            return ClassFiles(_in_order(paths), split)
    raise MissingData(
        f"the data set {name!r} is not there: put one file per class, 0.npy, 1.npy, ..., each [n, 3, height, "
        f"width] of bytes, into {place}/{elsewhere(folder)}"
    )


def _in_order(paths: list[Path]) -> list[Path]:
    """By number if all names are numbers, else by name.

    Raises:
        DamagedData: A number between two others is missing: all classes after it would move.
    """
    if not all(path.stem.isdecimal() for path in paths):
        return sorted(paths, key=lambda path: path.stem)
    by_number = {int(path.stem): path for path in paths}
    numbers = sorted(by_number)
    if gap := set(range(numbers[0], numbers[-1])) - by_number.keys():
        raise DamagedData(
            f"{paths[0].parent} has no {min(gap)}.npy, but the files before and after it; "
            "put it there, or number the classes without a gap"
        )
    return [by_number[number] for number in numbers]


def _mapped(path: Path) -> NDArray[Any]:
    """The array of a file, mapped and read only, as ``[n, C, H, W]`` or ``[n, D]``."""
    try:
        array: Any = np.lib.format.open_memmap(path, mode="r")  # refuses objects: nothing is unpickled
        end = array.offset + array.nbytes
    except Exception as error:  # numpy fails on damaged headers in many ways
        if "Python objects" in str(error):
            raise DamagedData(
                f"{path} holds Python objects, which are never loaded: they could run code. Save an "
                "array of numbers: all its inputs need one shape, np.stack([...]).astype(np.uint8)"
            ) from None
        raise DamagedData(f"{path} is not a readable .npy file: {error}; get the file again") from None
    if end != path.stat().st_size:
        raise DamagedData(f"{path} has {path.stat().st_size:,} bytes, its header promises {end:,}")
    if array.ndim not in (2, 3, 4) or array.dtype.kind not in "buif":
        raise DamagedData(
            f"{path} holds {array.dtype} of shape {array.shape}; expected numbers of shape [n, channels, "
            "height, width], [n, height, width] or [n, features]"
        )
    if array.ndim == 4 and array.shape[1] not in _CHANNELS and array.shape[3] in _CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    pictures: NDArray[Any] = array[:, None] if array.ndim == 3 else array
    return pictures


@lru_cache(maxsize=64)  # each holds a file open: far below the usual limit of 1,024
def _opened(path: Path) -> NDArray[Any]:
    """The array of a file that was found to be one; kept for the next time."""
    return _mapped(path)


def _scale(path: Path, array: NDArray[Any]) -> float:
    """What the numbers of a file ask to be divided by; all are read, unless they are bytes.

    Raises:
        DamagedData: They lie neither in [0, 1] nor in [0, 255].
    """
    if array.dtype == np.uint8:
        return 255.0
    if not array.size:
        return 1.0
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= 255:  # also if they are NaN
        raise DamagedData(f"{path} has numbers from {low:g} to {high:g}; expected 0 to 1, or 0 to 255")
    return 255.0 if high > 1 else 1.0
