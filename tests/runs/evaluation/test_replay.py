"""Replays: exact, or the first difference named; films of them; evaluation of a saved run."""

import ctypes.util
import dataclasses
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pliant.envs import Task, make_env
from pliant.runs.build import build_agent, vector_env
from pliant.runs.cli import console
from pliant.runs.errors import ProcessKilled, RunFolderError, SpecError
from pliant.runs.evaluation import afterwards as evaluation_afterwards
from pliant.runs.evaluation import recording, rendering, video
from pliant.runs.evaluation.afterwards import evaluate
from pliant.runs.evaluation.playing import Assignment, play
from pliant.runs.evaluation.recording import Episode, Replays
from pliant.runs.evaluation.rendering import RenderingError
from pliant.runs.evaluation.replay import difference, find_replays
from pliant.runs.evaluation.table import read_rows
from pliant.runs.evaluation.video import VideoError, captioned, check_video_file, side_by_side, write_video
from pliant.runs.folder import RunFolder, installed_versions
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.training import train
from pliant.runs.workers import WorkerDied, Workers

AGENT = {"algorithm": "ppo", "n_steps": 64, "n_epochs": 1, "network": {"hidden": [8]}}
NOISE = [
    {"type": "observation-noise", "std": 0.1},
    {"type": "sticky-action", "probability": 0.2},
    {"type": "observation-offset", "std": 1.0, "seed": 3, "ramp": 64},
]
WORLDS = {
    "CartPole": {"env": "CartPole-v1", "length": 128},
    "CartPole, shifted": {"env": "CartPole-v1", "length": 128, "shifts": NOISE},
    "Acrobot": {"env": "Acrobot-v1", "length": 128},
    "MiniGrid": {"env": "MiniGrid-DoorKey-5x5-v0", "length": 128},
    "Ant": {"env": "pliant/SlipperyAnt-v0", "kwargs": {"friction": 0.1}, "length": 128},
}


def recorded(tasks: dict, count: int, max_length: int, path: Path, *, observations: bool = False) -> Replays:
    """``count`` episodes of an untrained agent, half of them stochastic, through a file and back."""
    table = {"name": "toy", "tasks": tasks, "agent": AGENT}
    plan = make_plan(validate(table, source="test"), "cpu")
    agent = build_agent(plan.spec, vector_env(plan.sequence[0], 1, 0), seed=0, device=plan.device)
    wanted = [Assignment(0, n, ("deterministic", "stochastic")[n % 2], 100 + n) for n in range(count)]
    episodes = play(agent, plan.sequence.tasks, wanted, max_length=max_length, observations=observations)
    Replays(plan.sequence[0], -1, 0, 0, installed_versions(), tuple(episodes)).save(path)
    return Replays.load(path)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Replays:
    return recorded(WORLDS["CartPole"], 3, 1000, tmp_path_factory.mktemp("replays") / "one.npz")


# Exactness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", WORLDS.values(), ids=WORLDS)
def test_episodes_replay_exactly(tasks: dict, tmp_path: Path) -> None:
    replays = recorded(tasks, 4, 30, tmp_path / "replays.npz")
    assert [difference(replays, one) for one in replays.episodes] == [""] * 4


@pytest.mark.slow
@pytest.mark.parametrize("tasks", WORLDS.values(), ids=WORLDS)
def test_twenty_whole_episodes_of_each_world_replay_exactly(tasks: dict, tmp_path: Path) -> None:
    replays = recorded(tasks, 20, 1000, tmp_path / "replays.npz")
    assert [difference(replays, one) for one in replays.episodes] == [""] * 20


def test_a_record_of_twenty_episodes_takes_kilobytes(tmp_path: Path) -> None:
    recorded(WORLDS["CartPole"], 20, 1000, path := tmp_path / "replays.npz")
    assert path.stat().st_size < 20_000


def changed(replays: Replays, **changes: object) -> tuple[Replays, Episode]:
    episode = dataclasses.replace(replays.episodes[1], **changes)
    return replays, episode


