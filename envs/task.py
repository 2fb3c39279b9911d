"""A task: an environment, how it is shifted, and for how long it is trained on."""

from inspect import Parameter, signature
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from .errors import InvalidShift, plain, unknown
from .shifts import SHIFTS, GradualShift
from .shifts.base import Env


class _Record(BaseModel):
    """A frozen pydantic model that is hashable whatever its fields hold."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    def __hash__(self) -> int:
        return hash((type(self), _hashable(self.model_dump())))


def _hashable(value: Any) -> Any:
    """Equal values give equal results, as a hash demands: 1 and 1.0, tables in another order."""
    if isinstance(value, dict):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    return value


class ShiftSpec(_Record):
    """A shift by its name in `SHIFTS`; all other keys are the parameters of its wrapper.

    >>> ShiftSpec.model_validate({"type": "reward-scale", "scale": -1.0}).parameters
    {'scale': -1.0}
    """

    model_config = ConfigDict(extra="allow")

    type: str

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return plain(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _check(self) -> "ShiftSpec":
        if self.type not in SHIFTS:
            raise InvalidShift(unknown("shift", self.type, SHIFTS))
        known = {
            name: parameter
            for name, parameter in signature(SHIFTS[self.type]).parameters.items()
            if name != "env"
        }
        for name in self.parameters:
            if name not in known:
                raise InvalidShift(unknown(f"parameter of {self.type}", name, known))
        for name, parameter in known.items():
            if parameter.default is Parameter.empty and name not in self.parameters:
                raise InvalidShift(f"{self.type} needs the parameter {name!r}")
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the wrapper, besides the environment."""
        return dict(self.model_extra or {})

    def apply(self, env: Env, *, copies: int = 1, elapsed: int = 0) -> Env:
        """Wrap ``env``; for ``copies`` and ``elapsed`` see `make_env`.

        Raises:
            InvalidShift: The shift does not fit the environment, or a parameter is out of range.
        """
        parameters, wrapper = self.parameters, SHIFTS[self.type]
        if issubclass(wrapper, GradualShift):
            ramp = parameters.get("ramp", 0)
            if isinstance(ramp, int) and (copies, elapsed) != (1, 0):
                parameters |= {"ramp": -(-ramp // copies), "elapsed": elapsed // copies}
        try:
            return wrapper(env, **parameters)
        except InvalidShift as error:
            raise InvalidShift(f"{self.type}: {error}") from None


class Task(_Record):
    """One task of a continual-learning sequence. Frozen, hashable, the same after a round trip through TOML.

    Attributes:
        env: A gymnasium id, with its version: ``"CartPole-v1"``, ``"MiniGrid-DoorKey-6x6-v0"``.
        kwargs: What `gymnasium.make` hands to the environment; also its own ``max_episode_steps``.
        shifts: Applied in order, the last is the outermost wrapper.
        length: Environment steps, summed over all copies of the environment.
        name: For people; made from the rest if not given.

    Example:
        >>> offset = {"type": "observation-offset", "std": 2.0, "seed": 7}
        >>> Task(env="CartPole-v1", shifts=[offset], length=20480).name
        'CartPole-v1, observation-offset(std=2, seed=7)'
    """

    model_config = ConfigDict(extra="forbid")

    env: str
    kwargs: dict[str, Any] = {}
    shifts: tuple[ShiftSpec, ...] = ()
    length: Annotated[int, Field(strict=True, gt=0)]
    name: str = Field(default="", validate_default=True)

    @field_validator("kwargs", mode="before")
    @classmethod
    def _plain(cls, kwargs: Any) -> Any:
        return plain(kwargs)

    @field_validator("name")
    @classmethod
    def _describe(cls, name: str, info: ValidationInfo) -> str:
        if name or not {"env", "kwargs", "shifts"} <= info.data.keys():  # the others were refused: no matter
            return name
        env, shifts = info.data["env"], info.data["shifts"]
        parts = [_call(env, info.data["kwargs"]), *(_call(shift.type, shift.parameters) for shift in shifts)]
        return ", ".join(parts)


def _call(name: str, arguments: dict[str, Any]) -> str:
    """``observation-offset(std=2, seed=7)``; bare if there are no arguments."""
    inner = ", ".join(f"{key}={_short(value)}" for key, value in arguments.items())
    return f"{name}({inner})" if inner else name


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and len(value) > 4:
        return f"[{_short(value[0])}, ..., {_short(value[-1])}]"
    return str(value)
