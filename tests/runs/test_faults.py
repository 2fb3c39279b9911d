"""What goes wrong while a run is under way: it is told in a sentence, and the run goes on where it stood.

Kills, damaged checkpoints, clocks and disks that are full for logs and snapshots are in test_resume and
test_kills, files of enemies in test_hostile_files.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pliant.runs import folder as folder_module
from pliant.runs import training
from pliant.runs.build import vector_env
from pliant.runs.checkpoints import tensors
from pliant.runs.errors import EnvironmentFault, RunFolderError
from pliant.runs.evaluation import scheduled as evaluation
from pliant.runs.execute import execute
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import dump, validate
from pliant.runs.training import train


class Faulty(gymnasium.Env):
    """Two numbers and two actions; does what ``fault`` says from its environment step ``at`` on."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    fault = ""
    at = 0
    steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._left = 20
        if self._due("raise in reset"):
            raise KeyError("level 3")
        if self._due("other spaces"):
            self.observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        Faulty.steps += 1
        self._left -= 1
        if self._due("raise"):
            raise ZeroDivisionError("float division by zero")
        reward = float("nan") if self._due("nan reward") else 1.0
        return self._observation(), reward, self._left == 0, False, {}

    def _observation(self) -> Any:
        if self._due("other shape"):
            return np.zeros(3, np.float32)
        return np.full(2, np.nan, np.float32) if self._due("nan") else self.np_random.random(2, np.float32)

    def _due(self, fault: str) -> bool:
        return Faulty.fault == fault and Faulty.steps >= Faulty.at


TABLE = {
    "name": "faulty",
    "tasks": {"env": "Faulty-v0", "length": 128, "count": 2},
    "agent": {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "n_epochs": 1, "network": {"hidden": [4]}},
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"tasks": "none", "last": "none"},
}


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faulty]]:
    gymnasium.register("Faulty-v0", lambda **_: Faulty())
    monkeypatch.setattr(Faulty, "fault", "")
    monkeypatch.setattr(Faulty, "steps", 0)
    monkeypatch.setattr(Faulty, "at", 200)  # in the second task
    yield Faulty
    gymnasium.registry.pop("Faulty-v0")


def begun(out: Path) -> RunFolder:
    plan = make_plan(validate(TABLE, source="test"), "cpu")
    return RunFolder.create(out, plan.spec, plan.boundaries)


def carry_out(folder: RunFolder, *, resume: bool = False):
    return execute(folder.path, "cpu", lambda _: None, lambda: False, resume=resume)


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.checkpoint_list()[-1] / "tensors.safetensors")


FAULTS = {
    "raise": r"raised ZeroDivisionError in step\(.*\): float division by zero",
    "raise in reset": r"raised KeyError in reset\(\): 'level 3'",
    "nan": "gave an observation that is not finite",
    "nan reward": "gave the reward nan",
    "other shape": r"gave an observation of shape \(3,\), its space has \(2,\)",
    "other spaces": "has other spaces than when it was made",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_environment_is_named_and_the_mended_run_equals_one_without_fault(
    tmp_path: Path, faulty: type[Faulty], fault: str
) -> None:
    whole = begun(tmp_path / "whole")
    assert carry_out(whole).status == "complete"
    folder = begun(tmp_path / "faulty")
    faulty.fault, faulty.steps = fault, 0
    outcome = carry_out(folder)
    assert outcome.status == "failed"
    with pytest.raises(EnvironmentFault, match=FAULTS[fault]):
        raise EnvironmentFault(outcome.message)
    assert "go on with --resume" in outcome.message
    assert folder.read_manifest()["status"] == "failed"
    assert folder.checkpoint_list()[-1].name == f"{128:012d}"
    assert "EnvironmentFault" in (folder.path / "error.txt").read_text()

    faulty.fault = ""
    assert carry_out(folder, resume=True).status == "complete"
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(folder).items())
    assert folder.episodes_file.read_bytes() == whole.episodes_file.read_bytes()


def test_the_guard_changes_nothing_of_an_environment(faulty: type[Faulty]) -> None:
    plan = make_plan(validate(TABLE, source="test"), "cpu")
    env, plain = vector_env(plan.sequence[0], 1, seed=3), Faulty()
    assert env.reset()[0].tolist() == plain.reset(seed=3)[0].tolist()
    for _ in range(10):
        assert env.step([0])[0][0].tolist() == plain.step(0)[0].tolist()


def test_a_run_folder_that_vanishes_is_told_and_is_not_made_again(
    tmp_path: Path, faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path)
    save = training.save_checkpoint

    def vanish(path: Path, *rest: Any) -> None:
        if path.name == f"{128:012d}":
            shutil.rmtree(folder.path)
        save(path, *rest)

    monkeypatch.setattr(training, "save_checkpoint", vanish)
    plan = make_plan(folder.read_spec(), "cpu")
    with pytest.raises(RunFolderError, match=r"cannot be written: No such file.*go on with --resume"):
        train(plan, folder, lambda _: None, lambda: False)
    assert not folder.path.exists()


