"""The instruments on the agents themselves."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch

from pliant.agents import DQN, PPO, Classifier, Isotropy, MixtureOfExperts
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
    batch = gathered(agent, "CartPole-v1")
    batch = batch._replace(targets=0.1 * batch.targets)  # errors within Huber's parabola
    snapshot = take_snapshot(agent, batch, EVERYTHING, strict=True)
    assert {"q", "q-ggn", "q-kfac", "q-gram"} <= set(snapshot.spectra)
    assert snapshot.spectra["q-ggn"].nodes.min() > -1e-6 * snapshot.spectra["q-ggn"].norm
    assert "switch/q/trainability/verdict" in snapshot.scalars()


def test_td_errors_beyond_hubers_delta_leave_the_number_that_says_why_there_is_no_verdict():
    agent = DQN("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs={"net_arch": [6]}, seed=0, device="cpu")
    batch = gathered(agent, "CartPole-v1")
    batch = batch._replace(targets=100 + batch.targets)
    snapshot = take_snapshot(agent, batch, EVERYTHING, strict=True)
    found = {tag: value for tag, value in snapshot.scalars().items() if "trainability" in tag}
    assert found == {"switch/q/trainability/covered": 0.0}
    assert not snapshot.failures


def test_a_policys_divergence_from_itself_is_nothing_to_learn():
    agent = ppo("CartPole-v1")
    values = take_snapshot(agent, gathered(agent, "CartPole-v1"), EVERYTHING, strict=True).values
    assert {tag.split("/")[1] for tag in values if "trainability" in tag or "readiness" in tag} == {"critic"}


def classifier(hidden=(6, 5), samples=60):
    """Of digits, on the first few of their features, and a batch of others."""
    agent = Classifier(
        "MlpPolicy",
        gym.make("pliant/Stream-v0", samples=90, classes=[0, 1, 2], relabel=True),
        policy_kwargs={"net_arch": list(hidden), "activation_fn": "tanh"},
        seed=0,
        device="cpu",
    )
    env = gym.make("pliant/Stream-v0", samples=90, classes=[3, 5, 8], relabel=True)
    return agent, agent.gather(env, samples, seed=3)


def test_a_linear_classifiers_curvature_is_that_of_softmax_regression():
    agent, batch = classifier(hidden=())
    objective = agent.objectives()["classifier"]
    with torch.no_grad():
        p = agent.policy.logits(batch.observations).softmax(1).double()
    x = torch.nn.functional.pad(batch.observations.double(), (0, 1), value=1.0)  # a one for the bias
    outer = torch.diag_embed(p) - p[:, :, None] * p[:, None]  # [N, K, K]
    full = torch.einsum("nkl,nd,ne->kdle", outer, x, x) / len(x)  # [K, D + 1, K, D + 1]
    weights, biases = slice(None, -1), -1
    classes, features = 3, 64
    expected = torch.zeros(classes * (features + 1), classes * (features + 1), dtype=torch.float64)
    cut = classes * features  # all weights come before all biases
    expected[:cut, :cut] = full[:, weights, :, weights].reshape(cut, cut)
    expected[:cut, cut:] = full[:, weights, :, biases].reshape(cut, classes)
    expected[cut:, :cut] = expected[:cut, cut:].T
    expected[cut:, cut:] = full[:, biases, :, biases]
    for operator in ("hessian", "ggn"):
        found = dense(objective_operator(objective, batch, operator))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_the_classifiers_gauss_newton_matrix_is_positive_and_its_gram_matrix_has_its_spectrum():
    agent, batch = classifier()
    settings = dataclasses.replace(EVERYTHING, gram_samples=60)
    snapshot = take_snapshot(agent, batch, settings, strict=True)
    ggn, gram = (np.sort(snapshot.spectra[f"classifier-{kind}"].nodes[0]) for kind in ("ggn", "gram"))
    assert ggn.min() > -1e-6 * ggn.max()
    assert gram == pytest.approx(ggn, abs=1e-5 * ggn.max())
    assert snapshot.spectra["classifier"].nodes.min() < -1e-4  # the Hessian has negative eigenvalues, too
    assert "switch/classifier/trainability/verdict" in snapshot.scalars()
    assert {"plasticity/classifier/0/effective_rank", "plasticity/classifier/weight_norm"} <= set(
        snapshot.values
    ) | set(snapshot.scalars())


def test_the_classifiers_k_fac_is_exact_for_one_sample():
    agent, batch = classifier(samples=1)
    parts = [f"classifier/{layer}" for layer in ("body.0", "body.2", "head")]
    settings = SnapshotSettings(operators=("ggn", "kfac"), parts=tuple(parts), minibatches=0, features=False)
    snapshot = take_snapshot(agent, batch, settings, strict=True)
    for part in parts:
        exact, factored = (np.sort(snapshot.spectra[f"{part}-{kind}"].nodes[0]) for kind in ("ggn", "kfac"))
        assert factored == pytest.approx(exact, abs=2e-6 * exact.max())


@pytest.mark.parametrize("kind", ["ppo", "classifier"])
def test_micro_batches_give_the_hessian_of_the_whole_batch(kind):
    agent, batch = classifier() if kind == "classifier" else ((one := ppo()), gathered(one))
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


@pytest.mark.parametrize("kind", ["Pendulum-v1", "CartPole-v1", "convolutional", "classifier", "mixture"])
def test_batched_products_equal_looped_ones_for_every_objective(kind):
    if kind in ("convolutional", "classifier", "mixture"):
        makers = {"convolutional": convolutional_dqn, "classifier": classifier, "mixture": mixture}
        agent, batch = makers[kind]()
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


def mixture(algorithm="ppo", samples=60):
    """Three experts, two of which count for a sample, and a batch."""
    mitigations = [MixtureOfExperts(3, 2), Isotropy()]
    if algorithm == "ppo":
        agent = ppo(mitigations=mitigations)
        return agent, gathered(agent, samples=samples)
    agent, batch = classifier((4,), samples)
    agent = Classifier(
        "MlpPolicy", agent.get_env(), policy_kwargs=agent.policy_kwargs, mitigations=mitigations, seed=0
    )
    return agent, batch


def test_a_mixture_of_experts_is_measured_by_every_instrument():
    agent, batch = mixture()
    snapshot = take_snapshot(agent, batch, EVERYTHING, strict=True)
    assert not snapshot.failures
    objective = agent.objectives()["actor"]
    for operator, key in (("hessian", "actor"), ("ggn", "actor-ggn")):
        exact = torch.linalg.eigvalsh(dense(objective_operator(objective, batch, operator))).numpy()
        found = np.sort(snapshot.spectra[key].nodes[0])
        assert found[-20:] == pytest.approx(exact[-20:], abs=3e-5 * np.abs(exact).max())
    parts = [f"action_net.experts.{i}" for i in range(3)] + ["action_net.gate.body"]
    layers = {f"actor-kfac.{part}.{depth}" for part in parts for depth in (0, 2, 4)}
    assert layers <= snapshot.spectra.keys()
    scalars = snapshot.scalars()
    hidden = [f"expert-{i}/{d}" for i in range(3) for d in (0, 1)] + ["gate/0", "gate/1", "mixture"]
    assert {f"plasticity/actor/{name}/effective_rank" for name in hidden} <= scalars.keys()
    # Whoever is chosen for no sample is dead in the mixture, whatever its own units say.
    (weights,) = agent.expert_weights(batch.observations).values()
    assert scalars["plasticity/actor/mixture/dead"] >= (weights == 0).all(0).float().mean().item() - 1e-6


def test_an_expert_that_counts_for_no_sample_has_no_curvature():
    agent, _ = mixture()
    with torch.no_grad():
        agent.policy.action_net.gate.body[-1].bias.copy_(torch.tensor([50.0, 50.0, -50.0]))
    parts = tuple(f"actor/action_net.experts.{i}" for i in range(3))
    settings = dataclasses.replace(EVERYTHING, operators=("hessian", "ggn"), parts=parts, updates=0)
    snapshot = take_snapshot(agent, gathered(agent), settings, strict=True)
    for operator in ("", "-ggn"):
        sizes = [np.abs(snapshot.spectra[f"{part}{operator}"].nodes[0]).max() for part in parts]
        assert sizes[2] == 0 < min(sizes[:2])


@pytest.mark.parametrize("algorithm", ["ppo", "classifier"])
def test_the_k_fac_of_a_mixture_is_exact_for_one_sample(algorithm):
    agent, batch = mixture(algorithm, samples=1)
    name, home = ("actor", "action_net") if algorithm == "ppo" else ("classifier", "head")
    parts = [f"{name}/{home}.experts.{i}.0" for i in range(3)] + [f"{name}/{home}.gate.body.0"]
    settings = SnapshotSettings(operators=("ggn", "kfac"), parts=tuple(parts), minibatches=0, features=False)
    snapshot = take_snapshot(agent, batch, settings, strict=True)
    for part in parts:
        exact, factored = (np.sort(snapshot.spectra[f"{part}-{kind}"].nodes[0]) for kind in ("ggn", "kfac"))
        assert factored == pytest.approx(exact, abs=1e-5 * exact.max())


def test_snapshots_leave_the_training_of_a_mixture_as_it_is():
    def train(look):
        agent, _ = mixture()
        for _ in range(2):
            agent.learn(64)
            if look:
                take_snapshot(agent, gathered(agent), EVERYTHING, strict=True)
        return agent.policy.state_dict()

    alone, watched = train(look=False), train(look=True)
    assert all(torch.equal(value, watched[name]) for name, value in alone.items())
