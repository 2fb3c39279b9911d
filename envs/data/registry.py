"""The data sets by name."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from ..errors import InvalidTask, unknown
from .cifar import CIFAR_DATA
from .class_files import load_class_files
from .data_set import DataSet, Split
from .idx import IDX_DATA
from .places import data_folder
from .sklearn import load_digits, load_openml

Loader = Callable[[str, Path, Split], DataSet]
"""(name, folder of data sets, split) -> the split."""

DATA_SETS: dict[str, Loader] = {
    "digits": load_digits,
    **{name: files.load for name, files in IDX_DATA.items()},
    **{name: files.load for name, files in CIFAR_DATA.items()},
    "folder:": load_class_files,  # and the name of a sub-folder
    "openml:": load_openml,  # and a number
}


def load_data(name: str, split: Split, folder: str | None = None) -> DataSet:
    """Load one split of a data set; the second time in a process it is the same object.

    Args:
        name: A name of `DATA_SETS`; one that ends in a colon is followed by what it needs.
        split: ``"train"`` or ``"test"``.
        folder: Where data sets lie; see `pliant.envs.data.places`.

    Raises:
        InvalidTask: The name is unknown.
        MissingData: Its files are not there.
        DamagedData: They are there, but not as they must be.
    """
    kind = name.partition(":")[0] + ":" if ":" in name else name
    if kind not in DATA_SETS or name.endswith(":"):
        known = [f"{entry}..." if entry.endswith(":") else entry for entry in DATA_SETS]
        raise InvalidTask(unknown("data set", name, known))
    return _load(kind, name, split, data_folder(folder).absolute())


@lru_cache(maxsize=8)
def _load(kind: str, name: str, split: Split, folder: Path) -> DataSet:
    return DATA_SETS[kind](name, folder, split)
