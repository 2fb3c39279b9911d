"""Continual backprop: utilities by hand, who is replaced and when, and what is said meanwhile."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pliant.agents import (
    DQN,
    PPO,
    Classifier,
    ContinualBackprop,
    CReLU,
    DeepFourier,
    FullReset,
    InvalidSetting,
    LayerReset,
    Update,
)
from pliant.agents.features import as_samples, recorded
from pliant.agents.units import UnitLayer
from pliant.agents.wiring import trace

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOTH = pytest.mark.parametrize("policy", ["mlp", "cnn"])


def step(mitigation, agent, observations):
    mitigation.after_update(agent, Update(0, observations))


def test_utility_is_the_mean_contribution_with_an_exponential_mean(make):
    """A network of two hidden units and known numbers."""
    mitigation = ContinualBackprop(replacement_rate=0.0, decay=0.9)
    agent = make(DQN, [mitigation], policy_kwargs={"net_arch": [2]})
    hidden, _, head = agent.q_net.q_net
    with torch.no_grad():
        hidden.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
        hidden.bias.zero_()
        head.weight.copy_(torch.tensor([[1.0, -3.0], [2.0, 0.0], [3.0, 0.0]]))
    # Outputs of unit 0: 1, 0 (ReLU); of unit 1: 2, 4. Outgoing magnitudes: 2 and 1.
    observations = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 4.0, 0.0]])
    step(mitigation, agent, observations)
    record = mitigation._records["q/0"]
    first = torch.tensor([2 * 0.5, 1 * 3.0])
    torch.testing.assert_close(record.utility, 0.1 * first)
    assert mitigation.values()["cbp_utility"] == pytest.approx(first.mean().item())
    with torch.no_grad():
        head.weight *= 10
    step(mitigation, agent, observations)
    torch.testing.assert_close(record.utility, 0.9 * 0.1 * first + 0.1 * 10 * first)
    torch.testing.assert_close(record.means[0], (1 - 0.9**2) * torch.tensor([[[0.5], [3.0]]]))
    assert record.age.tolist() == [2, 2]
    corrected = (0.9 * 0.1 + 1) * first / (1 - 0.9**2)
    assert mitigation.values()["cbp_utility"] == pytest.approx(corrected.mean().item())


def test_outputs_of_either_sign_count_alike(make, observe):
    mitigation = ContinualBackprop(replacement_rate=0.0, decay=0.0)
    agent = make(DQN, [mitigation], policy_kwargs={"activation_fn": "tanh"})
    step(mitigation, agent, observe())
    features, outgoing = agent.features(observe())["q/0"].detach(), agent.q_net.q_net[2].weight.detach()
    assert features.min() < 0 < features.max()
    record = mitigation._records["q/0"]
    torch.testing.assert_close(record.utility, outgoing.abs().mean(0) * features.abs().mean(0))
    torch.testing.assert_close(record.means[0], features.mean(0)[None, :, None])


def test_an_output_of_two_counts_with_its_own_weights():
    """Unit 0 says 1 to a weight of 0, and 0 to one of -5: nothing."""
    incoming, consumer = torch.nn.Linear(1, 2), torch.nn.Linear(4, 1)
    with torch.no_grad():
        consumer.weight.copy_(torch.tensor([[0.0, 0.3, -5.0, 0.4]]))
    layer = UnitLayer("crelu", incoming, (), torch.nn.Identity(), 2, (consumer,))
    inputs = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 3.0]])  # parts times units
    contribution = layer.contribution([layer.multiplied(consumer, inputs.abs())])
    torch.testing.assert_close(contribution, torch.tensor([0.0, (0.3 * 0.5 + 0.4 * 1.5) / 2]))


def test_channels_count_at_every_position_that_their_weights_see(make, observe):
    mitigation = ContinualBackprop(replacement_rate=0.0, decay=0.0)
    agent = make(DQN, [mitigation], "cnn")
    seen = observe("cnn")
    step(mitigation, agent, seen)
    layers = trace(agent).layers
    linear, convolution = layers["q/2"].consumers[0], layers["q/0"].consumers[0]
    inputs = agent.inputs([linear, convolution], seen)
    # 64 channels of 2 x 2 positions, flattened before a linear layer
    contributions = linear.weight.detach().abs().mean(0) * inputs[linear].detach().abs().mean(0)  # [256]
    expected = contributions.view(64, 4).mean(dim=1)
    torch.testing.assert_close(mitigation._records["q/2"].utility, expected)
    kernel, picture = convolution.weight.detach().abs(), inputs[convolution].detach().abs()
    height, width = (side - tap + 1 for side, tap in zip(picture.shape[2:], kernel.shape[2:], strict=True))
    expected = sum(
        kernel[:, :, i, j].mean(0) * picture[:, :, i : i + height, j : j + width].mean(dim=(0, 2, 3))
        for i in range(kernel.shape[2])
        for j in range(kernel.shape[3])
    )
    expected /= kernel[0, 0].numel()
    torch.testing.assert_close(mitigation._records["q/0"].utility, expected)


@pytest.mark.parametrize("activation", [None, CReLU(), DeepFourier(halve=False)], ids=repr)
@pytest.mark.parametrize("extractor", ["pooled-cnn", "small-cnn"])
@pytest.mark.parametrize("layer", range(4))
def test_a_replacement_leaves_the_mean_of_what_follows(layer, extractor, activation, toy):
    """Behind pooling, flattening and padded borders, with one output per unit or two."""
    mitigation = ContinualBackprop(replacement_rate=0.5, maturity=1, decay=0.0, layers=[f"q/{layer}"])
    agent = DQN(
        "MlpPolicy",
        toy(spaces.Box(0, 1, (9, 9, 2), np.float32)),
        mitigations=[mitigation, activation] if activation else [mitigation],
        policy_kwargs={"features_extractor_class": extractor, "net_arch": [8], "activation_fn": "relu"},
        seed=0,
        device="cpu",
    )
    seen = torch.rand(10, 9, 9, 2, generator=torch.Generator().manual_seed(0))
    (following,) = trace(agent).layers[f"q/{layer}"].consumers

    def mean():
        with torch.no_grad(), recorded({"following": following}) as said:
            agent.features(seen)
        return as_samples(said["following"]).mean(dim=0)

    step(mitigation, agent, seen)
    before, weight = mean(), following.weight.detach().clone()
    step(mitigation, agent, seen)
    assert mitigation.values()["cbp_replaced"] > 0
    assert (following.weight != weight).any()
    torch.testing.assert_close(mean(), before, rtol=1e-4, atol=1e-5)


@BOTH
@ALL
def test_the_least_useful_mature_unit_is_replaced_when_one_is_due(algorithm, policy, make, observe):
    layer_name = {PPO: "critic/0" if policy == "mlp" else "shared/3", DQN: "q/1", Classifier: "classifier/1"}
    if policy == "cnn" and algorithm is not PPO:
        layer_name = {DQN: "q/3", Classifier: "classifier/3"}
    name = layer_name[algorithm]
    mitigation = ContinualBackprop(replacement_rate=1 / 8 / 3, maturity=4, decay=0.5, layers=[name])
    agent = make(algorithm, [mitigation], policy)
    layer, record = trace(agent).layers[name], mitigation._records[name]
    seen = observe(policy)
    for update in range(1, 7):  # mature at age 5; a third of one is due per update from then on
        step(mitigation, agent, seen)
        assert mitigation.values()["cbp_replaced"] == 0
        assert record.age.tolist() == [update] * 8
    weights, biases = layer.incoming.weight.detach().clone(), layer.incoming.bias.detach().clone()
    inputs = agent.inputs(layer.consumers, seen)
    utility = layer.contribution([layer.multiplied(c, inputs[c].abs()) for c in layer.consumers])
    step(mitigation, agent, seen)
    assert mitigation.values()["cbp_replaced"] == 1
    least = (0.5 * record.utility).argmin().item()
    assert record.age.tolist() == [0 if unit == least else 7 for unit in range(8)]
    assert record.utility[least] == 0
    assert all(mean[:, least].eq(0).all() and mean.any() for mean in record.means)
    assert utility[least] == utility.min()
    changed = (layer.incoming.weight != weights).flatten(1).any(1) | (layer.incoming.bias != biases)
    assert changed.nonzero().flatten().tolist() == [least]
    for consumer in layer.consumers:
        assert (layer.outgoing(consumer)[:, :, least] == 0).all()
    for _ in range(2):
        step(mitigation, agent, seen)
        assert mitigation.values()["cbp_replaced"] == 1  # seven mature units: a little less is due
    step(mitigation, agent, seen)
    step(mitigation, agent, seen)
    assert mitigation.values()["cbp_replaced"] == 2


@ALL
def test_the_young_are_left_alone(algorithm, make, observe):
    mitigation = ContinualBackprop(replacement_rate=1.0, maturity=10)
    agent = make(algorithm, [mitigation])
    for _ in range(10):
        step(mitigation, agent, observe())
    assert mitigation.values()["cbp_replaced"] == 0
    step(mitigation, agent, observe())
    assert mitigation.values()["cbp_replaced"] == sum(layer.width for layer in trace(agent).layers.values())


@ALL
def test_a_unit_that_always_says_the_same_is_replaced_without_being_missed(algorithm, make, observe, outputs):
    """Its mean output moves into the biases of the next layer."""
    mitigation = ContinualBackprop(replacement_rate=1 / 8, maturity=3, decay=0.9)
    agent = make(algorithm, [mitigation])
    with torch.no_grad():
        for layer in trace(agent).layers.values():
            layer.incoming.weight[4] = 0
            layer.incoming.bias[4] = 0.7
            for consumer in layer.consumers:
                layer.outgoing(consumer)[:, :, 4] *= 1e-4  # the least useful, yet not useless
            layer.incoming.weight[:4] *= 3
            layer.incoming.weight[5:] *= 3
            layer.incoming.bias[:4] += 2
            layer.incoming.bias[5:] += 2
    seen = observe()
    said = outputs(agent, seen)
    for _ in range(4):
        step(mitigation, agent, seen)
    assert mitigation.values()["cbp_replaced"] == len(trace(agent).layers)
    assert all(record.age[4] == 0 for record in mitigation._records.values())
    torch.testing.assert_close(outputs(agent, seen), said, rtol=1e-5, atol=1e-6)


@ALL
def test_dead_units_are_the_first_to_go_and_the_outputs_stay(algorithm, make, observe, outputs):
    mitigation = ContinualBackprop(replacement_rate=2 / 8, maturity=3)
    agent = make(algorithm, [mitigation])
    with torch.no_grad():
        for layer in trace(agent).layers.values():
            layer.incoming.weight.abs_()
            layer.incoming.bias += 3  # nobody else is dead
            layer.incoming.weight[[1, 6]] = 0
            layer.incoming.bias[[1, 6]] = -1.0
    seen = observe()
    said = outputs(agent, seen)
    for _ in range(4):
        step(mitigation, agent, seen)
    assert all((r.age == 0).nonzero().flatten().tolist() == [1, 6] for r in mitigation._records.values())
    assert torch.equal(outputs(agent, seen), said)


def test_the_optimiser_forgets_replaced_units(make, observe):
    mitigation = ContinualBackprop(replacement_rate=1 / 8, maturity=1000)
    agent = make(DQN, [mitigation]).learn(48)
    for slots in agent.policy.optimizer.state.values():
        for slot in slots.values():
            if slot.ndim:
                slot.fill_(1.0)
    mitigation.maturity = 1
    step(mitigation, agent, observe())
    for name, layer in trace(agent).layers.items():
        replaced = mitigation._records[name].age == 0
        assert replaced.sum() == 1
        for key in ("exp_avg", "exp_avg_sq"):
            state = agent.policy.optimizer.state
            assert torch.equal(state[layer.incoming.bias][key] == 0, replaced)
            outgoing = layer.outgoing(layer.consumers[0], state[layer.consumers[0].weight][key])
            assert (outgoing[:, :, replaced] == 0).all()


def test_the_expected_number_is_replaced_over_time(make, observe):
    mitigation = ContinualBackprop(replacement_rate=0.01, maturity=1, layers=["q/0"])
    agent = make(DQN, [mitigation], policy_kwargs={"net_arch": [10]})
    for _ in range(500):
        step(mitigation, agent, observe(count=4))
    assert mitigation.values()["cbp_replaced"] == pytest.approx(500 * 0.01 * 10, abs=3)


def test_the_target_network_is_not_changed(make, observe):
    mitigation = ContinualBackprop(replacement_rate=1.0, maturity=1)
    agent = make(DQN, [mitigation])
    before = [p.clone() for p in agent.q_net_target.parameters()]
    for _ in range(3):
        step(mitigation, agent, observe())
    assert mitigation.values()["cbp_replaced"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, agent.q_net_target.parameters(), strict=True))


@ALL
def test_units_that_are_replaced_together_say_nothing_to_one_another(algorithm, make, observe):
    """A new unit's incoming weights are new but for those from other new ones, which are zero."""
    mitigation = ContinualBackprop(replacement_rate=1.0, maturity=3)
    agent = make(algorithm, [mitigation])
    for _ in range(4):
        step(mitigation, agent, observe())
    layers = trace(agent).layers.values()
    assert mitigation.values()["cbp_replaced"] == sum(layer.width for layer in layers)
    for layer in layers:
        assert all((layer.outgoing(consumer) == 0).all() for consumer in layer.consumers)


