"""The training loop: an agent through a sequence of tasks, from one run folder.

One path to read from top to bottom: for each task, set the environment, measure the loss that is about to be
descended, learn, measure again, save, evaluate.

A checkpoint is a reset point: all environments are made anew there, with seeds that depend on where the run
stands and on nothing else. What a run does after a checkpoint is therefore decided by the checkpoint alone,
and a process that goes on from it does what the one before it did, or would have done.
"""

from __future__ import annotations

import errno
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import HParam, Logger

from ..agents import Agent, AgentError, NonFiniteLoss
from ..diagnostics import SnapshotCallback
from .build import build_agent, derive_seed, snapshot_settings, vector_env
from .callbacks import InterruptRequested, RunMonitor
from .checkpoints.checkpoint import Position, load_initial, load_newest, save_checkpoint
from .checkpoints.retention import superfluous
from .errors import DiskFull, RunError, RunFolderError, RunInterrupted
from .evaluation.scheduled import evaluate_scheduled, forget_after, log_evaluation, log_videos
from .folder import RunFolder
from .inputs import check_inputs, note_inputs
from .logs import LogMarks, RunLogs
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
        folder: a fresh one, or, with ``resume``, that of a run of the same spec that was stopped.
        report: called after every rollout.
        interrupted: asked before every rollout; once it says yes, the run stops.
        resume: go on from the newest checkpoint that is not damaged.

    Raises:
        RunInterrupted: the run was stopped between two rollouts; the text says from where it will go on.
        NonFiniteLoss: the loss was not finite; the checkpoints are kept.
        DiskFull: there is no room for what has to be written.
        RunFolderError: another process trains this run; the folder is gone, or cannot be written or read; or
            data or files of mitigations are not those that it was begun with.
    """
    torch.set_num_threads(plan.spec.threads)
    with folder.locked():
        if resume:
            check_inputs(plan, folder)
        else:
            note_inputs(plan, folder)
        try:
            folder.set_status("running")
            _Trainer(plan, folder, report, interrupted).run(resume)
            folder.set_status("complete")
        except (RunInterrupted, KeyboardInterrupt):
            folder.set_status("interrupted")
            raise
        except BaseException as error:
            told = _error_of_files(error, folder) or error
            text = str(told) if isinstance(told, (RunError, AgentError)) else f"{type(told).__name__}: {told}"
            with suppress(OSError, RunError):  # on a full disk this cannot be written either
                # Divergence comes back however often the run is repeated; a sweep does not repeat it.
                more = {"diverged": True} if isinstance(told, NonFiniteLoss) else {}
                folder.set_status("failed", error=text, **more)
            if told is error:
                raise
            raise told from error


def _error_of_files(error: BaseException, folder: RunFolder) -> RunFolderError | None:
    """What a person is told of an error of the run folder's own files; None for any other."""
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"there is no room left to write to {str(folder.path)!r}; make some, and go on with --resume"
        )
    named = Path(error.filename).absolute() if isinstance(error.filename, str) else Path()
    if named.is_relative_to(folder.path.absolute()):
        return RunFolderError(
            f"{str(named)!r} cannot be written: {error.strerror}; put the folder back, or make it writable, "
            "and go on with --resume"
        )
    return None


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
        self.logs: RunLogs
        self.logger: Logger
        manifest = folder.read_manifest()
        self.run_id: str = manifest["id"]  # not the folder's name: it may have been moved
        self.evaluation_seconds: float = manifest.get("evaluation_seconds", 0.0)
        self.saved = Position(task=0, task_steps=0, env_steps=0)
        """Where the newest checkpoint is."""

    def run(self, resume: bool) -> None:
        self.folder.remove_leftovers()
        self._fresh_agent(0)
        try:
            start = self._load() if resume else None
            keep = _log_marks(start) if start else None
            with RunLogs(self.folder, keep, self.saved.env_steps) as self.logs:
                self.logger = self.logs.logger
                self._run_from(start)
        except RunInterrupted:
            raise RunInterrupted(f"from environment step {self.saved.env_steps:,}") from None
        finally:
            self._close_env()

    def _run_from(self, start: Position | None) -> None:
        """Everything that comes after the checkpoint ``start``; None: all."""
        if start is None:
            _log_spec(self.logger, self.spec)
            self._save(self.saved)  # so that there is always something to return to
        first = self.saved
        forget_after(self.folder, first.env_steps, self.plan.boundaries)
        self.started = (time.monotonic(), first.env_steps)
        if first.task_steps == 0:
            self._evaluate(first.task - 1, again=start is not None)
        for index in range(first.task, len(self.plan.sequence)):
            self._train_task(index, first if index == first.task and first.task_steps else None)
            self._evaluate(index)

    def _load(self) -> Position | None:
        """The newest checkpoint that can be used, put into the agent; None: there never was one."""
        paths = self.folder.checkpoint_list()
        if not paths and not self.folder.has_episodes():
            return None
        position, damaged = load_newest(paths, self.agent, self.run_id)
        for text in damaged:
            warnings.warn(
                f"{text}; going on from environment step {position.env_steps:,}", RuntimeWarning, stacklevel=2
            )
        boundaries = self.plan.boundaries
        if not (
            position.task < len(boundaries)
            and boundaries[position.task] + position.task_steps == position.env_steps
        ):
            raise RunFolderError(
                f"the checkpoint after {position.env_steps:,} environment steps does not fit the tasks of "
                f"{str(self.folder.spec_file)!r}; put that file back as it was"
            )
        for path in paths:
            if int(path.name) > position.env_steps:
                self.folder.remove_checkpoint(int(path.name))  # damaged, and about to be made again
        self.saved = position
        return position

    def _fresh_agent(self, task: int) -> None:
        # The environment is only there for its spaces: each task brings its own.
        env = vector_env(self.plan.sequence[task], self.spec.agent.n_envs, 0)
        seed = derive_seed(self.spec.seed, "agent", task)
        self.agent = build_agent(self.spec, env, seed=seed, device=self.plan.device)
        if task == 0 and self.folder.initial_file.exists():
            load_initial(self.folder.initial_file, self.agent)

    def _train_task(self, index: int, resumed: Position | None) -> None:
        """Train on task ``index``, from its beginning or from a checkpoint within it."""
        spec = self.spec
        first, last = self.plan.boundaries[index : index + 2]
        done = resumed.task_steps if resumed else 0
        if spec.reset and index > 0 and not resumed:
            self._close_env()
            self._fresh_agent(index)
        agent = self.agent
        if spec.reset:
            agent.count_from(first)
        agent.set_logger(self.logger)
        if not resumed:
            agent.num_timesteps = first
            agent.ep_info_buffer = agent.ep_success_buffer = None  # statistics of another task
        monitor = RunMonitor(
            self.plan,
            index,
            self.folder.path.name,
            self.logs.episodes,
            self.report,
            self.interrupted,
            self.started,
        )
        snapshots = self._snapshots(index, monitor.tell_measuring)
        if resumed:
            monitor.returns = self.logs.episodes.returns(index)
            _load_snapshots(snapshots, resumed, agent)
        for end in spec.reset_points(last - first):
            if end <= done:
                continue
            self._reset(index, done)
            if done == 0:
                agent.start_task(index)
            agent.schedule_over(
                *((first, last) if spec.schedule == "per-task" else (0, self.plan.boundaries[-1]))
            )
            for snapshot in snapshots:
                snapshot.first, snapshot.last = done == 0, end == last - first
            monitor.last = end == last - first
            agent.learn(end - done, callback=CallbackList([*snapshots, monitor]), reset_num_timesteps=False)
            agent.cut_episodes()
            done = end
            if end < last - first:
                self._save(Position(index, end, agent.num_timesteps), snapshots)
        self._save(Position(index + 1, 0, agent.num_timesteps))

    def _reset(self, index: int, done: int) -> None:
        """Environments of task ``index`` after ``done`` environment steps of it, in place of those before."""
        agent = self.agent
        seed = derive_seed(self.spec.seed, "env", index, done)
        env = vector_env(self.plan.sequence[index], self.spec.agent.n_envs, seed, elapsed=done)
        self._close_env()
        agent.set_env(env)
        agent.policy.set_training_mode(False)  # a loaded policy has another mode than one that was trained

    def _close_env(self) -> None:
        if (env := self.agent.get_env()) is not None:
            env.close()

    def _evaluate(self, after_task: int, *, again: bool = False) -> None:
        """Let the agent of the checkpoint just saved play; nothing of it is different afterwards."""
        began = time.monotonic()
        episodes = evaluate_scheduled(self.plan, self.folder, self.agent, after_task, again=again)
        if episodes:
            log_evaluation(self.logger, after_task, episodes, self.plan.boundaries[after_task + 1])
            log_videos(self.plan, self.logger, after_task, episodes)
            self.evaluation_seconds += time.monotonic() - began
            self.folder.set_status("running", evaluation_seconds=round(self.evaluation_seconds, 3))

    def _snapshots(self, index: int, tell: Callable[[], None]) -> list[SnapshotCallback]:
        """The callback that measures task ``index`` on data of its own, in environments of its own."""
        settings = self.spec.diagnostics
        if not (settings.at or settings.updates) or index % settings.task_interval:
            return []

        def fresh_batch() -> Any:
            tell()
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
                moments=settings.at,
                task=index,
                settings=snapshot_settings(self.spec, self.plan.task_steps[index]),
                every=settings.updates,
                figures=settings.figures,
            )
        ]

    def _save(self, position: Position, snapshots: Sequence[SnapshotCallback] = ()) -> None:
        """Make a checkpoint and remove those that are not needed any more.

        Args:
            position: where the run stands.
            snapshots: the callbacks of a task that is not over.
        """
        position = replace(
            position,
            beside={
                "logs": self.logs.marks().to_json(),
                "snapshots": [snapshot.state() for snapshot in snapshots],
            },
            tensors={name: tensor for snapshot in snapshots for name, tensor in snapshot.tensors().items()},
        )
        save_checkpoint(self.folder.checkpoint(position.env_steps), self.agent, position, self.run_id)
        self.saved = position
        settings = self.spec.checkpoints
        saved = [int(path.name) for path in self.folder.checkpoint_list()]
        for steps in superfluous(saved, self.plan.boundaries, settings.keep, settings.keep_switches):
            self.folder.remove_checkpoint(steps)


def _log_marks(position: Position) -> LogMarks:
    """How long the logs were at a checkpoint.

    Raises:
        RunFolderError: it does not say.
    """
    try:
        return LogMarks.from_json(position.beside["logs"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"the checkpoint after {position.env_steps:,} environment steps does not say how long the logs "
            f"were ({type(error).__name__}: {error}); delete it to go on from the one before"
        ) from None


def _load_snapshots(snapshots: Sequence[SnapshotCallback], position: Position, agent: Agent) -> None:
    """Let the callbacks of a task that is not over go on as they stood at a checkpoint.

    Raises:
        RunFolderError: it does not say how they stood.
    """
    tensors = {name: tensor.to(agent.device) for name, tensor in position.tensors.items()}
    try:
        for snapshot, state in zip(snapshots, position.beside["snapshots"], strict=True):
            snapshot.load_state(state, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"the checkpoint after {position.env_steps:,} environment steps does not say how the "
            f"measurements stood ({type(error).__name__}: {error}); delete it to go on from the one before"
        ) from None


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
