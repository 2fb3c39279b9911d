"""Beside the learning: episodes are written down, progress is told, Ctrl-C is heard."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from ..agents import Agent
from ..diagnostics import measure_features
from .errors import RunInterrupted
from .logs import EpisodeCsv
from .plan import Plan
from .progress import Report, Reporter
from .summary import task_return

InterruptRequested = Callable[[], bool]

_REPORT_EVERY = 0.25
"""Seconds between two reports of a run."""

_FEATURE_SAMPLES = 512
"""Observations behind a row of feature statistics: enough for layers that wide, cheap beside a rollout."""


class RunMonitor(BaseCallback):
    """Watches one task: writes episodes.csv, reports progress, stops between rollouts when asked to.

    A task takes a ``learn()`` from one reset point to the next; set ``last`` before the last of them.
    """

    def __init__(
        self,
        plan: Plan,
        task: int,
        run: str,
        episodes: EpisodeCsv,
        report: Reporter,
        interrupted: InterruptRequested,
        started: tuple[float, int],
    ) -> None:
        super().__init__()
        self.plan = plan
        self.task = task
        self.run_id = run
        self.episodes = episodes
        self.report = report
        self.interrupted = interrupted
        self.started = started
        self.last = True
        self.returns: list[tuple[int, float]] = []
        """Environment step and return of every episode of this task."""
        self._next_report = 0.0
        self._next_features = math.inf

    def _on_training_start(self) -> None:
        self._next_features = self._after(self.num_timesteps)

    def _on_rollout_start(self) -> None:
        if self.interrupted():
            raise RunInterrupted
        self._tell()

    def _on_rollout_end(self) -> None:
        if self.num_timesteps >= self._next_features:
            self._next_features = self._after(self.num_timesteps)
            self._log_features()

    def _on_step(self) -> bool:
        dones: np.ndarray[Any, np.dtype[np.bool_]] = self.locals["dones"]
        if dones.any():
            for index in np.flatnonzero(dones):
                episode = self.locals["infos"][index]["episode"]
                self.returns.append((self.num_timesteps, float(episode["r"])))
                self.episodes.write(self.num_timesteps, self.task, episode)
        return True

    def _on_training_end(self) -> None:
        if self.last:
            self.episodes.flush()
            self._log_switch()
            self._tell(force=True)

    def _after(self, step: int) -> float:
        """The environment step at which features are due next; a multiple, so that resuming moves none."""
        every = self.plan.spec.diagnostics.every
        return (step // every + 1) * every if every else math.inf

    def _log_features(self) -> None:
        """Feature statistics of the latest observations, and weight norms, with the next row of the log."""
        agent = cast(Agent, self.model)
        with torch.no_grad():
            features = agent.features(agent.recent_observations(_FEATURE_SAMPLES))
        for layer, statistics in measure_features(features).items():
            for name in ("effective_rank", "dead", "dormant"):
                self.logger.record(f"plasticity/{layer}/{name}", statistics[name])
        for network, parameters in agent.networks().items():
            norm = torch.nn.utils.get_total_norm(list(parameters.values()))
            self.logger.record(f"plasticity/{network}/weight_norm", norm.item())

    def _log_switch(self) -> None:
        """What the task that ends here came to: its first and last tenth, by environment steps."""
        first, last = self.plan.boundaries[self.task : self.task + 2]
        came_to = task_return(self.task, self.returns, first, last)
        self.logger.record("switch/task", self.task)
        for name in ("first_tenth", "last_tenth"):
            value = getattr(came_to, name)
            if value is not None:
                self.logger.record(f"switch/return_{name}", value)
        self.logger.dump(self.num_timesteps)

    def tell_measuring(self) -> None:
        """Report that a snapshot is about to be taken."""
        self._tell(force=True, measuring=True)

    def _tell(self, force: bool = False, measuring: bool = False) -> None:
        """Report how far the run is, a few times a second at most."""
        now = time.monotonic()
        if now < self._next_report and not force:
            return
        self._next_report = now + _REPORT_EVERY
        self.episodes.flush()
        began, steps_then = self.started
        recent = [result for _, result in self.returns[-20:]]
        self.report(
            Report(
                run=self.run_id,
                task=self.task + 1,
                tasks=len(self.plan.sequence),
                task_name=self.plan.sequence[self.task].name,
                steps=self.model.num_timesteps,
                total_steps=self.plan.boundaries[-1],
                steps_per_second=(self.model.num_timesteps - steps_then) / max(now - began, 1e-9),
                last_return=float(np.mean(recent)) if recent else None,
                measuring=measuring,
            )
        )
