"""What can be wrong with a task, a shift or a rule: one class per cause, the remedy in the text."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError


class EnvError(ValueError):
    """Base of every error about environments that a person can put right."""


class UnknownEnvironment(EnvError):
    """No environment is registered under this id."""


class MissingPackage(EnvError):
    """The environment needs a package that is not installed."""


class StrangeModule(EnvError):
    """A module that would have to be imported, and so executed, only because a file names it."""


class InvalidTask(EnvError):
    """A task that cannot be: an unknown key, a wrong type, a length of 0, kwargs that are refused."""


class InvalidShift(EnvError):
    """A shift that does not exist, has a wrong parameter, or does not fit its environment."""


class InvalidRule(EnvError):
    """A rule from which tasks cannot be drawn."""


class MissingData(EnvError):
    """The files of a data set are not where they were looked for; the text names the files and the place."""


class DamagedData(EnvError):
    """A file of a data set that is truncated, of another format, or holds what it cannot hold."""


class SpaceMismatch(EnvError):
    """Two tasks of one sequence have different observation or action spaces."""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist: the nearest names, and all of them where they are few.

    >>> unknown("rule", "unifrom", ["uniform", "normal"])
    "unknown rule 'unifrom'. Did you mean 'uniform'? Known: normal, uniform"
    """
    names = sorted(known)
    lower = {candidate.lower(): candidate for candidate in names}
    near = [
        repr(lower[match]) for match in get_close_matches(str(name)[:100].lower(), lower, n=3, cutoff=0.5)
    ]
    parts = [f"unknown {kind} {str(name)[:100]!r}."]
    if near:
        parts.append(f"Did you mean {' or '.join(near)}?")
    if len(names) <= 20:
        parts.append(f"Known: {', '.join(names) or 'none'}")
    return " ".join(parts)


def explain(error: ValidationError, known: Iterable[str]) -> str:
    """Pydantic's findings in one line, each with its place and what came; ``known`` are the fields' names."""
    findings = []
    for finding in error.errors(include_url=False):
        place, cause = _place(finding["loc"]), finding.get("ctx", {}).get("error")
        if finding["type"] == "extra_forbidden":
            findings.append(unknown("key", place, known))
        elif finding["type"] == "missing":
            findings.append(f"{place} is missing")
        elif isinstance(cause, EnvError):  # raised by a validator of ours: says everything itself
            findings.append(f"{place}: {cause}" if place else str(cause))
        else:
            text = finding["msg"].removeprefix("Value error, ")
            findings.append(f"{place}: {text[:1].lower()}{text[1:]}, got {finding['input']!r}")
    return "; ".join(findings)


def _place(location: tuple[int | str, ...]) -> str:
    """``("shifts", 0, "std")`` as it is written in Python and thought of in TOML: ``shifts[0].std``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def plain(value: Any) -> Any:
    """Return ``value`` as TOML knows it: bool, int, float, str, list, dict. Equality then survives a file.

    Tuples become lists and numpy scalars Python's.

    Raises:
        ValueError: ``None``, NaN (never equal to itself) or a type that TOML lacks.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | float | str) and value == value:
        return value
    raise ValueError(
        f"a task holds numbers (not NaN), strings, lists and tables, as TOML does, not {value!r}"
    )
