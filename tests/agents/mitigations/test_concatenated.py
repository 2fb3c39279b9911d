"""CReLU and deep Fourier features: what they put out, and networks of the right sizes around them."""

import pytest
import torch
from torch import nn

from pliant.agents import (
    DQN,
    PPO,
    Classifier,
    ContinualBackprop,
    CReLU,
    DeepFourier,
    InvalidSetting,
    LayerNorm,
    PlasticityInjection,
    ReDo,
)
from pliant.agents.activations import ConcatenatedReLU, SineCosine
from pliant.agents.units import renew
from pliant.agents.wiring import trace

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOTH = pytest.mark.parametrize("policy", ["mlp", "cnn"])
KINDS = pytest.mark.parametrize("kind", [CReLU, DeepFourier])


def test_crelu_doubles_the_width_and_keeps_the_sign():
    z = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    out = ConcatenatedReLU()(z)
    assert out.shape == (5, 6, 4, 4)
    assert (out >= 0).all()
    torch.testing.assert_close(out[:, :3] - out[:, 3:], z)
    torch.testing.assert_close(out[:, :3] + out[:, 3:], z.abs())


def test_sine_and_cosine_have_a_derivative_that_never_vanishes_together():
    z = torch.linspace(-20, 20, 999).view(-1, 1).requires_grad_()
    out = SineCosine()(z)
    torch.testing.assert_close(out, torch.cat([z.sin(), z.cos()], dim=1))
    torch.testing.assert_close(out.square().sum(1), torch.ones(999))
    (slope_of_sine,) = torch.autograd.grad(out[:, 0].sum(), z, retain_graph=True)
    (slope_of_cosine,) = torch.autograd.grad(out[:, 1].sum(), z)
    assert (slope_of_sine.square() + slope_of_cosine.square() > 0.99).all()


@pytest.mark.parametrize("halve", [False, True])
@pytest.mark.parametrize(
    ("kind", "functions"),
    [(CReLU, (torch.relu, lambda z: torch.relu(-z))), (DeepFourier, (torch.sin, torch.cos))],
)
def test_features_are_the_stated_functions_of_the_preactivations(kind, functions, halve, make, observe):
    agent = make(DQN, [kind(halve=halve)])
    z = agent.q_net.q_net[0](observe())
    expected = torch.cat([function(z) for function in functions], dim=1)
    assert torch.equal(agent.features(observe())["q/0"], expected)


@KINDS
@BOTH
@ALL
def test_every_hidden_layer_has_two_outputs_per_unit(algorithm, policy, kind, make, observe):
    for halve in (False, True):
        plain, agent = make(algorithm, policy=policy), make(algorithm, [kind(halve=halve)], policy)
        widths = {n: f.shape[1] for n, f in plain.features(observe(policy)).items()}
        found = {n: f.shape[1] for n, f in agent.features(observe(policy)).items()}
        assert found == {n: w if halve else 2 * w for n, w in widths.items()}
        assert {n: layer.width for n, layer in trace(agent).layers.items()} == {
            n: w // 2 if halve else w for n, w in widths.items()
        }
        assert all(layer.parts == 2 for layer in trace(agent).layers.values())
        assert not any(isinstance(m, nn.ReLU) for m in agent.policy.modules())


@KINDS
@ALL
def test_halving_gives_a_network_of_fewer_weights(algorithm, kind, make, parameters):
    def count(mitigations):
        return sum(p.numel() for p in parameters(make(algorithm, mitigations)).values())

    assert count([kind(halve=True)]) < count([]) < count([kind(halve=False)])


@pytest.mark.parametrize("initialisation", ["sb3", "he-uniform"])
@ALL
def test_resized_layers_are_drawn_as_at_construction(algorithm, initialisation, make):
    agent = make(
        algorithm, [CReLU()], initialisation=initialisation, policy_kwargs={"net_arch": [64, 64]}, seed=3
    )
    wiring = trace(agent)
    layer = next(layer for name, layer in wiring.layers.items() if name.endswith("/1")).incoming
    assert layer.weight.shape == (64, 128)
    twice = make(algorithm, policy_kwargs={"net_arch": [128, 64]}, initialisation=initialisation)
    like = next(layer for name, layer in trace(twice).layers.items() if name.endswith("/1")).incoming
    assert layer.weight.std().item() == pytest.approx(like.weight.std().item(), rel=0.05)
    assert layer.weight.abs().max().item() == pytest.approx(like.weight.abs().max().item(), rel=0.25)


def test_ppos_rows_stay_orthogonal_and_its_heads_small(make):
    agent = make(PPO, [CReLU()])
    second = agent.policy.mlp_extractor.policy_net[2]
    torch.testing.assert_close(second.weight @ second.weight.T, 2 * torch.eye(8))
    head = agent.policy.action_net
    assert head.weight.shape == (3, 16)
    torch.testing.assert_close(head.weight @ head.weight.T, 1e-4 * torch.eye(3))
    assert (second.bias == 0).all()


@KINDS
def test_the_target_network_has_the_same_shape(kind, make, observe):
    agent = make(DQN, [kind()])
    assert torch.equal(agent.q_net(observe()), agent.q_net_target(observe()))
    agent.learn(48)


@BOTH
@ALL
def test_a_renewed_unit_loses_both_its_outgoing_weights(algorithm, policy, make, observe, outputs):
    agent = make(algorithm, [CReLU()], policy)
    seen = observe(policy)
    for layer in reversed(trace(agent).layers.values()):
        units = torch.tensor([2])
        renew(layer, units, *agent.fresh_units(layer.incoming, 1), agent.policy.optimizer)
        said = outputs(agent, seen)
        with torch.no_grad():
            layer.incoming.weight[units] *= -5
        assert torch.equal(outputs(agent, seen), said)


@KINDS
@ALL
def test_they_work_beside_what_acts_on_units_and_modules(algorithm, kind, make, parameters):
    beside = [ReDo(0.3, every=3), ContinualBackprop(0.05, maturity=3), LayerNorm()]
    for mitigations in ([kind(), *beside], [LayerNorm(), PlasticityInjection(), kind()]):
        agent = make(algorithm, mitigations)
        agent.start_task(0)
        agent.learn(48)
        agent.start_task(1)
        agent.learn(48)
        assert all(p.isfinite().all() for p in parameters(agent).values())


def test_another_activation_or_an_odd_width_is_refused(make):
    with pytest.raises(InvalidSetting, match=r"CReLU replaces the activation .*activation_fn is Tanh: leave"):
        make(PPO, [CReLU()], policy_kwargs={"activation_fn": "tanh"})
    with pytest.raises(InvalidSetting, match="half its units, but q/0 has 7 of them: use an even width"):
        make(DQN, [DeepFourier()], policy_kwargs={"net_arch": [7]})
    with pytest.raises(InvalidSetting, match="CReLU cannot work with DeepFourier: both replace"):
        make(DQN, [DeepFourier(), CReLU()])
