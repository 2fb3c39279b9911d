"""The environments under pliant/ and MiniGrid's image."""

import copy
import pickle
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env

from pliant.envs import EnvError, GridImage, Task, make_env
from pliant.envs.registration import ENVIRONMENTS, register

ELSEWHERE = "pliant/MetaWorld-v0"
"""Its package is not among the tests'; see test_metaworld.py."""


@pytest.mark.parametrize("env_id", sorted(ENVIRONMENTS.keys() - {ELSEWHERE}))
def test_gymnasium_checks_each_without_complaint(env_id):
    with warnings.catch_warnings():
        # What these extend, gymnasium's own, has unbounded observations, and Pendulum has torques up to 2.
        warnings.filterwarnings("ignore", ".*value is -?infinity")
        warnings.filterwarnings("ignore", ".*symmetric and normalized space")
        check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize(
    "env_id", sorted(ENVIRONMENTS.keys() - {"pliant/Stream-v0", "pliant/MinAtar-v0", ELSEWHERE})
)
def test_without_arguments_each_moves_as_the_environment_it_extends(env_id):
    names = {"pliant/SlipperyAnt-v0": "Ant-v5"}
    plain = gymnasium.make(names.get(env_id, env_id.removeprefix("pliant/")))
    ours = gymnasium.make(env_id)
    assert ours.spec.max_episode_steps == plain.spec.max_episode_steps
    size = ours.observation_space.shape[0]  # the ant's contact forces come last
    assert ours.reset(seed=0)[0].tolist() == plain.reset(seed=0)[0][:size].tolist()
    plain.action_space.seed(0)
    for _ in range(5):
        action = plain.action_space.sample()
        theirs, reward, *_ = plain.step(action)
        observation, our_reward, *_ = ours.step(action)
        assert observation.tolist() == theirs[:size].tolist()
        assert our_reward == reward


def test_registering_twice_does_nothing():
    before = dict(gymnasium.registry)
    register()
    assert dict(gymnasium.registry) == before


def test_the_slippery_ant_has_27_observations_and_one_friction():
    env = gymnasium.make("pliant/SlipperyAnt-v0", friction=0.1)
    assert env.observation_space.shape == (27,)
    assert (env.unwrapped.model.geom_friction[:, 0] == 0.1).all()


def test_the_slippery_ant_and_the_friction_of_an_ant_are_the_same():
    shift = {"type": "physics", "parameter": "friction", "value": 0.05}
    kwargs = {"include_cfrc_ext_in_observation": False}
    shifted = make_env(Task(env="Ant-v5", kwargs=kwargs, shifts=[shift], length=1))
    slippery = gymnasium.make("pliant/SlipperyAnt-v0", friction=0.05)
    assert shifted.reset(seed=0)[0].tolist() == slippery.reset(seed=0)[0].tolist()
    for _ in range(20):
        action = np.full(8, 0.3)
        assert shifted.step(action)[0].tolist() == slippery.step(action)[0].tolist()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copied_slippery_ant_keeps_its_arguments(duplicate):
    env = duplicate(gymnasium.make("pliant/SlipperyAnt-v0", friction=0.1, ctrl_cost_weight=0.2).unwrapped)
    assert (env.model.geom_friction[:, 0] == 0.1).all()
    assert env._ctrl_cost_weight == 0.2


def test_classic_environments_take_their_physics_as_arguments():
    env = gymnasium.make("pliant/CartPole-v1", length=1.0, masspole=0.2).unwrapped
    assert (env.length, env.polemass_length) == (1.0, 0.2)
    assert gymnasium.make("pliant/Acrobot-v1", torque=0.5).unwrapped.AVAIL_TORQUE == [-0.5, 0.0, 0.5]
    assert gymnasium.make("pliant/Pendulum-v1", g=3.0).unwrapped.g == 3.0
    with pytest.raises(
        EnvError, match=r"unknown physics parameter of CartPole 'gravty'\. Did you mean 'gravity'"
    ):
        gymnasium.make("pliant/CartPole-v1", gravty=1.0)


@pytest.mark.parametrize(
    "env_id", ["MiniGrid-DoorKey-5x5-v0", "MiniGrid-LavaGapS5-v0", "BabyAI-GoToRedBall-v0"]
)
def test_minigrid_is_seen_as_its_image_alone(env_id):
    env = make_env(Task(env=env_id, length=1), seed=0)
    assert env.observation_space == Box(0, 10, (7, 7, 3), np.uint8)
    observation, _ = env.reset()
    image = env.unwrapped.gen_obs()["image"]
    assert np.array_equal(observation, image)
    assert env.observation_space.contains(observation)
    assert env.observation_space.contains(env.step(2)[0])


def test_no_index_of_minigrid_is_above_the_declared_ten():
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    assert max([*OBJECT_TO_IDX.values(), *COLOR_TO_IDX.values(), *STATE_TO_IDX.values()]) == 10


def test_the_size_of_the_view_is_minigrids_own():
    env = make_env(Task(env="MiniGrid-Empty-5x5-v0", kwargs={"agent_view_size": 5}, length=1))
    assert env.observation_space.shape == (5, 5, 3)


def test_a_grid_image_is_rebuilt_from_its_spec():
    env = make_env(Task(env="MiniGrid-DoorKey-5x5-v0", length=1))
    again = gymnasium.make(env.spec)
    assert isinstance(env, GridImage)
    assert again.spec == env.spec
    assert np.array_equal(again.reset(seed=4)[0], env.reset(seed=4)[0])


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_pliant_envs_imports_no_optional_or_heavy_package():
    heavy = [
        "torch",
        "stable_baselines3",
        "mujoco",
        "minigrid",
        "pygame",
        "matplotlib",
        "scipy",
        "sklearn",
        "minatar",
    ]
    assert python(f"import sys, pliant.envs; print([m for m in {heavy} if m in sys.modules])") == "[]"


@pytest.mark.parametrize(
    ("package", "env_id", "command"),
    [
        ("mujoco", "Ant-v5", 'pip install "pliant[mujoco]"'),
        ("mujoco", "pliant/SlipperyAnt-v0", 'pip install "pliant[mujoco]"'),
        ("minatar", "pliant/MinAtar-v0", 'pip install "pliant[minatar]"'),
        ("Box2D", "LunarLander-v3", 'pip install "pliant[box2d]"'),
        ("minigrid", "MiniGrid-Empty-5x5-v0", "pip install minigrid"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(package, env_id, command):
    code = f"""
import sys
sys.modules[{package!r}] = None
from pliant.envs import MissingPackage, SequenceSpec
try:
    SequenceSpec(env={env_id!r}, length=1).build(0)
except MissingPackage as error:
    print(error)
"""
    message = python(code)
    assert message.startswith(f"tasks[0]: {env_id} needs ")
    assert message.endswith(command)
    assert len(message.splitlines()) == 1
