"""The world changes: friction, gravity, a mass, a length, a force."""

from typing import Any

import numpy as np

from ..errors import InvalidShift
from . import parameters
from .base import Env, GradualShift


class Physics(GradualShift):
    """Set one physical parameter of the environment, by its name in `pliant.envs.shifts.parameters.PHYSICS`.

    After the share p of the ramp the value is ``start + p (value - start)`` (linear) or
    ``start^(1 - p) value^p`` (log), entry by entry where the parameter has many (the friction of every geom).

    Args:
        env: An environment with known parameters: CartPole, Acrobot, Pendulum, MountainCar or any MuJoCo
            environment.
        parameter: Its name.
        value: The new value, > 0, in the units of the environment (a multiple, for the names that end in
            ``_scale``).
        start: The value at the first environment step of the ramp; the environment's own if not given.
        path: ``"linear"`` or ``"log"``, the way from ``start`` to ``value``.
        ramp: Environment steps from ``start`` to ``value``; 0 is at once.
        elapsed: Environment steps of the ramp already taken.

    Raises:
        InvalidShift: The environment has no such parameter, or a value is out of range.
    """

    def __init__(
        self,
        env: Env,
        parameter: str,
        value: float,
        start: float | None = None,
        path: str = "linear",
        ramp: int = 0,
        elapsed: int = 0,
    ) -> None:
        super().__init__(
            env, parameter=parameter, value=value, start=start, path=path, ramp=ramp, elapsed=elapsed
        )
        if path not in ("linear", "log"):
            raise InvalidShift(f"path must be 'linear' or 'log', got {path!r}")
        self._base: Any = env.unwrapped
        self._parameter = known = parameters.parameter(self._base, parameter)
        self._own = known.read(self._base)
        self._path = path
        self._value = parameters.checked(known, "value", value)
        if start is not None:
            self._start: parameters.Value = parameters.checked(known, "start", start)
        else:
            self._start = 1.0 if known.relative else self._own
        if path == "log" and not np.all(np.greater(self._start, 0)):
            raise InvalidShift(f"path = 'log' needs a start > 0, the environment has {self._start}")
        self._apply(self.progress)

    def _apply(self, progress: float) -> None:
        if self._path == "linear":
            value = (1 - progress) * self._start + progress * self._value
        else:
            value = self._start ** (1 - progress) * self._value**progress
        self._parameter.write(self._base, self._parameter.target(value, self._own))
