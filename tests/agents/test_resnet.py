"""ResNet-18 and its batch norm: what training sees is what is measured, and measuring leaves no trace."""

import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn
from torch.nn import functional as F

from pliant.agents import L2, Classifier, EffectiveRank, FullReset, LayerReset, UnsupportedSpace
from pliant.agents.batch_norm import BatchNorm2d, batch_norms, by_minibatch, learning
from pliant.agents.passes import select
from pliant.agents.resnet import ResNet18
from pliant.diagnostics import SnapshotSettings, take_snapshot
from pliant.diagnostics.objectives import objective_operator

CIFAR = spaces.Box(0, 1, (3, 32, 32), np.float32)
SMALL = spaces.Box(0, 1, (3, 16, 16), np.float32)


class Pictures(gymnasium.Env):
    """Pictures of three colours with noise on them."""

    def __init__(self, count=24, seed=0):
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 3, count)
        inputs = 0.6 * generator.random((count, 3, 16, 16), np.float32)
        inputs[np.arange(count), labels] += 0.3
        self.samples = type("Samples", (), {"inputs": inputs, "labels": labels})
        self.observation_space, self.action_space = SMALL, spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.samples.inputs[0], {}


def build(seed=0, env=None, **kwargs):
    network = {
        "features_extractor_class": "resnet-18",
        "features_extractor_kwargs": {"base": 2},
        "net_arch": [],
        "optimizer_class": torch.optim.SGD,
        "optimizer_kwargs": {"momentum": 0.9},
    }
    return Classifier(
        "MlpPolicy",
        env or Pictures(),
        learning_rate=0.05,
        batch_size=8,
        policy_kwargs=network,
        seed=seed,
        device="cpu",
        **kwargs,
    )


def state(agent):
    return {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("reset", "anew"), [(FullReset(), True), (LayerReset(1), False)])
def test_running_statistics_begin_anew_with_their_layers(reset, anew):
    agent = build(mitigations=[reset])
    new = state(agent)
    agent.start_task(0)
    agent.learn(48)
    trained = state(agent)
    agent.start_task(1)
    statistics = [name for name, _ in agent.policy.named_buffers() if "running" in name or "tracked" in name]
    assert statistics
    for name in statistics:
        assert not torch.equal(trained[name], new[name])
        assert torch.equal(state(agent)[name], (new if anew else trained)[name])


# The network ------------------------------------------------------------------------------------------------


def test_it_has_the_parameters_that_are_known_of_it():
    extractor = ResNet18(CIFAR)
    head = nn.Linear(extractor.features_dim, 10)
    assert sum(p.numel() for module in (extractor, head) for p in module.parameters()) == 11_173_962


