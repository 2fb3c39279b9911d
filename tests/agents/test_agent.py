"""What every agent offers: features, networks, schedules, guards, saving and loading."""

import math
import pickle

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from pliant.agents import (
    AGENTS,
    DQN,
    L2,
    PPO,
    AgentError,
    Classifier,
    InvalidSetting,
    NonFiniteLoss,
    UnsupportedSpace,
)

BOX = spaces.Box(-1, 1, (2,), np.float32)
PICTURE = spaces.Box(0, 10, (6, 6, 2), np.uint8)
CNN = {
    "features_extractor_class": "small-cnn",
    "features_extractor_kwargs": {"features_dim": 12},
    "net_arch": [8],
}
SMALL = {
    PPO: {"n_steps": 16, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
    Classifier: {"batch_size": 8, "updates_per_rollout": 4},
}


def build(algorithm, env, **kwargs):
    return algorithm("MlpPolicy", env, seed=0, device="cpu", **{**SMALL[algorithm], **kwargs})


def test_features_of_an_mlp_are_its_post_activation_layers(toy):
    agent = build(PPO, toy(), policy_kwargs={"net_arch": {"pi": [5, 6], "vf": [7]}, "activation_fn": "relu"})
    observations = torch.randn(10, 3)
    features = agent.features(observations)
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        "actor/0": (10, 5),
        "actor/1": (10, 6),
        "critic/0": (10, 7),
    }
    first, _, second, _ = agent.policy.mlp_extractor.policy_net
    hidden = first(observations).relu()
    assert torch.equal(features["actor/0"], hidden)
    assert torch.equal(features["actor/1"], second(hidden).relu())
    assert features["critic/0"].requires_grad


@pytest.mark.parametrize("share", [True, False])
def test_convolutional_features_are_flattened_over_space(share, toy):
    agent = build(PPO, toy(PICTURE), policy_kwargs={**CNN, "share_features_extractor": share})
    features = agent.features(torch.randint(0, 11, (4, 6, 6, 2)))
    cnn = [(4 * 5 * 5, 16), (4 * 4 * 4, 32), (4 * 3 * 3, 64), (4, 12)]
    if share:
        expected = {f"shared/{depth}": shape for depth, shape in enumerate(cnn)}
        expected |= {"actor/0": (4, 8), "critic/0": (4, 8)}
    else:
        expected = {f"{n}/{d}": s for n in ("actor", "critic") for d, s in enumerate([*cnn, (4, 8)])}
    assert {name: tuple(f.shape) for name, f in features.items()} == expected


def test_a_row_of_convolutional_features_is_one_position(toy):
    agent = build(DQN, toy(PICTURE), policy_kwargs=CNN)
    pictures = torch.randint(0, 11, (3, 6, 6, 2))
    features = agent.features(pictures)["q/0"]
    extractor = agent.q_net.features_extractor
    convolved = extractor.cnn[1](extractor.cnn[0](pictures.movedim(-1, 1) / 10))
    assert torch.equal(features[1 * 25 + 2 * 5 + 3], convolved[1, :, 2, 3])


def test_features_of_dqn_include_its_extractor(toy):
    agent = build(DQN, toy(PICTURE), policy_kwargs=CNN)
    assert [f.shape[1] for f in agent.features(torch.zeros(2, 6, 6, 2)).values()] == [16, 32, 64, 12, 8]
    assert list(agent.hidden_layers()) == [f"q/{depth}" for depth in range(5)]


def test_custom_activations_are_found(toy):
    class Square(nn.Module):
        def forward(self, x):
            return x * x

    agent = build(PPO, toy(), policy_kwargs={"activation_fn": Square, "net_arch": [4]})
    assert list(agent.hidden_layers()) == ["actor/0", "critic/0"]


def test_linear_networks_have_no_hidden_features(toy):
    agent = build(PPO, toy(), policy_kwargs={"net_arch": []})
    assert agent.features(torch.zeros(2, 3)) == {}


