"""gather(): fresh data of another environment, and not a trace of it afterwards."""

import copy
import random

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from pliant.agents import DQN, PPO, AgentError, NonFiniteLoss

BOX = spaces.Box(-1, 1, (2,), np.float32)
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
MIXED = spaces.Dict({"picture": PICTURE, "vector": VECTOR})
SMALL_CNN = {"features_extractor_kwargs": {"features_dim": 8}}
SMALL_MIXED = {"features_extractor_kwargs": {"cnn_output_dim": 8}, "net_arch": [8]}

PPO_CASES = {
    "mlp": {},
    "continuous": {"actions": BOX},
    "state-dependent exploration": {"actions": BOX, "use_sde": True, "sde_sample_freq": 3},
    "squashed": {"actions": BOX, "use_sde": True, "policy_kwargs": {"squash_output": True}},
    "multi-discrete": {"actions": spaces.MultiDiscrete([2, 3])},
    "cnn": {"observations": PICTURE, "policy": "CnnPolicy", "policy_kwargs": SMALL_CNN},
    "dict": {"observations": MIXED, "policy": "MultiInputPolicy", "policy_kwargs": SMALL_MIXED},
}
DQN_CASES = {
    "mlp": {},
    "n-step": {"n_steps": 3},
    "cnn": {"observations": PICTURE, "policy": "CnnPolicy", "policy_kwargs": SMALL_CNN},
    "dict": {"observations": MIXED, "policy": "MultiInputPolicy", "policy_kwargs": SMALL_MIXED},
    "memory-saving": {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
}
CASES = [(PPO, name, case) for name, case in PPO_CASES.items()] + [
    (DQN, name, case) for name, case in DQN_CASES.items()
]
IDS = [f"{algorithm.__name__} {name}" for algorithm, name, _ in CASES]
SMALL = {
    PPO: {"n_steps": 16, "batch_size": 8, "n_epochs": 2},
    DQN: {"buffer_size": 60, "learning_starts": 10, "target_update_interval": 20},
}


def build(algorithm, case, toy, copies=1):
    case = {**SMALL[algorithm], **case}
    made = [case.pop("observations", VECTOR), case.pop("actions", None)]
    agent = algorithm(case.pop("policy", "MlpPolicy"), toy(*made, copies), seed=0, device="cpu", **case)
    return agent, lambda n=1: toy(*made, n)


def everything(agent):
    """All that must not change, as one nested structure."""
    buffer = agent.rollout_buffer if isinstance(agent, PPO) else agent.replay_buffer
    toys = agent.env.unwrapped.envs
    spaces_of = [agent.action_space, agent.observation_space, agent.env.action_space]
    state = {
        "parameters": agent.policy.state_dict(),
        "optimiser": agent.policy.optimizer.state_dict(),
        "modes": [module.training for module in agent.policy.modules()],
        "exploration": dict(vars(getattr(agent.policy, "action_dist", object.__new__(Empty)))),
        "buffer": vars(buffer),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),
        "python": random.getstate(),
        "spaces": [space.np_random.bit_generator.state for space in spaces_of],
        "environments": [(env.unwrapped.steps, env.np_random.bit_generator.state) for env in toys],
        "log": dict(agent.logger.name_to_value),
        "agent": {k: v for k, v in vars(agent).items() if k not in UNCOPYABLE},
    }
    return clone(state)


class Empty:
    pass


UNCOPYABLE = {"env", "policy", "rollout_buffer", "replay_buffer", "_logger", "q_net", "q_net_target"}


