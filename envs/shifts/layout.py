"""The map is fixed: every episode starts in the same layout, or in one of a few."""

from collections.abc import Sequence
from typing import Any

from gymnasium.utils import seeding

from ..errors import InvalidShift
from .base import Env, Reset, Shift, whole


class Layout(Shift):
    """Let every episode start as ``reset(seed=s)`` would, with s drawn uniformly from ``seeds``.

    In MiniGrid that fixes walls, doors, objects, the mission and the agent's start; in other environments the
    initial state. Only the start is fixed: which s comes next, and everything random within an episode
    (moving obstacles, noise, sticking actions), is governed by the seed given to ``reset``, as ever.

    Args:
        env: The environment.
        seeds: One seed per layout, at least one.

    Raises:
        InvalidShift: ``seeds`` is empty or holds something else than whole numbers >= 0.
    """

    def __init__(self, env: Env, seeds: Sequence[int]) -> None:
        super().__init__(env, seeds=seeds)
        if not isinstance(seeds, list | tuple) or not seeds:
            raise InvalidShift(f"seeds must be a list of at least one whole number, got {seeds!r}")
        self._seeds = [whole(f"seeds[{i}]", seed) for i, seed in enumerate(seeds)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Reset to one of the layouts, and give the environment its own generator back afterwards."""
        base = self.env.unwrapped
        if seed is not None:
            base._np_random, base._np_random_seed = seeding.np_random(seed)
        rng, rng_seed = base.np_random, base.np_random_seed
        chosen = self._seeds[rng.integers(len(self._seeds))] if len(self._seeds) > 1 else self._seeds[0]
        observation, info = self.env.reset(seed=chosen, options=options)
        base._np_random, base._np_random_seed = rng, rng_seed
        return observation, info
