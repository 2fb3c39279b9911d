"""Checkpoints: all that an agent needs to go on, in files that cannot execute code.

::

    checkpoints/<environment steps>/
        tensors.safetensors   networks, optimiser, torch's random state, mitigations
        state.json            position in the sequence, counters, the other random states
        replay.safetensors    DQN's replay buffer (only in the newest checkpoint)
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..agents import DQN, PPO
from .errors import RunFolderError

Agent = PPO | DQN

_COUNTERS = (
    "num_timesteps",
    "gradient_updates",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "exploration_rate",
)
_REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclass(frozen=True)
class Position:
    """Where in its sequence a run stands."""

    task: int
    """Index of the task to train next, or to go on with."""
    task_steps: int
    """Environment steps of that task already done."""
    env_steps: int
    """Environment steps of the whole run."""
    beside: dict[str, Any] = field(default_factory=dict)
    """What the run keeps beside the agent, as JSON: how long its files were, what its callbacks count."""
    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    """The same, in tensors."""


def save_checkpoint(path: Path, agent: Agent, position: Position) -> None:
    """Write ``path``, whole or not at all: a folder of another name is filled, synced and renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    optimizer = agent.policy.optimizer.state_dict()
    state = {
        "position": {key: value for key, value in vars(position).items() if key != "tensors"},
        "counters": {name: getattr(agent, name) for name in _COUNTERS if hasattr(agent, name)},
        "optimizer_groups": optimizer["param_groups"],
        "mitigations": [mitigation.state() for mitigation in agent.mitigations],
        # Without "t", the time of day: equal runs have equal checkpoints.
        "episodes": [{"r": one["r"], "l": one["l"]} for one in agent.ep_info_buffer or ()],
        "successes": list(agent.ep_success_buffer or ()),
        "random": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "action_space": agent.action_space.np_random.bit_generator.state,
        },
    }
    tensors = {f"policy/{name}": value for name, value in agent.policy.state_dict().items()}
    for index, slots in optimizer["state"].items():
        tensors |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items()}
    for index, mitigation in enumerate(agent.mitigations):
        tensors |= {f"mitigations/{index}/{name}": value for name, value in mitigation.tensors().items()}
    tensors["random/torch"] = torch.get_rng_state()
    tensors |= {f"beside/{name}": value for name, value in position.tensors.items()}
    _save_tensors(tensors, temporary / "tensors.safetensors")
    (temporary / "state.json").write_text(json.dumps(state, default=_plain), encoding="utf-8")
    if isinstance(agent, DQN):
        _save_tensors(_replay_tensors(agent), temporary / "replay.safetensors")
    for file in temporary.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
    for older in path.parent.glob("*/replay.safetensors"):
        if older.parent != path:
            older.unlink()


def load_checkpoint(path: Path, agent: Agent) -> Position:
    """Put ``agent``, freshly built from the run's spec, and all global random states back as they were.

    Raises:
        RunFolderError: a file is missing or damaged, or does not fit the agent.
    """
    try:
        tensors = load_file(path / "tensors.safetensors", device=str(agent.device))
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        agent.policy.load_state_dict(_below("policy/", tensors))
        agent.policy.optimizer.load_state_dict(_optimizer_state(state["optimizer_groups"], tensors))
        for name, value in state["counters"].items():
            setattr(agent, name, value)
        for index, (mitigation, saved) in enumerate(
            zip(agent.mitigations, state["mitigations"], strict=True)
        ):
            mitigation.load_state(saved)
            mitigation.load_tensors(_below(f"mitigations/{index}/", tensors))
        agent.ep_info_buffer = deque(state["episodes"], maxlen=agent._stats_window_size)
        agent.ep_success_buffer = deque(state["successes"], maxlen=agent._stats_window_size)
        if isinstance(agent, DQN):
            _load_replay(agent, load_file(path / "replay.safetensors"))
        _restore_random(state["random"], tensors["random/torch"].cpu(), agent)
        return Position(**state["position"], tensors=_below("beside/", tensors))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise RunFolderError(f"the checkpoint {str(path)!r} cannot be used: {error}") from error


def load_networks(path: Path, agent: Agent) -> None:
    """Only the networks of a checkpoint, to look at them.

    Raises:
        RunFolderError: the file is missing or damaged, or does not fit the agent.
    """
    try:
        agent.policy.load_state_dict(
            _below("policy/", load_file(path / "tensors.safetensors", device=str(agent.device)))
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunFolderError(f"the checkpoint {str(path)!r} cannot be used: {error}") from error


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    # Clones: the format refuses tensors that share memory (a shared features extractor has three names).
    save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer_state(groups: list[dict[str, Any]], tensors: dict[str, Tensor]) -> dict[str, Any]:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _below("optimizer/", tensors).items():
        index, slot = name.split("/")
        slots.setdefault(int(index), {})[slot] = value
    # JSON has no tuples; torch's optimisers unpack betas either way, but compare them as tuples.
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in groups]
    return {"state": slots, "param_groups": groups}


def _replay_tensors(agent: DQN) -> dict[str, Tensor]:
    """The filled part of the replay buffer; Dict observations by key."""
    buffer = agent.replay_buffer
    assert buffer is not None
    filled = buffer.buffer_size if buffer.full else buffer.pos
    tensors = {"position": torch.tensor([buffer.pos, int(buffer.full)])}
    for name in _REPLAY_ARRAYS:
        array = getattr(buffer, name, None)
        for key, part in array.items() if isinstance(array, dict) else [("", array)]:
            if part is not None:
                tensors[f"{name}/{key}"] = torch.from_numpy(part[:filled])
    return tensors


def _load_replay(agent: DQN, tensors: dict[str, Tensor]) -> None:
    buffer = agent.replay_buffer
    assert buffer is not None
    position, full = tensors.pop("position").tolist()
    buffer.pos, buffer.full = position, bool(full)
    for path, tensor in tensors.items():
        name, key = path.split("/", 1)
        array = getattr(buffer, name)
        (array[key] if key else array)[: len(tensor)] = tensor.numpy()


def _restore_random(state: dict[str, Any], torch_state: Tensor, agent: Agent) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    agent.action_space.np_random.bit_generator.state = state["action_space"]
    torch.set_rng_state(torch_state)


def _plain(value: Any) -> Any:
    """What JSON does not know: numpy's and torch's scalars and arrays."""
    return value.tolist()
