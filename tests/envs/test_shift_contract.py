"""What every member of SHIFTS must hold to. A new shift needs a line in EXAMPLES and IDENTITIES, no test."""

import inspect
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.utils.env_checker import check_env

from pliant import envs
from pliant.envs import SHIFTS, Task, make_env
from pliant.envs.shifts import GradualShift

# Parameters that visibly change CartPole-v1.
EXAMPLES: dict[str, dict[str, Any]] = {
    "action-delay": {"delay": 2},
    "action-remap": {"permutation": [1, 0]},
    "layout": {"seeds": [5, 6]},
    "observation-noise": {"std": 0.5},
    "observation-offset": {"std": 2.0, "seed": 3},
    "observation-permutation": {"seed": 2},
    "observation-scale": {"std": 0.5, "seed": 3},
    "physics": {"parameter": "gravity", "value": 20.0},
    "reward-scale": {"scale": -2.0},
    "sticky-action": {"probability": 0.5},
}
# Parameters that leave it as it was; a fixed layout has none.
IDENTITIES: dict[str, dict[str, Any]] = {
    "action-delay": {"delay": 0},
    "action-remap": {"permutation": [0, 1]},
    "observation-noise": {"std": 0.0},
    "observation-offset": {"std": 0.0},
    "observation-permutation": {"permutation": [0, 1, 2, 3]},
    "observation-scale": {"std": 0.0},
    "physics": {"parameter": "gravity", "value": 9.8},
    "reward-scale": {"scale": 1.0},
    "sticky-action": {"probability": 0.0},
}
GRADUAL = sorted(name for name, shift in SHIFTS.items() if issubclass(shift, GradualShift))

every_shift = pytest.mark.parametrize("name", sorted(SHIFTS))


def make(name: str | None = None, *, env_seed: int | None = None, **parameters: Any) -> gymnasium.Env:
    shifts = [{"type": name, **parameters}] if name else []
    return make_env(Task(env="CartPole-v1", shifts=shifts, length=1), seed=env_seed)


def rollout(env: gymnasium.Env, seed: int | None = 0, steps: int = 60) -> list[Any]:
    """Everything that a fixed sequence of actions brings about, over several episodes."""
    actions = np.random.default_rng(1).integers(2, size=steps)
    record: list[Any] = [env.reset(seed=seed)[0].tolist()]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        record.append((observation.tolist(), reward, terminated, truncated))
        if terminated or truncated:
            record.append(env.reset()[0].tolist())
    return record


def test_every_shift_has_an_example():
    assert EXAMPLES.keys() == SHIFTS.keys()
    assert IDENTITIES.keys() == SHIFTS.keys() - {"layout"}


@every_shift
def test_a_shift_can_be_rebuilt_from_the_spec_of_its_environment(name):
    env = make(name, **EXAMPLES[name])
    again = gymnasium.make(env.spec)
    from_json = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(env, RecordConstructorArgs)
    assert again.spec == env.spec
    assert again.observation_space == env.observation_space
    assert again.action_space == env.action_space
    assert rollout(again) == rollout(from_json) == rollout(env)


@every_shift
def test_a_shift_changes_something(name):
    assert rollout(make(name, **EXAMPLES[name])) != rollout(make())


@pytest.mark.parametrize("name", sorted(IDENTITIES))
def test_the_identity_of_a_shift_changes_nothing(name):
    assert rollout(make(name, **IDENTITIES[name])) == rollout(make())


@every_shift
def test_the_same_seed_gives_the_same_trajectory_and_another_seed_another(name):
    first, second = make(name, **EXAMPLES[name]), make(name, **EXAMPLES[name])
    assert rollout(first, seed=7) == rollout(second, seed=7) == rollout(first, seed=7)
    assert rollout(first, seed=8) != rollout(second, seed=7)


@every_shift
def test_the_first_reset_without_a_seed_uses_the_seed_of_make_env(name):
    assert rollout(make(name, env_seed=7, **EXAMPLES[name]), seed=None) == rollout(
        make(name, **EXAMPLES[name]), seed=7
    )


@every_shift
def test_observations_lie_in_the_declared_space(name):
    env = make(name, **EXAMPLES[name])
    for item in rollout(env):
        observation = item[0] if isinstance(item, tuple) else item
        assert env.observation_space.contains(np.array(observation, dtype=env.observation_space.dtype))
    assert env.reset()[0].dtype == env.observation_space.dtype


@pytest.mark.parametrize(
    "name", [name for name in SHIFTS if "seed" in inspect.signature(SHIFTS[name]).parameters]
)
def test_spaces_do_not_depend_on_what_is_drawn(name):
    example = {key: value for key, value in EXAMPLES[name].items() if key != "permutation"}
    first, second = (make(name, **example | {"seed": seed}) for seed in (1, 2))
    assert first.observation_space == second.observation_space
    assert first.action_space == second.action_space


@every_shift
def test_gymnasium_checks_a_shifted_environment_without_complaint(name):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is different from the unwrapped version")
        warnings.filterwarnings(
            "ignore", ".*value is -?infinity"
        )  # CartPole's own observations have none either
        check_env(make(name, **EXAMPLES[name]), skip_render_check=True)


@every_shift
def test_a_shift_leaves_the_class_and_other_instances_alone(name):
    before = rollout(make())
    cls = type(make().unwrapped)
    attributes = dict(vars(cls))
    rollout(make(name, **EXAMPLES[name]))
    assert dict(vars(cls)) == attributes
    assert rollout(make()) == before


@pytest.mark.parametrize("name", GRADUAL)
def test_a_ramp_starts_at_nothing_and_ends_at_the_abrupt_shift(name):
    ramped = make(name, **EXAMPLES[name], ramp=10)
    assert ramped.progress == 0
    assert ramped.reset(seed=0)[0].tolist() == make().reset(seed=0)[0].tolist()
    for t in range(1, 13):
        ramped.step(t % 2)
        assert ramped.progress == min(1.0, t / 10)
    assert rollout(ramped) == rollout(make(name, **EXAMPLES[name]))


@pytest.mark.parametrize("name", GRADUAL)
def test_a_ramp_goes_on_where_elapsed_says(name):
    whole, resumed = make(name, **EXAMPLES[name], ramp=40), make(name, **EXAMPLES[name], ramp=40, elapsed=7)
    whole.reset(seed=0)
    for t in range(7):
        whole.step(t % 2)
    assert resumed.progress == whole.progress == 7 / 40
    assert rollout(whole) == rollout(resumed)


@pytest.mark.parametrize("name", GRADUAL)
def test_copies_share_the_steps_of_a_ramp(name):
    task = Task(env="CartPole-v1", shifts=[{"type": name, **EXAMPLES[name], "ramp": 10}], length=1)
    env = make_env(task, copies=4, elapsed=4)
    assert env.progress == 1 / 3  # 10 steps over 4 copies: 3 each; 4 over 4 copies: 1 each
    assert make_env(task, copies=4, elapsed=12).progress == 1
    assert make_env(task, elapsed=4).progress == 4 / 10


@every_shift
def test_a_shift_documents_itself_and_each_of_its_parameters(name):
    shift = SHIFTS[name]
    text = inspect.getdoc(shift)
    assert text
    assert text != inspect.getdoc(shift.__base__)
    for parameter in inspect.signature(shift).parameters:
        assert f"\n    {parameter}: " in text
    assert len(inspect.getmodule(shift).__doc__.splitlines()) == 1


def test_every_file_of_shifts_is_registered():
    folder = Path(envs.__file__).parent / "shifts"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base", "parameters"}
    assert files == {name.replace("-", "_") for name in SHIFTS}
