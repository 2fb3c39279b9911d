"""How large things are, and whether they fit: asked before memory or disk is taken for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from ..agents.mitigations.mixture_of_experts import MOST_EXPERTS
from ..diagnostics.memory import available_bytes
from .errors import TooLarge
from .spec import ClassifierSpec, DQNSpec, PPOSpec, RunSpec

_ADVICE = {
    "replay buffer": "lower agent.buffer_size",
    "replay buffers": "lower agent.buffer_size",
    "rollout": "lower agent.n_steps or agent.n_envs",
    "networks and optimiser": "lower the widths in agent.network.hidden",
    "snapshots": "lower diagnostics.samples, or depth and probes of diagnostics.spectrum",
    "pictures of snapshots": "set diagnostics.figures=false, or raise diagnostics.task_interval",
    "checkpoints": "lower checkpoints.keep_switches",
    "logs": "raise agent.n_steps",
}


def check_sizes(spec: RunSpec, observation_space: spaces.Space[Any]) -> None:
    """Refuse an agent that this machine cannot hold, before building it is tried.

    A lower bound: the weights between hidden layers, and what is stored of each environment step.

    Raises:
        TooLarge: says what takes the most, what there is and what to do.
    """
    hidden = spec.agent.network.hidden
    weights = sum(first * second for first, second in pairwise(hidden))
    networks = (0 if isinstance(spec.agent, ClassifierSpec) else 1) + _experts(spec)
    needs = {"networks and optimiser": 4 * weights * networks}
    if rows := stored_rows(spec):
        name = "replay buffer" if isinstance(spec.agent, DQNSpec) else "rollout"
        needs[name] = rows * (item_bytes(observation_space) + 24)
    require(needs, available_memory(), "memory")


def _experts(spec: RunSpec) -> int:
    """How many networks there are in place of the one that decides; wrong settings are refused later."""
    count = spec.mitigations.get("mixture-of-experts", {}).get("experts", 1)
    return count if isinstance(count, int) and 0 < count <= MOST_EXPERTS else 1


def available_memory() -> int:
    """Bytes that can still be taken."""
    return available_bytes(torch.device("cpu"))


def require(needs: Mapping[str, int], room: int, where: str, runs: int = 1, more_advice: str = "") -> None:
    """See that ``runs`` times ``needs`` fit into ``room``; ``more_advice`` is for several runs.

    Raises:
        TooLarge: they do not.
    """
    total = runs * sum(needs.values())
    if total <= room:
        return
    largest = max(needs, key=lambda name: needs[name])
    several = f"{runs} runs need {in_words(total)} together, each " if runs > 1 else "the run needs "
    raise TooLarge(
        f"{several}{listed(needs)} of {where}, of which {in_words(room)} are free; "
        f"{_ADVICE.get(largest, 'make room')}{more_advice if runs > 1 else ''}"
    )


def stored_rows(spec: RunSpec) -> int:
    """Environment steps that the agent keeps at the same time."""
    agent = spec.agent
    if isinstance(agent, DQNSpec):
        return agent.buffer_size
    return agent.n_steps * agent.n_envs if isinstance(agent, PPOSpec) else 0


def item_bytes(space: spaces.Space[Any]) -> int:
    """Bytes of an observation, or of an action, as buffers hold it."""
    if isinstance(space, spaces.Dict):
        return sum(item_bytes(part) for part in space.values())
    return math.prod(space.shape or ()) * np.dtype(space.dtype or np.float32).itemsize


def listed(needs: Mapping[str, int]) -> str:
    """``1.2 GB (replay buffer 1.1 GB, ...)``, the largest first."""
    parts = [f"{name} {in_words(size)}" for name, size in sorted(needs.items(), key=lambda n: -n[1]) if size]
    return f"{in_words(sum(needs.values()))} ({', '.join(parts)})" if parts else in_words(0)


def in_words(size: int) -> str:
    """Bytes in powers of 1,000, as disks are sold.

    >>> in_words(999), in_words(1_500_000), in_words(2 * 10**12)
    ('999 B', '1.5 MB', '2 TB')
    """
    for exponent, unit in enumerate(("B", "kB", "MB", "GB", "TB", "PB")):
        if size < 1000 ** (exponent + 1):
            return f"{size / 1000**exponent:.3g} {unit}"
    return f"{size // 1000**6:,} EB"
