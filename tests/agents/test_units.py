"""The way into and out of every hidden unit, in every network that the agents have."""

import pytest
import torch
from gymnasium import spaces
from torch import nn

from pliant.agents import DQN, PPO
from pliant.agents.units import renew
from pliant.agents.wiring import trace

PICTURE = spaces.Box(0, 10, (5, 5, 2), "uint8")
VECTOR = spaces.Box(-1, 1, (3,))
BOX = spaces.Box(-1, 1, (2,))
CNN = {"features_extractor_class": "small-cnn", "features_extractor_kwargs": {"features_dim": 12}}
MLP = {"net_arch": [5, 6], "activation_fn": "relu"}
SMALL = {
    PPO: {"n_steps": 32, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
}
NETWORKS = {
    "mlp": (VECTOR, MLP),
    "one layer": (VECTOR, {"net_arch": [4], "activation_fn": "relu"}),
    "cnn": (PICTURE, {**CNN, "net_arch": [8], "activation_fn": "relu"}),
    "cnn without trunk": (PICTURE, {**CNN, "net_arch": []}),
}


def build(algorithm, env, **kwargs):
    return algorithm("MlpPolicy", env, device="cpu", **{"seed": 0, **SMALL[algorithm], **kwargs})


def outputs(agent, observations):
    """Everything the networks say, without gradients."""
    with torch.no_grad():
        if isinstance(agent, DQN):
            return agent.q_net(observations)
        distribution = agent.policy.get_distribution(observations).distribution
        logits = distribution.logits if hasattr(distribution, "logits") else distribution.mean
        return torch.cat([logits, agent.policy.predict_values(observations)], dim=1)


def observe(space, count=7):
    generator = torch.Generator().manual_seed(0)
    if space is PICTURE:
        return torch.randint(0, 11, (count, *space.shape), generator=generator).float()
    return torch.randn(count, *space.shape, generator=generator)


def randomise(agent):
    """Weights of order one, so that a wrong column would be seen; positive, so that nothing is dead."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in agent.policy.parameters():
            p.copy_(0.3 * torch.rand(p.shape, generator=generator) + 0.01)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_every_hidden_layer_of_our_networks_has_units(algorithm, name, share, toy):
    space, kwargs = NETWORKS[name]
    if algorithm is PPO:
        kwargs = {**kwargs, "share_features_extractor": share}
    agent = build(algorithm, toy(space), policy_kwargs=kwargs)
    wiring = trace(agent)
    assert list(wiring.layers) == list(agent.hidden_layers())
    assert wiring.skipped == {}
    features = agent.features(observe(space))
    assert {n: layer.width for n, layer in wiring.layers.items()} == {
        n: f.shape[1] for n, f in features.items()
    }
    assert wiring.widths == {n: layer.width for n, layer in wiring.layers.items()}


def test_the_layers_of_an_mlp_are_wired_as_they_were_built(toy):
    agent = build(PPO, toy(), policy_kwargs={"net_arch": {"pi": [5, 6], "vf": [7]}})
    actor, critic = agent.policy.mlp_extractor.policy_net, agent.policy.mlp_extractor.value_net
    wiring = trace(agent)
    found = {n: (layer.incoming, layer.activation, layer.consumers) for n, layer in wiring.layers.items()}
    assert found == {
        "actor/0": (actor[0], actor[1], (actor[2],)),
        "actor/1": (actor[2], actor[3], (agent.policy.action_net,)),
        "critic/0": (critic[0], critic[1], (agent.policy.value_net,)),
    }
    assert wiring.heads == (agent.policy.action_net, agent.policy.value_net)
    assert wiring.weighted["mlp_extractor.value_net.0"] is critic[0]
    assert list(wiring.hidden.values()) == [actor[0], actor[2], critic[0]]


def test_a_shared_extractor_leads_to_both_trunks_or_both_heads(toy):
    for trunk, wanted in [([8], ["mlp_extractor.policy_net.0", "mlp_extractor.value_net.0"]), ([], None)]:
        agent = build(PPO, toy(PICTURE), policy_kwargs={**CNN, "net_arch": trunk})
        wiring = trace(agent)
        names = {module: name for name, module in agent.policy.named_modules()}
        consumers = [names[c] for c in wiring.layers["shared/3"].consumers]
        assert consumers == (wanted or ["action_net", "value_net"])


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_without_outgoing_weights_a_unit_cannot_be_heard_and_with_them_it_can(algorithm, name, share, toy):
    """Zero a unit's outgoing weights: whatever leads into it no longer matters. The others still do."""
    space, kwargs = NETWORKS[name]
    if algorithm is PPO:
        kwargs = {**kwargs, "share_features_extractor": share}
    agent = build(algorithm, toy(space), policy_kwargs=kwargs)
    randomise(agent)
    seen = observe(space)
    for layer in trace(agent).layers.values():
        unit, loud = torch.tensor([1]), torch.tensor([2])
        with torch.no_grad():
            for consumer in layer.consumers:
                layer.outgoing(consumer)[:, :, unit] = 0
            silent = outputs(agent, seen)
            layer.incoming.weight[unit] += 1.0
            assert torch.equal(outputs(agent, seen), silent), layer.name
            layer.incoming.bias[loud] += 1.0
            assert not torch.allclose(outputs(agent, seen), silent), layer.name


def test_columns_of_a_flattened_picture_belong_to_their_channel(toy):
    agent = build(DQN, toy(PICTURE), policy_kwargs={**CNN, "net_arch": [8]})
    layer = trace(agent).layers["q/2"]  # 64 channels of 2 x 2 before the linear layer
    (consumer,) = layer.consumers
    assert layer.outgoing(consumer).shape == (12, 1, 64, 4)
    assert torch.equal(layer.outgoing(consumer)[:, 0, 3], consumer.weight[:, 12:16])


def test_a_contribution_is_a_mean_over_all_outgoing_weights(toy):
    agent = build(PPO, toy(PICTURE), policy_kwargs={**CNN, "net_arch": []})
    layer = trace(agent).layers["shared/3"]
    action, value = agent.policy.action_net.weight, agent.policy.value_net.weight
    expected = torch.cat([action, value]).abs().mean(dim=0)
    once = [torch.ones(1, 12, 1), torch.ones(1, 12, 1)]
    torch.testing.assert_close(layer.contribution(once), expected.detach())
    twice = [torch.zeros(1, 12, 1), 2 * torch.ones(1, 12, 1)]
    torch.testing.assert_close(layer.contribution(twice), 2 * value.detach().abs().sum(dim=0) / 4)


def test_activity_is_the_mean_absolute_output(toy):
    agent = build(DQN, toy(), policy_kwargs={**MLP, "activation_fn": "tanh"})
    features = agent.features(observe(VECTOR))["q/0"]
    layer = trace(agent).layers["q/0"]
    torch.testing.assert_close(layer.activity(features), features.detach().abs().mean(dim=0))


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_tracing_leaves_no_trace(algorithm, toy):
    agent = build(algorithm, toy(PICTURE), policy_kwargs={**CNN, "net_arch": [8]})
    agent.learn(40)
    before, random = {k: v.clone() for k, v in agent.policy.state_dict().items()}, torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in agent.policy.parameters()]
    modes = [module.training for module in agent.policy.modules()]
    sampled = agent.observation_space.np_random.bit_generator.state
    trace(agent)
    assert all(torch.equal(before[k], v) for k, v in agent.policy.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in agent.policy.modules()]
    assert sampled == agent.observation_space.np_random.bit_generator.state
    assert all(
        g is None or torch.equal(g, p.grad) for g, p in zip(gradients, agent.policy.parameters(), strict=True)
    )
    assert not any(module._forward_hooks for module in agent.policy.modules())


