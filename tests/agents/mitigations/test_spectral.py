"""Spectral regularisation: the largest singular value, and zero at its target."""

import copy

import pytest
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from pliant.agents import DQN, PPO, Classifier, InvalidSetting, Spectral
from pliant.agents.mitigations.spectral import power_iteration, spectral_penalty


def sigma(weight):
    return torch.linalg.matrix_norm(weight.flatten(1), 2)


def test_power_iteration_finds_the_leading_singular_vectors():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, right = power_iteration(matrix, torch.ones(4, dtype=torch.float64), 200)
    u, s, v = torch.linalg.svd(matrix)
    assert (left @ matrix @ right).item() == pytest.approx(s[0].item())
    assert abs(left @ u[:, 0]).item() == pytest.approx(1)
    assert abs(right @ v[0]).item() == pytest.approx(1)


def test_each_iteration_shrinks_the_error_by_the_ratio_of_singular_values_squared():
    matrix = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    right = torch.tensor([1.0, 1.0], dtype=torch.float64)
    for n in (1, 2, 3):
        _, found = power_iteration(matrix, right, n)
        assert (found[1] / found[0]).item() == pytest.approx(0.25**n)


def test_the_penalty_is_zero_at_the_target_and_has_the_gradient_of_the_formula():
    weight = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)).requires_grad_()
    left = right = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert spectral_penalty(weight, left, right, target=9.0, power=2).item() == 0
    penalty = spectral_penalty(weight, left, right, target=2.0, power=2)
    assert penalty.item() == (9 - 2) ** 2
    (gradient,) = torch.autograd.grad(penalty, weight)  # 2 (s^2 - t) 2 s u v'
    torch.testing.assert_close(gradient, 2 * 7 * 2 * 3 * torch.outer(left, right))


@pytest.mark.parametrize("policy", ["mlp", "cnn"])
@pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
def test_every_layer_and_bias_counts(algorithm, policy, make, observe):
    mitigation = Spectral(0.1, target=1.5, power=3)
    agent = make(algorithm, [mitigation], policy=policy, initialisation="lecun-uniform")
    root = agent.q_net if algorithm is DQN else agent.policy
    layers = [m for m in root.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for m in layers:
            m.bias.normal_()
    expected = sum((sigma(m.weight) ** 3 - 1.5) ** 2 + m.bias.square().sum() for m in layers)
    torch.testing.assert_close(mitigation.penalty(agent, observe(policy)), 0.1 * expected, rtol=1e-3, atol=0)
    mean = torch.stack([sigma(m.weight) for m in layers]).mean().item()
    assert mitigation.values() == pytest.approx({"spectral_norm": mean}, rel=1e-3)


def test_a_normalisation_without_a_bias_counts_with_its_gains(make, observe):
    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space):
            super().__init__(space, features_dim=space.shape[0])
            self.norm = nn.LayerNorm(space.shape[0], bias=False)

        def forward(self, observations):
            return self.norm(observations)

    spectral = Spectral(strength=1.0)
    agent = make(PPO, [spectral], policy_kwargs={"features_extractor_class": Extractor})
    before = spectral.penalty(agent, observe())
    with torch.no_grad():
        agent.policy.features_extractor.norm.weight.fill_(3.0)
    assert (spectral.penalty(agent, observe()) - before).item() == pytest.approx(3 * 2**2, rel=1e-3)


def test_it_follows_the_singular_vectors_as_the_weights_move(make, observe):
    mitigation = Spectral(1.0, target=0.0, power=1)
    agent = make(DQN, [mitigation], initialisation="lecun-uniform")
    layers = [m for m in agent.q_net.modules() if isinstance(m, nn.Linear)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        with torch.no_grad():
            for m in layers:
                m.weight += 0.003 * torch.randn(m.weight.shape, generator=generator)
                m.bias.zero_()
        penalty = mitigation.penalty(agent, observe())
    expected = sum(sigma(m.weight) ** 2 for m in layers)
    torch.testing.assert_close(penalty, expected, rtol=1e-2, atol=0)


def test_training_brings_the_largest_singular_value_to_the_target(make):
    mitigation = Spectral(1.0, target=4.0)
    agent = make(DQN, [mitigation], learning_rate=3e-3).learn(2000)
    for layer in agent.q_net.modules():
        if isinstance(layer, nn.Linear):
            assert sigma(layer.weight).item() == pytest.approx(2.0, rel=0.05)


def test_a_layer_that_was_set_to_zero_is_followed_again_when_it_grows(make, observe):
    mitigation = Spectral(1.0, target=0.0, power=1)
    agent = make(Classifier, [mitigation], new_head="zero")
    agent.start_task(0)
    assert mitigation.penalty(agent, observe()).isfinite()
    with torch.no_grad():
        for p in agent.policy.parameters():
            p.zero_()
        agent.policy.head.weight[0, 0] = 3.0
    penalty = [mitigation.penalty(agent, observe()) for _ in range(20)][-1]
    assert penalty.item() == pytest.approx(9.0)  # as much as this one layer's largest singular value says


def test_a_layer_may_begin_at_zero():
    left, right = power_iteration(torch.zeros(3, 2), torch.tensor([0.6, 0.8]), 5)
    assert left.tolist() == [0, 0, 0]
    assert right.tolist() == pytest.approx([0.6, 0.8])


def test_the_singular_vectors_are_kept(make, observe):
    one = Spectral(0.1)
    agent = make(PPO, [one])
    agent.learn(64)
    other = copy.deepcopy(one)
    other.attach(agent)
    other.restore()
    penalty = one.penalty(agent, observe())
    assert torch.equal(penalty, other.penalty(agent, observe()))


@pytest.mark.parametrize(("settings", "message"), [({"strength": -1.0}, "strength"), ({"power": 0}, "power")])
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        Spectral(**settings)
