"""A run that was stopped, however and wherever, ends as if it had not been: to the last bit."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.vec_env import VecEnv

from pliant.diagnostics import Snapshot
from pliant.envs import Task
from pliant.runs import logs, training
from pliant.runs.checkpoints import checkpoint
from pliant.runs.checkpoints.retention import kept_switches, superfluous
from pliant.runs.errors import DiskFull, FolderInUse, RunFolderError, RunInterrupted
from pliant.runs.evaluation import scheduled as evaluation
from pliant.runs.evaluation.afterwards import evaluate
from pliant.runs.execute import execute
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.training import train

SHIFT = {"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}, "ramp": 300}
MEASURE = {
    "samples": 32,
    "every": 100,
    "updates": 5,
    "spectrum": {"depth": 3, "minibatches": 2, "parts": [], "gram_samples": 8},
}
PPO = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 320, "count": 2, "shifts": [SHIFT]},
    "agent": {
        "algorithm": "ppo",
        "n_envs": 2,
        "n_steps": 32,
        "batch_size": 32,
        "n_epochs": 2,
        "learning_rate_end": 1e-5,
        "network": {"hidden": [8]},
    },
    "mitigations": {"l2": {"strength": 1e-4}, "effective-rank": {}},
    "diagnostics": MEASURE,
    "evaluation": {"episodes": 2, "policies": ["deterministic", "stochastic"]},
    "checkpoints": {"every": 100},  # whole rollouts: 128
}
DQN = {
    **PPO,
    "agent": {
        "algorithm": "dqn",
        "learning_starts": 32,
        "buffer_size": 150,
        "n_step_returns": 3,
        "target_update_interval": 50,
        "network": {"hidden": [8]},
    },
    "diagnostics": {**MEASURE, "updates": 20},
}
CLASSIFIER = {
    **PPO,
    "tasks": {
        "env": "pliant/Stream-v0",
        "kwargs": {"samples": 30, "test_samples": 20, "permute_inputs": {"rule": "seed"}},
        "length": 320,
        "count": 2,
        "shifts": [{"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}}],
    },
    "agent": {
        "algorithm": "classifier",
        "batch_size": 2,
        "updates_per_rollout": 16,
        "learning_rate_end": 1e-5,
        "new_head": "redraw",
        "network": {"hidden": [8]},
    },
    "diagnostics": {**MEASURE, "updates": 50, "spectrum": {**MEASURE["spectrum"], "method": "lanczos"}},
}
TABLES = {"ppo": PPO, "dqn": DQN, "classifier": CLASSIFIER}


class Killed(BaseException):
    """What no handler expects: the process is gone."""


def begin(out: Path, table: dict, **changes: object) -> RunFolder:
    plan = make_plan(validate({**table, **changes}, source="test"), "cpu")
    return RunFolder.create(out, plan.spec, plan.boundaries)


def go_on(folder: RunFolder, *, resume: bool = True, stop_after: int | None = None) -> None:
    """Train; with ``stop_after``, Ctrl-C is pressed after so many rollouts."""
    rollouts = iter(range(1_000_000))
    plan = make_plan(folder.read_spec(), "cpu")
    train(
        plan,
        folder,
        lambda _: None,
        lambda: stop_after is not None and next(rollouts) >= stop_after,
        resume=resume,
    )


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Drawing takes nine tenths of the time of these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.SnapshotCallback, "_figures", lambda *_: {})
        yield


Whole = Callable[[str], RunFolder]
Compare = Callable[[RunFolder, RunFolder], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The run of a table that nobody stopped, trained once."""
    runs: dict[str, RunFolder] = {}

    def get(name: str) -> RunFolder:
        if name not in runs:
            runs[name] = begin(tmp_path_factory.mktemp("whole"), TABLES[name])
            go_on(runs[name], resume=False)
        return runs[name]

    return get


@dataclass(frozen=True)
class Place:
    """The n-th call of a function, before it or after it."""

    owner: Any
    name: str
    call: int = 1
    after: bool = False


