"""SPHERE's penalty: zero exactly for features that fill all directions alike."""

import math

import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from pliant.agents import DQN, PPO, Classifier, EffectiveRank, InvalidSetting, Isotropy, MixtureOfExperts
from pliant.agents.mitigations.isotropy import gradient_norm, isotropy_penalty

BOX = spaces.Box(-1, 1, (2,))


def test_it_is_zero_for_isotropic_features_and_positive_for_others():
    features = torch.cat([torch.eye(3), -torch.eye(3)]).double() * 5
    assert isotropy_penalty(features).item() == pytest.approx(0, abs=1e-10)
    features[0] *= 2
    assert isotropy_penalty(features).item() > 1


def test_it_is_the_distance_of_the_second_moment_from_a_multiple_of_the_identity():
    generator = torch.Generator().manual_seed(0)
    for shape in [(7, 3), (3, 7)]:
        features = torch.randn(shape, generator=generator, dtype=torch.float64)
        moment = features.T @ features / shape[0]
        rest = moment - moment.trace() / shape[1] * torch.eye(shape[1], dtype=torch.float64)
        torch.testing.assert_close(isotropy_penalty(features), rest.square().sum())


def test_one_direction_gives_the_known_value():
    features = torch.zeros(4, 5, dtype=torch.float64)
    features[:, 0] = 2.0  # A = diag(4, 0, 0, 0, 0)
    assert isotropy_penalty(features).item() == pytest.approx(16 - 16 / 5)


def test_the_gradient_is_that_of_the_formula():
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features.requires_grad_()
    moment = (features.T @ features / 6).detach()
    (gradient,) = torch.autograd.grad(isotropy_penalty(features), features)
    rest = moment - moment.trace() / 3 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(gradient, 4 / 6 * features.detach() @ rest)


@pytest.mark.parametrize("policy", ["mlp", "cnn"])
@pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
def test_a_fixed_strength_applies_to_the_last_layer_of_each_network(algorithm, policy, make, observe):
    mitigation = Isotropy(strength=0.3)
    agent = make(algorithm, [mitigation], policy=policy)
    features = agent.features(observe(policy))
    last = {name.split("/")[0]: f for name, f in features.items()}
    expected = sum(isotropy_penalty(f) for f in last.values())
    torch.testing.assert_close(mitigation.penalty(agent, observe(policy)), 0.3 * expected)
    assert mitigation.values() == pytest.approx({"anisotropy": expected.item()}, rel=1e-5)


def test_the_adapted_penalty_is_the_stated_share_of_each_networks_loss(make, observe):
    mitigation = Isotropy(ratio=0.05)
    agent = make(PPO, [mitigation], ent_coef=0.3, vf_coef=0.7)
    agent.learn(32)
    batch = agent.prepare(next(agent.rollout_buffer.get(8)))
    loss, penalties = agent._loss_and_penalties(batch, agent._taps())
    penalty = penalties["the penalty of Isotropy"]
    actor = (loss.parts["policy_loss"] + 0.3 * loss.parts["entropy_loss"]).abs()
    critic = (0.7 * loss.parts["value_loss"]).abs()
    torch.testing.assert_close(penalty, (0.05 * (actor + critic)).detach(), rtol=1e-4, atol=1e-7)
    assert agent.present_loss is None


def test_the_adapted_coefficient_is_not_differentiated(make):
    mitigation = Isotropy(ratio=0.05)
    agent = make(DQN, [mitigation])
    agent.learn(40)
    batch = agent.prepare(agent.replay_buffer.sample(16))
    loss, penalties = agent._loss_and_penalties(batch, agent._taps())
    weights = [agent.q_net.q_net[0].weight, agent.q_net.q_net[2].weight]
    penalty = penalties["the penalty of Isotropy"]
    plain = isotropy_penalty(agent.features(batch.observations)["q/1"])
    coefficient = 0.05 * loss.total.abs().item() / plain.item()
    wanted = torch.autograd.grad(plain, weights)
    for gradient, slope in zip(torch.autograd.grad(penalty, weights), wanted, strict=True):
        torch.testing.assert_close(gradient, coefficient * slope, rtol=1e-4, atol=1e-8)


def norm(gradients):
    return torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt().item()


