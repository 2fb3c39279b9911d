"""Agents go to stable-baselines3 and come from there, the same bit for bit, and nothing is executed."""

import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from pliant.envs import make_env
from pliant.runs import cli
from pliant.runs.build import build_agent, vector_env
from pliant.runs.checkpoints.checkpoint import load_networks
from pliant.runs.checkpoints.sb3 import export_sb3, read_sb3_networks
from pliant.runs.errors import RunFolderError, Sb3FileError
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import dump, validate
from pliant.runs.training import train

BASE = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 256, "count": 2},
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"tasks": "none", "last": "none"},
    "mitigations": {"l2": {"strength": 1e-3}, "effective-rank": {}},
}
NETWORK = {"hidden": [8, 8], "activation": "relu"}
PPO = BASE | {"agent": {"algorithm": "ppo", "n_steps": 64, "n_epochs": 2, "network": NETWORK}}
DQN = BASE | {"agent": {"algorithm": "dqn", "learning_starts": 32, "buffer_size": 300, "network": NETWORK}}
DECAYING = PPO | {"agent": PPO["agent"] | {"learning_rate_end": 1e-5}, "schedule": "whole-run"}
STOCK = {"ppo": stable_baselines3.PPO, "dqn": stable_baselines3.DQN}


def trained(out: Path, table: dict) -> RunFolder:
    plan = make_plan(validate(table, source="test"), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    return folder


def agent_after(folder: RunFolder, task: int):
    plan = make_plan(folder.read_spec(), "cpu")
    agent = build_agent(plan.spec, vector_env(plan.sequence[0], 1, 0), seed=0, device=plan.device)
    load_networks(folder.checkpoint(plan.boundaries[task + 1]), agent)
    return agent


OPENS = """
import sys
sys.modules["pliant"] = None  # importing it is an error
import gymnasium, numpy as np, stable_baselines3
model = stable_baselines3.{name}.load(sys.argv[1], env=gymnasium.make("CartPole-v1"))
observations = np.load(sys.argv[2])
before = model.num_timesteps
np.save(sys.argv[3], model.predict(observations, deterministic=True)[0])
model.learn(128, reset_num_timesteps=False)
print(before, model.num_timesteps)
"""


@pytest.mark.parametrize("table", [PPO, DQN, DECAYING], ids=["ppo", "dqn", "decaying"])
def test_an_exported_agent_acts_and_learns_where_there_is_no_pliant(tmp_path: Path, table: dict) -> None:
    folder = trained(tmp_path / "runs", table)
    kind = table["agent"]["algorithm"]
    assert export_sb3(folder, tmp_path / "model.zip") == 1
    observations = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.save(tmp_path / "observations.npy", observations)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            OPENS.format(name=kind.upper()),
            "model.zip",
            "observations.npy",
            "actions.npy",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before == 512
    assert after >= 512 + 128
    ours = agent_after(folder, 1).predict(observations, deterministic=True)[0]
    assert np.array_equal(ours, np.load(tmp_path / "actions.npy"))
    model = STOCK[kind].load(tmp_path / "model.zip")
    theirs, own = model.policy.state_dict(), agent_after(folder, 1).policy.state_dict()
    assert theirs.keys() == own.keys()
    assert all(torch.equal(theirs[name], own[name]) for name in own)
    assert model.policy.optimizer.state_dict()["state"][0]["step"] > 0


def test_any_checkpoint_at_a_switch_can_be_exported_and_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = trained(tmp_path / "runs", PPO)
    assert export_sb3(folder, tmp_path / "untrained.zip", -1) == -1
    weights = stable_baselines3.PPO.load(tmp_path / "untrained.zip").policy.state_dict()
    own = agent_after(folder, -1).policy.state_dict()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    with pytest.raises(RunFolderError, match="is there already"):
        export_sb3(folder, tmp_path / "untrained.zip")
    with pytest.raises(RunFolderError, match="no checkpoint after task 7; it has those after: -1, 0, 1"):
        export_sb3(folder, tmp_path / "model.zip", 7)
    with pytest.raises(RunFolderError, match="cannot be written"):
        export_sb3(folder, tmp_path / "no" / "model.zip")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mitigations": {"layer-norm": {}}}, "mitigations have changed the networks"),
        (
            {"mitigations": {"mixture-of-experts": {"experts": 2}}},
            r"mitigations have changed the networks \(it has no 'action_net\.bias'\)",
        ),
        (
            {
                "tasks": {"env": "MiniGrid-Empty-5x5-v0", "length": 64},
                "agent": PPO["agent"] | {"network": {"hidden": [4], "extractor": "scaled-flatten"}},
            },
            "features_extractor_class is ScaledFlatten, pliant's own",
        ),
    ],
)
def test_an_agent_that_sb3_has_not_is_refused_with_the_reason(
    tmp_path: Path, changes: dict, reason: str
) -> None:
    folder = trained(tmp_path / "runs", PPO | changes)
    with pytest.raises(Sb3FileError, match=reason):
        export_sb3(folder, tmp_path / "model.zip")
    assert not (tmp_path / "model.zip").exists()


