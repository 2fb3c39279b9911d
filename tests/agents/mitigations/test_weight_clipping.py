"""Weight clipping: nothing beyond the bound, everything within untouched."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from pliant.agents import DQN, PPO, Classifier, InvalidSetting, Update, WeightClipping

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])


def layers(agent):
    root = agent.q_net if isinstance(agent, DQN) else agent.policy
    return [m for m in root.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def fan_in(layer):
    return layer.weight[0].numel()


@pytest.mark.parametrize("policy", ["mlp", "cnn"])
@ALL
def test_weights_and_biases_are_clipped_at_kappa_over_the_root_of_fan_in(algorithm, policy, make, observe):
    mitigation = WeightClipping(2.0)
    agent = make(algorithm, [mitigation], policy=policy)
    generator = torch.Generator().manual_seed(0)
    expected, beyond, total = [], 0, 0
    with torch.no_grad():
        for layer in layers(agent):
            bound = 2 / math.sqrt(fan_in(layer))
            for p in layer.parameters():
                p.copy_(2 * bound * torch.randn(p.shape, generator=generator))
                expected.append(p.clamp(-bound, bound))
                beyond, total = beyond + (p.abs() > bound).sum().item(), total + p.numel()
    mitigation.after_update(agent, Update(0, observe(policy)))
    clipped = [p for layer in layers(agent) for p in layer.parameters()]
    assert all(torch.equal(p, wanted) for p, wanted in zip(clipped, expected, strict=True))
    assert mitigation.values() == pytest.approx({"clipped": beyond / total})
    mitigation.after_update(agent, Update(1, observe(policy)))
    assert mitigation.values() == {"clipped": 0}


@ALL
def test_nothing_passes_the_bound_while_training(algorithm, make):
    agent = make(algorithm, [WeightClipping(1.0)], learning_rate=0.1).learn(64)
    for layer in layers(agent):
        assert all(p.abs().max() <= 1 / math.sqrt(fan_in(layer)) + 1e-7 for p in layer.parameters())


@ALL
def test_a_bound_out_of_reach_changes_nothing(algorithm, make, parameters):
    plain, clipped = make(algorithm).learn(64), make(algorithm, [WeightClipping(1e6)]).learn(64)
    assert all(torch.equal(p, parameters(clipped)[name]) for name, p in parameters(plain).items())


def test_the_log_standard_deviation_and_if_asked_the_heads_are_left_alone(make, observe):
    mitigation = WeightClipping(1.0, heads=False)
    agent = make(PPO, [mitigation], actions=spaces.Box(-1, 1, (2,), np.float32))
    with torch.no_grad():
        for p in agent.policy.parameters():
            p.fill_(9.0)
    mitigation.after_update(agent, Update(0, observe()))
    policy = agent.policy
    for p in [policy.log_std, *policy.action_net.parameters(), *policy.value_net.parameters()]:
        assert (p == 9).all()
    assert all((p < 9).all() for p in policy.mlp_extractor.parameters())


def test_dqns_target_network_is_not_clipped(make, observe):
    mitigation = WeightClipping(0.01)
    agent = make(DQN, [mitigation])
    before = [p.clone() for p in agent.q_net_target.parameters()]
    mitigation.after_update(agent, Update(0, observe()))
    assert all(torch.equal(a, b) for a, b in zip(before, agent.q_net_target.parameters(), strict=True))


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.inf])
def test_an_impossible_kappa_is_refused(kappa):
    with pytest.raises(InvalidSetting, match="finite kappa above 0"):
        WeightClipping(kappa)
