"""The losses against their formulas, and what the instruments rely on."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from pliant.agents import DQN, PPO
from pliant.agents.losses import (
    approximate_kl,
    clip_fraction,
    entropy_loss,
    kl_from_present,
    surrogate_loss,
    td_loss,
    value_loss,
)

BOX = spaces.Box(-1, 1, (2,), np.float32)
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "box": BOX,
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(2),
}


def test_surrogate_takes_the_pessimistic_side():
    ratio, advantages = torch.tensor([1.5, 1.5, 0.5, 0.5]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    # min(r A, clip(r) A) with c = 0.2: 1.2, -1.5, 0.5, -0.8
    assert surrogate_loss(ratio, advantages, 0.2).item() == pytest.approx(0.6 / 4)
    assert surrogate_loss(ratio, advantages, None).item() == pytest.approx(0.0)


def test_value_loss_clips_the_prediction_around_the_old_one():
    values, returns, old = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]), torch.zeros(2)
    assert value_loss(values, returns, old, None).item() == pytest.approx(0.5)
    assert value_loss(values, returns, old, 0.5).item() == pytest.approx(1.5**2 / 2)


def test_entropy_loss_falls_back_on_the_log_probability():
    assert entropy_loss(torch.tensor([1.0, 3.0]), torch.zeros(2)).item() == -2
    assert entropy_loss(None, torch.tensor([-1.0, -3.0])).item() == -2


def test_td_loss_is_quadratic_near_and_linear_far():
    q_values = torch.tensor([[0.5, 9.0], [9.0, 3.0]])
    loss = td_loss(q_values, torch.tensor([[0], [1]]), torch.zeros(2, 1))
    assert loss.item() == pytest.approx((0.5 * 0.5**2 + (3 - 0.5)) / 2)


def test_kl_estimate_and_clip_fraction():
    ratio = torch.tensor([1.0, math.e])
    assert approximate_kl(ratio, ratio.log()).item() == pytest.approx((math.e - 2) / 2)
    assert clip_fraction(ratio, 0.2).item() == 0.5


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
def test_the_output_loss_of_the_actor_has_the_fisher_matrix_as_its_hessian(actions):
    """Fisher = E_a[grad log p(a) grad log p(a)'], by enumeration (for Box, in closed form)."""
    outputs = torch.randn(1, 5 if actions == ACTIONS["multi-discrete"] else 4, dtype=torch.float64) / 2
    if actions == ACTIONS["discrete"]:
        outputs = outputs[:, :3]
    if actions == ACTIONS["multi-binary"]:
        outputs = outputs[:, :2]

    loss = torch.func.grad_and_value(lambda z: kl_from_present(z, actions))
    gradient, value = loss(outputs)
    assert value.abs() < 1e-15
    assert gradient.abs().max() < 1e-15
    size = outputs.numel()
    hessian = torch.autograd.functional.hessian(lambda z: kl_from_present(z, actions), outputs)
    torch.testing.assert_close(
        hessian.reshape(size, size), fisher(outputs[0], actions), atol=1e-12, rtol=1e-9
    )


def fisher(outputs, actions):
    if isinstance(actions, spaces.Box):  # means: 1 / sigma^2; log standard deviations: 2
        log_std = outputs[2:]
        return torch.cat([torch.exp(-2 * log_std), torch.full((2,), 2.0, dtype=torch.float64)]).diag()
    if isinstance(actions, spaces.MultiBinary):
        p = outputs.sigmoid()
        return (p * (1 - p)).diag()
    sizes = [3] if isinstance(actions, spaces.Discrete) else [2, 3]
    blocks = []
    for logits in outputs.split(sizes):
        p = logits.softmax(0)
        blocks.append(
            sum(p[a] * torch.outer(e := torch.eye(len(p))[a].double() - p, e) for a in range(len(p)))
        )
    return torch.block_diag(*blocks)


def in_double(agent, batch):
    """Move the agent to float64, where SB3 feeds it float32 observations, and return the batch in float64."""
    agent.policy.double()
    for module in agent.policy.modules():
        if isinstance(module, BaseFeaturesExtractor):
            module.register_forward_pre_hook(lambda _module, inputs: (inputs[0].double(),))

    def double(value):
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return type(batch)(*map(double, batch))


def sliced(batch, part):
    return type(batch)(*(value[part] if isinstance(value, torch.Tensor) else value for value in batch))


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
def test_ppo_losses_of_slices_weighted_by_size_are_the_loss_of_the_whole(actions, toy):
    agent = PPO("MlpPolicy", toy(actions=actions), n_steps=32, batch_size=16, clip_range_vf=0.1, ent_coef=0.1)
    agent.learn(64)
    batch = agent.prepare(next(agent.rollout_buffer.get()))  # off-policy by now: both clips are active
    check_additivity(agent, in_double(agent, batch), sizes=[5, 20, 7])


def test_dqn_loss_of_slices_weighted_by_size_is_the_loss_of_the_whole(toy):
    agent = DQN("MlpPolicy", toy(), buffer_size=100, learning_starts=10)
    agent.learn(60)
    batch = agent.prepare(agent.replay_buffer.sample(32))
    check_additivity(agent, in_double(agent, batch), sizes=[5, 20, 7])


def check_additivity(agent, batch, sizes):
    starts = np.cumsum([0, *sizes])
    slices = [sliced(batch, slice(a, b)) for a, b in pairwise(starts)]
    functions = {"loss": lambda b: agent.loss(b).total}
    for unclipped in (False, True):
        for name, objective in agent.objectives(unclipped).items():
            functions[f"{name}, unclipped={unclipped}"] = objective.loss
            if objective.output_loss is not None:
                functions[f"outputs of {name}"] = lambda b, o=objective: o.output_loss(o.outputs(b), b)
    for name, function in functions.items():
        parts = sum(size * function(part) for size, part in zip(sizes, slices, strict=True)) / sum(sizes)
        torch.testing.assert_close(parts, function(batch), rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
@pytest.mark.parametrize("share", [True, False])
def test_the_parts_of_ppo_add_up_to_its_total_loss_and_gradient(actions, share, toy):
    kwargs = {"features_extractor_class": "small-cnn", "share_features_extractor": share, "net_arch": [8]}
    picture = spaces.Box(0, 10, (5, 5, 2), np.uint8)
    agent = PPO(
        "MlpPolicy", toy(picture, actions), n_steps=32, batch_size=16, ent_coef=0.1, policy_kwargs=kwargs
    )
    agent.learn(32)
    batch = agent.prepare(next(agent.rollout_buffer.get()))
    for unclipped in (False, True):
        objectives = agent.objectives(unclipped)
        losses = {name: objective.loss(batch) for name, objective in objectives.items()}
        torch.testing.assert_close(losses["actor"] + losses["critic"], losses["total"])
        if not unclipped:
            torch.testing.assert_close(losses["total"], agent.loss(batch).total)
        assert set(objectives["actor"].parameters) & set(objectives["critic"].parameters) == set(
            agent.networks().get("shared", {})
        )
        # Each objective depends on all of its parameters, and on no other
        every = dict(agent.policy.named_parameters())
        for name in ("actor", "critic"):
            gradients = torch.autograd.grad(losses[name], list(every.values()), allow_unused=True)
            used = {n for n, g in zip(every, gradients, strict=True) if g is not None}
            assert used == set(objectives[name].parameters)


@pytest.mark.parametrize("actions", ACTIONS.values(), ids=ACTIONS)
def test_outputs_are_the_parameters_of_the_action_distribution(actions, toy):
    agent = PPO("MlpPolicy", toy(actions=actions), n_steps=16, batch_size=16)
    batch = agent.gather(toy(actions=actions), 10, seed=0)
    outputs = agent.objectives()["actor"].outputs(batch)
    width = {"discrete": 3, "box": 4, "multi-discrete": 5, "multi-binary": 2}
    assert outputs.shape == (10, width[next(k for k, v in ACTIONS.items() if v == actions)])
    assert agent.objectives()["critic"].outputs(batch).shape == (10, 1)


def test_the_critics_output_loss_is_its_loss_where_nothing_is_clipped(toy):
    agent = PPO("MlpPolicy", toy(), n_steps=16, batch_size=16, vf_coef=0.7)
    batch = agent.gather(toy(), 20, seed=0)
    critic = agent.objectives()["critic"]
    torch.testing.assert_close(critic.output_loss(critic.outputs(batch), batch), critic.loss(batch))


def test_evaluating_the_loss_changes_nothing_and_repeats_exactly(toy):
    agent = PPO("MlpPolicy", toy(actions=BOX), n_steps=16, batch_size=16, use_sde=True)
    batch = agent.gather(toy(actions=BOX), 20, seed=0)
    before, random_state = agent.policy.state_dict(), torch.get_rng_state()
    first, second = agent.loss(batch), agent.loss(batch)
    assert torch.equal(first.total, second.total)
    assert all(torch.equal(before[name], value) for name, value in agent.policy.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