@pytest.mark.parametrize("actions", [spaces.Discrete(3), BOX])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("observations", [PICTURE, spaces.Box(-1, 1, (3,))])
def test_the_networks_of_ppo_partition_its_parameters(actions, share, observations, toy):
    kwargs = CNN if observations is PICTURE else {}
    agent = build(
        PPO, toy(observations, actions), policy_kwargs={**kwargs, "share_features_extractor": share}
    )
    networks = agent.networks()
    expected = {"actor", "critic"} | ({"log_std"} if actions is BOX else set())
    expected |= {"shared"} if share and observations is PICTURE else set()
    assert set(networks) == expected
    members = [name for network in networks.values() for name in network]
    assert sorted(members) == sorted(name for name, _ in agent.policy.named_parameters())


def test_a_policy_with_parameters_of_unknown_purpose_is_refused(toy):
    class Extended(ActorCriticPolicy):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.world_model = nn.Linear(2, 2)

    agent = PPO(Extended, toy(), **SMALL[PPO])
    with pytest.raises(AgentError, match=r"'world_model.weight' .* Override PPO.networks"):
        agent.networks()


def test_the_network_of_dqn_is_the_online_one(toy):
    agent = build(DQN, toy())
    assert set(map(id, agent.networks()["q"].values())) == set(map(id, agent.q_net.parameters()))


def test_observations_of_a_batch_are_what_features_takes(toy):
    for algorithm in AGENTS.values():
        agent = build(algorithm, toy())
        batch = agent.gather(toy(), 10, seed=0)
        assert all(len(f) == 10 for f in agent.features(agent.observations(batch)).values())


SPACES = {
    "vector": spaces.Box(-1, 1, (2,), np.float32),
    "dict": spaces.Dict({"a": BOX, "b": BOX}),
    "picture": PICTURE,
}
SEEN_BY = [
    (kind, space) for kind in AGENTS.values() for space in SPACES if (kind, space) != (Classifier, "dict")
]


@pytest.mark.parametrize(("algorithm", "space"), SEEN_BY)
def test_recent_observations_are_the_latest_stored_and_draw_nothing(algorithm, space, toy):
    observations = SPACES[space]
    policy = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    kwargs = {**SMALL[algorithm], "policy_kwargs": {"net_arch": [8]}}
    env = toy(observations, copies=1 if algorithm is Classifier else 2)
    agent = algorithm(policy, env, seed=0, device="cpu", **kwargs)
    agent.learn(100)  # DQN's buffer of 60 has gone round
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    recent = agent.recent_observations(8)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    parts = recent if isinstance(recent, dict) else {"": recent}
    assert all(len(part) == 8 for part in parts.values())
    assert all(len(features) == 8 for features in agent.features(recent).values())
    if algorithm is DQN:
        stored = agent.replay_buffer.observations
        for key, part in parts.items():
            array = stored[key] if key else stored
            rows = np.arange(agent.replay_buffer.pos - 4, agent.replay_buffer.pos) % len(array)
            assert np.array_equal(part.numpy(), array[rows].reshape(8, *array.shape[2:]))


# Schedules


def test_progress_runs_over_the_given_window_and_stays_at_its_ends(toy):
    agent = build(PPO, toy(), learning_rate=LinearSchedule(1.0, 0.0, 1.0))
    agent.schedule_over(100, 200)
    for steps, progress in [(0, 1.0), (100, 1.0), (125, 0.75), (200, 0.0), (999, 0.0)]:
        agent._update_current_progress_remaining(steps, total_timesteps=50)
        assert agent._current_progress_remaining == pytest.approx(progress)


