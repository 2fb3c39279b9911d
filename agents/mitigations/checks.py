"""What the settings of mitigations must be; the errors say which one, and what came."""

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

from ..errors import InvalidSetting


def is_number(value: Any) -> bool:
    """Whether it is a finite number, which neither a flag nor text is."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can be
        return False


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A list or tuple as a tuple; what is neither, as the only member of one."""
    return tuple(value) if isinstance(value, Sequence) else (value,)


def require_strength(owner: object, **settings: float) -> None:
    """Each setting is a finite number of at least 0."""
    for name, value in settings.items():
        if not (is_number(value) and value >= 0):
            raise InvalidSetting(
                f"{type(owner).__name__} needs a finite {name} of at least 0, not {value!r}."
            )


def require_fraction(owner: object, **settings: float) -> None:
    """Each setting is a number from 0 to 1."""
    for name, value in settings.items():
        if not (is_number(value) and 0 <= value <= 1):
            raise InvalidSetting(f"{type(owner).__name__} needs a {name} from 0 to 1, not {value!r}.")


def require_count(owner: object, **settings: int | None) -> None:
    """Each setting is a positive integer, or left out."""
    for name, value in settings.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InvalidSetting(
                f"{type(owner).__name__}'s {name} must be a positive integer, not {value!r}."
            )


def require_flag(owner: object, **settings: bool) -> None:
    """Each setting is True or False: any text would count as true."""
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise InvalidSetting(f"{type(owner).__name__}'s {name} must be True or False, not {value!r}.")


def require_member(owner: object, known: Sequence[str], **settings: str) -> None:
    """Each setting is one of the known names."""
    for name, value in settings.items():
        if value not in known:
            raise InvalidSetting(f"{type(owner).__name__}'s {name} is {value!r}. Known: {', '.join(known)}.")


def selected(owner: object, patterns: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names that match a pattern, in their own order.

    Raises:
        InvalidSetting: a pattern matches nothing, or there is none.
    """
    known = list(known)
    if isinstance(patterns, str):
        raise InvalidSetting(f"{type(owner).__name__}'s layers must be a list of names, not {patterns!r}.")
    patterns = list(patterns)
    if not patterns:
        raise InvalidSetting(f"{type(owner).__name__}'s layers is empty: name some, or leave it out for all.")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InvalidSetting(
                f"{type(owner).__name__}'s layers names {pattern!r}, but the layers it can act on are: "
                f"{', '.join(known) or 'none (the networks are linear)'}."
            )
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]