def die(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, place: Place, *, resume: bool = True) -> None:
    function, calls = getattr(place.owner, place.name), count(1)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        last = next(calls) == place.call
        if last and not place.after:
            raise Killed
        result = function(*args, **kwargs)
        if last:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(place.owner, place.name, deadly)
        with pytest.raises(Killed):
            go_on(folder, resume=resume)


def places(table: dict) -> dict[str, Place]:
    """In such an order that each is reached soon after the checkpoint before the last one."""
    files = 5 if table is DQN else 4  # two or three and their checksums, and the folder that holds them
    return {
        "before the first checkpoint": Place(checkpoint, "_write_files"),
        "when the untrained agent has played": Place(evaluation, "append_rows"),
        "while progress.csv gets a column": Place(logs, "_widen"),
        "in a rollout": Place(training.RunMonitor, "_on_step", 50),
        "in an update": Place(training.Agent, "_descend", 7, after=True),
        "while a checkpoint is written": Place(checkpoint, "_write_files", after=True),
        "when a checkpoint has its name": Place(checkpoint, "_sync", files + 1, after=True),
        "while an old checkpoint is removed": Place(RunFolder, "remove_checkpoint"),
        "in an evaluation": Place(evaluation, "play"),
        "when an evaluation is recorded": Place(evaluation, "append_rows"),
        "when an evaluation is written down": Place(training, "log_evaluation"),
        "in a snapshot": Place(training.SnapshotCallback, "_take"),
        "when a snapshot is saved": Place(training.SnapshotCallback, "_log"),
        "in a later rollout": Place(training.RunMonitor, "_on_step", 120),
        "at the very end": Place(RunFolder, "set_status", 3),
    }


@pytest.mark.parametrize("name", TABLES)
def test_a_run_that_dies_at_every_place_ends_as_one_that_never_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole, assert_equal_runs: Compare, name: str
) -> None:
    folder = begin(tmp_path, TABLES[name])
    for index, place in enumerate(places(TABLES[name]).values()):
        die(folder, monkeypatch, place, resume=index > 0)
    go_on(folder)
    assert_equal_runs(whole(name), folder)


def test_ctrl_c_says_from_where_the_run_goes_on_and_loses_nothing(
    tmp_path: Path, whole: Whole, assert_equal_runs: Compare
) -> None:
    folder = begin(tmp_path, PPO)
    with pytest.raises(RunInterrupted, match=r"^from environment step 128$"):
        go_on(folder, resume=False, stop_after=3)  # after 192 environment steps
    assert folder.read_manifest()["status"] == "interrupted"
    go_on(folder)
    assert_equal_runs(whole("ppo"), folder)


def test_a_damaged_newest_checkpoint_is_told_and_the_one_before_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole, assert_equal_runs: Compare
) -> None:
    folder = begin(tmp_path, DQN)
    die(folder, monkeypatch, Place(training.RunMonitor, "_on_step", 250), resume=False)
    newest = folder.checkpoint_list()[-1]
    assert int(newest.name) == 200
    file = newest / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.warns(RuntimeWarning, match=r"000000000200.*checksum differs; going on from .* step 100"):
        go_on(folder)
    assert_equal_runs(whole("dqn"), folder)


