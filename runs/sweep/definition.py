"""SweepDefinition: the one TOML file that says arms, spaces, budget and seeds.

A plain sweep is every setting of every arm with every seed::

    base = "cartpole-offset"          # a preset or the path of a spec
    arms = ["bp", "l2", "er"]         # names of its arms; or tables, [arms.l2]
    seeds = "0-4"

    [set]                             # as --set
    tasks.count = 8

    [space]                           # lists span a grid, rules are drawn `draws` times
    agent.learning_rate = [3e-4, 1e-3]

With ``[tune]`` and ``[test]`` in place of ``seeds``, every arm is first tuned with the same budget on seeds
kept apart, and its best setting is then run on the test seeds::

    [space]                           # what is searched for every arm
    agent.learning_rate = { rule = "log-uniform", low = 1e-4, high = 1e-2 }

    [arms.bp]
    [arms.l2.space]                   # and for this one besides
    mitigations.l2.strength = { rule = "log-uniform", low = 1e-6, high = 1e-3 }

    [tune]
    trials = 12                       # settings per arm
    seeds = "100-102"

    [test]
    seeds = "0-4"
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from ..errors import SpecError
from ..presets import Table, did_you_mean, load_table, read_named_toml, validate_as, with_arms
from ..seeds import parse_seeds
from ..spec import Settings
from .objective import objective
from .space import check, flatten, grid_size, is_drawn

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names become parts of file names."""

MOST_RUNS = 100_000
"""In one sweep, or in the tuning of one; more is a slip, found before it fills the memory."""

_LABELS = ("name", "description", "arm", "arms", "extends")
"""Keys of a spec that a sweep gives by itself."""


def _as_tuple(value: Any) -> Any:
    """A list, or a text such as ``0-4``, as the strict type wants it."""
    if isinstance(value, str):
        return tuple(parse_seeds(value))
    return tuple(value) if isinstance(value, list) else value


Seeds = Annotated[
    tuple[NonNegativeInt, ...],
    BeforeValidator(_as_tuple),
    AfterValidator(lambda seeds: tuple(dict.fromkeys(seeds))),
    Field(min_length=1),
]
"""``[0, 1, 2]`` or ``"0-2"``."""

Flat = Annotated[
    dict[str, Any], BeforeValidator(lambda value: flatten(value) if isinstance(value, dict) else value)
]
"""Tables within tables in TOML, values by dotted key from here on."""


class ArmDefinition(Settings):
    """One arm: an arm of the base, changed, with a space of its own."""

    arm: str | None = None
    """The base's arm that it starts from; the one of its own name if None."""
    set: Flat = Field(default_factory=dict)
    space: Flat = Field(default_factory=dict)
    """Searched besides the sweep's."""


class TuneDefinition(Settings):
    """How the setting of each arm is chosen."""

    seeds: Seeds
    """Of the runs that settings are judged by; never those of the test."""
    trials: PositiveInt
    """Budget: settings per arm, each run with every seed."""
    metric: str = "return at the end of a task"
    """A row of ``pliant compare`` that a run has by itself; its mean over the seeds decides."""
    method: Literal["space", "optuna"] = "space"
    """``space``: the grid and the draws of the space; ``optuna``: Optuna's sampler chooses."""
    set: Flat = Field(default_factory=dict)
    """For tuning runs alone: fewer or shorter tasks, no snapshots."""
    equal_budget: bool = True
    """Refuse arms that try fewer settings than ``trials``: the best of more is better by chance alone."""
    batch: PositiveInt = 1
    """Optuna: settings chosen at a time, whatever the number of workers: so the search repeats itself."""
    prune: bool = False
    """Optuna: drop a setting after a seed on which it lies below the median of the settings before it."""
    sampler_seed: NonNegativeInt = 0
    """Of Optuna's sampler."""

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        objective(value)
        return value


class TestDefinition(Settings):
    """The runs that count."""

    __test__ = False  # for pytest, which takes the name for a class of tests

    seeds: Seeds


