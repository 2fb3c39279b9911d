"""Play a recorded episode again, step by step, and hold it against the record: exactly, or say where not."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...envs import Task
from ..errors import RunError, RunFolderError
from ..folder import RunFolder
from .recording import Episode, ObservationHash, Replays, changed_versions
from .rendering import draw, make_drawn


class ReplayDiffers(RunError):
    """An episode that was played again did not go as recorded; the text says at which environment step."""


@dataclass(frozen=True)
class Moment:
    """An environment step that was played again; step 0 is the reset."""

    step: int
    action: Any
    """None at the reset."""
    reward: float
    total: float
    """The return so far."""
    frame: np.ndarray[Any, Any] | None
    """``[height, width, 3]``, uint8; None unless it was rendered."""


def replayed(task: Task, episode: Episode, render_mode: str | None = None) -> Iterator[Moment]:
    """Play ``episode`` again from its seed and actions, each step as soon as it is found equal to the record.

    Args:
        task: the recorded task.
        episode: the record.
        render_mode: ``"rgb_array"`` for frames, ``"human"`` for a window.

    Raises:
        ReplayDiffers: a reward, an observation or the end of the episode is not as recorded, bit for bit.
        RenderingError: it cannot be drawn on this machine.
    """
    env = make_drawn(task, render_mode)
    hashed = ObservationHash()

    def frame() -> np.ndarray[Any, Any] | None:
        return draw(env) if render_mode == "rgb_array" else None

    def compare(step: int, observation: Any) -> list[str]:
        if hashed.add(observation) == int(episode.hashes[step]):
            return []
        where = f"the observation after step {step}" if step else "the first observation, at the reset,"
        return [f"{where} differs{_how(episode, step, observation)}"]

    try:
        observation, _ = env.reset(seed=episode.seed)
        _require(compare(0, observation))
        yield Moment(0, None, 0.0, 0.0, frame())
        total, over = 0.0, ""
        for step, (action, recorded) in enumerate(zip(episode.actions, episode.rewards, strict=True), 1):
            if over:
                raise ReplayDiffers(
                    f"the episode is {over} after step {step - 1}, the recorded one took {episode.length}"
                )
            try:
                observation, reward, terminated, truncated, _ = env.step(action)
            except Exception as error:  # environments refuse a foreign action in whatever way they like
                raise ReplayDiffers(f"step {step}: the environment refuses {action!r}: {error!r}") from error
            differences = compare(step, observation)
            if struct.pack("d", float(reward)) != struct.pack("d", float(recorded)):
                differences.insert(
                    0, f"the reward of step {step} is {float(reward)!r}, recorded {float(recorded)!r}"
                )
            _require(differences)
            total += float(reward)
            over = "terminated" if terminated else "truncated" if truncated else ""
            yield Moment(step, action, float(reward), total, frame())
        if (over or "cut") != episode.ending:
            raise ReplayDiffers(
                f"after its last step, {episode.length}, the episode is {over or 'not over'}, recorded as "
                f"{episode.ending}"
            )
        if hashed.hexdigest() != episode.digest:
            raise ReplayDiffers("the hash of all observations differs, though that of each step does not")
    finally:
        env.close()


def difference(replays: Replays, episode: Episode) -> str:
    """Where ``episode``, played again, first differs from its record; empty if it is equal bit for bit."""
    try:
        for _ in replayed(replays.task, episode):
            pass
    except ReplayDiffers as error:
        return explained(error, replays)
    return ""


def explained(error: ReplayDiffers, replays: Replays) -> str:
    """What differs, and which package versions do."""
    changes = changed_versions(replays.versions)
    return f"{error}" + (f" ({'; '.join(changes)})" if changes else "")


def find_replays(
    folder: RunFolder,
    after_task: int | None = None,
    on_task: int | None = None,
    episode: int | None = None,
    policy: str | None = None,
    damaged: list[str] | None = None,
) -> list[tuple[Replays, Episode]]:
    """All recorded episodes that fit, each once, in order; None fits everything.

    Args:
        folder: of the run.
        after_task: of the checkpoint.
        on_task: that was played.
        episode: its number.
        policy: how actions were chosen.
        damaged: takes what is wrong with each file that cannot be read; without it the first one is an error.

    Raises:
        RunFolderError: there is none; the text says what there is and how to record more. Or a file cannot be
            read.
    """
    found: dict[tuple[int, int, int, str], tuple[Replays, Episode]] = {}
    recorded = folder.replay_files()
    for (after, on), paths in recorded.items():
        if after_task not in (None, after) or on_task not in (None, on):
            continue
        for path in paths:
            try:
                replays = Replays.load(path)
            except RunError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
                continue
            for one in replays.episodes:
                if episode in (None, one.episode) and policy in (None, one.policy):
                    found.setdefault((after, *one.key), (replays, one))
    if not found and not damaged:
        asked = {"after task": after_task, "on task": on_task, "number": episode, "policy": policy}
        words = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
        have = ", ".join(f"{after}/{on}" for after, on in recorded) or "none"
        raise RunFolderError(
            f"{str(folder.path)!r} has no recorded episode{' ' + words if words else ''}; it has those "
            f"after/on the tasks: {have}. Record more with: pliant evaluate {folder.path}"
        )
    order = {"deterministic": 0, "stochastic": 1}
    return [found[key] for key in sorted(found, key=lambda key: (*key[:2], order.get(key[3], 2), key[2]))]


def recorded_keys(
    folder: RunFolder, after_tasks: Collection[int] | None = None
) -> set[tuple[int, int, int, str]]:
    """Checkpoint, task, episode and policy of all that is recorded; of some checkpoints, or of all."""
    return {
        (after, *one.key)
        for (after, _), paths in folder.replay_files().items()
        if after_tasks is None or after in after_tasks
        for path in paths
        for one in Replays.load(path).episodes
    }


def _require(differences: list[str]) -> None:
    if differences:
        raise ReplayDiffers("; ".join(differences))


def _how(episode: Episode, step: int, observation: Any) -> str:
    """By how much an observation differs, where the recorded ones were kept."""
    if episode.observations is None or isinstance(observation, dict):
        return ""
    recorded, now = episode.observations[step], np.asarray(observation)
    if recorded.shape != now.shape:
        return f": its shape is {now.shape}, recorded {recorded.shape}"
    gaps = np.abs(now.astype(np.float64) - recorded.astype(np.float64))
    if not gaps.any():
        return " in its type or its history only"
    place = tuple(int(index) for index in np.unravel_index(int(gaps.argmax()), gaps.shape))
    return f", most in entry {place}: {now[place]!r}, recorded {recorded[place]!r}"
