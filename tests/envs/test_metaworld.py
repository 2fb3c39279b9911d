"""Meta-World: what is ours of it, on a stand-in: the package pins an older MuJoCo than the tests have."""

import sys
from typing import Any

import numpy as np
import pytest

from pliant.envs import EnvError, SequenceSpec, Task, TaskSequence, make_env
from pliant.runs.presets import load_spec

CW10 = [  # arXiv 2105.10919, section 4
    *("hammer", "push-wall", "faucet-close", "push-back", "stick-pull"),
    *("handle-press-side", "push", "shelf-place", "window-close", "peg-unplug-side"),
]


def make(name: str) -> Any:
    return make_env(Task(env="pliant/MetaWorld-v0", kwargs={"name": name}, length=1))


@pytest.mark.usefixtures("arms")
def test_the_preset_is_continual_worlds_ten_in_their_order() -> None:
    spec = load_spec("metaworld-cw10")
    drawn = spec.tasks.draw(0)
    assert [task.kwargs["name"] for task in drawn] == [f"{name}-v3" for name in CW10]
    assert {task.length for task in drawn} == {1_000_000}
    assert TaskSequence(drawn).observation_space.shape == (39,)
    assert [type(make_env(task).unwrapped.arm).__name__ for task in drawn] == CW10


@pytest.mark.usefixtures("arms")
def test_object_and_goal_are_seen_and_follow_the_seed_alone() -> None:
    env = make("hammer-v3")
    first = env.reset(seed=1)[0]
    assert (first[-3:] > 0).all()
    second = env.reset()[0]
    assert not np.array_equal(first, second)  # each episode its own
    assert np.array_equal(env.reset(seed=1)[0], first)
    assert np.array_equal(env.reset()[0], second)
    np.random.seed(5)  # the generator that the package would draw from
    assert np.array_equal(make("hammer-v3").reset(seed=1)[0], first)


@pytest.mark.usefixtures("arms")
def test_an_episode_has_200_environment_steps_and_says_whether_it_succeeded() -> None:
    env = make("push-v3")
    env.reset(seed=0)
    ended = [env.step(np.full(4, 0.5, np.float32)) for _ in range(200)]
    assert [step[3] for step in ended] == [False] * 199 + [True]
    assert ended[-1][4]["success"] == 1.0
    assert type(ended[-1][1]) is float


@pytest.mark.usefixtures("arms")
def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(EnvError, match=r"unknown task of Meta-World 'hammer-v1'. Did you mean 'hammer-v3'"):
        make("hammer-v1")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(EnvError) as refusal:
        SequenceSpec(env="pliant/MetaWorld-v0", kwargs={"name": "push-v3"}, length=1).build(0)
    assert str(refusal.value) == (
        "tasks[0]: pliant/MetaWorld-v0 needs the package 'metaworld', which is not installed: "
        'pip install "pliant[metaworld]"'
    )