HANGS = """
import sys, time
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
class Hanging(CartPoleEnv):
    count = 0
    def step(self, action):
        Hanging.count += 1
        if Hanging.count == 100:
            print("hanging", file=sys.stderr, flush=True)
            time.sleep(1000)
        return super().step(action)
gymnasium.register("Hanging-v0", Hanging, max_episode_steps=50)
from pliant.runs.cli import train_agent
train_agent()
"""


def test_an_environment_that_hangs_is_left_by_the_second_ctrl_c(tmp_path: Path) -> None:
    table = TABLE | {"tasks": {"env": "Hanging-v0", "length": 64, "count": 4}}
    spec = tmp_path / "hanging.toml"
    spec.write_text(dump(validate(table, source="test")))
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, str(spec), "--out", str(tmp_path / "results")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert any("hanging" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)  # asks for a stop between two rollouts, which never comes
            assert any("stopping at the next rollout" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in rest
    folder = RunFolder.open(next((tmp_path / "results").iterdir()))
    assert folder.read_manifest()["status"] == "interrupted"
    assert folder.checkpoint_list()[-1].name == f"{64:012d}"


LIMITED = """
import resource, sys
from pathlib import Path
from pliant.runs.execute import execute
from pliant.runs.cli import console
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
outcome = execute(Path(sys.argv[1]), "cpu", lambda _: None, lambda: False, resume=sys.argv[3] == "resume")
print(outcome.status, outcome.message)
"""


def test_files_that_the_system_lets_grow_no_further_stop_the_run_which_then_goes_on(tmp_path: Path) -> None:
    table = TABLE | {"tasks": {"env": "CartPole-v1", "length": 128, "count": 2}}
    plan = make_plan(validate(table, source="test"), "cpu")
    whole, folder = (RunFolder.create(tmp_path / name, plan.spec, plan.boundaries) for name in "ab")

    def program(path: Path, limit: int, how: str = "start") -> str:
        command = [sys.executable, "-c", LIMITED, str(path), str(limit), how]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert program(whole.path, 0).startswith("complete")
    # Between the tensors of the first checkpoint and those of the second, which hold Adam's moments too.
    told = program(folder.path, 10_000)
    assert told.startswith("failed")
    assert "cannot be written: File too large" in told
    assert "go on with --resume" in told
    assert not list(folder.checkpoints.glob(".*"))
    assert program(folder.path, 0, "resume").startswith("complete")
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(folder).items())


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (tensors, "save", 1),
        (Path, "write_text", 2),  # state.json and checksums.json, and others
        (evaluation, "append_rows", 1),
        (np, "savez_compressed", 1),  # replays
        (folder_module, "write_atomically", 3),
    ],
    ids=["tensors", "texts", "evaluation.csv", "replays", "manifest"],
)
def test_a_disk_that_is_full_for_any_file_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int
) -> None:
    table = TABLE | {"tasks": {"env": "CartPole-v1", "length": 64, "count": 2}, "evaluation": {"episodes": 1}}
    plan = make_plan(validate(table, source="test"), "cpu")
    whole, folder = (RunFolder.create(tmp_path / one, plan.spec, plan.boundaries) for one in "ab")
    assert carry_out(whole).status == "complete"
    write, count = getattr(owner, name), 0

    def full(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count > calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        outcome = carry_out(folder)
    assert outcome.status == "failed"
    assert re.search(r"(no room left|No space left on device).*go on with --resume", outcome.message)
    assert carry_out(folder, resume=True).status == "complete"
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(folder).items())
    assert folder.evaluation_file.read_bytes() == whole.evaluation_file.read_bytes()


def test_what_is_written_beside_a_checkpoint_does_not_outlive_an_error(
    tmp_path: Path, faulty: type[Faulty], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path)
    rename, calls = Path.rename, 0

    def failing(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += "checkpoints" in str(self)
        if calls == 2:
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    outcome = carry_out(folder)
    assert outcome.status == "failed"
    assert "cannot be written: Permission denied; those before it are untouched" in outcome.message
    assert [path.name for path in folder.checkpoints.iterdir()] == [f"{0:012d}"]
    monkeypatch.undo()
    gymnasium.registry.pop("Faulty-v0", None)
    gymnasium.register("Faulty-v0", lambda **_: Faulty())
    assert carry_out(folder, resume=True).status == "complete"
    assert os.listdir(folder.checkpoints)


def test_the_table_of_faults_names_tests_that_there_are() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"`(test_\w+)::(test_\w+)`", (root / "docs" / "faults.md").read_text())
    assert len(named) > 20
    for module, name in named:
        (file,) = (root / "tests").rglob(f"{module}.py")
        assert f"def {name}(" in file.read_text(), (module, name)
