"""Continual-learning metrics: pure functions of arrays, each as its source defines it.

Throughout, N tasks are learned one after the other and ``R`` is the *evaluation matrix* ``[N + 1, N]``:
``R[k, j]`` is the mean return on task j once k tasks have been learned, so that row 0 is the untrained agent
and row ``i + 1`` is the literature's ``R[i, .]``. What was not evaluated is NaN, and so is a
metric that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RANGES: dict[str, tuple[float, float]] = {
    "CartPole-v0": (0.0, 200.0),  # one per step, at most 200 of them
    "CartPole-v1": (0.0, 500.0),  # one per step, at most 500 of them
    "Acrobot-v1": (-500.0, 0.0),  # minus one per step, at most 500 of them
    "MountainCar-v0": (-200.0, 0.0),  # minus one per step, at most 200 of them
    # 200 steps, each at worst -(pi^2 + 0.1 * 8^2 + 0.001 * 2^2) = -16.2736 (gymnasium's documentation)
    "Pendulum-v1": (-3254.721, 0.0),
    "MiniGrid-": (0.0, 1.0),  # 1 - 0.9 * steps / limit where the goal is reached, 0 elsewhere
}
"""Bounds of an episode's return by environment id; an id that ends in ``-`` stands for all that begin so."""

_RETURN_CHANGES = frozenset({"reward-scale"})
"""Shifts after which the bounds hold no more."""

EVALUATED = ("average performance", "forgetting", "backward transfer", "zero-shot transfer")


def known_range(
    env: str, shifts: Sequence[str] = (), kwargs: Mapping[str, Any] | None = None
) -> tuple[float, float] | None:
    """Lowest and highest return of an environment, or None where they are not known.

    Args:
        env: gymnasium's id.
        shifts: names of the shifts laid over it.
        kwargs: arguments of the environment; with any (a reward of another form, another limit of steps) the
            bounds are not taken for known.

    >>> known_range("CartPole-v1"), known_range("Ant-v5")
    ((0.0, 500.0), None)
    """
    if kwargs or _RETURN_CHANGES & set(shifts):
        return None
    return RANGES.get(env) or RANGES.get(f"{env.split('-')[0]}-")


def normalise(returns: ArrayLike, bounds: tuple[ArrayLike, ArrayLike]) -> Array:
    """``(x - low) / (high - low)``: returns as a share of the environment's range, or of each task's.

    >>> normalise([0, 250, 500], (0, 500)).tolist()
    [0.0, 0.5, 1.0]
    """
    low, high = (np.asarray(end, dtype=np.float64) for end in bounds)
    return (np.asarray(returns, dtype=np.float64) - low) / (high - low)


def average_performance(matrix: ArrayLike) -> float:
    """``(1/N) sum_j p_j(T)``: the last row's mean; Continual World (Wolczyk et al. 2021).

    Args:
        matrix: the evaluation matrix ``[N + 1, N]``.

    >>> average_performance([[0, 0], [1.0, 0], [0.5, 1.0]])
    0.75
    """
    return float(_matrix(matrix)[-1].mean())


def forgetting(matrix: ArrayLike) -> float:
    """``(1/N) sum_i [p_i(i D) - p_i(T)]``: what was lost since each task's end.

    Continual World (Wolczyk et al. 2021), whose mean is over all N tasks: the last one has had no time to be
    forgotten and counts as 0. Negative where later tasks helped.

    Args:
        matrix: the evaluation matrix ``[N + 1, N]``.

    >>> forgetting([[0, 0], [1.0, 0], [0.5, 1.0]])
    0.25
    """
    table = _matrix(matrix)
    return float((np.diagonal(table[1:]) - table[-1]).mean())


def backward_transfer(matrix: ArrayLike) -> float:
    """``(1/(N - 1)) sum_{i < N} (R[N, i] - R[i, i])``; GEM (Lopez-Paz & Ranzato 2017, equation 3).

    Forgetting with the other sign and without the last task: ``-N / (N - 1)`` times :func:`forgetting`.

    Args:
        matrix: the evaluation matrix ``[N + 1, N]``; NaN for a single task.

    >>> backward_transfer([[0, 0], [1.0, 0], [0.5, 1.0]])
    -0.5
    """
    table = _matrix(matrix)
    return _mean((table[-1] - np.diagonal(table[1:]))[:-1])


def zero_shot_transfer(matrix: ArrayLike) -> float:
    """``(1/(N - 1)) sum_{i > 1} (R[i - 1, i] - r_i)``: ability on a task not yet trained on.

    The forward transfer of GEM (Lopez-Paz & Ranzato 2017, equation 4), with ``r_i`` the untrained agent's
    return. Named *zero-shot* because Continual World's :func:`forward_transfer` is about learning speed.

    Args:
        matrix: the evaluation matrix ``[N + 1, N]``; NaN for a single task.

    >>> zero_shot_transfer([[0, 0.1], [1.0, 0.4], [0.5, 1.0]])
    0.30000000000000004
    """
    table = _matrix(matrix)
    return _mean((np.diagonal(table[:-1]) - table[0])[1:])


