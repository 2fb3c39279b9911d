"""Numbers as the reference code of the paper computes them, for comparison with its figures only.

Facts read off ``github.com/KevinGuo27/lop-jax`` (``rlopt/utils/density.py``, ``analysis/fig5.py``): the
density is a sum of Gaussians at the Ritz values on a grid of 10,000 points that reaches 0.01 beyond the
extreme ones, of *variance* ``1e-5 max(1, range)``, scaled to sum to one; the epsilon-rank is the trapezoid
rule over those grid points with ``|x| > epsilon``, joined as if neighbours, so that it also counts a
trapezoid across the removed middle; the effective rank gives every Ritz value the same weight, whatever its
quadrature weight, and grows with the order of the run. The paper's runs have one probe and order 100 in
float32.
"""

import numpy as np

from .quadrature import Array
from .spectrum import Spectrum

#: Order and probes of the reference's runs.
PROBES, DEPTH = 1, 100
GRID_POINTS = 10_000
MARGIN = 1e-2
VARIANCE = 1e-5


def density(spectrum: Spectrum, points: int = GRID_POINTS) -> tuple[Array, Array]:
    """The reference's grid and density, ``[points]`` each."""
    nodes, weights = spectrum.nodes, spectrum.weights
    highest = nodes.max(1).mean() + MARGIN
    lowest = nodes.min(1).mean() - MARGIN
    grid = np.linspace(lowest, highest, points)
    variance = VARIANCE * max(1.0, highest - lowest)
    total = np.zeros(points)
    for row, masses in zip(nodes, weights, strict=True):
        for start in range(0, len(row), 500):
            part = slice(start, start + 500)
            total += np.exp(-((grid[:, None] - row[part]) ** 2) / (2 * variance)) @ masses[part]
    return grid, total / (total.sum() * (grid[1] - grid[0]))


def epsilon_rank(spectrum: Spectrum, epsilon: float, points: int = GRID_POINTS) -> float:
    """The reference's epsilon-rank, trapezoid across the gap included (it may exceed 1)."""
    grid, values = density(spectrum, points)
    outside = np.abs(grid) > epsilon
    return float(np.trapezoid(values[outside], grid[outside]))


def effective_rank(spectrum: Spectrum) -> float:
    """The reference's effective rank: of the Ritz values, each counted once."""
    values = np.abs(spectrum.nodes.mean(0))
    p = values / max(values.sum(), 1e-8)
    kept = p[p > 1e-8]
    return float(np.exp(-(kept * np.log(kept)).sum()))
