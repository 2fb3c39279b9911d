"""Physics: each known parameter of each family really changes the motion, on its instance only."""

import gymnasium
import numpy as np
import pytest

from pliant.envs import EnvError, Task, make_env
from pliant.envs.shifts import Physics
from pliant.envs.shifts.parameters import PHYSICS, parameter

FAMILIES = {
    "CartPoleEnv": "CartPole-v1",
    "AcrobotEnv": "Acrobot-v1",
    "PendulumEnv": "Pendulum-v1",
    "MountainCarEnv": "MountainCar-v0",
    "Continuous_MountainCarEnv": "MountainCarContinuous-v0",
    "MujocoEnv": "Ant-v5",
}
EVERY = [(FAMILIES[family], name) for family, names in PHYSICS.items() for name in names]

every_parameter = pytest.mark.parametrize(("env_id", "name"), EVERY)


def make(env_id: str, *shifts: dict) -> gymnasium.Env:
    return make_env(Task(env=env_id, shifts=[{"type": "physics", **shift} for shift in shifts], length=1))


def motion(env: gymnasium.Env) -> list[list[float]]:
    observations = [env.reset(seed=0)[0].tolist()]
    env.action_space.seed(0)
    observations += [env.step(env.action_space.sample())[0].tolist() for _ in range(8)]
    return observations


def read(env: gymnasium.Env, name: str) -> np.ndarray:
    return np.asarray(parameter(env.unwrapped, name).read(env.unwrapped))


def test_every_family_has_an_example():
    assert FAMILIES.keys() == PHYSICS.keys()


@every_parameter
def test_a_parameter_changes_the_motion(env_id, name):
    own = 1.0 if name.endswith("_scale") else float(np.max(read(make(env_id), name)))
    changed = make(env_id, {"parameter": name, "value": own / 2})
    assert motion(changed) != motion(make(env_id))


@every_parameter
def test_a_parameter_can_be_read_back_and_others_keep_their_own(env_id, name):
    plain = make(env_id)
    own, relative = read(plain, name), name.endswith("_scale")
    changed = make(env_id, {"parameter": name, "value": 0.5 if relative else float(np.max(own)) / 2})
    assert read(changed, name) == pytest.approx(own / 2)
    assert np.array_equal(read(plain, name), own)
    assert np.array_equal(read(make(env_id), name), own)


def test_cartpole_updates_what_it_derives_from_the_masses_and_the_length():
    env = make(
        "CartPole-v1",
        {"parameter": "masscart", "value": 2.0},
        {"parameter": "masspole", "value": 0.5},
        {"parameter": "length", "value": 3.0},
    ).unwrapped
    assert env.total_mass == 2.5
    assert env.polemass_length == 1.5


def test_friction_is_that_of_every_geom_and_only_the_sliding_one():
    model = make("Ant-v5", {"parameter": "friction", "value": 0.1}).unwrapped.model
    assert (model.geom_friction[:, 0] == 0.1).all()
    assert np.array_equal(model.geom_friction[:, 1:], make("Ant-v5").unwrapped.model.geom_friction[:, 1:])


def test_scaled_masses_come_with_their_inertia_and_the_constants_of_the_solver():
    plain, heavy = (
        make("Ant-v5").unwrapped.model,
        make("Ant-v5", {"parameter": "mass_scale", "value": 2.0}).unwrapped.model,
    )
    assert heavy.body_subtreemass == pytest.approx(2 * plain.body_subtreemass)
    assert heavy.body_inertia == pytest.approx(2 * plain.body_inertia)
    assert heavy.opt.timestep == plain.opt.timestep
    # The hinges' armature does not scale, so their share only shrinks towards a half.
    ratio = heavy.dof_invweight0 / plain.dof_invweight0
    assert (ratio < 1).all()
    assert (ratio > 0.5 - 1e-9).all()


def test_gravity_points_down():
    assert make("Ant-v5", {"parameter": "gravity", "value": 3.7}).unwrapped.model.opt.gravity.tolist() == [
        0,
        0,
        -3.7,
    ]


