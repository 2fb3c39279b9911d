"""Rules: what they draw, that draws depend only on seed, task and place, and how wrong ones are refused."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.envs import RULES, EnvError
from pliant.envs.rules import resolve

EXAMPLES = {
    "arange": {"start": 5, "step": 2},
    "choice": {"values": [1, 2, 3]},
    "geomspace": {"low": 1.0, "high": 100.0},
    "integer": {"low": -3, "high": 3},
    "linspace": {"low": 0.0, "high": 1.0},
    "list": {"values": [4, 5, 6]},
    "log-uniform": {"low": 0.02, "high": 2.0},
    "normal": {"mean": 1.0, "std": 2.0},
    "seed": {},
    "uniform": {"low": -1.0, "high": 3.0},
    "walk": {"start": 1.0, "std": 0.3, "low": 0.5, "high": 2.0},
    "window": {"of": 1000, "size": 2},
}
DRAWN = ["choice", "integer", "log-uniform", "normal", "seed", "uniform", "walk", "window"]


def draws(name: str, count: int, seed: int = 0, **parameters) -> list:
    return [resolve({"rule": name, **parameters}, seed, index, count, "x") for index in range(count)]


def test_every_rule_has_an_example():
    assert EXAMPLES.keys() == RULES.keys()


@pytest.mark.parametrize("name", DRAWN)
def test_a_draw_depends_on_seed_task_and_place_alone(name):
    rule = {"rule": name, **EXAMPLES[name]}
    assert draws(name, 20, **EXAMPLES[name]) == draws(name, 20, **EXAMPLES[name])
    assert draws(name, 20, **EXAMPLES[name]) == draws(name, 40, **EXAMPLES[name])[:20]
    assert draws(name, 20, **EXAMPLES[name]) != draws(name, 20, seed=1, **EXAMPLES[name])
    alone = [resolve({"a": rule}, 0, i, 20) for i in range(20)]
    beside = [resolve({"b": rule, "a": rule}, 0, i, 20) for i in range(20)]
    assert [item["a"] for item in beside] == [item["a"] for item in alone]
    assert [item["b"] for item in beside] != [item["a"] for item in alone]


def test_draws_are_the_same_in_every_release():
    assert resolve({"rule": "seed"}, 0, 0, 1, "shifts[0].seed") == 1877416909
    rule = {"rule": "log-uniform", "low": 0.02, "high": 2.0}
    assert resolve(rule, 0, 3, 5, "kwargs.friction") == pytest.approx(0.05856217293291401)


@pytest.mark.parametrize("name", sorted(RULES))
def test_values_are_plain_python(name):
    values = [value if isinstance(value, list) else [value] for value in draws(name, 3, **EXAMPLES[name])]
    assert {type(value) for value in chain(*values)} <= {int, float}


@pytest.mark.parametrize(
    ("name", "transform", "mean", "std"),
    [
        ("uniform", lambda x: x, 1.0, 4 / 12**0.5),
        ("log-uniform", np.log10, np.log10(0.2), 2 / 12**0.5),
        ("normal", lambda x: x, 1.0, 2.0),
        ("integer", lambda x: x, 0.0, 2.0),
        ("choice", lambda x: x, 2.0, (2 / 3) ** 0.5),
        ("seed", lambda x: np.array(x) / 2**31, 0.5, 1 / 12**0.5),
    ],
)
def test_draws_have_the_moments_of_their_law(name, transform, mean, std):
    sample = transform(np.array(draws(name, 2000, **EXAMPLES[name])))
    assert sample.mean() == pytest.approx(mean, abs=5 * std / 2000**0.5)
    assert sample.std() == pytest.approx(std, rel=0.1)


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.integers(0, 2**32))
def test_log_uniform_stays_within_its_bounds(a, b, seed):
    low, high = sorted([a, b])
    assert low <= resolve({"rule": "log-uniform", "low": low, "high": high}, seed, 0, 1) <= high


def test_whole_numbers_reach_both_ends():
    assert set(draws("integer", 200, low=-1, high=1)) == {-1, 0, 1}


def test_ordered_rules_follow_the_order_of_the_tasks():
    assert draws("list", 3, values=["a", "b", "c"]) == ["a", "b", "c"]
    assert draws("linspace", 5, low=1, high=0) == [1, 0.75, 0.5, 0.25, 0]
    assert draws("geomspace", 3, low=0.01, high=1) == pytest.approx([0.01, 0.1, 1])
    assert draws("linspace", 1, low=2, high=3) == [2]
    assert draws("arange", 3, start=500, step=250) == [500, 750, 1000]
    assert draws("arange", 3, step=0.5) == [0, 0.5, 1.0]
    assert draws("window", 3, of=5, size=2, shuffled=False) == [[0, 1], [2, 3], [4, 0]]
    assert draws("window", 3, of=5, size=2, step=1, shuffled=False) == [[0, 1], [1, 2], [2, 3]]
    assert draws("window", 2, of=5, size=2, cumulative=True, shuffled=False) == [[0, 1], [0, 1, 2, 3]]


def test_windows_share_one_random_order():
    pairs = draws("window", 7, of=10, size=2)
    assert sorted(chain(*pairs[:5])) == list(range(10))  # each number once before any comes again
    assert pairs[5:] == pairs[:2]
    assert list(chain(*pairs[:5])) != list(range(10))
    grown = draws("window", 5, of=10, size=2, cumulative=True)
    assert grown == [list(chain(*pairs[: i + 1])) for i in range(5)]


def test_a_walk_starts_where_it_is_told_and_takes_gaussian_strides():
    far = {"start": 5.0, "std": 0.3, "low": -1e6, "high": 1e6}
    walked = draws("walk", 2000, **far)
    assert walked[0] == 5.0
    strides = np.diff(walked)
    assert strides.mean() == pytest.approx(0, abs=5 * 0.3 / 2000**0.5)
    assert strides.std() == pytest.approx(0.3, rel=0.1)
    assert abs(np.corrcoef(strides[1:], strides[:-1])[0, 1]) < 5 / 2000**0.5
    factors = np.diff(np.log(draws("walk", 2000, **far | {"low": 1e-300, "high": 1e300}, log=True)))
    assert factors == pytest.approx(strides)  # the same strides, of the logarithm


def test_a_walk_is_reflected_at_its_bounds():
    free = draws("walk", 300, start=0.0, std=0.3, low=-1e6, high=1e6)
    bounded = draws("walk", 300, start=0.0, std=0.3, low=-1.0, high=1.0)
    expected = [free[0]]
    turned = 1
    for stride in np.diff(free):  # step by step, as the definition has it
        value = expected[-1] + turned * stride
        if abs(value) > 1:
            value, turned = np.sign(value) * 2 - value, -turned
        expected.append(value)
    assert bounded == pytest.approx(expected)
    assert max(map(abs, free)) > 1


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 10), st.booleans(), st.integers(0, 2**32))
def test_a_walk_stays_within_its_bounds(a, b, std, log, seed):
    low, high = sorted([a, b])
    walk = {"rule": "walk", "start": high, "std": std, "low": low, "high": high, "log": log}
    assert all(low <= resolve(walk, seed, index, 20) <= high for index in range(20))


def test_rules_stand_anywhere_and_all_else_stays():
    rule = {"rule": "list", "values": [["x"], {"y": 1}]}
    description = {"env": rule, "shifts": [{"std": rule, "seed": 3}], "name": "n"}
    assert resolve(description, 0, 1, 2) == {
        "env": {"y": 1},
        "shifts": [{"std": {"y": 1}, "seed": 3}],
        "name": "n",
    }


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"rule": "loguniform", "low": 1, "high": 2},
            "unknown rule 'loguniform'. Did you mean 'log-uniform' or 'uniform' or 'normal'? "
            "Known: arange, choice, geomspace, integer, linspace, list, log-uniform, normal, seed, uniform, "
            "walk, window",
        ),
        (
            {"rule": "log-uniform", "low": 0, "high": 2},
            "rule 'log-uniform': low must be > 0 for log-uniform, got 0",
        ),
        (
            {"rule": "uniform", "low": 3, "high": 2},
            "rule 'uniform': low must be <= high, got low = 3 and high = 2",
        ),
        (
            {"rule": "integer", "low": 3, "high": 2},
            "rule 'integer': low must be <= high, got low = 3 and high = 2",
        ),
        ({"rule": "uniform", "low": 3}, "rule 'uniform': high is missing"),
        (
            {"rule": "uniform", "low": "a", "high": 1},
            "rule 'uniform': low: input should be a valid number, got 'a'",
        ),
        (
            {"rule": "integer", "low": 0.5, "high": 1},
            "rule 'integer': low: input should be a valid integer, got 0.5",
        ),
        (
            {"rule": "normal", "std": -1},
            "rule 'normal': std: input should be greater than or equal to 0, got -1",
        ),
        (
            {"rule": "normal", "sd": 1},
            "rule 'normal': unknown key 'sd'. Did you mean 'std'? Known: mean, rule, std",
        ),
        (
            {"rule": "geomspace", "low": 0, "high": 1},
            "rule 'geomspace': low: input should be greater than 0, got 0",
        ),
        (
            {"rule": "choice", "values": []},
            "rule 'choice': values: list should have at least 1 item after validation, not 0, got []",
        ),
        (
            {"rule": "window", "of": 3, "size": 4},
            "rule 'window': size must be <= of, got size = 4 and of = 3",
        ),
        (
            {"rule": "walk", "start": 3, "std": 0.1, "low": 0, "high": 2},
            "rule 'walk': start must lie between low = 0 and high = 2, got 3",
        ),
        (
            {"rule": "walk", "start": 1, "std": 0.1, "low": 0, "high": 2, "log": True},
            "rule 'walk': low must be > 0 for walk with log = true, got 0",
        ),
        (
            {"rule": "list", "values": [1, 2]},
            "values must hold one entry per task, got 2 for 3 task(s); set count = 2, or change the list",
        ),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place_and_the_reason(rule, message):
    with pytest.raises(EnvError) as refusal:
        resolve({"shifts": [{"std": rule}]}, 0, 0, 3)
    assert str(refusal.value) == f"shifts[0].std: {message}"


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "uniform", "low": -1.7e308, "high": 1.7e308},
        {"rule": "linspace", "low": -1.7e308, "high": 1.7e308},
        {"rule": "integer", "low": 0, "high": 2**70},
        {"rule": "walk", "low": -1e308, "high": 1e308, "start": 0.0, "std": 1e308},
        {"rule": "window", "of": 10**15, "size": 2},
    ],
)
def test_numbers_too_large_to_draw_from_are_refused(rule):
    with pytest.raises(EnvError, match=r"^x: rule '.*'(: of: input should| cannot draw from such)"):
        resolve({"x": rule}, 0, 2, 3)


def test_a_window_that_only_grows_ends_with_the_last_number():
    with pytest.raises(EnvError, match="task 2 would have 6 numbers, but there are 5; have fewer tasks"):
        draws("window", 3, of=5, size=2, cumulative=True)
