"""From a spec to live objects: vectorised environments and agents."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

import numpy as np
import torch
from gymnasium import spaces
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ..agents import (
    DQN,
    FEATURES_EXTRACTORS,
    OPTIMIZERS,
    PPO,
    Agent,
    Classifier,
    Mitigation,
)
from ..agents.batch_norm import batch_norms
from ..diagnostics import SnapshotSettings
from ..envs import EnvError, Task, TaskSequence, make_env
from .errors import DeviceError, SpecError
from .guard import Guard
from .own_mitigations import VARIABLE, known_mitigations
from .presets import did_you_mean
from .spec import AgentSpec, ClassifierSpec, DQNSpec, NetworkSpec, OptimizerSpec, PPOSpec, RunSpec

_FLATTENING = ("flatten", "scaled-flatten", "combined")

_PURPOSES = ("agent", "env", "snapshot", "evaluation")
"""What a seed is for: the same run, task and step give unrelated numbers for each."""


def derive_seed(run_seed: int, purpose: str, *path: int) -> int:
    """A seed below 2^31 that depends on every argument and on nothing else."""
    entropy = [run_seed, _PURPOSES.index(purpose), *path]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)


def vector_env(task: Task, n_envs: int, seed: int, elapsed: int = 0) -> VecEnv:
    """``n_envs`` copies of the task's environment, after ``elapsed`` environment steps of it.

    Copy i is reset with ``seed + i`` the first time; after that it goes on from there.
    """
    env = DummyVecEnv(
        [
            lambda: Monitor(Guard(make_env(task, copies=n_envs, elapsed=elapsed), task.name))
            for _ in range(n_envs)
        ]
    )
    env.seed(seed)
    return env


def choose_device(wanted: str, spec: RunSpec) -> torch.device:
    """The device to train on; ``auto``: the CPU for MLPs (faster there), otherwise a GPU, if there is one.

    Raises:
        DeviceError: a GPU was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cpu" if spec.agent.network.extractor in _FLATTENING or not available else "cuda")
    if wanted == "cuda" and not available:
        raise DeviceError(
            "--device cuda: torch sees no GPU on this machine; use --device cpu, or install torch with CUDA "
            "and check that `nvidia-smi` lists the card"
        )
    return torch.device(wanted)


def build_agent(spec: RunSpec, env: VecEnv, *, seed: int, device: torch.device) -> Agent:
    """A fresh agent for ``env``; global random states are seeded with ``seed``, as SB3 does."""
    arguments = sb3_arguments(spec, env, seed=seed, device=device)
    arguments |= {
        "mitigations": build_mitigations(spec),
        "initialisation": spec.agent.network.initialisation,
    }
    if isinstance(spec.agent, DQNSpec):
        return DQN(**arguments)
    if isinstance(spec.agent, ClassifierSpec):
        return Classifier(**arguments)
    return PPO(**arguments)


def sb3_arguments(spec: RunSpec, env: VecEnv, *, seed: int, device: torch.device) -> dict[str, Any]:
    """What the constructor of the agent is given that it has from stable-baselines3."""
    settings = spec.agent
    arguments: dict[str, Any] = {
        "policy": "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy",
        "env": env,
        "learning_rate": _learning_rate(settings),
        "max_grad_norm": settings.max_grad_norm,
        "policy_kwargs": _policy_kwargs(settings, env),
        "seed": seed,
        "device": device,
    }
    if isinstance(settings, DQNSpec):
        fields = _fields(settings, set(DQNSpec.model_fields) - {"n_step_returns"})
        return arguments | fields | {"n_steps": settings.n_step_returns}
    return arguments | _fields(settings, set(type(settings).model_fields))


def build_mitigations(spec: RunSpec) -> list[Mitigation]:
    """The mitigations that the spec names.

    Raises:
        SpecError: an unknown name or setting.
    """
    built, known_kinds = [], known_mitigations()
    for name, settings in spec.mitigations.items():
        if name not in known_kinds:
            raise SpecError(
                f"mitigations: there is no {name!r}{did_you_mean(name, known_kinds)} One of your own is in a "
                f"file that the environment variable {VARIABLE} names"
            )
        kind = known_kinds[name]
        known = [parameter for parameter in inspect.signature(kind).parameters]
        for key in settings:
            _named(key, known, f"mitigations.{name}")
        check_types(kind, settings, f"mitigations.{name}")
        try:
            built.append(kind(**settings))
        except (TypeError, ValueError) as error:
            raise SpecError(f"mitigations.{name}: {error}") from None
    return built


def check_types(kind: type[Mitigation], settings: Mapping[str, Any], where: str) -> None:
    """Refuse what the mitigation does not declare: text would be true, or a list of letters.

    As in JSON: a list of the file may become a tuple. Types that no file holds are the constructor's matter.

    Raises:
        SpecError: a setting of another type.
    """
    try:
        hints = get_type_hints(kind.__init__)
    except NameError:  # of a file of one's own, which imports a name for type checkers alone
        return
    for key in settings.keys() & hints.keys():
        try:
            TypeAdapter(hints[key]).validate_json(json.dumps(settings[key], default=str), strict=True)
        except PydanticUserError:
            continue
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            place = ".".join(map(str, (where, key, *detail["loc"])))
            hint = " (true and false are written so)" if detail["type"] == "bool_type" else ""
            raise SpecError(f"{place}: {detail['msg']}{hint}, got {detail['input']!r}") from None


def snapshot_settings(spec: RunSpec, task_steps: int) -> SnapshotSettings:
    """What the snapshots of a task of ``task_steps`` environment steps hold."""
    return SnapshotSettings(
        **spec.diagnostics.spectrum.model_dump(),
        learning_rate=spec.agent.learning_rate,
        updates=spec.gradient_updates(task_steps),
    )


