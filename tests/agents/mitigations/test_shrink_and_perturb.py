"""Shrink and perturb: the identity at its neutral settings, the stated mixture elsewhere."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pliant.agents import DQN, PPO, Classifier, InvalidSetting, ShrinkAndPerturb

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOX = spaces.Box(-1, 1, (2,), np.float32)


@ALL
def test_shrink_one_and_noise_zero_is_the_identity(algorithm, make, parameters):
    plain = parameters(make(algorithm).learn(64))
    neutral = parameters(make(algorithm, [ShrinkAndPerturb(shrink=1.0, noise=0.0)]).learn(64))
    assert all(torch.equal(plain[name], neutral[name]) for name in plain)


@pytest.mark.parametrize("policy", ["mlp", "cnn"])
@ALL
def test_shrinking_alone_multiplies_weights_and_biases(algorithm, policy, make, parameters):
    mitigation = ShrinkAndPerturb(shrink=0.9, noise=0.0)
    agent = make(algorithm, [mitigation], policy=policy)
    with torch.no_grad():
        for p in agent.policy.parameters():
            p += 1.0
    before = parameters(agent)
    mitigation.apply(agent)
    for name, p in parameters(agent).items():
        torch.testing.assert_close(p, 0.9 * before[name])


def test_the_log_standard_deviation_is_left_alone(make):
    mitigation = ShrinkAndPerturb(shrink=0.5, noise=1.0)
    agent = make(PPO, [mitigation], actions=BOX)
    with torch.no_grad():
        agent.policy.log_std.fill_(-1.0)
    mitigation.apply(agent)
    assert (agent.policy.log_std == -1).all()


@ALL
def test_normal_noise_has_the_stated_standard_deviation(algorithm, make, parameters):
    mitigation = ShrinkAndPerturb(shrink=1.0, noise=0.3)
    agent = make(algorithm, [mitigation], policy_kwargs={"net_arch": [64, 64]})
    before = parameters(agent)
    mitigation.apply(agent)
    added = torch.cat([(p - before[name]).flatten() for name, p in parameters(agent).items()])
    assert added.std().item() == pytest.approx(0.3, rel=0.03)
    assert added.mean().item() == pytest.approx(0, abs=0.02)


@ALL
def test_initial_noise_is_a_fresh_draw_of_the_network(algorithm, make, parameters):
    mitigation = ShrinkAndPerturb(shrink=0.5, noise=0.25, distribution="initial")
    agent = make(algorithm, [mitigation])
    before = parameters(agent)
    torch.manual_seed(5)
    fresh = parameters(agent.fresh())
    torch.manual_seed(5)
    mitigation.apply(agent)
    for name, p in parameters(agent).items():
        torch.testing.assert_close(p, 0.5 * before[name] + 0.25 * fresh[name])
    assert any((fresh[name] != before[name]).any() for name in before)


def test_noise_comes_from_torchs_global_generator_on_the_cpu(make, parameters):
    mitigation = ShrinkAndPerturb(noise=1.0)
    agent = make(DQN, [mitigation])
    start = {name: p.clone() for name, p in agent.policy.state_dict().items()}
    drawn = []
    for _ in range(2):
        agent.policy.load_state_dict(start)
        torch.manual_seed(3)
        mitigation.apply(agent)
        drawn.append(parameters(agent))
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


@ALL
def test_it_acts_after_every_so_many_updates_or_at_switches(algorithm, make):
    each, third, task = (
        ShrinkAndPerturb(shrink=0.999),
        ShrinkAndPerturb(every=3),
        ShrinkAndPerturb(when="task"),
    )
    agent = make(algorithm, [each, third, task])
    agent.start_task(0)
    agent.learn(64)
    assert agent.gradient_updates > 3
    counts = {"each": agent.gradient_updates, "third": agent.gradient_updates // 3, "task": 0}
    assert counts == {
        name: m.values()["perturbations"] for name, m in zip(counts, (each, third, task), strict=True)
    }
    agent.start_task(1)
    agent.start_task(2)
    assert task.values()["perturbations"] == 2


@ALL
def test_at_a_switch_dqns_target_network_becomes_a_copy_of_the_online_one(algorithm, make):
    agent = make(algorithm, [ShrinkAndPerturb(shrink=0.5, noise=1.0, when="task")])
    agent.start_task(1)
    if algorithm is DQN:
        online, target = agent.q_net.state_dict(), agent.q_net_target.state_dict()
        assert all(torch.equal(online[name], target[name]) for name in online)


def test_dqns_target_network_is_not_perturbed_between_switches(make):
    mitigation = ShrinkAndPerturb(shrink=0.5, noise=1.0)
    agent = make(DQN, [mitigation])
    before = [p.clone() for p in agent.q_net_target.parameters()]
    mitigation.apply(agent)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.q_net_target.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shrink": 1.5}, "shrink from 0 to 1, not 1.5"),
        ({"noise": -1.0}, "noise of at least 0"),
        ({"when": "epoch"}, "'epoch'. Known: update, task"),
        ({"distribution": "uniform"}, "Known: normal, initial"),
        ({"every": 0}, "positive integer"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        ShrinkAndPerturb(**settings)
