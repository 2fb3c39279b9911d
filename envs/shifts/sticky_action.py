"""The controls stick: now and then the previous action is executed again."""

from typing import Any

from .base import Env, GradualShift, Reset, Step, real


class StickyAction(GradualShift):
    """With a given probability execute the action of the last environment step instead of the agent's.

    As in Machado et al. 2018 (arXiv 1709.06009, section 5.2): it is the last *executed* action that repeats,
    so stretches are geometrically distributed; the first action of an episode is never replaced. The draws
    come from the environment's own generator.

    Args:
        env: The environment.
        probability: Of repeating, at each environment step; 0 changes nothing (and draws nothing), 0.25 is
            Machado's.
        ramp: Environment steps over which the probability grows from 0; 0 is at once.
        elapsed: Environment steps of the ramp already taken.

    Raises:
        InvalidShift: A parameter is out of range.
    """

    def __init__(self, env: Env, probability: float, ramp: int = 0, elapsed: int = 0) -> None:
        super().__init__(env, probability=probability, ramp=ramp, elapsed=elapsed)
        self._full = real("probability", probability, low=0, high=1)
        self._base = env.unwrapped
        self._last: Any = None
        self._apply(self.progress)

    def _apply(self, progress: float) -> None:
        self._probability = progress * self._full

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Reset and forget the last action."""
        self._last = None
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Step:
        """Step with the agent's action or the last one."""
        sticks = self._last is not None and self._probability > 0
        if not (sticks and self._base.np_random.random() < self._probability):
            self._last = action
        return super().step(self._last)