def test_a_changed_action_is_located_at_the_step_that_it_changes(cartpole: Replays) -> None:
    actions = cartpole.episodes[1].actions.copy()
    actions[6] = 1 - actions[6]
    said = difference(*changed(cartpole, actions=actions))
    assert said.startswith("the observation after step 7 differs")


def test_a_changed_reward_is_located_with_both_numbers(cartpole: Replays) -> None:
    rewards = cartpole.episodes[1].rewards.copy()
    rewards[4] = np.nextafter(1.0, 2.0)
    said = difference(*changed(cartpole, rewards=rewards))
    assert said == "the reward of step 5 is 1.0, recorded 1.0000000000000002"


def test_a_changed_seed_is_located_at_the_reset(cartpole: Replays) -> None:
    said = difference(*changed(cartpole, seed=5))
    assert said == "the first observation, at the reset, differs"


@pytest.mark.filterwarnings("ignore:.*CartPole-v0 is out of date")
def test_a_changed_version_of_the_environment_is_located_and_changed_packages_are_named(
    tmp_path: Path,
) -> None:
    balanced = {"env": "CartPole-v1", "length": 128, "kwargs": {"max_episode_steps": 12}}
    replays = recorded(balanced, 1, 1000, tmp_path / "replays.npz")
    (episode,) = replays.episodes
    assert episode.length <= 12
    shorter = Task(env="CartPole-v0", length=128, kwargs={"max_episode_steps": episode.length - 2})
    old = dataclasses.replace(replays, task=shorter, versions={**replays.versions, "gymnasium": "0.1"})
    said = difference(old, episode)
    assert f"truncated after step {episode.length - 2}, the recorded one took {episode.length}" in said
    assert f"(gymnasium 0.1 then, {replays.versions['gymnasium']} now)" in said


def test_changed_physics_are_located_with_the_entry_where_observations_were_kept(tmp_path: Path) -> None:
    replays = recorded(WORLDS["CartPole"], 1, 1000, tmp_path / "replays.npz", observations=True)
    heavier = {"type": "physics", "parameter": "gravity", "value": 9.9}
    other = dataclasses.replace(replays, task=Task(env="CartPole-v1", length=128, shifts=[heavier]))
    said = difference(other, replays.episodes[0])
    assert said.startswith("the observation after step 1 differs, most in entry (3,): ")
    assert said.count("np.float32") == 2


def test_an_action_that_the_environment_refuses_is_named(cartpole: Replays) -> None:
    actions = cartpole.episodes[1].actions.copy()
    actions[2] = 9
    assert difference(*changed(cartpole, actions=actions)).startswith("step 3: the environment refuses")


def test_a_record_that_stops_early_is_noticed(cartpole: Replays) -> None:
    whole = cartpole.episodes[1]
    said = difference(
        *changed(cartpole, actions=whole.actions[:-1], rewards=whole.rewards[:-1], hashes=whole.hashes[:-1])
    )
    assert "is not over, recorded as terminated" in said


# Files -----------------------------------------------------------------------------------------------------


def test_nothing_in_a_file_of_replays_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "replays.npz"
    recorded(WORLDS["CartPole"], 1, 10, path)
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
        arrays = dict(file)
    np.savez(path, **{**arrays, "actions": np.array([print], dtype=object)})
    with pytest.raises(RunFolderError, match="not a file of replays, or damaged"):
        Replays.load(path)


@pytest.mark.parametrize("keep", [0, 40, 400])
def test_a_damaged_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "replays.npz"
    recorded(WORLDS["CartPole"], 1, 10, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RunFolderError, match=r"replays\.npz' is not a file of replays, or damaged"):
        Replays.load(path)


def test_a_file_of_another_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "replays.npz"
    recorded(WORLDS["CartPole"], 1, 10, path)
    monkeypatch.setattr(recording, "SCHEMA_VERSION", 0)
    with pytest.raises(RunFolderError, match="schema version 1, this pliant reads 0; update pliant"):
        Replays.load(path)


