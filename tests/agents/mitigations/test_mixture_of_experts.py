"""A mixture of experts: what it says, whom its gradient reaches, and that all instruments see all of it."""

import math

import pytest
import torch
from gymnasium import spaces
from torch import nn

from pliant.agents import (
    DQN,
    PPO,
    Classifier,
    ContinualBackprop,
    EffectiveRank,
    FullReset,
    InvalidSetting,
    Isotropy,
    LayerReset,
    MixtureOfExperts,
    PlasticityInjection,
    ReDo,
    Update,
)
from pliant.agents.mitigations.isotropy import isotropy_penalty
from pliant.agents.mitigations.mixture_of_experts import experts_in_use
from pliant.agents.mixture import Gate, Mixture, expert_weights, weighted_rows
from pliant.agents.wiring import trace

ALL = pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
BOTH = pytest.mark.parametrize("policy", ["mlp", "cnn"])
BOX = spaces.Box(-1, 1, (2,))
NETWORK = {PPO: "actor", DQN: "q", Classifier: "classifier"}


def mixture(agent):
    (found,) = agent.mixtures().values()
    return found


def linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(rows))
    return layer


# The mixture ------------------------------------------------------------------------------------------------


def test_the_best_logits_share_the_weight_by_their_softmax_and_the_others_have_none():
    weights = expert_weights(torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -5.0]]), active=2)
    e = math.e
    torch.testing.assert_close(
        weights, torch.tensor([[0, e / (e + 1), 1 / (e + 1)], [e / (e + 1), 1 / (e + 1), 0]])
    )
    assert weights[0, 0] == 0
    assert weights[1, 2] == 0


def test_of_equal_logits_the_first_count():
    assert expert_weights(torch.zeros(1, 40), active=3).nonzero()[:, 1].tolist() == [0, 1, 2]


def test_a_mixture_says_the_weighted_sum_of_what_its_experts_say():
    experts = [nn.Sequential(linear([float(i), 0.0], [0.0, 1.0])) for i in (1, 10, 100)]
    gate = Gate(nn.Sequential(linear([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])), active=2)
    said = Mixture(experts, gate)(torch.tensor([[2.0, 3.0], [1.0, -1.0]]))
    # Logits (0, 2, 3): experts 10 and 100, by 1 : e. Logits (0, 1, -1): experts 1 and 10, by 1 : e.
    e = math.e
    torch.testing.assert_close(
        said, torch.tensor([[(20 + 200 * e) / (1 + e), 3.0], [(1 + 10 * e) / (1 + e), -1.0]])
    )


def test_rows_are_the_features_times_the_weights_side_by_side():
    weights = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    features = [torch.tensor([[4.0, 8.0], [1.0, 2.0]]), torch.tensor([[4.0, 0.0], [5.0, 6.0]])]
    rows = weighted_rows(weights, features)
    assert rows.tolist() == [[1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 0.0, 0.0]]


@pytest.mark.parametrize(("load", "known"), [([1.0, 0.0], 1.0), ([0.25] * 4, 4.0), ([0.5, 0.5, 0.0], 2.0)])
def test_experts_in_use_are_counted_by_the_entropy_of_their_load(load, known):
    assert experts_in_use(torch.tensor(load)) == pytest.approx(known)


# In an agent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "actions"), [(PPO, None), (PPO, BOX), (DQN, None), (Classifier, None)])
@BOTH
def test_one_expert_is_the_plain_agent_to_the_last_bit(algorithm, actions, policy, make, observe, outputs):
    def train(mitigations):
        # No clipping of the gradient: its norm sums parameters in an order that a mixture changes.
        agent = make(algorithm, mitigations, policy, actions=actions, max_grad_norm=1e6)
        begun = outputs(agent, observe(policy))
        agent.set_random_seed(3)  # the gate has been drawn since
        agent.learn(128)
        return begun, outputs(agent, observe(policy)), agent

    begun, learned, _ = train([])
    begun_as_one, learned_as_one, agent = train([MixtureOfExperts(experts=1, active=1)])
    assert isinstance(mixture(agent), Mixture)
    assert torch.equal(begun, begun_as_one)
    assert torch.equal(learned, learned_as_one)
    assert not torch.equal(begun, learned)


