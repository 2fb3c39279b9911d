"""Sequences: written out, drawn, repeated, cycled; one pair of spaces; what is refused, and how."""

import tomllib

import pytest
import tomli_w
from gymnasium.spaces import Box, Discrete
from pydantic import ValidationError

from pliant.envs import (
    EnvError,
    InvalidRule,
    InvalidShift,
    InvalidTask,
    MissingPackage,
    SequenceSpec,
    SpaceMismatch,
    Task,
    TaskSequence,
    UnknownEnvironment,
)

OFFSETS = """
env = "CartPole-v1"
length = 20_480
count = 4

[[shifts]]
type = "observation-offset"
std = 2.0
seed = { rule = "seed" }
"""
FRICTIONS = [0.29608842, 0.23991975, 0.03867832, 0.35279543, 0.08286367]  # of the paper's seed 0


def spec(text: str) -> SequenceSpec:
    return SequenceSpec.model_validate(tomllib.loads(text))


def test_a_sequence_is_a_sequence_of_its_tasks():
    first, second = Task(env="CartPole-v1", length=10), Task(env="CartPole-v1", length=5)
    sequence = TaskSequence([first, second, first])
    assert list(sequence) == [first, second, first]
    assert sequence.tasks == (first, second, first)
    assert (sequence[1], sequence[-1], sequence[:2]) == (second, first, (first, second))
    assert (len(sequence), sequence.total_length) == (3, 25)
    assert repr(sequence) == "TaskSequence(3 tasks, 25 environment steps)"
    assert sequence.action_space == Discrete(2)
    assert sequence.observation_space.shape == (4,)
    assert sequence == TaskSequence([first, second, first])
    assert len({sequence, TaskSequence([first, second, first]), TaskSequence([first])}) == 2


def test_tasks_are_drawn_from_the_seed():
    sequence = spec(OFFSETS).build(seed=3)
    assert len({task.shifts[0].parameters["seed"] for task in sequence}) == 4
    assert sequence == spec(OFFSETS).build(seed=3)
    assert sequence != spec(OFFSETS).build(seed=4)
    assert sequence.observation_space == Box(-float("inf"), float("inf"), (4,))


def test_a_fixed_seed_gives_the_same_tasks_in_every_run():
    fixed = spec("seed = 3\n" + OFFSETS)
    assert fixed.build(seed=0) == fixed.build(seed=1) == spec(OFFSETS).build(seed=3)


def test_more_tasks_begin_with_the_same_ones():
    more = spec(OFFSETS.replace("count = 4", "count = 6")).build(seed=0)
    assert more.tasks[:4] == spec(OFFSETS).build(seed=0).tasks


def test_the_papers_frictions_can_be_listed():
    sequence = spec(f"""
        env = "pliant/SlipperyAnt-v0"
        length = 2_000_000
        count = 5
        kwargs.friction = {{ rule = "list", values = {FRICTIONS} }}
    """).build(seed=0)
    assert [task.kwargs["friction"] for task in sequence] == FRICTIONS
    assert sequence.observation_space.shape == (27,)
    assert sequence.total_length == 10_000_000


def test_repeats_are_in_a_row_and_cycles_start_again():
    text = """
        length = 10
        repeats = 2
        cycles = 2
        [[list]]
        env = "MiniGrid-Empty-5x5-v0"
        [[list]]
        env = "MiniGrid-DoorKey-5x5-v0"
        length = 20
    """
    sequence = spec(text).build(seed=0)
    names = [task.env.removeprefix("MiniGrid-").partition("-")[0] for task in sequence]
    assert names == ["Empty", "Empty", "DoorKey", "DoorKey"] * 2
    assert sequence.total_length == 2 * (2 * 10 + 2 * 20)


def test_written_tasks_override_the_defaults_and_may_have_rules():
    sequence = SequenceSpec(
        env="CartPole-v1",
        length=10,
        shifts=[{"type": "reward-scale", "scale": 1.0}],
        list=[
            {"name": "plain"},
            {"shifts": []},
            {"shifts": [{"type": "reward-scale", "scale": {"rule": "linspace", "low": 0, "high": 3}}]},
            {"env": "pliant/CartPole-v1", "kwargs": {"gravity": {"rule": "uniform", "low": 5, "high": 6}}},
        ],
    ).build(seed=0)
    assert sequence[0] == Task(
        env="CartPole-v1", shifts=[{"type": "reward-scale", "scale": 1}], length=10, name="plain"
    )
    assert sequence[1].shifts == ()
    assert sequence[2].shifts[0].parameters == {"scale": 2.0}
    assert 5 <= sequence[3].kwargs["gravity"] < 6


def test_environments_may_be_chosen_by_a_rule():
    environments = ["MiniGrid-Empty-5x5-v0", "MiniGrid-LavaGapS5-v0"]
    sequence = SequenceSpec(env={"rule": "list", "values": environments}, length=1, count=2).build(seed=0)
    assert [task.env for task in sequence] == environments


@pytest.mark.parametrize("seed", ["run", 5])
def test_a_description_is_the_same_after_a_round_trip_through_toml(seed):
    description = spec(OFFSETS).model_copy(update={"seed": seed})
    again = spec(tomli_w.dumps(description.model_dump(mode="json")))
    assert again == description
    assert again.build(seed=1) == description.build(seed=1)


CARTPOLE = {"env": "CartPole-v1", "length": 10}


