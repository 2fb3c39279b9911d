"""Effective rank against its definition, known values, and the derivative of an SVD."""

import math

import pytest
import torch

from pliant.agents import effective_rank
from pliant.agents.effective_rank import ranks_and_gradients


def by_svd(features):
    sigma = torch.linalg.svdvals(features)
    p = sigma[sigma > 0] / sigma.sum()
    return torch.exp(-(p * p.log()).sum())


def gradient_of(function, features):
    features = features.detach().requires_grad_()
    return torch.autograd.grad(function(features), features)[0]


def random_features(rows, columns, seed=0, dtype=torch.float64):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (12, 12), (5, 1), (1, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_those_through_an_svd(shape, seed):
    features = random_features(*shape, seed)
    torch.testing.assert_close(effective_rank(features), by_svd(features), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient_of(effective_rank, features), gradient_of(by_svd, features), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_gradient_passes_gradcheck(shape):
    assert torch.autograd.gradcheck(effective_rank, random_features(*shape).requires_grad_())


def test_gradient_is_right_where_singular_values_repeat():
    # Orthonormal columns: all singular values equal, gaps zero, and the rank at its maximum
    features = torch.linalg.qr(random_features(20, 6)).Q
    torch.testing.assert_close(effective_rank(features), torch.tensor(6.0, dtype=torch.float64))
    assert gradient_of(effective_rank, features).abs().max() < 1e-10
    # A repeated pair beside another value: perturbing along the gradient changes the rank by its squared norm
    features = features[:, :3] * torch.tensor([1.0, 1.0, 5.0], dtype=torch.float64)
    slope = gradient_of(effective_rank, features)
    change = effective_rank(features + 1e-6 * slope) - effective_rank(features - 1e-6 * slope)
    torch.testing.assert_close(change / 2e-6, slope.square().sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("singular_values", "rank"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4.0),
        ([3.0, 0.0, 0.0], 1.0),
        ([2.0, 2.0, 0.0], 2.0),
        ([2.0, 1.0], 3 / 2 ** (2 / 3)),  # p = 2/3, 1/3: exp(H) = 3 / 2^(2/3)
    ],
)
def test_known_values(singular_values, rank):
    features = torch.diag(torch.tensor(singular_values, dtype=torch.float64))
    assert effective_rank(features).item() == pytest.approx(rank, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_rank_ignores_scale_and_gradient_is_inverse_to_it(scale):
    features = random_features(30, 8)
    torch.testing.assert_close(effective_rank(scale * features), effective_rank(features))
    torch.testing.assert_close(
        scale * gradient_of(effective_rank, scale * features), gradient_of(effective_rank, features)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_features_have_rank_zero_and_zero_gradient(dtype):
    features = torch.zeros(10, 4, dtype=dtype)
    assert effective_rank(features).item() == 0
    assert torch.equal(gradient_of(effective_rank, features), features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(64, 16), (16, 64)])
def test_low_rank_features_have_a_finite_gradient_within_their_span(dtype, shape):
    left, right = random_features(shape[0], 3, 0, dtype), random_features(3, shape[1], 1, dtype)
    features = left @ right  # rank 3
    slope = gradient_of(effective_rank, features)
    assert torch.isfinite(slope).all()
    outside = slope - left @ torch.linalg.lstsq(left, slope).solution
    assert outside.norm() < 1e-3 * slope.norm() + 1e-5
    assert 1 <= effective_rank(features) <= 3.001


def test_dead_units_and_copies_of_units_get_finite_gradients():
    features = random_features(50, 6, dtype=torch.float32).relu()
    features[:, 2] = 0
    features[:, 4] = features[:, 1]
    slope = gradient_of(effective_rank, features)
    assert torch.isfinite(slope).all()
    assert slope[:, 2].abs().max() < 1e-12 * slope.norm()


def test_a_single_live_unit_has_rank_one_and_no_gradient():
    features = torch.zeros(8, 5)
    features[:, 3] = torch.arange(8.0)
    assert effective_rank(features).item() == pytest.approx(1.0)
    assert gradient_of(effective_rank, features).abs().max() < 1e-6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_give_nan_and_no_gradient(value):
    features = torch.ones(4, 3)
    features[0, 0] = value
    assert effective_rank(features).isnan()
    assert torch.equal(gradient_of(effective_rank, features), torch.zeros(4, 3))


def test_float32_agrees_with_float64_on_wide_relu_features():
    weights = random_features(30, 64, 1)
    features = (random_features(512, 30, 0) @ weights).relu()
    single = features.float()
    torch.testing.assert_close(effective_rank(single).double(), effective_rank(features), rtol=1e-6, atol=0)
    exact = gradient_of(effective_rank, features)
    error = gradient_of(effective_rank, single).double() - exact
    assert error.norm() < 1e-4 * exact.norm()


def test_several_matrices_at_once_are_each_on_its_own():
    matrices = [
        random_features(*shape, seed) for seed, shape in enumerate([(9, 4), (4, 30), (12, 12), (7, 4)])
    ]
    matrices += [torch.zeros(6, 4, dtype=torch.float64), matrices[0].float()]
    broken = matrices[0].clone()
    broken[2, 1] = torch.nan
    ranks, gradients = ranks_and_gradients([*matrices, broken])
    for features, rank, gradient in zip(matrices, ranks, gradients, strict=False):
        tolerance = 1e-6 if features.dtype == torch.float32 else 1e-12
        assert rank == pytest.approx(effective_rank(features).item(), rel=tolerance)
        torch.testing.assert_close(gradient, gradient_of(effective_rank, features))
    assert math.isnan(ranks[-1])
    assert torch.equal(gradients[-1], torch.zeros_like(broken))