@pytest.mark.parametrize(
    ("reset", "redrawn"), [(FullReset(), slice(None)), (LayerReset(2), slice(1, None)), (LayerReset(), [])]
)
@ALL
def test_units_of_layers_that_are_drawn_anew_are_new(reset, redrawn, algorithm, make, observe):
    mitigation = ContinualBackprop(replacement_rate=0.9, maturity=10)
    agent = make(algorithm, [mitigation, reset])
    agent.start_task(0)
    for _ in range(10):
        step(mitigation, agent, observe())
    agent.start_task(1)
    networks = [[n for n in mitigation._records if n.startswith(net)] for net in ("actor", "critic")]
    networks = networks if algorithm is PPO else [list(mitigation._records)]
    new = {name for names in networks for name in (names[redrawn] if redrawn else [])}
    for name, record in mitigation._records.items():
        expected = 0 if name in new else 10
        assert record.age.tolist() == [expected] * 8
        assert record.utility.any() == record.means[0].any() == (name not in new)
    for _ in range(10):
        step(mitigation, agent, observe())
    young = [mitigation._records[name].age.min().item() for name in new]
    assert young == [10] * len(new)  # nobody of them has been replaced


@ALL
def test_records_survive_a_saved_agent(algorithm, make, tmp_path):
    agent = make(algorithm, [ContinualBackprop(1e-2, maturity=3)])
    agent.learn(64)
    agent.save(tmp_path / "agent")
    (loaded,) = algorithm.load(tmp_path / "agent").mitigations
    (own,) = agent.mitigations
    assert own.tensors().keys() == loaded.tensors().keys()
    assert all(torch.equal(t, loaded.tensors()[name]) for name, t in own.tensors().items())
    assert max(t.max().item() for name, t in own.tensors().items() if "age" in name) > 3
    assert own.values() == loaded.values()
    assert np.isfinite(own.values()["cbp_utility"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replacement_rate": 2.0}, "replacement_rate from 0 to 1"),
        ({"decay": -0.1}, "decay from 0 to 1"),
        ({"decay": 1.0}, "decay below 1"),  # its means would be divided by zero
        ({"maturity": 0}, "maturity must be a positive"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        ContinualBackprop(**settings)
