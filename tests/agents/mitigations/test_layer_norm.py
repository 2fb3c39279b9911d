"""Layer normalisation: before every activation, in every network, known to the optimiser."""

import pytest
import torch
from torch import nn

from pliant.agents import DQN, L2, PPO, Classifier, InvalidSetting, LayerNorm, NormalizeAndProject
from pliant.agents.wiring import trace

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOTH = pytest.mark.parametrize("policy", ["mlp", "cnn"])


@BOTH
@ALL
def test_what_enters_each_activation_has_mean_zero_and_variance_one(algorithm, policy, make, observe):
    agent = make(algorithm, [LayerNorm()], policy=policy)
    seen = {}
    for name, activation in agent.hidden_layers().items():
        activation.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    agent.features(observe(policy))
    assert seen.keys() == agent.hidden_layers().keys()
    for name, entering in seen.items():
        flat = entering.flatten(1)
        torch.testing.assert_close(flat.mean(1), torch.zeros(len(flat)), atol=1e-5, rtol=0)
        torch.testing.assert_close(flat.var(1, correction=0), torch.ones(len(flat)), atol=1e-2, rtol=0), name


@BOTH
@ALL
def test_scaling_a_hidden_layer_changes_nothing(algorithm, policy, make, observe, outputs):
    agent = make(algorithm, [LayerNorm()], policy=policy)
    before = outputs(agent, observe(policy))
    with torch.no_grad():
        for layer in trace(agent).hidden.values():
            layer.weight *= 7
            layer.bias *= 7
    torch.testing.assert_close(outputs(agent, observe(policy)), before, atol=1e-3, rtol=1e-3)


@ALL
def test_the_layers_keep_their_names_and_sizes(algorithm, make, observe):
    plain, normalised = make(algorithm), make(algorithm, [LayerNorm()])
    shapes = [{n: f.shape for n, f in a.features(observe()).items()} for a in (plain, normalised)]
    assert shapes[0] == shapes[1]


@ALL
def test_scale_and_shift_are_trained(algorithm, make, parameters):
    agent = make(algorithm, [LayerNorm()], learning_rate=1e-2)
    before = parameters(agent)
    norms = {n for n, m in agent.policy.named_modules() if isinstance(m, nn.LayerNorm) and "target" not in n}
    owned = {f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")}
    assert owned <= before.keys()
    assert len(owned) == 2 * len(agent.hidden_layers())
    agent.learn(64)
    assert all((parameters(agent)[name] != before[name]).any() for name in owned)


@ALL
def test_without_affine_nothing_is_added_to_train(algorithm, make, parameters):
    plain, normalised = make(algorithm), make(algorithm, [LayerNorm(affine=False)])
    counts = [sum(p.numel() for p in parameters(a).values()) for a in (plain, normalised)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("initialisation", ["sb3", "lecun-uniform"])
@ALL
def test_the_weights_are_drawn_as_without_it(algorithm, initialisation, make, parameters):
    plain = parameters(make(algorithm, initialisation=initialisation))
    normalised = parameters(make(algorithm, [LayerNorm()], initialisation=initialisation))
    assert plain.keys() == {n for n in normalised if ".0.weight" not in n or n in plain} & plain.keys()
    assert all(torch.equal(p, normalised[name]) for name, p in plain.items())


def test_dqns_target_network_is_normalised_alike(make, observe):
    agent = make(DQN, [LayerNorm()], learning_rate=1e-2, target_update_interval=10**6).learn(40)
    online, target = agent.q_net, agent.q_net_target
    assert online.state_dict().keys() == target.state_dict().keys()
    assert not torch.equal(online(observe()), target(observe()))
    agent.follow()
    assert torch.equal(online(observe()), target(observe()))
    assert agent.policy.q_net_target is target


@ALL
def test_l2_decays_the_normalisations_too(algorithm, make):
    agent = make(algorithm, [LayerNorm(), L2(0.1)])
    (group,) = agent.policy.optimizer.param_groups
    assert group["weight_decay"] == 0.1
    scales = [m.weight for m in agent.policy.modules() if isinstance(m, nn.LayerNorm)]
    decayed = {id(p) for p in group["params"]}
    assert sum(id(scale) in decayed for scale in scales) == len(agent.hidden_layers())


def test_two_normalisations_are_refused(make):
    with pytest.raises(InvalidSetting, match="LayerNorm cannot work with NormalizeAndProject: it brings a"):
        make(PPO, [LayerNorm(), NormalizeAndProject()])
