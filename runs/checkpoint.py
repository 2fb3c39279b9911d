"""Checkpoints: all that an agent needs to go on, in files that cannot execute code.

::

    checkpoints/<environment steps>/
        tensors.safetensors   networks, optimiser, mitigations, torch's random states
        state.json            run, position in the sequence, counters, the other random states
        replay.npz            DQN's replay buffer (only in the newest two checkpoints)
        checksums.json        size and SHA-256 of each of these; written last

A checkpoint appears whole or not at all. When it is read, everything in it is compared with what the agent
needs, names, shapes, types and sizes, before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from ..agents import DQN, PPO
from .errors import DamagedFile, RunFolderError
from .random_state import (
    RandomState,
    random_state,
    restore_random_state,
    restore_torch_random_state,
    torch_random_state,
)
from .reading import checked_size, read_text
from .replay_buffer import largest_file, load_replay_buffer, save_replay_buffer

Agent = PPO | DQN

SCHEMA_VERSION = 2
"""Of a checkpoint. The first had no checksums."""

_TENSORS, _STATE, _REPLAY, _CHECKSUMS = (
    "tensors.safetensors",
    "state.json",
    "replay.npz",
    "checksums.json",
)
_LARGEST_STATE = 16 * 2**20
_LARGEST_CHECKSUMS = 2**16
_REPLAYS_KEPT = 2
"""So that there is one left to return to when the newest checkpoint is damaged."""

_COUNTERS = (
    "num_timesteps",
    "gradient_updates",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "exploration_rate",
)
_SLOTS = 8
"""More tensors per parameter than any optimiser keeps (Adam: two moments, a maximum, a count)."""
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


# Writing -----------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, agent: Agent, position: Position, run: str = "") -> None:
    """Write ``path``, whole or not at all: a folder of another name is filled, synced and renamed.

    Args:
        path: of the checkpoint's folder. Its siblings are checkpoints of the same run, and nobody else writes
            there: what an earlier process left half-written is removed.
        agent: whose state it is.
        position: where the run stands.
        run: the id of the run; a checkpoint of another run is refused when it is loaded.

    Raises:
        RunFolderError: the disk is full, the folder is gone or cannot be written. The earlier checkpoints are
            as they were.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        for stale in path.parent.glob(".*"):
            _remove(stale)
        temporary.mkdir(parents=True)
        _write_files(temporary, agent, position, run)
        _sync(temporary)
        if path.exists():
            path.rename(path.with_name(f".{path.name}.replaced"))
        temporary.rename(path)
        _sync(path.parent)
        for stale in path.parent.glob(".*"):
            _remove(stale)
        for older in sorted(path.parent.glob(f"*/{_REPLAY}"))[:-_REPLAYS_KEPT]:
            older.unlink()
    except (OSError, SafetensorError) as error:
        _remove(temporary)
        raise RunFolderError(
            f"the checkpoint {str(path)!r} cannot be written: {_reason(error)}; those before it are as they "
            "were. Make room, or make the folder writable again, and go on with --resume"
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def _write_files(folder: Path, agent: Agent, position: Position, run: str) -> None:
    optimizer = agent.policy.optimizer.state_dict()
    tensors = {f"policy/{name}": value for name, value in agent.policy.state_dict().items()}
    for index, slots in optimizer["state"].items():
        tensors |= {f"optimizer/{index}/{slot}": value for slot, value in slots.items()}
    tensors |= {f"random/{kind}": state for kind, state in torch_random_state(agent.device).items()}
    for index, mitigation in enumerate(agent.mitigations):
        tensors |= {f"mitigations/{index}/{name}": value for name, value in mitigation.tensors().items()}
    tensors |= {f"beside/{name}": value for name, value in position.tensors.items()}
    state = {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "position": {key: value for key, value in vars(position).items() if key != "tensors"},
        "counters": {name: getattr(agent, name) for name in _COUNTERS if hasattr(agent, name)},
        "optimizer_groups": optimizer["param_groups"],
        "mitigations": [mitigation.state() for mitigation in agent.mitigations],
        # Without "t", the time of day: equal runs have equal checkpoints.
        "episodes": [{"r": one["r"], "l": one["l"]} for one in agent.ep_info_buffer or ()],
        "successes": list(agent.ep_success_buffer or ()),
        "random": random_state(agent.action_space),
    }
    # Clones: the format refuses tensors that share memory (a shared features extractor has three names).
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        folder / _TENSORS,
    )
    (folder / _STATE).write_text(json.dumps(state, default=_plain), encoding="utf-8")
    if (buffer := _replay_buffer(agent)) is not None:
        save_replay_buffer(buffer, folder / _REPLAY)
    written = sorted(folder.iterdir())
    for file in written:
        _sync(file)
    files = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in written}
    checksums = folder / _CHECKSUMS
    checksums.write_text(json.dumps({"schema_version": SCHEMA_VERSION, "files": files}), encoding="utf-8")
    _sync(checksums)


