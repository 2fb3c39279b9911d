"""What mitigations gather while training comes back with a checkpoint."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pliant import agents
from pliant.agents import MITIGATIONS, Mitigation, Update
from pliant.runs.checkpoints.checkpoint import Position, load_checkpoint, save_checkpoint
from pliant.runs.errors import RunFolderError
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.training import build_agent, vector_env


class Mean(Mitigation):
    """A running mean of the parameters."""

    _mean: Tensor

    def attach(self, agent: agents.Agent) -> None:
        self._mean = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()

    def after_update(self, agent: agents.Agent, update: Update) -> None:
        now = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach()
        self._mean = self._mean.lerp(now, 0.5)

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self._mean}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self._mean = tensors["mean"]


TABLE = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 64},
    "agent": {"algorithm": "ppo", "n_steps": 64, "n_epochs": 1, "network": {"hidden": [4]}},
}


def build(mitigations: dict) -> agents.Agent:
    plan = make_plan(validate({**TABLE, "mitigations": mitigations}, source="test"), "cpu")
    return build_agent(plan.spec, vector_env(plan.sequence[0], 1, 0), seed=0, device=plan.device)


def test_tensors_of_each_mitigation_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MITIGATIONS, "mean", Mean)
    agent, other = build({"l2": {"strength": 0.1}, "mean": {}}), build({"l2": {"strength": 0.1}, "mean": {}})
    agent.learn(64)
    assert not torch.equal(agent.mitigations[1].tensors()["mean"], other.mitigations[1].tensors()["mean"])
    save_checkpoint(tmp_path / "0", agent, Position(0, 64, 64))
    load_checkpoint(tmp_path / "0", other)
    assert torch.equal(agent.mitigations[1].tensors()["mean"], other.mitigations[1].tensors()["mean"])


def test_a_checkpoint_without_them_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MITIGATIONS, "mean", Mean)
    save_checkpoint(tmp_path / "0", build({"l2": {"strength": 0.1}}), Position(0, 64, 64))
    with pytest.raises(RunFolderError, match="cannot be used: it has no 'mean'"):
        load_checkpoint(tmp_path / "0", build({"mean": {}}))
