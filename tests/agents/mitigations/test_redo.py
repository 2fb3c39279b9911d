"""ReDo: who is dormant, that the dead are revived without a change of the outputs, what is forgotten."""

import pytest
import torch

from pliant.agents import DQN, PPO, Classifier, InvalidSetting, PlasticityInjection, ReDo
from pliant.agents.mitigations.redo import dormancy_scores
from pliant.agents.wiring import trace

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOTH = pytest.mark.parametrize("policy", ["mlp", "cnn"])


def test_scores_are_relative_to_the_mean_of_the_layer():
    scores = dormancy_scores(torch.tensor([1.0, 2.0, 0.0, 5.0]))
    torch.testing.assert_close(scores, torch.tensor([0.5, 1.0, 0.0, 2.5]))
    assert (dormancy_scores(torch.zeros(3)) == 0).all()


def kill(agent, units):
    """Units that are zero on every observation, in every layer."""
    with torch.no_grad():
        for layer in trace(agent).layers.values():
            layer.incoming.weight[units] = 0
            layer.incoming.bias[units] = -1.0


def moments(agent, parameter):
    slots = agent.policy.optimizer.state[parameter].values()
    return [slot for slot in slots if slot.shape == parameter.shape]


@BOTH
@ALL
def test_the_dead_are_revived_and_nothing_said_changes(algorithm, policy, make, observe, outputs):
    mitigation = ReDo(threshold=0.0, samples=32)
    agent = make(algorithm, [mitigation], policy)
    agent.learn(48)
    units = [0, 2, 5]
    kill(agent, units)
    seen = observe(policy, 100)
    agent.sample_observations = lambda samples: seen
    before, dead = outputs(agent, seen), {n: (f == 0).all(0) for n, f in agent.features(seen).items()}
    assert all(zero[units].all() for zero in dead.values())
    revived = dict.fromkeys(dead, False)
    for _ in range(10):  # a draw may be dead at once
        mitigation.recycle(agent)
        assert torch.equal(outputs(agent, seen), before)
        for name, features in agent.features(seen).items():
            revived[name] |= (features[:, units] > 0).any().item()
    assert all(revived.values())
    assert mitigation.values()["redo_recycled"] >= 3 * len(dead)


@ALL
def test_exactly_the_dormant_units_are_renewed(algorithm, make, observe):
    threshold = 0.7
    mitigation = ReDo(threshold=threshold, samples=32)
    agent = make(algorithm, [mitigation], policy_kwargs={"net_arch": [16, 16]})
    agent.learn(48)
    seen = observe(count=32)
    agent.sample_observations = lambda samples: seen
    layers = trace(agent).layers
    features = agent.features(seen)
    activity = {name: f.detach().abs().mean(0) for name, f in features.items()}
    dormant = {name: a / a.mean() <= threshold for name, a in activity.items()}
    count = sum(mask.sum().item() for mask in dormant.values())
    assert 0 < count < sum(layer.width for layer in layers.values())
    before = {name: layer.incoming.weight.detach().clone() for name, layer in layers.items()}
    biases = {layer: layer.bias.detach().clone() for layer in trace(agent).heads}
    mitigation.recycle(agent)
    last = {name: layer for name, layer in layers.items() if layer.consumers[0] in trace(agent).heads}
    first = {name: layer for name, layer in layers.items() if name.endswith("/0")}
    for name, layer in first.items():  # nobody's outgoing weights
        changed = (layer.incoming.weight != before[name]).any(1)
        assert torch.equal(changed, dormant[name])
    for name, layer in last.items():
        weight = layer.outgoing(layer.consumers[0])
        assert torch.equal((weight == 0).all(0)[0, :, 0], dormant[name])
    assert all(torch.equal(layer.bias, bias) for layer, bias in biases.items())
    assert mitigation.values() == {
        "redo_dormant": count / sum(layer.width for layer in layers.values()),
        "redo_recycled": count,
    }


@ALL
def test_the_optimiser_forgets_renewed_units_alone(algorithm, make):
    mitigation = ReDo(threshold=0.0)
    agent = make(algorithm, [mitigation])
    agent.learn(48)
    kill(agent, [3])
    for slots in agent.policy.optimizer.state.values():
        for slot in slots.values():
            if slot.ndim:
                slot.fill_(1.0)
    seen = agent.sample_observations(30)
    features = agent.features(seen)
    alive = {name: layer.activity(features[name]) > 0 for name, layer in trace(agent).layers.items()}
    agent.sample_observations = lambda samples: seen
    mitigation.recycle(agent)
    for name, layer in trace(agent).layers.items():
        for moment in moments(agent, layer.incoming.bias):
            assert torch.equal(moment, alive[name].float()), name
        for consumer in layer.consumers:
            for moment in moments(agent, consumer.weight):
                dead = ~alive[name]
                assert (layer.outgoing(consumer, moment)[:, :, dead] == 0).all()


def test_it_acts_every_so_many_updates(make, monkeypatch):
    acted = []
    monkeypatch.setattr(ReDo, "recycle", lambda self, agent: acted.append(agent.gradient_updates))
    agent = make(DQN, [ReDo(every=5)], train_freq=1).learn(40)
    assert acted == list(range(5, agent.gradient_updates + 1, 5))
    assert len(acted) > 3


def test_the_target_network_is_not_recycled(make):
    mitigation = ReDo(threshold=10.0)
    agent = make(DQN, [mitigation])
    agent.learn(40)
    before = [p.clone() for p in agent.q_net_target.parameters()]
    mitigation.recycle(agent)
    assert mitigation.values()["redo_dormant"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, agent.q_net_target.parameters(), strict=True))


@ALL
def test_units_that_are_renewed_together_say_nothing_to_one_another(algorithm, make):
    """A renewed unit's incoming weights are new but for those from other renewed ones, which are zero."""
    mitigation = ReDo(threshold=100.0)
    agent = make(algorithm, [mitigation])
    agent.learn(48)
    mitigation.recycle(agent)
    assert mitigation.values()["redo_dormant"] == 1
    for layer in trace(agent).layers.values():
        assert all((layer.outgoing(consumer) == 0).all() for consumer in layer.consumers)


def test_only_the_chosen_layers_are_recycled(make):
    mitigation = ReDo(threshold=10.0, layers=["critic/*"])
    agent = make(PPO, [mitigation])
    agent.learn(32)
    before = [p.clone() for p in agent.networks()["actor"].values()]
    mitigation.recycle(agent)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.networks()["actor"].values(), strict=True))
    assert mitigation.values()["redo_recycled"] == 16


def test_what_cannot_be_is_refused(make):
    with pytest.raises(InvalidSetting, match="threshold of at least 0"):
        ReDo(threshold=-0.1)
    with pytest.raises(InvalidSetting, match="every must be a positive integer"):
        ReDo(every=0)
    with pytest.raises(InvalidSetting, match=r"'q/9', but the layers it can act on are: q/0, q/1"):
        make(DQN, [ReDo(layers=["q/9"])])
    with pytest.raises(InvalidSetting, match="the networks are linear"):
        make(DQN, [ReDo()], policy_kwargs={"net_arch": []})
    with pytest.raises(InvalidSetting, match="ReDo cannot work with PlasticityInjection: renewing units"):
        make(DQN, [ReDo(), PlasticityInjection()])
