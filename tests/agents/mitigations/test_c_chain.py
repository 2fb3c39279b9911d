"""C-CHAIN: no penalty for equal networks; the divergence, the data and the coefficient it claims."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from pliant.agents import DQN, PPO, CChain, Classifier, InvalidSetting, Update
from pliant.agents.mitigations.c_chain import categorical_churn, squared_churn

BOX = spaces.Box(-1, 1, (2,), np.float32)


def test_churn_is_zero_at_equal_outputs_and_positive_elsewhere():
    before = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    assert squared_churn(before, before).item() == 0
    divergence, _ = categorical_churn(before, before, [3, 2])
    assert divergence.item() == pytest.approx(0, abs=1e-7)
    assert squared_churn(before + 1, before).item() == pytest.approx(1)
    assert categorical_churn(before.flip(1), before, [3, 2])[0].item() > 0.1


def test_divergence_and_entropy_sum_to_the_cross_entropy_of_each_softmax():
    generator = torch.Generator().manual_seed(1)
    now, before = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    divergence, entropy = categorical_churn(now, before, [3, 2])
    cross = 0.0
    for part in (slice(0, 3), slice(3, 5)):
        cross += torch.nn.functional.cross_entropy(now[:, part], before[:, part].softmax(1)).item()
    assert (divergence + entropy).item() == pytest.approx(cross)
    probabilities = before[:, :3].softmax(1), before[:, 3:].softmax(1)
    assert entropy.item() == pytest.approx(sum(-(p * p.log()).sum(1).mean().item() for p in probabilities))


def shift(agent):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in agent.policy.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)


class Watched(CChain):
    """Keeps what it was given."""

    def penalty(self, agent, observations):
        penalty = super().penalty(agent, observations)
        if penalty is not None:
            self.seen.append((self._other.clone(), self._churn))
        return penalty


@pytest.mark.parametrize(("algorithm", "actions"), [(PPO, None), (PPO, BOX), (DQN, None), (Classifier, None)])
def test_the_penalty_compares_with_the_network_of_one_update_ago(algorithm, actions, make, observe):
    mitigation = CChain(initial=2.0, warmup=1000)
    agent = make(algorithm, [mitigation], actions=actions)
    agent.learn(40)
    mitigation.attach(agent)
    update = Update(0, observe(count=8))
    mitigation.before_update(agent, update)  # nothing before it yet
    assert mitigation.penalty(agent, update.observations) is None
    old = copy.deepcopy(agent.policy.state_dict())
    shift(agent)
    mitigation.before_update(agent, update)
    other = mitigation._other

    def says():
        if algorithm is DQN:
            return agent.q_net(other)
        if algorithm is Classifier:
            return agent.policy.logits(other)
        inner = agent.policy.get_distribution(other).distribution
        return inner.mean if actions is BOX else inner.logits

    now = says()
    present = copy.deepcopy(agent.policy.state_dict())
    agent.policy.load_state_dict(old)
    before = says()
    agent.policy.load_state_dict(present)
    if algorithm is Classifier:
        batch = agent._passes.take(8)
    else:
        samples = agent.replay_buffer.sample(8) if algorithm is DQN else next(agent.rollout_buffer.get(8))
        batch = agent.prepare(samples)
    agent.present_loss = agent.loss(batch)
    if actions is BOX or algorithm is DQN:
        expected = squared_churn(now, before)
    else:
        expected = categorical_churn(now, before, [3])[0]
    assert expected.item() > 1e-4
    assert mitigation.penalty(agent, update.observations).item() == pytest.approx(
        2 * expected.item(), rel=1e-4
    )
    assert mitigation.values() == pytest.approx(
        {"churn": expected.item(), "churn_coefficient": 2.0}, rel=1e-4
    )


def test_what_a_switch_does_to_the_network_is_no_churn(make, observe):
    mitigation = CChain(initial=2.0, warmup=1000)
    agent = make(Classifier, [mitigation], new_head="redraw")
    agent.learn(40)
    agent.start_task(1)
    mitigation.before_update(agent, Update(0, observe(count=8)))
    assert mitigation.penalty(agent, observe(count=8)) is None


@pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
def test_equal_networks_are_not_penalised(algorithm, make):
    mitigation = Watched()
    mitigation.seen = []
    make(algorithm, [mitigation], learning_rate=0.0).learn(64)
    assert mitigation.seen
    assert all(abs(churn) < 1e-7 for _, churn in mitigation.seen)


@pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
def test_the_penalty_is_taken_on_other_data(algorithm, make):
    mitigation = Watched()
    mitigation.seen = []
    minibatches = []
    agent = make(algorithm, [mitigation])
    before_update = mitigation.before_update
    mitigation.before_update = lambda agent, update: (
        minibatches.append(update.observations.clone()),
        before_update(agent, update),
    )
    agent.learn(64)
    others = [other for other, _ in mitigation.seen]
    assert len(others) == len(minibatches) - 1
    assert all(a.shape == b.shape for a, b in zip(others, minibatches[1:], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(others, minibatches[1:], strict=True))
    pool = torch.cat(minibatches)
    assert all((pool == row).all(1).any() for row in others[0]) or algorithm is DQN


def test_the_coefficient_is_the_ratio_of_the_means_after_the_warm_up(make):
    mitigation = CChain(ratio=3.0, initial=7.0, least=0.5, warmup=2, window=4)
    make(DQN, [mitigation])
    means = mitigation._means
    for step, (loss, churn) in enumerate([(-1.0, 2.0), (3.0, 1.0), (2.0, 0.5), (0.0, 0.0)]):
        assert mitigation.coefficient == 7.0 or step > 2  # the third closes the second
        means.add(loss, churn, group=step, window=4)
    weights = np.array([0.75**2, 0.75, 1])  # three groups are complete
    loss, churn = weights @ [1, 3, 2] / weights.sum(), weights @ [2, 1, 0.5] / weights.sum()
    assert mitigation.coefficient == pytest.approx(3 * loss / churn)
    mitigation.ratio = 1e-3
    assert mitigation.coefficient == 0.5


class Recorded(CChain):
    """Keeps the actor's loss and D + H of every update, with the rollout and the coefficient."""

    def penalty(self, agent, observations):
        coefficient, penalty = self.coefficient, super().penalty(agent, observations)
        if penalty is not None:
            loss = agent.losses_of_networks().get("actor", agent.present_loss.total)
            now = self._outputs(self._objective(agent), self._other)
            churn = sum(part.item() for part in self._distance(now, self._reference))
            self.seen.append((agent.num_timesteps, loss.item(), churn, coefficient))
        return penalty


