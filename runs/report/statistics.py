"""What several seeds say together: interquartile means, bootstrap intervals, probabilities of improvement.

The method of rliable (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice"), in the few lines of numpy that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..words import number

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From scores ``[..., runs, tasks]`` to ``[...]``."""

REPETITIONS = 2_000
"""Bootstrap samples: the ends of a 95 % interval then move by a few hundredths of its width between seeds."""

CONFIDENCE = 0.95

LEAST_RUNS = 3
"""Fewer give no interval, and no correlation: one run has no spread, and an interval of two is these two."""


@dataclass(frozen=True)
class Interval:
    """A number and its percentile bootstrap interval; both ends are NaN where too few runs give none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not np.isfinite(self.low):
            return number(self.value)
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


def interquartile_mean(scores: ArrayLike) -> Array:
    """The mean of the middle half of all scores, runs and tasks together.

    ``floor(n / 4)`` of the n scores are cut at either end, as rliable does with ``scipy.stats.trim_mean``;
    with fewer than four it is the mean.

    Args:
        scores: ``[..., runs, tasks]``.

    Returns:
        ``[...]``.

    >>> float(interquartile_mean([[-100.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [700.0]]))
    3.5
    """
    table = np.asarray(scores, dtype=np.float64)
    flat = np.sort(table.reshape(*table.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    middle: Array = flat[..., cut : flat.shape[-1] - cut].mean(-1)
    return middle


def stratified_bootstrap(
    *scores: ArrayLike,
    statistic: Callable[..., Array] = interquartile_mean,
    whole_runs: bool = True,
    repetitions: int = REPETITIONS,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of several groups, each of which is resampled within itself.

    Args:
        scores: one array ``[runs, tasks]`` per group (arm); groups are the strata.
        statistic: of the same number of arrays ``[..., runs, tasks]``, to ``[...]``.
        whole_runs: resample runs as wholes. rliable resamples each task's runs by themselves, which is right
            where every score comes from a training of its own; the tasks of one continual run share an agent,
            and treating them as independent would make the interval too narrow. False gives rliable's.
        repetitions: bootstrap samples.
        confidence: of the interval.
        seed: of the resampling; the same data give the same interval.

    Returns:
        The statistic of the data, and its interval. With few runs it is too narrow (with 3 seeds it cannot
        reach beyond the best and the worst of them), and with fewer than ``LEAST_RUNS`` there is none.
    """
    groups = [np.asarray(group, dtype=np.float64) for group in scores]
    value = float(statistic(*groups))
    if any(len(group) < LEAST_RUNS for group in groups) or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    samples = statistic(*(_resample(group, whole_runs, repetitions, generator) for group in groups))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(samples, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def probability_of_improvement(ours: ArrayLike, theirs: ArrayLike) -> Array:
    """``(1/M) sum_m P(X_m > Y_m)``: that a run of ours beats one of theirs on a task drawn at random.

    The Mann-Whitney statistic of each task over all pairs of runs, ties counted as half (Agarwal et
    al. 2021).

    Args:
        ours: ``[..., runs, tasks]``.
        theirs: ``[..., other runs, tasks]``.

    Returns:
        ``[...]``, 1/2 for equals.

    >>> float(probability_of_improvement([[2.0], [4.0]], [[1.0], [3.0]]))
    0.75
    """
    x = np.asarray(ours, dtype=np.float64)[..., :, None, :]
    y = np.asarray(theirs, dtype=np.float64)[..., None, :, :]
    share: Array = ((x > y) + 0.5 * (x == y)).mean((-3, -2, -1))
    return share


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, ties at their mean rank; NaN for constant data.

    >>> spearman([1, 2, 3], [1, 8, 27])
    1.0
    """
    first, second = _ranks(np.asarray(x, dtype=np.float64)), _ranks(np.asarray(y, dtype=np.float64))
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((first @ first) * (second @ second)))
    # The ends are the truth; rounding may step over them.
    return float(np.clip(first @ second / scale, -1.0, 1.0)) if scale else float("nan")


def spearman_interval(
    points: Sequence[tuple[ArrayLike, ArrayLike]],
    repetitions: int = 1_000,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Spearman's correlation over the points of several runs, with an interval from resampling whole runs.

    The points of one run share an agent: to draw points one by one would make the interval too narrow.

    Args:
        points: x and y of each run, ``[n_r]`` each.
        repetitions: bootstrap samples.
        confidence: of the interval.
        seed: of the resampling.

    Returns:
        NaN from fewer than ``LEAST_RUNS`` runs with points, or three points.
    """
    pairs = [np.stack([np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)]) for x, y in points]
    pairs = [pair for pair in pairs if pair.shape[1]]
    joined = np.concatenate(pairs, axis=1) if pairs else np.empty((2, 0))
    if len(pairs) < LEAST_RUNS or joined.shape[1] < 3:
        return Interval(float("nan"), float("nan"), float("nan"))
    value = spearman(*joined)
    if not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(pairs), size=(repetitions, len(pairs)))
    samples = np.array([spearman(*np.concatenate([pairs[i] for i in draw], axis=1)) for draw in draws])
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return Interval(value, float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(samples, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def _resample(group: Array, whole_runs: bool, repetitions: int, generator: np.random.Generator) -> Array:
    """``[runs, tasks] -> [repetitions, runs, tasks]``, drawn with replacement."""
    runs, tasks = group.shape
    if whole_runs:
        return group[generator.integers(runs, size=(repetitions, runs))]
    return group[generator.integers(runs, size=(repetitions, runs, tasks)), np.arange(tasks)]


def _ranks(values: Array) -> Array:
    """Ranks from 1, equal values at the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2.0)[place]
    return ranks
