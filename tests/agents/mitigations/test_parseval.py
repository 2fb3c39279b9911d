"""Parseval: zero exactly for orthogonal rows of the stated length."""

import pytest
import torch
from torch import nn

from pliant.agents import DQN, PPO, Classifier, InvalidSetting, Parseval
from pliant.agents.mitigations.parseval import parseval_penalty


def test_it_is_zero_for_orthogonal_rows_of_squared_length_s():
    weight = torch.empty(3, 5, dtype=torch.float64)
    nn.init.orthogonal_(weight, gain=2**0.5)
    assert parseval_penalty(weight, 2.0).item() == pytest.approx(0, abs=1e-20)
    assert parseval_penalty(weight, 1.0).item() == pytest.approx(3)
    weight[0] = weight[1]  # parallel
    assert parseval_penalty(weight, 2.0).item() == pytest.approx(2 * 2**2)


def test_the_penalty_and_its_gradient_are_those_of_the_formula():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    # W W' = [[5, 11], [11, 25]], less 2 I: [[3, 11], [11, 23]]
    penalty = parseval_penalty(weight, 2.0)
    assert penalty.item() == 3**2 + 2 * 11**2 + 23**2
    (gradient,) = torch.autograd.grad(penalty, weight)
    deviation = torch.tensor([[3.0, 11.0], [11.0, 23.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient, 4 * deviation @ weight.detach())


def test_more_rows_than_columns_leave_the_stated_rest():
    weight = torch.zeros(5, 2, dtype=torch.float64)
    weight[:2] = 3**0.5 * torch.eye(2, dtype=torch.float64)
    assert parseval_penalty(weight, 3.0).item() == pytest.approx((5 - 2) * 3**2)


def test_a_kernel_counts_as_the_matrix_of_its_channels():
    kernel = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(parseval_penalty(kernel, 1.0), parseval_penalty(kernel.view(4, 18), 1.0))


@pytest.mark.parametrize("policy", ["mlp", "cnn"])
@pytest.mark.parametrize("algorithm", [PPO, DQN, Classifier])
def test_every_layer_but_the_last_counts_scaled_by_its_width(algorithm, policy, make, observe):
    mitigation = Parseval(0.1, scale=1.5)
    agent = make(algorithm, [mitigation], policy=policy)
    layers = [m for m in agent.policy.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if algorithm is PPO:
        heads = [agent.policy.action_net, agent.policy.value_net]
    elif algorithm is Classifier:
        heads = [agent.policy.head]
    else:
        layers = [m for m in agent.q_net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        heads = [layers[-1]]
    expected = sum(
        0.1 * (64 / len(m.weight)) ** 2 * parseval_penalty(m.weight, 1.5) for m in layers if m not in heads
    )
    torch.testing.assert_close(mitigation.penalty(agent, observe(policy)), expected)
    assert mitigation.values()["parseval"] == pytest.approx(expected.item() / 0.1, rel=1e-5)


def test_it_begins_at_zero_where_ppos_rows_can_be_orthogonal(make):
    mitigation = Parseval(layers=["*.2"])  # the second layers, 8 x 8
    make(PPO, [mitigation])
    assert mitigation.values()["parseval"] == pytest.approx(0, abs=1e-6)


def test_training_makes_rows_more_orthogonal(make):
    def deviation(strength):
        mitigation = Parseval(strength)
        make(DQN, [mitigation], learning_rate=1e-3).learn(400)
        return mitigation.values()["parseval"]

    assert deviation(1e-1) < 0.9 * deviation(0.0)


def test_unknown_layers_are_refused_with_the_known_ones(make):
    with pytest.raises(
        InvalidSetting, match=r"'action_net', but the layers it can act on are: mlp_extractor"
    ):
        make(PPO, [Parseval(layers=["action_net"])])
