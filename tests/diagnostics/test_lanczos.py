"""Block Lanczos against its defining identities."""

import numpy as np
import pytest
import torch

from pliant.diagnostics.errors import InvalidSetting, NotFinite
from pliant.diagnostics.lanczos import block_lanczos, orthonormal_rows, random_start
from pliant.diagnostics.quadrature import halved, ritz

CPU = torch.device("cpu")


def start(size, probes, seed=0, dtype=torch.float64):
    return random_start(size, probes, seed, dtype, CPU)


@pytest.mark.parametrize(("probes", "depth"), [(1, 20), (3, 7), (4, 12), (10, 5)])
def test_basis_is_orthonormal_and_satisfies_the_lanczos_relation(
    matrix_operator, rotated, network_spectrum, probes, depth
):
    matrix = rotated(network_spectrum(80, 1))
    run = block_lanczos(matrix_operator(matrix), start(80, probes), depth, keep_basis=True)
    basis = run.basis.numpy()
    assert np.abs(basis @ basis.T - np.eye(len(basis))).max() < 1e-14 * len(basis)
    remainder = matrix @ basis.T - basis.T @ run.tridiagonal
    last = run.blocks[-1]
    assert np.abs(remainder[:, :-last]).max() < 1e-13 * 10
    # The last columns leave the space, orthogonally and with the residual factor's singular values.
    assert np.abs(basis @ remainder[:, -last:]).max() < 1e-13 * 10
    found = np.linalg.svd(remainder[:, -last:], compute_uv=False)
    assert found[: len(run.residual)] == pytest.approx(
        np.linalg.svd(run.residual, compute_uv=False), rel=1e-9
    )


