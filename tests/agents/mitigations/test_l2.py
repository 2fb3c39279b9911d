"""L2: the optimiser's own weight decay, and who decides on it."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pliant.agents import AGENTS, DQN, L2, PPO, Classifier, InvalidSetting
from pliant.agents.optimizers import MuonAdam

BOX = spaces.Box(-1, 1, (2,), np.float32)
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
    loaded = DQN.load(tmp_path / "agent", env=toy())
    assert all(torch.equal(a, b) for a, b in zip(parameters(agent), parameters(loaded), strict=True))
    for group in loaded.policy.optimizer.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.5}
    loaded.learn(20)


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


@pytest.mark.parametrize(
    ("saved", "given"), [([L2(0.1, parameters="weights")], [L2(0.1)]), ([], [L2(0.1, parameters="weights")])]
)
def test_decays_of_other_parameters_cannot_be_loaded_and_it_says_why(saved, given, toy, tmp_path):
    build(PPO, toy(), saved).learn(32).save(tmp_path / "agent")
    with pytest.raises(InvalidSetting, match=r'in other groups than those saved.*the same "parameters"'):
        PPO.load(tmp_path / "agent", env=toy(), mitigations=given)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, MuonAdam])
def test_of_weights_alone_nothing_else_is_decayed_whatever_the_optimisers_own_decay(optimizer, toy):
    l2 = L2(0.1, decoupled=True, parameters="weights")
    agent = build(PPO, toy(actions=BOX), [l2], policy_kwargs={"optimizer_class": optimizer})
    decays = {p: g["weight_decay"] for g in agent.policy.optimizer.param_groups for p in g["params"]}
    assert decays == {p: 0.1 if p.ndim > 1 else 0.0 for p in agent.policy.parameters()}


def test_gsdes_log_standard_deviations_are_no_weights_though_a_matrix(toy):
    agent = build(PPO, toy(actions=BOX), [L2(0.1, parameters="weights")], use_sde=True)
    decays = {p: g["weight_decay"] for g in agent.policy.optimizer.param_groups for p in g["params"]}
    assert agent.policy.log_std.ndim == 2
    assert decays[agent.policy.log_std] == 0.0
    assert decays[agent.policy.action_net.weight] == 0.1
    with pytest.raises(InvalidSetting, match="Muon takes every matrix"):
        build(PPO, toy(actions=BOX), use_sde=True, policy_kwargs={"optimizer_class": MuonAdam})


def test_l2_needs_an_optimiser_that_can_decay(toy):
    rmsprop = {"optimizer_class": torch.optim.RMSprop}
    build(PPO, toy(), [L2(0.1)], policy_kwargs=rmsprop)
    with pytest.raises(InvalidSetting, match="'decoupled_weight_decay', which RMSprop lacks"):
        build(PPO, toy(), [L2(0.1, decoupled=True)], policy_kwargs=rmsprop)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L2(-1.0), "strength of at least 0, not -1.0"),
        (lambda: L2(math.nan), "strength of at least 0, not nan"),
        (lambda: L2(1.0, parameters="biases"), "'biases'. Known: all, weights"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(InvalidSetting, match=message):
        make()
