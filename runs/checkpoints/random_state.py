"""Every random generator that training draws from, as numbers that JSON and safetensors hold."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

Word = Annotated[int, Field(ge=0, lt=2**32)]
Word128 = Annotated[int, Field(ge=0, lt=2**128)]

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class _PCG64Words(BaseModel):
    model_config = _STRICT
    state: Word128
    inc: Word128


class _PCG64(BaseModel):
    """gymnasium's generator, that of an action space."""

    model_config = _STRICT
    bit_generator: Literal["PCG64"]
    state: _PCG64Words
    has_uint32: Literal[0, 1]
    uinteger: Word


class RandomState(BaseModel):
    """The generators of Python, of numpy and of the agent's action space; those of torch are tensors."""

    model_config = _STRICT
    python: tuple[
        Literal[3], Annotated[tuple[Word, ...], Field(min_length=625, max_length=625)], float | None
    ]
    """Version, 624 words and a position, the second normal number of a pair if there is one."""
    numpy: tuple[
        Literal["MT19937"],
        Annotated[tuple[Word, ...], Field(min_length=624, max_length=624)],
        Annotated[int, Field(ge=0, le=624)],
        Literal[0, 1],
        float,
    ]
    action_space: _PCG64


def random_state(action_space: spaces.Space[Any]) -> dict[str, Any]:
    """The present states, as :class:`RandomState` reads them."""
    name, words, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(words).tolist(), *rest],
        "action_space": action_space.np_random.bit_generator.state,
    }


def restore_random_state(state: RandomState, action_space: spaces.Space[Any]) -> None:
    """Put them back."""
    random.setstate(state.python)
    name, words, position, has_gauss, gauss = state.numpy
    np.random.set_state((name, np.array(words, dtype=np.uint32), position, has_gauss, gauss))
    action_space.np_random.bit_generator.state = state.action_space.model_dump()


def torch_random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of torch, by the kind of device: the CPU's, and the GPU's if the agent is on one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_torch_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Put them back."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
