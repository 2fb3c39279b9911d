"""The classifier: a plain torch loop to the last bit, episodes of online accuracy, a seeded order."""

import copy
import math
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn
from torch.nn import functional as F

from pliant.agents import (
    AgentError,
    Classifier,
    EffectiveRank,
    FullReset,
    InvalidSetting,
    LabelledSamples,
    LayerReset,
    NonFiniteLoss,
    ShrinkAndPerturb,
    UnsupportedSpace,
)
from pliant.agents.passes import Passes

CLASSES = 4


class Labelled(gymnasium.Env):
    """Samples to learn from, read only; it can be reset, and would fail if it were stepped."""

    def __init__(self, inputs, labels, classes=CLASSES, **more):
        inputs, labels = np.asarray(inputs), np.asarray(labels)
        inputs.flags.writeable = False
        self.samples = SimpleNamespace(inputs=inputs, labels=labels, **more)
        low, high = (0, 255) if inputs.dtype == np.uint8 else (-np.inf, np.inf)
        self.observation_space = spaces.Box(low, high, inputs.shape[1:], inputs.dtype.type)
        self.action_space = spaces.Discrete(classes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, self.observation_space.dtype), {}


def blobs(count=50, seed=0, width=5, **kwargs):
    """Points around a centre for each class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    centres = generator.standard_normal((CLASSES, width))
    inputs = (centres[labels] + 0.3 * generator.standard_normal((count, width))).astype(np.float32)
    return Labelled(inputs, labels, **kwargs)


def build(env=None, seed=0, hidden=(8,), **kwargs):
    kwargs = {"batch_size": 8, "updates_per_rollout": 4, **kwargs}
    kwargs["policy_kwargs"] = {"net_arch": list(hidden), **kwargs.get("policy_kwargs", {})}
    return Classifier("MlpPolicy", env or blobs(), seed=seed, device="cpu", **kwargs)


class Watch(BaseCallback):
    """Notes every call; stops after so many updates."""

    def __init__(self, stop_after=math.inf):
        super().__init__()
        self.calls, self.episodes, self.stop_after = [], [], stop_after

    def _on_training_start(self):
        self.calls.append("training start")

    def _on_rollout_start(self):
        self.calls.append("rollout start")

    def _on_step(self):
        self.calls.append(self.num_timesteps)
        if self.locals["dones"][0]:
            self.episodes.append((self.num_timesteps, self.locals["infos"][0]["episode"]))
        else:
            assert self.locals["infos"] == [{}]
        return sum(isinstance(call, int) for call in self.calls) < self.stop_after

    def _on_rollout_end(self):
        self.calls.append("rollout end")

    def _on_training_end(self):
        self.calls.append("training end")


# A plain torch loop -----------------------------------------------------------------------------------------

OPTIMISERS = {
    "sgd": (torch.optim.SGD, {}),
    "sgd with momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "fused adam": (torch.optim.Adam, {"fused": True}),
}


def plain_loop(env, net, optimizer, batch, samples, generator):
    """What anybody would write; returns each pass's share of right predictions, made before the updates."""
    inputs, labels = (torch.tensor(part) for part in (env.samples.inputs, env.samples.labels))
    accuracies, shown = [], 0
    while shown < samples:
        correct = 0
        for index in torch.from_numpy(generator.permutation(len(inputs))).split(batch):
            index = index[: samples - shown]
            if not len(index):
                break
            logits = net(inputs[index])
            correct += (logits.argmax(1) == labels[index]).sum().item()
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[index]).backward()
            optimizer.step()
            shown += len(index)
        accuracies.append(correct / len(inputs))
    return accuracies


