"""What a few random probes say about a whole spectrum: exact laws, no asymptotics in the number of probes.

A probe uniform on the sphere of R^P puts the mass ``|Pi v|^2`` on an invariant subspace of dimension k, which
follows ``Beta(k / 2, (P - k) / 2)`` whatever the subspace. The mean over an orthonormal block of m such
probes is unbiased, and for any function g of the eigenvalues

    Var( mean_i v_i' g(A) v_i ) = 2 (P - m) / (m (P - 1) (P + 2)) * Var_spectrum(g),

which is zero when the block is a whole basis (m = P). Fluctuations are small because P is large, not because
m is.
"""

import math


def variance_factor(size: int, probes: int) -> float:
    """``2 (P - m) / (m (P - 1) (P + 2))``: variance of a block's mean per variance over the spectrum."""
    if probes >= size:  # also for size 0, nothing left to sample
        return 0.0
    return 2.0 * (size - probes) / (probes * (size - 1.0) * (size + 2.0))


def divergence(p: float, q: float) -> float:
    """``p log(p / q) + (1 - p) log((1 - p) / (1 - q))``, the relative entropy of two coins."""
    total = 0.0
    for a, b in ((p, q), (1.0 - p, 1.0 - q)):
        if a > 0.0:
            total += math.inf if b <= 0.0 else a * math.log(a / b)
    return total


def fraction_bounds(
    low: float, high: float, size: int, probes: int, confidence: float
) -> tuple[float, float]:
    """Bounds of the fraction f of a spectrum, from bounds ``[low, high]`` of the probes' mass on it.

    The Chernoff bound of a ``Beta(s f, s (1 - f))`` law, ``P(mass beyond x) <= exp(-s KL(f || x))``, inverted
    at ``exp(-s KL) = (1 - confidence) / 2`` for each side, with the s that gives the block's variance (P / 2
    for one probe, for which the law and hence the bound are exact).
    """
    factor = variance_factor(size, probes)
    if factor == 0.0:
        return low, high
    concentration = 1.0 / factor - 1.0  # Var Beta(s f, s (1 - f)) = f (1 - f) / (s + 1)
    budget = math.log(2.0 / (1.0 - confidence)) / concentration
    return _solve(low, 0.0, budget), _solve(high, 1.0, budget)


def _solve(mass: float, limit: float, budget: float) -> float:
    """The fraction from ``mass`` towards ``limit`` that is ``budget`` away from ``mass``, or the limit."""
    if divergence(limit, mass) <= budget:
        return limit
    near, far = mass, limit
    for _ in range(60):  # bisection: the divergence grows from near to far
        middle = (near + far) / 2
        if divergence(middle, mass) <= budget:
            near = middle
        else:
            far = middle
    return far


def deviations(confidence: float) -> float:
    """Standard errors on each side of a smooth statistic's bracket: ``sqrt(2 log(2 / (1 - c)))``."""
    return math.sqrt(2.0 * math.log(2.0 / (1.0 - confidence)))