def _sync(path: Path) -> None:
    """Have the file, or the names in the folder, on the disk before anything else is done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _plain(value: Any) -> Any:
    """What JSON does not know: numpy's scalars and arrays."""
    return value.tolist()


# Reading -----------------------------------------------------------------------------------------------


def load_newest(paths: Sequence[Path], agent: Agent, run: str = "") -> tuple[Position, list[str]]:
    """Put ``agent`` back to the newest checkpoint that can be used.

    Args:
        paths: the run's checkpoints, oldest first.
        agent: freshly built from the run's spec.
        run: the id of the run.

    Returns:
        Where the run stood, and what was wrong with each newer checkpoint, in words.

    Raises:
        RunFolderError: none can be used; the text says of each why.
    """
    damaged: list[str] = []
    for path in reversed(paths):
        try:
            return load_checkpoint(path, agent, run), damaged
        except RunFolderError as error:
            damaged.append(str(error))
    raise RunFolderError(
        "\n  ".join(["there is no checkpoint that can be used; start the run anew", *damaged])
    )


def load_checkpoint(path: Path, agent: Agent, run: str = "") -> Position:
    """Put ``agent``, freshly built from the run's spec, and all global random states back as they were.

    Raises:
        DamagedFile: a file is missing or damaged.
        RunFolderError: it belongs to another run, or to another agent.
    """
    with _named(path):
        _verify(path, [_TENSORS, _STATE, *([_REPLAY] if _replay_buffer(agent) else [])], agent)
        state = _State.model_validate_json(read_text(path / _STATE, _LARGEST_STATE))
        tensors = _read_tensors(path / _TENSORS, agent)
        state.check(path, agent, run)
        _check_optimizer(state.optimizer_groups, tensors, agent)
        if (buffer := _replay_buffer(agent)) is not None:
            load_replay_buffer(buffer, path / _REPLAY)

        agent.policy.load_state_dict(_below("policy/", tensors))
        agent.policy.optimizer.load_state_dict(_optimizer_state(state.optimizer_groups, tensors))
        for name, value in state.counters.items():
            setattr(agent, name, value)
        for index, (mitigation, saved) in enumerate(zip(agent.mitigations, state.mitigations, strict=True)):
            mitigation.load_state(saved)
            mitigation.load_tensors(_below(f"mitigations/{index}/", tensors))
        agent.ep_info_buffer = deque(state.episodes, maxlen=agent._stats_window_size)
        agent.ep_success_buffer = deque(state.successes, maxlen=agent._stats_window_size)
        restore_random_state(state.random, agent.action_space)
        restore_torch_random_state(_below("random/", tensors), agent.device)
        return Position(**state.position.model_dump(), tensors=_below("beside/", tensors))


def load_networks(path: Path, agent: Agent) -> None:
    """Only the networks of a checkpoint, to look at them; of a checkpoint without checksums, too.

    Raises:
        DamagedFile: the file is missing or damaged.
        RunFolderError: it belongs to another agent.
    """
    with _named(path):
        if (path / _CHECKSUMS).exists():
            _verify(path, [_TENSORS], agent)
        agent.policy.load_state_dict(_below("policy/", _read_tensors(path / _TENSORS, agent, "policy/")))


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Position(_Record):
    task: NonNegativeInt
    task_steps: NonNegativeInt
    env_steps: NonNegativeInt
    beside: dict[str, Any]


