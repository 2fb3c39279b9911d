"""Which checkpoints a run keeps, so that a long one does not fill the disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def kept_switches(tasks: int, keep: int) -> list[int]:
    """After how many tasks a checkpoint stays: 0 (untrained), every k-th, the last.

    k is the least that leaves at most ``keep`` + 1 in a sequence of ``tasks``. Nothing but its length counts:
    the same checkpoints are there whether the run is over or not.

    >>> kept_switches(5, keep=100)
    [0, 1, 2, 3, 4, 5]
    >>> kept_switches(10, keep=4)
    [0, 3, 6, 9, 10]
    """
    every = -(-tasks // keep)
    return sorted({*range(0, tasks + 1, every), tasks})


def superfluous(saved: Iterable[int], boundaries: Sequence[int], newest: int, switches: int) -> list[int]:
    """The checkpoints to remove, by their environment step.

    Args:
        saved: environment steps of those that are there.
        boundaries: environment steps of the run at the start of each task, and at the end of the last.
        newest: so many of the newest stay, wherever they are.
        switches: of the older ones stay those at switches that :func:`kept_switches` names.

    >>> superfluous([0, 100, 200, 300, 400, 500], boundaries=[0, 300, 600], newest=2, switches=9)
    [100, 200]
    """
    in_order = sorted(saved)
    stay = {boundaries[done] for done in kept_switches(len(boundaries) - 1, switches)}
    return [steps for steps in in_order[:-newest] if steps not in stay]