def check_algorithm_fits(spec: RunSpec, sequence: TaskSequence) -> None:
    """Refuse a sequence that the algorithm cannot act in, or learn from.

    Raises:
        SpecError: DQN, or the classifier, with anything but discrete actions; the classifier without samples.
    """
    space, algorithm = sequence.action_space, spec.agent.algorithm
    if algorithm != "ppo" and not isinstance(space, spaces.Discrete):
        raise SpecError(
            f"agent.algorithm: {algorithm} needs discrete actions, but the tasks of {spec.name} have "
            f'{space}; use algorithm = "ppo"'
        )
    if algorithm == "classifier":
        _check_samples(sequence)


def check_measurement_fits(spec: RunSpec, agent: Agent) -> None:
    """Refuse micro-batches that would change the loss of a network with batch norm.

    Raises:
        SpecError: they do not hold whole minibatches of training.
    """
    size, settings = spec.diagnostics.spectrum.micro_batch, spec.agent
    if isinstance(settings, ClassifierSpec) and size % settings.batch_size and batch_norms(agent.policy):
        raise SpecError(
            f"diagnostics.spectrum.micro_batch: {settings.network.extractor} normalises minibatches by "
            f"themselves, so {size} samples must be a multiple of agent.batch_size = {settings.batch_size}"
        )


def _check_samples(sequence: TaskSequence) -> None:
    """See that every kind of task (the same environment, the same shifts) offers labelled samples."""
    kinds = {(task.env, tuple(shift.type for shift in task.shifts)): i for i, task in enumerate(sequence)}
    for index in sorted(kinds.values()):
        env = make_env(sequence[index])
        try:
            env.get_wrapper_attr("samples")
        except AttributeError:
            raise SpecError(
                "agent.algorithm: classifier learns from labelled samples, but there are none in "
                f'tasks[{index}] ({sequence[index].name}); use algorithm = "ppo", or a stream of data'
            ) from None
        except EnvError as error:
            raise SpecError(
                f"agent.algorithm: classifier cannot learn from tasks[{index}]: {error}"
            ) from None
        finally:
            env.close()


def _learning_rate(settings: AgentSpec) -> Any:
    end = settings.learning_rate_end
    if end is None:
        return settings.learning_rate
    return LinearSchedule(settings.learning_rate, end, end_fraction=1.0)


def _policy_kwargs(settings: AgentSpec, env: VecEnv) -> dict[str, Any]:
    network = settings.network
    hidden = list(network.hidden)
    kwargs: dict[str, Any] = {
        "net_arch": {"pi": hidden, "vf": hidden} if isinstance(settings, PPOSpec) else hidden,
        "optimizer_class": OPTIMIZERS[settings.optimizer.name],
        "optimizer_kwargs": _optimizer_kwargs(
            settings.optimizer, 1e-5 if isinstance(settings, PPOSpec) else 1e-8
        ),
    }
    if network.activation is not None:
        kwargs["activation_fn"] = network.activation
    if not isinstance(env.observation_space, spaces.Dict):  # for those, SB3's CombinedExtractor
        kwargs["features_extractor_class"] = network.extractor
        kwargs["features_extractor_kwargs"] = _extractor_kwargs(network)
    if isinstance(settings, PPOSpec):
        kwargs["share_features_extractor"] = network.shared_extractor
        if isinstance(env.action_space, spaces.Box):
            kwargs["log_std_init"] = network.log_std_init
    return kwargs


def _extractor_kwargs(network: NetworkSpec) -> dict[str, Any]:
    """The extractor's own settings, each of which it knows.

    Raises:
        SpecError: it has no such setting.
    """
    if network.extractor in FEATURES_EXTRACTORS:  # else the agent says so
        known = set(inspect.signature(FEATURES_EXTRACTORS[network.extractor]).parameters)
        for key in network.extractor_kwargs:
            _named(key, sorted(known - {"observation_space"}), "agent.network.extractor_kwargs")
    return dict(network.extractor_kwargs)


def _optimizer_kwargs(settings: OptimizerSpec, default_eps: float) -> dict[str, Any]:
    """The options that this optimiser takes; what the spec leaves open stays at its own default."""
    adam = {
        "betas": settings.betas,
        "eps": default_eps if settings.eps is None else settings.eps,
        "fused": settings.fused,
    }
    decay = {} if settings.weight_decay is None else {"weight_decay": settings.weight_decay}
    momentum = {} if settings.momentum is None else {"momentum": settings.momentum}
    options: dict[str, dict[str, Any]] = {
        "adam": adam,
        "adamw": adam | decay,
        "sgd": momentum | {"fused": settings.fused},
        "muon": adam | decay | momentum,
        "kron": {"b1": settings.betas[0]} | decay,
    }
    return options[settings.name]


_OWN_FIELDS = {
    "algorithm",
    "n_envs",
    "network",
    "optimizer",
    "learning_rate",
    "learning_rate_end",
    "max_grad_norm",
}


def _fields(settings: AgentSpec, names: set[str]) -> dict[str, Any]:
    """The settings that SB3's constructor calls by the same name."""
    return {name: getattr(settings, name) for name in sorted(names - _OWN_FIELDS)}


def _named(name: str, known: Iterable[str], where: str) -> str:
    """``name`` if it is known.

    Raises:
        SpecError: it is not; the text has the nearest names.
    """
    known = list(known)
    if name not in known:
        raise SpecError(f"{where}: there is no {name!r}{did_you_mean(name, known)}")
    return name
