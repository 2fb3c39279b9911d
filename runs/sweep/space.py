"""A space of settings: lists span a grid, rules are drawn from.

A space is a table whose leaves are lists (``[1e-4, 1e-3]``: every value of it, with every value of the
others) or rules (``{ rule = "log-uniform", low = 1e-5, high = 1e-2 }``: one draw per setting). A
*setting* is one point of it: values by dotted key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

from ...envs import RULES, EnvError
from ...envs.rules import resolve
from ..errors import SpecError
from ..presets import did_you_mean

Setting = dict[str, Any]

DRAWN = ("uniform", "log-uniform", "integer", "choice")
"""Rules of :mod:`pliant.envs.rules` whose draws do not depend on how many there are."""

MOST = 100_000
"""Settings of one arm; a grid with more is a slip, found before it fills the memory."""


def flatten(table: Mapping[str, Any], prefix: str = "") -> Setting:
    """Leaves by dotted key; a table that is a rule is a leaf.

    >>> flatten({"agent": {"gamma": 0.9, "network": {"hidden": [8]}}, "mitigations.l2.strength": 1e-4})
    {'agent.gamma': 0.9, 'agent.network.hidden': [8], 'mitigations.l2.strength': 0.0001}
    """
    leaves: Setting = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and "rule" not in value:
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def check(space: Mapping[str, Any]) -> None:
    """See that every leaf of the flat ``space`` is a list or a rule that can be drawn from.

    Raises:
        SpecError: one is neither; the text begins with its key.
    """
    for key, values in space.items():
        if isinstance(values, Mapping):
            _check_rule(key, values)
        elif not isinstance(values, list) or not values:
            raise SpecError(
                f"{key}: expected a list of values, [0.1, 0.2], or a rule to draw from, "
                f'{{ rule = "log-uniform", low = 1e-5, high = 1e-2 }}, got {values!r}'
            )


def _check_rule(key: str, rule: Mapping[str, Any]) -> None:
    name = str(rule["rule"])
    if name not in DRAWN:
        what = "is for the tasks of one run" if name in RULES else "is unknown"
        raise SpecError(f"{key}: the rule {name!r} {what}{did_you_mean(name, DRAWN)}")
    try:
        resolve(rule, 0, 0, 1, place=key)
    except EnvError as error:
        raise SpecError(str(error)) from None
    except (ValueError, OverflowError) as error:  # numpy's: a range wider than its numbers
        raise SpecError(f"{key}: {error}") from None


def grid_size(space: Mapping[str, Any]) -> int:
    """How many combinations the lists of ``space`` have; 1 if there are none."""
    return math.prod(len(values) for values in space.values() if isinstance(values, list))


def is_drawn(space: Mapping[str, Any]) -> bool:
    """Whether any key of ``space`` is drawn by a rule."""
    return any(isinstance(values, Mapping) for values in space.values())


def settings(space: Mapping[str, Any], draws: int, seed: int) -> list[Setting]:
    """Every combination of the lists, ``draws`` times over, each time with draws of its own.

    A draw depends on its key, its number and ``seed`` alone: another key beside it, or more draws, leave
    it as it was, and two arms that search the same key try the same values.

    Args:
        space: flat, as from :func:`flatten`.
        draws: how often each combination is repeated; 1 where there are no rules.
        seed: of the draws.

    >>> settings({"a": [1, 2], "b": ["x", "y"]}, draws=1, seed=0)[1:3]
    [{'a': 1, 'b': 'y'}, {'a': 2, 'b': 'x'}]
    """
    count = grid_size(space) * draws
    if count > MOST:
        raise SpecError(f"a space of {count:,} settings; at most {MOST:,} can be tried in one sweep")
    lists = {key: values for key, values in space.items() if isinstance(values, list)}
    rules = {key: values for key, values in space.items() if key not in lists}
    found: list[Setting] = []
    for _ in range(draws):
        for combination in product(*lists.values()):
            drawn = {
                key: resolve(rule, seed, len(found), count, place=key)  # its own generator: see envs/rules.py
                for key, rule in rules.items()
            }
            point = {**dict(zip(lists, combination, strict=True)), **drawn}
            found.append({key: point[key] for key in space})
    return found


def ends(space: Mapping[str, Any]) -> list[Setting]:
    """The settings of all first and of all last values: what a search within ``space`` lies between.

    >>> ends({"a": [1, 2, 3], "b": {"rule": "uniform", "low": 0.0, "high": 0.5}})
    [{'a': 1, 'b': 0.0}, {'a': 3, 'b': 0.5}]
    """
    return [{key: _end(values, last) for key, values in space.items()} for last in (False, True)]


def _end(values: Any, last: bool) -> Any:
    if isinstance(values, Mapping):
        if values["rule"] != "choice":
            return values["high" if last else "low"]
        values = values["values"]
    return values[-1 if last else 0]