@pytest.mark.parametrize(
    ("optimiser", "batch"), [(name, 8) for name in OPTIMISERS] + [("adam", 1), ("sgd", 50)]
)
def test_training_equals_a_plain_torch_loop_bit_for_bit(optimiser, batch):
    kind, options = OPTIMISERS[optimiser]
    agent = build(
        batch_size=batch,
        learning_rate=0.02,
        policy_kwargs={"net_arch": [8, 7], "optimizer_class": kind, "optimizer_kwargs": options},
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, CLASSES))
    for ours, theirs in zip(agent.policy.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    env, other = blobs(seed=1), blobs(seed=2)
    watch, expected = Watch(), []
    optimizer = kind(net.parameters(), lr=0.02, **options)
    for task, samples in [(env, 120), (other, 75)]:
        vector = DummyVecEnv([lambda task=task: task])
        vector.seed(17)
        agent.set_env(vector)
        agent.learn(samples, callback=watch, reset_num_timesteps=False)
        task.reset(seed=17)
        expected += plain_loop(task, net, optimizer, batch, samples, task.np_random)[: samples // 50]
    for ours, theirs in zip(agent.policy.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert [episode["r"] for _, episode in watch.episodes] == expected
    assert len(expected) == 3
    assert agent.num_timesteps == 195


def test_several_calls_of_learn_are_one():
    together, apart = build(), build()
    together.learn(96)
    for samples in (40, 26, 30):  # the passes of 50 go on from one call to the next
        apart.learn(samples, reset_num_timesteps=False)
    ours, theirs = (agent.policy.state_dict() for agent in (together, apart))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert apart.ep_info_buffer[0]["r"] == together.ep_info_buffer[0]["r"]


# Episodes, steps, rollouts ----------------------------------------------------------------------------------


def test_an_environment_step_is_a_sample_and_an_episode_a_pass_that_ends_with_what_is_left():
    watch = Watch()
    build().learn(60, callback=watch)
    sizes = np.diff([0, *(call for call in watch.calls if isinstance(call, int))])
    assert sizes.tolist() == [8] * 6 + [2] + [8, 2]  # the second pass is cut where learn() ends
    assert [(steps, episode["l"]) for steps, episode in watch.episodes] == [(50, 50)]


def test_callbacks_are_called_around_rollouts_of_so_many_updates():
    watch = Watch()
    build(updates_per_rollout=3).learn(40, callback=watch)
    assert watch.calls == [
        *("training start", "rollout start", 8, 16, 24, "rollout end"),
        *("rollout start", 32, 40, "rollout end", "training end"),
    ]


def test_a_callback_can_stop_the_training_within_a_rollout():
    watch = Watch(stop_after=2)
    agent = build()
    agent.learn(100, callback=watch)
    assert watch.calls == ["training start", "rollout start", 8, 16, "training end"]
    assert agent.gradient_updates == 2
    agent.learn(34, callback=(rest := Watch()), reset_num_timesteps=False)  # and go on in the same pass
    assert [steps for steps, _ in rest.episodes] == [50]


def test_an_accuracy_is_that_of_predictions_made_before_each_update():
    """At a learning rate of zero it is that of the first network; otherwise it grows from pass to pass."""
    watch = Watch()
    agent = build(learning_rate=0.0)
    samples = agent.env.get_attr("samples")[0]
    agent.learn(100, callback=watch)
    actions, _ = agent.predict(np.array(samples.inputs), deterministic=True)
    right = np.mean(actions == samples.labels)
    assert [episode["r"] for _, episode in watch.episodes] == pytest.approx([right, right])
    learning = build(learning_rate=0.05)
    learning.learn(250, callback=(watch := Watch()))
    accuracies = [episode["r"] for _, episode in watch.episodes]
    assert accuracies[-1] > 0.9 > accuracies[0]


def test_the_log_has_means_over_the_rollout_and_over_episodes(memory_logger):
    agent = build(updates_per_rollout=7)
    logger, memory = memory_logger()
    agent.set_logger(logger)
    losses, loss = [], agent.loss
    agent.loss = lambda batch: losses.append(found := loss(batch)) or found
    agent.learn(100, callback=(watch := Watch()))
    first, second = memory.dumps
    for dump, part in ((first, losses[:7]), (second, losses[7:])):
        assert dump["train/loss"] == pytest.approx(np.mean([one.total.item() for one in part]))
    accuracies = [episode["r"] for _, episode in watch.episodes]
    assert (first["train/accuracy"], second["train/accuracy"]) == pytest.approx(tuple(accuracies))
    assert second["rollout/ep_rew_mean"] == pytest.approx(np.mean(accuracies))
    assert second["rollout/ep_len_mean"] == 50
    assert [dump["train/n_updates"] for dump in memory.dumps] == [7, 14]
    assert first["plasticity/gradient_norm"] > 0
    assert first["train/learning_rate"] == 1e-3


def test_the_learning_rate_follows_its_schedule_over_the_given_window():
    agent = build(learning_rate=LinearSchedule(0.01, 0.0, 1.0), updates_per_rollout=10)
    agent.schedule_over(0, 64)
    rates = []
    for _ in range(2):
        agent.learn(32, reset_num_timesteps=False)
        rates.append(agent.policy.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.005])


# The order of the samples -----------------------------------------------------------------------------------


def shown(agent, samples):
    """The inputs in the order in which they are shown."""
    seen, loss = [], agent.loss
    agent.loss = lambda batch: seen.append(batch.observations) or loss(batch)
    agent.learn(samples, reset_num_timesteps=False)
    agent.loss = loss
    return torch.cat(seen)


def test_every_pass_shows_each_sample_once_in_an_order_of_its_own():
    agent = build()
    first, second = shown(agent, 100).split(50)
    everything = torch.tensor(agent.env.get_attr("samples")[0].inputs)
    for one in (first, second):
        assert torch.equal(one.unique(dim=0), everything.unique(dim=0))
    assert not torch.equal(first, second)


def test_the_order_is_a_function_of_the_environments_seed_and_of_nothing_else():
    def order(seed, agent_seed, before=0):
        agent = build(seed=agent_seed)
        agent.learn(before)
        env = DummyVecEnv([blobs])
        env.seed(seed)
        agent.set_env(env)
        return shown(agent, 70)

    expected = order(5, 0)
    assert torch.equal(expected, order(5, agent_seed=1, before=30))
    assert not torch.equal(expected, order(6, 0))


def passes(count=10, size=4, seed=3):
    agent = build(blobs(count))
    samples = agent.prepare(LabelledSamples(*vars(agent.env.get_attr("samples")[0]).values()))
    return Passes(samples, size, np.random.default_rng(seed))


def test_a_minibatch_that_was_cut_is_finished_by_the_next():
    whole, cut = passes(), passes()
    parts = [cut.take(limit) for limit in (4, 1, 99, 99)]
    assert [len(part.labels) for part in parts] == [4, 1, 3, 2]
    expected = [whole.take(99) for _ in range(3)]
    assert torch.equal(torch.cat([p.labels for p in parts]), torch.cat([p.labels for p in expected]))
    assert whole.over
    assert cut.over


def test_recent_inputs_are_the_latest_across_the_end_of_a_pass():
    one = passes()
    taken = torch.cat([one.take(99).observations for _ in range(5)])  # 4 + 4 + 2 + 4 + 4
    assert torch.equal(one.recent(5), taken[-5:])
    assert torch.equal(one.recent(15), taken[-15:])
    assert torch.equal(one.recent(100), taken)


# Networks, heads, classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
def test_it_learns_from_minibatches_of_any_size(batch):
    agent = build(batch_size=batch, learning_rate=0.01)
    agent.learn(500)
    assert agent.gradient_updates == 10 * -(-50 // batch)
    assert agent.ep_info_buffer[-1]["r"] > 0.9 > agent.ep_info_buffer[0]["r"]


def test_pictures_reach_a_convolutional_network_as_stable_baselines3_shows_them():
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)  # channels last
    env = Labelled(pictures, generator.integers(0, CLASSES, 20))
    agent = build(env, policy_kwargs={"features_extractor_class": "small-cnn"})
    first = shown(agent, 20)
    assert first.shape == (20, 3, 12, 12)
    with torch.no_grad():
        logits = agent.policy.logits(first)
    actions, _ = agent.predict(first.numpy(), deterministic=True)
    assert np.array_equal(actions, logits.argmax(1).numpy())


def test_predictions_are_the_most_probable_class_or_drawn_from_the_softmax():
    agent = build(hidden=())
    with torch.no_grad():
        agent.policy.head.weight.zero_()
        agent.policy.head.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    observations = np.zeros((4000, 5), np.float32)
    assert set(agent.predict(observations, deterministic=True)[0]) == {3}
    drawn = np.bincount(agent.predict(observations, deterministic=False)[0]) / 4000
    np.testing.assert_allclose(drawn, [0.1, 0.2, 0.3, 0.4], atol=0.03)


@pytest.mark.parametrize("new_head", ["keep", "zero", "redraw"])
def test_the_head_is_kept_zeroed_or_drawn_anew_when_a_task_begins(new_head):
    agent = build(new_head=new_head, initialisation="lecun-uniform")
    agent.learn(32)
    before = copy.deepcopy(agent.policy.state_dict())
    agent.start_task(1)
    after = agent.policy.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == (set() if new_head == "keep" else {"head.weight", "head.bias"})
    if new_head == "zero":
        assert not after["head.weight"].any()
    if new_head == "redraw":
        assert not after["head.bias"].any()  # as this initialisation has it
        assert after["head.weight"].abs().max() <= math.sqrt(3 / 8)
    agent.learn(32, reset_num_timesteps=False)


@pytest.mark.parametrize(
    "mitigation", [FullReset(), LayerReset(), ShrinkAndPerturb(shrink=0.5, noise=0.1, when="task")], ids=repr
)
def test_a_head_that_is_to_be_zero_is_zero_after_the_mitigations_have_acted(mitigation):
    agent = build(new_head="zero", mitigations=[mitigation])
    for task in range(2):
        agent.start_task(task)
        assert not agent.policy.head.weight.any()
        assert not agent.policy.head.bias.any()
        agent.learn(32, reset_num_timesteps=task == 0)
        assert agent.policy.head.weight.any()


def some_classes(**more):
    generator = np.random.default_rng(0)
    labels = generator.choice([1, 3], 40)
    return Labelled(generator.standard_normal((40, 5)).astype(np.float32), labels, **more)


@pytest.mark.parametrize("told", [False, True])
def test_only_the_present_classes_compete_if_so_wished(told):
    env = some_classes(classes=CLASSES)
    if told:
        env.samples.classes = np.array([1, 3])
    agent = build(env, present_classes_only=True)
    head = copy.deepcopy(agent.policy.head)
    agent.learn(80)
    for rows, same in (([0, 2], True), ([1, 3], False)):
        assert torch.equal(head.weight[rows], agent.policy.head.weight[rows]) is same
        assert torch.equal(head.bias[rows], agent.policy.head.bias[rows]) is same
    batch = agent.gather(some_classes(), 20, seed=0)
    with torch.no_grad():
        logits = agent.policy.logits(batch.observations)[:, [1, 3]]
        expected = F.cross_entropy(logits, batch.labels)
        agent.policy.head.bias[0] = 100.0  # of an absent class
    assert agent.loss(batch).total.item() == pytest.approx(expected.item())
    for deterministic in (True, False):
        actions, _ = agent.predict(np.zeros((200, 5), np.float32), deterministic=deterministic)
        assert set(actions) <= {1, 3}


def test_all_classes_compete_by_default():
    agent = build(some_classes())
    before = agent.policy.head.bias.detach().clone()
    agent.learn(40)
    assert (agent.policy.head.bias != before).all()


# Windows for the instruments --------------------------------------------------------------------------------


def test_the_loss_is_the_mean_cross_entropy_and_its_outputs_are_the_logits():
    agent = build()
    batch = agent.gather(blobs(), 30, seed=0)
    found = agent.loss(batch)
    logits = agent.policy.logits(batch.observations)
    by_hand = -logits.log_softmax(1)[torch.arange(30), batch.labels].mean()
    torch.testing.assert_close(found.total, by_hand)
    assert torch.equal(found.outputs, logits)
    assert not found.outputs.requires_grad
    objective = agent.objectives()["classifier"]
    assert torch.equal(objective.loss(batch), found.total)
    assert torch.equal(objective.output_loss(objective.outputs(batch), batch), found.total)
    assert set(map(id, objective.parameters.values())) == set(map(id, agent.policy.parameters()))


def test_a_gathered_batch_is_a_seeded_draw_without_replacement():
    agent, env = build(), blobs(seed=4)
    batch = agent.gather(env, 30, seed=1)
    pairs = {(*x.tolist(), int(y)) for x, y in zip(env.samples.inputs, env.samples.labels, strict=True)}
    drawn = {(*x.tolist(), int(y)) for x, y in zip(batch.observations, batch.labels, strict=True)}
    assert len(drawn) == 30
    assert drawn <= pairs
    again, other = agent.gather(env, 30, seed=1), agent.gather(env, 30, seed=2)
    assert torch.equal(batch.observations, again.observations)
    assert not torch.equal(batch.observations, other.observations)
    assert len(agent.gather(env, 1000, seed=1).labels) == 50  # there are no more


def test_gathering_touches_neither_agent_nor_environments_nor_random_states():
    def train(gathering):
        agent, env = build(), blobs(seed=4)
        agent.learn(30)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        if gathering:
            agent.gather(env, 30, seed=1)
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])
        assert env._np_random is None  # not even asked for
        return agent.learn(30, reset_num_timesteps=False).policy.state_dict()

    ours, theirs = train(True), train(False)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_training_environment_is_not_gathered_from():
    agent = build()
    with pytest.raises(AgentError, match="make a second environment"):
        agent.gather(agent.env, 10, seed=0)


