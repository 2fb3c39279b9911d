"""What a run will take of memory and disk, found out before it starts.

Estimates, from shapes and counts: the large things (replay buffer, networks, checkpoints, Lanczos bases) are
exact to a few percent, logs and pictures are what runs of the presets were seen to take.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..diagnostics.memory import basis_bytes
from .checkpoints.retention import kept_switches
from .evaluation.scheduled import expected_cost
from .plan import Plan
from .sizes import available_memory, in_words, item_bytes, listed, require, stored_rows
from .spec import DQNSpec, PPOSpec, RunSpec

_MOMENTS = {"adam": 2, "adamw": 2, "muon": 2, "kron": 3}
"""Numbers that an optimiser keeps of each parameter, at most; of SGD, one if it has momentum."""
_LOG_ROW = 2_500
"""Bytes of a row of the log, in progress.csv and TensorBoard together (30 columns; measured: quickstart)."""
_PICTURES = 50_000
"""Bytes of the pictures of one part in a snapshot, in TensorBoard (measured: quickstart)."""
_STATE = 20_000
"""Bytes of a checkpoint beside its tensors: random states, counters."""
_STEP_OF_EPISODE = 2
"""Bytes of episodes.csv per environment step, if episodes have ten of them."""
_COMPRESSED = 1 / 20
"""What is left of a replay buffer of pictures or grids in a file (MiniGrid: 1/38)."""


@dataclass(frozen=True)
class Needs:
    """Bytes by what takes them."""

    memory: Mapping[str, int]
    """At the same time, beside Python and torch themselves (about 0.4 GB)."""
    disk: Mapping[str, int]
    """At the end, about."""
    more_disk: Mapping[str, int] = field(default_factory=dict)
    """So much more at most: what cannot be compressed, episodes as long as can be."""

    def __str__(self) -> str:
        lines = [f"memory: about {listed(self.memory)}", f"disk: about {listed(self.disk)}"]
        if sum(self.more_disk.values()):
            lines.append(f"      and at most {listed(self.more_disk)} more")
        return "\n".join(lines)


def expected_needs(plan: Plan) -> Needs:
    """What the run of ``plan`` will take."""
    spec = plan.spec
    trained, other = plan.parameters
    networks = 4 * (trained + other)
    moments = _MOMENTS.get(spec.agent.optimizer.name, int(bool(spec.agent.optimizer.momentum)))
    tensors = networks + 4 * trained * moments
    observation = item_bytes(plan.sequence.observation_space)
    action = item_bytes(plan.sequence.action_space)
    memory = {"networks and optimiser": tensors + 4 * trained}
    disk: dict[str, int] = {}
    more: dict[str, int] = {}

    checkpoints = _checkpoints(plan)
    disk["checkpoints"] = checkpoints * (tensors + _STATE)
    rows = stored_rows(spec)
    if isinstance(spec.agent, DQNSpec):
        buffer = min(rows, plan.boundaries[-1]) * (2 * observation + action + 12)
        memory["replay buffer"] = buffer
        disk["replay buffers"] = 2 * int(buffer * _COMPRESSED)
        more["replay buffers that do not shrink"] = 2 * buffer - disk["replay buffers"]
    elif rows:
        memory["rollout"] = rows * (observation + action + 24)

    if taken := _snapshots(plan):
        parts, arrays = _snapshot_parts(spec), _snapshot_bytes(spec)
        settings = spec.diagnostics
        basis = basis_bytes(trained, settings.spectrum.probes, settings.spectrum.depth, 4)
        memory["snapshots"] = settings.samples * (observation + action + 24) + _spectra(spec) * basis
        disk["snapshots"] = taken * arrays
        disk["pictures of snapshots"] = taken * parts * _PICTURES * settings.figures

    steps = plan.boundaries[-1]
    disk["logs"] = steps // _steps_per_row(spec) * _LOG_ROW
    more["episodes.csv"] = steps * _STEP_OF_EPISODE
    if spec.evaluation.replays:
        kept = action + 16 + observation * spec.evaluation.observations
        more["evaluation episodes"] = expected_cost(plan).env_steps * kept
    return Needs(memory, disk, more)


def check_memory(needs: Needs, runs: int = 1) -> None:
    """Refuse runs side by side that do not fit into the memory that is there.

    Raises:
        TooLarge: says what takes the most, what there is and what to do.
    """
    require(needs.memory, available_memory(), "memory", runs, ", or take fewer at a time (--jobs)")


def check_disk(needs: Needs, out: Path, runs: int = 1) -> str | None:
    """Refuse runs that do not fit onto the disk of ``out``, which need not be there yet.

    Returns:
        A warning, if they may not fit in the worst case.

    Raises:
        TooLarge: says what takes the most, what there is and what to do.
    """
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    require(needs.disk, free, f"the disk of {str(out)!r}", runs)
    most = runs * (sum(needs.disk.values()) + sum(needs.more_disk.values()))
    if most <= free:
        return None
    return (
        f"the disk of {str(out)!r} has {in_words(free)} free and may get full: this takes about "
        f"{in_words(runs * sum(needs.disk.values()))}, but {in_words(most)} at worst. A run that finds "
        "it full stops, and can be resumed"
    )


def _checkpoints(plan: Plan) -> int:
    """How many there are at the end: those at switches that stay, the newest where others come between."""
    settings, tasks = plan.spec.checkpoints, len(plan.sequence)
    at_switches = len(kept_switches(tasks, settings.keep_switches))
    between = at_switches <= tasks or len(plan.spec.reset_points(max(plan.task_steps))) > 1
    return at_switches + settings.keep * between


def _steps_per_row(spec: RunSpec) -> int:
    """Environment steps between two rows of the log; DQN writes one every four episodes."""
    return 4 * 50 if isinstance(spec.agent, DQNSpec) else spec.rollout_steps


def _snapshots(plan: Plan) -> int:
    settings = plan.spec.diagnostics
    tasks = -(-len(plan.sequence) // settings.task_interval)
    within = 0
    if settings.updates:
        within = plan.spec.gradient_updates(plan.task_steps[0]) // settings.updates
    return tasks * (len(settings.at) + within)


def _snapshot_parts(spec: RunSpec) -> int:
    return len(spec.diagnostics.spectrum.parts) or (3 if isinstance(spec.agent, PPOSpec) else 1)


def _spectra(spec: RunSpec) -> int:
    """Spectra that need a basis; measured one after the other."""
    return int(bool({"hessian", "ggn"} & set(spec.diagnostics.spectrum.operators)))


def _snapshot_bytes(spec: RunSpec) -> int:
    """Bytes of a snapshot's file: nodes and weights of its spectra, covariances of minibatch gradients."""
    settings = spec.diagnostics.spectrum
    nodes = settings.probes * settings.depth
    spectrum = 8 * nodes * (2 + 3 * settings.probes) * 3 // 2
    operators = len({"hessian", "ggn"} & set(settings.operators))
    gram = 8 * settings.gram_samples**2 if "gram" in settings.operators else 0
    return _snapshot_parts(spec) * (operators * spectrum + 8 * settings.minibatches**2 + gram) + 10_000
