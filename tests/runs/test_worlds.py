"""The worlds of the presets: what their descriptions say differs between tasks, and nothing else."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pliant.envs import Task, make_env
from pliant.runs.presets import load_spec

GRADUAL_PHYSICS = ["hopper-physics-gradual", "walker-physics-gradual", "cheetah-physics-gradual"]
GRADUAL_OFFSETS = ["cartpole-offset-gradual", "acrobot-offset-gradual", "lunarlander-offset-gradual"]
PHYSICS = ["hopper-physics", "walker-physics", "cheetah-physics", *GRADUAL_PHYSICS]
OFFSETS = ["lunarlander-offset", *GRADUAL_OFFSETS]


def tasks(preset: str) -> list[Task]:
    spec = load_spec(preset)
    return list(spec.tasks.draw(spec.seed))


def model(task: Task) -> Any:
    return make_env(task).unwrapped.model


def offset(task: Task) -> np.ndarray:
    """What is added to the observation that the unshifted environment begins with."""
    bare = make_env(task.model_copy(update={"shifts": ()}))
    return make_env(task).reset(seed=3)[0] - bare.reset(seed=3)[0]


@pytest.mark.parametrize("preset", PHYSICS)
def test_the_mujoco_model_of_each_task_has_the_friction_gravity_and_masses_drawn_for_it(preset: str) -> None:
    drawn = tasks(preset)
    plain = model(drawn[0].model_copy(update={"shifts": ()}))
    for task in drawn[:3]:
        friction, gravity, mass = (shift.parameters["value"] for shift in task.shifts)
        ours = model(task)
        assert (ours.geom_friction[:, 0] == friction).all()
        assert ours.opt.gravity.tolist() == [0, 0, -gravity]
        assert ours.body_mass == pytest.approx(mass * plain.body_mass)
        assert np.array_equal(ours.geom_size, plain.geom_size)
        assert np.array_equal(ours.actuator_gainprm, plain.actuator_gainprm)
    for i in range(3):
        values = [task.shifts[i].parameters["value"] for task in drawn]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("preset", PHYSICS)
def test_two_tasks_of_changed_physics_move_differently_from_the_same_start(preset: str) -> None:
    first, second = (make_env(task) for task in tasks(preset)[1:3])
    assert first.reset(seed=0)[0].tolist() == second.reset(seed=0)[0].tolist()
    action = np.full(first.action_space.shape, 0.5, np.float32)
    for _ in range(5):
        ours, theirs = first.step(action)[0], second.step(action)[0]
    assert np.abs(ours - theirs).max() > 1e-3


@pytest.mark.parametrize("preset", OFFSETS)
def test_each_task_adds_its_own_offset_and_the_same_at_every_start(preset: str) -> None:
    drawn = tasks(preset)[1:4]
    offsets = [offset(task) for task in drawn]
    for before, after in pairwise(offsets):
        assert np.abs(before - after).max() > 1e-2
    env, bare = make_env(drawn[0]), make_env(drawn[0].model_copy(update={"shifts": ()}))
    for seed in range(3):
        assert env.reset(seed=seed)[0] - bare.reset(seed=seed)[0] == pytest.approx(offsets[0], abs=1e-5)


def test_offsets_of_lunarlander_have_their_standard_deviation() -> None:
    offsets = np.array([offset(task) for task in tasks("lunarlander-offset")])  # [10, 8]
    assert offsets.std() == pytest.approx(1.0, abs=5 / (2 * offsets.size) ** 0.5)


@pytest.mark.parametrize("preset", [*GRADUAL_PHYSICS, *GRADUAL_OFFSETS])
def test_a_gradual_preset_has_the_environment_steps_of_its_abrupt_one_and_smaller_changes(
    preset: str,
) -> None:
    gradual, abrupt = tasks(preset), tasks(preset.removesuffix("-gradual"))
    assert len(gradual) > len(abrupt)
    assert sum(task.length for task in gradual) == sum(task.length for task in abrupt)
    if "offset" in preset:
        moved = [np.array([offset(task) for task in each]) for each in (gradual, abrupt)]
    else:
        moved = [
            np.log([[shift.parameters["value"] for shift in task.shifts] for task in each])
            for each in (gradual, abrupt)
        ]
    strides = [np.linalg.norm(np.diff(each, axis=0), axis=1) for each in moved]
    assert np.median(strides[0]) < np.median(strides[1]) / 2


@pytest.mark.parametrize("preset", [*PHYSICS, *OFFSETS])
def test_another_seed_of_the_run_draws_other_tasks_and_the_same_seed_the_same(preset: str) -> None:
    spec = load_spec(preset)
    assert spec.tasks.draw(0) == spec.tasks.draw(0)
    assert spec.tasks.draw(0)[1:] != spec.tasks.draw(1)[1:]


def test_lunarlander_comes_out_the_same_after_other_episodes() -> None:
    env = make_env(tasks("lunarlander-offset")[0])

    def episode() -> list[Any]:
        seen: list[Any] = [env.reset(seed=1)[0].tolist()]
        env.action_space.seed(0)
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen.append((observation.tolist(), reward))
            over = terminated or truncated
        return seen

    first = episode()
    env.reset(seed=2)
    for _ in range(30):
        env.step(2)
    assert episode() == first
    assert len(first) > 50


def test_the_tasks_of_the_minatar_cycle_are_three_games_twice() -> None:
    drawn = tasks("minatar-cycle")
    games = ["breakout", "space_invaders", "freeway"]
    assert [make_env(task).unwrapped.game.game_name() for task in drawn] == games * 2
    starts = [make_env(task).reset(seed=0)[0] for task in drawn]
    assert len({start.tobytes() for start in starts}) == 3


def test_the_gradual_minatar_plays_one_game_whose_actions_stick_a_little_more_or_less() -> None:
    drawn = tasks("minatar-gradual")
    assert sum(task.length for task in drawn) == sum(task.length for task in tasks("minatar-cycle"))
    games = [make_env(task).unwrapped.game for task in drawn]
    assert {game.game_name() for game in games} == {"breakout"}
    sticky = np.array([game.sticky_action_prob for game in games])
    assert sticky[0] == 0.1
    assert len(set(sticky)) > 15
    assert np.abs(np.diff(sticky)).max() < 0.2
