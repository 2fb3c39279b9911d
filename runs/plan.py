"""A plan: a spec that has been found to work on this machine, before a file is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

from ..envs import TaskSequence
from .build import build_agent, check_algorithm_fits, choose_device, snapshot_settings, vector_env
from .spec import RunSpec


@dataclass(frozen=True)
class Plan:
    """A spec whose tasks, mitigations and device have been found to exist on this machine."""

    spec: RunSpec
    sequence: TaskSequence
    device: torch.device

    @cached_property
    def task_steps(self) -> list[int]:
        """Environment steps of each task: its length in whole rollouts."""
        return [self.spec.task_steps(task.length) for task in self.sequence]

    @cached_property
    def boundaries(self) -> list[int]:
        """Environment steps of the run at the start of each task, and at the end of the last."""
        return [0, *accumulate(self.task_steps)]


def make_plan(spec: RunSpec, device: str = "auto") -> Plan:
    """Check everything that can be checked before a file is written.

    Raises:
        SpecError, DeviceError, EnvError, AgentError, MeasurementError: with what to do about it.
    """
    sequence = spec.tasks.build(spec.seed)
    check_algorithm_fits(spec, sequence)
    plan = Plan(spec, sequence, choose_device(device, spec))
    snapshot_settings(spec, plan.task_steps[0])
    env = vector_env(sequence[0], spec.agent.n_envs, seed=0)
    try:
        build_agent(spec, env, seed=0, device=plan.device)  # only to see that it can be built
    finally:
        env.close()
    return plan
