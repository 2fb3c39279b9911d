"""A saved agent in Python acts as it did when it was saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pliant.envs import make_env
from pliant.runs.errors import RunFolderError
from pliant.runs.evaluation.recording import Replays
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.saved import load_agent
from pliant.runs.training import train

TOY = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 128, "count": 2},
    "agent": {"algorithm": "ppo", "n_steps": 64, "n_epochs": 2, "network": {"hidden": [8]}},
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"episodes": 1},
    "mitigations": {"layer-norm": {}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    plan = make_plan(validate(TOY, source="test"), "cpu")
    folder = RunFolder.create(tmp_path_factory.mktemp("results"), plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    return folder


@pytest.mark.parametrize(("after", "steps"), [(-1, 0), (0, 128), (1, 256), (None, 256)])
def test_the_networks_are_those_of_the_checkpoint(run: RunFolder, after: int | None, steps: int) -> None:
    saved = load_file(run.checkpoint(steps) / "tensors.safetensors")
    for name, value in load_agent(str(run.path), after).policy.state_dict().items():
        assert torch.equal(value, saved[f"policy/{name}"])


def test_it_acts_as_in_the_recorded_episode(run: RunFolder) -> None:
    ((path,),) = (run.replay_files()[key] for key in [(0, 1)])
    replays = Replays.load(path)
    (episode,) = replays.episodes
    agent, env = load_agent(run.path, after_task=0), make_env(replays.task)
    observation, _ = env.reset(seed=episode.seed)
    for recorded in episode.actions:
        action, _ = agent.predict(observation, deterministic=True)
        assert np.array_equal(action, recorded)
        observation, *_ = env.step(action)


def test_a_checkpoint_that_is_not_there_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no checkpoint after task 7; it has those after: -1, 0, 1"):
        load_agent(run.path, 7)
    with pytest.raises(RunFolderError, match="is not a run folder"):
        load_agent(tmp_path)
