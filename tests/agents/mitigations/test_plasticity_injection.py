"""Plasticity injection: not a bit of the outputs changes, and the head is new."""

import pytest
import torch
from torch import nn

from pliant.agents import (
    DQN,
    PPO,
    Classifier,
    EffectiveRank,
    InvalidSetting,
    LayerNorm,
    LayerReset,
    PlasticityInjection,
)
from pliant.agents.mitigations.plasticity_injection import Injected

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOTH = pytest.mark.parametrize("policy", ["mlp", "cnn"])


def heads(agent):
    return [m for m in agent.policy.modules() if isinstance(m, Injected)]


def linear(weight):
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weight]))
    return layer


def test_an_injected_head_says_what_the_formula_says():
    head = Injected(linear([1.0, 2.0]), times=2)
    x = torch.tensor([[3.0, 4.0]])
    assert head(x).item() == 11
    head.inject(linear([5.0, 6.0]))
    assert head(x).item() == 11
    with torch.no_grad():
        head.learner.weight += 1.0  # learns: h - a is now x_1 + x_2
    assert head(x).item() == 11 + 7
    head.inject(linear([0.5, 0.5]))
    assert head(x).item() == 18
    with torch.no_grad():
        head.learner.weight[0, 0] += 2.0
    assert head(x).item() == 18 + 6


@BOTH
@ALL
def test_before_an_injection_the_network_is_the_plain_one(algorithm, policy, make, observe, outputs):
    plain = make(algorithm, [], policy).learn(64)
    injected = make(algorithm, [PlasticityInjection()], policy).learn(64)
    # Close, not equal: the order of the parameters in the gradient's norm is another one.
    torch.testing.assert_close(outputs(plain, observe(policy)), outputs(injected, observe(policy)))


@BOTH
@ALL
def test_an_injection_changes_no_output_and_every_parameter_of_the_heads(
    algorithm, policy, make, observe, outputs, parameters
):
    agent = make(algorithm, [PlasticityInjection([1, 2])], policy, learning_rate=1e-2)
    for task in (1, 2):
        agent.learn(64)
        said, before = outputs(agent, observe(policy)), parameters(agent)
        agent.start_task(task)
        assert torch.equal(outputs(agent, observe(policy)), said)
        moved = {name for name, p in parameters(agent).items() if not torch.equal(p, before[name])}
        assert moved == {name for name in before if ".learner." in name}
        assert agent.mitigations[0].values() == {"injections": task}
    agent.start_task(3)
    assert agent.mitigations[0].values() == {"injections": 2}
    agent.learn(64)
    assert not torch.equal(outputs(agent, observe(policy)), said)


@ALL
def test_the_head_begins_as_a_fresh_draw(algorithm, make, parameters):
    agent = make(algorithm, [PlasticityInjection()])
    agent.learn(40)
    torch.manual_seed(3)
    fresh = parameters(agent.fresh())
    torch.manual_seed(3)
    agent.start_task(1)
    after = parameters(agent)
    assert all(torch.equal(after[name], fresh[name]) for name in after if ".learner." in name)


@ALL
def test_what_is_frozen_is_not_trained_and_the_rest_is(algorithm, make, parameters):
    agent = make(algorithm, [PlasticityInjection()], learning_rate=1e-2)
    agent.learn(40)
    agent.start_task(1)
    frozen = [
        {k: v.clone() for k, v in head.state_dict().items() if "learner" not in k} for head in heads(agent)
    ]
    trained = parameters(agent)
    agent.learn(64)
    for head, before in zip(heads(agent), frozen, strict=True):
        assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items() if "learner" not in k)
    assert all(not torch.equal(p, trained[name]) for name, p in parameters(agent).items())


@ALL
def test_as_many_parameters_are_trained_as_without(algorithm, make, parameters):
    plain, injected = make(algorithm), make(algorithm, [PlasticityInjection([1, 2, 3])])
    counts = [sum(p.numel() for p in parameters(agent).values()) for agent in (plain, injected)]
    assert counts[0] == counts[1]


@ALL
def test_hidden_layers_are_those_that_learn(algorithm, make, observe):
    plain, injected = make(algorithm), make(algorithm, [PlasticityInjection()])
    injected.learn(40)
    injected.start_task(1)
    shapes = [{n: f.shape for n, f in a.features(observe()).items()} for a in (plain, injected)]
    assert shapes[0] == shapes[1]


@ALL
def test_the_optimiser_forgets_the_heads_only(algorithm, make):
    agent = make(algorithm, [PlasticityInjection()])
    agent.learn(40)
    agent.start_task(1)
    state = agent.policy.optimizer.state
    for name, p in agent.policy.named_parameters():
        if "target" not in name and p in state:
            assert bool(state[p]) == (".learner." not in name), name


def test_dqns_target_holds_the_same_frozen_parts(make, observe):
    agent = make(DQN, [PlasticityInjection()], target_update_interval=10**6, learning_rate=1e-2)
    agent.learn(64)
    assert not torch.equal(agent.q_net(observe()), agent.q_net_target(observe()))
    agent.start_task(1)
    assert torch.equal(agent.q_net(observe()), agent.q_net_target(observe()))
    assert [head.count for head in heads(agent)] == [1, 1]  # online and target


@ALL
def test_a_saved_agent_says_the_same_after_an_injection(algorithm, make, observe, outputs, tmp_path):
    agent = make(algorithm, [PlasticityInjection([1, 2])])
    agent.learn(40)
    agent.start_task(1)
    agent.learn(40)
    agent.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent")
    assert torch.equal(outputs(agent, observe()), outputs(loaded, observe()))
    assert loaded.mitigations[0].values() == {"injections": 1}


@ALL
def test_it_works_beside_layer_norm_and_effective_rank(algorithm, make, observe, outputs):
    agent = make(algorithm, [PlasticityInjection(), LayerNorm(), EffectiveRank(1e-3)])
    agent.learn(64)
    said = outputs(agent, observe())
    agent.start_task(1)
    assert torch.equal(outputs(agent, observe()), said)
    agent.learn(64)


def test_a_task_that_begins_more_often_than_it_is_named_is_refused(make):
    agent = make(PPO, [PlasticityInjection([1, 1])])
    agent.start_task(1)
    agent.start_task(1)
    with pytest.raises(InvalidSetting, match=r"tasks \[1, 1\] leave room for as many injections"):
        agent.start_task(1)


def test_networks_without_a_hidden_layer_of_their_own_are_refused(make):
    for policy in ("mlp", "cnn"):
        with pytest.raises(InvalidSetting, match="at least one hidden layer after its features extractor"):
            make(PPO, [PlasticityInjection()], policy=policy, policy_kwargs={"net_arch": []})


def test_what_cannot_work_beside_it_is_refused(make):
    with pytest.raises(InvalidSetting, match="LayerReset cannot work with PlasticityInjection: what it has"):
        make(PPO, [PlasticityInjection(), LayerReset()])
    with pytest.raises(InvalidSetting, match="new_head = 'keep'"):
        make(Classifier, [PlasticityInjection()], new_head="zero")


@pytest.mark.parametrize("tasks", [[], [-1], ["two"]])
def test_impossible_tasks_are_refused(tasks):
    with pytest.raises(InvalidSetting, match="must be numbers of tasks"):
        PlasticityInjection(tasks)
