"""ER: its objective by the definition, steps of the stated length, when they are taken and on what."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from pliant.agents import AGENTS, DQN, L2, PPO, Classifier, EffectiveRank, InvalidSetting, effective_rank
from pliant.agents.mitigations.effective_rank import _thinned

PICTURE = spaces.Box(0, 10, (5, 5, 2), np.uint8)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
BOX = spaces.Box(-1, 1, (2,), np.float32)
CNN = {
    "features_extractor_class": "small-cnn",
    "features_extractor_kwargs": {"features_dim": 8},
    "net_arch": [8],
}
MLP = {"net_arch": [8, 8], "activation_fn": "relu"}
POLICIES = {"mlp": (VECTOR, MLP), "cnn": (PICTURE, CNN)}
SMALL = {
    PPO: {"n_steps": 32, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
    Classifier: {"batch_size": 8, "updates_per_rollout": 4},
}


def build(algorithm, env, mitigations=(), **kwargs):
    return algorithm(
        "MlpPolicy", env, mitigations=mitigations, seed=0, device="cpu", **{**SMALL[algorithm], **kwargs}
    )


def parameters(agent):
    return [p.detach().clone() for network in agent.networks().values() for p in network.values()]


def distance(a, b):
    return math.sqrt(sum((x - y).square().sum().item() for x, y in zip(a, b, strict=True)))


def objective(agent, observations):
    """Mean over each network's layers, summed over networks, by the definition."""
    ranks = {}
    for layer, features in agent.features(observations).items():
        ranks.setdefault(layer.split("/")[0], []).append(effective_rank(features))
    return sum(torch.stack(layers).mean() for layers in ranks.values())


def rank_agent(toy, mitigation, **kwargs):
    policy_kwargs = {"net_arch": {"pi": [6, 7], "vf": [8]}, "activation_fn": "relu"}
    agent = build(PPO, toy(), [mitigation], policy_kwargs=policy_kwargs, **kwargs)
    return agent, torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def test_the_objective_is_the_sum_over_networks_of_the_mean_over_layers(toy):
    mitigation = EffectiveRank()
    agent, observations = rank_agent(toy, mitigation)
    expected = objective(agent, observations)
    torch.testing.assert_close(mitigation.objective(agent, observations), expected)
    assert mitigation.values() == pytest.approx({"er_loss": -expected.item()})
    resumed = EffectiveRank()
    resumed.load_state(mitigation.state())
    assert resumed.values() == mitigation.values()


def test_a_relative_step_has_the_stated_length_in_each_network_and_the_gradients_direction(toy):
    mitigation = EffectiveRank(0.01)
    agent, observations = rank_agent(toy, mitigation)
    networks = agent.networks()
    before = {name: [p.detach().clone() for p in n.values()] for name, n in networks.items()}
    gradient = torch.autograd.grad(
        objective(agent, observations), [p for n in networks.values() for p in n.values()], allow_unused=True
    )
    mitigation.ascend(agent, observations)
    gradients = iter(gradient)
    for name, network in networks.items():
        moves = [new.detach() - old for new, old in zip(network.values(), before[name], strict=True)]
        slopes = [next(gradients) for _ in moves]
        length = math.sqrt(sum(m.square().sum().item() for m in moves))
        norm = math.sqrt(sum(old.square().sum().item() for old in before[name]))
        assert length == pytest.approx(0.01 * norm, rel=1e-3)
        inner = sum((m * s).sum().item() for m, s in zip(moves, slopes, strict=True) if s is not None)
        size = math.sqrt(sum(s.square().sum().item() for s in slopes if s is not None))
        assert inner == pytest.approx(length * size, rel=1e-3)


def test_a_raw_step_is_the_gradient_times_the_step(toy):
    mitigation = EffectiveRank(1e-3, mode="raw")
    agent, observations = rank_agent(toy, mitigation)
    trained = [p for n in agent.networks().values() for p in n.values()]
    gradients = torch.autograd.grad(objective(agent, observations), trained, allow_unused=True)
    expected = [p.detach() + 1e-3 * (0 if g is None else g) for p, g in zip(trained, gradients, strict=True)]
    mitigation.ascend(agent, observations)
    for new, wanted in zip(trained, expected, strict=True):
        torch.testing.assert_close(new.detach(), wanted)