@pytest.mark.parametrize("mixture", [[], [MixtureOfExperts(3)]])
def test_relative_to_the_gradient_that_of_the_penalty_is_the_stated_share_of_the_losss(mixture, make):
    mitigation = Isotropy(
        ratio=0.5, relative_to="gradient", layers=["actor/*1" if not mixture else "*/mixture"]
    )
    agent = make(PPO, [*mixture, mitigation], actions=BOX, ent_coef=0.1)
    agent.learn(32)
    batch = agent.prepare(next(agent.rollout_buffer.get(8)))
    loss, penalties = agent._loss_and_penalties(batch, agent._taps())
    moved = list(agent.objectives()["actor"].parameters.values())
    assert agent.policy.log_std in set(moved)
    actor = loss.parts["policy_loss"] + 0.1 * loss.parts["entropy_loss"]
    wanted = 0.5 * norm(torch.autograd.grad(actor, moved, retain_graph=True))
    penalty = penalties["the penalty of Isotropy"]
    (name,) = mitigation._chosen
    plain = isotropy_penalty(agent.features(batch.observations)[name])
    direction = torch.autograd.grad(plain, moved, allow_unused=True)
    found = torch.autograd.grad(penalty, moved, retain_graph=True, allow_unused=True)
    # The norms have 1e-8 under their roots, as the authors' have.
    assert norm(found) == pytest.approx(
        wanted * norm(direction) / math.hypot(norm(direction), 1e-4), rel=1e-3
    )
    for gradient, slope in zip(found, direction, strict=True):
        if gradient is not None:
            torch.testing.assert_close(gradient / norm(found), slope / norm(direction))
    (loss.total + penalty).backward()  # the graph is still there


def test_a_gradient_norm_has_the_authors_small_number_under_its_root():
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    y = torch.zeros(1, requires_grad=True)
    assert gradient_norm(x.square().sum() / 2, [x, y]).item() == pytest.approx(5)
    assert gradient_norm(0 * x.sum(), [x]).item() == pytest.approx(1e-4)


@pytest.mark.parametrize("policy", ["mlp", "cnn"])
@pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
def test_every_agent_trains_relative_to_the_gradient(algorithm, policy, make, parameters):
    mitigation = Isotropy(ratio=0.001, relative_to="gradient")
    agent = make(algorithm, [mitigation], policy).learn(64)
    assert all(p.isfinite().all() for p in parameters(agent).values())
    assert mitigation.values()["anisotropy"] > 0
    with pytest.raises(InvalidSetting, match=r"relative_to is 'norm'\. Known: loss, gradient"):
        Isotropy(relative_to="norm")


def test_layers_can_be_chosen(make, observe):
    mitigation = Isotropy(strength=1.0, layers=["actor/0", "critic/*"])
    agent = make(PPO, [mitigation])
    features = agent.features(observe())
    expected = sum(isotropy_penalty(features[name]) for name in ("actor/0", "critic/0", "critic/1"))
    torch.testing.assert_close(mitigation.penalty(agent, observe()), expected)
    with pytest.raises(InvalidSetting, match="'q/0', but the layers it can act on are: actor/0, actor/1"):
        make(PPO, [Isotropy(layers=["q/0"])])


def test_layers_that_nothing_trains_are_not_its_own(make, observe):
    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space):
            super().__init__(space, features_dim=space.shape[0])
            self.squash = nn.ReLU()

        def forward(self, observations):
            return self.squash(observations)

    isotropy, ranks = Isotropy(), EffectiveRank()
    agent = make(PPO, [isotropy, ranks], policy_kwargs={"features_extractor_class": Extractor})
    agent.learn(32)
    assert "shared/0" in agent.hidden_layers()
    assert isotropy._chosen == ["actor/1", "critic/1"]
    assert ranks._chosen == ["actor/0", "actor/1", "critic/0", "critic/1"]


def test_beside_a_mixture_of_experts_it_acts_on_the_mixture_alone(make, observe):
    mitigation = Isotropy(strength=1.0)
    agent = make(PPO, [MixtureOfExperts(3), mitigation])
    expected = isotropy_penalty(agent.features(observe())["actor/mixture"])
    torch.testing.assert_close(mitigation.penalty(agent, observe()), expected)


def test_training_spreads_the_features(make, observe):
    def anisotropy(strength):
        agent = make(DQN, [Isotropy(strength=strength)], learning_rate=1e-3).learn(600)
        features = agent.features(observe(count=200))["q/1"]
        return (isotropy_penalty(features) / (features.square().sum() / 200) ** 2).item()

    assert anisotropy(5.0) < 0.8 * anisotropy(0.0)