@pytest.mark.parametrize(
    ("path", "start", "values"),
    [
        ("linear", None, [9.8, 9.8 * 3 / 4 + 1.8 / 4, 9.8 / 2 + 1.8 / 2, 9.8 / 4 + 1.8 * 3 / 4, 1.8, 1.8]),
        ("linear", 3.8, [3.8, 3.3, 2.8, 2.3, 1.8, 1.8]),
        ("log", 28.8, [28.8, 14.4, 7.2, 3.6, 1.8, 1.8]),
    ],
)
def test_a_ramp_goes_from_start_to_value(path, start, values):
    env = Physics(gymnasium.make("CartPole-v1"), "gravity", 1.8, start=start, path=path, ramp=4)
    env.reset(seed=0)
    seen = [env.unwrapped.gravity]
    for _ in range(5):
        env.step(0)
        seen.append(env.unwrapped.gravity)
    assert seen == pytest.approx(values)
    assert seen[-1] == 1.8


def test_arrays_and_multiples_ramp_entry_by_entry():
    friction = make(
        "Ant-v5", {"parameter": "friction", "value": 0.01, "path": "log", "ramp": 4, "elapsed": 2}
    )
    assert friction.unwrapped.model.geom_friction[:, 0] == pytest.approx(0.1)
    plain, heavy = (
        make("Ant-v5"),
        make("Ant-v5", {"parameter": "mass_scale", "value": 3.0, "ramp": 4, "elapsed": 2}),
    )
    assert heavy.unwrapped.model.body_mass == pytest.approx(2 * plain.unwrapped.model.body_mass)


def test_a_logarithmic_path_needs_a_start_above_zero():
    env = gymnasium.make("CartPole-v1")
    env.unwrapped.gravity = 0.0
    with pytest.raises(EnvError, match=r"path = 'log' needs a start > 0, the environment has 0\.0"):
        Physics(env, "gravity", 1.0, path="log", ramp=3)


@pytest.mark.parametrize(
    ("env_id", "parameters", "message"),
    [
        (
            "CartPole-v1",
            {"parameter": "friction", "value": 1.0},
            "unknown physics parameter of CartPoleEnv 'friction'. "
            "Known: force_mag, gravity, length, masscart, masspole",
        ),
        (
            "Acrobot-v1",
            {"parameter": "LINK_LENGTH_2", "value": 1.0},
            "unknown physics parameter of AcrobotEnv 'LINK_LENGTH_2'. "
            "Did you mean 'LINK_LENGTH_1' or 'LINK_MASS_2' or 'LINK_COM_POS_2'? "
            "Known: LINK_COM_POS_1, LINK_COM_POS_2, LINK_LENGTH_1, LINK_MASS_1, LINK_MASS_2, LINK_MOI, "
            "torque",
        ),
        (
            "FrozenLake-v1",
            {"parameter": "friction", "value": 1.0},
            "FrozenLakeEnv has no known physics parameters; those of CartPoleEnv, AcrobotEnv, PendulumEnv, "
            "MountainCarEnv, Continuous_MountainCarEnv, MujocoEnv are known",
        ),
        ("CartPole-v1", {"parameter": "gravity", "value": 0}, "value must be a finite number > 0, got 0"),
        (
            "Pendulum-v1",
            {"parameter": "max_torque", "value": 3},
            "value must be a finite number > 0 and <= 2, got 3",
        ),
        (
            "CartPole-v1",
            {"parameter": "gravity", "value": 1, "start": -1},
            "start must be a finite number > 0, got -1",
        ),
        (
            "CartPole-v1",
            {"parameter": "gravity", "value": 1, "path": "cubic"},
            "path must be 'linear' or 'log', got 'cubic'",
        ),
    ],
)
def test_what_an_environment_does_not_have_is_refused(env_id, parameters, message):
    with pytest.raises(EnvError) as refusal:
        Physics(gymnasium.make(env_id), **parameters)
    assert str(refusal.value) == message