def test_each_task_can_have_its_own_schedule(toy):
    agent = build(
        PPO, toy(), learning_rate=LinearSchedule(0.01, 0.0, 1.0), clip_range=LinearSchedule(0.4, 0.0, 1.0)
    )
    for task in range(2):
        agent.schedule_over(32 * task, 32 * (task + 1))
        agent.set_env(toy())
        rates = []
        for _ in range(2):
            agent.learn(16, reset_num_timesteps=False)
            rates.append(agent.policy.optimizer.param_groups[0]["lr"])
        assert rates == [0.005, 0.0]
        assert agent.logger.name_to_value["train/clip_range"] == 0


def test_exploration_starts_anew_with_the_window(toy):
    agent = build(DQN, toy(), exploration_fraction=0.5)
    agent.learn(40)
    assert agent.exploration_rate == 0.05
    agent.schedule_over(40, 80)
    assert agent.exploration_rate == 1.0
    agent.learn(10, reset_num_timesteps=False)
    assert agent.exploration_rate == pytest.approx(1 - 0.95 * (12 / 40) / 0.5)  # rollouts of 4


# Where episodes are cut


@pytest.mark.parametrize("full", [False, True])
def test_an_n_step_return_ends_where_the_environments_are_reset(full, toy):
    agent = build(DQN, toy(), n_steps=3, gamma=0.5, buffer_size=4 if full else 9)
    buffer, zeros = agent.replay_buffer, np.zeros((1, *agent.observation_space.shape))
    assert agent.cut_episodes() is None  # nothing to cut yet
    for step in range(4):
        buffer.add(zeros, zeros + step, np.zeros(1), np.ones(1), np.zeros(1), [{}])
    agent.cut_episodes()
    for step in range(4, 6):
        buffer.add(zeros, zeros + step, np.zeros(1), np.ones(1), np.zeros(1), [{}])
    before = buffer._get_samples(np.array([2]))  # rewards 1 of steps 2 and 3, then V(s_4) a quarter
    after = buffer._get_samples(np.array([4 % buffer.buffer_size]))  # of steps 4 and 5
    for samples, last in ((before, 3), (after, 5)):
        assert samples.rewards.item() == 1.5
        assert samples.discounts.item() == 0.25
        assert samples.dones.item() == 0  # cut, not terminated: the value of what comes next counts
        assert (samples.next_observations == last).all()


def test_a_transition_that_ended_its_episode_is_not_made_a_time_limit(toy):
    agent = build(DQN, toy(), n_steps=3)
    zeros = np.zeros((1, *agent.observation_space.shape))
    agent.replay_buffer.add(zeros, zeros, np.zeros(1), np.ones(1), np.ones(1), [{}])
    agent.cut_episodes()
    assert agent.replay_buffer._get_samples(np.array([0])).dones.item() == 1


def test_an_empty_window_is_refused(toy):
    with pytest.raises(InvalidSetting, match="start < end, not 5 and 5"):
        build(PPO, toy()).schedule_over(5, 5)


# Guards


class Poison(gymnasium.RewardWrapper):
    """Rewards become NaN after some steps."""

    def __init__(self, env, after, value):
        super().__init__(env)
        self.after, self.value = after, value

    def reward(self, reward):
        self.after -= 1
        return self.value if self.after < 0 else reward


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in the advantages
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("algorithm", "quantity"), [(PPO, "policy_loss|value_loss"), (DQN, "td_loss")])
def test_a_loss_that_is_not_finite_stops_before_the_optimiser_step(algorithm, quantity, value, toy):
    agent = build(algorithm, Poison(toy().envs[0], 50, value))
    with pytest.raises(NonFiniteLoss, match=f"({quantity}) is not finite after [1-9]") as caught:
        agent.learn(200)
    assert caught.value.updates == agent.gradient_updates
    assert all(p.isfinite().all() for p in agent.policy.parameters())


class Blind(gymnasium.ObservationWrapper):
    """Observations become NaN after some steps."""

    left = 30

    def observation(self, observation):
        self.left -= 1
        return observation if self.left > 0 else observation * np.nan


