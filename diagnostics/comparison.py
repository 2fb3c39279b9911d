"""What changed between two measurements, and how far two spectra are apart."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .errors import EpsilonBelowFloor, InvalidSetting
from .estimate import Estimate
from .snapshot import Snapshot
from .spectrum import Spectrum


@dataclass(frozen=True)
class Change:
    """One number before and after.

    Attributes:
        before: with its bracket.
        after: with its bracket.
    """

    before: Estimate
    after: Estimate

    @property
    def value(self) -> float:
        """After less before."""
        return self.after.value - self.before.value

    @property
    def certain(self) -> bool:
        """Whether the brackets are apart, so that the sign of the change is."""
        return self.after.low > self.before.high or self.after.high < self.before.low


def cause(before: Snapshot, after: Snapshot) -> str:
    """What lies between two snapshots: ``data`` (same parameters), ``parameters`` (same task) or ``both``.

    The end of a task and the beginning of the next have the same parameters and other data: what differs
    there is due to the data alone. The beginning and the end of one task have data of the same task: what
    differs there is due to the parameters (and to what the policy now visits).
    """
    keys = ("parameters", "task")
    missing = [key for key in keys if key not in before.about or key not in after.about]
    if missing:
        raise InvalidSetting(
            f"the snapshots do not say their {' and '.join(missing)}; take them with SnapshotCallback"
        )
    if before.about["parameters"] == after.about["parameters"]:
        return "data"
    return "parameters" if before.about["task"] == after.about["task"] else "both"


def changes(before: Snapshot, after: Snapshot) -> dict[str, Change]:
    """The ranks that two snapshots share, as ``<part>/epsilon_rank_<e>`` and ``<part>/relative_rank_<e>``."""
    found = {}
    for part in before.spectra:
        if part not in after.spectra:
            continue
        for name, epsilons, relative in (
            ("epsilon_rank", before.settings.epsilons, False),
            ("relative_rank", before.settings.relative_epsilons, True),
        ):
            for epsilon in epsilons:
                try:
                    pair = [one.spectra[part].epsilon_rank(epsilon, relative) for one in (before, after)]
                except EpsilonBelowFloor:
                    continue
                found[f"{part}/{name}_{epsilon:g}"] = Change(*pair)
    return found


@dataclass(frozen=True)
class Step:
    """What one number did from one snapshot of a run to the next.

    Attributes:
        before: where it comes from, ``task 3, end``.
        after: where it goes to, ``task 4, init``.
        cause: ``data``, ``parameters`` or ``both`` (:func:`cause`).
        quantity: ``<part>/epsilon_rank_<e>`` or ``<part>/relative_rank_<e>``.
        change: the number on both sides, with brackets; ``change.certain`` where they are apart.
    """

    before: str
    after: str
    cause: str
    quantity: str
    change: Change


def what_changed(snapshots: Iterable[Snapshot]) -> list[Step]:
    """The table of changes through a run: at each switch those of the data, within each task the others.

    Args:
        snapshots: of one run, in the order in which they were taken: init and end of task 0, init and end of
            task 1, and so on. Those that failed, or measured no spectrum, are passed over.
    """
    taken = [snapshot for snapshot in snapshots if snapshot.spectra and "parameters" in snapshot.about]
    return [
        Step(_moment(before), _moment(after), cause(before, after), quantity, change)
        for before, after in pairwise(taken)
        for quantity, change in changes(before, after).items()
    ]


def _moment(snapshot: Snapshot) -> str:
    return f"task {snapshot.about.get('task')}, {snapshot.label}"


def data_changes(end: Snapshot, init: Snapshot) -> dict[str, float]:
    """What the data alone changed from the end of a task to the beginning of the next, as tags.

    ``switch/<part>/data_change_<rank>`` is the rank on the new task's data less that on the old task's, with
    the bracket ``_low`` to ``_high``: where both have one sign, that sign is certain. Nothing where the
    parameters differ, too (a fresh agent, a mitigation that acts at the switch).
    """
    if "parameters" not in end.about or cause(end, init) != "data":
        return {}
    tags = {}
    for quantity, change in changes(end, init).items():
        part, _, rank = quantity.rpartition("/")
        tag = f"switch/{part}/data_change_{rank}"
        tags[tag] = change.value
        tags[f"{tag}_low"] = change.after.low - change.before.high
        tags[f"{tag}_high"] = change.after.high - change.before.low
    return tags


def spectral_distance(first: Spectrum, second: Spectrum) -> float:
    """Wasserstein distance of two eigenvalue distributions over the mean ``|lambda|`` of the second.

    ``integral |F_1 - F_2| / mean |lambda_2|`` with the distribution functions of nodes and weights; 0 for
    equal spectra, 1 between a spectrum and zero. It needs no smoothing and does not see eigenvectors.
    """
    if first.size != second.size:
        raise InvalidSetting(
            f"the spectra have {first.size:,} and {second.size:,} eigenvalues; compare equal matrices"
        )
    sides = [(s.nodes[0], s.weights.mean(0)) for s in (first, second)]
    points = np.concatenate([nodes for nodes, _ in sides])
    masses = np.concatenate([sides[0][1], -sides[1][1]])
    order = np.argsort(points)
    gap = np.abs(np.cumsum(masses[order])[:-1]) @ np.diff(points[order])
    scale = float(sides[1][1] @ np.abs(sides[1][0]))
    if scale == 0.0:
        return 0.0 if gap == 0.0 else float("inf")
    return float(gap / scale)
