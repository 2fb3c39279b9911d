"""What scikit-learn brings: its digits, which need no file, and OpenML's data sets over the network."""

from pathlib import Path

import numpy as np

from ..errors import DamagedData, InvalidTask, MissingData
from .data_set import ArrayData, DataSet, Split, split_by_class


def load_digits(name: str, folder: Path, split: Split) -> DataSet:
    """Handwritten digits of 8 x 8 pixels with values from 0 to 16: 1,797, of which 1,545 are for training.

    The test set of UCI's "Optical Recognition of Handwritten Digits", as scikit-learn ships it.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    chosen = split_by_class(digits.target, split)
    images = digits.images[chosen].astype(np.uint8)[:, None]  # [N, 8, 8] -> [N, 1, 8, 8]
    return ArrayData(images, digits.target[chosen].astype(np.int64), 10, 16.0)


def load_openml(name: str, folder: Path, split: Split) -> DataSet:
    """The OpenML data set that ``name`` (``openml:<number>``) means, kept in ``folder/openml``.

    Features must be numbers; (x - lowest) / (highest - lowest) over the whole data set brings them to [0, 1].
    Classes are the values of its target, in the order of their names. 554 is MNIST.

    Raises:
        InvalidTask: ``name`` has no number.
        MissingData: It cannot be fetched.
        DamagedData: It is no classification of numbers.
    """
    from sklearn import datasets

    number = name.partition(":")[2]
    if not number.isdecimal():
        raise InvalidTask(f"data = {name!r}: expected the number of a data set of OpenML, as in 'openml:554'")
    try:
        bunch = datasets.fetch_openml(
            data_id=int(number), as_frame=False, data_home=str(folder / "openml"), parser="liac-arff"
        )
    except Exception as error:  # no network, no such data set, a damaged copy: in many ways
        raise MissingData(
            f"the data set {name!r} cannot be fetched from OpenML into {folder / 'openml'}/: {error}; where"
            " there is no network, copy that folder from a machine that has fetched it"
        ) from None
    try:
        inputs = np.asarray(bunch.data, np.float32)
        low, high = float(inputs.min()), float(inputs.max())
    except (TypeError, ValueError) as error:
        raise DamagedData(f"the data set {name!r} has features that are no numbers: {error}") from None
    if inputs.ndim != 2 or not np.isfinite([low, high]).all() or low == high or bunch.target is None:
        raise DamagedData(f"the data set {name!r} is no classification of finite numbers")
    names, labels = np.unique(np.asarray(bunch.target), return_inverse=True)
    chosen = split_by_class(labels, split)
    return ArrayData(
        inputs[chosen] - np.float32(low), labels[chosen].astype(np.int64), len(names), high - low
    )
