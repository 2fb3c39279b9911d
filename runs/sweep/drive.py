"""Drive a sweep: walk its routines, hand their jobs to an engine, and go on when they have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import RunError
from .engine import Engine
from .jobs import FINAL, Job
from .progress import Watch
from .protocol import Routine, Sweep


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th piece of the work, from number ``index`` on; together the shards do all of it."""

    index: int = 0
    count: int = 1

    def takes(self, number: int) -> bool:
        """Whether piece ``number`` is this shard's."""
        return number % self.count == self.index


WHOLE = Shard()


@dataclass
class Result:
    """What one call of :func:`drive` came to."""

    failed: dict[Path, str] = field(default_factory=dict)
    """Run folders and why."""
    diverged: dict[Path, str] = field(default_factory=dict)
    """The same for runs whose loss became infinite; a result, not a fault."""
    problems: list[str] = field(default_factory=list)
    """Why a routine could not go on: nothing to choose from, a metric that is not there."""
    interrupted: bool = False
    unfinished: int = 0
    """Runs that were to be done and are not: failed, interrupted, or another shard's."""
    whole: bool = False
    """Whether every routine came to its end: nothing is left to do for anybody."""


class _Walk:
    """A routine, and the jobs that it waits for."""

    def __init__(self, number: int, routine: Routine) -> None:
        self.number = number
        self.routine = routine
        self.open: dict[Path, Job] = {}
        self.ended = False

    def advance(self) -> Sequence[tuple[int, Job]]:
        """Go on to the next jobs that have not ended; each with its number among all of that batch.

        Raises:
            RunError: the routine cannot go on.
        """
        while not self.open:
            try:
                batch = list(next(self.routine))
            except StopIteration:
                self.ended = True
                return []
            numbered = [(self.number * len(batch) + place, job) for place, job in enumerate(batch)]
            todo = [(number, job) for number, job in numbered if job.state() not in FINAL]
            self.open = {job.path: job for _, job in todo}
        return todo


def drive_sweep(
    sweep: Sweep, engine: Engine, watch: Watch, interrupted: Callable[[], bool], shard: Shard
) -> Result:
    """Carry out ``sweep``, or the part of it that is the shard's.

    Shards divide the runs; where Optuna chooses the settings of an arm, one process has to ask it, and the
    shards divide the arms.
    """
    routines = sweep.routines()
    tune = sweep.definition.tune
    if tune is not None and tune.method == "optuna":
        routines = [routine for number, routine in enumerate(routines) if shard.takes(number)]
        shard = Shard()
    return drive(routines, engine, watch, interrupted, shard)


def drive(
    routines: Sequence[Routine],
    engine: Engine,
    watch: Watch,
    interrupted: Callable[[], bool],
    shard: Shard = WHOLE,
) -> Result:
    """Carry out the jobs of all routines, each batch after the one before it has ended.

    A routine whose job fails waits for ever: the others go on, and the next process tries that job again.
    """
    result = Result()
    walks = [_Walk(number, routine) for number, routine in enumerate(routines)]
    running: dict[Path, Job] = {}

    def go_on(walk: _Walk) -> None:
        try:
            found = walk.advance()
        except RunError as error:
            walk.open = {}
            result.problems.append(str(error))
            return
        for number, job in found:
            if shard.takes(number) and job.path not in running:
                running[job.path] = job
                engine.submit(job)

    for walk in walks:
        go_on(walk)
    while running:
        for outcome in engine.poll(0.2):
            job = running.pop(outcome.path)
            state = job.state()
            watch.ended(job, state)
            if state in FINAL:
                if state == "diverged":
                    result.diverged[job.path] = outcome.message
                for walk in walks:
                    if walk.open.pop(job.path, None) and not walk.open and not result.interrupted:
                        go_on(walk)
            elif outcome.status == "failed":
                result.failed[job.path] = outcome.message
        if interrupted() and not result.interrupted:
            result.interrupted = True
            for path in engine.stop():
                running.pop(path)
    result.unfinished = sum(len(walk.open) for walk in walks)
    result.whole = all(walk.ended for walk in walks)
    return result
