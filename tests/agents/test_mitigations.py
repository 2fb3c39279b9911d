"""The hooks of mitigations, and what L2 and effective rank claim."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from pliant.agents import (
    AGENTS,
    DQN,
    L2,
    PPO,
    Classifier,
    EffectiveRank,
    InvalidSetting,
    Mitigation,
    Update,
    effective_rank,
)

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


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_mitigations_combine(algorithm, toy):
    agent = build(algorithm, toy(), [EffectiveRank(1e-3), L2(1e-3)])
    agent.learn(64)
    assert all(mitigation.values() for mitigation in agent.mitigations)


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_hooks_are_called_in_order_around_every_update(algorithm, toy):
    class Spy(Mitigation):
        def __init__(self):
            self.calls = []

        def build(self, policy_kwargs, agent_name):
            self.calls.append(f"build {agent_name}")
            return {**policy_kwargs, "net_arch": [5]}

        def attach(self, agent):
            self.calls.append("attach")

        def on_task_start(self, agent, task):
            self.calls.append(f"task {task}")

        def before_update(self, agent, update):
            assert update.count == agent.gradient_updates
            self.calls.append("before")
            self.old = parameters(agent)

        def penalty(self, agent, observations):
            assert len(observations) > 0
            self.calls.append("penalty")

        def after_update(self, agent, update):
            assert update.count == agent.gradient_updates - 1
            assert distance(self.old, parameters(agent)) > 0
            self.calls.append("after")

    spy = Spy()
    agent = build(algorithm, toy(), [spy])
    assert agent.policy_kwargs == {}
    assert agent.policy.net_arch == [5]
    agent.start_task(4)
    agent.learn(32)
    assert spy.calls[:3] == [f"build {agent.name}", "attach", "task 4"]
    assert spy.calls[3:] == ["before", "penalty", "after"] * agent.gradient_updates
    assert agent.gradient_updates > 0


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_a_penalty_is_descended_but_is_no_part_of_the_loss(algorithm, toy, memory_logger):
    class Pull(Mitigation):
        def penalty(self, agent, observations):
            return 1e6 * sum(p.sum() for network in agent.networks().values() for p in network.values())

    agent = build(algorithm, toy(), [Pull()])
    agent.set_logger(memory_logger()[0])
    before = parameters(agent)
    agent.learn(40)
    assert all((new < old).all() for new, old in zip(parameters(agent), before, strict=True))
    assert abs(agent.logger.name_to_value["train/loss"]) < 100


class Anchor(Mitigation):
    """Pulls the parameters to a running mean of theirs: a state of numbers and tensors."""

    _mean: torch.Tensor | None = None
    _count = 0

    def attach(self, agent):
        self._mean = torch.cat([p.flatten() for p in parameters(agent)])
        self._count = 0

    def after_update(self, agent, update):
        flat = torch.nn.utils.parameters_to_vector(p for n in agent.networks().values() for p in n.values())
        self._mean.lerp_(flat.detach(), 0.1)
        self._count += 1

    def penalty(self, agent, observations):
        flat = torch.nn.utils.parameters_to_vector(p for n in agent.networks().values() for p in n.values())
        return (flat - self._mean).square().sum()

    def state(self):
        return {"count": self._count}

    def load_state(self, state):
        self._count = state["count"]

    def tensors(self):
        return {"mean": self._mean}

    def load_tensors(self, tensors):
        self._mean = tensors["mean"]


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_what_a_mitigation_has_gathered_is_saved_with_the_agent(algorithm, toy, tmp_path):
    agent = build(algorithm, toy(), [Anchor()])
    agent.learn(48)
    agent.save(tmp_path / "agent")
    (loaded,) = algorithm.load(tmp_path / "agent", env=toy()).mitigations
    assert torch.equal(loaded._mean, agent.mitigations[0]._mean)
    assert loaded._count == agent.mitigations[0]._count > 0
    assert loaded._kept is None


# L2


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_l2_is_the_optimisers_own_weight_decay(fused, decoupled, toy):
    """Equal to SB3 with Adam(weight_decay) or AdamW, other options kept."""
    optimiser = torch.optim.AdamW if decoupled else torch.optim.Adam
    kept = {"eps": 1e-5, "fused": fused}

    def train(mitigations, **optimizer):
        agent = build(PPO, toy(actions=BOX), mitigations, policy_kwargs={"net_arch": [8], **optimizer})
        return parameters(agent.learn(64))

    ours = train([L2(0.1, decoupled)], optimizer_kwargs=kept)
    theirs = train([], optimizer_class=optimiser, optimizer_kwargs={**kept, "weight_decay": 0.1})
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_l2_keeps_sb3s_epsilon(toy):
    (group,) = build(PPO, toy(), [L2(0.1)]).policy.optimizer.param_groups
    assert (group["eps"], group["weight_decay"]) == (1e-5, 0.1)


def descend_nothing(agent, learning_rate):
    """One optimiser step on a gradient of zero."""
    for group in agent.policy.optimizer.param_groups:
        group["lr"] = learning_rate
    for p in agent.policy.parameters():
        p.grad = torch.zeros_like(p)
    agent.policy.optimizer.step()


def test_decoupled_decay_shrinks_weights_by_learning_rate_times_strength(toy):
    agent = build(PPO, toy(), [L2(0.5, decoupled=True)])
    before = parameters(agent)
    descend_nothing(agent, learning_rate=0.1)
    for old, new in zip(before, parameters(agent), strict=True):
        torch.testing.assert_close(new, 0.95 * old)


def test_l2_on_weights_leaves_biases_and_log_std_alone(toy):
    agent = build(PPO, toy(actions=BOX), [L2(0.5, parameters="weights")], initialisation="sb3")
    with torch.no_grad():
        for p in agent.policy.parameters():
            p.fill_(1.0)
    descend_nothing(agent, learning_rate=0.1)
    for name, p in agent.policy.named_parameters():
        assert (p == 1).all() == (not name.endswith("weight")), name


def test_l2_on_weights_can_be_saved_and_loaded(toy, tmp_path):
    agent = build(DQN, toy(), [L2(0.5, parameters="weights")])
    agent.learn(40)
    agent.save(tmp_path / "agent")
    DQN.load(tmp_path / "agent", env=toy()).learn(20)


def test_l2_leaves_dqns_target_network_to_the_online_one(toy):
    agent = build(DQN, toy(), [L2(1.0)], target_update_interval=10_000)
    before = [p.clone() for p in agent.q_net_target.parameters()]
    agent.learn(60)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.q_net_target.parameters(), strict=True))


def test_l2_logs_half_the_sum_of_squares(toy):
    agent = build(PPO, toy(actions=BOX), [L2(0.1), L2(0.1, parameters="weights")])
    total = sum(p.double().square().sum().item() for p in agent.policy.parameters())
    weights = sum(
        p.double().square().sum().item() for n, p in agent.policy.named_parameters() if "weight" in n
    )
    first, second = (mitigation.values()["l2"] for mitigation in agent.mitigations)
    assert first == pytest.approx(total / 2, rel=1e-5)
    assert second == pytest.approx(weights / 2, rel=1e-5)


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_the_mitigations_given_at_loading_decide_on_the_decay(algorithm, toy, tmp_path):
    def decay_after_loading(saved, **kwargs):
        build(algorithm, toy(), saved).learn(40).save(tmp_path / "agent")
        loaded = algorithm.load(tmp_path / "agent", env=toy(), **kwargs)
        return [group["weight_decay"] for group in loaded.policy.optimizer.param_groups]

    assert decay_after_loading([L2(0.1)]) == [0.1]
    assert decay_after_loading([L2(0.1)], mitigations=[]) == [0]
    assert decay_after_loading([], mitigations=[L2(0.3)]) == [0.3]


def test_l2_needs_an_optimiser_that_can_decay(toy):
    rmsprop = {"optimizer_class": torch.optim.RMSprop}
    build(PPO, toy(), [L2(0.1)], policy_kwargs=rmsprop)
    with pytest.raises(InvalidSetting, match="'decoupled_weight_decay', which RMSprop lacks"):
        build(PPO, toy(), [L2(0.1, decoupled=True)], policy_kwargs=rmsprop)


# Effective rank


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


# Bad settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L2(-1.0), "strength of at least 0, not -1.0"),
        (lambda: L2(math.nan), "strength of at least 0, not nan"),
        (lambda: L2(1.0, parameters="biases"), "'biases'. Known: all, weights"),
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
    with pytest.raises(InvalidSetting, match="'q/0', but the hidden layers are: actor/0, actor/1, critic/0"):
        build(PPO, toy(), [EffectiveRank(layers=["q/0"])])
    with pytest.raises(InvalidSetting, match="the networks are linear"):
        build(PPO, toy(), [EffectiveRank()], policy_kwargs={"net_arch": []})


def test_dqn_has_no_epochs(toy):
    with pytest.raises(InvalidSetting, match="every=N instead of steps_per_epoch"):
        build(DQN, toy(), [EffectiveRank(steps_per_epoch=1)])


def test_an_update_without_a_rollout_has_none():
    assert Update(0, torch.zeros(1)).rollout is None