def test_effective_rank_steps_every_ten_updates_over_the_minibatch(monkeypatch):
    taken = []
    monkeypatch.setattr(
        EffectiveRank, "ascend", lambda self, agent, seen: taken.append((agent.gradient_updates, len(seen)))
    )
    build(mitigations=[EffectiveRank()]).learn(250)  # 7 updates a pass
    assert taken == [(0, 8), (10, 8), (20, 2), (30, 8)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"every": 2, "samples": 24}, [(0, 8), (2, 24), (4, 32), (6, 32)]),
        ({"steps_per_epoch": 2}, [(0, 8), (2, 24), (4, 32), (6, 32)]),
    ],
)
def test_effective_rank_can_look_back_over_a_rollout(settings, expected, monkeypatch):
    taken = []
    monkeypatch.setattr(
        EffectiveRank, "ascend", lambda self, agent, seen: taken.append((agent.gradient_updates, len(seen)))
    )
    build(mitigations=[EffectiveRank(**settings)]).learn(50)  # rollouts of 4 updates, 32 samples
    assert taken == expected


def test_the_effective_rank_of_one_sample_is_no_objective():
    with pytest.raises(InvalidSetting, match=r"one sample is always 1.*give EffectiveRank samples=100"):
        build(batch_size=1, mitigations=[EffectiveRank()])
    agent = build(batch_size=1, updates_per_rollout=20, mitigations=[EffectiveRank(0.1, samples=20)])
    plain = build(batch_size=1, updates_per_rollout=20)
    ours, theirs = (one.learn(40).policy.state_dict() for one in (agent, plain))
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours)