def test_whole_space_reproduces_every_eigenvalue(matrix_operator, rotated, network_spectrum):
    values = network_spectrum(50, 2)
    run = block_lanczos(matrix_operator(rotated(values)), start(50, 4), 50)
    # The zeros are one eigenvalue of multiplicity 15, of which a block of four sees four copies.
    assert len(run.tridiagonal) <= 50
    assert len(run.residual) == 0
    distinct = np.unique(np.round(values, 10))
    found = np.unique(np.round(np.linalg.eigvalsh(run.tridiagonal), 10))
    assert found == pytest.approx(distinct, abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_ghost_copies_of_converged_eigenvalues(matrix_operator, dtype):
    rng = np.random.default_rng(0)
    values = np.concatenate([np.arange(10.0, 60.0, 5.0), rng.uniform(-1, 1, 390)])
    run = block_lanczos(matrix_operator(values, dtype), start(400, 1, dtype=dtype), 100)
    found = np.linalg.eigvalsh(run.tridiagonal)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    assert (found > 5).sum() == 10
    assert found[found > 5] == pytest.approx(values[:10], rel=tolerance)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_identity_ends_after_one_step_with_nothing_left(matrix_operator, scale):
    run = block_lanczos(matrix_operator(scale * np.ones(30)), start(30, 4), 10)
    assert run.blocks == (4,)
    assert run.products == 4
    assert len(run.residual) == 0
    assert run.tridiagonal == pytest.approx(scale * np.eye(4), rel=1e-13, abs=1e-13 * scale)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_two_distinct_eigenvalues_end_after_two_steps(matrix_operator, rotated, scale):
    values = scale * np.repeat([2.0, -1.0], [10, 20])
    run = block_lanczos(matrix_operator(rotated(values)), start(30, 4), 10)
    assert run.blocks == (4, 4)
    assert len(run.residual) == 0
    assert np.linalg.eigvalsh(run.tridiagonal) / scale == pytest.approx([-1] * 4 + [2] * 4, rel=1e-12)


def test_dependent_directions_are_deflated_and_the_rest_goes_on(matrix_operator):
    values = np.concatenate([[5.0, 3.0], np.zeros(38)])  # rank two: a block of four can only grow by two
    run = block_lanczos(matrix_operator(values), start(40, 4), 10)
    assert run.blocks == (4, 2)
    assert np.linalg.eigvalsh(run.tridiagonal)[-2:] == pytest.approx([3.0, 5.0], rel=1e-13)


def test_a_matrix_of_zeros_is_an_invariant_subspace_at_once(matrix_operator):
    run = block_lanczos(matrix_operator(np.zeros(20)), start(20, 3), 5)
    assert run.blocks == (3,)
    assert len(run.residual) == 0
    assert (run.tridiagonal == 0).all()


def test_residuals_bound_the_distance_to_an_eigenvalue(matrix_operator, network_spectrum):
    values = network_spectrum(300, 3)
    form = ritz(block_lanczos(matrix_operator(values), start(300, 5), 8))
    distance = np.abs(form.values[:, None] - values).min(1)
    assert (distance <= form.residuals + 1e-12).all()
    assert (form.residuals < 1e-6).any()
    assert (form.residuals > 1e-3).any()


@pytest.mark.parametrize("probes", [1, 3])
def test_each_probe_integrates_polynomials_exactly_up_to_twice_the_steps(matrix_operator, rotated, probes):
    matrix = rotated(np.random.default_rng(4).uniform(-1, 1, 60))
    block, steps = start(60, probes), 4
    form = ritz(block_lanczos(matrix_operator(matrix), block, steps))
    for degree in range(2 * steps):
        moments = (form.first**2) @ form.values**degree
        for moment, v in zip(moments, block.numpy(), strict=True):
            assert moment == pytest.approx(v @ np.linalg.matrix_power(matrix, degree) @ v, abs=1e-13)
    wrong = (form.first**2) @ form.values ** (2 * steps)
    right = [v @ np.linalg.matrix_power(matrix, 2 * steps) @ v for v in block.numpy()]
    assert np.abs(wrong - right).max() > 1e-6


def test_the_first_half_of_a_run_is_the_shorter_run(matrix_operator, network_spectrum):
    operator = matrix_operator(network_spectrum(200, 4))
    half = halved(block_lanczos(operator, start(200, 3), 10))
    short = ritz(block_lanczos(operator, start(200, 3), 5))
    assert half.values == pytest.approx(short.values, abs=1e-12)
    assert half.first**2 == pytest.approx(short.first**2, abs=1e-10)
    assert half.residuals == pytest.approx(short.residuals, abs=1e-10)


def test_more_probes_than_parameters_become_a_whole_basis(matrix_operator):
    block = start(6, 10)
    assert block.shape == (6, 6)
    run = block_lanczos(matrix_operator(np.arange(6.0)), block, 5)
    assert run.blocks == (6,)
    assert np.linalg.eigvalsh(run.tridiagonal) == pytest.approx(np.arange(6.0), abs=1e-13)


def test_probes_come_from_their_own_generator(unchanged_randomness):
    first = start(50, 3, seed=7)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        again = start(50, 3, seed=7)
    assert torch.equal(first, again)
    assert not torch.equal(first, start(50, 3, seed=8))
    assert torch.equal(start(50, 3, seed=7, dtype=torch.float32), first.float())


def test_probes_are_orthonormal():
    block = start(40, 5)
    assert torch.allclose(block @ block.T, torch.eye(5, dtype=torch.float64), atol=1e-14)


def test_dependent_rows_are_dropped_and_the_product_of_the_factors_is_the_block():
    block = torch.tensor([[1.0, 2.0, 2.0], [2.0, 4.0, 4.0]])
    rows, factor = orthonormal_rows(block, smallest=1e-6)
    assert rows.shape == (1, 3)
    assert torch.allclose(factor.T @ rows, block.double(), atol=1e-6)


def test_a_product_that_is_not_finite_is_named(matrix_operator):
    with pytest.raises(NotFinite, match="NaN or infinity"):
        block_lanczos(matrix_operator([1.0, float("nan"), 2.0]), start(3, 1), 2)


@pytest.mark.parametrize(("probes", "depth"), [(0, 5), (2, 0)])
def test_at_least_one_probe_and_one_step_are_needed(matrix_operator, probes, depth):
    with pytest.raises(InvalidSetting, match="at least one"):
        block_lanczos(matrix_operator(np.ones(5)), start(5, probes), depth)
