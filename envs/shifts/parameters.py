"""The physical parameters that can be changed, by environment family and name.

Everything is set on the instance, never on its class. Attributes whose change would have no effect, or only
on the picture, are left out: Acrobot's ``LINK_LENGTH_2`` is only drawn, its gravity is a literal in the
equations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidShift, unknown
from .base import real

Value = float | NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One physical parameter: how to read it from and write it to an unwrapped environment.

    Attributes:
        read: Return the present value, a float or a copy of an array.
        write: Set the value, and whatever is derived from it.
        relative: Whether people give it as a multiple of the environment's own value.
        high: The largest value that has an effect; all values must be > 0.
    """

    read: Callable[[Any], Value]
    write: Callable[[Any, Any], None]
    relative: bool = False
    high: float = inf

    def target(self, value: Value, own: Value) -> Value:
        """The value to write for what a person gave, where ``own`` is the environment's own."""
        return value * own if self.relative else value


def _attribute(name: str, derive: Callable[[Any], None] = lambda env: None, high: float = inf) -> Parameter:
    """A parameter that is a float attribute of the environment; ``derive`` updates what depends on it."""

    def write(env: Any, value: float) -> None:
        setattr(env, name, value)
        derive(env)

    return Parameter(lambda env: float(getattr(env, name)), write, high=high)


def _derive_cartpole(env: Any) -> None:
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length


def _write_torque(env: Any, value: float) -> None:
    env.AVAIL_TORQUE = [-value, 0.0, value]


def _write_friction(env: Any, value: Any) -> None:
    env.model.geom_friction[:, 0] = value


def _write_gravity(env: Any, value: float) -> None:
    env.model.opt.gravity[2] = -value


def _write_inertia(env: Any, value: NDArray[np.float64]) -> None:
    import mujoco

    env.model.body_mass[:], env.model.body_inertia[:] = value[:, 0], value[:, 1:]
    # The solver uses constants derived from the masses. A scratch MjData, for its state is overwritten.
    mujoco.mj_setConst(env.model, mujoco.MjData(env.model))


def _write_gain(env: Any, value: Any) -> None:
    env.model.actuator_gainprm[:, 0] = value


# The class that defines a family -> its parameters; found by name among the base classes, without MuJoCo.
PHYSICS: dict[str, dict[str, Parameter]] = {
    "CartPoleEnv": {  # m/s^2, kg, kg, m (half the pole), N
        name: _attribute(name, _derive_cartpole)
        for name in ("gravity", "masscart", "masspole", "length", "force_mag")
    },
    "AcrobotEnv": {
        "torque": Parameter(lambda env: float(env.AVAIL_TORQUE[-1]), _write_torque),  # N m, of either action
        **{
            name: _attribute(name)
            for name in (
                "LINK_LENGTH_1",
                "LINK_MASS_1",
                "LINK_MASS_2",
                "LINK_COM_POS_1",
                "LINK_COM_POS_2",
                "LINK_MOI",
            )
        },
    },
    "PendulumEnv": {
        "g": _attribute("g"),
        "m": _attribute("m"),
        "l": _attribute("l"),
        "max_torque": _attribute("max_torque", high=2.0),  # the action space, fixed before, allows no more
    },
    "MountainCarEnv": {"force": _attribute("force"), "gravity": _attribute("gravity")},
    "Continuous_MountainCarEnv": {"power": _attribute("power")},
    "MujocoEnv": {
        # Sliding friction of every geom; a contact has the larger friction of its two geoms.
        "friction": Parameter(lambda env: env.model.geom_friction[:, 0].copy(), _write_friction),
        "gravity": Parameter(
            lambda env: float(-env.model.opt.gravity[2]), _write_gravity
        ),  # m/s^2, downwards
        # Mass and inertia of every body.
        "mass_scale": Parameter(
            lambda env: np.column_stack([env.model.body_mass, env.model.body_inertia]),
            _write_inertia,
            relative=True,
        ),
        # Force per unit of control of every actuator.
        "gain_scale": Parameter(
            lambda env: env.model.actuator_gainprm[:, 0].copy(), _write_gain, relative=True
        ),
    },
}


def parameter(env: Any, name: str) -> Parameter:
    """The parameter called ``name`` of the unwrapped environment ``env``.

    Raises:
        InvalidShift: The environment has none of that name; the text lists those it has.
    """
    for cls in type(env).__mro__:
        if cls.__name__ in PHYSICS:
            family = PHYSICS[cls.__name__]
            if not isinstance(name, str) or name not in family:
                raise InvalidShift(unknown(f"physics parameter of {type(env).__name__}", name, family))
            return family[name]
    raise InvalidShift(
        f"{type(env).__name__} has no known physics parameters; those of {', '.join(PHYSICS)} are known"
    )


def checked(known: Parameter, name: str, value: Any) -> float:
    """Return ``value`` as a float if ``known`` can take it.

    Raises:
        InvalidShift: It is no finite number in (0, high].
    """
    return real(name, value, above=0, high=known.high)


def set_physics(env: Any, values: Mapping[str, float]) -> None:
    """Set parameters of the unwrapped environment ``env``, once and for all.

    Raises:
        InvalidShift: A name is unknown or a value out of range.
    """
    for name, value in values.items():
        known = parameter(env, name)
        known.write(env, known.target(checked(known, name, value), known.read(env)))
