"""Evaluate a saved run afterwards: any checkpoints on any of its tasks, several checkpoints at a time.

An episode is decided by its checkpoint, task, number and policy. So what is in evaluation.csv is never played
again and never changed: the rows that are missing are added to it, in whatever order checkpoints are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..build import build_agent, vector_env
from ..checkpoints.checkpoint import load_networks
from ..errors import ProcessKilled
from ..folder import RunFolder
from ..inputs import check_inputs
from ..plan import make_plan
from ..progress import Reporter
from ..workers import WorkerDied, Workers
from .acting import PolicyName
from .playing import Assignment
from .replay import recorded_keys
from .scheduled import assignments, play_and_record, rows
from .table import Row, append_rows, read_rows


@dataclass(frozen=True)
class Done:
    """What came of one call of :func:`evaluate`."""

    played: int
    """Episodes played now."""
    present: int
    """Episodes that were there already."""


def evaluate(
    folder: RunFolder,
    *,
    after_tasks: Sequence[int] = (),
    on_tasks: Sequence[int] = (),
    episodes: int | None = None,
    policies: Sequence[PolicyName] = (),
    replays: bool = True,
    jobs: int = 1,
    device: str = "auto",
    tell: Callable[[int, list[Row]], None] = lambda after_task, rows: None,
) -> Done:
    """Play the episodes that are missing from evaluation.csv, or from the replays, and add them.

    Args:
        folder: of the run.
        after_tasks: checkpoints, by the task after which they were saved (-1: untrained); by default all.
        on_tasks: tasks to play; by default all.
        episodes: per checkpoint, task and policy; the spec's number if None.
        policies: the spec's by default.
        replays: record the episodes too.
        jobs: checkpoints at a time, each in a process of its own.
        device: as for training.
        tell: called with the rows of every checkpoint that has been written down.

    Raises:
        RunFolderError: there is no such checkpoint, something is damaged, the run is being trained, or it
            was made with other data or mitigations than there are now.
        ProcessKilled: a process ended before its checkpoint was done; the others' rows are kept.
        SpecError: there is no such task.
    """
    plan = make_plan(folder.read_spec(), device)
    check_inputs(plan, folder)
    settings = plan.spec.evaluation
    afters = folder.checkpoints_after(plan.boundaries, after_tasks)
    for on in on_tasks:
        plan.require_task(on)
    wanted = assignments(
        plan.spec,
        on_tasks or range(len(plan.sequence)),
        episodes or settings.episodes,
        policies or settings.policies,
    )
    with folder.locked():
        there = {row.key for row in read_rows(folder.evaluation_file)}
        if replays:
            there &= recorded_keys(folder)
        missing = {after: [one for one in wanted if (after, *one.key) not in there] for after in afters}
        work = {after: ones for after, ones in missing.items() if ones}
        for after, result in _results(folder, device, work, replays, min(jobs, len(work))):
            append_rows(folder.evaluation_file, result)
            tell(after, result)
    played = sum(map(len, work.values()))
    return Done(played, len(afters) * len(wanted) - played)


def evaluate_checkpoint(
    folder: RunFolder, device: str, after_task: int, wanted: Sequence[Assignment], replays: bool
) -> list[Row]:
    """Load one checkpoint, play ``wanted``, and save the records; the rows are for the caller to write."""
    torch.set_num_threads(1)
    plan = make_plan(folder.read_spec(), device)
    env = vector_env(plan.sequence[0], plan.spec.agent.n_envs, 0)
    try:
        agent = build_agent(plan.spec, env, seed=0, device=plan.device)
        load_networks(folder.checkpoint(plan.boundaries[after_task + 1]), agent)
        return rows(
            plan, after_task, play_and_record(plan, folder, agent, after_task, wanted, replays=replays)
        )
    finally:
        env.close()


def _results(
    folder: RunFolder, device: str, work: dict[int, list[Assignment]], replays: bool, jobs: int
) -> Iterator[tuple[int, list[Row]]]:
    if jobs <= 1:
        for after, wanted in work.items():
            yield after, evaluate_checkpoint(folder, device, after, wanted, replays)
        return
    killed, done = [], 0
    with Workers[int, list[Row]](jobs, report=lambda _: None) as workers:
        for after, wanted in work.items():
            workers.submit(after, _in_a_worker, folder, device, after, wanted, replays)
        while done < len(work):
            for after, end in workers.poll(0.2):
                done += 1
                if isinstance(end, WorkerDied):
                    killed.append(f"the checkpoint after task {after} was not evaluated: {end}")
                else:
                    yield after, end
    if killed:
        raise ProcessKilled(
            "\n".join([*killed, "what was played is kept; call it again, perhaps with fewer --jobs"])
        )


def _in_a_worker(
    folder: RunFolder,
    device: str,
    after_task: int,
    wanted: Sequence[Assignment],
    replays: bool,
    report: Reporter,
    interrupted: Callable[[], bool],
) -> list[Row]:
    return evaluate_checkpoint(folder, device, after_task, wanted, replays)