@BOTH
@ALL
def test_the_first_expert_is_the_plain_network_and_the_others_are_drawn_like_it(
    algorithm, policy, make, observe
):
    plain = make(algorithm, [], policy)
    agent = make(algorithm, [MixtureOfExperts(4, 2)], policy)
    _, parts = plain.deciding()
    own = [p for part in parts for p in part.parameters()]
    experts = [list(expert.parameters()) for expert in mixture(agent).experts]
    assert all(torch.equal(a, b) for a, b in zip(experts[0], own, strict=True))
    for i, expert in enumerate(experts):
        for other in experts[:i]:
            assert all(a.shape == b.shape for a, b in zip(expert, other, strict=True))
            assert not any(torch.equal(a, b) for a, b in zip(expert, other, strict=True) if a.ndim > 1)
        for p, q in zip(expert, own, strict=True):
            if p.ndim > 1 and algorithm is PPO:  # stable-baselines3's orthogonal rows and columns
                norms = [torch.linalg.matrix_norm(w, 2) for w in (p, q)]
                torch.testing.assert_close(*norms)
    hidden, logits = mixture(agent).gate.body[:-1], mixture(agent).gate.body[-1]
    assert [p.shape for p in hidden.parameters()] == [p.shape for p in own[:-2]]
    assert logits.weight.shape == (4, own[-2].shape[1])
    if algorithm is PPO:
        torch.testing.assert_close(logits.weight @ logits.weight.T, torch.eye(4))


