"""The controls lag: what the agent does now takes effect a few environment steps later."""

from collections import deque
from typing import Any

from .base import Env, Reset, Shift, Step, whole


class ActionDelay(Shift):
    """Execute at each environment step the action that the agent chose ``delay`` environment steps before.

    Until the first action of an episode is due, it is executed early (there is no action that means "nothing"
    in every space).

    Args:
        env: The environment.
        delay: In environment steps; 0 changes nothing.

    Raises:
        InvalidShift: ``delay`` is no whole number >= 0.
    """

    def __init__(self, env: Env, delay: int) -> None:
        super().__init__(env, delay=delay)
        self._pending: deque[Any] = deque(maxlen=whole("delay", delay) + 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Reset and forget the pending actions."""
        self._pending.clear()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Step:
        """Take in the agent's action, execute the one that is due."""
        self._pending.append(action)
        return self.env.step(self._pending[0])
