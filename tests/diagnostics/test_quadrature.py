"""Gauss-Radau bounds of the mass beyond a threshold."""

import numpy as np
import pytest
import torch

from pliant.diagnostics.lanczos import block_lanczos, random_start
from pliant.diagnostics.quadrature import mass_beyond, per_probe, radau, ritz, settled

CPU = torch.device("cpu")


def run(operator, probes, depth, seed=0):
    block = random_start(operator.size, probes, seed, torch.float64, CPU)
    return block, ritz(block_lanczos(operator, block, depth))


@pytest.mark.parametrize("seed", range(60))
def test_bounds_of_a_single_probe_hold_its_mass_at_every_threshold(matrix_operator, network_spectrum, seed):
    values = network_spectrum(150, seed)
    block, form = run(matrix_operator(values), 1, 3 + seed % 12, seed)
    for threshold in (-1.0, -0.01, -1e-4, 0.0, 1e-3, 0.03, 0.4, 3.0, float(values.max()), 50.0):
        truth = float((block.numpy()[0, values > threshold] ** 2).sum())
        (low,), (high,) = mass_beyond(form, threshold, 1e-12)
        assert low - 1e-9 <= truth <= high + 1e-9


@pytest.mark.parametrize("seed", range(60))
def test_bounds_of_a_block_hold_the_mean_mass(matrix_operator, network_spectrum, seed):
    values = network_spectrum(150, seed)
    block, form = run(matrix_operator(values), 2 + seed % 9, 2 + seed % 7, seed)
    for threshold in (-1.0, -0.01, 0.0, 1e-3, 0.03, 0.4, 3.0, 50.0):
        truth = (block.numpy()[:, values > threshold] ** 2).sum(1).mean()
        low, high = mass_beyond(form, threshold, 1e-12)
        assert low.mean() - 1e-9 <= truth <= high.mean() + 1e-9


def test_a_threshold_on_a_ritz_value_or_on_an_eigenvalue_is_no_special_case(matrix_operator):
    values = np.linspace(-1, 1, 41)
    block, form = run(matrix_operator(values), 2, 6)
    for threshold in (*form.values, *values):
        truth = (block.numpy()[:, values > threshold + 1e-9] ** 2).sum(1).mean()
        low, high = mass_beyond(form, threshold, 1e-8)
        assert low.mean() - 1e-9 <= truth <= high.mean() + 1e-9


def test_bounds_shrink_with_depth_and_meet_at_the_end(matrix_operator):
    values = np.random.default_rng(1).uniform(-1, 1, 60)
    widths = []
    for depth in (2, 5, 10, 15):
        _, form = run(matrix_operator(values), 4, depth)
        low, high = mass_beyond(form, 0.313, 1e-13)
        widths.append(high.mean() - low.mean())
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0.2
    assert widths[-1] < 1e-9


def test_the_prescribed_node_is_one_and_the_rule_is_exact_to_twice_the_steps(matrix_operator):
    values = np.random.default_rng(2).uniform(-1, 1, 80)
    block, form = run(matrix_operator(values), 3, 4)
    nodes, weights = radau(form, 0.25)
    assert (np.abs(nodes - 0.25) < 1e-12).sum() == 3
    assert weights.sum(1) == pytest.approx(np.ones(3), abs=1e-13)
    for degree in range(2 * 4 + 1):
        truth = (block.numpy() ** 2) @ values**degree
        assert weights @ nodes**degree == pytest.approx(truth, abs=1e-12)


def test_a_block_contains_the_single_vector_run_of_each_probe(matrix_operator, rotated, network_spectrum):
    operator = matrix_operator(rotated(network_spectrum(90, 3)))
    block, form = run(operator, 4, 7)
    for probe, found in zip(block, per_probe(form), strict=True):
        alone = ritz(block_lanczos(operator, probe[None], 7))
        assert found.values == pytest.approx(alone.values, abs=1e-10)
        assert found.first**2 == pytest.approx(alone.first**2, abs=1e-8)
        assert found.residuals == pytest.approx(alone.residuals, abs=1e-8)


def test_settled_values_are_single_eigenvalues(matrix_operator):
    values = np.concatenate([[9.0, 7.0, 7.0, 5.0], np.random.default_rng(3).uniform(-1, 1, 296)])
    _, form = run(matrix_operator(values), 5, 12)
    outliers = form.values[settled(form, 300, 1e-12)]
    assert outliers[outliers > 2] == pytest.approx([5.0, 9.0], abs=1e-10)  # the pair of sevens has no gap


def test_nothing_is_settled_for_one_probe_which_cannot_see_multiplicity(matrix_operator):
    _, form = run(matrix_operator(np.repeat([3.0, 0.0], [5, 95])), 1, 4)
    assert not settled(form, 100, 1e-12).any()
