"""What a person should know of a plan before it starts, and could not see in the spec."""

from __future__ import annotations

from itertools import pairwise

from ..envs import make_env
from .build import build_mitigations
from .plan import Plan
from .spec import PPOSpec


def notes(plan: Plan) -> list[str]:
    """Sentences: task lengths that are rounded up, returns that there will not be, what will never act."""
    return [note for note in (_rounding(plan), _endless_pass(plan), *_mitigations(plan)) if note]


def _mitigations(plan: Plan) -> list[str]:
    """What they say of so many tasks."""
    built = zip(plan.spec.mitigations, build_mitigations(plan.spec), strict=True)
    said = ((name, mitigation.note(len(plan.sequence))) for name, mitigation in built)
    return [f"mitigations.{name}.{note}" for name, note in said if note]


def _rounding(plan: Plan) -> str | None:
    """Said once, of the first task whose length is no multiple of a rollout."""
    for task, steps in zip(plan.sequence, plan.task_steps, strict=True):
        if steps != task.length:
            agent = plan.spec.agent
            what = "agent.n_steps" if isinstance(agent, PPOSpec) else "agent.train_freq"
            return (
                f"tasks.length: a task takes whole rollouts of {plan.spec.rollout_steps:,} environment steps "
                f"({what} * agent.n_envs), so {task.length:,} becomes {steps:,}"
            )
    return None


def _endless_pass(plan: Plan) -> str | None:
    """An episode of a stream is a pass over all samples; one that never ends has no return."""
    samples = _samples(plan)
    if samples is None:
        return None
    spec, steps = plan.spec, plan.task_steps[0]
    stretch = max(last - first for first, last in pairwise([0, *spec.reset_points(steps)]))
    takes = samples * spec.agent.n_envs
    if takes <= stretch:
        return None
    until = "a task has" if stretch == steps else "episodes begin anew (checkpoints.every) after"
    return (
        f"no pass over the {samples:,} samples of a task will end, so there will be no return to show: with "
        f"agent.n_envs = {spec.agent.n_envs} it takes {takes:,} environment steps, and {until} {stretch:,}"
    )


def _samples(plan: Plan) -> int | None:
    """How many the first task has, if it is a stream."""
    env = make_env(plan.sequence[0])
    try:
        return len(env.get_wrapper_attr("samples").labels)
    except AttributeError:
        return None
    finally:
        env.close()
