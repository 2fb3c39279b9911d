"""One block of a block-diagonal curvature matrix: what is known of its spectrum."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .quadrature import Array, Ritz, mass_beyond, per_probe, settled
from .sampling import fraction_bounds, variance_factor


@dataclass(frozen=True)
class Piece:
    """A spectrum of ``size`` eigenvalues as seen by a few probes.

    An exact diagonalisation is the case where every eigenvalue is a node of weight ``1 / size`` and nothing
    is random.

    Attributes:
        size: number of parameters, P.
        form: Ritz form of the run.
        coarse: Ritz form of its first half, to see what the second half changed.
        resolution: error that the precision of the products may put on an eigenvalue (absolute).
        exact: whether the nodes are all eigenvalues.
    """

    size: int
    form: Ritz
    coarse: Ritz | None
    resolution: float
    exact: bool

    @staticmethod
    def of_eigenvalues(values: Array, resolution: float) -> "Piece":
        """All eigenvalues known."""
        size = len(values)
        uniform = np.full((1, size), 1.0 / math.sqrt(size))
        return Piece(
            size, Ritz(np.sort(values), uniform, np.zeros((0, size)), size), None, resolution, exact=True
        )

    @property
    def nodes(self) -> Array:
        """``[probes, n]``, each row the Ritz values."""
        return np.broadcast_to(self.form.values, self.form.first.shape)

    @cached_property
    def weights(self) -> Array:
        """``[probes, n]``, each row sums to 1."""
        squares = self.form.first**2
        weights: Array = squares / squares.sum(1, keepdims=True)
        return weights

    @cached_property
    def settled(self) -> npt.NDArray[np.bool_]:
        """Nodes that are single eigenvalues, known one by one ``[n]``."""
        if self.exact:
            return np.ones(self.size, dtype=bool)
        return settled(self.form, self.size, self.resolution)

    @property
    def _probes(self) -> int:
        return self.size if self.exact else len(self.form.first)

    def total(self, function: Callable[[Array], Array], form: Ritz | None = None) -> tuple[float, float]:
        """``sum_i g(lambda_i)`` over the whole spectrum and the variance of this estimate.

        Settled eigenvalues enter exactly; the rest by the quadrature on the space that is left, where the
        probes' share of the settled directions is taken out. With ``form`` the same from another run (the
        coarse one), without settling.
        """
        if form is not None:
            weights = form.first**2
            return self.size * float((weights @ function(form.values)).mean() / weights.sum(1).mean()), 0.0
        known = self.settled
        values = function(self.form.values)
        rest = self.size - int(known.sum())
        weights = np.where(known, 0.0, self.weights.mean(0))
        mass = weights.sum()
        exactly = float(values[known].sum())
        if rest == 0 or mass <= 0.0:
            return exactly, 0.0
        mean = float(weights @ values / mass)
        # No node stands for less than one eigenvalue: where the probes happen to miss one, the variance must
        # not.
        shares = np.where(known, 0.0, np.maximum(weights / mass, 1.0 / rest))
        spread = float(shares @ (values - mean) ** 2)
        return exactly + rest * mean, rest**2 * variance_factor(rest, self._probes) * spread

    def count_beyond(self, epsilon: float, bracket: str, confidence: float) -> tuple[float, float, int, int]:
        """How many eigenvalues have ``|lambda| > epsilon``: value, variance, and bounds of the count.

        The bounds join three facts: the Radau bounds of the probes' mass and the law of that mass; settled
        eigenvalues, which are counted; and Cauchy's interlacing, by which at least as many eigenvalues as
        Ritz values lie beyond a positive threshold on either side.
        """
        low_mass, high_mass = self._mass_bounds(epsilon, bracket)
        beyond = np.abs(self.form.values)
        rest = self.size - int(self.settled.sum())
        share = self.weights.mean(0)
        left = 1.0 - float(share[self.settled].sum())

        def split(mass: float, threshold: float) -> tuple[int, float]:
            """Settled eigenvalues beyond the threshold, and the fraction of the others that is."""
            chosen = self.settled & (beyond > threshold)
            if rest == 0 or left <= 0.0:
                return int(chosen.sum()), 0.0
            return int(chosen.sum()), min(max((mass - float(share[chosen].sum())) / left, 0.0), 1.0)

        sure, at_least = split(low_mass, epsilon + self.resolution)
        possible, at_most = split(high_mass, epsilon - self.resolution)
        known = int((self.settled & (beyond > epsilon)).sum())
        fraction = 0.0
        if rest > 0:
            fraction = min(max(self._share_beyond(epsilon), at_least), at_most)
            at_least = fraction_bounds(at_least, 1.0, rest, self._probes, confidence)[0]
            at_most = fraction_bounds(0.0, at_most, rest, self._probes, confidence)[1]
        interlaced = 0 if self.exact else int((beyond > epsilon + self.resolution).sum())
        low = max(math.ceil(sure + rest * at_least - 1e-6), interlaced)
        high = max(math.floor(possible + rest * at_most + 1e-6), low)
        value = min(max(known + rest * fraction, float(low)), float(high))
        variance = rest**2 * variance_factor(rest, self._probes) * fraction * (1.0 - fraction)
        return value, variance, low, high

    def _share_beyond(self, epsilon: float) -> float:
        """The fraction of the unsettled eigenvalues beyond epsilon, as a number without bounds.

        Each node stands for eigenvalues on both sides of it, so that counting whole nodes is off by up to
        half a weight. The distribution function of ``|lambda|`` is taken through the middle of each node's
        step and in between linear in ``log |lambda|``; that halved the error of plain counting on networks.
        """
        loose = ~self.settled
        order = np.argsort(np.abs(self.form.values[loose]))
        magnitudes = np.abs(self.form.values[loose])[order]
        weights = self.weights.mean(0)[loose][order]
        if not weights.sum() > 0.0:
            return 0.0
        weights = weights / weights.sum()
        middles = np.cumsum(weights) - weights / 2
        at = np.log(np.maximum(magnitudes, max(self.resolution, 1e-300)))
        return 1.0 - float(np.interp(math.log(epsilon), at, middles, right=1.0))

    @cached_property
    def _known_bounds(self) -> dict[tuple[float, str], tuple[float, float]]:
        """Bounds worked out so far: numbers, figures and unions ask for the same ones."""
        return {}

    def _mass_bounds(self, epsilon: float, bracket: str) -> tuple[float, float]:
        """Bounds of the probes' mean mass on ``|lambda| > epsilon``."""
        if (epsilon, bracket) not in self._known_bounds:
            self._known_bounds[epsilon, bracket] = self._work_out_bounds(epsilon, bracket)
        return self._known_bounds[epsilon, bracket]

    def _work_out_bounds(self, epsilon: float, bracket: str) -> tuple[float, float]:
        forms = [self.form] if bracket == "block" or self.exact else list(per_probe(self.form))
        low = high = 0.0
        for form in forms:
            for side in (form, form.mirrored):
                least, most = mass_beyond(side, epsilon, self.resolution)
                low += float(least.mean()) / len(forms)
                high += float(most.mean()) / len(forms)
        return low, min(high, 1.0)