def test_its_pictures_shrink_from_32_to_4_while_channels_grow_from_64_to_512():
    extractor = ResNet18(CIFAR).eval()
    shapes = [tuple(extractor.stem(torch.zeros(1, 3, 32, 32)).shape[1:])]
    features = extractor.stem(torch.zeros(1, 3, 32, 32))
    for block in extractor.blocks:
        features = block(features)
        shapes.append(tuple(features.shape[1:]))
    expected = [(64, 32, 32)] * 3 + [(128, 16, 16)] * 2 + [(256, 8, 8)] * 2 + [(512, 4, 4)] * 2
    assert shapes == expected
    assert extractor(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


def test_a_block_is_two_convolutions_beside_a_shortcut():
    block = ResNet18(SMALL, base=2).eval().blocks[2]  # the first that halves the picture
    pictures = torch.rand(4, 2, 16, 16)
    one, norm, _, two, other = block.residual
    convolved = other(
        F.conv2d(norm(F.conv2d(pictures, one.weight, stride=2, padding=1)).relu(), two.weight, padding=1)
    )
    shortcut = block.shortcut[1](F.conv2d(pictures, block.shortcut[0].weight, stride=2))
    torch.testing.assert_close(block(pictures), (convolved + shortcut).relu())


def test_every_activation_is_a_hidden_layer_of_its_own():
    agent = build()
    features = agent.features(torch.rand(4, 3, 16, 16))
    widths = [2] * 5 + [4] * 4 + [8] * 4 + [16] * 4
    sides = [16] * 5 + [8] * 4 + [4] * 4 + [2] * 4
    assert [tuple(one.shape) for one in features.values()] == [
        (4 * side**2, width) for side, width in zip(sides, widths, strict=True)
    ]


def test_pictures_may_have_their_channels_last():
    first = ResNet18(SMALL, base=2).eval()
    last = ResNet18(spaces.Box(0, 1, (16, 16, 3), np.float32), base=2).eval()
    last.load_state_dict(first.state_dict())
    pictures = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(last(pictures.permute(0, 2, 3, 1)), first(pictures))


def test_pictures_that_are_too_small_are_refused():
    with pytest.raises(UnsupportedSpace, match="ResNet18 needs pictures of at least 16x16, not 8x16"):
        ResNet18(spaces.Box(0, 1, (3, 8, 16)))


# Batch norm -------------------------------------------------------------------------------------------------


def random_norm():
    layer = BatchNorm2d(3)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
        layer.running_mean.normal_()
    return layer


def test_outside_of_minibatches_it_is_torchs():
    ours = random_norm()
    theirs = nn.BatchNorm2d(3)
    theirs.load_state_dict(ours.state_dict())
    for mode in (True, False):
        pictures = torch.randn(6, 3, 4, 4)
        assert torch.equal(ours.train(mode)(pictures), theirs.train(mode)(pictures))
    assert equal(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("mode", [True, False])
def test_by_minibatch_each_group_is_normalised_by_itself_and_nothing_is_learned(mode):
    layer = random_norm().train(mode)
    before = copy.deepcopy(layer.state_dict())
    pictures = torch.randn(10, 3, 4, 4)
    with by_minibatch([layer], 4):
        found = layer(pictures)
    for group in (slice(0, 4), slice(4, 8), slice(8, 10)):
        part = pictures[group]
        mean, variance = part.mean((0, 2, 3), keepdim=True), part.var((0, 2, 3), unbiased=False, keepdim=True)
        normalised = (part - mean) / (variance + layer.eps).sqrt()
        expected = normalised * layer.weight[:, None, None] + layer.bias[:, None, None]
        torch.testing.assert_close(found[group], expected)
    assert equal(before, layer.state_dict())
    assert layer.group is None


def test_while_learning_the_running_statistics_follow_as_torchs_do():
    ours, theirs = random_norm(), nn.BatchNorm2d(3)
    theirs.load_state_dict(ours.state_dict())
    pictures = torch.randn(6, 3, 4, 4)
    with by_minibatch([ours], 8), learning([ours]):
        assert torch.equal(ours(pictures), theirs(pictures))
    assert equal(ours.state_dict(), theirs.state_dict())
    assert not ours.learns


# The classifier ---------------------------------------------------------------------------------------------


def test_training_equals_a_plain_torch_loop_bit_for_bit_running_statistics_included():
    env = Pictures(count=20)
    vector = DummyVecEnv([lambda: env])
    agent = build(env=vector)
    net = nn.Sequential(
        copy.deepcopy(agent.policy.features_extractor), copy.deepcopy(agent.policy.head)
    ).train()
    vector.seed(3)
    agent.learn(50)
    env.reset(seed=3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    inputs, labels = torch.tensor(env.samples.inputs), torch.tensor(env.samples.labels)
    for samples in (20, 20, 10):
        for index in torch.from_numpy(env.np_random.permutation(20))[:samples].split(8):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs[index]), labels[index]).backward()
            optimizer.step()
    ours = {**agent.policy.features_extractor.state_dict(), **agent.policy.head.state_dict()}
    theirs = {**net[0].state_dict(), **net[1].state_dict()}
    assert equal(ours, theirs)
    assert ours["stem.1.num_batches_tracked"] == 8


def test_the_loss_of_many_samples_is_the_mean_over_minibatches_in_any_mode():
    agent = build()
    agent.learn(24)
    batch = agent.gather(Pictures(seed=1), 20, seed=0)
    before = state(agent)
    losses = []
    for mode in (True, False):
        agent.policy.set_training_mode(mode)
        losses.append(agent.loss(batch).total)
    assert torch.equal(*losses)
    groups = [select(batch, torch.arange(start, min(start + 8, 20))) for start in (0, 8, 16)]
    by_hand = sum(len(group.labels) * agent.loss(group).total for group in groups) / 20
    torch.testing.assert_close(losses[0], by_hand)
    assert equal(before, state(agent))


def test_predictions_go_by_the_running_statistics():
    agent = build()
    agent.learn(48)
    pictures = torch.rand(6, 3, 16, 16)
    extractor, head = (
        copy.deepcopy(module).eval() for module in (agent.policy.features_extractor, agent.policy.head)
    )
    expected = head(extractor(pictures)).argmax(1).numpy()
    before = state(agent)
    alone = [agent.predict(one.numpy(), deterministic=True)[0] for one in pictures]
    assert np.array_equal(alone, expected)
    assert equal(before, state(agent))


def test_it_learns_colours():
    agent = build(env=Pictures(60))
    agent.learn(480)
    test = Pictures(60, seed=1).samples
    predicted, _ = agent.predict(test.inputs, deterministic=True)
    assert np.mean(predicted == test.labels) > 0.8  # by chance a third


def test_looking_at_features_between_updates_changes_nothing():
    plain, watched = build(), build(mitigations=[EffectiveRank(0.0, every=1), L2(0.0)])
    assert equal(plain.learn(48).policy.state_dict(), watched.learn(48).policy.state_dict())


def test_a_snapshot_leaves_the_running_statistics_alone_and_micro_batches_of_minibatches_change_nothing():
    agent = build()
    agent.learn(24)
    batch = agent.gather(Pictures(48, seed=1), 40, seed=0)
    before = state(agent)
    settings = SnapshotSettings(
        probes=1, depth=3, operators=("hessian", "ggn"), micro_batch=16, minibatches=2
    )
    snapshot = take_snapshot(agent, batch, settings, strict=True)
    assert equal(before, state(agent))
    assert snapshot.spectra["classifier-ggn"].nodes.min() >= -1e-4 * snapshot.spectra["classifier-ggn"].norm
    objective = agent.objectives()["classifier"]
    vectors = torch.randn(2, sum(p.numel() for p in objective.parameters.values()))
    for operator in ("hessian", "ggn"):
        whole, parts = (objective_operator(objective, batch, operator, size)(vectors) for size in (0, 16))
        torch.testing.assert_close(parts, whole, atol=1e-4 * whole.abs().max().item(), rtol=0)


def test_a_saved_agent_predicts_as_before(tmp_path):
    agent = build()
    agent.learn(24)
    agent.save(tmp_path / "agent")
    loaded = Classifier.load(tmp_path / "agent", env=Pictures())
    assert equal(state(agent), state(loaded))
    assert len(batch_norms(loaded.policy)) == 20
    for one in (agent, loaded):
        one.learn(24)
    assert agent.gradient_updates == loaded.gradient_updates
