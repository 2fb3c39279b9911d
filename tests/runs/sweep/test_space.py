"""Spaces: what a grid and draws come to."""

import doctest
import math

import pytest

from pliant.runs.errors import SpecError
from pliant.runs.sweep import space
from pliant.runs.sweep.space import check, ends, flatten, grid_size, settings

LOG = {"rule": "log-uniform", "low": 1e-5, "high": 1e-2}


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(space).failed == 0


def test_nested_and_dotted_keys_are_the_same() -> None:
    nested = {"agent": {"learning_rate": [1.0], "network": {"hidden": [[8]]}}}
    dotted = {"agent.learning_rate": [1.0], "agent.network.hidden": [[8]]}
    assert flatten(nested) == flatten(dotted) == flatten(dotted | {"agent": {}}) == dotted


def test_a_grid_is_every_combination_once_and_the_last_key_runs_fastest() -> None:
    found = settings({"a": [1, 2], "b": [3, 4, 5]}, draws=1, seed=0)
    assert found == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4, 5)]
    assert grid_size({"a": [1, 2], "b": [3, 4, 5], "c": LOG}) == 6
    assert settings({}, draws=1, seed=0) == [{}]


def test_draws_lie_within_their_range_and_are_spread_over_its_decades() -> None:
    drawn = [point["x"] for point in settings({"x": LOG}, draws=300, seed=0)]
    decades = [sum(math.floor(math.log10(x)) == d for x in drawn) for d in (-5, -4, -3)]
    assert sum(decades) == 300
    assert min(decades) > 70  # 100 each on average, with a standard deviation of 8


def test_a_draw_is_left_as_it_was_by_more_draws_and_by_other_keys() -> None:
    few = settings({"x": LOG}, draws=3, seed=7)
    more = settings({"w": {"rule": "uniform", "low": 0.0, "high": 1.0}, "x": LOG}, draws=5, seed=7)
    assert [point["x"] for point in more][:3] == [point["x"] for point in few]
    assert settings({"x": LOG}, draws=3, seed=8) != few


def test_every_combination_of_lists_gets_draws_of_its_own() -> None:
    found = settings({"x": LOG, "a": [1, 2]}, draws=3, seed=0)
    assert [point["a"] for point in found] == [1, 2] * 3
    assert len({point["x"] for point in found}) == 6
    assert list(found[0]) == ["x", "a"]  # in the order of the file


def test_the_ends_of_a_space_are_its_first_and_last_values() -> None:
    choice = {"rule": "choice", "values": ["p", "q"]}
    assert ends({"x": LOG, "a": [1, 2, 3], "c": choice}) == [
        {"x": 1e-5, "a": 1, "c": "p"},
        {"x": 1e-2, "a": 3, "c": "q"},
    ]


REFUSED = {
    "a bare value": (0.1, r"expected a list of values.*got 0\.1"),
    "an empty list": ([], "expected a list of values"),
    "an unknown rule": ({"rule": "log-unifrom"}, "is unknown; did you mean 'log-uniform'"),
    "a rule of tasks": ({"rule": "linspace", "low": 0.0, "high": 1.0}, "is for the tasks of one run"),
    "a rule that is no name": ({"rule": [1]}, "is unknown"),
    "a range of no width": ({"rule": "uniform", "low": 2.0, "high": 1.0}, "x: .*low must be <= high"),
    "a logarithm of zero": ({"rule": "log-uniform", "low": 0.0, "high": 1.0}, "low must be > 0"),
    "an unknown parameter": ({"rule": "uniform", "low": 0.0, "hihg": 1.0}, "hihg"),
    "an infinite range": ({"rule": "uniform", "low": -1.7e308, "high": 1.7e308}, "x: "),
    "integers too large": ({"rule": "integer", "low": 0, "high": 10**30}, "x: "),
}


@pytest.mark.parametrize(("leaf", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_drawn_is_refused_by_its_key(leaf: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        check({"x": leaf})
