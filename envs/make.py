"""From a task to its environment."""

import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator, registry
from gymnasium.utils import seeding

from .errors import EnvError, InvalidTask, MissingPackage, StrangeModule, UnknownEnvironment, unknown
from .minigrid import GridImage, is_minigrid
from .shifts.base import Env
from .task import Task

# Beginnings of ids that a package registers when it is imported -> that package.
PROVIDERS = {"minigrid-": "minigrid", "babyai-": "minigrid"}

# Packages that environments need -> the extra of pliant that installs them.
EXTRAS = {"mujoco": "mujoco", "Box2D": "box2d", "minatar": "minatar", "metaworld": "metaworld"}

MODULES = "PLIANT_ENV_MODULES"
"""Environment variable: names of modules, besides packages made for gymnasium, that tasks may import."""


def make_env(
    task: Task, seed: int | None = None, render_mode: str | None = None, *, copies: int = 1, elapsed: int = 0
) -> Env:
    """Make the environment of ``task``, wrapped with its shifts (MiniGrid's with `GridImage` first).

    Without gymnasium's passive checker, which costs a tenth of a step of CartPole. `gymnasium.make(env.spec)`
    makes an equal environment.

    Args:
        task: The task.
        seed: The first ``reset()`` without a seed is then the same as ``reset(seed=seed)``, and the action
            space draws from this seed.
        render_mode: As in `gymnasium.make`.
        copies: How many copies of this environment share the environment steps of the task: a ramp of N
            environment steps is over after N / copies in each.
        elapsed: Environment steps of the task taken so far, over all copies: how far ramps have come.
            ``task.length`` gives the task as it is in the end.

    Raises:
        UnknownEnvironment: No environment has the id.
        MissingPackage: It needs a package that is not installed.
        InvalidTask: It refuses its kwargs or the render mode.
        InvalidShift: A shift does not fit it.
    """
    env = _make(task.env, task.kwargs, render_mode)
    if is_minigrid(env):
        env = GridImage(env)
    for shift in task.shifts:
        env = shift.apply(env, copies=copies, elapsed=elapsed)
    if seed is not None:
        base = env.unwrapped
        base._np_random, base._np_random_seed = seeding.np_random(seed)
        env.action_space.seed(seed)
    return env


def _make(env_id: str, kwargs: dict[str, Any], render_mode: str | None) -> Env:
    """`gymnasium.make`, with its many kinds of failure told as ours."""
    name = _registered(env_id)
    arguments = kwargs if render_mode is None else kwargs | {"render_mode": render_mode}
    creator: Any = None
    try:
        creator = _creator(name)
        _check_render_mode(env_id, creator, render_mode)
        with _old_models_compile_quietly():
            return gymnasium.make(name, disable_env_checker=True, **arguments)
    except EnvError as error:  # from one of our own environments
        raise type(error)(f"{env_id}: {error}") from None
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise MissingPackage(f"{env_id} needs {_missing(error)}") from error
    except Exception as error:  # constructors fail in whatever way they like
        known = _accepted(creator)
        for key in kwargs:
            if known and key not in known:
                raise InvalidTask(f"{env_id}: {unknown('environment argument', key, known)}") from error
        called = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        reason = str(error).partition(" was raised from the environment creator")[0] or type(error).__name__
        raise InvalidTask(f"{env_id} could not be made with ({called}): {reason}") from error