def learning_curve(
    env_steps: ArrayLike, returns: ArrayLike, first: float, last: float, bins: int = 20
) -> Array:
    """Mean return of the episodes that end in each of ``bins`` equal spans of environment steps.

    A span in which no episode ended takes the value before it; the first ones, the first value there is.

    Args:
        env_steps: when each episode ended ``[E]``.
        returns: of each episode ``[E]``.
        first: environment steps before the window.
        last: environment steps at its end; episodes outside are left out.
        bins: number of spans.

    Returns:
        ``[bins]``, all NaN if no episode ended in the window.

    >>> learning_curve([5, 20, 40], [1.0, 3.0, 5.0], 0, 40, bins=4).tolist()
    [1.0, 3.0, 3.0, 5.0]
    """
    steps, values = np.asarray(env_steps, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    inside = (steps > first) & (steps <= last)
    place = np.ceil((steps[inside] - first) / (last - first) * bins).astype(int) - 1
    counts = np.bincount(place, minlength=bins)
    sums = np.bincount(place, weights=values[inside], minlength=bins)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return np.full(bins, np.nan)
    nearest = filled[np.maximum(np.searchsorted(filled, np.arange(bins), side="right") - 1, 0)]
    curve: Array = sums[nearest] / counts[nearest]
    return curve


def area_under_curve(curve: ArrayLike) -> float:
    """``(1/D) integral p(t) dt`` over a task's window: the mean of a curve on equal spans ``[bins]``."""
    return float(np.asarray(curve, dtype=np.float64).mean())


def forward_transfer(areas: ArrayLike, fresh: ArrayLike) -> Array:
    """``(AUC_i - AUC_i^b) / (1 - AUC_i^b)`` of each task: how much faster than from scratch it was learned.

    Continual World (Wolczyk et al. 2021); its metric is the mean over tasks. There p is the success rate of
    evaluation episodes; here it may be the normalised return of training episodes.

    Args:
        areas: area under the curve in each task's own window ``[N]``, of performance in [0, 1].
        fresh: the same of an agent that learns that task alone, from scratch ``[N]``.

    Returns:
        ``[N]``; NaN where the fresh agent leaves no room (``AUC_i^b = 1``).

    >>> forward_transfer([0.5, 0.75], [0.5, 0.5]).tolist()
    [0.0, 0.5]
    """
    ours, theirs = np.asarray(areas, dtype=np.float64), np.asarray(fresh, dtype=np.float64)
    room = np.where(theirs < 1.0, 1.0 - theirs, np.nan)
    result: Array = (ours - theirs) / room
    return result


def plasticity_gap(performance: ArrayLike, fresh: ArrayLike) -> Array:
    """What a fresh agent, given the same budget on the same task, performs better on each task.

    The criterion of loss of plasticity (Dohare et al. 2024; arXiv 2509.22335): above 0 where learning has
    become worse than starting over, below where what was learned before helps. It speaks of tasks after the
    first; there both agents are fresh.

    Args:
        performance: at the end of each task, or over it ``[N]``.
        fresh: the same of the fresh agent ``[N]``.

    >>> plasticity_gap([100, 80], [100, 120]).tolist()
    [0.0, 40.0]
    """
    gap: Array = np.asarray(fresh, dtype=np.float64) - np.asarray(performance, dtype=np.float64)
    return gap


def repeated_task_plasticity(first: ArrayLike, repeat: ArrayLike) -> Array:
    """``max(0, 1 - AUC_repeat / AUC_first)``: the share of learning lost when a task comes back.

    0: learned as well as the first time, or better; 1: not at all. No one definition is settled in the
    literature; this is the relative one, on the areas that Continual World defines.

    Args:
        first: area under the curve the first time ``[K]``, of performance of at least 0.
        repeat: the same of a later time ``[K]``.

    Returns:
        ``[K]``; NaN where nothing was learned the first time.

    >>> repeated_task_plasticity([0.8, 0.5], [0.4, 0.6]).tolist()
    [0.5, 0.0]
    """
    before, after = np.asarray(first, dtype=np.float64), np.asarray(repeat, dtype=np.float64)
    result: Array = np.maximum(0.0, 1.0 - after / np.where(before > 0.0, before, np.nan))
    return result


def repeats(tasks: Sequence[Any]) -> list[tuple[int, int]]:
    """Pairs (first time, later time) of indices of equal tasks, in order of the later.

    >>> repeats(["a", "b", "a", "a"])
    [(0, 2), (0, 3)]
    """
    seen: dict[Any, int] = {}
    return [(seen[task], index) for index, task in enumerate(tasks) if seen.setdefault(task, index) != index]


def _matrix(matrix: ArrayLike) -> Array:
    table = np.asarray(matrix, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] + 1:
        raise ValueError(
            f"matrix: expected [N + 1, N], the untrained agent and then one row after each task, got "
            f"{list(table.shape)}"
        )
    return table


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")
