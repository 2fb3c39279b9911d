"""The instruments on the agents themselves."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from pliant.agents import DQN, PPO
from pliant.diagnostics import SnapshotSettings, errors, take_snapshot
from pliant.diagnostics.objectives import (
    check_ratios,
    joinable,
    objective_operator,
    outputs_closure,
)
from pliant.diagnostics.operators import GaussNewtonOperator, HessianOperator, dense
from pliant.envs import Task, make_env

EVERYTHING = SnapshotSettings(
    operators=("hessian", "ggn", "kfac", "gram"),
    gram_samples=8,
    minibatches=5,
    learning_rate=0.1,
    updates=100,
)


def ppo(env="Pendulum-v1", **options):
    return PPO(
        "MlpPolicy",
        gym.make(env),
        n_steps=64,
        policy_kwargs={"net_arch": [6, 5]},
        seed=0,
        device="cpu",
        **options,
    )


def gathered(agent, env="Pendulum-v1", samples=60):
    instance = gym.make(env)
    try:
        return agent.gather(instance, samples, seed=3)
    finally:
        instance.close()


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_ppos_total_is_block_diagonal_and_its_union_is_its_hessian(env):
    agent = ppo(env)
    batch = gathered(agent, env)
    objectives = agent.objectives()
    assert joinable(objectives) == {"total": ("actor", "critic")}
    snapshot = take_snapshot(agent, batch, EVERYTHING, strict=True)
    whole = torch.linalg.eigvalsh(dense(objective_operator(objectives["total"], batch))).numpy()
    assert np.sort(snapshot.spectra["total"].nodes[0]) == pytest.approx(whole, abs=3e-6 * np.abs(whole).max())
    assert not snapshot.failures


def test_groups_of_ppos_parameters_are_measured_by_name():
    agent = ppo()
    parts = ("actor/log_std", "critic/mlp_extractor.value_net.0", "total/critic")
    snapshot = take_snapshot(
        agent, gathered(agent), dataclasses.replace(EVERYTHING, parts=parts), strict=True
    )
    sizes = {part: snapshot.spectra[part].size for part in parts}
    assert sizes == {"actor/log_std": 1, "critic/mlp_extractor.value_net.0": 24, "total/critic": 65}
    # The Fisher information of a log standard deviation is 2.
    assert snapshot.spectra["actor/log_std-ggn"].nodes[0] == pytest.approx([2.0], abs=1e-5)


def test_ppos_fisher_is_positive_and_holds_two_for_each_log_deviation():
    agent = ppo()
    snapshot = take_snapshot(agent, gathered(agent), EVERYTHING, strict=True)
    fisher = snapshot.spectra["actor-ggn"]
    assert fisher.nodes.min() > -1e-6 * fisher.norm
    assert np.abs(fisher.nodes - 2.0).min() < 1e-4
    assert snapshot.spectra["actor"].nodes.min() < -1e-4  # the surrogate itself is indefinite


def test_dqns_gauss_newton_is_that_of_its_td_loss():
    agent = DQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": [6]}, seed=0, device="cpu")
    snapshot = take_snapshot(agent, gathered(agent, "CartPole-v1"), EVERYTHING, strict=True)
    assert {"q", "q-ggn", "q-kfac", "q-gram"} <= set(snapshot.spectra)
    assert snapshot.spectra["q-ggn"].nodes.min() > -1e-6 * snapshot.spectra["q-ggn"].norm
    assert "switch/q/trainability/verdict" in snapshot.scalars()


def test_micro_batches_give_ppos_hessian_of_the_whole_batch():
    agent = ppo()
    batch = gathered(agent)
    for objective in agent.objectives().values():
        whole = dense(objective_operator(objective, batch))
        parts = dense(objective_operator(objective, batch, micro_batch=17))
        assert torch.allclose(whole, parts, atol=1e-5 * float(whole.abs().max()))


def convolutional_dqn():
    task = Task(env="MiniGrid-Empty-5x5-v0", length=1)
    agent = DQN(
        "MlpPolicy",
        make_env(task, seed=0),
        policy_kwargs={
            "features_extractor_class": "small-cnn",
            "features_extractor_kwargs": {"features_dim": 4, "activation_fn": "tanh"},
            "net_arch": [],
        },
        buffer_size=10,
        seed=0,
        device="cpu",
    )
    return agent, agent.gather(make_env(task, seed=1), 16, seed=3)


@pytest.mark.parametrize("kind", ["Pendulum-v1", "CartPole-v1", "convolutional"])
def test_batched_products_equal_looped_ones_for_every_objective(kind):
    if kind == "convolutional":
        agent, batch = convolutional_dqn()
    else:
        agent = ppo(kind)
        batch = gathered(agent, kind)
    for objective in agent.objectives().values():
        vectors = torch.randn(
            (3, sum(p.numel() for p in objective.parameters.values())),
            generator=torch.Generator().manual_seed(0),
        )
        pairs = [
            [
                HessianOperator(lambda o=objective: o.loss(batch), objective.parameters, batched)
                for batched in (True, False)
            ]
        ]
        if objective.output_loss is not None:
            closure = outputs_closure(objective, batch)
            pairs.append([GaussNewtonOperator(closure, objective.parameters, b) for b in (True, False)])
        for together, looped in pairs:
            assert (together.batched, looped.batched) == (True, False)
            expected = looped(vectors)
            assert torch.allclose(together(vectors), expected, atol=2e-5 * float(expected.abs().max()))


def test_a_batch_of_the_policy_before_training_is_refused():
    agent = ppo(learning_rate=1e-2)
    batch = gathered(agent)
    assert check_ratios(agent, batch) < 1e-5
    agent.learn(64)
    with pytest.raises(errors.RatioNotOne, match="gather afresh"):
        take_snapshot(agent, batch, strict=True)
    take_snapshot(agent, batch, SnapshotSettings(unclipped=True), strict=True)
