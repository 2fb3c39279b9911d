"""Tasks and shifts as records: frozen, hashable, the same after TOML, refused when wrong."""

import math
import tomllib
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pliant.envs import SHIFTS, ShiftSpec, Task, make_env

OFFSET = {"type": "observation-offset", "std": 2.0, "seed": 7}

numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False)
values = st.recursive(
    st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
shifts = st.one_of(
    st.builds(
        lambda std, seed: {"type": "observation-offset", "std": std, "seed": seed}, numbers, st.integers(0)
    ),
    st.builds(lambda seeds: {"type": "layout", "seeds": seeds}, st.lists(st.integers())),
    st.builds(lambda value: {"type": "physics", "parameter": "g", "value": value}, numbers),
)
tasks = st.fixed_dictionaries(
    {
        "env": st.text(min_size=1),
        "kwargs": st.dictionaries(st.text(max_size=5), values, max_size=3),
        "shifts": st.lists(shifts, max_size=3),
        "length": st.integers(1, 2**53),
        "name": st.text(),
    }
)


@given(tasks)
def test_a_task_is_the_same_after_a_round_trip_through_toml(description):
    task = Task.model_validate(description)
    text = tomli_w.dumps(task.model_dump(mode="json"))
    again = Task.model_validate(tomllib.loads(text))
    assert again == task
    assert hash(again) == hash(task)
    assert Task.model_validate_json(task.model_dump_json()) == task


@given(tasks, tasks)
def test_equal_tasks_have_equal_hashes(first, second):
    first, second = Task.model_validate(first), Task.model_validate(second)
    assert first != second or hash(first) == hash(second)


def test_the_order_of_keys_and_the_kind_of_number_do_not_matter():
    first = Task(
        env="A", kwargs={"x": 1, "y": 2}, shifts=[{"type": "reward-scale", "scale": 1}], length=5, name="n"
    )
    other = Task(
        env="A",
        kwargs={"y": 2.0, "x": 1},
        shifts=[{"scale": 1.0, "type": "reward-scale"}],
        length=5,
        name="n",
    )
    assert first == other
    assert len({first, other}) == 1


def test_python_values_become_what_toml_knows():
    task = Task(
        env="A", kwargs={"range": (0.2, math.inf), "array": np.arange(2), "one": np.float32(0.5)}, length=1
    )
    assert task.kwargs == {"range": [0.2, math.inf], "array": [0, 1], "one": 0.5}
    assert all(type(value) in (list, float) for value in task.kwargs.values())


def test_a_task_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Task(env="A", length=1).length = 2


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ({"env": "CartPole-v1"}, "CartPole-v1"),
        ({"env": "CartPole-v1", "name": "first"}, "first"),
        ({"env": "A", "kwargs": {"friction": 0.29608842, "size": 6}}, "A(friction=0.2961, size=6)"),
        ({"env": "A", "shifts": [OFFSET]}, "A, observation-offset(std=2, seed=7)"),
        (
            {"env": "A", "shifts": [{"type": "layout", "seeds": [1, 2, 3, 4, 5]}, {"type": "action-remap"}]},
            "A, layout(seeds=[1, ..., 5]), action-remap",
        ),
    ],
)
def test_a_task_has_a_readable_name(description, name):
    assert Task(**description, length=1).name == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "Input should be greater than 0"),
        ({"length": -5}, "Input should be greater than 0"),
        ({"length": 2.5}, "Input should be a valid integer"),
        ({"length": "100"}, "Input should be a valid integer"),
        ({"lenght": 100}, "Extra inputs are not permitted"),
        ({"env": 3}, "Input should be a valid string"),
        (
            {"kwargs": {"x": None}},
            "a task holds numbers (not NaN), strings, lists and tables, as TOML does, not None",
        ),
        ({"kwargs": {"x": math.nan}}, "not nan"),
        ({"kwargs": {"x": {1: 2}}}, "not {1: 2}"),
        ({"shifts": [{"std": 2.0}]}, "Field required"),
        (
            {"shifts": [OFFSET | {"type": "observation-ofset"}]},
            "unknown shift 'observation-ofset'. Did you mean 'observation-offset' or",
        ),
        (
            {"shifts": [OFFSET | {"sdt": 1}]},
            "unknown parameter of observation-offset 'sdt'. Did you mean 'std' or 'seed'? "
            "Known: elapsed, ramp, seed, std",
        ),
        ({"shifts": [{"type": "observation-offset"}]}, "observation-offset needs the parameter 'std'"),
    ],
)
def test_a_wrong_task_is_refused_with_the_reason(change, message):
    with pytest.raises(ValidationError) as refusal:
        Task.model_validate({"env": "CartPole-v1", "shifts": [OFFSET], "length": 100} | change)
    assert message in str(refusal.value)


def test_a_shift_knows_its_wrapper_and_parameters():
    shift = ShiftSpec.model_validate(OFFSET)
    assert shift.parameters == {"std": 2.0, "seed": 7}
    env = shift.apply(make_env(Task(env="CartPole-v1", length=1)))
    assert type(env) is SHIFTS["observation-offset"]


def test_shifts_wrap_in_order_the_last_outermost():
    shifts: list[dict[str, Any]] = [OFFSET, {"type": "reward-scale", "scale": 2.0}]
    env = make_env(Task(env="CartPole-v1", shifts=shifts, length=1))
    assert str(env).startswith("<RewardScale<ObservationOffset<")
