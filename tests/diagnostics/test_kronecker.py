"""K-FAC where it is exact, and against another implementation where it is not."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pliant.diagnostics import errors
from pliant.diagnostics.comparison import spectral_distance
from pliant.diagnostics.gram import jacobian
from pliant.diagnostics.kronecker import Factors, kronecker_factors, kronecker_spectrum
from pliant.diagnostics.operators import GaussNewtonOperator, dense


def build(*modules, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(*(make() for make in modules)).double()


def mlp(bias=True):
    return build(lambda: nn.Linear(4, 6, bias=bias), nn.Tanh, lambda: nn.Linear(6, 3, bias=bias))


def cnn():
    return build(
        lambda: nn.Conv2d(2, 3, 2, stride=2, padding=1), nn.Tanh, nn.Flatten, lambda: nn.Linear(12, 3)
    )


def inputs(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(samples):
    return torch.arange(samples) % 3


@pytest.mark.parametrize("bias", [True, False])
def test_one_sample_makes_every_layer_exact(bias):
    model, x = mlp(bias), inputs((1, 4))
    closure = lambda: (model(x), lambda out: F.cross_entropy(out, labels(1)))  # noqa: E731
    parameters = dict(model.named_parameters())
    spectra = kronecker_spectrum(closure, model, parameters)
    for layer in ("0", "2"):
        own = {name: p for name, p in parameters.items() if name.startswith(layer)}
        block = torch.linalg.eigvalsh(dense(GaussNewtonOperator(closure, own))).numpy()
        assert spectra[layer].nodes[0] == pytest.approx(block, abs=1e-14)


def test_eigenvalues_are_those_of_the_kronecker_product(rotated):
    pair = Factors(torch.tensor(rotated([0.0, 1.0, 3.0])), torch.tensor(rotated([2.0, 5.0], seed=1)))
    product = torch.linalg.eigvalsh(torch.kron(pair.inputs, pair.outputs))
    assert pair.eigenvalues() == pytest.approx(product.numpy(), abs=1e-13)
    assert pair.eigenvalues() == pytest.approx(np.sort([0, 0, 2, 5, 6, 15]), abs=1e-13)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("model", "shape"), [(mlp, (12, 4)), (cnn, (12, 2, 3, 3))])
@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_factors_agree_with_curvlinops(model, shape, loss):
    from curvlinops import KFACLinearOperator

    model, x = model(), inputs(shape)
    function = nn.CrossEntropyLoss() if loss == "cross-entropy" else nn.MSELoss()
    target = labels(12) if loss == "cross-entropy" else inputs((12, 3), seed=5)
    parameters = dict(model.named_parameters())
    ours = kronecker_spectrum(lambda: (model(x), lambda out: function(out, target)), model, parameters)
    theirs = KFACLinearOperator(
        model,
        function,
        list(parameters.values()),
        [(x, target)],
        fisher_type="type-2",
        kfac_approx="expand",
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = theirs @ torch.eye(theirs.shape[1], dtype=torch.float64)
    values = torch.linalg.eigvalsh(matrix.double())
    assert np.sort(ours[""].nodes[0]) == pytest.approx(values.numpy(), rel=1e-10, abs=1e-13)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_operators_agree_with_curvlinops():
    from curvlinops import GGNLinearOperator, HessianLinearOperator

    from pliant.diagnostics.operators import HessianOperator

    model, x, target = mlp(), inputs((12, 4)), labels(12)
    parameters = list(model.parameters())
    pairs = [
        (HessianOperator(lambda: F.cross_entropy(model(x), target), parameters), HessianLinearOperator),
        (
            GaussNewtonOperator(lambda: (model(x), lambda out: F.cross_entropy(out, target)), parameters),
            GGNLinearOperator,
        ),
    ]
    for ours, kind in pairs:
        theirs = kind(model, nn.CrossEntropyLoss(), parameters, [(x, target)], check_deterministic=False)
        matrix = theirs @ torch.eye(ours.size, dtype=torch.float64)
        assert torch.allclose(dense(ours), matrix.detach(), atol=1e-14)


def test_the_whole_is_the_union_of_the_layers_and_of_what_no_layer_holds():
    model, x = mlp(), inputs((8, 4))
    log_std = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    parameters = dict(model.named_parameters()) | {"log_std": log_std}

    def closure():
        mean = model(x)
        outputs = torch.cat([mean, log_std.expand_as(mean)], 1)
        frozen = outputs.detach()

        def kl(values):
            (m, s), (m0, s0) = values.split(3, 1), frozen.split(3, 1)
            scaled = ((2 * s0).exp() + (m - m0) ** 2) * (-2 * s).exp() / 2
            return (s - s0 + scaled - 0.5).sum(1).mean()

        return outputs, kl

    spectra = kronecker_spectrum(closure, model, parameters)
    assert set(spectra) == {"0", "2", "other", ""}
    assert spectra["other"].nodes[0] == pytest.approx(
        [2.0, 2.0, 2.0]
    )  # the Fisher of a log standard deviation
    assert spectra[""].size == sum(p.numel() for p in parameters.values())


def test_the_traces_of_a_linear_models_layer_agree_although_the_spectra_do_not():
    model, x = mlp(), inputs((40, 4))
    closure = lambda: (model(x), lambda out: F.mse_loss(out, torch.zeros_like(out)))  # noqa: E731
    last = {name: p for name, p in model.named_parameters() if name.startswith("2")}
    approximate, true = kronecker_spectrum(closure, model, last)["2"], jacobian(closure, last).spectrum()
    # With a squared loss the last layer's output slopes do not depend on the sample, so K-FAC is exact there.
    assert approximate.nodes[0] == pytest.approx(true.nodes[0], abs=1e-13)
    first = {name: p for name, p in model.named_parameters() if name.startswith("0")}
    distance = spectral_distance(
        kronecker_spectrum(closure, model, first)["0"], jacobian(closure, first).spectrum()
    )
    assert 0.005 < distance < 0.5


def test_layers_that_kfac_does_not_describe_are_named():
    model, x = mlp(), inputs((5, 4))
    loss = lambda out: F.cross_entropy(out, labels(5))  # noqa: E731
    twice = build(lambda: nn.Linear(4, 4))
    with pytest.raises(errors.InvalidSetting, match="layer '0' ran 2 times"):
        kronecker_factors(lambda: (twice(twice(x))[:, :3], loss), twice, dict(twice.named_parameters()))
    with pytest.raises(errors.InvalidSetting, match="the bias of layer '0' is missing"):
        kronecker_factors(lambda: (model(x), loss), model, {"weight": model[0].weight})
    grouped = build(lambda: nn.Conv2d(2, 2, 1, groups=2), nn.Flatten)
    image = inputs((5, 2, 1, 1))
    with pytest.raises(errors.InvalidSetting, match="grouped convolution"):
        kronecker_factors(
            lambda: (grouped(image), lambda out: (out**2).mean()), grouped, dict(grouped.named_parameters())
        )


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_padding_is_what_the_layer_pads(mode):
    """A picture that is padded beforehand, and a convolution that pads nothing."""
    x = inputs((5, 2, 6, 7))
    padded = build(lambda: nn.Conv2d(2, 3, 3, padding="same", padding_mode=mode), nn.Flatten)
    plain = build(lambda: nn.Conv2d(2, 3, 3), nn.Flatten)
    plain.load_state_dict(padded.state_dict())
    loss = lambda out: (out**2).sum(1).mean()  # noqa: E731
    wide = F.pad(x, (1, 1, 1, 1), mode="constant" if mode == "zeros" else mode)
    (own,) = kronecker_factors(lambda: (padded(x), loss), padded, dict(padded.named_parameters())).values()
    (other,) = kronecker_factors(lambda: (plain(wide), loss), plain, dict(plain.named_parameters())).values()
    torch.testing.assert_close(own.inputs, other.inputs)
    torch.testing.assert_close(own.outputs, other.outputs)


def test_hooks_are_gone_afterwards():
    model, x = mlp(), inputs((5, 4))
    kronecker_factors(lambda: (model(x), lambda out: (out**2).mean()), model, dict(model.named_parameters()))
    assert all(not module._forward_hooks for module in model.modules())
