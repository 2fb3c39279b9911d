"""Without mitigations the agents are stable-baselines3's, to the last bit."""

import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from pliant.agents import DQN, PPO

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (36, 36, 1), np.uint8)
MIXED = spaces.Dict({"picture": PICTURE, "vector": VECTOR})
BOX = spaces.Box(-1, 1, (2,), np.float32)
SMALL_CNN = {"features_extractor_kwargs": {"features_dim": 8}}
SMALL_MIXED = {"features_extractor_kwargs": {"cnn_output_dim": 8}, "net_arch": [8]}

PPO_CASES = {
    "discrete actions": {},
    "continuous actions": {"actions": BOX},
    "multi-discrete actions": {"actions": spaces.MultiDiscrete([2, 3])},
    "multi-binary actions": {"actions": spaces.MultiBinary(3)},
    "several environments": {"copies": 3},
    "cnn": {"observations": PICTURE, "policy": "CnnPolicy", "policy_kwargs": SMALL_CNN},
    "cnn, extractors not shared": {
        "observations": PICTURE,
        "policy": "CnnPolicy",
        "policy_kwargs": {**SMALL_CNN, "share_features_extractor": False, "net_arch": [8]},
    },
    "dict observations": {
        "observations": MIXED,
        "policy": "MultiInputPolicy",
        "policy_kwargs": SMALL_MIXED,
    },
    "value clipping": {"clip_range_vf": 0.05},
    "value clipping on a schedule": {"clip_range_vf": LinearSchedule(0.3, 0.01, 1.0)},
    "early stopping": {"target_kl": 1e-3, "learning_rate": 0.02},
    "early stopping never reached": {"target_kl": 10.0},
    "raw advantages": {"normalize_advantage": False},
    "state-dependent exploration": {"actions": BOX, "use_sde": True, "sde_sample_freq": 5},
    "state-dependent exploration, squashed": {
        "actions": BOX,
        "use_sde": True,
        "policy_kwargs": {"net_arch": [8], "squash_output": True},
    },
    "schedules": {
        "learning_rate": LinearSchedule(1e-2, 1e-4, 1.0),
        "clip_range": LinearSchedule(0.4, 0.1, 0.5),
    },
    "truncated minibatch": {"batch_size": 12},
    "minibatch of one": {"batch_size": 31, "ent_coef": 0.1},
    "entropy and value coefficients": {"ent_coef": 0.05, "vf_coef": 1.0, "max_grad_norm": float("inf")},
    "another optimiser": {
        "policy_kwargs": {"net_arch": [8], "optimizer_class": torch.optim.RMSprop, "ortho_init": False}
    },
    "normalised environment": {"normalise": True},
}

DQN_CASES = {
    "mlp": {},
    "cnn": {"observations": PICTURE, "policy": "CnnPolicy", "policy_kwargs": SMALL_CNN},
    "dict observations": {
        "observations": MIXED,
        "policy": "MultiInputPolicy",
        "policy_kwargs": SMALL_MIXED,
    },
    "n-step returns": {"n_steps": 3},
    "soft target updates": {"tau": 0.1, "target_update_interval": 1},
    "several environments": {"copies": 3, "gradient_steps": -1},
    "memory-saving replay": {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    },
    "schedule": {"learning_rate": LinearSchedule(1e-2, 1e-4, 1.0), "gradient_steps": 2},
    "training per episode": {"train_freq": (1, "episode")},
    "hard gradient clipping": {"max_grad_norm": 1e-3},
    "normalised environment": {"normalise": True},
}


def trained(algorithm, toy, memory_logger, defaults, case, steps):
    """Train, and return every parameter, optimiser state and logged scalar."""
    case = {**defaults, **case}
    env = toy(case.pop("observations", VECTOR), case.pop("actions", None), case.pop("copies", 1))
    if case.pop("normalise", False):
        env = VecNormalize(env)
    agent = algorithm(case.pop("policy", "MlpPolicy"), env, seed=3, device="cpu", **case)
    logger, memory = memory_logger()
    agent.set_logger(logger)
    agent.learn(steps, log_interval=1)
    agent.dump_logs()  # what the last update recorded
    optimiser = [state for state in agent.policy.optimizer.state_dict()["state"].values()]
    return agent.policy.state_dict(), optimiser, memory.dumps


def assert_equal(ours, theirs):
    for our, their in zip(ours[0].items(), theirs[0].items(), strict=True):
        assert our[0] == their[0]
        assert torch.equal(our[1], their[1]), our[0]
    for our, their in zip(ours[1], theirs[1], strict=True):
        assert all(torch.equal(our[key], their[key]) for key in their)
    for our, their in zip(ours[2], theirs[2], strict=True):
        assert our.keys() - their.keys() <= {"plasticity/gradient_norm"}
        for key, value in their.items():
            np.testing.assert_array_equal(our[key], value, err_msg=key, strict=True)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")
@pytest.mark.parametrize("case", PPO_CASES.values(), ids=PPO_CASES)
def test_ppo_equals_stable_baselines3_bit_for_bit(case, toy, memory_logger):
    defaults = {"n_steps": 32, "batch_size": 16, "n_epochs": 3, "policy_kwargs": {"net_arch": [8]}}
    ours, theirs = (
        trained(algorithm, toy, memory_logger, defaults, case, steps=128)
        for algorithm in (PPO, stable_baselines3.PPO)
    )
    assert_equal(ours, theirs)


@pytest.mark.parametrize("case", DQN_CASES.values(), ids=DQN_CASES)
def test_dqn_equals_stable_baselines3_bit_for_bit(case, toy, memory_logger):
    defaults = {
        "buffer_size": 100,
        "learning_starts": 20,
        "batch_size": 8,
        "target_update_interval": 20,
        "exploration_fraction": 0.5,
        "policy_kwargs": {"net_arch": [8]},
    }
    ours, theirs = (
        trained(algorithm, toy, memory_logger, defaults, case, steps=160)
        for algorithm in (DQN, stable_baselines3.DQN)
    )
    assert_equal(ours, theirs)


def test_the_early_stopping_case_stops_early_after_some_updates(toy, memory_logger):
    case = {"n_steps": 32, "batch_size": 16, "n_epochs": 3, **PPO_CASES["early stopping"]}
    _, optimiser, dumps = trained(PPO, toy, memory_logger, {}, case, steps=128)
    assert 0 < optimiser[0]["step"] < 4 * 3 * 2
    assert dumps[-1]["train/n_updates"] < 4 * 3


def test_parity_survives_a_switch_of_environments(toy):
    def twice(algorithm):
        agent = algorithm("MlpPolicy", toy(), n_steps=16, batch_size=8, seed=0, device="cpu")
        following = toy()
        following.seed(7)
        agent.learn(32).set_env(following)
        return agent.learn(32, reset_num_timesteps=False).policy.state_dict()

    ours, theirs = twice(PPO), twice(stable_baselines3.PPO)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
