"""Gradient probes on gradients that are known."""

import pytest
import torch

from pliant.diagnostics import errors
from pliant.diagnostics.gradients import (
    gradient_covariance,
    inactive_fraction,
    loss_and_gradient,
    minibatch_gradients,
    optimization_readiness,
    slices,
    unit_gradients,
)


def test_covariance_is_the_cosine_and_zero_gradients_have_none():
    found = gradient_covariance(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [3.0, 3.0], [0.0, 0.0]]))
    half = 2**-0.5
    expected = [[1, -1, half, 0], [-1, 1, -half, 0], [half, -half, 1, 0], [0, 0, 0, 0]]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_covariance_does_not_depend_on_the_scale(scale):
    gradients = torch.tensor([[1.0, 2.0], [2.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(gradient_covariance(scale * gradients), gradient_covariance(gradients))


def test_minibatch_gradients_average_to_the_full_gradient():
    x = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    weight = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)

    def loss(rows):
        return lambda: ((x[rows] @ weight) ** 2).mean()

    value, full = loss_and_gradient(loss(slice(None)), [weight])
    assert value == pytest.approx(float(((x @ weight) ** 2).mean().detach()))
    parts = minibatch_gradients([loss(slice(i, i + 2)) for i in (0, 2, 4)], [weight])
    assert torch.allclose(parts.mean(0), full)
    assert weight.grad is None
    with pytest.raises(errors.EmptyBatch):
        minibatch_gradients([], [weight])


def test_a_gradient_that_is_not_finite_is_named_although_the_loss_is():
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(errors.NotFinite, match="the gradient holds NaN"):
        loss_and_gradient(lambda: x.sqrt().sum(), [x])


def test_readiness_is_strength_times_reliability():
    full = torch.tensor([3.0, 4.0])
    noisy = torch.tensor([[3.0, 4.0], [6.0, 8.0]])  # squared norms 25 and 100
    found = optimization_readiness(5.0, full, noisy)
    assert found.strength == 5.0
    assert found.reliability == pytest.approx(25 / 62.5)
    assert found.readiness == pytest.approx(2.0)


def test_noise_free_gradients_are_fully_reliable_and_absent_ones_not_at_all():
    full = torch.tensor([1.0, 2.0])
    assert optimization_readiness(1.0, full, full.expand(4, 2)).reliability == 1.0
    assert optimization_readiness(1.0, torch.zeros(2), torch.zeros(3, 2)).readiness == 0.0


@pytest.mark.parametrize("loss", [0.0, -0.1, float("nan")])
def test_readiness_needs_a_positive_loss(loss):
    with pytest.raises(errors.InvalidSetting, match="a value or TD loss"):
        optimization_readiness(loss, torch.ones(2), torch.ones(1, 2))


def test_units_that_no_gradient_reaches_score_zero():
    parameters = {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}
    flat = torch.tensor([0.0, 0.0, 1.0, -1.0, 2.0, 2.0, 9.0, 9.0, 9.0])
    scores = unit_gradients(parameters, flat)
    assert list(scores) == ["weight"]
    assert scores["weight"].tolist() == [0.0, 1.0, 2.0]
    assert inactive_fraction(scores) == {"weight": pytest.approx(1 / 3)}
    assert inactive_fraction(unit_gradients(parameters, torch.zeros(9))) == {"weight": 1.0}


def test_minibatches_are_disjoint_whole_and_drawn_privately(unchanged_randomness):
    found = slices(50, size=8, count=128, seed=3)
    assert [len(index) for index in found] == [8] * 6
    assert len(set(torch.cat(found).tolist())) == 48
    assert torch.equal(torch.cat(found), torch.cat(slices(50, 8, 128, seed=3)))
