"""Runs of a few hundred steps: what they write, that they repeat themselves, that they can be stopped."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stable_baselines3.common.vec_env import VecEnv

from pliant import agents
from pliant.agents import NonFiniteLoss
from pliant.diagnostics import Snapshot
from pliant.runs.build import build_agent, vector_env
from pliant.runs.checkpoints.checkpoint import Position, load_checkpoint, save_checkpoint
from pliant.runs.errors import RunFolderError
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.progress import Report
from pliant.runs.summary import task_returns
from pliant.runs.training import train

SHIFT = {"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}}
MEASURE = {"samples": 64, "every": 128, "figures": False, "spectrum": {"depth": 4, "minibatches": 4}}
PPO = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 256, "count": 2, "shifts": [SHIFT]},
    "agent": {"algorithm": "ppo", "n_envs": 2, "n_steps": 64, "n_epochs": 2, "network": {"hidden": [8]}},
    "mitigations": {"l2": {"strength": 1e-4}, "effective-rank": {}},
    "diagnostics": MEASURE,
}
DQN = {
    **PPO,
    "agent": {"algorithm": "dqn", "learning_starts": 32, "buffer_size": 300, "network": {"hidden": [8]}},
}
CLASSIFIER = {
    **PPO,
    "tasks": {
        "env": "pliant/Stream-v0",
        "kwargs": {"samples": 64, "random_labels": {"rule": "seed"}},
        "length": 256,
        "count": 2,
    },
    "agent": {
        "algorithm": "classifier",
        "batch_size": 16,
        "updates_per_rollout": 4,
        "network": {"hidden": [8]},
    },
    "diagnostics": {**MEASURE, "spectrum": {**MEASURE["spectrum"], "method": "lanczos"}},
}
EVERY = pytest.mark.parametrize("table", [PPO, DQN, CLASSIFIER], ids=["ppo", "dqn", "classifier"])


def run(out: Path, table: dict, **changes: object) -> RunFolder:
    plan = make_plan(validate({**table, **changes}, source="test"), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    return folder


def tensors(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.checkpoint_list()[-1] / "tensors.safetensors")


def assert_equal(one: RunFolder, other: RunFolder) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    for file in ("progress_file", "episodes_file"):
        assert getattr(one, file).read_text() == getattr(other, file).read_text()


@EVERY
def test_a_run_leaves_a_folder_that_explains_itself(tmp_path: Path, table: dict) -> None:
    folder = run(tmp_path, table)
    manifest = folder.read_manifest()
    assert manifest["status"] == "complete"
    assert manifest["boundaries"] == [0, 256, 512]
    assert {"schema_version", "seed", "command", "versions", "git_commit", "created"} <= manifest.keys()
    assert folder.read_spec() == validate(table, source="test")
    assert [path.name for path in folder.checkpoint_list()] == [
        "000000000000",
        "000000000256",
        "000000000512",
    ]
    assert len(list(folder.snapshots.glob("*.npz"))) == 4
    with folder.progress_file.open() as file:
        steps = [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]
    assert steps == sorted(steps)
    assert steps[-1] == 512
    with folder.episodes_file.open() as file:
        episodes = list(csv.DictReader(file))
    assert {row["task"] for row in episodes} == {"0", "1"}
    assert sum(row.episodes for row in task_returns(folder)) == len(episodes)


@EVERY
def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path, table: dict) -> None:
    first, second, other = run(tmp_path, table), run(tmp_path, table), run(tmp_path, table, seed=1)
    assert first.path != second.path
    assert_equal(first, second)
    assert any(
        not torch.equal(a, b) for a, b in zip(tensors(first).values(), tensors(other).values(), strict=True)
    )


@EVERY
def test_snapshots_leave_the_training_as_it_is(tmp_path: Path, table: dict) -> None:
    with_snapshots = run(tmp_path, table)
    without = run(tmp_path, table, diagnostics={"at": [], "every": 0})
    first, second = tensors(with_snapshots), tensors(without)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert with_snapshots.episodes_file.read_text() == without.episodes_file.read_text()


def test_that_a_snapshot_is_being_taken_is_told(tmp_path: Path) -> None:
    plan = make_plan(validate(PPO, source="test"), "cpu")
    told: list[Report] = []
    train(plan, RunFolder.create(tmp_path, plan.spec, plan.boundaries), told.append, lambda: False)
    assert [report.steps for report in told if report.measuring] == [0, 256, 256, 512]  # init and end, twice


def test_a_reset_run_starts_each_task_with_a_fresh_agent(tmp_path: Path) -> None:
    folder = run(tmp_path, PPO, reset=True, agent={**PPO["agent"], "learning_rate": 1e-30}, mitigations={})
    initial, after_first, after_second = (
        load_file(p / "tensors.safetensors") for p in folder.checkpoint_list()
    )
    name = "policy/mlp_extractor.policy_net.0.weight"
    assert torch.equal(initial[name], after_first[name])
    assert not torch.allclose(after_first[name], after_second[name], atol=1e-3)


def test_every_fresh_dqn_explores_before_it_learns_and_a_continuing_one_only_once(tmp_path: Path) -> None:
    def updates(reset: bool) -> list[int]:
        folder = run(tmp_path / str(reset), DQN, reset=reset, mitigations={}, diagnostics={"at": []})
        states = [json.loads((path / "state.json").read_text()) for path in folder.checkpoint_list()]
        return [state["counters"]["gradient_updates"] for state in states]

    # Of 256 environment steps a task, one update every four, but for the first 32 of an agent.
    assert updates(reset=True) == [0, 56, 56]
    assert updates(reset=False) == [0, 56, 120]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    table = {**PPO, "agent": {**PPO["agent"], "learning_rate": 1e30, "max_grad_norm": float("inf")}}
    with pytest.raises(NonFiniteLoss, match=r"not finite after \d+ gradient updates"):
        run(tmp_path, table)
    folder = RunFolder.open(next(tmp_path.iterdir()))
    manifest = folder.read_manifest()
    assert manifest["status"] == "failed"
    assert "not finite" in manifest["error"]
    assert manifest["diverged"]
    assert all(torch.isfinite(tensor).all() for name, tensor in tensors(folder).items() if "policy" in name)


def test_two_runs_of_the_same_second_get_two_folders(tmp_path: Path) -> None:
    spec = validate(PPO, source="test")
    folders = [RunFolder.create(tmp_path, spec, [0, 1]) for _ in range(5)]
    assert len({folder.path for folder in folders}) == 5


def test_a_named_folder_is_made_once_unless_nothing_is_in_it(tmp_path: Path) -> None:
    spec = validate(PPO, source="test")
    (tmp_path / "begun").mkdir()
    assert RunFolder.create(tmp_path, spec, [0, 1], name="begun").path == tmp_path / "begun"
    with pytest.raises(RunFolderError, match="there is a run of that name already"):
        RunFolder.create(tmp_path, spec, [0, 1], name="begun")


def test_a_folder_of_another_schema_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, validate(PPO, source="test"), [0, 1])
    manifest = json.loads((folder.path / "manifest.json").read_text())
    (folder.path / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(RunFolderError, match=r"schema version 99.*reads 1"):
        RunFolder.open(folder.path)
    with pytest.raises(RunFolderError, match="not a run folder"):
        RunFolder.open(tmp_path)


def test_the_schedule_of_exploration_restarts_per_task_or_spans_the_run(tmp_path: Path) -> None:
    rates = {}
    for schedule in ("per-task", "whole-run"):
        folder = run(tmp_path, DQN, schedule=schedule, agent={**DQN["agent"], "exploration_fraction": 1.0})
        states = [json.loads((p / "state.json").read_text()) for p in folder.checkpoint_list()[1:]]
        rates[schedule] = [state["counters"]["exploration_rate"] for state in states]
    np.testing.assert_allclose(rates["per-task"], [0.05, 0.05], atol=0.01)
    np.testing.assert_allclose(rates["whole-run"], [0.525, 0.05], atol=0.01)


def test_the_first_snapshot_of_a_slippery_ant_sees_the_new_friction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference measured the first friction in every phase, because its reset set the clock to 0."""
    seen: list[float] = []
    gather = agents.PPO.gather

    def watched(agent: agents.PPO, env: VecEnv, samples: int, seed: int) -> agents.PPOBatch:
        batch = gather(agent, env, samples, seed)
        seen.append(env.unwrapped.envs[0].unwrapped.model.geom_friction[:, 0].max())  # after the rollout
        return batch

    monkeypatch.setattr(agents.PPO, "gather", watched)
    frictions = {"rule": "list", "values": [2.0, 0.02]}
    ant = {"env": "pliant/SlipperyAnt-v0", "kwargs": {"friction": frictions}, "length": 64, "count": 2}
    agent = {"algorithm": "ppo", "n_steps": 64, "n_epochs": 1, "network": {"hidden": [8]}}
    folder = run(
        tmp_path, {**PPO, "tasks": ant, "agent": agent, "mitigations": {}, "evaluation": {"tasks": "none"}}
    )
    assert seen == [2.0, 2.0, 0.02, 0.02]  # init and end of each task
    moments = [Snapshot.load(folder.snapshots / f"task-00{task}-init.npz") for task in (0, 1)]
    assert [moment.about["task"] for moment in moments] == [0, 1]


def test_a_checkpoint_keeps_what_the_run_puts_beside_the_agent(tmp_path: Path) -> None:
    plan = make_plan(validate(PPO, source="test"), "cpu")
    env = vector_env(plan.sequence[0], 2, 0)
    agent = build_agent(plan.spec, env, seed=0, device=plan.device)
    saved = Position(1, 128, 384, {"rows": 7, "means": [0.1, None]}, {"old": torch.arange(3.0)})
    save_checkpoint(tmp_path / "000000000384", agent, saved)
    loaded = load_checkpoint(tmp_path / "000000000384", agent)
    assert loaded == saved
    assert torch.equal(loaded.tensors["old"], saved.tensors["old"])
    env.close()