@pytest.mark.parametrize(
    ("description", "kind", "message"),
    [
        (CARTPOLE | {"length": 0}, InvalidTask, "tasks[0]: length: input should be greater than 0, got 0"),
        (CARTPOLE | {"length": -1}, InvalidTask, "tasks[0]: length: input should be greater than 0, got -1"),
        ({"env": "CartPole-v1"}, InvalidTask, "tasks[0]: length: input should be greater than 0, got 0"),
        (
            {"list": [CARTPOLE, CARTPOLE | {"lenght": 3}]},
            InvalidTask,
            "tasks[1]: unknown key 'lenght'. Did you mean 'length'? Known: env, kwargs, length, name, shifts",
        ),
        (
            CARTPOLE | {"count": 2, "list": [{}]},
            InvalidTask,
            "either written out (list) or generated (count)",
        ),
        (
            CARTPOLE | {"env": "CartPol-v1"},
            UnknownEnvironment,
            "tasks[0]: unknown environment 'CartPol-v1'. Did you mean 'CartPole-v1'",
        ),
        (CARTPOLE | {"env": "CartPole"}, UnknownEnvironment, "Did you mean 'CartPole-v1'"),
        (
            CARTPOLE | {"env": "Minigrid-DoorKey-5x5-v0"},
            UnknownEnvironment,
            "Did you mean 'MiniGrid-DoorKey-5x5-v0'",
        ),
        (
            {"list": [CARTPOLE, CARTPOLE | {"env": "no_such_module:Env-v0"}]},
            MissingPackage,
            "tasks[1]: no_such_module:Env-v0 needs the package 'no_such_module': pip install no-such-module",
        ),
        (
            CARTPOLE | {"kwargs": {"sutton_barto": True}},
            InvalidTask,
            "tasks[0]: CartPole-v1: unknown environment argument 'sutton_barto'. "
            "Did you mean 'sutton_barto_reward'? Known: max_episode_steps, render_mode, sutton_barto_reward",
        ),
        (
            CARTPOLE | {"env": "Ant-v5", "kwargs": {"friction": 1.0}},
            InvalidTask,
            "tasks[0]: Ant-v5 could not be made with (friction=1.0): "
            "MujocoEnv.__init__() got an unexpected keyword argument 'friction'",
        ),
        (
            CARTPOLE | {"env": "pliant/SlipperyAnt-v0", "kwargs": {"friction": -1.0}},
            InvalidShift,
            "tasks[0]: pliant/SlipperyAnt-v0: friction must be a finite number > 0, got -1.0",
        ),
        (
            CARTPOLE | {"env": "MiniGrid-Empty-5x5-v0", "kwargs": {"size": 1}},
            InvalidTask,
            "tasks[0]: MiniGrid-Empty-5x5-v0 could not be made with (size=1)",
        ),
        (
            CARTPOLE | {"shifts": [{"type": "offset"}]},
            InvalidShift,
            "tasks[0]: shifts[0]: unknown shift 'offset'. Did you mean 'observation-offset'",
        ),
        (
            CARTPOLE | {"shifts": [{"type": "observation-offset", "std": -1}]},
            InvalidShift,
            "tasks[0]: observation-offset: std must be a finite number >= 0, got -1",
        ),
        (
            CARTPOLE
            | {
                "shifts": [
                    {
                        "type": "physics",
                        "parameter": "length",
                        "value": {"rule": "log-uniform", "low": 0, "high": 1},
                    }
                ]
            },
            InvalidRule,
            "tasks[0]: shifts[0].value: rule 'log-uniform': low must be > 0 for log-uniform, got 0",
        ),
        (
            {"list": [CARTPOLE, CARTPOLE, CARTPOLE | {"env": "Acrobot-v1", "name": "swing"}]},
            SpaceMismatch,
            "tasks[2] (swing) has the observation space Box([",
        ),
        (
            {"list": [CARTPOLE | {"env": "MountainCar-v0"}, CARTPOLE | {"env": "MountainCarContinuous-v0"}]},
            SpaceMismatch,
            "tasks[1] (MountainCarContinuous-v0) has the action space Box(-1.0, 1.0, (1,), float32), but "
            "tasks[0] (MountainCar-v0) has Discrete(3); all tasks of a sequence must share one",
        ),
        (
            {"list": [CARTPOLE, CARTPOLE | {"shifts": [{"type": "observation-noise", "std": 1}]}]},
            SpaceMismatch,
            "Only the bounds differ: give the task without observation shifts the shift "
            '{ type = "observation-offset", std = 0.0 }, which changes nothing but the bounds',
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_index_and_the_reason(description, kind, message):
    with pytest.raises(EnvError) as refusal:
        SequenceSpec.model_validate(description).build(seed=0)
    assert type(refusal.value) is kind
    assert message in str(refusal.value)


def test_the_remedy_for_different_bounds_works():
    zero, noise = {"type": "observation-offset", "std": 0.0}, {"type": "observation-noise", "std": 1.0}
    assert len(TaskSequence(Task(**CARTPOLE, shifts=[shift]) for shift in (zero, noise))) == 2


def test_a_sequence_needs_a_task():
    with pytest.raises(InvalidTask, match="at least one task"):
        TaskSequence([])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"count": 0}, "count"),
        ({"cycles": -1}, "cycles"),
        ({"repeats": 1.5}, "repeats"),
        ({"seed": -1}, "seed"),
        ({"seed": "runs"}, "seed"),
        ({"lenght": 1}, "lenght"),
        ({"shifts": "observation-offset"}, "shifts"),
        ({"kwargs": {"x": None}}, "kwargs"),
    ],
)
def test_a_description_of_the_wrong_form_is_refused_at_its_place(change, place):
    with pytest.raises(ValidationError) as refusal:
        SequenceSpec.model_validate(CARTPOLE | change)
    assert {finding["loc"][0] for finding in refusal.value.errors()} == {place}
