"""Initialisations, activations and features extractors."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from pliant.agents import (
    ACTIVATIONS,
    AGENTS,
    DQN,
    FEATURES_EXTRACTORS,
    INITIALISATIONS,
    PPO,
    Classifier,
    InvalidSetting,
    ScaledFlatten,
    SmallCNN,
    UnsupportedSpace,
)

SMALL = {
    PPO: {"n_steps": 16, "batch_size": 8},
    DQN: {"learning_starts": 5, "buffer_size": 50},
    Classifier: {"batch_size": 8},
}
MINIGRID = spaces.Box(0, 10, (7, 7, 3), np.uint8)
REDRAWN = [name for name, draw in INITIALISATIONS.items() if draw is not None]


def layers(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize(("name", "variance"), [("lecun-uniform", 1.0), ("he-uniform", 2.0)])
def test_uniform_schemes_have_the_stated_bound_and_variance(name, variance):
    for shape in [(300, 200), (64, 32, 3, 3)]:
        weight = torch.empty(shape)
        INITIALISATIONS[name](weight)
        fan_in = math.prod(shape[1:])
        bound = math.sqrt(3 * variance / fan_in)
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.99 * bound
        assert weight.var().item() * fan_in == pytest.approx(variance, rel=0.05)


def test_orthogonal_weights_are_orthogonal():
    weight = torch.empty(20, 50)
    INITIALISATIONS["orthogonal"](weight)
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(20), atol=1e-5, rtol=0)


@pytest.mark.parametrize("algorithm", AGENTS.values())
@pytest.mark.parametrize("scheme", REDRAWN)
def test_initialisation_zeroes_biases_and_keeps_the_optimiser_working(algorithm, scheme, toy):
    settings = SMALL[algorithm]
    agent = algorithm("MlpPolicy", toy(), initialisation=scheme, seed=0, **settings)
    assert all((layer.bias == 0).all() for layer in layers(agent.policy))
    before = [p.clone() for p in agent.policy.optimizer.param_groups[0]["params"]]
    agent.learn(32)
    trained = [p for network in agent.networks().values() for p in network.values()]
    assert {id(p) for p in trained} == {id(p) for p in agent.policy.optimizer.param_groups[0]["params"]}
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))


@pytest.mark.parametrize("scheme", INITIALISATIONS)
def test_dqns_target_network_starts_equal_to_the_online_one(scheme, toy):
    agent = DQN("MlpPolicy", toy(), initialisation=scheme, buffer_size=10)
    target = agent.q_net_target.state_dict()
    assert all(torch.equal(target[name], value) for name, value in agent.q_net.state_dict().items())


def test_initialisation_follows_the_seed(toy):
    def weights(seed):
        return PPO("MlpPolicy", toy(), n_steps=8, batch_size=8, initialisation="lecun-uniform", seed=seed)

    first, again, other = (layers(weights(seed).policy)[0].weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_policies_take_activations_by_name(activation, toy):
    agent = PPO("MlpPolicy", toy(), n_steps=8, batch_size=8, policy_kwargs={"activation_fn": activation})
    assert list(agent.hidden_layers()) == ["actor/0", "actor/1", "critic/0", "critic/1"]
    assert all(isinstance(layer, ACTIVATIONS[activation]) for layer in agent.hidden_layers().values())


@pytest.mark.parametrize("algorithm", AGENTS.values())
@pytest.mark.parametrize("extractor", ["flatten", "scaled-flatten", "small-cnn"])
def test_agents_learn_on_minigrids_pictures_with_every_fitting_extractor(algorithm, extractor, toy):
    settings = SMALL[algorithm]
    agent = algorithm(
        "MlpPolicy",
        toy(MINIGRID),
        policy_kwargs={"features_extractor_class": extractor, "net_arch": [8]},
        **settings,
    )
    agent.learn(16)
    assert any(isinstance(m, FEATURES_EXTRACTORS[extractor]) for m in agent.policy.modules())


@pytest.mark.parametrize(
    ("argument", "value", "hint"),
    [
        ("activation_fn", "rellu", "Did you mean 'relu'"),
        ("features_extractor_class", "small_cnn", "Did you mean 'small-cnn'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(argument, value, hint, toy):
    with pytest.raises(InvalidSetting, match=hint):
        PPO("MlpPolicy", toy(), policy_kwargs={argument: value})


def test_an_unknown_initialisation_is_refused_before_anything_is_built(toy):
    with pytest.raises(
        InvalidSetting, match=r"initialisation is 'lecun_uniform'. Did you mean 'lecun-uniform'"
    ):
        PPO("MlpPolicy", toy(), initialisation="lecun_uniform")


def test_scaled_flatten_maps_finite_bounds_to_the_unit_interval():
    low = np.array([-2, 0, -np.inf, -3.4e38, 1], np.float32)
    high = np.array([2, 10, np.inf, 3.4e38, 1], np.float32)
    extractor = ScaledFlatten(spaces.Box(low, high))
    scaled = extractor(torch.tensor([[2.0, 5.0, 7.0, 7.0, 1.0], [-2.0, 0.0, -7.0, -7.0, 1.0]]))
    torch.testing.assert_close(scaled, torch.tensor([[1.0, 0.5, 7.0, 7.0, 1.0], [0.0, 0.0, -7.0, -7.0, 1.0]]))


def test_scaled_flatten_leaves_one_hot_observations_alone(toy):
    extractor = ScaledFlatten(spaces.Discrete(4))
    one_hot = torch.eye(4)
    assert torch.equal(extractor(one_hot), one_hot)


def test_pictures_scaled_by_sb3_are_not_scaled_again(toy):
    picture = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    agent = PPO(
        "MlpPolicy", toy(picture), n_steps=64, policy_kwargs={"features_extractor_class": "scaled-flatten"}
    )
    white = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(agent.policy.extract_features(white), torch.ones(1, 192))


def test_small_cnn_sees_the_same_picture_channels_first_or_last():
    last = SmallCNN(MINIGRID, features_dim=16)
    first = SmallCNN(spaces.Box(0, 10, (3, 7, 7), np.uint8), features_dim=16)
    first.load_state_dict(last.state_dict())
    pictures = torch.randint(0, 11, (5, 7, 7, 3)).float()
    torch.testing.assert_close(first(pictures.permute(0, 3, 1, 2)), last(pictures))
    assert last(pictures).shape == (5, 16)


def test_small_cnn_scales_by_the_bounds_of_the_space():
    tens, ones = SmallCNN(MINIGRID), SmallCNN(spaces.Box(0, 1, (7, 7, 3), np.float32))
    ones.load_state_dict(tens.state_dict())
    pictures = torch.rand(2, 7, 7, 3)
    torch.testing.assert_close(tens(10 * pictures), ones(pictures))


@pytest.mark.parametrize(
    ("space", "reason"),
    [(spaces.Box(0, 1, (9,)), "not Box"), (spaces.Box(0, 1, (3, 9, 1)), "at least 4x4, not 3x9")],
)
def test_small_cnn_refuses_what_is_no_picture(space, reason):
    with pytest.raises(UnsupportedSpace, match=reason):
        SmallCNN(space)


def test_the_minatar_cnn_is_the_network_of_young_and_tian():
    games = FEATURES_EXTRACTORS["minatar-cnn"](spaces.Box(0, 1, (10, 10, 10), np.uint8))
    assert [layer.weight.shape for layer in layers(games)] == [(16, 10, 3, 3)]
    assert games.features_dim == 1024
    picture = (torch.rand(2, 10, 10, 10) < 0.3).float()
    expected = torch.relu(nn.functional.conv2d(picture, games.cnn[0].weight, games.cnn[0].bias)).flatten(1)
    torch.testing.assert_close(games(picture), expected)
    last = FEATURES_EXTRACTORS["minatar-cnn"](spaces.Box(0, 1, (10, 10, 4), np.uint8))
    last.cnn[0].weight.data[:] = games.cnn[0].weight.data[:, :4]
    last.cnn[0].bias.data[:] = games.cnn[0].bias.data
    padded = picture * (torch.arange(10) < 4)[:, None, None]  # a game's channels and zeros, or its own alone
    torch.testing.assert_close(last(padded[:, :4].movedim(1, -1)), games(padded))
    with pytest.raises(UnsupportedSpace, match="MinAtarCNN needs pictures of at least 3x3, not 2x2"):
        FEATURES_EXTRACTORS["minatar-cnn"](spaces.Box(0, 1, (1, 2, 2), np.float32))


def test_the_pooled_cnn_is_the_network_of_continual_imagenet():
    extractor = FEATURES_EXTRACTORS["pooled-cnn"](spaces.Box(0, 1, (3, 32, 32), np.float32))
    shapes = [tuple(layer.weight.shape) for layer in layers(extractor)]
    assert shapes == [(32, 3, 5, 5), (64, 32, 3, 3), (128, 64, 3, 3)]
    assert extractor.features_dim == 128 * 4 * 4
    assert extractor(torch.rand(2, 3, 32, 32)).shape == (2, 2048)


def test_the_pooled_cnn_pools_the_largest_of_each_2x2_after_the_activation():
    extractor = FEATURES_EXTRACTORS["pooled-cnn"](spaces.Box(0, 1, (1, 8, 8), np.float32))
    with torch.no_grad():
        for layer in layers(extractor):  # each output is a copy of the first input channel
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[:, 0, layer.weight.shape[2] // 2, layer.weight.shape[3] // 2] = 1
    picture = torch.randn(1, 1, 8, 8)
    assert torch.equal(extractor(picture)[0], picture.amax().clamp(min=0).expand(128))


def test_the_pooled_cnn_takes_channels_first_or_last_and_any_activation():
    kind = FEATURES_EXTRACTORS["pooled-cnn"]
    first = kind(spaces.Box(0, 1, (3, 9, 16), np.float32), activation_fn="tanh")
    last = kind(spaces.Box(0, 1, (9, 16, 3), np.float32), activation_fn="tanh")
    last.load_state_dict(first.state_dict())
    pictures = torch.rand(2, 3, 9, 16)
    assert torch.equal(first(pictures), last(pictures.movedim(1, -1)))
    assert sum(isinstance(module, nn.Tanh) for module in first.modules()) == 3


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 1, (64,), np.float32), "PooledCNN needs a Box of shape .* shape = 'image'"),
        (spaces.Box(0, 1, (3, 7, 32), np.float32), "at least 8x8, not 7x32"),
        (spaces.Discrete(3), "PooledCNN needs a Box"),
    ],
)
def test_the_pooled_cnn_refuses_what_is_no_picture_or_too_small(space, message):
    with pytest.raises(UnsupportedSpace, match=message):
        FEATURES_EXTRACTORS["pooled-cnn"](space)
