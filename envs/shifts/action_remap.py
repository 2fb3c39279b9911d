"""The controls are rewired: the same action now does something else."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from ..errors import InvalidShift
from .base import Env, Shift, Step, rearrangement, whole


class ActionRemap(Shift):
    """Permute the actions; continuous ones may also change their sign.

    Discrete: the agent's action a does what action ``permutation[a]`` did. Box: entry i of the executed
    action is ``signs[i]`` times entry ``permutation[i]`` of the agent's, where a sign of -1 mirrors the entry
    at the middle of its bounds.

    Args:
        env: An environment with Discrete actions, or with a bounded Box of actions whose entries have the
            same bounds.
        seed: Draws what is not given; that may change nothing: with two actions, for half of the seeds.
        permutation: The permutation, instead of a drawn one; ``[0, 1, ...]`` changes nothing.
        signs: For a Box, the signs (1 or -1), instead of drawn ones.

    Raises:
        InvalidShift: The action space is another, or ``permutation`` or ``signs`` do not fit it.
    """

    def __init__(
        self,
        env: Env,
        seed: int = 0,
        permutation: Sequence[int] | None = None,
        signs: Sequence[int] | None = None,
    ) -> None:
        super().__init__(env, seed=seed, permutation=permutation, signs=signs)
        rng = np.random.default_rng(whole("seed", seed))
        space = env.action_space
        if isinstance(space, Discrete):
            self._executed = _discrete(space, rng, permutation, signs)
        elif isinstance(space, Box):
            self._executed = _continuous(space, rng, permutation, signs)
        else:
            raise InvalidShift(f"needs Discrete or Box actions, this environment has {space}")

    def step(self, action: Any) -> Step:
        """Step with the remapped action."""
        return self.env.step(self._executed(action))


def _discrete(
    space: Discrete[Any],
    rng: np.random.Generator,
    permutation: Sequence[int] | None,
    signs: Sequence[int] | None,
) -> Callable[[Any], Any]:
    if signs is not None:
        raise InvalidShift(f"signs are for Box actions, this environment has {space}")
    size, start = int(space.n), int(space.start)
    drawn = rng.permutation(size).tolist() if permutation is None else permutation
    order = [start + entry for entry in rearrangement("permutation", drawn, size)]
    return lambda action: order[action - start]


def _continuous(
    space: Box, rng: np.random.Generator, permutation: Sequence[int] | None, signs: Sequence[int] | None
) -> Callable[[Any], Any]:
    low, high = float(space.low.min()), float(space.high.max())
    if not (np.isfinite([low, high]).all() and (space.low == low).all() and (space.high == high).all()):
        raise InvalidShift(
            f"needs a Box of actions whose entries all have the same finite bounds, got {space}"
        )
    size = int(np.prod(space.shape))
    drawn = rng.permutation(size).tolist() if permutation is None else permutation
    order = np.array(rearrangement("permutation", drawn, size)).reshape(space.shape)
    sign = rng.choice([-1, 1], size) if signs is None else np.array(signs)
    if sign.shape != (size,) or not np.isin(sign, [-1, 1]).all():
        raise InvalidShift(f"signs must be {size} entries of 1 or -1, got {signs!r}")
    sign = sign.reshape(space.shape).astype(space.dtype)
    mirror = ((1 - sign) / 2 * (low + high)).astype(space.dtype)  # 0 for bounds symmetric about 0
    return lambda action: mirror + sign * np.take(action, order)
