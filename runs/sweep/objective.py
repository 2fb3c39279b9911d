"""What a tuning run is judged by: a metric of ``pliant compare`` that a run has by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import RunError, SpecError
from ..presets import did_you_mean
from ..report.comparison import METRICS, Metric, compare
from ..report.records import read_run

_NEEDS_FRESH = ("plasticity gap", "forward transfer")
"""Their values need a run of fresh agents beside."""


class NoScore(RunError):
    """A finished run that cannot be judged: a metric is not there, or not a number."""


def objective(name: str) -> Metric:
    """The metric of that name.

    Raises:
        SpecError: there is none, or it needs more than one run.
    """
    known = {metric.name: metric for metric in METRICS if metric.name not in _NEEDS_FRESH}
    if name in _NEEDS_FRESH:
        raise SpecError(f"{name!r} is held against fresh agents, which a tuning run has not beside it")
    if name not in known:
        raise SpecError(f"there is no metric {name!r}{did_you_mean(name, known)}")
    return known[name]


def values(run: Path, metrics: Sequence[Metric]) -> list[float | None]:
    """The metrics of the finished run at ``run``; None for one that does not exist for it.

    Raises:
        RunError: the run cannot be read.
    """
    comparison = compare([read_run(run, spectra=False)])
    found = [metric.values(comparison, comparison.first) for metric in metrics]
    return [value if value is not None and math.isfinite(value) else None for value in found]


def score(run: Path, metric: Metric) -> float:
    """The metric of the finished run at ``run``.

    Raises:
        NoScore: it does not exist for this run.
    """
    (value,) = values(run, [metric])
    if value is None:
        raise NoScore(
            f"{run.name} has no {metric.name!r}, so settings cannot be compared by it. A return at the end "
            "of a task needs an episode that ends in its last tenth, metrics of evaluation need "
            'evaluation.last = "all". Lengthen the tasks, evaluate more, or choose another tune.metric.'
        )
    return value


def best(scores: dict[int, float], metric: Metric) -> int:
    """The key of the best score, the first of equals."""
    sign = 1 if metric.better == "more" else -1
    return max(scores, key=lambda key: (sign * scores[key], -key))


def worst(metric: Metric) -> float:
    """The score of a run whose loss became infinite: below all that trained."""
    return -math.inf if metric.better == "more" else math.inf
