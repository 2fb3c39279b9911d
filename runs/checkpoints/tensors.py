"""The tensors of an agent in a file, by name; and whether those that a file claims to hold can be its.

The names begin with ``policy/``, ``optimizer/<parameter>/``, ``mitigations/<index>/`` and ``random/``, and
with ``beside/`` for what a run keeps beside its agent. The format cannot execute code. What a file's header
says of names, shapes and types is held against the agent's own before memory is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ...agents import Agent
from ..errors import RunFolderError
from ..reading import checked_size
from .random_state import torch_random_state

_MORE = (16, 64 * 2**20)
"""What mitigations and callbacks may keep: so many times the networks, and so many bytes."""

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""By the name that safetensors gives them."""


def agent_tensors(agent: Agent) -> dict[str, Tensor]:
    """Every tensor of ``agent`` that training changes, and the random states of torch."""
    tensors = _fixed(agent)
    for index, slots in agent.policy.optimizer.state_dict()["state"].items():
        kept = {slot: value for slot, value in slots.items() if isinstance(value, Tensor)}
        tensors |= {f"optimizer/{index}/{slot}": value for slot, value in kept.items()}
    for index, mitigation in enumerate(agent.mitigations):
        tensors |= {f"mitigations/{index}/{name}": value for name, value in mitigation.tensors().items()}
    return tensors


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write them."""
    # Clones: the format refuses tensors that share memory (a shared features extractor has three names).
    cloned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    path.write_bytes(save(cloned))  # not save_file(), whose errors do not tell a full disk from others


def read_tensors(path: Path, agent: Agent, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``.

    Raises:
        RunFolderError: the header claims anything that is not of this agent.
        SafetensorError: the file is damaged.
    """
    checked_size(path, largest_tensors(agent))
    needed = {name: value for name, value in _fixed(agent).items() if name.startswith(prefix)}
    optional = _optional(agent)
    with safe_open(path, framework="pt", device="cpu") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (it is no dict)
        for name in names:
            view = file.get_slice(name)
            shape, dtype = tuple(view.get_shape()), _DTYPES.get(view.get_dtype())
            expected = needed.pop(name) if name in needed else optional.get(name)
            if expected is None:
                fits = name.startswith(("mitigations/", "beside/")) and dtype is not None
            else:
                fits = (shape, dtype) == (tuple(expected.shape), expected.dtype)
            if not fits:
                raise RunFolderError(f"its {name[:100]!r} of shape {shape} is not of this agent")
        if needed:
            raise RunFolderError(f"it has no {min(needed)!r}; so it is not of this agent")
        _require_whole_slots(names, optional)
        return {name: file.get_tensor(name) for name in names}


def largest_tensors(agent: Agent) -> int:
    """Bytes that the tensors of this agent can take in a file, its header included."""
    networks = sum(int(value.nbytes) for value in agent.policy.state_dict().values())
    own = sum(int(value.nbytes) for value in [*_fixed(agent).values(), *_optional(agent).values()])
    factor, more = _MORE
    return own + factor * networks + more


def _fixed(agent: Agent) -> dict[str, Tensor]:
    """The tensors that every checkpoint of this agent has, in these shapes and types."""
    tensors = {f"policy/{name}": value for name, value in agent.policy.state_dict().items()}
    return tensors | {f"random/{kind}": state for kind, state in torch_random_state(agent.device).items()}


def _optional(agent: Agent) -> dict[str, Tensor]:
    """The slots of the optimiser, in these shapes and types, for each parameter that it has moved."""
    found: dict[str, Tensor] = {}
    index = 0
    for group in agent.policy.optimizer.param_groups:
        for parameter in group["params"]:
            slots = _slots(agent.policy.optimizer, group, parameter)
            found |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items()}
            index += 1
    return found


def _slots(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:
    """What ``optimizer`` keeps of a parameter: seen on one update of its like by another of its kind."""
    probe = torch.nn.Parameter(torch.zeros_like(parameter))
    probe.grad = torch.zeros_like(probe)
    kind: Callable[[Any], torch.optim.Optimizer] = type(optimizer)
    twin = kind([{**group, "params": [probe]}])
    with torch.random.fork_rng(devices=[probe.device] if probe.is_cuda else []):  # some draw numbers
        twin.step()
    return {slot: value for slot, value in twin.state[probe].items() if isinstance(value, Tensor)}


def _require_whole_slots(names: list[str], optional: Mapping[str, Tensor]) -> None:
    """See that a parameter has all slots or none: an optimiser adds none to those that it finds."""
    moved = {name.rsplit("/", 1)[0] for name in names if name.startswith("optimizer/")}
    missing = {name for name in optional if name.rsplit("/", 1)[0] in moved} - set(names)
    if missing:
        raise RunFolderError(f"it has no {min(missing)!r}; so it is not of this agent")


def check_options(groups: list[dict[str, Any]], agent: Agent) -> None:
    """See that the optimiser's groups hold the same parameters, and the same options, as the agent's own.

    Raises:
        RunFolderError: they do not.
    """
    own = agent.policy.optimizer.state_dict()["param_groups"]
    same = len(groups) == len(own) and all(
        theirs.keys() == ours.keys() and theirs["params"] == ours["params"]
        for theirs, ours in zip(groups, own, strict=True)
    )
    if not same:
        raise RunFolderError("its optimiser is not that of this agent")
    for theirs, ours in zip(groups, own, strict=True):
        for name, value in ours.items():
            if not _alike(theirs[name], value):
                raise RunFolderError(f"its optimiser has {name} = {str(theirs[name])[:60]}, which cannot be")


def optimizer_state(groups: list[dict[str, Any]], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The optimiser's groups, from JSON, and slots as its ``load_state_dict`` takes them."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in below("optimizer/", tensors).items():
        index, slot = name.split("/")
        slots.setdefault(int(index), {})[slot] = value
    # JSON has no tuples; torch's optimisers unpack betas either way, but compare them as tuples.
    groups = [
        {k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in group.items()}
        for group in groups
    ]
    return {"state": slots, "param_groups": groups}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _alike(saved: Any, own: Any) -> bool:
    """Whether ``saved``, read from JSON, can stand where ``own`` stands."""
    if isinstance(own, (list, tuple)):
        return isinstance(saved, list) and len(saved) == len(own) and all(map(_alike, saved, own))
    if own is None or isinstance(own, bool):
        return saved is None or isinstance(saved, bool)
    if isinstance(own, str):
        return bool(saved == own)
    return isinstance(saved, (int, float)) and not isinstance(saved, bool)
