"""Several runs side by side: grouped into arms, held against fresh agents, summed up over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..baseline import experiment
from ..errors import DamagedFile, RunFolderError
from ..summary import task_return
from . import metrics
from .grouping import Arm, arms_of, check_tasks, newest
from .records import POLICIES, RunRecord, read_run
from .statistics import LEAST_RUNS, Interval, probability_of_improvement, stratified_bootstrap

Array = NDArray[np.float64]

BINS = 20
"""Points of the learning curve per task."""


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        name: as shown.
        better: ``more`` or ``less``.
        meaning: one sentence.
        values: of each run, None where the metric does not exist for it.
    """

    name: str
    better: str
    meaning: str
    values: Callable[[Comparison, RunRecord], float | None]


@dataclass(frozen=True)
class Cell:
    """A metric of an arm: its interquartile mean over runs, and how many runs that are."""

    interval: Interval
    runs: int


@dataclass(frozen=True)
class Comparison:
    """Runs of the same tasks, in arms.

    Attributes:
        arms: in the order in which the runs were given, fresh agents last.
        notes: what a reader must know: runs left out, seeds without a baseline.
    """

    arms: tuple[Arm, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[RunRecord]:
        """All runs, arm by arm."""
        return [run for arm in self.arms for run in arm.runs]

    @property
    def first(self) -> RunRecord:
        """The run that stands for the tasks."""
        return self.runs[0]

    @property
    def boundaries(self) -> list[int]:
        """Environment steps at the start of each task, and at the end of the last."""
        return self.first.boundaries

    @property
    def task_count(self) -> int:
        """Number of tasks planned."""
        return self.first.task_count

    @cached_property
    def tasks_compared(self) -> int:
        """Tasks behind the metrics: all of them if any run finished, else as many as every run did."""
        finished = [run.finished for run in self.runs]
        return self.task_count if max(finished) == self.task_count else min(finished)

    @cached_property
    def bounds(self) -> list[tuple[float, float]] | None:
        """Lowest and highest return of each task; None unless they are known for all."""
        found = [
            metrics.known_range(task.env, [shift.type for shift in task.shifts], task.kwargs)
            for task in self.first.tasks
        ]
        known = [bounds for bounds in found if bounds is not None]
        return known if found and len(known) == len(found) else None

    @property
    def unit(self) -> str:
        """Of the metrics of performance."""
        return "share of the range of returns" if self.bounds else "return"

    @cached_property
    def policy(self) -> str | None:
        """The policy whose evaluation is shown: the first of POLICIES that every evaluated run has."""
        evaluated = [run.evaluation for run in self.runs if run.evaluation is not None]
        for policy in POLICIES:
            if evaluated and all((evaluation.policy == policy).any() for evaluation in evaluated):
                return policy
        return None

    def counts(self, run: RunRecord) -> bool:
        """Whether the run went far enough for the metrics."""
        return run.finished >= self.tasks_compared > 0

    def scaled(self, values: Array) -> Array:
        """Returns by task ``[..., n <= N]`` in the unit of the metrics."""
        if self.bounds is None:
            return values
        low, high = np.array(self.bounds, dtype=np.float64).T[:, : values.shape[-1]]
        return metrics.normalise(values, (low, high))

    # Of one run -------------------------------------------------------------------------------------

    def curve(self, run: RunRecord) -> Array:
        """Training return over each task ``[N, BINS]``; NaN beyond where the run has come."""
        curve = np.full((self.task_count, BINS), np.nan)
        for task, (first, last) in enumerate(pairwise(run.boundaries)):
            mine = run.episodes.task == task
            found = metrics.learning_curve(
                run.episodes.env_steps[mine], run.episodes.returns[mine], first, last, BINS
            )
            reached = np.linspace(first, last, BINS + 1)[1:] <= run.env_steps
            curve[task] = np.where(reached, found, np.nan)
        return curve

    def final_returns(self, run: RunRecord) -> Array:
        """Mean return in the last tenth of each finished task ``[N]``, NaN for the others."""
        final = np.full(self.task_count, np.nan)
        for task, (first, last) in enumerate(list(pairwise(run.boundaries))[: run.finished]):
            mine = run.episodes.task == task
            rows = list(
                zip(run.episodes.env_steps[mine].tolist(), run.episodes.returns[mine].tolist(), strict=True)
            )
            value = task_return(task, rows, first, last).last_tenth
            final[task] = np.nan if value is None else value
        return final

    def matrix(self, run: RunRecord) -> Array | None:
        """The evaluation matrix ``[N + 1, N]`` in returns, or None if the run was not evaluated."""
        if run.evaluation is None or self.policy is None:
            return None
        return run.evaluation.matrix(self.task_count, self.policy)

    def fresh_for(self, run: RunRecord) -> RunRecord | None:
        """The run of fresh agents on the same tasks with the same seed, if it is here and far enough.

        Of several that whose agent has the run's own settings, mitigations aside; else the first.
        """
        found = [
            other
            for arm in self.arms
            for other in arm.runs
            if arm.fresh and other.seed == run.seed and other.tasks == run.tasks and self.counts(other)
        ]
        own = (other for other in found if _settings(other) == _settings(run))
        return next(own, found[0] if found else None)

    # Over seeds -------------------------------------------------------------------------------------

    def scores(self, arm: Arm) -> Array:
        """Final returns of the runs that count ``[runs, tasks]``, in the unit of the metrics."""
        rows = [self.final_returns(run)[: self.tasks_compared] for run in arm.runs if self.counts(run)]
        return self.scaled(np.array(rows).reshape(len(rows), self.tasks_compared))

    def per_run(self, metric: Metric, arm: Arm) -> list[float]:
        """The metric of every run for which it exists."""
        found = (metric.values(self, run) for run in arm.runs if self.counts(run))
        return [value for value in found if value is not None and np.isfinite(value)]

    def summary(self, metric: Metric, arm: Arm) -> Cell | None:
        """Interquartile mean over seeds and its 95 % interval; None where the metric does not exist."""
        values = self.per_run(metric, arm)
        return Cell(stratified_bootstrap(np.array(values)[:, None]), len(values)) if values else None

    @cached_property
    def table(self) -> list[tuple[Metric, list[Cell | None]]]:
        """A row per metric that exists for at least one arm, a column per arm."""
        rows = [(metric, [self.summary(metric, arm) for arm in self.arms]) for metric in METRICS]
        return [(metric, cells) for metric, cells in rows if any(cells)]

    @cached_property
    def improvements(self) -> list[tuple[Arm, Arm, Interval]]:
        """For every pair the probability that one beats the other in the return at the end of a task.

        The better one is named first. Of fewer than ``LEAST_RUNS`` runs of either nothing is said.
        """
        found = []
        for index, first in enumerate(self.arms):
            for second in self.arms[index + 1 :]:
                pair = [(self.scores(arm), arm) for arm in (first, second)]
                if not all(len(table) >= LEAST_RUNS and np.isfinite(table).all() for table, _ in pair):
                    continue
                if probability_of_improvement(pair[0][0], pair[1][0]) < 0.5:
                    pair.reverse()
                (ours, better), (theirs, other) = pair
                chance = stratified_bootstrap(ours, theirs, statistic=probability_of_improvement)
                found.append((better, other, chance))
        return found

    @cached_property
    def fewest_runs(self) -> int:
        """Runs behind the number that has the fewest."""
        counts = [cell.runs for _, cells in self.table for cell in cells if cell]
        return min(counts, default=0)


def _settings(run: RunRecord) -> object:
    """What fresh agents have in common with the runs that they are for."""
    return run.spec and experiment(run.spec)


def gather(paths: Sequence[Path], *, spectra: bool = True) -> tuple[Comparison, list[str]]:
    """Read runs and put them side by side.

    Returns:
        The comparison, and what could not be read, each a sentence that names the file.

    Raises:
        RunFolderError: a path is no run folder, or of another schema version, or none of them can be read.
        Incomparable: the runs have different tasks.
    """
    runs: list[RunRecord] = []
    problems: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            runs.append(read_run(path, spectra=spectra))
        except DamagedFile as error:
            problems.append(f"{error}; the run is left out")
    if not runs:
        raise RunFolderError("; ".join(problems) or "name at least one run folder, for example results/<run>")
    return compare(runs), problems + [problem for run in runs for problem in run.problems]


def compare(runs: Sequence[RunRecord]) -> Comparison:
    """Put runs side by side.

    Raises:
        Incomparable: they have different tasks; the text says what differs.
    """
    notes: list[str] = []
    check_tasks(runs)
    chosen = newest(runs, notes)
    arms = arms_of(chosen)
    comparison = Comparison(arms, notes)
    for run in comparison.runs:
        if run.status != "complete":
            notes.append(_how_far(comparison, run))
        elif not comparison.counts(run):
            notes.append(f"{run.id} is left out of the metrics")
    if any(arm.fresh for arm in arms):
        alone = [run.id for a in arms if not a.fresh for run in a.runs if comparison.fresh_for(run) is None]
        if alone:
            notes.append(f"no fresh agents with the same seed and tasks for {', '.join(alone)}")
    return comparison


def _how_far(comparison: Comparison, run: RunRecord) -> str:
    text = (
        f"{run.id} is {run.status}: {run.env_steps:,} of {run.boundaries[-1]:,} environment steps, "
        f"{run.finished} of {run.task_count} tasks finished"
    )
    error = run.manifest.get("error")
    if error:
        text += f" ({error})"
    return text + ("" if comparison.counts(run) else "; it is in the curves, but not in the metrics")


# The metrics ---------------------------------------------------------------------------------------------


def _of_matrix(
    function: Callable[[Array], float], least_tasks: int = 1
) -> Callable[[Comparison, RunRecord], float | None]:
    def value(comparison: Comparison, run: RunRecord) -> float | None:
        matrix, n = comparison.matrix(run), comparison.tasks_compared
        if matrix is None or n < least_tasks:
            return None
        return function(comparison.scaled(matrix[: n + 1, :n]))

    return value


def _final(comparison: Comparison, run: RunRecord) -> float:
    return float(comparison.scaled(comparison.final_returns(run)[: comparison.tasks_compared]).mean())


def _gap(comparison: Comparison, run: RunRecord) -> float | None:
    fresh = comparison.fresh_for(run)
    n = comparison.tasks_compared
    if fresh is None or run.reset or n < 2:
        return None
    pair = (comparison.scaled(comparison.final_returns(one)[:n]) for one in (run, fresh))
    return float(metrics.plasticity_gap(*pair)[1:].mean())


def _areas(comparison: Comparison, run: RunRecord) -> Array:
    curve = comparison.curve(run)[: comparison.tasks_compared]
    return comparison.scaled(curve.mean(1))


def _forward(comparison: Comparison, run: RunRecord) -> float | None:
    fresh = comparison.fresh_for(run)
    if fresh is None or run.reset or comparison.bounds is None or comparison.tasks_compared < 2:
        return None
    pair = (_areas(comparison, one) for one in (run, fresh))
    return float(metrics.forward_transfer(*pair)[1:].mean())


def _repeated(comparison: Comparison, run: RunRecord) -> float | None:
    # A task that comes back is the same environment, whatever its length and name.
    same = [repr((task.env, task.kwargs, task.shifts)) for task in run.tasks[: comparison.tasks_compared]]
    pairs = metrics.repeats(same)
    if not pairs or comparison.bounds is None:
        return None
    areas = _areas(comparison, run)
    first, later = (areas[list(side)] for side in zip(*pairs, strict=True))
    return float(metrics.repeated_task_plasticity(first, later).mean())


RETURN = Metric(
    "return at the end of a task",
    "more",
    "mean over tasks of the training return in each task's last tenth",
    _final,
)

METRICS = (
    RETURN,
    Metric(
        "plasticity gap",
        "less",
        "what a fresh agent with the same budget gets more at the end of a task, mean over the tasks after "
        "the first; below 0: better than starting over",
        _gap,
    ),
    Metric(
        "forward transfer",
        "more",
        "area under the training curve less a fresh agent's, as a share of the room above that (Continual "
        "World), mean over the tasks after the first",
        _forward,
    ),
    Metric(
        "repeated-task plasticity loss",
        "less",
        "share of the area under the training curve that is lost when a task comes back",
        _repeated,
    ),
    Metric(
        "average performance",
        "more",
        "evaluation return at the end of the run, mean over all tasks (Continual World)",
        _of_matrix(metrics.average_performance),
    ),
    Metric(
        "forgetting",
        "less",
        "evaluation return after each task less that at the end of the run (Continual World)",
        _of_matrix(metrics.forgetting, least_tasks=2),  # one task cannot have been forgotten
    ),
    Metric(
        "backward transfer",
        "more",
        "what later tasks did to earlier ones (GEM)",
        _of_matrix(metrics.backward_transfer, least_tasks=2),
    ),
    Metric(
        "zero-shot transfer",
        "more",
        "evaluation return on a task just before it is trained, less the untrained agent's (GEM)",
        _of_matrix(metrics.zero_shot_transfer, least_tasks=2),
    ),
)