def test_a_folder_that_was_moved_and_a_clock_that_was_set_back_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole, assert_equal_runs: Compare
) -> None:
    folder = begin(tmp_path, PPO)
    die(folder, monkeypatch, Place(training.RunMonitor, "_on_step", 100), resume=False)
    moved = RunFolder.open(folder.path.rename(tmp_path / "another name"))
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() - 86_400 * 365)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() - 86_400 * 365 * 10**9)
    go_on(moved)
    assert_equal_runs(whole("ppo"), moved)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_fresh_agents_and_schedules_over_the_whole_run_survive_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_equal_runs: Compare, table: dict
) -> None:
    changes = {
        "reset": True,
        "schedule": "whole-run",
        "diagnostics": {**MEASURE, "updates": 0, "at": ["end"]},
    }
    whole, folder = begin(tmp_path / "whole", table, **changes), begin(tmp_path / "stopped", table, **changes)
    go_on(whole, resume=False)
    calls = {"ppo": 260, "dqn": 500, "classifier": 240}[
        table["agent"]["algorithm"]
    ]  # within the second task, after a checkpoint of it
    die(folder, monkeypatch, Place(training.RunMonitor, "_on_step", calls), resume=False)
    assert 320 < int(folder.checkpoint_list()[-1].name) < 640
    go_on(folder)
    assert_equal_runs(whole, folder)


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole, assert_equal_runs: Compare
) -> None:
    folder = begin(tmp_path, PPO)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, name in ((logs.EpisodeCsv, "write"), (logs, "_sync"), (Snapshot, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(DiskFull, match=r"no room left .* go on with --resume"):
                go_on(folder, resume=owner is not logs.EpisodeCsv)
        assert "no room" in folder.read_manifest()["error"]
    go_on(folder)
    assert_equal_runs(whole("ppo"), folder)


def test_rows_of_a_process_that_was_killed_within_a_line_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole, assert_equal_runs: Compare
) -> None:
    folder = begin(tmp_path, PPO)
    die(folder, monkeypatch, Place(evaluation, "append_rows", 2, after=True), resume=False)
    for file in (folder.progress_file, folder.episodes_file, folder.evaluation_file):
        text = file.read_text()
        file.write_text(text[: text.rindex("\n", 0, -1) + 4])
    (folder.replays / ".after-000-on-000.npz.123").write_bytes(b"half of a fi")
    (folder.checkpoints / ".000000000448.123").mkdir()
    (folder.path / ".manifest.json.123").write_text("{")
    with pytest.warns(
        RuntimeWarning, match="has lost 1 of the"
    ):  # here, of rows that a checkpoint counted on
        go_on(folder)
    names = {path.name for path in folder.path.rglob(".*")}
    assert names == {".lock"}
    assert folder.evaluation_file.read_text() == whole("ppo").evaluation_file.read_text()


def test_the_program_tells_of_a_damaged_checkpoint_in_one_line(tmp_path: Path) -> None:
    """In a process of its own: here, pytest turns warnings into errors."""
    folder = begin(tmp_path, PPO, diagnostics={"at": []}, evaluation={"tasks": "none"})
    with pytest.raises(RunInterrupted):
        go_on(folder, resume=False, stop_after=4)
    newest = folder.checkpoint_list()[-1]
    (newest / "state.json").write_text("{")
    program = "from pliant.runs.cli import train_agent; train_agent()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--resume", folder.path],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: the checkpoint {str(newest)!r} cannot be used: ")
    assert line.endswith("; going on from environment step 128")
    assert folder.read_manifest()["status"] == "complete"


# Who may write ----------------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused_by_training_and_by_evaluation(tmp_path: Path) -> None:
    folder = begin(tmp_path, PPO)
    go_on(folder, resume=False, stop_after=None)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with folder.locked():
        with pytest.raises(FolderInUse, match=rf"in use by process {os.getpid()} on .*wait until it is done"):
            go_on(folder)
        with pytest.raises(FolderInUse):
            evaluate(folder, episodes=3)
        outcome = execute(folder.path, "cpu", lambda _: None, lambda: False, resume=True)
    assert outcome.status == "failed"
    assert "in use by process" in outcome.message
    after = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} <= {".lock"}


def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    folder, entered = begin(tmp_path, PPO), False
    with pytest.warns(RuntimeWarning, match="file system without locks: see to it"), folder.locked():
        entered = True
    assert entered


def test_a_folder_that_cannot_be_locked_is_refused(tmp_path: Path) -> None:
    folder = begin(tmp_path, PPO)
    (folder.path / ".lock").mkdir()
    with pytest.raises(RunFolderError, match="cannot be locked, so nothing was written: Is a directory"):
        go_on(folder, resume=False)