def test_a_penalty_is_minus_the_step_times_the_objective(toy):
    mitigation = EffectiveRank(0.3, mode="penalty")
    agent, observations = rank_agent(toy, mitigation)
    penalty = mitigation.penalty(agent, observations)
    torch.testing.assert_close(penalty, -0.3 * objective(agent, observations))
    assert penalty.requires_grad
    assert EffectiveRank().penalty(agent, observations) is None


@pytest.mark.parametrize("mode", ["relative", "raw", "penalty"])
@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_every_mode_raises_the_effective_rank(mode, algorithm, toy):
    step = {"relative": 0.01, "raw": 0.01, "penalty": 10.0}[mode]

    def rank_after(step):
        mitigation = EffectiveRank(step, mode)
        agent = build(
            algorithm, toy(), [mitigation], policy_kwargs={"net_arch": [16, 16], "activation_fn": "relu"}
        )
        agent.learn(256)
        observations = torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return objective(agent, observations).item()

    assert rank_after(step) > rank_after(0.0)


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_a_step_of_zero_is_stable_baselines3(algorithm, toy):
    ours = build(algorithm, toy(), [EffectiveRank(0.0), L2(0.0)]).learn(64)
    plain = build(algorithm, toy()).learn(64)
    assert all(torch.equal(a, b) for a, b in zip(parameters(ours), parameters(plain), strict=True))


def test_dead_networks_are_left_alone(toy):
    mitigation = EffectiveRank(0.5)
    agent, observations = rank_agent(toy, mitigation)
    with torch.no_grad():
        for p in agent.networks()["actor"].values():
            p.zero_()
        for p in agent.networks()["critic"].values():
            p.fill_(-1.0)
    before = parameters(agent)
    mitigation.ascend(agent, observations.abs())
    assert distance(before, parameters(agent)) == 0


def test_features_that_overflow_move_nothing(toy):
    mitigation = EffectiveRank(0.5, mode="raw")
    agent, observations = rank_agent(toy, mitigation)
    with torch.no_grad():
        agent.policy.mlp_extractor.policy_net[0].weight.fill_(3e38)
    before = parameters(agent)
    mitigation.ascend(agent, observations)
    actor = len(agent.networks()["actor"])
    assert distance(before[:actor], parameters(agent)[:actor]) == 0


def test_only_the_selected_layers_count(toy):
    mitigation = EffectiveRank(0.1, layers=["critic/*", "actor/1"])
    agent, observations = rank_agent(toy, mitigation)
    features = agent.features(observations)
    expected = effective_rank(features["actor/1"]) + effective_rank(features["critic/0"])
    torch.testing.assert_close(mitigation.objective(agent, observations), expected)
    critic_only = EffectiveRank(0.1, layers=["critic/0"])
    critic_only.attach(agent)
    before = [p.clone() for p in agent.networks()["actor"].values()]
    critic_only.ascend(agent, observations)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.networks()["actor"].values(), strict=True))


def steps_taken(monkeypatch, toy, mitigation, algorithm=PPO, steps=64, **kwargs):
    """(update number, number of observations) of each ER step."""
    taken = []
    monkeypatch.setattr(
        EffectiveRank, "ascend", lambda self, agent, seen: taken.append((agent.gradient_updates, len(seen)))
    )
    build(algorithm, toy(), [mitigation], **kwargs).learn(steps)
    return taken