def sb3_zip(path: Path, kind: str, hidden: tuple[int, ...] = (8, 8)) -> Path:
    env = DummyVecEnv([lambda: make_env(make_plan(validate(PPO, source="test"), "cpu").sequence[0])])
    arch = {"pi": list(hidden), "vf": list(hidden)} if kind == "ppo" else list(hidden)
    kwargs = {"net_arch": arch, "activation_fn": torch.nn.ReLU}
    STOCK[kind]("MlpPolicy", env, policy_kwargs=kwargs, seed=3).save(path)
    return path


@pytest.mark.parametrize("table", [PPO, DQN], ids=["ppo", "dqn"])
def test_a_run_begins_with_the_networks_of_an_sb3_zip(call_program, tmp_path: Path, table: dict) -> None:
    kind = table["agent"]["algorithm"]
    model = sb3_zip(tmp_path / "model.zip", kind)
    spec = tmp_path / "toy.toml"
    spec.write_text(dump(validate(table, source="test")))
    out = tmp_path / "results"
    code, _, err = call_program(
        cli.train_agent, spec, "--from-sb3", model, "--trust-pickle", "--out", out, "--seed", "0"
    )
    assert (code, err) == (0, "")
    folder = RunFolder.open(next(out.iterdir()))
    first, original = agent_after(folder, -1).policy.state_dict(), STOCK[kind].load(model).policy.state_dict()
    assert all(torch.equal(first[name], original[name]) for name in original)
    last = agent_after(folder, 1).policy.state_dict()
    assert any(not torch.equal(first[name], last[name]) for name in last)


def test_an_sb3_zip_is_refused_without_trust_and_the_refusal_says_why(call_program, tmp_path: Path) -> None:
    model, spec, out = sb3_zip(tmp_path / "model.zip", "ppo"), tmp_path / "toy.toml", tmp_path / "results"
    spec.write_text(dump(validate(PPO, source="test")))
    code, _, err = call_program(cli.train_agent, spec, "--from-sb3", model, "--out", out)
    assert code == cli.console.BAD_INPUT
    assert "holds pickles, programs that run" in err
    assert "add --trust-pickle" in err
    assert not out.exists()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.mkdir, (self.path,)


def with_member(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()} | {name: content}
    with zipfile.ZipFile(path, "w") as archive:
        for member, value in members.items():
            archive.writestr(member, value)
    return path


def test_not_even_a_trusted_zip_is_executed(tmp_path: Path) -> None:
    plan = make_plan(validate(PPO, source="test"), "cpu")
    canary = tmp_path / "canary"
    torches = io.BytesIO()
    torch.save({"bomb": Canary(canary)}, torches)
    for content in (pickle.dumps(Canary(canary)), torches.getvalue()):
        model = with_member(sb3_zip(tmp_path / "model.zip", "ppo"), "policy.pth", content)
        with pytest.raises(Sb3FileError, match="is no file of stable-baselines3, or damaged"):
            read_sb3_networks(model, plan, trusted=True)
    # and the pickles beside the tensors are not opened at all
    model = with_member(sb3_zip(tmp_path / "model.zip", "ppo"), "data", pickle.dumps(Canary(canary)))
    assert read_sb3_networks(model, plan, trusted=True)
    assert not canary.exists()


def test_zips_that_do_not_fit_or_are_none_are_refused(tmp_path: Path) -> None:
    plan = make_plan(validate(PPO, source="test"), "cpu")
    path = tmp_path / "model.zip"
    with pytest.raises(Sb3FileError, match="there is no file"):
        read_sb3_networks(path, plan, trusted=True)
    for content in (b"", b"PK\x03\x04", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(Sb3FileError, match="is no file of stable-baselines3"):
            read_sb3_networks(path, plan, trusted=True)
    with pytest.raises(Sb3FileError, match=r"has shape \(5, 4\), expected \(8, 4\).*set agent\.network"):
        read_sb3_networks(sb3_zip(path, "ppo", (5, 8)), plan, trusted=True)
    with pytest.raises(Sb3FileError, match="does not fit the agent of toy: it has no 'action_net"):
        read_sb3_networks(sb3_zip(path, "dqn"), plan, trusted=True)
    with pytest.raises(Sb3FileError, match=r"its policy\.pth has 900,000,000 bytes"):
        read_sb3_networks(with_member_claiming(path, 900_000_000), plan, trusted=True)


def with_member_claiming(path: Path, size: int) -> Path:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("policy.pth", "w", force_zip64=True) as member,
    ):
        for _ in range(size // 10**6):
            member.write(bytes(10**6))
    return path