@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"logs": 3},
        {"logs": {"progress_rows": -1, "episode_rows": 0, "board": {"file": "x", "size": 0}, "pending": {}}},
        {"logs": {"progress_rows": 0, "episode_rows": 0, "board": {"file": "x", "size": 0}, "pending": {}}},
    ],
)
def test_a_checkpoint_without_what_the_run_keeps_in_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: dict
) -> None:
    folder = begin(tmp_path, PPO)
    save = training.save_checkpoint
    monkeypatch.setattr(
        training,
        "save_checkpoint",
        lambda path, agent, position, run: save(path, agent, replace(position, beside=beside), run),
    )
    with pytest.raises(RunInterrupted):
        go_on(folder, resume=False, stop_after=3)
    with pytest.raises(RunFolderError, match=r"after 128 .* does not say how .*; delete it to go on"):
        go_on(folder)


# What is kept -----------------------------------------------------------------------------------------------


def test_reset_points_are_whole_rollouts_and_end_with_the_task() -> None:
    def points(every: int) -> list[int]:
        spec = validate({**PPO, "checkpoints": {"every": every}}, source="test")  # rollouts of 64
        return spec.reset_points(spec.task_steps(310))

    assert points(0) == points(320) == points(10**9) == [320]
    assert points(1) == points(64) == [64, 128, 192, 256, 320]
    assert points(100) == points(128) == [128, 256, 320]


def test_ramps_go_on_at_a_reset_point_and_every_one_has_episodes_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []
    vector_env = training.vector_env

    def watched(task: Task, n_envs: int, seed: int, elapsed: int = 0) -> VecEnv:
        made.append((seed, elapsed))
        return vector_env(task, n_envs, seed, elapsed)

    folder = begin(tmp_path, PPO, diagnostics={"at": []}, evaluation={"tasks": "none"})
    monkeypatch.setattr(training, "vector_env", watched)
    go_on(folder, resume=False)
    (_, *tasks) = made  # the first is there for its spaces
    assert [elapsed for _, elapsed in tasks] == [0, 128, 256] * 2
    assert len({seed for seed, _ in tasks}) == 6


def test_kept_switches_are_evenly_spaced_and_few() -> None:
    assert kept_switches(5, keep=100) == [0, 1, 2, 3, 4, 5]
    assert kept_switches(10, keep=4) == [0, 3, 6, 9, 10]
    for tasks in range(1, 300):
        for keep in (1, 2, 7, 100):
            kept = kept_switches(tasks, keep)
            assert len(kept) <= keep + 1
            assert kept[0] == 0
            assert kept[-1] == tasks


def test_the_newest_stay_and_of_the_older_those_at_switches() -> None:
    saved = [0, 100, 200, 300, 400, 500]
    assert superfluous(saved, [0, 300, 600], newest=2, switches=9) == [100, 200]
    assert superfluous(saved, [0, 300, 600], newest=3, switches=1) == [100, 200]
    assert superfluous([0, 300, 600], [0, 300, 600], newest=1, switches=1) == [300]
    assert superfluous([0], [0, 300], newest=2, switches=1) == []


def test_a_run_of_many_tasks_keeps_few_checkpoints(tmp_path: Path) -> None:
    folder = begin(
        tmp_path,
        PPO,
        tasks={"env": "CartPole-v1", "length": 64, "count": 10},
        checkpoints={"every": 0, "keep": 2, "keep_switches": 3},
        diagnostics={"at": []},
        evaluation={"tasks": "none"},
    )
    go_on(folder, resume=False)
    assert [int(path.name) // 64 for path in folder.checkpoint_list()] == [0, 4, 8, 9, 10]
    with pytest.raises(
        RunFolderError, match="no checkpoint after task 4; it has those after: -1, 3, 7, 8, 9"
    ):
        evaluate(folder, after_tasks=[4])
