"""A saved agent in Python: the networks of a checkpoint, ready to act."""

from __future__ import annotations

from pathlib import Path

from ..agents import Agent
from .build import build_agent, vector_env
from .checkpoints.checkpoint import load_networks
from .folder import RunFolder
from .plan import make_plan


def load_agent(run: str | Path, after_task: int | None = None, device: str = "auto") -> Agent:
    """The agent of a run as it was at a switch, to predict with and to measure.

    Its optimiser and its buffers are new: training goes on with ``train-agent --resume``. Its environment is
    that of the task that followed, or of the last.

    Args:
        run: the run folder.
        after_task: index of the task after which it was saved, -1 for the untrained agent; by default the
            last one that has a checkpoint.
        device: as for training.

    Raises:
        RunFolderError: there is no such run, or no such checkpoint.
    """
    folder = RunFolder.open(Path(run))
    plan = make_plan(folder.read_spec(), device)
    *_, after = folder.checkpoints_after(plan.boundaries, [] if after_task is None else [after_task])
    following = plan.sequence[min(after + 1, len(plan.sequence) - 1)]
    agent = build_agent(
        plan.spec, vector_env(following, plan.spec.agent.n_envs, seed=0), seed=0, device=plan.device
    )
    load_networks(folder.checkpoint(plan.boundaries[after + 1]), agent)
    agent.policy.set_training_mode(False)
    return agent