# Networks that are not chains -------------------------------------------------------------------------------


class Odd(nn.Module):
    """A body that can be asked for every kind of trouble."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.first, self.second, self.last = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.norm = nn.LayerNorm(4)
        if kind == "in place":
            self.first = nn.ReLU(inplace=True)

    def forward(self, x):
        if self.kind == "used twice":
            return self.last(self.c(self.first(self.b(self.first(self.a(x))))))
        h = self.first(self.a(x))
        if self.kind == "residual":
            return self.last(self.c(self.second(self.b(h)) + h))
        if self.kind == "residual before the activation":
            return self.last(self.c(self.second(self.b(h) + h)))
        if self.kind == "norm before":
            return self.last(self.c(self.second(self.norm(self.b(h)))))
        if self.kind == "norm after":
            return self.last(self.c(self.norm(self.second(self.b(h)))))
        if self.kind == "function between":
            return self.last(self.c(2 * self.second(self.b(h))))
        if self.kind == "listened to before its activation":
            z = self.b(h)
            return self.last(self.c(self.second(z)) + z)
        return self.last(self.c(self.second(self.b(h))))


def odd(toy, kind):
    agent = build(DQN, toy(), policy_kwargs={"net_arch": [4], "activation_fn": "relu"})
    agent.q_net.q_net[0] = Odd(kind)
    agent.q_net.q_net[1] = nn.Identity()
    return agent


@pytest.mark.parametrize(
    ("kind", "skipped"),
    [
        ("plain", {}),
        ("in place", {}),
        ("norm before", {}),
        ("residual", {"q/0": "unknown operation", "q/1": "goes through an unknown operation"}),
        (
            "residual before the activation",
            {"q/0": "unknown operation", "q/1": "not the output of one linear or convolutional layer"},
        ),
        ("norm after", {"q/1": "leads into a LayerNorm"}),
        ("function between", {"q/1": "goes through an unknown operation"}),
        ("listened to before its activation", {"q/1": "unknown operation", "q/2": "not the output of one"}),
        ("used twice", {"q/0": "used more than once", "q/1": "no network calls it"}),
    ],
)
def test_units_that_cannot_be_told_apart_are_skipped_with_the_reason(kind, skipped, toy):
    wiring = trace(odd(toy, kind))
    assert wiring.skipped.keys() == skipped.keys()
    for name, reason in skipped.items():
        assert reason in wiring.skipped[name]
    assert wiring.layers.keys() == {"q/0", "q/1", "q/2"} - skipped.keys()


def test_a_normalisation_before_the_activation_belongs_to_the_layer(toy):
    agent = odd(toy, "norm before")
    body = agent.q_net.q_net[0]
    layer = trace(agent).layers["q/1"]
    assert (layer.incoming, layer.norms) == (body.b, (body.norm,))


def test_a_layer_whose_output_is_concatenated_is_skipped(toy):
    views = spaces.Dict({"numbers": BOX, "picture": spaces.Box(0, 255, (3, 36, 36), "uint8")})
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"cnn_output_dim": 4}}
    agent = DQN("MultiInputPolicy", toy(views), device="cpu", policy_kwargs=kwargs, **SMALL[DQN])
    wiring = trace(agent)
    assert list(wiring.layers) == ["q/0", "q/1", "q/2", "q/4"]
    assert "unknown operation" in wiring.skipped["q/3"]


# Renewing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_renewing_dead_units_changes_no_output_and_revives_them(algorithm, name, toy):
    space, kwargs = NETWORKS[name]
    agent = build(algorithm, toy(space), policy_kwargs=kwargs)
    randomise(agent)
    seen = observe(space, 40)
    units = torch.tensor([0, 3])
    layers = trace(agent).layers
    with torch.no_grad():
        for layer in layers.values():
            layer.incoming.weight[units] = 0
            layer.incoming.bias[units] = -1.0
    before = outputs(agent, seen)
    assert all((f[:, units] == 0).all() for f in agent.features(seen).values())
    revived = dict.fromkeys(layers, False)
    for _ in range(10):  # inputs are positive here, so that a draw may be dead at once
        for layer in reversed(layers.values()):
            weight, bias = agent.fresh_units(layer.incoming, len(units))
            renew(layer, units, weight, bias, agent.policy.optimizer)
            assert torch.equal(layer.incoming.weight[units], weight)
        assert torch.equal(outputs(agent, seen), before)
        for layer, features in agent.features(seen).items():
            revived[layer] |= (features[:, units] > 0).any().item()
    assert all(revived.values())
    for layer in layers.values():
        for consumer in layer.consumers:
            assert (layer.outgoing(consumer)[:, :, units] == 0).all()


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_the_optimiser_forgets_renewed_units_and_nothing_else(algorithm, optimiser, toy):
    options = {"momentum": 0.9} if optimiser is torch.optim.SGD else {}
    kwargs = {**CNN, "net_arch": [8], "optimizer_class": optimiser, "optimizer_kwargs": options}
    agent = build(algorithm, toy(PICTURE), policy_kwargs=kwargs)
    agent.learn(40)
    state = agent.policy.optimizer.state
    randomise(agent)
    for slots in state.values():
        for slot in slots.values():
            if isinstance(slot, torch.Tensor) and slot.ndim:
                slot.fill_(1.0)
    steps = {p: slots.get("step") for p, slots in state.items()}
    layer = trace(agent).layers["q/2" if algorithm is DQN else "shared/2"]
    renew(layer, torch.tensor([5]), *agent.fresh_units(layer.incoming, 1), agent.policy.optimizer)
    (consumer,) = layer.consumers
    touched = {layer.incoming.weight: (slice(5, 6),), layer.incoming.bias: (slice(5, 6),)}
    touched[consumer.weight] = (slice(None), slice(20, 24))
    slots_seen = 0
    for p, slots in state.items():
        for name, slot in slots.items():
            if not isinstance(slot, torch.Tensor) or not slot.ndim:
                assert slot is steps[p]
                continue
            expected = torch.ones_like(slot)
            if p in touched:
                expected[touched[p]] = 0
            assert torch.equal(slot, expected), name
            slots_seen += 1
    assert slots_seen == sum(len(s) - ("step" in s) for s in state.values()) > 0


def test_renewing_resets_a_normalisation_of_the_units(toy):
    agent = odd(toy, "norm before")
    body = agent.q_net.q_net[0]
    with torch.no_grad():
        body.norm.weight.fill_(3.0)
        body.norm.bias.fill_(4.0)
    layer = trace(agent).layers["q/1"]
    renew(layer, torch.tensor([2]), *agent.fresh_units(layer.incoming, 1), agent.policy.optimizer)
    assert body.norm.weight.tolist() == [3, 3, 1, 3]
    assert body.norm.bias.tolist() == [4, 4, 0, 4]


# Fresh draws ------------------------------------------------------------------------------------------------


def spread(weights):
    return torch.cat([w.flatten() for w in weights]).std().item()


@pytest.mark.parametrize("initialisation", ["sb3", "lecun-uniform", "he-uniform", "orthogonal"])
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_fresh_units_are_drawn_as_the_layer_was(algorithm, initialisation, toy):
    kwargs = {"net_arch": [64, 64]}
    agent = build(algorithm, toy(), policy_kwargs=kwargs, initialisation=initialisation)
    layer = list(trace(agent).layers.values())[1].incoming
    drawn = [agent.fresh_units(layer, 3) for _ in range(200)]
    assert spread(w for w, _ in drawn) == pytest.approx(layer.weight.std().item(), rel=0.05)
    assert (layer.weight.abs().max() < 1.0) == all((w.abs().max() < 1.0) for w, _ in drawn)
    biases = torch.cat([b for _, b in drawn])
    assert biases.std().item() == pytest.approx(layer.bias.std().item(), rel=0.3, abs=1e-9)


def test_fresh_units_of_ppo_have_the_norm_of_its_orthogonal_rows(toy):
    agent = build(PPO, toy(), policy_kwargs={"net_arch": [8, 8]})
    weight, bias = agent.fresh_units(agent.policy.mlp_extractor.policy_net[2], 3)
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(3))
    assert torch.equal(bias, torch.zeros(3))


@pytest.mark.parametrize("initialisation", ["sb3", "lecun-uniform"])
@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_fresh_twin_is_drawn_as_the_agent_was_and_leaves_it_alone(algorithm, initialisation, toy):
    agent = build(algorithm, toy(), initialisation=initialisation)
    agent.learn(40)
    before = {name: p.clone() for name, p in agent.policy.named_parameters()}
    torch.manual_seed(3)
    twin = agent.fresh()
    assert twin.networks().keys() == agent.networks().keys()
    ours, theirs = agent.networks(), twin.networks()
    torch.manual_seed(3)
    other = build(algorithm, toy(), initialisation=initialisation, seed=None)
    for network in ours:
        assert ours[network].keys() == theirs[network].keys()
        for name, parameter in theirs[network].items():
            assert parameter is not ours[network][name]
            assert torch.equal(parameter, other.networks()[network][name]), name
    assert all(torch.equal(before[name], p) for name, p in agent.policy.named_parameters())
