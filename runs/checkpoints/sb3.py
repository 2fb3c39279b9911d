"""To stable-baselines3 and back: a checkpoint as an SB3 zip, and an SB3 zip's networks as a run's beginning.

An SB3 zip holds pickles, which execute code when they are opened. What is exported holds only classes of
stable-baselines3, gymnasium, numpy and torch, so it opens where there is no pliant. Of what is imported only
the tensors are read, by torch's restricted unpickler; the pickles beside them are never opened.
"""

from __future__ import annotations

import base64
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stable_baselines3
import torch
from torch import Tensor

from ...agents import DQN, PPO, Agent
from ...agents.networks import resolve_names
from ..build import build_agent, sb3_arguments, vector_env
from ..errors import RunFolderError, Sb3FileError
from ..folder import RunFolder
from ..plan import Plan, make_plan
from .checkpoint import load_networks
from .tensors import largest_tensors, save_tensors

KINDS: dict[str, type[stable_baselines3.PPO] | type[stable_baselines3.DQN]] = {
    "ppo": stable_baselines3.PPO,
    "dqn": stable_baselines3.DQN,
}
"""What an agent becomes, by its algorithm."""

_OBSERVATIONS = 64
"""Random observations on which the exported policy must answer as the agent does."""


def export_sb3(folder: RunFolder, out: Path, after_task: int | None = None) -> int:
    """Write a checkpoint as a zip that ``stable_baselines3.PPO.load`` (or DQN) opens without pliant.

    Networks, optimiser and the count of environment steps go with it, so that ``learn()`` can go on there;
    the replay buffer, random states and what mitigations gathered do not.

    Args:
        folder: of the run.
        out: the new file.
        after_task: index of the task after which the agent was saved, -1 for the untrained agent; by default
            the last one.

    Returns:
        ``after_task``.

    Raises:
        RunFolderError: there is no such checkpoint, or ``out`` is there already or cannot be written.
        Sb3FileError: the agent has parts that stable-baselines3 has not.
    """
    if out.exists():
        raise RunFolderError(f"{str(out)!r} is there already and is left as it is; name another file")
    plan = make_plan(folder.read_spec(), "cpu")
    *_, after = folder.checkpoints_after(plan.boundaries, [] if after_task is None else [after_task])
    model = _stock(plan, folder.checkpoint(plan.boundaries[after + 1]))
    file = io.BytesIO()
    model.save(file)
    _require_no_pliant(file)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.write_bytes(file.getvalue())
        temporary.rename(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFolderError(f"{str(out)!r} cannot be written: {error.strerror}") from None
    return after


def read_sb3_networks(path: Path, plan: Plan, *, trusted: bool) -> dict[str, Tensor]:
    """The networks in an SB3 zip, if they are those of the agent of ``plan``.

    Args:
        path: of the zip, as ``model.save`` wrote it.
        plan: whose agent is to begin with them.
        trusted: whether the person who names it trusts it.

    Raises:
        Sb3FileError: it is not trusted, is no such zip, or holds other networks.
    """
    if not trusted:
        raise Sb3FileError(
            f"{str(path)!r} is a file of stable-baselines3 and holds pickles, programs that run when "
            "stable-baselines3 opens it. Here only its tensors are read, by torch's restricted reader. Use "
            "such a file only if you trust whoever made it, and then add --trust-pickle"
        )
    env = vector_env(plan.sequence[0], plan.spec.agent.n_envs, seed=0)
    try:
        agent = build_agent(plan.spec, env, seed=0, device=torch.device("cpu"))
    finally:
        env.close()
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("policy.pth")
            if member.file_size > largest_tensors(agent):
                raise ValueError(f"its policy.pth has {member.file_size:,} bytes")
            found = torch.load(io.BytesIO(archive.read(member)), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Sb3FileError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # zipfile, zlib, torch and its unpickler fail in a dozen ways
        reason = str(error).partition("\n")[0]
        raise Sb3FileError(f"{str(path)!r} is no file of stable-baselines3, or damaged: {reason}") from None
    own = agent.policy.state_dict()
    if wrong := _difference(found, own):
        raise Sb3FileError(
            f"{str(path)!r} does not fit the agent of {plan.spec.name}: {wrong}; set agent.network as it was "
            "there (hidden, activation, extractor, shared_extractor)"
        )
    return {name: value.detach().clone() for name, value in found.items()}


def begin_with(folder: RunFolder, networks: Mapping[str, Tensor]) -> None:
    """Keep ``networks`` in a fresh run folder as those that its agent begins with."""
    save_tensors({f"policy/{name}": value for name, value in networks.items()}, folder.initial_file)


def _stock(plan: Plan, checkpoint: Path) -> Any:
    """The agent of a checkpoint as stable-baselines3's own, which answers as it does.

    Raises:
        Sb3FileError: there is no such thing.
    """
    spec = plan.spec
    if spec.agent.algorithm not in KINDS:
        raise Sb3FileError(f"stable-baselines3 has no {spec.agent.algorithm}; PPO and DQN can be exported")
    env = vector_env(plan.sequence[0], spec.agent.n_envs, seed=0)
    try:
        agent = build_agent(spec, env, seed=0, device=torch.device("cpu"))
        load_networks(checkpoint, agent, optimizer=True)
        arguments = sb3_arguments(spec, env, seed=spec.seed, device=torch.device("cpu"))
        arguments["policy_kwargs"] = resolve_names(arguments["policy_kwargs"])
        for name, value in arguments["policy_kwargs"].items():
            if getattr(value, "__module__", "").startswith("pliant"):
                raise Sb3FileError(
                    f"the agent's {name} is {value.__name__}, pliant's own; stable-baselines3 could not open "
                    "the file without pliant"
                )
        model = KINDS[spec.agent.algorithm](**arguments)
        if wrong := _difference(agent.policy.state_dict(), model.policy.state_dict()):
            raise Sb3FileError(
                f"mitigations have changed the networks ({wrong}); stable-baselines3 has no such policy"
            )
        model.policy.load_state_dict(agent.policy.state_dict())
        model.policy.optimizer.load_state_dict(agent.policy.optimizer.state_dict())
        model.num_timesteps = agent.num_timesteps
        model._n_updates = agent._n_updates
        _require_same_answers(agent, model)
        return model
    finally:
        env.close()


def _difference(found: Any, own: Mapping[str, Tensor]) -> str | None:
    """What of names, shapes and types of tensors differs, in words."""
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        return "it holds no table of tensors"
    if missing := own.keys() - found.keys():
        return f"it has no {min(missing)!r}"
    if more := found.keys() - own.keys():
        return f"it also has {min(map(str, more))!r}"
    for name, value in own.items():
        theirs = found[name]
        if (theirs.shape, theirs.dtype) != (value.shape, value.dtype):
            return f"{name!r} has shape {tuple(theirs.shape)}, expected {tuple(value.shape)}"
    return None


@torch.no_grad()
def _require_same_answers(agent: Agent, model: Any) -> None:
    """See that both answer alike: what acts on the way through the network would else be lost in silence.

    Raises:
        Sb3FileError: they do not.
    """
    space = agent.observation_space
    for policy in (agent.policy, model.policy):
        policy.set_training_mode(False)
    batch = [space.sample() for _ in range(_OBSERVATIONS)]
    for observation in batch:
        inputs = agent.policy.obs_to_tensor(observation)[0]
        if isinstance(agent, DQN):
            same = torch.equal(agent.q_net(inputs), model.q_net(inputs))
        else:
            assert isinstance(agent, PPO)
            ours = agent.policy(inputs, deterministic=True)
            same = all(map(torch.equal, ours, model.policy(inputs, deterministic=True)))
        if not same:
            raise Sb3FileError(
                "the agent's mitigations act within its networks, so stable-baselines3 would act otherwise"
            )


def _require_no_pliant(file: io.BytesIO) -> None:
    """See that nothing in the zip needs pliant when it is opened."""
    with zipfile.ZipFile(file) as archive:
        data = json.loads(archive.read("data"))
    for name, value in data.items():
        if isinstance(value, dict) and b"pliant" in base64.b64decode(value.get(":serialized:", "")):
            raise Sb3FileError(
                f"the agent's {name} needs pliant; stable-baselines3 could not open it without"
            )
