"""What is kept of an evaluation episode, so that it can be played again and be seen to be the same.

The observations themselves are left out unless asked for. In their place stands, for the reset and each
environment step t, the beginning of ``sha256(o_0 o_1 ... o_t)``: where two episodes part is where these first
differ, and the last one, in full, is the hash of all observations.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...diagnostics.files import read_arrays, write_arrays
from ...envs import EnvError, Task
from ..errors import RunFolderError
from ..folder import installed_versions

SCHEMA_VERSION = 1
"""Of a file of replays."""

Ending = Literal["terminated", "truncated", "cut"]
"""``cut``: by the evaluation's own limit, for the environment has none."""


@dataclass(frozen=True, eq=False)
class Episode:
    """One recorded episode of T environment steps."""

    on_task: int
    episode: int
    policy: str
    seed: int
    actions: np.ndarray[Any, Any]
    """``[T, ...]``, as the environment took them."""
    rewards: np.ndarray[Any, Any]
    """``[T]``, float64."""
    hashes: np.ndarray[Any, Any]
    """``[T + 1]``, uint64; see the module."""
    digest: str
    """SHA-256 of all observations."""
    ending: Ending
    success: bool | None = None
    """None where the environment does not tell."""
    observations: np.ndarray[Any, Any] | None = None
    """``[T + 1, ...]``; only if they were asked for, and not of Dict spaces."""

    @property
    def key(self) -> tuple[int, int, str]:
        """Which of a checkpoint's episodes it is."""
        return self.on_task, self.episode, self.policy

    @property
    def length(self) -> int:
        """Environment steps."""
        return len(self.rewards)

    @cached_property
    def total(self) -> float:
        """The return: the sum of all rewards, undiscounted."""
        return float(self.rewards.sum())


class ObservationHash:
    """The running hash of an episode's observations."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, observation: Any) -> int:
        """Take one more observation; returns the first 8 bytes of the hash of all so far."""
        if isinstance(observation, dict):
            for key in sorted(observation):
                self._hash.update(key.encode())
                self._hash.update(np.asarray(observation[key]).tobytes())
        else:
            self._hash.update(np.asarray(observation).tobytes())
        return int.from_bytes(self._hash.copy().digest()[:8], "big")

    def hexdigest(self) -> str:
        """The whole hash of all so far."""
        return self._hash.hexdigest()


@dataclass(frozen=True)
class Replays:
    """The recorded episodes of one checkpoint on one task: what a file of ``replays/`` holds."""

    task: Task
    after_task: int
    on_task: int
    env_steps: int
    versions: dict[str, str]
    episodes: tuple[Episode, ...]

    def save(self, path: Path) -> None:
        """Write a compressed npz without pickles, whole or not at all; episodes stand one after the other."""
        about = {
            "schema_version": SCHEMA_VERSION,
            "task": self.task.model_dump(mode="json"),
            "after_task": self.after_task,
            "on_task": self.on_task,
            "env_steps": self.env_steps,
            "versions": self.versions,
        }
        episodes = self.episodes
        arrays: dict[str, Any] = {
            "about": np.array(json.dumps(about)),
            "episode": np.array([one.episode for one in episodes], np.int64),
            "seed": np.array([one.seed for one in episodes], np.int64),
            "length": np.array([one.length for one in episodes], np.int64),
            "policy": np.array([one.policy for one in episodes]),
            "ending": np.array([one.ending for one in episodes]),
            "success": np.array([-1 if one.success is None else one.success for one in episodes], np.int8),
            "digest": np.array([one.digest for one in episodes]),
            "actions": np.concatenate([one.actions for one in episodes]),
            "rewards": np.concatenate([one.rewards for one in episodes]),
            "hashes": np.concatenate([one.hashes for one in episodes]),
        }
        kept = [one.observations for one in episodes if one.observations is not None]
        if len(kept) == len(episodes):
            arrays["observations"] = np.concatenate(kept)
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> Replays:
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            RunFolderError: it is missing, damaged, or of a newer pliant.
        """
        try:
            arrays = read_arrays(path, "replay")
            about = json.loads(str(arrays["about"]))
            if about["schema_version"] != SCHEMA_VERSION:
                raise RunFolderError(
                    f"{str(path)!r} has schema version {about['schema_version']!r}, this pliant reads "
                    f"{SCHEMA_VERSION}; update pliant"
                )
            return cls(
                task=Task(**about["task"]),
                after_task=about["after_task"],
                on_task=about["on_task"],
                env_steps=about["env_steps"],
                versions=about["versions"],
                episodes=tuple(_episodes(arrays, about["on_task"])),
            )
        except RunFolderError:
            raise
        except EnvError as error:
            raise RunFolderError(f"{str(path)!r} has a task that cannot be: {error}") from None
        except Exception as error:  # zipfile, zlib and numpy fail on damaged files in many ways
            raise RunFolderError(f"{str(path)!r} is not a file of replays, or damaged: {error}") from error


def _episodes(arrays: dict[str, np.ndarray[Any, Any]], on_task: int) -> Sequence[Episode]:
    lengths = arrays["length"]
    ends = np.cumsum(lengths)
    ends_with_reset = np.cumsum(lengths + 1)
    if (ends[-1], ends_with_reset[-1]) != (len(arrays["rewards"]), len(arrays["hashes"])):
        raise ValueError("its arrays do not fit together")
    observations = arrays.get("observations")
    found = []
    for row, length in enumerate(lengths):
        steps = slice(ends[row] - length, ends[row])
        moments = slice(ends_with_reset[row] - length - 1, ends_with_reset[row])
        ending, success = str(arrays["ending"][row]), int(arrays["success"][row])
        assert ending in get_args(Ending)
        found.append(
            Episode(
                on_task=on_task,
                episode=int(arrays["episode"][row]),
                policy=str(arrays["policy"][row]),
                seed=int(arrays["seed"][row]),
                actions=arrays["actions"][steps],
                rewards=arrays["rewards"][steps],
                hashes=arrays["hashes"][moments],
                digest=str(arrays["digest"][row]),
                ending=ending,  # type: ignore[arg-type]
                success=None if success < 0 else bool(success),
                observations=None if observations is None else observations[moments],
            )
        )
    return found


def changed_versions(recorded: dict[str, str]) -> list[str]:
    """What is installed in another version than when the episodes were recorded, in words."""
    now = installed_versions()
    return [
        f"{package} {version} then, {now.get(package, 'not installed')} now"
        for package, version in recorded.items()
        if now.get(package) != version
    ]
