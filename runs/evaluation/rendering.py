"""What drawing an environment needs of a machine, found out before it fails in a library's words."""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library
from typing import Any

import numpy as np

from ...envs import EnvError, Task, make_env
from ...envs.shifts.base import Env
from ..errors import RunError

_PACKAGES = "on Debian or Ubuntu: apt install libegl1 libgl1-mesa-dri"


class RenderingError(RunError):
    """This machine cannot draw the environment; the text says what it lacks."""


def make_drawn(task: Task, render_mode: str | None) -> Env:
    """The environment of ``task`` in its final form, ready to be drawn, if that is asked for.

    Raises:
        RenderingError: this machine cannot draw it.
    """
    try:
        env = make_env(task, render_mode=render_mode, elapsed=task.length)
    except EnvError as error:
        backend = os.environ.get("MUJOCO_GL")
        if render_mode is None or backend is None:
            raise
        raise RenderingError(
            f"{error}; is MUJOCO_GL={backend} right for this machine? ({_PACKAGES})"
        ) from error
    if render_mode is not None:
        try:
            _prepare(env, render_mode)
        except RenderingError:
            env.close()
            raise
    return env


def _prepare(env: Env, render_mode: str) -> None:
    """Choose what draws on a machine without a display, before the first frame.

    Sets ``MUJOCO_GL`` (and what PyOpenGL takes from it) and SDL's driver unless they are set already.
    """
    if has_display():
        return
    if render_mode == "human":
        raise RenderingError(
            "a window needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set; write a film instead, "
            "with --video episode.gif"
        )
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # or SDL complains of a runtime folder it does not need
    if hasattr(env.unwrapped, "mujoco_renderer") and "MUJOCO_GL" not in os.environ:
        backend = next((name for name in ("EGL", "OSMesa") if find_library(name)), None)
        if backend is None:
            raise RenderingError(
                "MuJoCo draws without a display only with EGL or OSMesa, and neither is installed; "
                + _PACKAGES
            )
        os.environ["MUJOCO_GL"] = backend.lower()
        os.environ.setdefault("PYOPENGL_PLATFORM", backend.lower())


def has_display() -> bool:
    """Whether windows can be opened."""
    return not sys.platform.startswith("linux") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def draw(env: Env) -> np.ndarray[Any, Any]:
    """A frame of ``env``, ``[height, width, 3]``.

    Raises:
        RenderingError: there is none, with the reason.
    """
    try:
        frame = env.render()
    except Exception as error:  # OpenGL, SDL and the environments each fail in ways of their own
        mujoco = hasattr(env.unwrapped, "mujoco_renderer")
        raise RenderingError(
            f"{env.spec.id if env.spec else env} cannot be drawn here: {error}"
            + (f" (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}; {_PACKAGES})" if mujoco else "")
        ) from error
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise RenderingError(
            f"{env.spec.id if env.spec else env} draws no picture, but {type(frame).__name__}"
        )
    return frame
