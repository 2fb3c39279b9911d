"""Measure a saved run again: any checkpoint at a switch, on data of any of its tasks, as finely as wanted."""

from __future__ import annotations

from pathlib import Path

from ..diagnostics import Snapshot, take_snapshot
from .build import build_agent, derive_seed, snapshot_settings, vector_env
from .checkpoints.checkpoint import load_networks
from .folder import RunFolder
from .plan import make_plan


def measure(
    folder: RunFolder,
    *,
    after_task: int | None = None,
    on_task: int | None = None,
    settings: tuple[str, ...] = (),
    device: str = "auto",
) -> tuple[Snapshot, Path]:
    """Take a snapshot of a checkpoint, from the run folder alone, and keep it under ``snapshots/``.

    Args:
        folder: of the run.
        after_task: index of the task after which the agent was saved, -1 for the untrained agent; by default
            the last one that was finished.
        on_task: index of the task to gather data of; by default the one that followed.
        settings: changes to the run's spec, ``"diagnostics.spectrum.depth=100"``.
        device: as for training.

    Returns:
        The snapshot, and the new file that holds it.

    Raises:
        RunFolderError: there is no such checkpoint.
        SpecError: there is no such task, or a setting is invalid.
    """
    spec = folder.read_spec(settings)
    plan = make_plan(spec, device)
    *_, after = folder.checkpoints_after(plan.boundaries, [] if after_task is None else [after_task])
    on = min(after + 1, len(plan.sequence) - 1) if on_task is None else on_task
    plan.require_task(on)

    env = vector_env(plan.sequence[on], spec.agent.n_envs, seed := derive_seed(spec.seed, "snapshot", on))
    try:
        agent = build_agent(spec, env, seed=0, device=plan.device)
        load_networks(folder.checkpoint(plan.boundaries[after + 1]), agent)
        separate = vector_env(plan.sequence[on], spec.agent.n_envs, seed)
        try:
            batch = agent.gather(separate, spec.diagnostics.samples, seed)
        finally:
            separate.close()
        label = f"after {after} on {on}"
        snapshot = take_snapshot(agent, batch, snapshot_settings(spec, plan.task_steps[on]), label)
    finally:
        env.close()
    snapshot.about.update(after_task=after, task=on, env_steps=plan.boundaries[after + 1])
    path = folder.new_snapshot(f"after-{after:03d}-on-{on:03d}")
    snapshot.save(path)
    return snapshot, path
