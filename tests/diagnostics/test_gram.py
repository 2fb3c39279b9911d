"""The Gauss-Newton matrix from the side of the outputs."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant.diagnostics import errors, hessian_spectrum
from pliant.diagnostics.features import effective_rank
from pliant.diagnostics.gram import (
    GramOperator,
    by_layer,
    curvature_root,
    jacobian,
    ntk_effective_rank,
    output_curvature,
    output_roots,
)
from pliant.diagnostics.operators import GaussNewtonOperator, dense


def build(*modules, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(*(make() for make in modules)).double()


def mlp():
    return build(lambda: nn.Linear(4, 9), nn.Tanh, lambda: nn.Linear(9, 8), nn.ReLU, lambda: nn.Linear(8, 3))


def cnn():
    return build(lambda: nn.Conv2d(2, 3, 2), nn.Tanh, nn.Flatten, lambda: nn.Linear(12, 3))


def inputs(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cross_entropy(samples):
    labels = torch.arange(samples) % 3
    return lambda outputs: F.cross_entropy(outputs, labels)


def squared(samples):
    targets = inputs((samples, 3), seed=9)
    return lambda outputs: F.mse_loss(outputs, targets)


CASES = [(mlp, (10, 4)), (cnn, (10, 2, 3, 3))]


@pytest.mark.parametrize("loss", [cross_entropy, squared])
@pytest.mark.parametrize(("model", "shape"), CASES)
def test_gram_and_gauss_newton_share_their_non_zero_eigenvalues(model, shape, loss):
    model, x = model(), inputs(shape)
    closure = lambda: (model(x), loss(10))  # noqa: E731
    parameters = dict(model.named_parameters())
    ggn = torch.linalg.eigvalsh(dense(GaussNewtonOperator(closure, parameters)))
    gram = torch.linalg.eigvalsh(jacobian(closure, parameters).gram())
    both = min(len(ggn), len(gram))
    assert torch.allclose(ggn[-both:], gram[-both:], rtol=0, atol=1e-12 * float(ggn[-1]))
    assert float(ggn[-1]) > 1e-2


@pytest.mark.parametrize(("model", "shape"), CASES)
def test_the_rows_product_is_the_gauss_newton_matrix(model, shape):
    model, x = model(), inputs(shape)
    closure = lambda: (model(x), cross_entropy(10))  # noqa: E731
    rows = jacobian(closure, model.parameters()).rows
    assert torch.allclose(rows.T @ rows, dense(GaussNewtonOperator(closure, model.parameters())), atol=1e-14)


@pytest.mark.parametrize(("model", "shape"), CASES)
def test_the_layers_grams_sum_to_the_networks_and_have_the_layers_spectra(model, shape):
    model, x = model(), inputs(shape)
    closure = lambda: (model(x), cross_entropy(10))  # noqa: E731
    parameters = dict(model.named_parameters())
    found = jacobian(closure, parameters)
    layers = by_layer(parameters)
    assert torch.allclose(sum(found.gram(names) for names in layers.values()), found.gram(), atol=1e-14)
    for names in layers.values():
        block = dense(GaussNewtonOperator(closure, {name: parameters[name] for name in names}))
        values = found.spectrum(names).nodes[0]
        assert torch.allclose(torch.tensor(values.copy()), torch.linalg.eigvalsh(block), atol=1e-13)


def test_the_operator_is_the_matrix():
    model, x = mlp(), inputs((10, 4))
    closure = lambda: (model(x), cross_entropy(10))  # noqa: E731
    operator = GramOperator(closure, model.parameters())
    assert torch.allclose(dense(operator), jacobian(closure, model.parameters()).gram(), atol=1e-14)


def test_the_residual_of_a_squared_loss_is_the_scaled_error_and_its_square_the_loss():
    model, x = mlp(), inputs((10, 4))
    loss = squared(10)
    operator = GramOperator(lambda: (model(x), loss), model.parameters())
    assert float(0.5 * (operator.residual**2).sum()) == pytest.approx(
        float(loss(model(x)).detach()), rel=1e-12
    )


def test_the_plain_kernel_is_the_jacobians_and_its_rank_is_bounded_by_the_outputs():
    model, x = mlp(), inputs((10, 4))
    plain = jacobian(lambda: (model(x), squared(10)), dict(model.named_parameters()), weighted=False)
    expected = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)))(
        dict(model.named_parameters())
    )
    rows = torch.cat([expected[name].reshape(30, -1) for name in plain.sizes], 1)
    assert torch.allclose(plain.rows, rows, atol=1e-14)
    assert 1 <= ntk_effective_rank(plain) <= 30
    assert ntk_effective_rank(plain) == pytest.approx(
        effective_rank(torch.linalg.svdvals(rows.detach()) ** 2)
    )


def test_exact_spectra_take_the_smaller_matrix_and_agree_with_the_larger():
    model, x = mlp(), inputs((10, 4))
    closure = lambda: (model(x), cross_entropy(10))  # noqa: E731
    spectrum = hessian_spectrum(closure, model.parameters(), operator="ggn")
    assert spectrum.products == 30  # one row for each output, not one product for each of 152 parameters
    values = torch.linalg.eigvalsh(dense(GaussNewtonOperator(closure, model.parameters())))
    assert torch.allclose(torch.tensor(spectrum.nodes[0].copy()), values, atol=1e-13)
    assert (
        spectrum.epsilon_rank(1e-9).value * spectrum.size <= 20
    )  # cross-entropy has K - 1 directions a sample


def test_the_roots_square_is_the_curvature_and_the_pseudo_inverse_inverts_it_on_its_range():
    p = torch.softmax(inputs((6, 4)), 1)
    curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    root, inverse = curvature_root(curvature)
    assert torch.allclose(root @ root, curvature, atol=1e-15)
    assert torch.allclose(inverse @ curvature @ inverse, root @ inverse, atol=1e-12)


def test_small_curvature_is_inverted_as_far_as_the_precision_resolves_it():
    for dtype, resolved in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        _, inverse = curvature_root(torch.diag(torch.tensor([1.0, resolved], dtype=dtype))[None])
        assert inverse[0, 1, 1].item() == pytest.approx(resolved**-0.5, rel=1e-5)
        _, inverse = curvature_root(torch.diag(torch.tensor([1.0, 1e-4 * resolved], dtype=dtype))[None])
        assert inverse[0, 1, 1].item() == 0.0


@pytest.mark.parametrize("confidence", [10.0, 30.0, 100.0])
def test_a_network_that_is_sure_of_everything_has_no_negative_curvature(confidence):
    """In float32 the curvature of a sure softmax is rounding, of either sign; the loss is convex still."""
    model, x = mlp().float(), inputs((48, 4)).float()
    with torch.no_grad():
        model[-1].weight.mul_(0.01)
        model[-1].bias.copy_(torch.tensor([confidence, 0.0, -1.0]))
    labels = torch.arange(48) % 2
    operator = GaussNewtonOperator(
        lambda: (model(x), lambda outputs: F.cross_entropy(outputs, labels)), model.parameters()
    )
    assert float(torch.linalg.eigvalsh(output_curvature(operator)).min()) < 0.0
    root, inverse = output_roots(operator)
    assert float(root.abs().max()) < 1.0
    assert float(inverse.abs().max()) < 1e6


def test_the_secant_is_the_curvature_of_a_quadratic_loss_at_every_scale():
    model, x = mlp(), inputs((10, 4))
    for scale in (1e-8, 1.0, 1e8):
        operator = GaussNewtonOperator(
            lambda scale=scale: (model(x), lambda outputs: scale * (outputs**2).sum() / 2), model.parameters()
        )
        assert operator.secant == pytest.approx(scale, rel=1e-12)


def test_a_loss_that_is_not_convex_or_couples_samples_is_named():
    model, x = mlp(), inputs((10, 4))
    with pytest.raises(errors.NotConvex, match="KL divergence to its frozen self"):
        jacobian(lambda: (model(x), lambda outputs: -(outputs**2).mean()), model.parameters())
    with pytest.raises(errors.InvalidSetting, match="couples samples"):
        output_curvature(
            GaussNewtonOperator(lambda: (model(x), lambda out: out.mean() ** 2), model.parameters())
        )
    with pytest.raises(errors.InvalidSetting, match=r"must be \[samples, K\]"):
        jacobian(lambda: (model(x).reshape(-1), lambda out: (out**2).mean()), model.parameters())
    with pytest.raises(errors.InvalidSetting, match="are unknown; known are"):
        jacobian(lambda: (model(x), squared(10)), model.parameters()).gram(["nine"])
