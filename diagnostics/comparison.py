"""What changed between two measurements, and how far two spectra are apart."""

from dataclasses import dataclass

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