class _State(_Record):
    """What ``state.json`` holds."""

    schema_version: Literal[2]
    run: str
    position: _Position
    counters: dict[str, NonNegativeInt | Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    optimizer_groups: list[dict[str, Any]]
    mitigations: list[dict[str, Any]]
    episodes: list[dict[Literal["r", "l"], float | int]]
    successes: list[float | int | bool]
    random: RandomState

    def check(self, path: Path, agent: Agent, run: str) -> None:
        """See that it is the state of this agent, in this run, at this step.

        Raises:
            RunFolderError: it is not.
        """
        if self.run != run:
            raise RunFolderError(f"it belongs to the run {self.run!r}, not to {run!r}")
        if re.fullmatch(r"\d{12,}", path.name) and int(path.name) != self.position.env_steps:
            raise RunFolderError(f"it was saved after {self.position.env_steps:,} environment steps")
        if set(self.counters) != {name for name in _COUNTERS if hasattr(agent, name)}:
            raise RunFolderError(f"it counts {', '.join(sorted(self.counters))}; so it is of another agent")
        if len(self.mitigations) != len(agent.mitigations):
            raise RunFolderError(
                f"it has {len(self.mitigations)} mitigations, the agent {len(agent.mitigations)}"
            )


class _File(_Record):
    bytes: NonNegativeInt
    sha256: str


class _Checksums(_Record):
    schema_version: Literal[2]
    files: dict[str, _File]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever is wrong within the block is said of this checkpoint."""
    text = f"the checkpoint {str(path)!r} cannot be used: "
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DamagedFile(f"{text}{error.title.strip('_')}: {where}: {first['msg']}") from None
    except FileNotFoundError as error:
        raise DamagedFile(f"{text}it has no {Path(error.filename).name}") from None
    except RunFolderError as error:
        raise type(error)(text + str(error)) from error
    except KeyError as error:
        raise DamagedFile(f"{text}it has no {error}") from error
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DamagedFile(f"{text}{type(error).__name__}: {error}") from error


def _verify(path: Path, names: Sequence[str], agent: Agent) -> None:
    """See that the files are regular ones, no larger than this agent needs, and what was written."""
    for folder in (path.parent, path):
        if folder.is_symlink():
            raise DamagedFile(f"{str(folder)!r} is a symbolic link, which is not followed")
    if not (path / _CHECKSUMS).exists() and (path / _STATE).exists():
        raise RunFolderError(
            "it carries no checksums: it was written by an earlier pliant, or is not whole. Its networks can "
            "be measured and evaluated, but training cannot go on from it; start the run anew"
        )
    checksums = _Checksums.model_validate_json(read_text(path / _CHECKSUMS, _LARGEST_CHECKSUMS))
    for name in names:
        size = checked_size(path / name, _largest(name, agent))
        written = checksums.files.get(name)
        if written is None or size != written.bytes or _sha256(path / name) != written.sha256:
            raise DamagedFile(f"{name} is not what was written: its checksum differs")


def _largest(name: str, agent: Agent) -> int:
    if name == _TENSORS:
        return _largest_tensors(agent)
    buffer = _replay_buffer(agent)
    return largest_file(buffer) if name == _REPLAY and buffer is not None else _LARGEST_STATE


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_tensors(path: Path, agent: Agent, prefix: str = "") -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, after a look at what the header says of them."""
    checked_size(path, _largest_tensors(agent))
    needed = {f"policy/{name}": value for name, value in agent.policy.state_dict().items()}
    needed |= {f"random/{kind}": state for kind, state in torch_random_state(agent.device).items()}
    needed = {name: value for name, value in needed.items() if name.startswith(prefix)}
    parameters = [p for group in agent.policy.optimizer.param_groups for p in group["params"]]
    with safe_open(path, framework="pt", device="cpu") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (it is no dict)
        for name in names:
            view = file.get_slice(name)
            shape, dtype = tuple(view.get_shape()), _DTYPES.get(view.get_dtype())
            if name in needed:
                expected = needed.pop(name)
                fits = (shape, dtype) == (tuple(expected.shape), expected.dtype)
            elif match := re.fullmatch(r"optimizer/(\d{1,9})/\w+", name):
                index = int(match[1])
                fits = index < len(parameters) and shape in ((), tuple(parameters[index].shape))
            else:
                fits = name.startswith(("mitigations/", "beside/"))
            if not fits or dtype is None:
                raise RunFolderError(f"its {name!r} of shape {shape} is not of this agent")
        if needed:
            raise RunFolderError(f"it has no {min(needed)!r}; so it is not of this agent")
        return {name: file.get_tensor(name) for name in names}


def _largest_tensors(agent: Agent) -> int:
    """Bytes that the tensors of this agent can take in a file; its header included."""
    policy = list(agent.policy.state_dict().values())
    networks = sum(int(value.nbytes) for value in policy)
    factor, more = _MORE
    return (1 + _SLOTS + factor) * networks + more + 2**20


def _check_optimizer(groups: list[dict[str, Any]], tensors: Mapping[str, Tensor], agent: Agent) -> None:
    """See that the groups hold the same parameters and the same options as the agent's own."""
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


def _alike(saved: Any, own: Any) -> bool:
    """Whether ``saved``, read from JSON, can stand where ``own`` stands."""
    if isinstance(own, (list, tuple)):
        return isinstance(saved, list) and len(saved) == len(own) and all(map(_alike, saved, own))
    if own is None or isinstance(own, bool):
        return saved is None or isinstance(saved, bool)
    return isinstance(saved, (int, float)) and not isinstance(saved, bool)


def _optimizer_state(groups: list[dict[str, Any]], tensors: dict[str, Tensor]) -> dict[str, Any]:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _below("optimizer/", tensors).items():
        index, slot = name.split("/")
        slots.setdefault(int(index), {})[slot] = value
    # JSON has no tuples; torch's optimisers unpack betas either way, but compare them as tuples.
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in groups]
    return {"state": slots, "param_groups": groups}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _replay_buffer(agent: Agent) -> ReplayBuffer | None:
    return agent.replay_buffer if isinstance(agent, DQN) else None
