"""What all shifts share: recorded parameters, gradual change, checks of parameters and of spaces."""

from abc import ABC, abstractmethod
from dataclasses import replace
from math import inf, isfinite
from typing import Any, SupportsFloat, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.utils import RecordConstructorArgs

from ..errors import InvalidShift

Env: TypeAlias = gymnasium.Env[Any, Any]
Step: TypeAlias = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]
Reset: TypeAlias = tuple[Any, dict[str, Any]]


class Shift(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """One change of an environment, a pure function of its constructor's parameters.

    A subclass hands every parameter on to ``super().__init__``, which records it, so that
    ``gymnasium.make(env.spec)`` builds the same environment again. What is drawn once (a permutation, an
    offset) comes from the shift's own ``seed``; what is drawn at every step comes from the environment's
    ``np_random``, which ``reset(seed=...)`` governs.

    Observation shifts leave shape and dtype alone and declare the space of `unbounded`, the same whatever is
    drawn, so that differently shifted tasks have equal spaces.
    """

    def __init__(self, env: Env, **parameters: Any) -> None:
        RecordConstructorArgs.__init__(self, **parameters)
        gymnasium.Wrapper.__init__(self, env)

    @property
    def samples(self) -> Any:
        """The samples of a supervised stream (`pliant.envs.Samples`) with this shift applied to their inputs.

        Raises:
            AttributeError: The environment is no stream.
            InvalidShift: The shift does not only change observations, each in the same way at all times.
        """
        samples = self.env.get_wrapper_attr("samples")
        inputs = self._shifted(samples.inputs)
        inputs.flags.writeable = False
        return replace(samples, inputs=inputs)

    def _shifted(self, inputs: Any) -> Any:
        """Observations ``[N, *shape]`` with the shift; overridden where it needs neither state nor time."""
        raise InvalidShift(
            f"{type(self).__name__} is more than one and the same change of every observation, so an agent "
            "that draws minibatches from a data set cannot have it: leave it out, or train an agent that "
            "acts step by step"
        )


class GradualShift(Shift, ABC):
    """A shift that can grow, linearly, from nothing at the first environment step to its full size.

    After t environment steps the ``progress`` is ``min(1, (elapsed + t) / ramp)``, or 1 throughout if
    ``ramp`` is 0: an abrupt shift. Resets do not turn it back.

    Args:
        env: The environment.
        ramp: Environment steps from nothing to everything; 0 is an abrupt shift.
        elapsed: Environment steps that count as already taken, for an environment that is built again in
            mid-task.
        **parameters: The other parameters of the shift, to be recorded.
    """

    def __init__(self, env: Env, *, ramp: int, elapsed: int, **parameters: Any) -> None:
        super().__init__(env, ramp=ramp, elapsed=elapsed, **parameters)
        self._ramp = whole("ramp", ramp)
        self._elapsed = whole("elapsed", elapsed)

    @property
    def progress(self) -> float:
        """How much of the shift is in force, from 0 to 1."""
        return min(1.0, self._elapsed / self._ramp) if self._ramp else 1.0

    def _settled(self) -> None:
        """Refuse to shift all samples at once while the shift is growing.

        Raises:
            InvalidShift: The ramp is not over.
        """
        if self.progress < 1:
            raise InvalidShift(
                f"{type(self).__name__} grows over {self._ramp} environment steps, but an agent that draws "
                "minibatches from a data set has all samples at once: instead of ramp give it many short "
                "tasks, each with a little more of the shift"
            )

    @abstractmethod
    def _apply(self, progress: float) -> None:
        """Put this much of the shift in force. A subclass calls it once at the end of its constructor."""

    def step(self, action: Any) -> Step:
        """Move on by one environment step, growing the shift before it."""
        if self._elapsed < self._ramp:
            self._elapsed += 1
            self._apply(self.progress)
        return self.env.step(action)


_LARGEST = 1e30


def real(name: str, value: Any, *, low: float = -inf, above: float = -inf, high: float = inf) -> float:
    """Return ``value`` as a float if it is finite, >= ``low``, > ``above`` and <= ``high``.

    Finite in float32, too, a few times over: not larger than 1e30.

    Raises:
        InvalidShift: It is not.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if number and -_LARGEST <= value <= _LARGEST and low <= value <= high and value > above:
        return float(value)
    limits = [(" >= ", low), (" > ", above), (" <= ", high)]
    expected = " and".join(f"{sign}{limit:g}" for sign, limit in limits if isfinite(limit))
    raise InvalidShift(f"{name} must be a finite number{expected}, got {value!r}")


def whole(name: str, value: Any, *, low: int = 0) -> int:
    """Return ``value`` as an int if it is a whole number of at least ``low``.

    Raises:
        InvalidShift: It is not.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= low:
        return int(value)
    raise InvalidShift(f"{name} must be a whole number >= {low}, got {value!r}")


def rearrangement(name: str, value: Any, size: int) -> list[int]:
    """Return ``value`` as a list of ints if it holds each of 0, ..., size - 1 once.

    Raises:
        InvalidShift: It does not.
    """
    entries = list(value) if isinstance(value, list | tuple | np.ndarray) else []
    if all(isinstance(entry, int | np.integer) for entry in entries) and sorted(entries) == list(range(size)):
        return [int(entry) for entry in entries]
    raise InvalidShift(f"{name} must hold each of 0, ..., {size - 1} once, got {value!r}")


def box(env: Env, *, floating: bool) -> Box:
    """Return the observation space of ``env`` if it is a Box (of floats, if ``floating``).

    Raises:
        InvalidShift: It is not.
    """
    space = env.observation_space
    if isinstance(space, Box) and not (floating and space.dtype.kind != "f"):
        return space
    raise InvalidShift(
        f"needs observations in a Box{' of floats' if floating else ''}, this environment has {space}"
    )


def unbounded(space: Box) -> Space[Any]:
    """The space that shifted observations are declared to lie in, whatever the shift has drawn.

    Floats: no bounds. Integers, which can only be permuted: the smallest and the largest bound of any entry.
    """
    dtype: Any = space.dtype  # Box would read a plain np.dtype as Any anyway
    if space.dtype.kind == "f":
        return Box(-np.inf, np.inf, space.shape, dtype)
    return Box(space.low.min(), space.high.max(), space.shape, dtype)
