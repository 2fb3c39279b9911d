"""Curvature operators against matrices known in closed form or differentiated by brute force, in float64."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from pliant.diagnostics import errors
from pliant.diagnostics.operators import (
    GaussNewtonOperator,
    HessianOperator,
    MicroBatched,
    dense,
    fisher_closure,
    named,
)
from pliant.diagnostics.precision import full_precision


def network(*widths, activation=nn.Tanh, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), activation()]
        return nn.Sequential(*layers[:-1]).double()


def data(samples, inputs, outputs, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((samples, inputs), generator=generator, dtype=torch.float64)
    return x, torch.randn((samples, outputs), generator=generator, dtype=torch.float64)


def brute_force(model, loss_of_model):
    """The Hessian by torch.func, with the rows and columns of every parameter put together."""
    parameters = dict(model.named_parameters())
    loss = jacrev(jacrev(lambda values: loss_of_model(lambda x: functional_call(model, values, (x,)))))
    blocks = loss(parameters)
    rows = [
        torch.cat([blocks[a][b].reshape(parameters[a].numel(), parameters[b].numel()) for b in parameters], 1)
        for a in parameters
    ]
    return torch.cat(rows)


def close(a, b, tolerance=1e-12):
    return torch.allclose(a, b.detach(), rtol=0, atol=tolerance * max(1.0, float(b.detach().abs().max())))


def test_hessian_of_a_quadratic_form_is_its_matrix(rotated):
    matrix = torch.tensor(rotated([-3.0, 0.0, 2.0, 2.0, 7.0]))
    x = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
    assert close(dense(HessianOperator(lambda: 0.5 * x @ matrix @ x, [x])), matrix)


def test_hessian_of_linear_regression_is_twice_the_second_moment_of_the_inputs():
    x, y = data(50, 4, 1)
    weight = torch.zeros((4, 1), dtype=torch.float64, requires_grad=True)
    operator = HessianOperator(lambda: F.mse_loss(x @ weight, y), {"weight": weight})
    assert close(dense(operator), 2 / 50 * x.T @ x)


def test_hessian_of_logistic_regression_weighs_the_inputs_by_p_times_one_minus_p():
    x, y = data(50, 4, 1)
    weight = torch.full((4, 1), 0.3, dtype=torch.float64, requires_grad=True)
    target = (y > 0).double()
    operator = HessianOperator(lambda: F.binary_cross_entropy_with_logits(x @ weight, target), [weight])
    p = torch.sigmoid(x @ weight).detach()
    assert close(dense(operator), x.T @ (p * (1 - p) * x) / 50)


def test_hessian_of_softmax_regression_is_the_kronecker_mean():
    x, y = data(30, 3, 4)
    weight = torch.full((3, 4), 0.1, dtype=torch.float64)
    weight += 0.05 * torch.arange(12).reshape(3, 4)
    weight.requires_grad_()
    target = y.argmax(1)
    p = torch.softmax(x @ weight, 1).detach()
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("ni,nkl,nj->ikjl", x, curvature, x).reshape(12, 12) / 30
    assert close(dense(HessianOperator(lambda: F.cross_entropy(x @ weight, target), [weight])), expected)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("batched", [True, False])
def test_hessian_of_a_network_is_the_brute_force_one(activation, batched):
    model = network(5, 8, 7, 2, activation=activation)
    x, y = data(20, 5, 2)

    def loss(apply):
        return F.smooth_l1_loss(apply(x), y)

    operator = HessianOperator(lambda: loss(model), dict(model.named_parameters()), batched=batched)
    assert operator.batched is batched
    assert close(dense(operator), brute_force(model, loss))


@pytest.mark.parametrize("batched", [True, False])
def test_gauss_newton_of_a_network_is_the_jacobians_product(batched):
    model = network(4, 6, 3)
    x, y = data(15, 4, 3)
    target = y.argmax(1)
    parameters = dict(model.named_parameters())
    jacobian = jacrev(lambda values: functional_call(model, values, (x,)))(parameters)
    jacobian = torch.cat([jacobian[name].reshape(15, 3, -1) for name in parameters], 2)
    p = torch.softmax(model(x), 1)
    curvature = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) / 15
    expected = torch.einsum("nkp,nkl,nlq->pq", jacobian, curvature, jacobian)
    operator = GaussNewtonOperator(
        lambda: (model(x), lambda outputs: F.cross_entropy(outputs, target)), parameters, batched
    )
    assert operator.batched is batched
    assert close(dense(operator), expected)


def test_gauss_newton_is_positive_semi_definite_where_the_hessian_is_not():
    model = network(4, 6, 3)
    x, y = data(15, 4, 3)
    parameters = list(model.parameters())
    ggn = dense(GaussNewtonOperator(lambda: (model(x), lambda out: F.mse_loss(out, y)), parameters))
    full = dense(HessianOperator(lambda: F.mse_loss(model(x), y), parameters))
    assert torch.linalg.eigvalsh(ggn)[0] > -1e-14
    assert torch.linalg.eigvalsh(full)[0] < -1e-3


def test_gauss_newton_of_a_linear_model_is_the_hessian():
    model = nn.Linear(4, 3).double()
    x, y = data(20, 4, 3)
    parameters = list(model.parameters())
    target = y.argmax(1)
    ggn = dense(GaussNewtonOperator(lambda: (model(x), lambda out: F.cross_entropy(out, target)), parameters))
    assert close(ggn, dense(HessianOperator(lambda: F.cross_entropy(model(x), target), parameters)))


def test_categorical_fisher_is_the_mean_outer_product_of_scores_over_all_actions():
    model = network(3, 5, 4)
    x, _ = data(6, 3, 1)
    parameters = list(model.parameters())
    closure = fisher_closure(lambda: (model(x), lambda out: torch.distributions.Categorical(logits=out)))
    total = 0.0
    for sample in x:
        log_p = torch.log_softmax(model(sample), 0)
        for action in range(4):
            score = torch.cat(
                [g.reshape(-1) for g in torch.autograd.grad(log_p[action], parameters, retain_graph=True)]
            )
            total = total + log_p[action].exp() * torch.outer(score, score) / len(x)
    assert close(dense(GaussNewtonOperator(closure, parameters)), total)


def test_gaussian_fisher_is_inverse_variance_for_the_mean_and_two_for_the_log_deviation():
    mean = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    log_std = torch.tensor([-0.5, 0.2], dtype=torch.float64, requires_grad=True)

    def closure():
        outputs = torch.cat([mean, log_std]).expand(5, 4)  # the same law for five samples

        def law(values):
            normal = torch.distributions.Normal(values[:, :2], values[:, 2:].exp())
            return torch.distributions.Independent(normal, 1)

        return outputs, law

    found = dense(GaussNewtonOperator(fisher_closure(closure), [mean, log_std]))
    expected = torch.diag(torch.cat([(-2 * log_std).exp(), torch.full((2,), 2.0)]))
    assert close(found, expected)


def test_operators_are_linear_and_symmetric():
    model = network(5, 8, 2)
    x, y = data(20, 5, 2)
    operator = HessianOperator(lambda: F.mse_loss(model(x), y), model.parameters())
    u, v = data(2, operator.size, 1, seed=3)[0]
    images = operator(torch.stack([u, v, 2 * u - 3 * v]))
    assert close(images[2], 2 * images[0] - 3 * images[1])
    assert float(u @ images[1]) == pytest.approx(float(v @ images[0]), rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 20, 33])
def test_micro_batches_give_the_operator_of_the_whole_batch(size):
    model = network(5, 8, 2)
    x, y = data(33, 5, 2)
    parameters = list(model.parameters())
    starts = range(0, 33, size)

    def part(start):
        return HessianOperator(
            lambda: F.mse_loss(model(x[start : start + size]), y[start : start + size]), parameters
        )

    operator = MicroBatched(
        [lambda start=start: part(start) for start in starts], [len(x[s : s + size]) / 33 for s in starts]
    )
    assert close(dense(operator), dense(HessianOperator(lambda: F.mse_loss(model(x), y), parameters)))


def test_what_batching_cannot_follow_is_looped_over():
    weight = torch.ones((2, 3), dtype=torch.float64, requires_grad=True)
    view = weight.T  # made outside the closure, which therefore never touches the parameter itself
    operator = HessianOperator(lambda: (view**4).sum(), [weight], batched=True)
    assert operator.batched is False
    assert close(dense(operator), 12.0 * torch.eye(6, dtype=torch.float64))


def test_tf32_is_off_while_measuring_and_back_afterwards():
    place = torch.backends.cuda.matmul
    before = place.fp32_precision
    try:
        place.fp32_precision = "tf32"
        with full_precision():
            assert place.fp32_precision == "ieee"
        assert place.fp32_precision == "tf32"
        with pytest.raises(KeyError), full_precision():
            raise KeyError
        assert place.fp32_precision == "tf32"
    finally:
        place.fp32_precision = before


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["hessian", "ggn"])
def test_on_a_gpu_products_are_batched_and_agree_with_those_of_the_cpu(kind):
    model = network(5, 8, 2)
    x, y = data(20, 5, 2)

    def operator(net, inputs, targets):
        if kind == "hessian":
            return HessianOperator(lambda: F.mse_loss(net(inputs), targets), net.parameters())
        return GaussNewtonOperator(
            lambda: (net(inputs), lambda out: F.mse_loss(out, targets)), net.parameters()
        )

    there = operator(network(5, 8, 2).cuda(), x.cuda(), y.cuda())
    assert there.batched is True
    assert close(dense(there).cpu(), dense(operator(model, x, y)))


def test_a_group_of_parameters_gives_the_block_of_the_whole():
    model = network(5, 8, 2)
    x, y = data(20, 5, 2)
    whole = dense(HessianOperator(lambda: F.mse_loss(model(x), y), model.parameters()))
    layer = dense(HessianOperator(lambda: F.mse_loss(model(x), y), model[2].parameters()))
    assert close(layer, whole[-18:, -18:])


def test_a_loss_linear_in_all_parameters_has_no_curvature():
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert (dense(HessianOperator(lambda: x.sum(), [x])) == 0).all()


def test_float32_agrees_with_float64_to_its_precision():
    model = network(5, 8, 2)
    x, y = data(20, 5, 2)
    wide = dense(HessianOperator(lambda: F.mse_loss(model(x), y), model.parameters()))
    narrow_model = network(5, 8, 2).float()
    narrow = HessianOperator(
        lambda: F.mse_loss(narrow_model(x.float()), y.float()), narrow_model.parameters()
    )
    assert narrow.dtype == torch.float32
    assert close(dense(narrow), wide, 1e-6)


def test_measuring_touches_no_parameter_gradient_buffer_or_random_state(unchanged_randomness):
    model = nn.Sequential(network(4, 5), nn.BatchNorm1d(5), nn.Tanh(), network(5, 1)).double().eval()
    x, y = data(20, 4, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dense(HessianOperator(lambda: F.mse_loss(model(x), y), model.parameters()))
    dense(GaussNewtonOperator(lambda: (model(x), lambda out: F.mse_loss(out, y)), model.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def weight():
    return torch.ones(3, dtype=torch.float64, requires_grad=True)


SAME = weight()


def no_graph(w):
    with torch.no_grad():
        return (w**2).sum()


@pytest.mark.parametrize(
    ("closure", "error", "text"),
    [
        (lambda w: w * 2, errors.LossNotScalar, r"got a torch.float64 tensor of shape \(3,\)"),
        (lambda w: 3.0, errors.LossNotScalar, "got float"),
        (lambda w: None, errors.LossNotScalar, "got NoneType"),
        (lambda w: w[:0], errors.LossNotScalar, r"shape \(0,\)"),
        (lambda w: w.sum() * 1j, errors.LossNotScalar, "real scalar tensor, got a torch.complex128"),
        (lambda w: torch.ones((), dtype=torch.int64), errors.LossHasNoGraph, "without a graph"),
        (lambda w: w[:0].mean(), errors.NotFinite, "the loss is nan"),
        (no_graph, errors.LossHasNoGraph, "without a graph"),
        (lambda w: w.detach().sum(), errors.LossHasNoGraph, "without a graph"),
        (lambda w: (w * math.nan).sum(), errors.NotFinite, "the loss is nan"),
        (lambda w: (w / 0).sum(), errors.NotFinite, "the loss is inf"),
        (lambda w: weight().sum(), errors.ParameterNotInGraph, "parameters w do not influence the loss"),
    ],
)
def test_a_bad_closure_is_named(closure, error, text):
    w = weight()
    with pytest.raises(error, match=text):
        HessianOperator(lambda: closure(w), {"w": w})


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ([], errors.InvalidSetting, "parameters is empty"),
        ([weight()[:0]], errors.InvalidSetting, "hold no entry"),
        ([SAME, weight(), SAME], errors.InvalidSetting, "the same tensor twice"),
        ([torch.ones(2)], errors.InvalidSetting, "parameters 0 do not require a gradient"),
        ([weight(), weight().float()], errors.MixedParameters, "float32 on cpu, torch.float64 on cpu"),
        ([weight().detach().bfloat16().requires_grad_()], errors.MixedParameters, "found torch.bfloat16"),
    ],
)
def test_parameters_that_make_no_vector_are_named(parameters, error, text):
    with pytest.raises(error, match=text):
        named(parameters)


def test_a_gauss_newton_closure_that_returns_no_pair_is_named():
    w = weight()
    with pytest.raises(errors.LossNotScalar, match=r"must return \(outputs, loss\)"):
        GaussNewtonOperator(lambda: w.sum(), [w])
    with pytest.raises(errors.LossNotScalar, match="tensor of shape"):
        GaussNewtonOperator(lambda: (w * 2, lambda outputs: outputs**2), [w])
    with pytest.raises(errors.NotFinite, match="the loss is nan"):
        GaussNewtonOperator(lambda: (w * math.nan, torch.sum), [w])
    with pytest.raises(errors.LossHasNoGraph, match="closure"):
        GaussNewtonOperator(lambda: (w * 2, lambda outputs: outputs.detach().sum()), [w])
    with pytest.raises(errors.LossHasNoGraph, match="outputs have no graph"):
        GaussNewtonOperator(lambda: (w.detach(), torch.sum), [w])
    with pytest.raises(errors.ParameterNotInGraph, match="parameters v do not influence the outputs"):
        GaussNewtonOperator(lambda: (w * 2, torch.sum), {"w": w, "v": weight()})


def test_a_nan_that_only_the_curvature_has_is_named():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(errors.NotFinite, match="curvature matrix"):
        dense(HessianOperator(lambda: torch.sqrt(x).sum(), [x]))
