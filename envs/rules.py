"""Rules: what a sequence writes instead of a value that differs from task to task.

A rule is a table with the key ``rule``, ``{ rule = "log-uniform", low = 0.02, high = 2.0 }``, and may stand
wherever a value may. `resolve` replaces all the rules in a task's description by values. Each draw has a
generator of its own, made from the seed, the index of the task and the place in the description; so more
tasks, or another rule beside, leave all other values as they were. Rules that share one order among all tasks
draw it with a generator made without the index.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from zlib import crc32

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from .errors import InvalidRule, explain, unknown


class Rule(BaseModel, ABC):
    """One way of giving each task its own value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    rule: str

    shared: ClassVar[bool] = False
    """Whether every task draws with the same numbers."""

    @abstractmethod
    def value(self, rng: np.random.Generator, index: int, count: int) -> Any:
        """The value of task ``index`` (from 0) of ``count``; random rules draw it from ``rng``."""


class _Range(Rule):
    low: FiniteFloat
    high: FiniteFloat

    @model_validator(mode="after")
    def _ordered(self) -> "_Range":
        if self.low > self.high:
            raise InvalidRule(f"low must be <= high, got low = {self.low:g} and high = {self.high:g}")
        return self


class _PositiveRange(_Range):
    @model_validator(mode="after")
    def _positive(self) -> "_PositiveRange":
        if self.low <= 0:
            raise InvalidRule(f"low must be > 0 for {self.rule}, got {self.low:g}")
        return self


class Uniform(_Range):
    """Uniform on [low, high)."""

    rule: Literal["uniform"]

    def value(self, rng: np.random.Generator, index: int, count: int) -> float:
        """Draw."""
        return float(rng.uniform(self.low, self.high))


class LogUniform(_PositiveRange):
    """The logarithm is uniform: each octave between low and high is as likely as another."""

    rule: Literal["log-uniform"]

    def value(self, rng: np.random.Generator, index: int, count: int) -> float:
        """Draw."""
        drawn = np.exp(rng.uniform(np.log(self.low), np.log(self.high)))
        return float(np.clip(drawn, self.low, self.high))  # exp(log(x)) may miss x by a rounding


class Normal(Rule):
    """Gaussian with this mean and standard deviation."""

    rule: Literal["normal"]
    mean: FiniteFloat = 0.0
    std: FiniteFloat = Field(default=1.0, ge=0)

    def value(self, rng: np.random.Generator, index: int, count: int) -> float:
        """Draw."""
        return float(rng.normal(self.mean, self.std))


class Integer(Rule):
    """One of the whole numbers low, ..., high, both included, all as likely."""

    rule: Literal["integer"]
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> "Integer":
        if self.low > self.high:
            raise InvalidRule(f"low must be <= high, got low = {self.low} and high = {self.high}")
        return self

    def value(self, rng: np.random.Generator, index: int, count: int) -> int:
        """Draw."""
        return int(rng.integers(self.low, self.high, endpoint=True))


class Choice(Rule):
    """One of the values, all as likely, with replacement."""

    rule: Literal["choice"]
    values: list[Any] = Field(min_length=1)

    def value(self, rng: np.random.Generator, index: int, count: int) -> Any:
        """Draw."""
        return self.values[rng.integers(len(self.values))]


class Listed(Rule):
    """The values in order, one per task."""

    rule: Literal["list"]
    values: list[Any]

    def value(self, rng: np.random.Generator, index: int, count: int) -> Any:
        """The value of this task."""
        if len(self.values) != count:
            raise InvalidRule(
                f"values must hold one entry per task, got {len(self.values)} for {count} task(s); "
                f"set count = {len(self.values)}, or change the list"
            )
        return self.values[index]


class Linspace(Rule):
    """From low, at the first task, to high, at the last, in equal steps; low may be the larger."""

    rule: Literal["linspace"]
    low: FiniteFloat
    high: FiniteFloat

    def value(self, rng: np.random.Generator, index: int, count: int) -> float:
        """The value of this task."""
        return float(np.linspace(self.low, self.high, count)[index])


class Geomspace(Rule):
    """From low, at the first task, to high, at the last, by equal factors; low may be the larger."""

    rule: Literal["geomspace"]
    low: FiniteFloat = Field(gt=0)
    high: FiniteFloat = Field(gt=0)

    def value(self, rng: np.random.Generator, index: int, count: int) -> float:
        """The value of this task."""
        return float(np.geomspace(self.low, self.high, count)[index])


class Arange(Rule):
    """``start``, then ``step`` more for each task; whole numbers if both are."""

    rule: Literal["arange"]
    start: int | FiniteFloat = 0
    step: int | FiniteFloat = 1

    def value(self, rng: np.random.Generator, index: int, count: int) -> float:
        """The value of this task."""
        return self.start + index * self.step


