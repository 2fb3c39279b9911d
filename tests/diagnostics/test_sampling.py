"""The laws of the probes' masses against simulation and limits."""

import math

import numpy as np
import pytest

from pliant.diagnostics.sampling import deviations, divergence, fraction_bounds, variance_factor


def haar(rng, size, probes):
    return np.linalg.qr(rng.standard_normal((size, probes)))[0]


@pytest.mark.parametrize("probes", [1, 4, 15])
def test_the_variance_of_a_blocks_mean_is_the_formula(probes):
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 2, 20)
    means = [(haar(rng, 20, probes) ** 2).sum(1) @ values / probes for _ in range(8_000)]
    expected = variance_factor(20, probes) * values.var()
    assert np.mean(means) == pytest.approx(values.mean(), abs=5 * math.sqrt(expected / 8_000))
    assert np.var(means) == pytest.approx(expected, rel=0.1)


def test_a_whole_basis_leaves_no_variance():
    assert variance_factor(10, 10) == 0.0
    assert variance_factor(1, 1) == 0.0
    assert fraction_bounds(0.3, 0.4, 10, 10, 0.99) == (0.3, 0.4)


@pytest.mark.parametrize("probes", [1, 3, 10])
@pytest.mark.parametrize("rank", [1, 5, 20, 39])
def test_the_bounds_hold_the_fraction_with_at_least_the_confidence(probes, rank):
    rng = np.random.default_rng(rank)
    misses = 0
    for _ in range(1_500):
        mass = (haar(rng, 40, probes)[:rank] ** 2).sum() / probes
        low, high = fraction_bounds(mass, mass, 40, probes, confidence=0.9)
        misses += not low <= rank / 40 <= high
    assert misses / 1_500 < 0.1
    # A bound that can never fail would be too wide to use.
    assert misses > 0


def test_more_probes_and_more_parameters_narrow_the_bounds():
    widths = [
        np.diff(fraction_bounds(0.2, 0.2, size, probes, 0.99))[0]
        for size, probes in ((100, 1), (100, 10), (10_000, 10))
    ]
    assert widths[0] > 2.5 * widths[1] > 2.5 * widths[2]


def test_certainty_of_nothing_or_everything_still_allows_for_bad_luck():
    low, high = fraction_bounds(0.0, 1.0, 50, 2, 0.99)
    assert (low, high) == (0.0, 1.0)
    low, high = fraction_bounds(0.0, 0.0, 50, 2, 0.99)
    assert low == 0.0
    # With mass exactly zero the fraction must be zero: every probe has a share in every direction.
    assert high < 1e-9


def test_divergence_of_a_coin_from_itself_is_zero_and_from_certainty_infinite():
    assert divergence(0.3, 0.3) == 0.0
    assert divergence(0.3, 0.0) == math.inf
    assert divergence(0.0, 0.5) == pytest.approx(math.log(2))


def test_deviations_is_that_of_a_sub_gaussian_tail():
    assert deviations(0.99) == pytest.approx(math.sqrt(2 * math.log(200)))