@pytest.mark.parametrize(
    ("steps_per_epoch", "positions"),
    [(None, [0]), (1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (6, [0, 0, 1, 2, 2, 3])],
)
def test_steps_spread_evenly_over_each_epoch_and_see_the_whole_rollout(
    steps_per_epoch, positions, monkeypatch, toy
):
    taken = steps_taken(monkeypatch, toy, EffectiveRank(steps_per_epoch=steps_per_epoch))
    epochs = 2 * 2  # rollouts of 32 in minibatches of 8
    assert taken == [(4 * epoch + position, 32) for epoch in range(epochs) for position in positions]


def test_ppo_can_step_every_few_updates_over_the_minibatch_instead(monkeypatch, toy):
    taken = steps_taken(monkeypatch, toy, EffectiveRank(every=3))
    assert taken == [(count, 8) for count in range(0, 16, 3)]


@pytest.mark.parametrize(("every", "expected"), [(None, 10), (4, 4)])
def test_dqn_steps_every_few_updates_over_the_minibatch(every, expected, monkeypatch, toy):
    taken = steps_taken(
        monkeypatch, toy, EffectiveRank(every=every), DQN, steps=100, batch_size=16, train_freq=1
    )
    assert taken == [(count, 16) for count in range(0, 90, expected)]


def test_fewer_samples_are_evenly_spaced(toy):
    mitigation = EffectiveRank(samples=10)
    agent, observations = rank_agent(toy, mitigation)
    torch.testing.assert_close(mitigation.objective(agent, observations), objective(agent, observations[::4]))
    few = EffectiveRank(samples=100)
    few.attach(agent)
    torch.testing.assert_close(few.objective(agent, observations), objective(agent, observations))


def test_the_rollout_that_a_step_sees_is_the_one_being_learned_from(toy, monkeypatch):
    stored, seen = [], []
    compute = RolloutBuffer.compute_returns_and_advantage
    monkeypatch.setattr(
        RolloutBuffer,
        "compute_returns_and_advantage",
        lambda self, *args, **kwargs: (
            stored.append(self.observations.copy()),
            compute(self, *args, **kwargs),
        ),
    )
    monkeypatch.setattr(
        EffectiveRank, "ascend", lambda self, agent, observations: seen.append(observations.clone())
    )
    build(PPO, toy(copies=2), [EffectiveRank()]).learn(64)
    flat = stored[0].swapaxes(0, 1).reshape(64, 3)
    np.testing.assert_array_equal(seen[0].numpy(), flat)


def test_conv_layers_of_a_shared_extractor_form_a_network_of_their_own(toy):
    mitigation = EffectiveRank(0.01)
    agent = build(PPO, toy(PICTURE), [mitigation], policy_kwargs=CNN)
    pictures = torch.randint(0, 11, (20, 5, 5, 2))
    torch.testing.assert_close(mitigation.objective(agent, pictures), objective(agent, pictures))
    before = {name: [p.detach().clone() for p in n.values()] for name, n in agent.networks().items()}
    mitigation.ascend(agent, pictures)
    for name, network in agent.networks().items():
        norm = math.sqrt(sum(p.square().sum().item() for p in before[name]))
        assert distance(before[name], list(network.values())) == pytest.approx(0.01 * norm, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EffectiveRank(-1.0), "step of at least 0, not -1.0"),
        (lambda: EffectiveRank(mode="absolute"), "mode is 'absolute'. Known: relative, raw, penalty"),
        (lambda: EffectiveRank(every=0), "every must be a positive integer, not 0"),
        (lambda: EffectiveRank(steps_per_epoch=1.5), "steps_per_epoch must be a positive integer, not 1.5"),
        (lambda: EffectiveRank(steps_per_epoch=1, every=1), "not both"),
        (lambda: EffectiveRank(mode="penalty", every=2), "every minibatch"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InvalidSetting, match=message):
        make()


def test_unknown_layers_are_refused_with_the_known_ones(toy):
    with pytest.raises(InvalidSetting, match="'q/0', but the layers it can act on are: actor/0, actor/1,"):
        build(PPO, toy(), [EffectiveRank(layers=["q/0"])])
    with pytest.raises(InvalidSetting, match="the networks are linear"):
        build(PPO, toy(), [EffectiveRank()], policy_kwargs={"net_arch": []})


def test_one_sample_has_no_rank_to_raise(toy):
    with pytest.raises(InvalidSetting, match="rank of one sample is always 1"):
        build(PPO, toy(), [EffectiveRank(samples=1)])


def test_all_samples_of_a_minibatch_are_the_minibatch(toy):
    observations = torch.zeros(10, 3)
    assert _thinned(observations, 6) is observations
    assert len(_thinned(observations, 5)) == 5


def test_dqn_has_no_epochs(toy):
    with pytest.raises(InvalidSetting, match="every=N instead of steps_per_epoch"):
        build(DQN, toy(), [EffectiveRank(steps_per_epoch=1)])
