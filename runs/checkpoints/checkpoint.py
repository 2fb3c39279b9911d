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

import errno
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from safetensors import SafetensorError
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from ...agents import DQN, Agent
from ..errors import DamagedFile, DiskFull, RunFolderError
from ..reading import checked_size, read_text
from .random_state import (
    RandomState,
    random_state,
    restore_random_state,
    restore_torch_random_state,
)
from .replay_buffer import largest_file, load_replay_buffer, save_replay_buffer
from .tensors import (
    agent_tensors,
    below,
    check_options,
    largest_tensors,
    optimizer_state,
    read_tensors,
    save_tensors,
)

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
        DiskFull: there is no room for it. The earlier checkpoints are as they were.
        RunFolderError: the folder is gone, or cannot be written. The same holds.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        for stale in path.parent.glob(".*"):
            _remove(stale)
        path.parent.mkdir(exist_ok=True)  # its parent is the run folder: if that is gone, it stays gone
        temporary.mkdir()
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
    except OSError as error:
        _remove(temporary)
        text = (
            f"the checkpoint {str(path)!r} cannot be written: {error.strerror}; those before it are untouched"
        )
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{text}. Make room, and go on with --resume") from error
        raise RunFolderError(
            f"{text}. Put the folder back, or make it writable, and go on with --resume"
        ) from error
    except BaseException:
        _remove(temporary)
        raise


def _write_files(folder: Path, agent: Agent, position: Position, run: str) -> None:
    state = {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "position": {key: value for key, value in vars(position).items() if key != "tensors"},
        "counters": {name: getattr(agent, name) for name in _COUNTERS if hasattr(agent, name)},
        "optimizer_groups": agent.policy.optimizer.state_dict()["param_groups"],
        "mitigations": [mitigation.state() for mitigation in agent.mitigations],
        # Without "t", the time of day: equal runs have equal checkpoints.
        "episodes": [{"r": one["r"], "l": one["l"]} for one in agent.ep_info_buffer or ()],
        "successes": list(agent.ep_success_buffer or ()),
        "random": random_state(agent.action_space),
    }
    beside = {f"beside/{name}": value for name, value in position.tensors.items()}
    save_tensors(agent_tensors(agent) | beside, folder / _TENSORS)
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
        tensors = read_tensors(path / _TENSORS, agent)
        state.check(path, agent, run)
        check_options(state.optimizer_groups, agent)
        if (buffer := _replay_buffer(agent)) is not None:
            load_replay_buffer(buffer, path / _REPLAY)

        agent.policy.load_state_dict(below("policy/", tensors))
        agent.policy.optimizer.load_state_dict(optimizer_state(state.optimizer_groups, tensors))
        for name, value in state.counters.items():
            setattr(agent, name, value)
        for index, (mitigation, saved) in enumerate(zip(agent.mitigations, state.mitigations, strict=True)):
            mitigation.load_state(saved)
            mitigation.load_tensors(below(f"mitigations/{index}/", tensors))
        agent.ep_info_buffer = deque(state.episodes, maxlen=agent._stats_window_size)
        agent.ep_success_buffer = deque(state.successes, maxlen=agent._stats_window_size)
        restore_random_state(state.random, agent.action_space)
        restore_torch_random_state(below("random/", tensors), agent.device)
        return Position(**state.position.model_dump(), tensors=below("beside/", tensors))


def load_networks(path: Path, agent: Agent, *, optimizer: bool = False) -> None:
    """Only the networks of a checkpoint, to look at them; of a checkpoint without checksums, too.

    Args:
        path: of the checkpoint.
        agent: whose networks they become.
        optimizer: load the optimiser and the counters as well; this needs the checksums.

    Raises:
        DamagedFile: the file is missing or damaged.
        RunFolderError: it belongs to another agent.
    """
    with _named(path):
        if optimizer or (path / _CHECKSUMS).exists():
            _verify(path, [_TENSORS, *([_STATE] if optimizer else [])], agent)
        tensors = read_tensors(path / _TENSORS, agent, "" if optimizer else "policy/")
        if optimizer:
            state = _State.model_validate_json(read_text(path / _STATE, _LARGEST_STATE))
            check_options(state.optimizer_groups, agent)
            agent.policy.optimizer.load_state_dict(optimizer_state(state.optimizer_groups, tensors))
            for name in ("num_timesteps", "_n_updates"):
                setattr(agent, name, state.counters[name])
        agent.policy.load_state_dict(below("policy/", tensors))


def load_initial(path: Path, agent: Agent) -> None:
    """The networks in ``path``, for an agent that begins with those of another.

    Raises:
        DamagedFile: the file is missing or damaged.
        RunFolderError: it belongs to another agent.
    """
    with _named(path):
        agent.policy.load_state_dict(below("policy/", read_tensors(path, agent, "policy/")))


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
    text = f"{'the checkpoint ' if path.suffix == '' else ''}{str(path)!r} cannot be used: "
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
        return largest_tensors(agent)
    buffer = _replay_buffer(agent)
    return largest_file(buffer) if name == _REPLAY and buffer is not None else _LARGEST_STATE


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replay_buffer(agent: Agent) -> ReplayBuffer | None:
    return agent.replay_buffer if isinstance(agent, DQN) else None