@pytest.mark.parametrize("actions", [spaces.Discrete(3), BOX])
def test_an_observation_that_is_not_finite_is_reported(actions, toy):
    agent = build(PPO, Blind(toy(actions=actions).envs[0]))
    with pytest.raises(NonFiniteLoss, match=r"(an observation|policy_loss) is not finite after 4"):
        agent.learn(200)
    assert all(p.isfinite().all() for p in agent.policy.parameters())


def test_torch_still_checks_distributions_outside_of_training(toy):
    build(PPO, toy()).learn(16)
    with pytest.raises(ValueError, match="constraint"):
        torch.distributions.Normal(math.nan, 1.0)


def test_a_gradient_that_is_not_finite_stops_before_the_optimiser_step(toy):
    class Root(nn.Module):  # finite at 0, with an infinite derivative
        def forward(self, x):
            return x.clamp(min=0).sqrt()

    agent = build(PPO, toy(), policy_kwargs={"activation_fn": Root})
    with torch.no_grad():
        for p in agent.policy.mlp_extractor.parameters():
            p.zero_()
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite after 0 gradient updates"):
        agent.learn(16)
    assert all(p.isfinite().all() for p in agent.policy.parameters())


def test_the_error_says_what_to_do_and_can_cross_processes():
    error = NonFiniteLoss("value_loss", 7)
    assert "lower the learning rate" in str(error)
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.quantity, copied.updates, str(copied)) == ("value_loss", 7, str(error))


def test_dqn_refuses_continuous_actions(toy):
    with pytest.raises(UnsupportedSpace, match=r"Discrete actions, but .* are Box.*Use PPO"):
        build(DQN, toy(actions=BOX))


def test_mitigations_must_be_mitigations(toy):
    with pytest.raises(InvalidSetting, match=r"must hold Mitigation objects.*not 'l2'"):
        build(PPO, toy(), mitigations=["l2"])


def test_one_mitigation_that_is_not_in_a_list_is_told_so(toy):
    with pytest.raises(InvalidSetting, match=r"mitigations must be a list, also of one: mitigations=\[L2"):
        build(PPO, toy(), mitigations=L2(1e-5))


# Saving and loading


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_a_saved_agent_acts_and_trains_like_the_original(algorithm, toy, tmp_path):
    agent = build(algorithm, toy(), initialisation="lecun-uniform", policy_kwargs={"activation_fn": "relu"})
    agent.learn(48)
    agent.save(tmp_path / "agent")
    loaded = algorithm.load(tmp_path / "agent", env=toy())
    assert loaded.initialisation == "lecun-uniform"
    assert loaded.gradient_updates == agent.gradient_updates > 0
    batch = agent.gather(toy(), 20, seed=0)
    for one in (agent, loaded):
        one.set_logger(agent.logger)
        one.optimizer_steps = [
            one._descend(one.loss(batch).total, list(one.policy.parameters())) for _ in range(3)
        ]
    assert agent.optimizer_steps == loaded.optimizer_steps
    for a, b in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_agents_of_stable_baselines3_can_be_loaded(algorithm, toy, tmp_path):
    original = getattr(stable_baselines3, algorithm.__name__)
    theirs = original("MlpPolicy", toy(), device="cpu", **SMALL[algorithm])
    theirs.learn(32)
    theirs.save(tmp_path / "agent")
    ours = algorithm.load(tmp_path / "agent", env=toy())
    assert ours.mitigations == []
    assert all(
        torch.equal(a, b) for a, b in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True)
    )
    ours.learn(32)


def test_the_settings_given_survive_loading_and_are_not_applied_twice(toy, tmp_path):
    given = {"activation_fn": "relu", "net_arch": [8]}
    agent = build(PPO, toy(), policy_kwargs=given, mitigations=[L2(1e-3)])
    agent.save(tmp_path / "agent")
    loaded = PPO.load(tmp_path / "agent")
    assert loaded.policy_kwargs == given == {"activation_fn": "relu", "net_arch": [8]}
    assert loaded.mitigations == [L2(1e-3)]