# Guards -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_inputs_that_are_not_finite_stop_before_the_optimiser_step(value):
    inputs = np.ones((20, 5), np.float32)
    inputs[7] = value
    agent = build(Labelled(inputs, np.zeros(20, np.int64)))
    with pytest.raises(NonFiniteLoss, match=r"^loss is not finite after [0-2] gradient updates"):
        agent.learn(20)
    assert all(p.isfinite().all() for p in agent.policy.parameters())


@pytest.mark.parametrize("max_grad_norm", [math.inf, 0.5])
def test_a_gradient_that_is_not_finite_stops_before_the_optimiser_step(max_grad_norm):
    class Root(nn.Module):  # finite at 0, with an infinite derivative
        def forward(self, x):
            return x.clamp(min=0).sqrt()

    agent = build(policy_kwargs={"activation_fn": Root}, max_grad_norm=max_grad_norm)
    with torch.no_grad():
        for p in agent.policy.body.parameters():
            p.zero_()
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite after 0 gradient updates"):
        agent.learn(8)
    assert all(p.isfinite().all() for p in agent.policy.parameters())


@pytest.mark.parametrize("max_grad_norm", [math.inf, 1e-3])
def test_the_gradients_norm_is_logged_as_it_was_before_clipping(max_grad_norm, memory_logger):
    agent = build(max_grad_norm=max_grad_norm, batch_size=50)
    logger, memory = memory_logger()
    agent.set_logger(logger)
    everything = agent.gather(blobs(), 50, seed=0)
    gradients = torch.autograd.grad(agent.loss(everything).total, list(agent.policy.parameters()))
    agent.learn(50)
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    assert memory.dumps[0]["plasticity/gradient_norm"] == pytest.approx(norm, rel=1e-5)