@pytest.mark.parametrize("scheme", ["lecun-uniform", "orthogonal"])
@ALL
def test_an_initialisation_draws_every_expert(scheme, algorithm, make):
    agent = make(algorithm, [MixtureOfExperts(3)], initialisation=scheme)
    layers = [m for m in mixture(agent).modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 4 * 3
    assert all((layer.bias == 0).all() for layer in layers)
    firsts = [expert[0].weight for expert in mixture(agent).experts]
    assert not torch.equal(firsts[0], firsts[1])


@ALL
def test_gradients_reach_the_experts_that_count_and_no_others(algorithm, make, observe):
    agent = make(algorithm, [MixtureOfExperts(5, 2)])
    seen = observe(count=1)
    (weights,) = agent.expert_weights(seen).values()
    assert (weights > 0).sum() == 2
    outputs = next(iter(agent.objectives().values())).outputs
    said = outputs(type("Batch", (), {"observations": seen, "classes": None}))
    said.square().sum().backward()
    for i, expert in enumerate(mixture(agent).experts):
        reached = any(p.grad.abs().sum() > 0 for p in expert.parameters())
        assert reached == (weights[0, i] > 0)
        assert reached or all((p.grad == 0).all() for p in expert.parameters())
    assert all(p.grad.abs().sum() > 0 for p in mixture(agent).gate.body[-1].parameters())


def test_ppos_critic_and_deviation_are_as_they_were(make, observe):
    plain, agent = make(PPO, actions=BOX), make(PPO, [MixtureOfExperts()], actions=BOX)
    assert torch.equal(plain.policy.predict_values(observe()), agent.policy.predict_values(observe()))
    shapes = [{n: p.shape for n, p in a.networks()["critic"].items()} for a in (plain, agent)]
    assert shapes[0] == shapes[1]
    assert plain.networks()["log_std"].keys() == agent.networks()["log_std"].keys()
    assert plain.networks().keys() == agent.networks().keys()


def test_dqns_target_is_a_mixture_too_and_follows(make, observe):
    agent = make(DQN, [MixtureOfExperts(3)], learning_rate=1e-2, target_update_interval=10**6)
    assert torch.equal(agent.q_net(observe()), agent.q_net_target(observe()))
    agent.learn(60)
    assert not torch.equal(agent.q_net(observe()), agent.q_net_target(observe()))
    agent.follow()
    assert torch.equal(agent.q_net(observe()), agent.q_net_target(observe()))


@BOTH
@ALL
def test_a_fresh_twin_has_other_experts_of_the_same_shape(algorithm, policy, make):
    agent = make(algorithm, [MixtureOfExperts(3)], policy)
    kept = {n: p.clone() for n, p in agent.policy.named_parameters()}
    twin = dict(agent.fresh().policy.named_parameters())
    assert {n: p.shape for n, p in twin.items()} == {n: p.shape for n, p in kept.items()}
    for part in ("experts.0", "experts.2", "gate"):
        assert any(part in n and not torch.equal(p, kept[n]) for n, p in twin.items())
    assert all(torch.equal(p, kept[n]) for n, p in agent.policy.named_parameters())


@ALL
def test_the_log_says_how_many_experts_the_latest_minibatch_used(algorithm, make, observe):
    mitigation = MixtureOfExperts(4, 2)
    agent = make(algorithm, [mitigation])
    assert mitigation.values() == {}
    agent.learn(48)
    mitigation.after_update(agent, Update(0, observe()))
    (weights,) = agent.expert_weights(observe()).values()
    load = weights.mean(dim=0)
    known = torch.exp(-(load * load.clamp(min=1e-30).log()).sum()).item()
    assert mitigation.values() == pytest.approx({"experts_in_use": known}, rel=1e-5)
    assert 1 <= known <= 4
    state = torch.get_rng_state()
    assert mitigation.state() == mitigation.values()
    assert torch.equal(state, torch.get_rng_state())


# The units --------------------------------------------------------------------------------------------------


@ALL
def test_every_hidden_layer_of_every_expert_and_of_the_gate_has_units(algorithm, make, observe):
    agent, network = make(algorithm, [MixtureOfExperts(3)]), NETWORK[algorithm]
    names = [f"{network}/{part}/{i}" for part in ("expert-0", "expert-1", "expert-2", "gate") for i in (0, 1)]
    critic = ["critic/0", "critic/1"] if algorithm is PPO else []
    assert list(agent.hidden_layers()) == names + critic
    assert list(agent.features(observe())) == [*names, *critic, f"{network}/mixture"]
    wiring = trace(agent)
    assert list(wiring.layers) == names + critic
    assert wiring.skipped == {}
    for i, expert in enumerate(mixture(agent).experts):
        first, second = (wiring.layers[f"{network}/expert-{i}/{depth}"] for depth in (0, 1))
        assert (first.incoming, first.consumers) == (expert[0], (expert[2],))
        assert (second.incoming, second.consumers) == (expert[2], (expert[4],))


@BOTH
@ALL
def test_the_heads_are_the_last_layer_of_every_expert_and_of_the_gate(algorithm, policy, make):
    agent = make(algorithm, [MixtureOfExperts(3)], policy)
    wiring, mixed = trace(agent), mixture(agent)
    heads = [*(expert[-1] for expert in mixed.experts), mixed.gate.body[-1]]
    assert list(wiring.heads) == heads + ([agent.policy.value_net] if algorithm is PPO else [])
    names = {module: name for name, module in agent.policy.named_modules()}
    for part, chain in zip([*mixed.experts, mixed.gate.body], wiring.order, strict=False):
        own = [names[m] for m in part if isinstance(m, nn.Linear)]
        assert list(chain[-len(own) :]) == own
        assert len(chain) - len(own) == (4 if policy == "cnn" else 0)  # the extractor's, which they share
    assert len(wiring.order) == len(wiring.heads)


@ALL
def test_a_dead_unit_of_an_expert_is_revived_and_no_output_changes(algorithm, make, observe, outputs):
    agent = make(algorithm, [MixtureOfExperts(3), ReDo(threshold=0.0)])
    agent.learn(48)
    layer = mixture(agent).experts[1][2]
    with torch.no_grad():
        layer.weight[5] = 0
        layer.bias[5] = -1
    said = outputs(agent, observe())
    agent.mitigations[1].recycle(agent)
    assert torch.equal(outputs(agent, observe()), said)
    assert layer.weight[5].abs().sum() > 0


@ALL
def test_a_reset_of_the_last_layer_draws_that_of_each_expert_and_of_the_gate(algorithm, make):
    agent = make(algorithm, [MixtureOfExperts(3), LayerReset(1)])
    agent.learn(48)
    before = {n: p.clone() for n, p in agent.policy.named_parameters() if "target" not in n}
    agent.start_task(1)
    moved = {n for n, p in agent.policy.named_parameters() if n in before and not torch.equal(p, before[n])}
    names = {module: name for name, module in agent.policy.named_modules()}
    heads = {names[head] for head in trace(agent).heads}
    # The biases of an expert that no sample has chosen yet are still the zeros that they are drawn as.
    assert {f"{head}.weight" for head in heads} <= moved
    assert moved <= {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}


@ALL
def test_injecting_into_every_expert_and_the_gate_changes_no_output(algorithm, make, observe, outputs):
    agent = make(algorithm, [PlasticityInjection(), MixtureOfExperts(3)], learning_rate=1e-2)
    agent.learn(48)
    said = outputs(agent, observe())
    agent.start_task(1)
    assert torch.equal(outputs(agent, observe()), said)
    assert list(agent.hidden_layers())[:2] == [f"{NETWORK[algorithm]}/expert-0/{i}" for i in (0, 1)]
    agent.learn(48)
    assert not torch.equal(outputs(agent, observe()), said)


@BOTH
@ALL
def test_units_are_replaced_and_networks_reset_beside_it(algorithm, policy, make, parameters):
    others = [ContinualBackprop(replacement_rate=0.1, maturity=2), EffectiveRank(1e-3), FullReset()]
    agent = make(algorithm, [MixtureOfExperts(3), *others], policy)
    for task in range(2):
        agent.start_task(task)
        agent.learn(48, reset_num_timesteps=task == 0)
    assert others[0].values()["cbp_replaced"] > 0
    assert all(p.isfinite().all() for p in parameters(agent).values())


def test_effective_rank_is_that_of_hidden_layers_not_of_the_mixture(make, observe):
    mitigation = EffectiveRank(mode="penalty")
    agent = make(DQN, [MixtureOfExperts(2), mitigation])
    features, shares = mitigation._selected(agent, observe())
    assert len(features) == len(agent.hidden_layers()) == 6
    assert sum(shares) == pytest.approx(1)


# SPHERE -----------------------------------------------------------------------------------------------------


@BOTH
@ALL
def test_the_penalty_is_that_of_the_weighted_last_features_of_all_experts_alone(
    algorithm, policy, make, observe
):
    isotropy = Isotropy(strength=0.3)
    agent, network = make(algorithm, [isotropy, MixtureOfExperts(3, 2)], policy), NETWORK[algorithm]
    seen = observe(policy)
    features, (weights,) = agent.features(seen), agent.expert_weights(seen).values()
    last = "0" if policy == "cnn" else "1"
    rows = [
        torch.cat([weights[n, i] * features[f"{network}/expert-{i}/{last}"][n] for i in range(3)])
        for n in range(len(weights))
    ]
    assert torch.equal(features[f"{network}/mixture"], torch.stack(rows))
    penalty = isotropy.penalty(agent, seen)
    torch.testing.assert_close(penalty, 0.3 * isotropy_penalty(torch.stack(rows)))
    penalty.backward()
    reached = {n for n, p in agent.policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(".gate." in name for name in reached)
    for i in range(3):
        assert any(f".experts.{i}." in name for name in reached) == bool((weights[:, i] > 0).any())
    assert not any("value_net" in name for name in reached)
    heads = [expert[-1].weight.grad for expert in mixture(agent).experts]
    assert all(grad is None or (grad == 0).all() for grad in heads)


def test_the_penalty_is_a_share_of_the_loss_of_the_network_that_is_the_mixture(make):
    agent = make(PPO, [MixtureOfExperts(3), Isotropy(ratio=0.05)], ent_coef=0.3)
    agent.learn(32)
    batch = agent.prepare(next(agent.rollout_buffer.get(8)))
    loss, penalties = agent._loss_and_penalties(batch, agent._taps())
    penalty = penalties["the penalty of Isotropy"]
    actor = (loss.parts["policy_loss"] + 0.3 * loss.parts["entropy_loss"]).abs()
    torch.testing.assert_close(penalty, (0.05 * actor).detach(), rtol=1e-4, atol=1e-7)


def test_hidden_layers_can_be_chosen_instead_of_the_mixture(make, observe):
    isotropy = Isotropy(strength=1.0, layers=["critic/1", "actor/expert-1/*"])
    agent = make(PPO, [MixtureOfExperts(2), isotropy])
    features = agent.features(observe())
    names = ("critic/1", "actor/expert-1/0", "actor/expert-1/1")
    expected = sum(isotropy_penalty(features[name]) for name in names)
    torch.testing.assert_close(isotropy.penalty(agent, observe()), expected)


# The classifier's heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_head", ["keep", "zero", "redraw"])
def test_a_new_head_is_one_for_every_expert_and_the_gate_stays(new_head, make, observe):
    agent = make(Classifier, [MixtureOfExperts(3)], initialisation="lecun-uniform", new_head=new_head)
    agent.learn(48)
    before = {n: p.clone() for n, p in agent.policy.named_parameters()}
    agent.start_task(1)
    moved = {n for n, p in agent.policy.named_parameters() if not torch.equal(p, before[n])}
    heads = {f"head.experts.{i}.4.{kind}" for i in range(3) for kind in ("weight", "bias")}
    assert moved == (set() if new_head == "keep" else heads)
    if new_head == "zero":
        assert (agent.policy.logits(observe()) == 0).all()


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"experts": 0}, "experts must be a positive integer"),
        ({"active": 2.5}, "active must be a positive integer"),
        ({"experts": 2, "active": 3}, "active is 3, but there are only 2 experts"),
        ({"experts": 10**6}, "at most 1,000 are possible, not 1,000,000"),
    ],
)
def test_impossible_settings_are_refused(settings, reason):
    with pytest.raises(InvalidSetting, match=reason):
        MixtureOfExperts(**settings)


@BOTH
@ALL
def test_networks_without_a_hidden_layer_of_their_own_are_refused(algorithm, policy, make):
    with pytest.raises(InvalidSetting, match="give the network a hidden layer"):
        make(algorithm, [MixtureOfExperts()], policy, policy_kwargs={"net_arch": []})


def test_state_dependent_exploration_is_refused(make):
    with pytest.raises(InvalidSetting, match="use_sde = false"):
        make(PPO, [MixtureOfExperts()], actions=BOX, use_sde=True)


def test_the_choice_of_experts_does_not_depend_on_the_batch_around_a_sample(make, observe):
    agent = make(DQN, [MixtureOfExperts(6, 2)])
    (together,) = agent.expert_weights(observe(count=9)).values()
    (apart,) = agent.expert_weights(observe(count=9)[4:5]).values()
    torch.testing.assert_close(together[4:5], apart)
