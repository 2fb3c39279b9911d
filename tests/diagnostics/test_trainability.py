"""The verdict on problems whose learning is known in closed form."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pliant.diagnostics import errors, hessian_spectrum
from pliant.diagnostics.gram import GramOperator
from pliant.diagnostics.trainability import principled_epsilon, trainability


def diagonal_problem(curvatures, residuals):
    """Outputs ``sqrt(lambda_i N / 2) w_i`` with a squared loss: curvature lambda_i, initial error r_i."""
    n = len(curvatures)
    scale = torch.tensor(curvatures, dtype=torch.float64).mul(n / 2).sqrt()
    targets = torch.tensor(residuals, dtype=torch.float64)[:, None]
    weights = torch.zeros(n, dtype=torch.float64, requires_grad=True)

    def closure():
        return (scale * weights)[:, None], lambda outputs: ((outputs - targets) ** 2).mean()

    return closure, [weights]


CURVATURES, RESIDUALS = [8.0, 4.0, 1.0, 0.1, 0.01], [1.0, 2.0, 2.0, 1.0, 0.5]


@pytest.mark.parametrize(("learning_rate", "updates"), [(0.01, 10), (0.01, 100), (0.1, 100), (0.1, 1000)])
def test_the_share_is_what_gradient_descent_reaches(learning_rate, updates):
    closure, parameters = diagonal_problem(CURVATURES, RESIDUALS)
    found = trainability(closure, parameters, learning_rate, updates)
    lam, r = np.array(CURVATURES), np.array(RESIDUALS)
    fast = np.exp(-learning_rate * updates * lam) <= 0.1
    truth = (r[fast] ** 2).sum() / (r**2).sum()
    assert found.share.low - 1e-9 <= truth <= found.share.high + 1e-9
    assert found.share.high - found.share.low < 1e-9  # five directions are resolved by five products
    assert found.share.value == pytest.approx(truth)


def test_the_linear_problem_is_indeed_learnt_to_that_share():
    closure, (weights,) = diagonal_problem(CURVATURES, RESIDUALS)
    outputs, loss = closure()
    before = float(loss(outputs).detach())
    share = trainability(closure, [weights], 0.05, 200).share.value
    for _ in range(200):
        outputs, loss = closure()
        (slope,) = torch.autograd.grad(loss(outputs), weights)
        with torch.no_grad():
            weights -= 0.05 * slope
    left = float(loss(closure()[0]).detach()) / before
    # Fast directions are left with at most a hundredth of their loss (gamma squared), slow ones with at most
    # all of it.
    assert left <= 0.01 * share + (1 - share)
    assert left >= (1 - share) * 0.01


@pytest.mark.parametrize(
    ("updates", "verdict"),
    # Nine tenths of the squared residual 10.25 need the direction of curvature 0.1.
    [(10**5, "trainable"), (100, "untrainable")],
)
def test_the_verdict_follows_the_budget(updates, verdict):
    closure, parameters = diagonal_problem(CURVATURES, RESIDUALS)
    assert trainability(closure, parameters, 0.01, updates).verdict == verdict


def test_ranks_compare_what_is_there_with_what_the_task_needs():
    closure, parameters = diagonal_problem(CURVATURES, RESIDUALS)
    spectrum = hessian_spectrum(closure, parameters, operator="ggn")
    found = trainability(closure, parameters, 0.1, 100, spectrum)
    assert found.epsilon == pytest.approx(math.log(10) / 10)
    assert found.rank.value == 3 / 5  # 8, 4 and 1 are above 0.23
    assert found.required.value == pytest.approx(0.1, rel=1e-6)
    assert found.required_rank.low <= 4 / 5 <= found.required_rank.high
    scalars = found.scalars("switch/critic")
    assert scalars["switch/critic/verdict"] == 0.0
    assert scalars["switch/critic/share_low"] <= scalars["switch/critic/share"]


def test_a_share_that_the_run_cannot_resolve_leaves_the_verdict_open():
    rng = np.random.default_rng(0)
    curvatures = np.geomspace(1e-4, 1.0, 400)
    closure, parameters = diagonal_problem(list(curvatures), list(rng.standard_normal(400)))
    found = trainability(closure, parameters, 0.1, 2300, required_share=0.5, depth=3)
    assert found.verdict == "undecided"
    assert found.share.low < 0.5 < found.share.high
    resolved = trainability(closure, parameters, 0.1, 2300, required_share=0.5, depth=150)
    assert found.share.low <= resolved.share.value <= found.share.high
    assert resolved.share.high - resolved.share.low < 0.1


def test_epsilon_is_minus_log_gamma_over_eta_k():
    assert principled_epsilon(1e-3, 1000, remaining=math.exp(-2)) == pytest.approx(2.0)
    for bad in ((0.0, 10, 0.1), (0.1, 0, 0.1), (0.1, 10, 1.0), (0.1, 10, 0.0)):
        with pytest.raises(errors.InvalidSetting, match="must be positive, remaining below 1"):
            principled_epsilon(*bad)


def test_a_loss_without_slope_is_named():
    closure, parameters = diagonal_problem([1.0, 2.0], [0.0, 0.0])
    with pytest.raises(errors.NoVerdict, match="no slope"):
        trainability(closure, parameters, 0.1, 10)


def huber_problem(targets):
    """Outputs ``w`` with Huber's loss, delta 1: no curvature where the error is larger."""
    weights = torch.zeros(len(targets), dtype=torch.float64, requires_grad=True)
    aims = torch.tensor(targets, dtype=torch.float64)[:, None]
    return lambda: (weights[:, None], lambda outputs: F.smooth_l1_loss(outputs, aims)), [weights]