class SweepDefinition(Settings):
    """A sweep as its file has it, checked."""

    name: str
    """Of the sweep's folder; the file's name by default."""
    description: str = ""
    base: Any
    """A preset's name, the path of a TOML file, or, once resolved, the preset itself with its arms."""
    arms: dict[str, ArmDefinition] = Field(min_length=1)
    set: Flat = Field(default_factory=dict)
    """Laid over every run."""
    space: Flat = Field(default_factory=dict)
    """Settings of every arm."""
    draws: PositiveInt | None = None
    """Of a plain sweep: how often each combination of lists is repeated with new draws of the rules."""
    draw_seed: NonNegativeInt = 0
    """Of the draws of rules, in tuning too."""
    seeds: Seeds | None = None
    tune: TuneDefinition | None = None
    test: TestDefinition | None = None

    @field_validator("arms", mode="before")
    @classmethod
    def _names_are_arms(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return {name: {} for name in value}
        return value

    @field_validator("base")
    @classmethod
    def _a_name_or_a_table(cls, value: Any) -> Any:
        if not isinstance(value, (str, dict)):
            raise ValueError(f"expected the name of a preset or of a TOML file, got {value!r}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> SweepDefinition:
        for name in (self.name, *self.arms):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot be a folder's name; use at most 64 letters, digits and . _ -, "
                    "beginning with a letter or a digit"
                )
        self._check_phases()
        self._check_changes()
        runs = sum(self._settings(arm) for arm in self.arms) * len(self.seeds or self._tune.seeds)
        if runs > MOST_RUNS:
            raise ValueError(f"these are {runs:,} runs; at most {MOST_RUNS:,} can be one sweep")
        return self

    def _check_phases(self) -> None:
        if self.seeds is not None and (self.tune or self.test):
            raise ValueError("seeds is for a plain sweep; with [tune] and [test] each has seeds of its own")
        if self.seeds is None and not (self.tune and self.test):
            raise ValueError("expected seeds, or both [tune] and [test] with seeds of their own")
        if self.tune and self.test:
            both = sorted({*self.tune.seeds} & {*self.test.seeds})
            if both:
                raise ValueError(
                    f"the seeds {', '.join(map(str, both[:10]))} are both tuned on and tested on; a setting "
                    "chosen on a seed looks better on it than it is, so choose others for tune.seeds"
                )
            if self.draws is not None:
                raise ValueError("draws is for a plain sweep; in tuning, tune.trials is the budget")

    def _check_changes(self) -> None:
        sets = {"set": self.set} | {f"arms.{name}.set": arm.set for name, arm in self.arms.items()}
        spaces = {"space": self.space} | {f"arms.{name}.space": arm.space for name, arm in self.arms.items()}
        if self.tune:
            sets["tune.set"] = self.tune.set
        for where, table in (sets | spaces).items():
            for key in table:
                _refuse(where, key, _LABELS, "the sweep gives it by itself")
                _refuse(where, key, ("seed",), "seeds stand in seeds, or in tune.seeds and test.seeds")
                if self.tune and where.startswith(("space", "arms")):
                    _refuse(where, key, ("tasks",), "arms are tuned and tested on the same tasks")
        for where, space in spaces.items():
            try:
                check(space)
            except SpecError as error:
                raise ValueError(f"{where}: {error}") from None
        for name, arm in self.arms.items():
            twice = sorted({*arm.space} & {*arm.set})
            if twice:
                raise ValueError(f"arms.{name}: {twice[0]} stands both in set and in space")

    def _settings(self, arm: str) -> int:
        """How many settings of ``arm`` are tried."""
        space = self.space_of(arm)
        grid, drawn = grid_size(space), is_drawn(space)
        if self.tune is not None:
            self._check_trials(arm, grid, drawn)
            return self.tune.trials
        if drawn and self.draws is None:
            raise ValueError(f"{_first_rule(space)} is drawn by a rule; say how often: draws = 10")
        if self.draws is not None and not any(is_drawn(self.space_of(name)) for name in self.arms):
            raise ValueError("draws is given, but no key of a space is a rule to draw from")
        return grid * self.draws_of(arm)

    def _check_trials(self, arm: str, grid: int, drawn: bool) -> None:
        tune = self._tune
        trials = tune.trials
        if tune.method == "optuna" and (self.space_of(arm) or not tune.equal_budget):
            return
        if drawn and trials % grid:
            raise ValueError(
                f"the arm {arm!r} has {grid} combinations of lists, each to be tried with as many draws; "
                f"tune.trials = {trials} is no multiple of that"
            )
        if not drawn and (grid > trials or (grid < trials and tune.equal_budget)):
            raise ValueError(
                f"the arm {arm!r} has {grid} setting{'s' * (grid != 1)} in its space and tune.trials is "
                f"{trials}; the best of more is better by chance alone, so give every arm as many (a rule "
                "can be drawn from as often as needed), or let it be: tune.equal_budget = false"
                + ("" if grid < trials else ", with tune.trials at least that")
            )

    @property
    def _tune(self) -> TuneDefinition:
        assert self.tune is not None
        return self.tune

    def space_of(self, arm: str) -> dict[str, Any]:
        """All that is varied for ``arm``; its own entry for a key goes before the sweep's."""
        own = self.arms[arm]
        return {key: v for key, v in {**self.space, **own.space}.items() if key not in own.set}

    def draws_of(self, arm: str) -> int:
        """How often each combination of the lists of ``arm`` is tried."""
        space = self.space_of(arm)
        if not is_drawn(space):
            return 1
        return self.tune.trials // grid_size(space) if self.tune else self.draws or 1


def load_definition(path: Path, *, optuna: bool = False) -> SweepDefinition:
    """Read ``path``, and the preset that it is based on: the result depends on no other file.

    Args:
        path: the TOML file.
        optuna: search with Optuna, whatever the file says.

    Raises:
        SpecError: with what is wrong and where.
    """
    table = read_named_toml(path)
    table.setdefault("name", path.stem)
    match table.get("base"):
        case str(preset):  # a path is seen from the sweep's file, so that the two can be moved together
            table["base"] = load_table(str(path.parent / preset) if preset.endswith(".toml") else preset)
        case dict(base):
            table["base"] = with_arms(base, source=str(path))
    if isinstance(table.get("base"), dict):
        table.setdefault("arms", [table["base"].get("arm", "bp")])
    if optuna:
        if not isinstance(table.get("tune"), dict):
            raise SpecError(f"--optuna: {str(path)!r} has no [tune], so there is nothing to search")
        table["tune"] = {**table["tune"], "method": "optuna"}
    definition = validate_as(SweepDefinition, table, source=str(path), kind="sweep")
    return definition.model_copy(update={"base": _only_arms_of(definition)})


def dump_definition(definition: SweepDefinition) -> str:
    """As TOML that :func:`load_definition` reads back."""
    return tomli_w.dumps(definition.model_dump(mode="json", exclude_none=True, exclude_defaults=True))


def _only_arms_of(definition: SweepDefinition) -> Table:
    """The base with those of its arms that are used: others may change without making another sweep."""
    base: Table = dict(definition.base)
    used = {arm.arm or name for name, arm in definition.arms.items()}
    for arm in sorted(used - {*base["arms"]}):
        raise SpecError(f"there is no arm {arm!r} in {base['name']!r}{did_you_mean(arm, base['arms'])}")
    return base | {"arms": {name: arm for name, arm in base["arms"].items() if name in used}}


def _refuse(where: str, key: str, names: Iterable[str], why: str) -> None:
    if key.split(".")[0] in names:
        raise ValueError(f"{where}: {key} cannot be changed here: {why}")


def _first_rule(space: dict[str, Any]) -> str:
    return next(key for key, values in space.items() if isinstance(values, dict))
