"""What a checkpoint can do on the tasks of its sequence: episodes chosen, played, recorded, written down."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

from stable_baselines3.common.logger import Logger

from ...agents import Agent
from ...agents.randomness import isolated_randomness
from ...envs import Task, make_env
from ..build import derive_seed
from ..folder import RunFolder, installed_versions
from ..plan import Plan
from ..spec import ClassifierSpec, RunSpec, WhichTasks
from .acting import PolicyName
from .playing import Assignment, play
from .recording import Episode, Replays
from .replay import recorded_keys
from .table import Row, append_rows, keep_rows_until
from .video import log_video

_RELATIVE_COST = 0.4
"""Time of an environment step of evaluation over that of one of training: the most that was measured on the
presets without mitigations, see docs/decisions/2026-11-20-evaluation-and-replays.md."""

_EQUAL_BATCH = 32
"""The size of the classifier's minibatches at which the two take as long, measured likewise: see
docs/decisions/2026-11-21-supervised-streams.md. A sample of a smaller one costs more."""


def chosen_tasks(which: WhichTasks, after_task: int, tasks: int) -> list[int]:
    """The tasks to play after task ``after_task`` (-1: before training) of a sequence of ``tasks``."""
    match which:
        case "all":
            return list(range(tasks))
        case "seen":
            return list(range(after_task + 1))
        case "own-and-next":
            return [task for task in (after_task, after_task + 1) if 0 <= task < tasks]
        case "none":
            return []


def scheduled_tasks(spec: RunSpec, after_task: int, tasks: int) -> list[int]:
    """The tasks that the run itself plays after task ``after_task``."""
    settings = spec.evaluation
    last = after_task == tasks - 1 and settings.tasks != "none"
    return chosen_tasks(settings.last if last else settings.tasks, after_task, tasks)


def assignments(
    spec: RunSpec, on_tasks: Iterable[int], episodes: int, policies: Sequence[PolicyName]
) -> list[Assignment]:
    """The episodes to play on ``on_tasks``: the same for every checkpoint of the run."""
    return [
        Assignment(on, episode, policy, derive_seed(spec.seed, "evaluation", on, episode))
        for on in on_tasks
        for policy in policies
        for episode in range(episodes)
    ]


def evaluate_scheduled(
    plan: Plan, folder: RunFolder, agent: Agent, after_task: int, *, again: bool = False
) -> list[Episode]:
    """Play, record and write down what the spec wants after task ``after_task``.

    Args:
        plan: of the run.
        folder: of the run.
        agent: as the checkpoint after the task has it.
        after_task: -1 for before training.
        again: a process that was stopped may have done some of it, or `pliant evaluate` more. What it has
            written down stays as it is; all is played, for whoever asks for the episodes.
    """
    settings = plan.spec.evaluation
    on_tasks = scheduled_tasks(plan.spec, after_task, len(plan.sequence))
    wanted = assignments(plan.spec, on_tasks, settings.episodes, settings.policies)
    episodes = _play(plan, agent, wanted, replays=settings.replays)
    if settings.replays:
        done = recorded_keys(folder, [after_task]) if again else set()
        record(plan, folder, after_task, [one for one in episodes if (after_task, *one.key) not in done])
    append_rows(folder.evaluation_file, rows(plan, after_task, episodes), all_new=not again)
    return episodes


def play_and_record(
    plan: Plan,
    folder: RunFolder,
    agent: Agent,
    after_task: int,
    wanted: Sequence[Assignment],
    *,
    replays: bool,
) -> list[Episode]:
    """Play ``wanted`` and, with ``replays``, save their records."""
    episodes = _play(plan, agent, wanted, replays=replays)
    if replays:
        record(plan, folder, after_task, episodes)
    return episodes


def record(plan: Plan, folder: RunFolder, after_task: int, episodes: Sequence[Episode]) -> None:
    """Save the records of ``episodes`` in new files, one per task."""
    versions = installed_versions()
    for on in dict.fromkeys(episode.on_task for episode in episodes):
        Replays(
            task=plan.evaluated[on],
            after_task=after_task,
            on_task=on,
            env_steps=plan.boundaries[after_task + 1],
            versions=versions,
            episodes=tuple(episode for episode in episodes if episode.on_task == on),
        ).save(folder.new_replays(after_task, on))


def _play(plan: Plan, agent: Agent, wanted: Sequence[Assignment], *, replays: bool) -> list[Episode]:
    settings = plan.spec.evaluation
    return play(
        agent,
        plan.evaluated.tasks,
        wanted,
        max_length=settings.max_length,
        observations=replays and settings.observations,
    )


def rows(plan: Plan, after_task: int, episodes: Iterable[Episode]) -> list[Row]:
    """The rows of evaluation.csv that ``episodes`` of a checkpoint are."""
    env_steps = plan.boundaries[after_task + 1]
    return [
        Row(
            after_task=after_task,
            on_task=one.on_task,
            episode=one.episode,
            policy=one.policy,
            env_steps=env_steps,
            seed=one.seed,
            total=one.total,
            length=one.length,
            success=one.success,
        )
        for one in episodes
    ]


def log_evaluation(logger: Logger, after_task: int, episodes: Sequence[Episode], env_steps: int) -> None:
    """Mean returns and success rates for TensorBoard: of the task just trained, the next, and all played."""
    groups = {
        "own": [one for one in episodes if one.on_task == after_task],
        "next": [one for one in episodes if one.on_task == after_task + 1],
        "all": episodes,
    }
    for group, ones in groups.items():
        for policy in dict.fromkeys(one.policy for one in ones):
            played = [one for one in ones if one.policy == policy]
            name = f"{group}/{policy}"
            logger.record(f"eval/return/{name}", fmean(one.total for one in played), exclude=("csv",))
            told = [one.success for one in played if one.success is not None]
            if told:
                logger.record(f"eval/success/{name}", fmean(told), exclude=("csv",))
    logger.dump(env_steps)


def log_videos(plan: Plan, logger: Logger, after_task: int, episodes: Iterable[Episode]) -> None:
    """As many of ``episodes`` as the spec wants, on the task just trained, as pictures for TensorBoard."""
    own = max(after_task, 0)
    chosen = [one for one in episodes if one.on_task == own][: plan.spec.evaluation.videos]
    with isolated_randomness(0):
        for one in chosen:
            tag = f"eval/task_{own}/{one.policy}_{one.episode}"
            log_video(logger, tag, plan.evaluated[own], one, plan.boundaries[after_task + 1])


def forget_after(folder: RunFolder, env_steps: int, boundaries: Sequence[int]) -> None:
    """Drop rows and replays of checkpoints that a resumed run is about to make again."""
    keep_rows_until(folder.evaluation_file, env_steps)
    for (after, _), paths in folder.replay_files().items():
        # Those after no task of this run were not written by it.
        if -1 <= after < len(boundaries) - 1 and boundaries[after + 1] > env_steps:
            for path in paths:
                path.unlink()


@dataclass(frozen=True)
class Cost:
    """What a run's evaluations come to, before anything has been run."""

    episodes: int
    env_steps: int
    """If every episode took as long as it can."""
    relative: float
    """Time of one of these steps over that of one of training."""
    share: float
    """Of the run's time, if every episode took as long as it can."""

    def __str__(self) -> str:
        if not self.episodes:
            return "no evaluation"
        return (
            f"evaluation: {self.episodes:,} episodes, at most {self.env_steps:,} environment steps, about "
            f"{self.share:.1%} of the run's time if no episode ends early (taking its steps for "
            f"{self.relative:g} of the time of training's)"
        )


def expected_cost(plan: Plan) -> Cost:
    """The most that the evaluations of ``plan`` can cost: episodes times their environments' time limits."""
    settings = plan.spec.evaluation
    tasks = len(plan.sequence)
    per_task = settings.episodes * len(settings.policies)
    played = [on for after in range(-1, tasks) for on in scheduled_tasks(plan.spec, after, tasks)]
    longest = cache(_longest_episode)
    steps = sum(per_task * min(longest(plan.evaluated[on]), settings.max_length) for on in played)
    agent = plan.spec.agent
    relative = agent.batch_size / _EQUAL_BATCH if isinstance(agent, ClassifierSpec) else _RELATIVE_COST
    evaluation = relative * steps
    share = evaluation / (evaluation + plan.boundaries[-1])
    return Cost(len(played) * per_task, steps, relative, share)


def _longest_episode(task: Task) -> int:
    """The time limit of the task's environment, in environment steps; huge if it tells none."""
    env = make_env(task)
    env.close()
    limits = [getattr(env.spec, "max_episode_steps", None), getattr(env.unwrapped, "max_steps", None)]
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=sys.maxsize)