@pytest.mark.parametrize("targets", [[50.0, -3.0], [0.5, 50.0]])
def test_a_loss_that_slopes_without_curving_has_no_verdict(targets):
    closure, parameters = huber_problem(targets)
    with pytest.raises(
        errors.NoVerdict, match=r"only (0|20)% of the loss's squared slope lies where it curves"
    ):
        trainability(closure, parameters, 0.1, 10)


def test_a_few_large_errors_leave_the_verdict_to_the_others():
    closure, parameters = huber_problem([0.9] * 20 + [50.0])  # 0.94 of the squared slope is in the parabola
    assert GramOperator(closure, parameters).covered == pytest.approx(20 * 0.81 / (20 * 0.81 + 1))
    assert trainability(closure, parameters, 0.1, 10**4).verdict == "trainable"


def test_a_softmax_that_is_sure_and_wrong_has_no_verdict_and_one_that_is_unsure_has():
    labels = torch.tensor([0, 1, 1, 0])
    for confidence, found in ((1.0, True), (1e4, False)):
        bias = torch.tensor([-confidence, confidence], requires_grad=True)
        closure = lambda bias=bias: (bias.expand(4, 2), lambda out: F.cross_entropy(out, labels))  # noqa: E731
        if found:
            assert GramOperator(closure, [bias]).covered == pytest.approx(1.0, abs=1e-5)
        else:
            with pytest.raises(errors.NoVerdict):
                trainability(closure, [bias], 0.1, 10)


def test_a_residual_that_no_parameter_reaches_needs_a_curvature_of_zero():
    """Nine tenths of the residual lie with outputs that do not move: no curvature is low enough."""
    closure, parameters = diagonal_problem([1.0, 0.0], [1.0, 3.0])
    found = trainability(
        closure, parameters, 0.1, 10**9, hessian_spectrum(closure, parameters, operator="ggn")
    )
    assert found.verdict == "untrainable"
    assert found.share.value == pytest.approx(0.1)
    assert (found.required.low, found.required.value, found.required.high) == (0.0, 0.0, 0.0)
    assert found.required_rank is None
