"""What can differ between the tasks of a supervised stream: pure functions of arrays and seeds."""

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Floats = NDArray[np.float32]


def input_permutation(size: int, seed: int, share: float = 1.0) -> Index:
    """The order in which a task shows the ``size`` entries of an input: entry i is the old ``order[i]``.

    With a share of 1 it is ``default_rng(seed).permutation(size)``, as of the shift
    ``observation-permutation``. It can be made by ``size`` exchanges of two entries; a smaller share stops
    after the first of them. So as the share grows by 1 / size, at most two entries change places: a gradual
    shift from task to task.

    >>> input_permutation(4, seed=0), input_permutation(4, seed=0, share=0.5)
    (array([2, 0, 1, 3]), array([2, 0, 1, 3]))
    """
    whole = np.random.default_rng(seed).permutation(size)
    exchanges = round(share * size)
    if exchanges == size:
        return whole
    order, place = np.arange(size), np.arange(size)  # place[entry]: where `order` has it
    for i in range(exchanges):
        j, entry = place[whole[i]], order[i]
        order[[i, j]], place[[whole[i], entry]] = [whole[i], entry], [i, j]
    return order


def rotated(images: Floats, degrees: float) -> Floats:
    """Rotate ``[N, C, H, W]`` counter-clockwise about the centre; bilinear, 0 where nothing was.

    Right angles only move the pixels of square images.
    """
    from scipy.ndimage import rotate  # here, so that worlds that turn no images do without it

    turned: Floats = rotate(images, degrees, axes=(2, 3), order=1, reshape=False, mode="grid-constant")
    return turned


def random_labels(count: int, classes: int, seed: int) -> Index:
    """``count`` labels below ``classes``, each drawn independently and uniformly."""
    return np.random.default_rng(seed).integers(classes, size=count)


def noisy_labels(labels: Index, classes: int, share: float, seed: int) -> Index:
    """Replace the labels of ``round(share * N)`` samples by another class, each of the others as likely.

    Which samples comes from one shuffle: those of a smaller share are among those of a larger one.
    """
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    shifted = (labels[wrong] + rng.integers(1, classes, size=len(labels))[: len(wrong)]) % classes
    noisy = labels.copy()
    noisy[wrong] = shifted
    return noisy


def subset(count: int, size: int, seed: int) -> Index:
    """``size`` of ``count`` indices, ascending, drawn without replacement; fewer are a subset of more."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:size])
