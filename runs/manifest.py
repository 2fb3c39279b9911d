"""What ``manifest.json`` must be like for the rest of pliant to rely on it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator

Steps = Annotated[int, Field(ge=0, le=2**53)]
"""Environment steps; what a float and JavaScript can still count."""


class _Manifest(BaseModel):
    """The keys that are relied upon; whatever else is there is kept as it is."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str
    status: str
    seed: NonNegativeInt
    boundaries: Annotated[list[Steps], Field(min_length=2, max_length=1_000_001)]
    preset: str = ""
    arm: str = ""
    created: str = ""
    started: str = ""
    updated: str = ""
    error: str = ""
    python: str = ""
    command: list[str] = []
    versions: dict[str, str] = {}
    inputs: dict[str, dict[str, str]] = {}
    git_commit: str | None = None
    evaluation_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @field_validator("boundaries")
    @classmethod
    def _increase(cls, boundaries: list[int]) -> list[int]:
        if boundaries[0] != 0 or any(first >= last for first, last in pairwise(boundaries)):
            raise ValueError("they do not increase from 0")
        return boundaries


def wall_seconds(manifest: Mapping[str, Any]) -> float | None:
    """From a run's start to its last change of status, pauses included, if the manifest tells."""
    began = "started" if "started" in manifest else "created"
    try:
        first, last = (datetime.fromisoformat(manifest[key]) for key in (began, "updated"))
        return max((last - first).total_seconds(), 0.0)  # the clock may have been set back
    except (KeyError, TypeError, ValueError):
        return None


def what_is_wrong(manifest: dict[str, Any]) -> str | None:
    """The first thing about ``manifest`` that cannot be relied upon, in words; None if there is none."""
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg'].removeprefix('Value error, ')}"
    return None
