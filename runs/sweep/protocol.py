"""What a sweep runs and in which order: everything at once, or tuning first and then the test.

The order is written as generators: each yields jobs that must have ended before it goes on, and learns
what came of them from their folders. So whatever interrupts a sweep, its next process finds the same
place by walking the same path; and the arms, a generator each, wait for nobody but themselves.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import DamagedFile, RunError, SpecError
from ..folder import now
from ..report.comparison import Metric
from .definition import SweepDefinition
from .folder import SweepFolder
from .jobs import FINAL, Job, make_job
from .objective import best, objective, score, worst
from .space import Setting, ends, settings

if TYPE_CHECKING:
    from ..plan import Plan

Routine = Generator[Sequence[Job], None, None]


MOST_CHECKED = 200
"""Agents built before a sweep begins; each takes some hundredths of a second."""


class NothingToChoose(RunError):
    """Tuning in which no setting trained to its end."""


@dataclass(frozen=True)
class Trial:
    """A setting of an arm, and the runs it is judged by.

    Attributes:
        arm: its arm.
        number: counted from 0 within the arm.
        setting: values by dotted key.
        jobs: a run per tuning seed.
        pruned: whether it was given up before all of them were run.
    """

    arm: str
    number: int
    setting: Setting
    jobs: tuple[Job, ...]
    pruned: bool = False


@dataclass(frozen=True)
class Sweep:
    """A definition and the folder that it is carried out in."""

    definition: SweepDefinition
    folder: SweepFolder
    storage: str | None = None
    """Of Optuna; a database in the folder if None."""

    def routines(self) -> list[Routine]:
        """One for a plain sweep; one per arm where arms are tuned."""
        if self.definition.tune is None:
            return [_at_once(self.plain_jobs())]
        return [_tune_then_test(self, arm) for arm in self.definition.arms]

    def plain_jobs(self) -> list[Job]:
        """Every setting of every arm with every seed, each run once."""
        definition = self.definition
        found: dict[Any, Job] = {}
        for arm in definition.arms:
            for setting in settings(definition.space_of(arm), definition.draws_of(arm), definition.draw_seed):
                for seed in definition.seeds or ():
                    job = make_job(definition, arm, setting, seed, self.folder.runs, tuning=False)
                    found.setdefault(job.path, job)
        return list(found.values())

    def trial(self, arm: str, number: int, setting: Setting, *, pruned: bool = False) -> Trial:
        """Setting ``number`` of ``arm`` with the runs that it is judged by."""
        seeds = self.definition.tune.seeds if self.definition.tune else ()
        jobs = [
            make_job(self.definition, arm, setting, seed, self.folder.tuning, tuning=True) for seed in seeds
        ]
        return Trial(arm, number, setting, tuple(jobs), pruned)

    def trials(self, arm: str) -> list[Trial]:
        """What is tried for ``arm``; with Optuna, what has been so far."""
        definition = self.definition
        assert definition.tune is not None
        if definition.tune.method == "optuna":
            from .optuna_search import asked

            return asked(self, arm)
        space = definition.space_of(arm)
        found = settings(space, definition.draws_of(arm), definition.draw_seed)
        return [self.trial(arm, number, setting) for number, setting in enumerate(found)]

    def test_jobs(self, arm: str, setting: Setting) -> list[Job]:
        """The runs of ``arm`` that count, with the setting that was chosen for it."""
        seeds = self.definition.test.seeds if self.definition.test else ()
        return [
            make_job(self.definition, arm, setting, seed, self.folder.runs, tuning=False) for seed in seeds
        ]

    def choice(self, arm: str) -> Setting | None:
        """The setting that tuning chose for ``arm``; None if it has not yet."""
        record = self.folder.read_choice(arm)
        if record is None:
            return None
        try:
            return dict(record["setting"])
        except (KeyError, TypeError, ValueError):
            raise DamagedFile(f"the choice for {arm!r} in {str(self.folder.path)!r} is damaged") from None

    def known_jobs(self) -> list[Job]:
        """Every run that is decided by now, in order; what Optuna or the tuning will decide is missing."""
        if self.definition.tune is None:
            return self.plain_jobs()
        jobs = [job for arm in self.definition.arms for trial in self.trials(arm) for job in trial.jobs]
        for arm in self.definition.arms:
            setting = self.choice(arm)
            jobs += [] if setting is None else self.test_jobs(arm, setting)
        return list({job.path: job for job in jobs}.values())

    def samples(self) -> list[Job]:
        """A run per setting that may come up, or of the ends of each range that Optuna draws from."""
        definition = self.definition
        if definition.tune is None:
            seed = (definition.seeds or (0,))[0]
            return [job for job in self.plain_jobs() if job.spec.seed == seed]
        found: list[Job] = []
        for arm in definition.arms:
            optuna = definition.tune.method == "optuna"
            trials = (
                [self.trial(arm, -1, setting) for setting in ends(definition.space_of(arm))]
                if optuna
                else self.trials(arm)
            )
            found += [trial.jobs[0] for trial in trials]
            found += self.test_jobs(arm, trials[0].setting)[:1]
        return found

    def check(self, device: str) -> list[Plan]:
        """Build an agent for every setting that may come up, or for many of them, before a file is written.

        Returns:
            The plans that were looked at.

        Raises:
            SpecError: one cannot be built; the text names it.
        """
        from ...agents import AgentError  # torch is imported here and not before
        from ...diagnostics import MeasurementError
        from ...envs import EnvError
        from ..plan import make_plan

        jobs = self.samples()
        plans = []
        for job in jobs[:: math.ceil(len(jobs) / MOST_CHECKED)]:
            try:
                plans.append(make_plan(job.spec, device))
            except (RunError, AgentError, EnvError, MeasurementError) as error:
                raise SpecError(f"{job.path.name}: {error}") from None
        return plans

    def expected(self) -> tuple[int, int]:
        """Runs and environment steps of the whole sweep, the tuning's and the test's."""
        definition = self.definition
        if definition.tune is None:
            jobs = self.plain_jobs()
            return len(jobs), sum(job.total_steps for job in jobs)
        runs = steps = 0
        for arm in definition.arms:
            trials = self.trials(arm)
            first = trials[0] if trials else self.trial(arm, -1, ends(definition.space_of(arm))[0])
            planned = len(trials) if definition.tune.method == "space" else budget(definition, arm)
            test = self.test_jobs(arm, first.setting)
            runs += planned * len(first.jobs) + len(test)
            steps += planned * sum(job.total_steps for job in first.jobs)
            steps += sum(job.total_steps for job in test)
        return runs, steps

    def left(self) -> tuple[int, int]:
        """As `expected`, of the runs that have not ended."""
        runs, steps = self.expected()
        ended = [job for job in self.known_jobs() if job.state() in FINAL]
        return runs - len(ended), steps - sum(job.total_steps for job in ended)


def budget(definition: SweepDefinition, arm: str) -> int:
    """Settings of ``arm`` that Optuna tries: one where there is nothing to choose."""
    assert definition.tune is not None
    return definition.tune.trials if definition.space_of(arm) else 1


def choose(sweep: Sweep, arm: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """The best of ``trials`` by the mean of their scores, the first of equals, with what it was chosen from.

    Raises:
        NothingToChoose: all of them diverged.
        NoScore: a run cannot be judged.
    """
    assert sweep.definition.tune is not None
    metric = objective(sweep.definition.tune.metric)
    whole = {trial.number: trial for trial in trials if not trial.pruned}
    scores = {number: fmean(scores_of(trial, metric)) for number, trial in whole.items()}
    if not any(math.isfinite(value) for value in scores.values()):
        raise NothingToChoose(f"every setting of {arm!r} diverged; give it another space")
    number = best(scores, metric)
    return {
        "arm": arm,
        "trial": number,
        "setting": whole[number].setting,
        "score": scores[number],
        "metric": metric.name,
        "better": metric.better,
        "tuning_seeds": list(sweep.definition.tune.seeds),
        "trials": len(trials),
        "equals": sum(value == scores[number] for value in scores.values()) - 1,
        "diverged": sum(not math.isfinite(value) for value in scores.values()),
        "pruned": len(trials) - len(whole),
        "made": now(),
    }


def scores_of(trial: Trial, metric: Metric) -> list[float]:
    """The metric of each of the trial's runs, which have ended."""
    return [worst(metric) if job.state() == "diverged" else score(job.path, metric) for job in trial.jobs]


def _at_once(jobs: Sequence[Job]) -> Routine:
    yield jobs


def _tune_then_test(sweep: Sweep, arm: str) -> Routine:
    assert sweep.definition.tune is not None
    setting = sweep.choice(arm)
    if setting is None:
        if sweep.definition.tune.method == "optuna":
            from .optuna_search import search  # an optional extra

            trials = yield from search(sweep, arm)
        else:
            trials = sweep.trials(arm)
            yield [job for trial in trials for job in trial.jobs]
        sweep.folder.write_choice(arm, choose(sweep, arm, trials))
        setting = sweep.choice(arm)
        assert setting is not None
    yield sweep.test_jobs(arm, setting)
