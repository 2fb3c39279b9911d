"""A plan: a spec that has been found to work on this machine, before a file is written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

from ..agents import AgentError
from ..envs import EnvError, TaskSequence
from .build import (
    build_agent,
    check_algorithm_fits,
    check_measurement_fits,
    choose_device,
    snapshot_settings,
    vector_env,
)
from .errors import RunError, SpecError
from .sizes import check_sizes
from .spec import RunSpec

MOST_STEPS = 2**53
"""Environment steps that a float, and so every plot, can count."""


@dataclass(frozen=True)
class Plan:
    """A spec whose tasks, mitigations and device have been found to exist on this machine."""

    spec: RunSpec
    sequence: TaskSequence
    device: torch.device
    parameters: tuple[int, int]
    """Numbers of the policy: those that are trained, and the others (DQN's target network)."""

    @cached_property
    def task_steps(self) -> list[int]:
        """Environment steps of each task: its length in whole rollouts."""
        return [self.spec.task_steps(task.length) for task in self.sequence]

    @cached_property
    def boundaries(self) -> list[int]:
        """Environment steps of the run at the start of each task, and at the end of the last."""
        return [0, *accumulate(self.task_steps)]

    def require_task(self, index: int) -> None:
        """See that there is a task of that index.

        Raises:
            SpecError: there is none.
        """
        if index not in range(len(self.sequence)):
            raise SpecError(f"there is no task {index}; the run has the tasks 0 to {len(self.sequence) - 1}")

    @cached_property
    def evaluated(self) -> TaskSequence:
        """The tasks as evaluation plays them.

        Raises:
            SpecError: what ``evaluation.kwargs`` makes of a task cannot be, or has other spaces.
        """
        changes = self.spec.evaluation.kwargs
        if not changes:
            return self.sequence
        tasks = [task.model_copy(update={"kwargs": task.kwargs | changes}) for task in self.sequence]
        try:
            evaluated = TaskSequence(tasks)
        except EnvError as error:
            raise SpecError(f"evaluation.kwargs: {error}") from None
        for kind in ("observation_space", "action_space"):
            theirs, ours = getattr(self.sequence, kind), getattr(evaluated, kind)
            if theirs != ours:
                raise SpecError(
                    f"evaluation.kwargs: {changes} gives the tasks the {kind} {ours}; in training it is "
                    f"{theirs}"
                )
        return evaluated


def make_plan(spec: RunSpec, device: str = "auto") -> Plan:
    """Check everything that can be checked before a file is written.

    Raises:
        SpecError, DeviceError, EnvError, AgentError, MeasurementError: with what to do about it.
    """
    sequence = spec.tasks.build(spec.seed)
    check_algorithm_fits(spec, sequence)
    check_sizes(spec, sequence.observation_space)
    on = choose_device(device, spec)
    plan = Plan(spec, sequence, on, _parameters(spec, sequence, on))
    snapshot_settings(spec, plan.task_steps[0])
    if plan.boundaries[-1] > MOST_STEPS:
        raise SpecError(f"tasks: {plan.boundaries[-1]:,} environment steps are more than can be counted")
    _ = plan.evaluated  # only to see that it can be
    return plan


def _parameters(spec: RunSpec, sequence: TaskSequence, device: torch.device) -> tuple[int, int]:
    """Build the agent to see that it can be built, and count its numbers: trained ones, and others.

    Raises:
        SpecError: stable-baselines3 or torch refuse a setting that nothing here knows to be wrong.
    """
    env = vector_env(sequence[0], spec.agent.n_envs, seed=0)
    try:
        agent = build_agent(spec, env, seed=0, device=device)
    except (RunError, AgentError, EnvError):
        raise
    except (ValueError, TypeError, AssertionError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise SpecError(
            f"the agent of {spec.name} cannot be built: {error or type(error).__name__}; see [agent]"
        ) from error
    finally:
        env.close()
    check_measurement_fits(spec, agent)
    groups = agent.policy.optimizer.param_groups
    trained = sum(parameter.numel() for group in groups for parameter in group["params"])
    return trained, sum(value.numel() for value in agent.policy.state_dict().values()) - trained
