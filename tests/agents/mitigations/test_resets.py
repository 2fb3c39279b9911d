"""Resets: what is drawn anew, what stays, and that the optimiser and DQN's target follow."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pliant.agents import DQN, PPO, Classifier, FullReset, InvalidSetting, LayerNorm, LayerReset

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOX = spaces.Box(-1, 1, (2,), np.float32)


def trained(algorithm, mitigation, make, **kwargs):
    agent = make(algorithm, [mitigation], learning_rate=1e-2, **kwargs)
    agent.start_task(0)
    agent.learn(64)
    return agent


@ALL
def test_nothing_happens_at_the_first_task(algorithm, make, parameters):
    agent = make(algorithm, [FullReset(), LayerReset()])
    before = parameters(agent)
    agent.start_task(0)
    assert all(torch.equal(p, before[name]) for name, p in parameters(agent).items())
    assert all(mitigation.values() == {"resets": 0} for mitigation in agent.mitigations)


@ALL
def test_a_full_reset_is_a_new_network_and_an_empty_optimiser(algorithm, make, parameters):
    agent = trained(algorithm, FullReset(), make, **({"actions": BOX} if algorithm is PPO else {}))
    assert agent.policy.optimizer.state
    torch.manual_seed(7)
    fresh = parameters(agent.fresh())
    before = parameters(agent)
    torch.manual_seed(7)
    agent.start_task(1)
    after = parameters(agent)
    assert all(torch.equal(after[name], fresh[name]) for name in fresh)
    assert all((after[name] != before[name]).any() for name in after)
    assert not agent.policy.optimizer.state
    assert agent.mitigations[0].values() == {"resets": 1}
    agent.learn(32)


@pytest.mark.parametrize("last", [1, 2])
@ALL
def test_a_layer_reset_touches_the_last_layers_alone(algorithm, last, make, parameters):
    agent = trained(algorithm, LayerReset(last), make)
    heads = {
        PPO: [["action_net", "value_net"], ["mlp_extractor.policy_net.2", "mlp_extractor.value_net.2"]],
        DQN: [["q_net.q_net.4"], ["q_net.q_net.2"]],
        Classifier: [["head"], ["body.2"]],
    }[algorithm]
    chosen = {f"{name}.{kind}" for names in heads[:last] for name in names for kind in ("weight", "bias")}
    before = parameters(agent)
    moments = {
        n: agent.policy.optimizer.state[p] for n, p in agent.policy.named_parameters() if n not in chosen
    }
    moments = {n: {k: v.clone() for k, v in slots.items()} for n, slots in moments.items() if slots}
    agent.start_task(1)
    after = parameters(agent)
    assert {name for name in after if not torch.equal(after[name], before[name])} == chosen
    state = agent.policy.optimizer.state
    own = dict(agent.policy.named_parameters())
    assert not any(own[name] in state and state[own[name]] for name in chosen)
    for name, slots in moments.items():
        assert all(torch.equal(v, state[own[name]][k]) for k, v in slots.items())
    agent.learn(32)


def test_a_layers_normalisation_is_reset_with_it(make):
    agent = make(DQN, [LayerNorm(), LayerReset(2)])
    norms = [m for n, m in agent.q_net.named_modules() if isinstance(m, torch.nn.LayerNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.fill_(3.0)
    agent.start_task(1)
    assert [norm.weight.mean().item() for norm in norms] == [3, 1]


@pytest.mark.parametrize("mitigation", [FullReset(), LayerReset()], ids=["full", "layer"])
def test_dqns_target_network_follows_at_once_and_its_replays_stay(mitigation, make):
    agent = trained(DQN, mitigation, make)
    replays = agent.replay_buffer.observations.copy()
    agent.start_task(1)
    online, target = agent.q_net.state_dict(), agent.q_net_target.state_dict()
    assert all(torch.equal(online[name], target[name]) for name in online)
    assert np.array_equal(replays, agent.replay_buffer.observations)


def test_more_layers_than_there_are_cannot_be_reset(make):
    with pytest.raises(InvalidSetting, match=r"last is 4, but a network has only 3 layers: .*Use FullReset"):
        make(PPO, [LayerReset(4)])
    with pytest.raises(InvalidSetting, match="positive integer"):
        LayerReset(0)
