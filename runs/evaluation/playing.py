"""Play episodes side by side: an environment each, one forward pass for all of them, everything recorded."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...agents import Agent
from ...agents.distributions import unchecked_distributions
from ...agents.randomness import isolated_randomness
from ...envs import InvalidShift, Stream, Task, make_env
from ...envs.minigrid import is_minigrid
from .acting import Actor, PolicyName, evaluation_mode
from .recording import Ending, Episode, ObservationHash

SIDE_BY_SIDE = 64
"""Environments alive at once. A forward pass costs hardly more for 64 rows than for one."""

_AT_ONCE = 256
"""Observations of one forward pass where those to come are known."""


@dataclass(frozen=True)
class Assignment:
    """An episode to be played."""

    on_task: int
    episode: int
    policy: PolicyName
    seed: int
    """Of the environment's reset; with ``policy`` also of the actions that are drawn."""

    @property
    def key(self) -> tuple[int, int, str]:
        """Which of a checkpoint's episodes it is."""
        return self.on_task, self.episode, self.policy


def play(
    agent: Agent,
    tasks: Sequence[Task],
    wanted: Sequence[Assignment],
    *,
    max_length: int,
    observations: bool = False,
) -> list[Episode]:
    """Play ``wanted`` with the agent's present policy, in the order given.

    Each episode depends on the networks, its task and its seed, not on what is played beside it. Nothing of
    the agent, its environments or any global random state is different afterwards.

    Args:
        agent: whose policy acts.
        tasks: the sequence that ``on_task`` counts in; each in its final form, with all ramps over.
        wanted: the episodes.
        max_length: environment steps after which an episode is cut.
        observations: whether to keep them.
    """
    played: dict[int, Episode] = {}
    with isolated_randomness(0), evaluation_mode(agent), unchecked_distributions():
        for policy in dict.fromkeys(assignment.policy for assignment in wanted):
            actor = Actor(agent, policy)
            waiting = deque(index for index, one in enumerate(wanted) if one.policy == policy)
            playing: list[tuple[int, _Playing]] = []
            try:
                while waiting or playing:
                    while waiting and len(playing) < SIDE_BY_SIDE:
                        index = waiting.popleft()
                        task = tasks[wanted[index].on_task]
                        playing.append((index, _Playing(task, wanted[index], max_length, observations)))
                        if playing[-1][1].play_through(actor):
                            played[index] = playing[-1][1].finish()
                            playing.pop()
                    if not playing:
                        continue
                    actions = actor.act(
                        [one.observation for _, one in playing], [one.generator for _, one in playing]
                    )
                    for (index, one), action in zip(playing, actions, strict=True):
                        if one.step(action):
                            played[index] = one.finish()
                    playing = [(index, one) for index, one in playing if index not in played]
            finally:
                for _, one in playing:  # only after an error
                    one.env.close()
    return [played[index] for index in range(len(wanted))]


class _Playing:
    """An episode that is being played."""

    def __init__(self, task: Task, assignment: Assignment, max_length: int, keep: bool) -> None:
        self.assignment = assignment
        self.max_length = max_length
        # New for each episode: no environment promises that a reset leaves nothing behind.
        self.env = make_env(task, elapsed=task.length)
        self.generator = np.random.default_rng(assignment.seed)
        self.observation: Any
        self.observation, _ = self.env.reset(seed=assignment.seed)
        self._hash = ObservationHash()
        self._hashes = [self._hash.add(self.observation)]
        keep = keep and not isinstance(self.observation, dict)
        self._observations = [np.array(self.observation)] if keep else None
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._ending: Ending = "cut"
        self._info: dict[str, Any] = {}

    def play_through(self, actor: Actor) -> bool:
        """Play the whole episode if its observations are known beforehand; returns whether they were.

        Those of a supervised stream are, for actions change nothing: one forward pass then serves for
        hundreds of environment steps.
        """
        stream = self.env.unwrapped
        if not isinstance(stream, Stream):
            return False
        try:
            inputs = self.env.get_wrapper_attr("samples").inputs
        except InvalidShift:  # such as noise: what is shown next is not known
            return False
        coming = stream.order[: self.max_length]
        for start in range(0, len(coming), _AT_ONCE):
            shown = inputs[coming[start : start + _AT_ONCE]]
            for action in actor.act(shown, [self.generator] * len(shown)):
                if self.step(action):
                    return True
        raise AssertionError("an episode of a stream ends with its samples")

    def step(self, action: Any) -> bool:
        """Take one environment step; returns whether the episode is over."""
        self._actions.append(np.array(action))
        self.observation, reward, terminated, truncated, self._info = self.env.step(action)
        self._rewards.append(float(reward))
        self._hashes.append(self._hash.add(self.observation))
        if self._observations is not None:
            self._observations.append(np.array(self.observation))
        if terminated or truncated:
            self._ending = "terminated" if terminated else "truncated"
            return True
        return len(self._rewards) >= self.max_length

    def finish(self) -> Episode:
        """Close the environment and give the record."""
        rewards = np.array(self._rewards, np.float64)
        success = _success(self.env, self._info, float(rewards.sum()))
        self.env.close()
        return Episode(
            on_task=self.assignment.on_task,
            episode=self.assignment.episode,
            policy=self.assignment.policy,
            seed=self.assignment.seed,
            actions=np.array(self._actions),
            rewards=rewards,
            hashes=np.array(self._hashes, np.uint64),
            digest=self._hash.hexdigest(),
            ending=self._ending,
            success=success,
            observations=None if self._observations is None else np.array(self._observations),
        )


def _success(env: Any, info: dict[str, Any], total: float) -> bool | None:
    """What the last step's info says, or for MiniGrid whether anything was won; None where nobody knows."""
    for name in ("is_success", "success"):
        if name in info:
            return bool(info[name])
    return total > 0 if is_minigrid(env) else None
