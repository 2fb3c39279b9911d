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

    The same as ``scipy.ndimage.rotate`` with ``order=1, reshape=False, mode="grid-constant"``; right angles
    only move the pixels of square images.
    """
    height, width = images.shape[2:]
    angle = np.deg2rad(degrees)
    # Exact for right angles; off by 1e-16 they would blend each pixel with its neighbour or the outside.
    sine, cosine = np.round([np.sin(angle), np.cos(angle)], 15)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y -= (height - 1) / 2
    x -= (width - 1) / 2
    # Where each new pixel comes from, [H, W].
    from_y = np.round(cosine * y + sine * x + (height - 1) / 2, 12)
    from_x = np.round(cosine * x - sine * y + (width - 1) / 2, 12)
    top, left = np.floor(from_y).astype(np.int64), np.floor(from_x).astype(np.int64)
    flat = images.reshape(*images.shape[:2], height * width)
    turned = np.zeros_like(flat)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = np.maximum(0, 1 - np.abs(from_y - row)) * np.maximum(0, 1 - np.abs(from_x - column))
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        source = np.where(inside, row * width + column, 0).ravel()
        turned += flat[:, :, source] * np.where(inside, weight, 0).ravel().astype(np.float32)
    return turned.reshape(images.shape)


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