class Window(Rule):
    """A window that moves over the whole numbers 0, ..., of - 1 in a random order, which all tasks share.

    With ``of = 1000, size = 2`` each task has two numbers, and none comes twice within 500 tasks: the pairs
    of classes of Continual ImageNet. After the last number the order begins again.

    Attributes:
        of: How many numbers there are.
        size: Numbers of a window.
        step: How far the window moves from task to task; ``size`` if not given: no overlap.
        cumulative: All windows so far together: classes that are added and stay.
        shuffled: Whether the order is random, or ascending.
    """

    rule: Literal["window"]
    of: int = Field(gt=0, le=10_000_000)
    size: int = Field(gt=0)
    step: int | None = Field(default=None, gt=0)
    cumulative: bool = False
    shuffled: bool = True

    shared: ClassVar[bool] = True

    @model_validator(mode="after")
    def _fits(self) -> "Window":
        if self.size > self.of:
            raise InvalidRule(f"size must be <= of, got size = {self.size} and of = {self.of}")
        return self

    def value(self, rng: np.random.Generator, index: int, count: int) -> list[int]:
        """The numbers of this task, in the order in which they came."""
        order = rng.permutation(self.of) if self.shuffled else np.arange(self.of)
        first = index * (self.step or self.size)
        if not self.cumulative:
            return [int(order[i % self.of]) for i in range(first, first + self.size)]
        if first + self.size > self.of:
            raise InvalidRule(
                f"task {index} would have {first + self.size} numbers, but there are {self.of}; have fewer "
                "tasks, or a smaller size or step"
            )
        return [int(number) for number in order[: first + self.size]]


class Walk(_Range):
    """A random walk between low and high, whose draws all tasks share: a value that drifts, a gradual shift.

    From ``start``, at the first task, each task is a draw of N(0, std^2) further; what would leave
    [low, high] is reflected at the bound.

    Attributes:
        low: The smallest value.
        high: The largest value.
        start: The value of the first task.
        std: Standard deviation of the change from task to task.
        log: Whether it is the logarithm that walks: then ``std = 0.1`` is about 10 % per task.
    """

    rule: Literal["walk"]
    start: FiniteFloat
    std: FiniteFloat = Field(ge=0)
    log: bool = False

    shared: ClassVar[bool] = True

    @model_validator(mode="after")
    def _starts_within(self) -> "Walk":
        if not self.low <= self.start <= self.high:
            raise InvalidRule(
                f"start must lie between low = {self.low:g} and high = {self.high:g}, got {self.start:g}"
            )
        if self.log and self.low <= 0:
            raise InvalidRule(f"low must be > 0 for {self.rule} with log = true, got {self.low:g}")
        return self

    def value(self, rng: np.random.Generator, index: int, count: int) -> float:
        """Where the walk is at this task."""
        if index == 0:
            return self.start  # exactly, where folding would round it
        low, high, start = (np.log(x) if self.log else x for x in (self.low, self.high, self.start))
        walked = start + self.std * rng.standard_normal(index).sum()
        # A walk without bounds, folded into [low, high], is one that is reflected there.
        width = high - low
        folded = low + (width - abs((walked - low) % (2 * width) - width) if width else 0.0)
        return float(np.clip(np.exp(folded) if self.log else folded, self.low, self.high))


class Seed(Rule):
    """A fresh seed, a whole number below 2^31."""

    rule: Literal["seed"]

    def value(self, rng: np.random.Generator, index: int, count: int) -> int:
        """Draw."""
        return int(rng.integers(2**31))


RULES: dict[str, type[Rule]] = {
    "arange": Arange,
    "choice": Choice,
    "geomspace": Geomspace,
    "integer": Integer,
    "linspace": Linspace,
    "list": Listed,
    "log-uniform": LogUniform,
    "normal": Normal,
    "seed": Seed,
    "uniform": Uniform,
    "walk": Walk,
    "window": Window,
}


def resolve(description: Any, seed: int, index: int, count: int, place: str = "") -> Any:
    """Return ``description`` with every rule in it replaced by its value for task ``index`` of ``count``.

    Raises:
        InvalidRule: A rule is unknown or has wrong parameters; the text begins with its place.
    """
    if isinstance(description, Mapping) and "rule" in description:
        try:
            rule = _parse(description)
            own = () if rule.shared else (index,)
            rng = np.random.default_rng([seed, *own, crc32(place.encode())])
            return _drawn(rule, rng, index, count)
        except InvalidRule as error:
            raise InvalidRule(f"{place}: {error}") from None
    if isinstance(description, Mapping):
        places = {key: f"{place}.{key}" if place else str(key) for key in description}
        return {key: resolve(item, seed, index, count, places[key]) for key, item in description.items()}
    if isinstance(description, list | tuple):
        return [resolve(item, seed, index, count, f"{place}[{i}]") for i, item in enumerate(description)]
    return description


def _drawn(rule: Rule, rng: np.random.Generator, index: int, count: int) -> Any:
    """The rule's value; numpy fails or warns where its numbers end."""
    try:
        with np.errstate(over="raise", invalid="raise"):
            return rule.value(rng, index, count)
    except InvalidRule:
        raise
    except (ArithmeticError, ValueError) as error:
        raise InvalidRule(f"rule {rule.rule!r} cannot draw from such large numbers: {error}") from None


def _parse(description: Mapping[str, Any]) -> Rule:
    name = description["rule"]
    if not isinstance(name, str) or name not in RULES:
        raise InvalidRule(unknown("rule", str(name), RULES))
    try:
        return RULES[name].model_validate(dict(description))
    except ValidationError as error:
        raise InvalidRule(f"rule {name!r}: {explain(error, RULES[name].model_fields)}") from None