@pytest.mark.parametrize("actions", [None, BOX], ids=["discrete", "continuous"])
def test_a_rollout_counts_by_its_average_or_where_actions_are_continuous_by_its_last_minibatch(actions, make):
    """Averages are of losses with their signs: that of near zero is the authors' in classic control."""
    mitigation = Recorded(ratio=1.0, warmup=1, window=10, least=0.0, initial=1.0)
    mitigation.seen = []
    make(PPO, [mitigation], actions=actions, learning_rate=1e-2).learn(64)
    rollouts = [np.array([entry[1:] for entry in mitigation.seen if entry[0] == steps]) for steps in (32, 64)]
    assert (rollouts[0][:, 2] == 1).all()  # the warm-up
    losses, churns, _ = rollouts[0].T
    assert losses.min() < 0 < losses.max()
    expected = abs(losses[-1]) / churns[-1] if actions is BOX else abs(losses.mean()) / churns.mean()
    assert rollouts[1][1:, 2] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("gradient_steps", [1, 4])
def test_dqn_and_the_classifier_count_gradient_updates(gradient_steps, make):
    mitigation = CChain()
    agent = make(DQN, [mitigation], gradient_steps=gradient_steps)
    agent.learn(64)
    assert mitigation._means.count == agent.gradient_updates - 2  # no penalty on the first; one is not closed
    mitigation = CChain()
    agent = make(Classifier, [mitigation])
    agent.learn(64)
    assert mitigation._means.count == agent.gradient_updates - 2


@pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
def test_the_coefficient_adapts_over_tasks_shorter_than_its_warm_up(algorithm, make):
    warmup = {PPO: 3, DQN: 15, Classifier: 12}[algorithm]
    mitigation = CChain(ratio=3.0, initial=7.0, least=0.0, warmup=warmup)
    agent = make(algorithm, [mitigation])
    coefficients = []
    for task in range(4):
        agent.start_task(task)
        coefficients.append(mitigation.coefficient)
        agent.learn(48, reset_num_timesteps=task == 0)
    assert coefficients[:2] == [7, 7]
    means = mitigation._means
    loss, churn = means.corrected(mitigation._strengths.window)
    assert means.count > warmup
    assert mitigation.coefficient == pytest.approx(3 * loss / (churn + 1e-8))
    assert mitigation.coefficient != 7


@pytest.mark.parametrize(("algorithm", "actions"), [(PPO, None), (PPO, BOX), (DQN, None), (Classifier, None)])
def test_a_saved_and_loaded_agent_goes_on_with_its_means(algorithm, actions, make, tmp_path):
    agent = make(algorithm, [CChain(warmup=3)], actions=actions)
    for task in range(2):
        agent.start_task(task)
        agent.learn(64, reset_num_timesteps=task == 0)
    agent.save(tmp_path / "agent")
    (own,), (loaded,) = agent.mitigations, algorithm.load(tmp_path / "agent").mitigations
    assert own._means.count > 2
    assert vars(loaded._means) == vars(own._means)
    assert loaded.coefficient == own.coefficient != own._strengths.initial


def test_defaults_are_those_of_the_authors_code_for_each_kind(make):
    def strengths(algorithm, actions=None):
        mitigation = CChain()
        make(algorithm, [mitigation], actions=actions)
        return tuple(mitigation._strengths)

    assert strengths(PPO) == (1e4, 1, 1, 10, 50)
    assert strengths(PPO, BOX) == (0.05, 100, 0, 50, 100)
    assert strengths(DQN) == (0.01, 50, 0, 10_000, 50_000)
    assert strengths(Classifier) == (0.01, 1, 0, 1_000, 10_000)


def test_it_reduces_churn(make):
    def churn(initial):
        mitigation = Watched(initial=initial, warmup=10_000)
        mitigation.seen = []
        make(DQN, [mitigation], learning_rate=1e-2).learn(400)
        return np.mean([churn for _, churn in mitigation.seen])

    assert churn(30.0) < 0.8 * churn(0.0)


def test_policies_without_a_known_churn_are_refused(make):
    with pytest.raises(InvalidSetting, match="no churn for the action space MultiBinary"):
        make(PPO, [CChain()], actions=spaces.MultiBinary(2))


@pytest.mark.parametrize(("settings", "message"), [({"ratio": -1.0}, "ratio"), ({"window": 0}, "window")])
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InvalidSetting, match=message):
        CChain(**settings)
