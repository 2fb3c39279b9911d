"""Numbers of a spectrum, and whether their brackets hold the truth."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.nn import functional as F

from pliant.diagnostics import Spectrum, errors, hessian_spectrum, operator_spectrum

EPSILONS = (1e-3, 1e-2, 0.1, 1.0)


def measure(operator, **options):
    return operator_spectrum(operator, **({"method": "lanczos", "probes": 4, "depth": 10} | options))


def entropy_rank(values):
    p = np.abs(values) / np.abs(values).sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("seed", range(200))
def test_brackets_hold_the_truth_on_two_hundred_seeds(matrix_operator, network_spectrum, seed):
    values = network_spectrum(400, seed)
    spectrum = measure(matrix_operator(values), probes=1 + seed % 10, depth=4 + seed % 17, seed=seed)
    for epsilon in EPSILONS:
        truth = float((np.abs(values) > epsilon).mean())
        assert truth in spectrum.epsilon_rank(epsilon)
        assert truth in spectrum.epsilon_rank(epsilon, bracket="probe")
    assert values.sum() in spectrum.trace()
    assert np.sqrt((values**2).sum()) in spectrum.frobenius_norm()
    assert np.sort(values)[-1] in spectrum.largest()[0] or spectrum.largest()[0].value < values.max()


def test_brackets_are_tight_where_the_run_resolves_the_spectrum(matrix_operator, network_spectrum):
    values = network_spectrum(1000, 0)
    spectrum = measure(matrix_operator(values), probes=8, depth=40)
    for epsilon, width in ((1.0, 0.0011), (0.1, 0.003), (0.03, 0.04)):
        estimate = spectrum.epsilon_rank(epsilon)
        assert (np.abs(values) > epsilon).mean() in estimate
        assert estimate.high - estimate.low <= width


def test_the_block_bracket_is_inside_the_per_probe_one(matrix_operator, network_spectrum):
    spectrum = measure(matrix_operator(network_spectrum(1000, 1)), probes=8, depth=25)
    for epsilon in (0.01, 0.03, 0.1):
        block, probe = spectrum.epsilon_rank(epsilon), spectrum.epsilon_rank(epsilon, bracket="probe")
        assert probe.low <= block.low <= block.value <= block.high <= probe.high
        assert block.high - block.low < 0.7 * (probe.high - probe.low)


def test_what_cannot_be_resolved_is_said_to_be_so(matrix_operator):
    values = np.geomspace(1e-9, 1.0, 500)
    estimate = measure(matrix_operator(values), probes=2, depth=8).epsilon_rank(1e-8)
    assert (values > 1e-8).mean() in estimate
    assert estimate.high - estimate.low > 0.5


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_the_loss_scales_the_spectrum_and_nothing_else(
    matrix_operator, network_spectrum, scale, dtype
):
    values = network_spectrum(300, 2)
    plain = measure(matrix_operator(values, dtype))
    scaled = measure(matrix_operator(scale * values, dtype))
    # In float32 the bulk's nodes move by rounding of the outliers' size; what is settled does not.
    tolerance = 2e-4 if dtype == torch.float32 else 1e-9
    assert scaled.norm == pytest.approx(scale * plain.norm, rel=tolerance)
    assert scaled.trace().value == pytest.approx(scale * plain.trace().value, rel=tolerance)
    assert scaled.effective_rank().value == pytest.approx(plain.effective_rank().value, rel=tolerance)
    for epsilon in (0.03, 0.3):
        absolute, relative = (
            scaled.epsilon_rank(scale * epsilon),
            scaled.epsilon_rank(epsilon / plain.norm, True),
        )
        assert absolute.value == pytest.approx(plain.epsilon_rank(epsilon).value, abs=1e-3)
        assert relative.value == pytest.approx(plain.epsilon_rank(epsilon).value, abs=1e-3)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_numbers_of_a_known_spectrum(matrix_operator, rotated, method):
    values = np.array([-3.0, -0.5, 0.0, 0.25, 1.0, 2.0])
    spectrum = measure(matrix_operator(rotated(values)), method=method, probes=3, depth=6)
    assert spectrum.method == "exact"  # the whole space was reached
    assert spectrum.epsilon_rank(0.3).value == 4 / 6
    assert spectrum.epsilon_rank(0.3).low == spectrum.epsilon_rank(0.3).high == 4 / 6
    assert spectrum.trace().value == pytest.approx(values.sum())
    assert spectrum.frobenius_norm().value == pytest.approx(np.sqrt((values**2).sum()))
    assert spectrum.effective_rank().value == pytest.approx(entropy_rank(values))
    assert [e.value for e in spectrum.largest(3)] == pytest.approx([2.0, 1.0, 0.25])
    assert [e.value for e in spectrum.smallest(2)] == pytest.approx([-3.0, -0.5])
    assert spectrum.norm == pytest.approx(3.0)
    assert spectrum.nodes.shape == (1, 6)


def test_weights_of_every_probe_sum_to_one_and_integrate_its_own_products(matrix_operator, rotated):
    matrix = rotated(np.random.default_rng(0).uniform(-1, 3, 120))
    spectrum = measure(matrix_operator(matrix), probes=5, depth=6)
    assert spectrum.nodes.shape == spectrum.weights.shape == (5, 30)
    assert spectrum.weights.sum(1) == pytest.approx(np.ones(5), abs=1e-14)
    assert (spectrum.weights >= 0).all()
    from pliant.diagnostics.lanczos import random_start

    probes = random_start(120, 5, 0, torch.float64, torch.device("cpu")).numpy()
    first = (spectrum.weights * spectrum.nodes).sum(1)
    second = (spectrum.weights * spectrum.nodes**2).sum(1)
    assert first == pytest.approx(np.einsum("ip,pq,iq->i", probes, matrix, probes), abs=1e-13)
    assert second == pytest.approx(((probes @ matrix) ** 2).sum(1), abs=1e-13)


def test_epsilon_rank_falls_with_epsilon(matrix_operator, network_spectrum):
    spectrum = measure(matrix_operator(network_spectrum(400, 3)), probes=6, depth=15)
    curve = spectrum.curve(np.geomspace(1e-4, 5.0, 20))
    for larger, smaller in pairwise(curve):
        assert smaller.value <= larger.value + 1e-12
        assert smaller.low <= larger.low + 1e-12
        assert smaller.high <= larger.high + 1e-12


def test_effective_rank_bracket_is_the_probes_error_and_the_last_halfs_change(
    matrix_operator, network_spectrum
):
    values = network_spectrum(1000, 4)
    estimate = measure(matrix_operator(values), probes=8, depth=30).effective_rank()
    assert entropy_rank(values) in estimate
    assert estimate.kind == "halving"
    assert estimate.high - estimate.low < 0.2 * entropy_rank(values)


def test_outliers_agree_with_scipy(matrix_operator, rotated, network_spectrum):
    matrix = rotated(network_spectrum(300, 5))
    spectrum = measure(matrix_operator(matrix), probes=4, depth=30)
    largest = np.sort(eigsh(matrix, k=4, which="LA", return_eigenvectors=False))[::-1]
    smallest = np.sort(eigsh(matrix, k=2, which="SA", return_eigenvectors=False))
    assert [e.value for e in spectrum.largest(4)] == pytest.approx(largest, rel=1e-9)
    assert [e.value for e in spectrum.smallest(2)] == pytest.approx(smallest, rel=1e-9)


def test_a_network_agrees_with_scipy_on_its_own_hessian():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 2)
        ).double()
        x, y = torch.randn(80, 6).double(), torch.randn(80, 2).double()

    def closure():
        return F.mse_loss(model(x), y)

    spectrum = hessian_spectrum(closure, model.parameters(), method="lanczos", probes=4, depth=30)
    from pliant.diagnostics.operators import HessianOperator

    operator = HessianOperator(closure, model.parameters())
    product = LinearOperator(
        (operator.size,) * 2,
        matvec=lambda v: operator(torch.from_numpy(v.reshape(1, -1)))[0].numpy(),
        dtype=np.float64,
    )
    expected = np.sort(eigsh(product, k=5, which="LA", return_eigenvectors=False))[::-1]
    assert [e.value for e in spectrum.largest(5)] == pytest.approx(expected, rel=1e-8)
    exact = hessian_spectrum(closure, model.parameters())
    assert exact.method == "exact"
    for epsilon in (1e-3, 1e-2, 1e-1):
        assert exact.epsilon_rank(epsilon).value in spectrum.epsilon_rank(epsilon)


def test_extremes_are_bracketed_by_interlacing_and_residual(matrix_operator, network_spectrum):
    values = np.sort(network_spectrum(500, 6))
    spectrum = measure(matrix_operator(values), probes=3, depth=6)
    for rank, estimate in enumerate(spectrum.largest(5)):
        assert estimate.low <= values[-1 - rank] * (1 + 1e-12)
    for rank, estimate in enumerate(spectrum.smallest(5)):
        assert estimate.high >= values[rank] * (1 + 1e-12)


def test_zero_matrix_has_rank_zero_and_no_effective_rank(matrix_operator):
    for method in ("exact", "lanczos"):
        spectrum = measure(matrix_operator(np.zeros(50)), method=method)
        assert spectrum.epsilon_rank(1e-3).value == 0.0
        assert spectrum.epsilon_rank(1e-3, relative=True).value == 0.0
        assert spectrum.effective_rank().value == 0.0
        assert spectrum.trace().value == 0.0
        assert spectrum.frobenius_norm().value == 0.0


@pytest.mark.parametrize("multiplicity", [2, 5, 40, 300])
def test_repeated_eigenvalues_are_counted_with_their_multiplicity(matrix_operator, multiplicity):
    values = np.zeros(400)
    values[:multiplicity] = 3.0
    values[-3:] = (-1.0, 1.0, 7.0)
    estimate = measure(matrix_operator(values), probes=5, depth=8).epsilon_rank(0.5)
    truth = (multiplicity + 3) / 400
    assert truth in estimate
    assert estimate.high - estimate.low < 0.25


def test_union_is_the_spectrum_of_the_block_diagonal_matrix(matrix_operator, network_spectrum):
    first, second = network_spectrum(300, 7), 10 * network_spectrum(100, 8)
    both = np.concatenate([first, second])
    parts = [
        measure(matrix_operator(first), probes=4, depth=12),
        measure(matrix_operator(second), method="exact"),
    ]
    union = Spectrum.union(parts)
    assert union.size == 400
    assert union.method == "mixed"
    assert union.nodes.shape == union.weights.shape
    assert union.weights.sum(1) == pytest.approx(np.ones(4))
    assert union.trace().value == pytest.approx(sum(part.trace().value for part in parts))
    assert union.products == parts[0].products + 100
    for epsilon in EPSILONS:
        assert (np.abs(both) > epsilon).mean() in union.epsilon_rank(epsilon)
    assert entropy_rank(both) in union.effective_rank()
    assert union.largest()[0].value == pytest.approx(both.max())


def test_density_integrates_to_one_and_peaks_at_the_eigenvalues(matrix_operator):
    spectrum = measure(matrix_operator(np.repeat([-1.0, 2.0], 30)), method="exact")
    grid = np.linspace(-3, 4, 7001)
    density = spectrum.density(grid, width=0.05)
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-9)
    assert grid[density.argmax()] == pytest.approx(-1.0) or grid[density.argmax()] == pytest.approx(2.0)
    assert density[np.argmin(np.abs(grid - 0.5))] < 1e-12


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_a_saved_spectrum_comes_back_equal_bit_for_bit(tmp_path, matrix_operator, network_spectrum, method):
    spectrum = measure(matrix_operator(network_spectrum(200, 9)), method=method)
    again = Spectrum.load(spectrum.save(tmp_path / "spectrum.npz"))
    assert (again.nodes == spectrum.nodes).all()
    assert (again.weights == spectrum.weights).all()
    assert (again.operator, again.method, again.products) == (
        spectrum.operator,
        spectrum.method,
        spectrum.products,
    )
    for epsilon in EPSILONS:
        assert again.epsilon_rank(epsilon) == spectrum.epsilon_rank(epsilon)
    assert again.effective_rank() == spectrum.effective_rank()
    with np.load(tmp_path / "spectrum.npz", allow_pickle=False) as file:
        assert (file["nodes"] == spectrum.nodes).all()


def test_a_file_of_a_newer_version_or_of_another_kind_is_refused(tmp_path, matrix_operator):
    spectrum = measure(matrix_operator(np.arange(5.0)), method="exact")
    arrays = spectrum.arrays()
    record = json.loads(str(arrays["spectrum"])) | {"schema": 99}
    np.savez(tmp_path / "newer.npz", **(arrays | {"spectrum": np.array(json.dumps(record))}))
    with pytest.raises(errors.UnreadableFile, match="format 99"):
        Spectrum.load(tmp_path / "newer.npz")
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    with pytest.raises(errors.UnreadableFile, match="holds no spectrum"):
        Spectrum.load(tmp_path / "other.npz")
    np.savez(tmp_path / "pickle.npz", spectrum=np.array([{"a": 1}], dtype=object))
    with pytest.raises(errors.UnreadableFile):
        Spectrum.load(tmp_path / "pickle.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(errors.UnreadableFile, match="not a spectrum file"):
        Spectrum.load(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        Spectrum.load(tmp_path / "missing.npz")


def test_epsilon_below_the_precisions_floor_is_refused(matrix_operator):
    spectrum = measure(matrix_operator(np.linspace(0.01, 1.0, 60), torch.float32))
    assert spectrum.floor == pytest.approx(1e-5, rel=0.01)
    with pytest.raises(
        errors.EpsilonBelowFloor, match="use a larger epsilon, or parameters and data in float64"
    ):
        spectrum.epsilon_rank(9e-6)
    assert spectrum.epsilon_rank(1.1e-5).high == 1.0
    measure(matrix_operator(np.linspace(0.01, 1.0, 60))).epsilon_rank(9e-6)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_no_threshold_is_refused(matrix_operator, epsilon):
    with pytest.raises(errors.InvalidSetting, match="positive, finite"):
        measure(matrix_operator(np.ones(4))).epsilon_rank(epsilon)


def test_unknown_options_are_named_with_the_known_ones(matrix_operator):
    with pytest.raises(
        errors.UnknownOption, match="method='svd' is unknown; choose one of 'auto', 'exact', 'lanczos'"
    ):
        measure(matrix_operator(np.ones(4)), method="svd")
    with pytest.raises(errors.UnknownOption, match="operator='gauss'"):
        hessian_spectrum(lambda: torch.ones(()), [], operator="gauss")
    with pytest.raises(errors.UnknownOption, match="bracket='wide'"):
        measure(matrix_operator(np.ones(4))).epsilon_rank(0.1, bracket="wide")
    with pytest.raises(errors.InvalidSetting, match="depth=0"):
        measure(matrix_operator(np.ones(4)), depth=0)
    with pytest.raises(errors.InvalidSetting, match="holds 4 Ritz values"):
        measure(matrix_operator(np.ones(4)), method="exact").largest(5)


def test_a_run_that_does_not_fit_is_refused_before_any_product(matrix_operator, monkeypatch):
    operator = matrix_operator(np.ones(3000))
    monkeypatch.setattr("pliant.diagnostics.memory.available_bytes", lambda device: 3_000_000)
    with pytest.raises(
        errors.NotEnoughMemory, match=r"probes=10, depth=50 on 3,000 parameters .* use depth=6"
    ):
        operator_spectrum(operator, "lanczos")
    with pytest.raises(errors.NotEnoughMemory, match="use method='lanczos'"):
        operator_spectrum(operator, "exact")
    assert operator.products == 0
    assert operator_spectrum(operator, "lanczos", depth=6).products > 0


def test_ggn_and_fisher_spectra_by_name():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 4).double()
        x = torch.randn(9, 3).double()

    def law(outputs):
        return torch.distributions.Categorical(logits=outputs)

    def cross_entropy(outputs):  # its Hessian in the logits does not depend on the labels
        return F.cross_entropy(outputs, torch.zeros(9, dtype=torch.long))

    ggn = hessian_spectrum(lambda: (model(x), cross_entropy), model.parameters(), operator="ggn")
    fisher = hessian_spectrum(lambda: (model(x), law), model.parameters(), operator="fisher")
    assert (ggn.operator, fisher.operator) == ("ggn", "fisher")
    assert ggn.nodes == pytest.approx(fisher.nodes, abs=1e-13)
    assert ggn.nodes.min() > -1e-14
