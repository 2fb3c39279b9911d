"""The world changes: friction, gravity, a mass, a length, a force."""

from typing import Any

from ..errors import InvalidShift
from . import parameters
from .base import Env, GradualShift


class Physics(GradualShift):
    """Set one physical parameter of the environment, by its name in `pliant.envs.shifts.parameters.PHYSICS`.

    With a ramp, after the share p of it the value is ``start + p (value - start)`` (linear) or
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
        base: Any = env.unwrapped
        known = parameters.parameter(base, parameter)
        own = known.read(base)
        self._base, self._write, self._path = base, known.write, path
        self._value = known.target(parameters.checked(known, "value", value), own)
        self._start = own if start is None else known.target(parameters.checked(known, "start", start), own)
        self._apply(self.progress)

    def _apply(self, progress: float) -> None:
        if progress == 1:
            self._write(self._base, self._value)  # exactly, whatever the path rounded on the way
        elif self._path == "linear":
            self._write(self._base, self._start + progress * (self._value - self._start))
        else:
            self._write(self._base, self._start ** (1 - progress) * self._value**progress)