def test_dict_observations_are_hashed_by_key_whatever_their_order() -> None:
    one, other, third = recording.ObservationHash(), recording.ObservationHash(), recording.ObservationHash()
    a, b = np.arange(3), np.ones(2)
    assert one.add({"a": a, "b": b}) == other.add({"b": b, "a": a})
    assert one.hexdigest() != third.hexdigest()
    assert third.add({"a": b, "b": a}) != one.add({"a": a, "b": b})


# A saved run -----------------------------------------------------------------------------------------------

SHIFT = {"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}}
TABLE = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 128, "count": 3, "shifts": [SHIFT]},
    "agent": AGENT,
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"episodes": 2, "policies": ["deterministic", "stochastic"]},
}


def trained(out: Path, **evaluation: object) -> RunFolder:
    table = {**TABLE, "evaluation": {**TABLE["evaluation"], **evaluation}}
    plan = make_plan(validate(table, source="test"), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained(tmp_path_factory.mktemp("results"))


def test_evaluating_afterwards_gives_what_the_run_would_have_written(tmp_path: Path) -> None:
    during, afterwards = trained(tmp_path / "a", tasks="all"), trained(tmp_path / "b", tasks="none")
    done = evaluate(afterwards)
    assert (done.played, done.present) == (4 * 3 * 2 * 2, 0)
    assert afterwards.evaluation_file.read_text() == during.evaluation_file.read_text()
    for key, (path,) in during.replay_files().items():
        (other,) = afterwards.replay_files()[key]
        for one, same in zip(Replays.load(path).episodes, Replays.load(other).episodes, strict=True):
            assert one.digest == same.digest


def test_what_is_there_is_neither_played_again_nor_changed(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    before = folder.evaluation_file.read_text()
    files = {path: path.read_bytes() for paths in folder.replay_files().values() for path in paths}
    done = evaluate(folder, after_tasks=[0], on_tasks=[1, 2], episodes=3, policies=["deterministic"])
    assert (done.played, done.present) == (1 + 3, 2)
    after = folder.evaluation_file.read_text()
    assert after.startswith(before)
    assert [row.key for row in read_rows(folder.evaluation_file)][-4:] == [
        (0, 1, 2, "deterministic"),
        *((0, 2, episode, "deterministic") for episode in range(3)),
    ]
    assert all(path.read_bytes() == content for path, content in files.items())
    assert [path.name for path in folder.replay_files()[0, 1]] == [
        "after-000-on-001.npz",
        "after-000-on-001-2.npz",
    ]
    assert evaluate(folder, after_tasks=[0], on_tasks=[1, 2], policies=["deterministic"]).played == 0


def test_episodes_that_were_not_recorded_can_be_recorded_later(tmp_path: Path) -> None:
    folder = trained(tmp_path, replays=False)
    rows = folder.evaluation_file.read_text()
    assert evaluate(folder, after_tasks=[2], replays=False).played == 0
    assert evaluate(folder, after_tasks=[2]).played == 3 * 2 * 2
    assert folder.evaluation_file.read_text() == rows
    assert len(find_replays(folder, after_task=2)) == 12


@pytest.mark.slow
def test_checkpoints_in_parallel_give_the_same_rows(tmp_path: Path) -> None:
    one, other = trained(tmp_path / "a", tasks="none"), trained(tmp_path / "b", tasks="none")
    evaluate(one, on_tasks=[0])
    evaluate(other, on_tasks=[0], jobs=2)
    assert sorted(one.evaluation_file.read_text()) == sorted(other.evaluation_file.read_text())
    assert {*read_rows(one.evaluation_file)} == {*read_rows(other.evaluation_file)}


def test_checkpoints_and_tasks_that_are_not_there_are_named(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="no checkpoint after task 7; it has those after: -1, 0, 1, 2"):
        evaluate(folder, after_tasks=[7])
    with pytest.raises(SpecError, match="no task 9; the run has the tasks 0 to 2"):
        evaluate(folder, on_tasks=[9])


def test_replay_checks_all_that_is_recorded_and_says_so(command, folder: RunFolder) -> None:
    code, out, err = command("replay", folder.path)
    assert (code, err) == (0, "")
    assert out.count("exact") == len(out.splitlines()) == len(find_replays(folder))
    code, out, _ = command(
        "replay", folder.path, "--after-task", 2, "--on-task", 0, "--episode", 1, "--policy", "stochastic"
    )
    assert (code, out.count("exact")) == (0, 1)
    assert out.startswith("after task 2 on task 0, episode 1, stochastic: exact, ")


def test_replay_exits_with_1_and_the_place_where_an_episode_differs(command, tmp_path: Path) -> None:
    folder = trained(tmp_path)
    (path,) = folder.replay_files()[0, 0]
    replays = Replays.load(path)
    path.unlink()
    dataclasses.replace(replays, episodes=(changed(replays, seed=1)[1],)).save(path)
    code, out, err = command("replay", folder.path, "--after-task", 0, "--on-task", 0)
    assert (code, out) == (console.FAILED, "")
    assert "differs: the first observation, at the reset, differs" in err
    assert "1 of 1 episodes differ" in err
    film = tmp_path / "film.gif"
    code, _, err = command("replay", folder.path, "--after-task", 0, "--on-task", 0, "--video", film)
    assert code == console.BAD_INPUT
    assert "nothing was written" in err
    assert not film.exists()


def test_a_damaged_file_does_not_stop_the_check_of_the_others(command, tmp_path: Path) -> None:
    folder = trained(tmp_path, tasks="all", episodes=1)
    files = [path for paths in folder.replay_files().values() for path in paths]
    files[0].write_bytes(files[0].read_bytes()[:100])
    code, out, err = command("replay", folder.path)
    assert code == console.FAILED
    assert out.count("exact") == 2 * (len(files) - 1)
    assert files[0].name in err
    assert "1 file of records could not be read" in err


def test_a_killed_process_costs_its_own_checkpoint_alone(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll = Workers.poll

    def polled(workers: Workers[int, Any], timeout: float) -> list[tuple[int, Any]]:
        return [(key, WorkerDied("killed") if key == 1 else end) for key, end in poll(workers, timeout)]

    monkeypatch.setattr(Workers, "poll", polled)
    results = evaluation_afterwards._results(folder, "cpu", {0: [], 1: [], 2: []}, False, 2)
    assert sorted(islice(results, 2)) == [(0, []), (2, [])]
    with pytest.raises(
        ProcessKilled, match="after task 1 was not evaluated: killed\nwhat was played is kept"
    ):
        next(results)


def test_a_run_without_checkpoints_says_what_to_do(command, tmp_path: Path) -> None:
    spec = validate(TABLE, source="test")
    folder = RunFolder.create(tmp_path, spec, spec.boundaries)
    for verb in ("evaluate", "measure"):
        code, _, err = command(verb, folder.path)
        assert code == console.BAD_INPUT
        assert f"train-agent --resume {folder.path}" in err


BAD = {
    "no run": (("nowhere",), "not a run folder"),
    "nothing recorded": (
        ("RUN", "--after-task", 9),
        "no recorded episode after task 9; it has those after/on",
    ),
    "several episodes in one film": (("RUN", "--video", "x.gif"), "name one with --after-task"),
    "no film format": (("RUN", "ONE", "--video", "x.avi"), "written as .gif or .mp4"),
    "no folder": (("RUN", "ONE", "--video", "nowhere/x.gif"), "there is no folder"),
    "a film and a window": (("RUN", "--video", "x.gif", "--live"), "not both"),
    "side by side without a film": (("RUN", "--side-by-side", "0,1"), "needs --video"),
    "side by side of nonsense": (("RUN", "--side-by-side", "0-x", "--video", "x.gif"), "such as 1,3,5"),
}
ONE = ("--after-task", 0, "--on-task", 0, "--episode", 0, "--policy", "deterministic")


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_message(
    command, folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for one in arguments for word in (ONE if one == "ONE" else [one])]
    code, out, err = command("replay", *(folder.path.resolve() if word == "RUN" else word for word in words))
    assert (code, out) == (console.BAD_INPUT, "")
    assert err.startswith("error: ")
    assert said in err
    assert not list(tmp_path.iterdir())


def test_evaluate_says_what_it_played_and_shows_the_matrix(command, tmp_path: Path) -> None:
    folder = trained(tmp_path, tasks="none", episodes=1)
    code, out, _ = command("evaluate", folder.path, "--policy", "deterministic", "--jobs", 1)
    assert code == 0
    assert "12 episodes played, 0 were there" in out
    assert "on 2" in out
    code, out, err = command("evaluate", folder.path, "--after-task", 5)
    assert code == console.BAD_INPUT
    assert "no checkpoint after task 5" in err


# Films -----------------------------------------------------------------------------------------------------


def test_a_film_shows_every_step_and_is_never_written_over(
    command, folder: RunFolder, tmp_path: Path
) -> None:
    ((_, episode),) = find_replays(folder, 0, 0, 0, "deterministic")
    film = tmp_path / "film.gif"
    code, out, _ = command("replay", folder.path, *ONE, "--video", film)
    assert code == 0
    assert f"{episode.length + 1} frames" in out
    with Image.open(film) as image:
        assert image.n_frames == episode.length + 1
        assert image.size == (600, 442)
        assert image.info["duration"] == 20
    before = film.read_bytes()
    code, _, err = command("replay", folder.path, *ONE, "--video", film)
    assert code == console.BAD_INPUT
    assert "exists and is not overwritten" in err
    assert film.read_bytes() == before
    assert list(tmp_path.iterdir()) == [film]


def test_side_by_side_shows_the_same_episode_after_different_tasks(
    command, folder: RunFolder, tmp_path: Path
) -> None:
    found = [find_replays(folder, after, 1, 0, "deterministic")[0][1] for after in (0, 1, 2)]
    assert len({one.seed for one in found}) == 1
    film = tmp_path / "film.gif"
    options = ["--on-task", 1, "--episode", 0, "--policy", "deterministic", "--video", film]
    code, _, err = command("replay", folder.path, "--side-by-side", "0,1,2", *options)
    assert (code, err) == (0, "")
    with Image.open(film) as image:
        assert image.n_frames == max(one.length for one in found) + 1
        assert image.width == 3 * 600 + 2 * 6


def test_a_film_that_is_over_keeps_its_last_frame() -> None:
    def frames(*values: int):
        return (np.full((4, 6, 3), value, np.uint8) for value in values)

    shown = [
        (int(frame[0, 0, 0]), int(frame[0, -1, 0])) for frame in side_by_side([frames(1), frames(2, 3, 4)])
    ]
    assert shown == [(1, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize("count", [1, 3])
def test_the_last_frame_of_a_gif_stays_for_a_second(tmp_path: Path, count: int) -> None:
    # Every frame in the colours of the first, and no two alike: equal ones become one that lasts longer.
    stripes = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None] * 30, 8, axis=1).repeat(3, axis=2)
    frames = [np.roll(stripes, shift, axis=0) for shift in range(count)]
    assert write_video(tmp_path / "film.gif", frames, 20.0) == count
    durations = []
    with Image.open(tmp_path / "film.gif") as film:
        for frame in ImageSequence.Iterator(film):
            durations.append(frame.info["duration"])
    assert durations == ([50] if count == 1 else [50, 50, 1000])


def test_captions_stand_under_the_frame_and_small_frames_are_enlarged() -> None:
    frame = np.zeros((160, 160, 3), np.uint8)
    image = captioned(frame, ["a task", "step 1"])
    assert image.shape[1] == 320
    assert image.shape[0] % 2 == 0
    assert (image[:320] == 0).all()
    assert image[320:].min() < 100  # ink
    assert image[320:].max() == 255
    long = captioned(np.zeros((10, 400, 3), np.uint8), ["word " * 100])
    assert (long[:, -6:][10:] == 255).all()  # cut, not running over the edge


def test_mp4_has_every_frame(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="the extra pliant[video]")
    path = tmp_path / "film.mp4"
    frames = [np.full((64, 64, 3), value, np.uint8) for value in range(0, 250, 10)]
    assert write_video(path, iter(frames), 25) == 25
    assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (25, pytest.approx(1.0, abs=0.1))


def test_a_missing_codec_is_said_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # as if it were not installed
    with pytest.raises(VideoError, match=r'pip install "pliant\[video\]", or write a \.gif'):
        check_video_file(tmp_path / "film.mp4")
    check_video_file(tmp_path / "film.gif")


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_window_without_a_display_is_said_so(command, headless, folder: RunFolder) -> None:
    code, _, err = command("replay", folder.path, *ONE, "--live")
    assert code == console.BAD_INPUT
    assert "a window needs a display" in err
    assert "--video" in err


ANT = Task(env="Ant-v5", length=10)


def test_mujoco_without_a_display_and_without_egl_names_the_packages(headless) -> None:
    headless.setattr(rendering, "find_library", lambda name: None)
    with pytest.raises(RenderingError, match="apt install libegl1 libgl1-mesa-dri"):
        rendering.make_drawn(ANT, "rgb_array")
    assert "MUJOCO_GL" not in os.environ


def test_mujoco_without_a_display_takes_egl_then_osmesa(headless) -> None:
    for there in ("EGL", "OSMesa"):
        headless.delenv("MUJOCO_GL", raising=False)
        headless.setattr(rendering, "find_library", lambda name, there=there: name == there or None)
        rendering.make_drawn(ANT, "rgb_array").close()
        assert os.environ["MUJOCO_GL"] == there.lower()


def test_a_picture_that_fails_is_said_with_the_reason() -> None:
    env = make_env(Task(env="CartPole-v1", length=10), render_mode="rgb_array")
    env.reset(seed=0)
    assert rendering.draw(env).shape == (400, 600, 3)
    env.unwrapped.render = lambda: (_ for _ in ()).throw(OSError("no GL"))
    with pytest.raises(RenderingError, match="CartPole-v1 cannot be drawn here: no GL"):
        rendering.draw(env)


@pytest.mark.slow
@pytest.mark.skipif(not ctypes.util.find_library("EGL"), reason="this machine has no EGL")
def test_an_ant_is_filmed_without_a_display(tmp_path: Path) -> None:
    replays = recorded(WORLDS["Ant"], 1, 3, tmp_path / "replays.npz")
    frames = list(video.film(replays.task, replays.episodes[0], "ant"))
    assert len(frames) == 4
    assert frames[0].shape[1] == 480


def test_replays_go_to_tensorboard_if_asked_for_and_stay_small(tmp_path: Path) -> None:
    folder = trained(tmp_path, videos=1, policies=["stochastic"])
    board = EventAccumulator(str(folder.tensorboard), size_guidance={"images": 0})
    board.Reload()
    tags = [tag for tag in board.Tags()["images"] if tag.startswith("eval/")]
    assert sorted(tags) == [f"eval/task_{task}/stochastic_0" for task in range(3)]
    shown = board.Images("eval/task_0/stochastic_0")
    assert [event.step for event in shown] == [0, 128]  # before and after task 0
    assert all(event.encoded_image_string.startswith(b"GIF89a") for event in shown)
    assert all(len(event.encoded_image_string) < 200_000 for event in shown)
    assert "eval/return/own/stochastic" in board.Tags()["scalars"]