@contextmanager
def _old_models_compile_quietly() -> Iterator[None]:
    """Drop what MuJoCo 4 says of an attribute in gymnasium's HalfCheetah that a later release will not know.

    It would print it whenever the environment is made, dozens of times a run, and write it to a file
    ``MUJOCO_LOG.TXT`` wherever one happens to work. Other warnings become Python's.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:
        yield
        return

    def hear(text: str) -> None:
        if "deprecated" not in text:
            warnings.warn(text, stacklevel=2)

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(hear)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _missing(error: BaseException) -> str:
    """What is to be installed after a failed import, which gymnasium may have put into words of its own."""
    cause: BaseException | None = error
    while cause is not None:
        package = (getattr(cause, "name", None) or "").partition(".")[0]
        if package in EXTRAS:
            return f'the package {package!r}, which is not installed: pip install "pliant[{EXTRAS[package]}]"'
        cause = cause.__cause__ or cause.__context__
    return f"a package that is not installed: {error}"


def _registered(env_id: str) -> str:
    """The id without a leading ``module:``, after importing what registers it.

    Raises:
        UnknownEnvironment: Nothing registers it.
        MissingPackage: The module cannot be imported.
        StrangeModule: Nobody but the task asks for the module.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        _refuse_strangers(env_id, module)
    provider = next(
        (package for prefix, package in PROVIDERS.items() if name.lower().startswith(prefix)), None
    )
    for needed in filter(None, (module, provider)):
        try:
            import_module(needed)
        except ImportError as error:
            package = needed.partition(".")[0].replace("_", "-")
            own = "" if needed == provider else "; if it is a file of your own, have its folder in PYTHONPATH"
            raise MissingPackage(
                f"{env_id} needs the package {needed!r}: pip install {package}{own}"
            ) from error
    if name not in registry:
        raise UnknownEnvironment(unknown("environment", name, registry))
    return name


def _refuse_strangers(env_id: str, module: str) -> None:
    """See that importing ``module`` is what its user wants: a task may come out of anybody's file.

    An import executes the module, and some do things when imported: open a browser, start a program. So it
    must be imported already, or belong to an installed package made for gymnasium (that requires it), or be
    listed in the environment variable ``PLIANT_ENV_MODULES``.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise UnknownEnvironment(f"{env_id!r}: what stands before the colon is no name of a module")
    top = module.partition(".")[0]
    if module in sys.modules or top in _listed():
        return
    if find_spec(top) is None:
        return  # what cannot be imported does nothing, and the import says what is missing
    needs = [
        requirement
        for distribution in metadata.packages_distributions().get(top, [])
        for requirement in metadata.requires(distribution) or ()
    ]
    if "__" in module or not any(re.match(r"gym(nasium)?\b", requirement) for requirement in needs):
        raise StrangeModule(
            f"{env_id} would import the module {module!r}, which is no package made for gymnasium; if you "
            f"know it and want it to be executed, say so: {MODULES}={top}"
        )


def own_modules(tasks: Iterable[Task]) -> dict[str, Path]:
    """The files of the modules that the tasks' environments name and ``PLIANT_ENV_MODULES`` lists."""
    named = {task.env.partition(":")[0] for task in tasks if ":" in task.env}
    specs = [find_spec(module) for module in sorted(named) if module.partition(".")[0] in _listed()]
    return {spec.name: Path(spec.origin) for spec in specs if spec and spec.origin and spec.has_location}


def _listed() -> list[str]:
    return os.environ.get(MODULES, "").replace(",", " ").split()


def _creator(name: str) -> Any:
    """The class or function that makes the environment registered as ``name``."""
    entry = registry[name].entry_point
    return load_env_creator(entry) if isinstance(entry, str) else entry


def _check_render_mode(env_id: str, creator: Any, render_mode: str | None) -> None:
    """Refuse what gymnasium would only warn of: a mode that the environment lacks and no wrapper can add."""
    own = getattr(creator, "metadata", {}).get("render_modes")
    if render_mode is None or own is None:
        return
    modes = {*own, *(f"{mode}_list" for mode in own), *({"human"} if "rgb_array" in own else ())}
    if render_mode not in modes:
        raise InvalidTask(unknown("render mode", render_mode, modes))


def _accepted(creator: Any) -> list[str]:
    """Names of the arguments of an environment; empty if it takes any, or could not even be imported."""
    if creator is None:
        return []
    parameters = signature(creator).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return []
    return [parameter.name for parameter in parameters] + ["max_episode_steps"]
