"""Penalties: all of them are descended, and those on features share the forward pass of the loss."""

import copy

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from pliant.agents import (
    AGENTS,
    L2,
    PPO,
    InvalidSetting,
    L2Init,
    Mitigation,
    MixtureOfExperts,
    PlasticityInjection,
)

PLAIN = {"net_arch": [5, 4], "optimizer_class": torch.optim.SGD}
"""Plain gradient descent: Adam's first steps would magnify what differs in the last digits."""

BOX = spaces.Box(-1, 1, (2,))


def parameters(agent):
    return [p.detach().clone() for network in agent.networks().values() for p in network.values()]


class FeatureNorm(Mitigation):
    """The mean square of all features, and how many forward passes there were before each penalty."""

    def __init__(self, own_pass=False):
        self.own_pass, self.passes, self.counts = own_pass, 0, []

    def attach(self, agent):
        def count(*_):
            self.passes += 1

        next(iter(agent.hidden_layers().values())).register_forward_hook(count)

    def before_update(self, agent, update):
        self.passes = 0

    def penalty(self, agent, observations):
        given = observations.clone() if self.own_pass else observations
        squares = [layer.square().mean() for layer in agent.features(given).values()]
        self.counts.append(self.passes)
        return torch.stack(squares).sum()


@pytest.mark.parametrize("others", [[], [MixtureOfExperts(3, active=1)]])
@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_a_penalty_on_features_shares_the_forward_pass_of_the_loss(algorithm, others, make):
    def trained(own_pass):
        mitigation = FeatureNorm(own_pass)
        agent = make(algorithm, [*copy.deepcopy(others), mitigation], policy_kwargs=PLAIN)
        agent.learn(64)
        return agent, mitigation

    (shared, once), (separate, twice) = trained(False), trained(True)
    assert set(once.counts) == {1}
    assert set(twice.counts) == {2}
    for one, other in zip(parameters(shared), parameters(separate), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["mlp", "cnn"])
@pytest.mark.parametrize(
    ("more", "others"),
    [
        ({}, []),
        ({}, [PlasticityInjection()]),
        ({}, [MixtureOfExperts(2, 1)]),
        ({"policy_kwargs": {"share_features_extractor": False}}, []),
        ({"actions": BOX, "use_sde": True}, []),
    ],
    ids=["plain", "injected", "mixture", "separate", "gsde"],
)
def test_shared_features_are_those_of_a_forward_pass_of_their_own(policy, more, others, make):
    class Both(Mitigation):
        def penalty(self, agent, observations):
            shared, own = agent.features(observations), agent.features(observations.clone())
            assert shared.keys() == own.keys()
            assert all(torch.equal(shared[name], own[name]) for name in own)
            self.compared = True

    both = Both()
    agent = make(PPO, [both, *copy.deepcopy(others)], policy=policy, **more)
    agent.start_task(0)
    agent.learn(32)
    agent.start_task(1)
    agent.learn(32, reset_num_timesteps=False)
    assert both.compared


def test_features_of_other_observations_are_their_own_while_penalties_are_computed(make):
    class Other(Mitigation):
        def penalty(self, agent, observations):
            self.minibatch = agent.features(observations)["actor/0"].detach()
            self.zeros = agent.features(torch.zeros_like(observations))["actor/0"].detach()
            self.again = agent.features(observations)["actor/0"].detach()

    seen = Other()
    make(PPO, [seen]).learn(32)
    assert torch.equal(seen.minibatch, seen.again)
    assert not torch.equal(seen.minibatch, seen.zeros)
    assert (seen.zeros == seen.zeros[0]).all()


def test_features_of_other_parameters_are_their_own_while_penalties_are_computed(make):
    class Distilled(Mitigation):
        """Pulls the features to those that parameters of zero, or a fresh twin, have."""

        def penalty(self, agent, observations):
            (weight, *_) = agent.networks()["actor"].values()
            now, kept = agent.features(observations)["actor/0"], weight.data
            with torch.no_grad():
                weight.data = torch.zeros_like(kept)
                self.zero = agent.features(observations)["actor/0"]
                weight.data = kept
            self.fresh = agent.fresh().features(observations)["actor/0"]
            self.now = now.detach()
            return (now - self.zero).square().mean()

    seen = Distilled()
    make(PPO, [seen]).learn(32)
    assert (seen.zero == seen.zero[0]).all()
    assert not torch.equal(seen.now, seen.zero)
    assert not torch.equal(seen.now, seen.fresh)


class Pull(Mitigation):
    """``strength`` times the sum of one network's parameters."""

    def __init__(self, network, strength=1.0):
        self.network, self.strength = network, strength

    def penalty(self, agent, observations):
        return self.strength * sum(p.sum() for p in agent.networks()[self.network].values())


def test_two_of_a_kind_are_both_descended(make):
    pulls = [Pull("actor", 1e3), Pull("critic", 1e3)]
    agent = make(PPO, pulls, policy_kwargs=PLAIN, learning_rate=1e-2, max_grad_norm=1e9)
    before = {name: [p.detach().clone() for p in n.values()] for name, n in agent.networks().items()}
    agent.learn(32)
    for name, network in agent.networks().items():
        moved = [old - new for old, new in zip(before[name], network.values(), strict=True)]
        assert all((one > 1).all() for one in moved), name


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda features: features.mean().item(), "not a float"),
        (lambda features: features.mean(dim=1), r"not a tensor of the shape \(8,\)"),
        (lambda features: features.mean().detach(), "not one without a gradient"),
    ],
)
@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_a_penalty_that_cannot_be_descended_is_refused_with_its_name(algorithm, wrong, what, make):
    class Wrong(Mitigation):
        def penalty(self, agent, observations):
            return wrong(next(iter(agent.features(observations).values())))

    agent = make(algorithm, [Wrong()], batch_size=8)
    with pytest.raises(
        InvalidSetting, match=rf"the penalty of Wrong must be a differentiable scalar.*{what}"
    ):
        agent.learn(40)


def test_a_penalty_set_on_the_object_is_descended_too(make):
    class Variants(Mitigation):
        def __init__(self):
            self.calls, self.penalty = 0, self._one

        def _one(self, agent, observations):
            self.calls += 1

    one = Variants()
    make(PPO, [one]).learn(32)
    assert one.calls > 0
    assert not L2(1e-3).overrides("penalty")
    assert L2Init().overrides("penalty")


def test_penalties_that_need_no_features_do_with_networks_that_cannot_say_theirs(make):
    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space):
            super().__init__(space, features_dim=4)
            self.body = nn.Sequential(nn.Linear(space.shape[0], 4), nn.ReLU())
            self.decoder = nn.Sequential(nn.Linear(4, 3), nn.ReLU())  # for another loss
            self.attention = nn.MultiheadAttention(4, 1)  # is in torch's module of activations

        def forward(self, observations):
            hidden = self.body(observations)
            return self.attention(hidden, hidden, hidden)[0]

    agent = make(PPO, [L2Init()], policy_kwargs={"features_extractor_class": Extractor})
    before = parameters(agent)
    agent.learn(32)
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters(agent), strict=True))