def clone(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: clone(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [clone(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.copy()
    return value if callable(value) or isinstance(value, spaces.Space) else copy.copy(value)


def assert_same(a, b, path=""):
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b, err_msg=path)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{index}")
    elif type(a).__eq__ is not object.__eq__:
        assert a == b or a != a, path


@pytest.mark.parametrize(("algorithm", "name", "case"), CASES, ids=IDS)
def test_gather_leaves_no_trace(algorithm, name, case, toy):
    agent, another = build(algorithm, case, toy)
    agent.learn(40)
    agent.policy.set_training_mode(True)
    before = everything(agent)
    agent.gather(another(), 30, seed=5)
    assert_same(before, everything(agent))


@pytest.mark.parametrize(("algorithm", "name", "case"), CASES, ids=IDS)
def test_training_goes_on_as_if_nothing_had_been_gathered(algorithm, name, case, toy):
    def train(gathering):
        agent, another = build(algorithm, case, toy)
        agent.learn(40)
        if gathering:
            agent.gather(another(2), 30, seed=5)
        return agent.learn(40, reset_num_timesteps=False).policy.state_dict()

    assert_same(train(gathering=True), train(gathering=False))


@pytest.mark.parametrize(("algorithm", "name", "case"), CASES, ids=IDS)
def test_a_batch_is_a_function_of_the_seed(algorithm, name, case, toy):
    agent, another = build(algorithm, case, toy)
    agent.learn(40)

    def batch(seed):
        return clone(agent.gather(another(), 30, seed)._asdict())

    torch.manual_seed(1)
    first = batch(5)
    torch.manual_seed(2)
    np.random.seed(2)
    assert_same(first, batch(5))
    with pytest.raises(AssertionError):
        assert_same(first["observations"], batch(6)["observations"])


@pytest.mark.parametrize(("name", "case"), PPO_CASES.items(), ids=PPO_CASES)
@pytest.mark.parametrize("copies", [1, 3])
def test_gathered_ratios_are_exactly_one(name, case, copies, toy):
    agent, another = build(PPO, case, toy)
    agent.learn(32)
    batch = agent.gather(another(copies), 50, seed=1)
    loss = agent.loss(batch)
    assert loss.monitors["approx_kl"].item() == 0
    assert loss.monitors["clip_fraction"].item() == 0
    with torch.no_grad():
        values, log_prob, _ = agent.policy.evaluate_actions(batch.observations, batch.actions)
    assert torch.equal(torch.exp(log_prob - batch.old_log_prob), torch.ones(50))
    torch.testing.assert_close(agent.ratios(batch), torch.ones(50), atol=1e-5, rtol=0)
    assert torch.equal(values.flatten(), batch.old_values)
    assert not batch.old_log_prob.requires_grad
    assert len(batch.returns) == 50
    assert batch.advantages.mean().abs() < 1e-6
    assert batch.advantages.std().item() == pytest.approx(1, abs=1e-4)


def test_recomputed_probabilities_are_those_with_which_the_policy_acted(toy):
    agent, another = build(PPO, {"actions": BOX, "use_sde": True}, toy)
    agent.learn(32)
    with agent._undisturbed(3):
        buffer = agent._rollout(another(), steps=20, seed=3)
        samples = next(buffer.get())
    batch = agent.prepare(samples)
    assert agent.loss(batch).monitors["approx_kl"] < 1e-10
    with torch.no_grad():
        _, log_prob, _ = agent.policy.evaluate_actions(batch.observations, batch.actions)
    assert (torch.exp(log_prob - samples.old_log_prob) - 1).abs().max() < 1e-5


def test_a_dqn_batch_holds_each_transition_once_with_its_target(toy):
    agent, another = build(DQN, {"gamma": 0.9}, toy)
    agent.learn(40)
    batch = agent.gather(another(), 30, seed=1)
    assert len(batch.observations.unique(dim=0)) == 30
    # The same transitions in order, stepped by hand
    env = another()
    env.seed(1)
    observation, targets = env.reset(), {}
    with agent._undisturbed(1):
        buffer = agent._explore(env, 30, seed=1, epsilon=agent.exploration_final_eps)
    for t in range(30):
        best = agent.q_net_target(torch.as_tensor(buffer.next_observations[t])).max().item()
        ended = buffer.dones[t, 0] and not buffer.timeouts[t, 0]
        targets[buffer.observations[t, 0].tobytes()] = buffer.rewards[t, 0] + (0 if ended else 0.9 * best)
    assert buffer.observations[0, 0].tobytes() == observation[0].tobytes()
    for observation, target in zip(batch.observations, batch.targets, strict=True):
        assert target.item() == pytest.approx(targets[observation.numpy().tobytes()], abs=1e-6)


def test_epsilon_sets_how_random_the_actions_are(toy):
    agent, another = build(DQN, {}, toy)
    agent.learn(40)

    def greedy_share(epsilon):
        batch = agent.gather(another(), 300, seed=1, epsilon=epsilon)
        return (
            (agent.q_net(batch.observations).argmax(1, keepdim=True) == batch.actions).float().mean().item()
        )

    assert greedy_share(0.0) == 1
    assert greedy_share(1.0) == pytest.approx(1 / 3, abs=0.1)


def test_dqn_gathers_from_normalised_environments(toy):
    agent = DQN("MlpPolicy", VecNormalize(toy()), seed=0, **SMALL[DQN])
    agent.learn(40)
    other = VecNormalize(toy(), training=False)
    batch = agent.gather(other, 20, seed=0)
    assert torch.isfinite(batch.targets).all()


def test_single_environments_are_wrapped_as_sb3_would(toy):
    agent, another = build(PPO, PPO_CASES["cnn"], toy)
    batch = agent.gather(another().envs[0], 20, seed=0)
    assert batch.observations.shape == (20, 1, 36, 36)


def test_probabilities_that_are_not_numbers_are_no_noise_of_the_policy(toy):
    agent = PPO("MlpPolicy", toy(actions=BOX), n_steps=32, batch_size=8, device="cpu")
    with torch.no_grad():
        agent.policy.log_std.fill_(60.0)  # whose square float32 does not hold
    with pytest.raises(NonFiniteLoss, match="the probability of an action is not finite"):
        agent.gather(toy(actions=BOX), 20, seed=1)


def test_the_training_environment_is_refused(toy):
    agent, _ = build(PPO, {}, toy)
    with pytest.raises(AgentError, match="make a second environment"):
        agent.gather(agent.env, 10, seed=0)
    with pytest.raises(AgentError, match="make a second environment"):
        agent.gather(VecNormalize(agent.env), 10, seed=0)


def test_an_environment_with_other_spaces_is_refused(toy):
    agent, _ = build(PPO, {}, toy)
    with pytest.raises(ValueError, match="spaces do not match"):
        agent.gather(toy(actions=spaces.Discrete(5)), 10, seed=0)
