"""What a checkpoint restores, and what becomes of one that is damaged."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from pliant.runs.build import build_agent, vector_env
from pliant.runs.checkpoints.checkpoint import (
    Position,
    load_checkpoint,
    load_networks,
    load_newest,
    save_checkpoint,
)
from pliant.runs.checkpoints.replay_buffer import load_replay_buffer, save_replay_buffer
from pliant.runs.errors import DamagedFile, RunFolderError
from pliant.runs.presets import validate

TASKS = {"env": "CartPole-v1", "length": 64, "count": 1}
PPO = {"algorithm": "ppo", "n_steps": 32, "batch_size": 16, "n_epochs": 1, "network": {"hidden": [4]}}
DQN = {"algorithm": "dqn", "learning_starts": 8, "buffer_size": 50, "network": {"hidden": [4]}}


def agent_of(settings: dict, **changes: object):
    spec = validate({"name": "toy", "tasks": TASKS, "agent": settings, **changes}, source="test")
    env = vector_env(spec.tasks.build(0)[0], spec.agent.n_envs, seed=0)
    return build_agent(spec, env, seed=0, device=torch.device("cpu"))


def saved_at(folder: Path, agent, *steps: int) -> list[Path]:
    """Checkpoints of ``agent``, trained on in between."""
    paths = []
    for step in steps:
        agent.learn(step - agent.num_timesteps, reset_num_timesteps=False)
        paths.append(folder / f"{step:012d}")
        save_checkpoint(paths[-1], agent, Position(0, step, step), run="here")
    return paths


SGD = {**PPO, "optimizer": {"name": "sgd"}}
MOMENTUM = {**PPO, "optimizer": {"name": "sgd", "momentum": 0.9}}


@pytest.mark.parametrize("settings", [PPO, DQN, SGD, MOMENTUM], ids=["ppo", "dqn", "sgd", "momentum"])
def test_an_agent_that_is_loaded_draws_and_learns_as_the_one_that_was_saved(
    tmp_path: Path, settings: dict
) -> None:
    agent = agent_of(settings)
    (path,) = saved_at(tmp_path, agent, 64)
    numbers = (torch.rand(3), np.random.random(3), agent.action_space.sample())
    weights = [p.clone() for p in agent.policy.parameters()]

    other = agent_of(settings)
    assert load_checkpoint(path, other, run="here") == Position(0, 64, 64)
    again = (torch.rand(3), np.random.random(3), other.action_space.sample())
    assert torch.equal(numbers[0], again[0])
    assert numbers[1].tolist() == again[1].tolist()
    assert numbers[2] == again[2]
    assert all(torch.equal(p, q) for p, q in zip(weights, other.policy.parameters(), strict=True))
    kept, restored = (a.policy.optimizer.state_dict()["state"] for a in (agent, other))
    assert all(
        torch.equal(v, restored[i][slot]) for i in kept for slot, v in kept[i].items() if v is not None
    )


@pytest.mark.parametrize("settings", [PPO, DQN], ids=["ppo", "dqn"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, settings: dict
) -> None:
    paths = saved_at(tmp_path, agent_of(settings), 64, 128)
    file = paths[1] / "tensors.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-100] ^= 1  # one bit, within a tensor: the format itself notices nothing
    file.write_bytes(damaged)
    position, problems = load_newest(paths, agent_of(settings), run="here")
    assert position.env_steps == 64
    (problem,) = problems
    assert str(paths[1]) in problem
    assert "tensors.safetensors is not what was written: its checksum differs" in problem


def test_without_any_checkpoint_that_can_be_used_every_one_is_named_with_the_reason(tmp_path: Path) -> None:
    paths = saved_at(tmp_path, agent_of(PPO), 32, 64)
    (paths[0] / "state.json").unlink()
    (paths[1] / "checksums.json").write_text("{")
    with pytest.raises(RunFolderError) as caught:
        load_newest(paths, agent_of(PPO), run="here")
    for expected in (*map(str, paths), "it has no state.json", "Invalid JSON", "start the run anew"):
        assert expected in str(caught.value)


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "replay.npz", "checksums.json"])
def test_whatever_is_missing_or_cut_is_named(tmp_path: Path, file: str) -> None:
    (path,) = saved_at(tmp_path, agent_of(DQN), 64)
    whole = (path / file).read_bytes()
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        (path / file).write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match=str(path)):
            load_checkpoint(path, agent_of(DQN), run="here")
    (path / file).unlink()
    with pytest.raises(RunFolderError, match=r"it has no|carries no checksums"):
        load_checkpoint(path, agent_of(DQN), run="here")


def test_a_checkpoint_of_another_run_or_another_step_or_another_agent_is_refused(tmp_path: Path) -> None:
    (path,) = saved_at(tmp_path, agent_of(PPO), 64)
    with pytest.raises(RunFolderError, match="belongs to the run 'here', not to 'there'"):
        load_checkpoint(path, agent_of(PPO), run="there")
    with pytest.raises(RunFolderError, match="not of this agent"):
        load_checkpoint(path, agent_of({**PPO, "network": {"hidden": [5]}}), run="here")
    with pytest.raises(RunFolderError, match="has no replay"):
        load_checkpoint(path, agent_of(DQN), run="here")
    with pytest.raises(RunFolderError, match=r"'optimizer/0/exp_avg' of shape .* is not of this agent"):
        load_checkpoint(path, agent_of(SGD), run="here")
    moved = shutil.copytree(path, tmp_path / f"{96:012d}")
    with pytest.raises(RunFolderError, match="saved after 64 environment steps"):
        load_checkpoint(moved, agent_of(PPO), run="here")


def test_a_checkpoint_without_checksums_can_be_looked_at_but_not_continued(tmp_path: Path) -> None:
    agent = agent_of(PPO)
    (path,) = saved_at(tmp_path, agent, 64)
    (path / "checksums.json").unlink()
    with pytest.raises(RunFolderError, match="carries no checksums: it was written by an earlier pliant"):
        load_checkpoint(path, agent_of(PPO), run="here")
    other = agent_of(PPO)
    load_networks(path, other)
    assert all(
        torch.equal(p, q) for p, q in zip(agent.policy.parameters(), other.policy.parameters(), strict=True)
    )


def test_what_was_left_half_written_is_removed_and_two_replay_buffers_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".000000000032.4711").mkdir()
    paths = saved_at(tmp_path, agent_of(DQN), 64, 128, 192)
    assert sorted(tmp_path.iterdir()) == paths
    assert [(path / "replay.npz").exists() for path in paths] == [False, True, True]


def test_saving_the_same_moment_again_gives_the_same_bytes(tmp_path: Path) -> None:
    agent = agent_of(DQN)
    (path,) = saved_at(tmp_path, agent, 64)
    first = {file.name: file.read_bytes() for file in path.iterdir()}
    saved_at(tmp_path, agent, 64)
    assert first == {file.name: file.read_bytes() for file in path.iterdir()}


def test_the_files_say_what_they_are(tmp_path: Path) -> None:
    (path,) = saved_at(tmp_path, agent_of(PPO), 64)
    state = json.loads((path / "state.json").read_text())
    assert (state["schema_version"], state["run"]) == (2, "here")
    assert state["position"] == {"task": 0, "task_steps": 64, "env_steps": 64, "beside": {}}
    assert json.loads((path / "checksums.json").read_text())["files"].keys() == {
        "state.json",
        "tensors.safetensors",
    }


# Replay buffers ----------------------------------------------------------------------------------------

IMAGE = spaces.Box(0, 10, (3, 3), np.uint8)


def filled_buffer(kind: type, space: spaces.Space, size: int, rows: int, n_envs: int = 2):
    """A buffer that went through ``rows`` rows of episodes of five environment steps."""
    rng = np.random.default_rng(0)
    buffer = empty_buffer(kind, space, size, n_envs)

    def observation():
        draw = [space.sample() for _ in range(n_envs)]
        if isinstance(space, spaces.Dict):
            return {key: np.stack([one[key] for one in draw]) for key in space}
        return np.stack(draw)

    space.seed(0)
    now = observation()
    for row in range(rows):
        done = np.array([row % 5 == 4] * n_envs)
        following = observation()
        buffer.add(
            now,
            following,
            rng.integers(3, size=n_envs),
            rng.random(n_envs),
            done,
            [{} for _ in range(n_envs)],
        )
        now = observation() if done.any() else following
    return buffer


def empty_buffer(kind: type, space: spaces.Space, size: int, n_envs: int = 2):
    return kind(size * n_envs, space, spaces.Discrete(3), device="cpu", n_envs=n_envs)


def arrays(buffer) -> dict[str, np.ndarray]:
    found = {}
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        array = getattr(buffer, name)
        found |= array if isinstance(array, dict) else {name: array}
    return found


@pytest.mark.parametrize("rows", [0, 1, 7, 20, 33])
@pytest.mark.parametrize(
    ("kind", "space"),
    [
        (ReplayBuffer, IMAGE),
        (ReplayBuffer, spaces.Box(-1, 1, (4,), np.float32)),
        (DictReplayBuffer, spaces.Dict({"image": IMAGE, "compass": spaces.Discrete(4)})),
    ],
    ids=["image", "vector", "dict"],
)
def test_a_replay_buffer_comes_back_as_it_was(tmp_path: Path, kind: type, space, rows: int) -> None:
    before, after = filled_buffer(kind, space, 20, rows), empty_buffer(kind, space, 20)
    save_replay_buffer(before, tmp_path / "replay.npz")
    load_replay_buffer(after, tmp_path / "replay.npz")
    assert (before.pos, before.full) == (after.pos, after.full)
    for (name, one), other in zip(arrays(before).items(), arrays(after).values(), strict=True):
        assert one.tobytes() == other.tobytes(), name


def test_next_observations_are_written_once_and_kept_to_the_byte(tmp_path: Path) -> None:
    space = spaces.Box(-1, 1, (2,), np.float32)
    before, after = empty_buffer(ReplayBuffer, space, 9, 1), empty_buffer(ReplayBuffer, space, 9, 1)
    zero = np.zeros((1, 2), np.float32)
    for following in (
        zero,
        -zero,
        zero * np.nan,
    ):  # equal numbers of other bytes, and one that equals nothing
        before.add(zero, following, np.zeros(1), np.zeros(1), np.zeros(1), [{}])
    save_replay_buffer(before, tmp_path / "replay.npz")
    with np.load(tmp_path / "replay.npz") as file:
        assert file["apart/"].tolist() == [False, True, True]
        assert file["next_observations/"].shape == (2, 1, 2)
    load_replay_buffer(after, tmp_path / "replay.npz")
    assert before.next_observations.tobytes() == after.next_observations.tobytes()


def test_a_replay_buffer_of_another_size_or_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replay.npz"
    save_replay_buffer(filled_buffer(ReplayBuffer, IMAGE, 20, 25), path)
    with pytest.raises(DamagedFile, match=r"expected uint8 of shape \(10, 2, 3, 3\)"):
        load_replay_buffer(empty_buffer(ReplayBuffer, IMAGE, 10), path)
    smaller = spaces.Box(0, 10, (3, 2), np.uint8)
    with pytest.raises(DamagedFile, match=r"expected uint8 of shape \(20, 2, 3, 2\)"):
        load_replay_buffer(empty_buffer(ReplayBuffer, smaller, 20), path)