# What cannot be ---------------------------------------------------------------------------------------------


def environment(inputs=(6, 5), labels=6, dtype=np.int64, value=0):
    env = Labelled(np.zeros(inputs, np.float32), np.full(labels, value, dtype))
    env.observation_space = blobs().observation_space
    return env


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        (environment(inputs=(6, 4)), r"inputs of shape \(6, 4\) .* expected \(N, 5\)"),
        (environment(labels=7), r"labels of shape \(7,\)"),
        (environment(inputs=(0, 5), labels=0), "at least one sample"),
        (environment(value=4), "integers from 0 to 3.*from 4 to 4"),
        (environment(value=-1), "integers from 0 to 3.*from -1 to -1"),
        (environment(dtype=np.float32), "not float32"),
    ],
)
def test_samples_that_do_not_fit_the_spaces_are_refused(env, reason):
    agent = build(blobs())
    agent.set_env(env)
    with pytest.raises(AgentError, match=reason):
        agent.learn(10)


def test_an_environment_without_samples_is_refused_with_the_remedy():
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(AgentError, match=r"offers none as an attribute 'samples'.*PPO or DQN"):
        build(env).learn(10)


def test_observations_normalised_on_the_way_are_refused():
    with pytest.raises(AgentError, match=r"VecNormalize.*Scale the data instead"):
        build(VecNormalize(DummyVecEnv([blobs]))).learn(10)


@pytest.mark.parametrize(
    ("observations", "actions", "reason"),
    [
        (spaces.Discrete(3), spaces.Discrete(3), "takes Box observations, not Discrete"),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (2,)), "Discrete actions that start at 0"),
        (spaces.Box(-1, 1, (2,)), spaces.Discrete(3, start=1), "Discrete actions that start at 0"),
    ],
)
def test_other_spaces_are_refused(observations, actions, reason):
    env = blobs()
    env.observation_space, env.action_space = observations, actions
    with pytest.raises(UnsupportedSpace, match=reason):
        build(env)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer, not 0"),
        ({"updates_per_rollout": 1.5}, "updates_per_rollout must be a positive integer, not 1.5"),
        ({"new_head": "fresh"}, "'fresh'. Known: keep, zero, redraw"),
    ],
)
def test_impossible_settings_are_refused(settings, reason):
    with pytest.raises(InvalidSetting, match=reason):
        build(**settings)


def test_recent_observations_need_some():
    with pytest.raises(AgentError, match="has been shown no sample"):
        build().recent_observations(5)
