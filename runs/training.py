"""The training loop: an agent through a sequence of tasks, from one run folder.

One path to read from top to bottom: for each task, set the environment, measure the loss that is about to be
descended, learn, measure again, save, evaluate.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import HParam, Logger

from ..agents import Agent, NonFiniteLoss
from ..diagnostics import SnapshotCallback
from .build import build_agent, derive_seed, snapshot_settings, vector_env
from .callbacks import InterruptRequested, RunMonitor
from .checkpoint import Position, load_checkpoint, save_checkpoint
from .errors import RunFolderError, RunInterrupted
from .evaluation import evaluate_scheduled, forget_after, log_evaluation, log_videos
from .folder import RunFolder
from .logs import EpisodeCsv, run_logger
from .plan import Plan
from .presets import dump
from .progress import Reporter
from .spec import RunSpec


def train(
    plan: Plan, folder: RunFolder, report: Reporter, interrupted: InterruptRequested, *, resume: bool = False
) -> None:
    """Train the plan's agent through its tasks, writing everything into ``folder``.

    Args:
        plan: from :func:`make_plan`.
        folder: a fresh one, or, with ``resume``, that of an interrupted run of the same spec.
        report: called after every rollout.
        interrupted: asked before every rollout; once it says yes, the agent is saved and the run stops.
        resume: go on from the newest checkpoint.

    Raises:
        RunInterrupted: the run was stopped between two rollouts, and saved.
        NonFiniteLoss: the loss was not finite; the checkpoint of the last switch is kept.
    """
    torch.set_num_threads(plan.spec.threads)
    folder.set_status("running")
    try:
        _Trainer(plan, folder, report, interrupted).run(resume)
    except RunInterrupted:
        folder.set_status("interrupted")
        raise
    except NonFiniteLoss as error:
        # Divergence comes back however often the run is repeated; a sweep does not repeat it.
        folder.set_status("failed", error=str(error), diverged=True)
        raise
    except BaseException as error:
        folder.set_status("failed", error=f"{type(error).__name__}: {error}")
        raise
    folder.set_status("complete")


class _Trainer:
    """The state of one call of :func:`train`."""

    def __init__(
        self, plan: Plan, folder: RunFolder, report: Reporter, interrupted: InterruptRequested
    ) -> None:
        self.plan = plan
        self.spec = plan.spec
        self.folder = folder
        self.report = report
        self.interrupted = interrupted
        self.agent: Agent
        self.logger: Logger
        self.evaluation_seconds: float = folder.read_manifest().get("evaluation_seconds", 0.0)

    def run(self, resume: bool) -> None:
        self._fresh_agent(0)
        start = self._load() if resume else Position(task=0, task_steps=0, env_steps=0)
        with (
            closing(run_logger(self.folder, start.env_steps)) as self.logger,
            closing(EpisodeCsv(self.folder.episodes_file, start.env_steps)) as self.episodes,
        ):
            if not resume:
                _log_spec(self.logger, self.spec)
                self._save(start)  # so that there is always something to return to
            forget_after(self.folder, start.env_steps, self.plan.boundaries)
            self.started = (time.monotonic(), start.env_steps)
            if start.task_steps == 0:
                self._evaluate(start.task - 1)
            for index in range(start.task, len(self.plan.sequence)):
                self._train_task(index, done=start.task_steps if index == start.task else 0)

    def _load(self) -> Position:
        checkpoints = self.folder.checkpoint_list()
        if not checkpoints:
            raise RunFolderError(
                f"{str(self.folder.path)!r} has no checkpoint to resume from; start the run anew"
            )
        return load_checkpoint(checkpoints[-1], self.agent)

    def _fresh_agent(self, task: int) -> None:
        # The environment is only there for its spaces: each task brings its own.
        env = vector_env(self.plan.sequence[task], self.spec.agent.n_envs, 0)
        seed = derive_seed(self.spec.seed, "agent", task)
        self.agent = build_agent(self.spec, env, seed=seed, device=self.plan.device)

    def _train_task(self, index: int, done: int) -> None:
        """Train on task ``index``, of which ``done`` environment steps are behind us."""
        task, spec = self.plan.sequence[index], self.spec
        first, last = self.plan.boundaries[index : index + 2]
        if spec.reset and index > 0 and done == 0:
            self._fresh_agent(index)
        agent = self.agent
        agent.set_logger(self.logger)
        agent.num_timesteps = first + done
        # A reset point: the environments' seeds depend on where the run stands and on nothing else.
        seed = derive_seed(spec.seed, "env", index, done)
        previous = agent.get_env()
        agent.set_env(vector_env(task, spec.agent.n_envs, seed, elapsed=done))
        if previous is not None:
            previous.close()
        if done == 0:
            agent.ep_info_buffer = agent.ep_success_buffer = None  # statistics of another task
            agent.start_task(index)
        agent.schedule_over(
            *((first, last) if spec.schedule == "per-task" else (0, self.plan.boundaries[-1]))
        )
        monitor = RunMonitor(
            self.plan,
            index,
            self.folder.path.name,
            self.episodes,
            self.report,
            self.interrupted,
            self.started,
        )
        try:
            agent.learn(
                last - first - done,
                callback=CallbackList([*self._snapshots(index, done), monitor]),
                reset_num_timesteps=False,
            )
        except RunInterrupted:
            steps = agent.num_timesteps - first
            finished = steps >= last - first
            self._save(Position(index + finished, 0 if finished else steps, agent.num_timesteps))
            raise
        self._save(Position(index + 1, 0, agent.num_timesteps))
        self._evaluate(index)

    def _evaluate(self, after_task: int) -> None:
        """Let the agent of the checkpoint just saved play; nothing of it is different afterwards."""
        began = time.monotonic()
        episodes = evaluate_scheduled(self.plan, self.folder, self.agent, after_task)
        if episodes:
            log_evaluation(self.logger, after_task, episodes, self.plan.boundaries[after_task + 1])
            log_videos(self.plan, self.logger, after_task, episodes)
            self.evaluation_seconds += time.monotonic() - began
            self.folder.set_status("running", evaluation_seconds=round(self.evaluation_seconds, 3))

    def _snapshots(self, index: int, done: int) -> list[SnapshotCallback]:
        """The callback that measures task ``index`` on data of its own, in environments of its own."""
        settings = self.spec.diagnostics
        if not (settings.at or settings.updates) or index % settings.task_interval:
            return []

        def fresh_batch() -> Any:
            seed = derive_seed(self.spec.seed, "snapshot", index)
            env = vector_env(self.plan.sequence[index], self.spec.agent.n_envs, seed)
            try:
                return self.agent.gather(env, settings.samples, seed)
            finally:
                env.close()

        return [
            SnapshotCallback(
                fresh_batch,
                self.folder.snapshots,
                moments=[moment for moment in settings.at if not (moment == "init" and done)],
                task=index,
                settings=snapshot_settings(self.spec, self.plan.task_steps[index]),
                every=settings.updates,
                figures=settings.figures,
            )
        ]

    def _save(self, position: Position) -> None:
        save_checkpoint(self.folder.checkpoint(position.env_steps), self.agent, position)


def _log_spec(logger: Logger, spec: RunSpec) -> None:
    """The resolved spec as text, and its scalars in TensorBoard's table of hyperparameters."""
    text = "\n".join(
        f"    {line}" for line in dump(spec).splitlines()
    )  # indented: Markdown shows it verbatim
    logger.record("run/spec", text, exclude=("csv",))
    hyperparameters = dict(_flatten(spec.model_dump(mode="json", exclude={"tasks", "description"})))
    logger.record("hparams", HParam(hyperparameters, {"rollout/ep_rew_mean": 0.0}), exclude=("csv",))
    logger.dump(0)


def _flatten(table: dict[str, Any], prefix: str = "") -> list[tuple[str, bool | str | float | int]]:
    rows: list[tuple[str, bool | str | float | int]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            rows.append((prefix + key, value if isinstance(value, (bool, str, int, float)) else str(value)))
    return rows
