"""Denormal numbers: gone from what training keeps, without a change of what it learns."""

import contextlib

import pytest
import torch

from pliant.agents import AGENTS, DQN, PPO, Classifier, denormals

SMALL = {
    PPO: {"n_steps": 32, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
    Classifier: {"batch_size": 8, "updates_per_rollout": 4},
}
LEAST = torch.finfo(torch.float32).tiny

pytestmark = pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the processor cannot flush them")


def dying(algorithm, env):
    """An agent whose hidden units are all dead; their moments are denormal."""
    net = {"net_arch": [8], "activation_fn": "relu", "optimizer_class": torch.optim.Adam}
    agent = algorithm("MlpPolicy", env, policy_kwargs=net, seed=0, device="cpu", **SMALL[algorithm])
    agent.learn(32)
    dead = [p for network in agent.networks().values() for p in list(network.values())[:2]]
    with torch.no_grad():
        for parameter in dead:
            if parameter.ndim == 1:
                parameter.fill_(-1e3)
    for parameter in dead:
        if parameter in agent.policy.optimizer.state:
            agent.policy.optimizer.state[parameter]["exp_avg"].fill_(LEAST / 4)
    return agent


def moments(agent):
    states = [agent.policy.optimizer.state[p] for p in agent.policy.parameters() if p.requires_grad]
    return [state["exp_avg"].clone() for state in states if state]


@pytest.mark.parametrize("algorithm", AGENTS.values())
def test_moments_of_dead_units_become_zero_and_what_is_learned_stays_the_same(
    algorithm, toy, monkeypatch: pytest.MonkeyPatch
):
    def after_training():
        agent = dying(algorithm, toy())
        agent.learn(64, reset_num_timesteps=False)
        return [p.detach().clone() for p in agent.policy.parameters()], moments(agent)

    flushed, without = after_training()
    monkeypatch.setattr(torch, "set_flush_denormal", lambda _: False)
    kept, with_denormals = after_training()
    assert not any(((m.abs() < LEAST) & (m != 0)).any() for m in without)
    assert any(((m.abs() < LEAST) & (m != 0)).any() for m in with_denormals)
    assert all(torch.equal(a, b) for a, b in zip(flushed, kept, strict=True))


def test_outside_of_training_everything_is_as_it_was(toy):
    assert not denormals.are_flushed()
    agent = PPO("MlpPolicy", toy(), seed=0, device="cpu", **SMALL[PPO])
    agent.learn(32)
    assert not denormals.are_flushed()
    with contextlib.suppress(ZeroDivisionError), denormals.flushed():
        assert denormals.are_flushed()
        with denormals.flushed():
            pass
        assert denormals.are_flushed()  # who had them flushed before keeps that
        raise ZeroDivisionError
    assert not denormals.are_flushed()
