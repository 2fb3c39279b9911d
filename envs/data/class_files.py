"""A folder with one ``.npy`` file per class, as Continual ImageNet comes (Dohare et al. 2024).

The files are mapped, not read: of a thousand classes a task touches two.
"""

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
    is for tests. Numbers from 0 to 255 are divided by 255, those from 0 to 1 taken as they are, each file by
    itself.

    Args:
        paths: The files, in the order of the classes.
        split: Which part of each.

    Raises:
        DamagedData: A file is damaged, or its inputs are of another shape than those of the first.
    """

    def __init__(self, paths: list[Path], split: Split) -> None:
        self._paths = paths
        shapes = [_mapped(path).shape for path in paths]
        for path, shape in zip(paths, shapes, strict=True):
            if shape[1:] != shapes[0][1:]:
                raise DamagedData(f"{path} has inputs of shape {shape[1:]}, {paths[0]} of {shapes[0][1:]}")
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
            array, largest = _opened(self._paths[label])
            here = labels == label
            taken[here] = array[rows[here]].astype(np.float32) / np.float32(largest)
        return taken


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
            numbered = all(path.stem.isdecimal() for path in paths)
            return ClassFiles(
                sorted(paths, key=lambda path: int(path.stem) if numbered else path.stem), split
            )
    raise MissingData(
        f"the data set {name!r} is not there: put one file per class, 0.npy, 1.npy, ..., each [n, 3, height, "
        f"width] of bytes, into {place}/{elsewhere(folder)}"
    )


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
def _opened(path: Path) -> tuple[NDArray[Any], float]:
    """The array of a file, and what its numbers are divided by.

    Raises:
        DamagedData: Its numbers lie neither in [0, 1] nor in [0, 255].
    """
    array = _mapped(path)
    if array.dtype == np.uint8:
        return array, 255.0
    low, high = float(array.min()), float(array.max())
    if not 0 <= low <= high <= 255:  # also if they are NaN
        raise DamagedData(f"{path} has numbers from {low:g} to {high:g}; expected 0 to 1, or 0 to 255")
    return array, 255.0 if high > 1 else 1.0
