"""Runs on supervised streams: evaluation on the test split, data found by --data, no path written down."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from pliant.envs import Task, make_env
from pliant.runs.build import build_agent, vector_env
from pliant.runs.errors import SpecError
from pliant.runs.evaluation import playing
from pliant.runs.evaluation.playing import Assignment, play
from pliant.runs.evaluation.recording import Replays
from pliant.runs.evaluation.scheduled import expected_cost
from pliant.runs.evaluation.table import read_rows
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import dump, load_spec, preset_names, validate
from pliant.runs.spec import ClassifierSpec
from pliant.runs.training import train

STREAM = {
    "name": "stream",
    "tasks": {
        "env": "pliant/Stream-v0",
        "kwargs": {"samples": 60, "reward": "accuracy", "permute_inputs": {"rule": "seed"}},
        "length": 128,
        "count": 2,
    },
    "agent": {"algorithm": "ppo", "n_steps": 64, "learning_rate": 0.01, "network": {"hidden": [8]}},
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"episodes": 1, "kwargs": {"split": "test", "test_samples": 40}},
}


def evaluated(**evaluation: object):
    return validate({**STREAM, "evaluation": {"episodes": 1, **evaluation}}, source="test")


def test_tasks_are_evaluated_with_the_kwargs_of_evaluation_laid_over_their_own() -> None:
    plan = make_plan(validate(STREAM, source="test"), "cpu")
    for task, played in zip(plan.sequence, plan.evaluated, strict=True):
        assert "split" not in task.kwargs
        assert played.kwargs == task.kwargs | {"split": "test", "test_samples": 40}
        assert played.length == task.length
    assert make_plan(evaluated(), "cpu").evaluated is not None
    plain = make_plan(evaluated(), "cpu")
    assert plain.evaluated is plain.sequence


def test_the_accuracy_in_the_table_is_that_of_the_test_split(tmp_path: Path) -> None:
    plan = make_plan(validate(STREAM, source="test"), "cpu")
    folder = RunFolder.create(tmp_path, plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    rows = read_rows(folder.evaluation_file)
    assert {row.length for row in rows} == {40}
    assert all(0 <= row.total <= 1 + 1e-9 for row in rows)
    assert all((round(row.total * 40, 6)).is_integer() for row in rows)
    [path] = folder.replay_files()[(1, 0)]
    replays = Replays.load(path)
    assert replays.task == plan.evaluated[0]
    env = make_env(replays.task)
    env.reset(seed=replays.episodes[0].seed)
    rewards = [env.step(action)[1] for action in replays.episodes[0].actions]
    assert rewards == replays.episodes[0].rewards.tolist()


def test_the_cost_of_evaluation_counts_the_samples_that_it_plays() -> None:
    # before training on task 0, after it on both, after the last on both
    assert expected_cost(make_plan(validate(STREAM, source="test"), "cpu")).env_steps == 5 * 40
    assert expected_cost(make_plan(evaluated(), "cpu")).env_steps == 5 * 60


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "tset"}, r"tasks\[0\]: pliant/Stream-v0: split: input should be 'train' or"),
        ({"split": "test", "random_labels": 1}, r"tasks\[0\]: .*random_labels have no test split"),
        ({"classes": [1, 2], "relabel": True}, r".* the action_space Discrete\(2\); in training it"),
    ],
)
def test_kwargs_that_cannot_be_are_refused_before_anything_is_written(kwargs: dict, message: str) -> None:
    with pytest.raises(SpecError, match=rf"evaluation\.kwargs: {message}"):
        make_plan(evaluated(kwargs=kwargs), "cpu")


CLASSIFIER = {
    **STREAM,
    "agent": {"algorithm": "classifier", "learning_rate": 0.01, "network": {"hidden": [20]}},
}
SHIFTS = {"none": [], "pure": [{"type": "observation-offset", "std": 1.0}]}


@pytest.mark.parametrize("max_length", [10_000, 25])
@pytest.mark.parametrize("shifts", SHIFTS.values(), ids=SHIFTS)
@pytest.mark.parametrize("policy", ["deterministic", "stochastic"])
@pytest.mark.parametrize("table", [STREAM, CLASSIFIER], ids=["ppo", "classifier"])
def test_playing_what_is_foreseen_is_playing_step_by_step(
    table, policy, shifts, max_length, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(validate({**table, "tasks": {**table["tasks"], "shifts": shifts}}, source="test"), "cpu")
    agent = build_agent(plan.spec, vector_env(plan.sequence[0], 1, 0), seed=0, device=plan.device)
    agent.learn(128)
    wanted = [Assignment(on, episode, policy, 7 + episode) for on in (0, 1) for episode in (0, 1)]
    foreseen = play(agent, plan.evaluated, wanted, max_length=max_length)
    monkeypatch.setattr(playing, "Stream", type(None))  # no environment is one now
    stepped = play(agent, plan.evaluated, wanted, max_length=max_length)
    for one, other in zip(foreseen, stepped, strict=True):
        assert one.digest == other.digest
        assert one.actions.tolist() == other.actions.tolist()
        assert one.rewards.tolist() == other.rewards.tolist()
        assert (one.ending, one.length) == (other.ending, min(40, max_length))
    assert foreseen[0].digest != foreseen[1].digest
    assert len({int(action) for one in foreseen for action in one.actions}) > 1


def test_what_cannot_be_foreseen_is_played_step_by_step() -> None:
    noisy = {**STREAM["tasks"], "shifts": [{"type": "observation-noise", "std": 0.1}]}
    plan = make_plan(validate({**STREAM, "tasks": noisy}, source="test"), "cpu")
    agent = build_agent(plan.spec, vector_env(plan.sequence[0], 1, 0), seed=0, device=plan.device)
    [episode] = play(agent, plan.evaluated, [Assignment(0, 0, "deterministic", 3)], max_length=10_000)
    assert (episode.length, episode.ending) == (40, "terminated")


@pytest.mark.parametrize("figures", [True, False])
def test_snapshots_are_taken_of_every_so_manieth_task_and_drawn_if_wanted(figures, tmp_path: Path) -> None:
    table = {
        **CLASSIFIER,
        "tasks": {**STREAM["tasks"], "count": 2 if figures else 3},
        "diagnostics": {
            "at": ["init"],
            "samples": 32,
            "task_interval": 2,
            "figures": figures,
            "spectrum": {"depth": 2, "method": "lanczos", "features": False, "minibatches": 0},
        },
    }
    plan = make_plan(validate(table, source="test"), "cpu")
    folder = RunFolder.create(tmp_path, plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    names = sorted(path.name for path in folder.snapshots.glob("*.npz"))
    assert names == [f"task-00{i}-init.npz" for i in range(0, len(plan.sequence), 2)]
    [events] = folder.tensorboard.glob("events*")
    assert (b"spectrum/density" in events.read_bytes()) == figures


def write_class_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    for i in range(3):
        np.save(folder / f"{i}.npy", np.full((140, 2, 2), 80 * i, np.uint8))


def spec_of_a_folder(path: Path) -> Path:
    spec = validate({**STREAM, "tasks": {**STREAM["tasks"], "kwargs": {"data": "folder:x"}}}, source="test")
    path.write_text(dump(spec), encoding="utf-8")
    return path


def test_data_are_found_by_the_command_line_and_no_path_is_written(command, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "nowhere"))
    write_class_files(tmp_path / "somewhere" / "x")
    spec = spec_of_a_folder(tmp_path / "mine.toml")
    code, _, said = command("train", spec, "--out", tmp_path / "out")
    assert code == 2
    assert (
        f"one file per class, 0.npy, 1.npy, ..., each [n, 3, height, width] of bytes, into {tmp_path}" in said
    )
    assert not (tmp_path / "out").exists()
    code, _, said = command("train", spec, "--out", tmp_path / "out", "--data", tmp_path / "somewhere")
    assert code == 0, said
    [run] = (tmp_path / "out").iterdir()
    assert "somewhere" not in (run / "run.toml").read_text(encoding="utf-8")
    # The data move to another machine; the run is evaluated and replayed there.
    (tmp_path / "somewhere").rename(tmp_path / "elsewhere")
    assert command("evaluate", run, "--episodes", 2, "--jobs", 1, "--data", tmp_path / "elsewhere")[0] == 0
    assert command("replay", run, "--data", tmp_path / "elsewhere")[0] == 0


def test_a_run_does_not_go_on_with_other_data(command, tmp_path) -> None:
    for name in ("mine", "other"):
        write_class_files(tmp_path / name / "x")
    np.save(tmp_path / "other" / "x" / "1.npy", np.full((140, 2, 2), 81, np.uint8))
    spec = spec_of_a_folder(tmp_path / "mine.toml")
    assert command("train", spec, "--out", tmp_path / "out", "--data", tmp_path / "mine")[0] == 0
    [run] = (tmp_path / "out").iterdir()
    RunFolder.open(run).set_status("interrupted")
    code, _, said = command("train", "--resume", run, "--data", tmp_path / "other")
    assert code == 1
    assert "folder:x is not what" in said
    code, _, said = command("evaluate", run, "--episodes", 2, "--data", tmp_path / "other")
    assert code == 2
    assert "folder:x is not what" in said
    assert command("train", "--resume", run, "--data", tmp_path / "mine")[0] == 0


def test_a_data_folder_that_is_not_there_is_refused(command, tmp_path) -> None:
    code, _, said = command("train", "quickstart", "--data", tmp_path / "nowhere")
    assert code == 2
    assert f"--data {tmp_path / 'nowhere'}: there is no such folder" in said


def test_a_task_of_a_stream_says_nothing_of_the_machine() -> None:
    task = Task(env="pliant/Stream-v0", kwargs={"samples": 10}, length=1)
    assert task.name == "pliant/Stream-v0(samples=10)"
    assert "data_dir" not in task.model_dump_json()


NEEDED = {
    "mnist-permuted": ("put train-images-idx3-ubyte and train-labels-idx1-ubyte and t10k-images", "mnist/"),
    "mnist-permuted-short": ("put train-images-idx3-ubyte and train-labels-idx1-ubyte and t10k-i", "mnist/"),
    "cifar-incremental": ("put train.bin and test.bin", "cifar-100-binary/"),
    "imagenet-pairs": ("put one file per class, 0.npy, 1.npy, ...", "imagenet/"),
}


def of_data_that_ship(name: str) -> bool:
    kwargs = load_spec(name).tasks.kwargs
    return kwargs.get("data", "digits") == "digits"


def test_it_is_known_of_every_preset_which_files_it_needs() -> None:
    assert {name for name in preset_names() if not of_data_that_ship(name)} == NEEDED.keys()


@pytest.mark.parametrize("name", NEEDED)
def test_a_preset_without_its_data_names_the_files_and_where_to_put_them(name, command, tmp_path) -> None:
    (tmp_path / "data").mkdir()
    files, place = NEEDED[name]
    code, _, said = command("train", name, "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert code == 2
    assert files in said
    assert f" into {tmp_path}/data/{place}" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", NEEDED)
def test_a_preset_with_its_data_has_its_tasks(name, stand_ins) -> None:
    plan = make_plan(load_spec(name, settings=["tasks.count=3"]), "cpu")
    assert len({task.name for task in plan.sequence}) == 3
    assert plan.evaluated[0].kwargs["split"] == "test"


def test_continual_imagenet_has_each_class_once_in_five_hundred_pairs() -> None:
    pairs = [task.kwargs["classes"] for task in load_spec("imagenet-pairs").tasks.draw(0)]
    assert len(pairs) == 2000
    assert sorted(chain(*pairs[:500])) == list(range(1000))
    assert pairs != [task.kwargs["classes"] for task in load_spec("imagenet-pairs").tasks.draw(1)]


def test_the_paper_s_permuted_mnist_has_the_paper_s_settings() -> None:
    spec = load_spec("mnist-permuted", arm="er")
    agent = spec.agent
    assert isinstance(agent, ClassifierSpec)
    assert (agent.batch_size, agent.learning_rate, agent.optimizer.name) == (1, 1e-3, "sgd")
    assert (agent.network.hidden, agent.network.initialisation) == ((1000, 1000, 1000), "he-uniform")
    assert (spec.tasks.count, spec.tasks.length) == (800, 60_000)
    er = {"mode": "raw", "step": 1e-3, "every": 100, "samples": 100}
    assert spec.mitigations == {"effective-rank": er}
    assert load_spec("mnist-permuted").mitigations == {"effective-rank": er, "l2": {"strength": 1e-3}}
    assert load_spec("mnist-permuted", arm="l2").mitigations == {"l2": {"strength": 1e-4}}
    short = load_spec("mnist-permuted-short")
    assert (short.agent, short.mitigations) == (
        load_spec("mnist-permuted").agent,
        load_spec("mnist-permuted").mitigations,
    )


def test_incremental_cifar_adds_five_classes_a_task_and_keeps_the_others() -> None:
    tasks = load_spec("cifar-incremental").tasks.draw(0)
    classes = [task.kwargs["classes"] for task in tasks]
    assert [len(one) for one in classes] == [5 * (i + 1) for i in range(20)]
    assert all(one == classes[-1][: len(one)] for one in classes)
    assert sorted(classes[-1]) == list(range(100))
    assert [task.length for task in tasks] == [200 * 500 * len(one) for one in classes]


def test_tasks_of_digits_are_whole_passes() -> None:
    for name, passes in (("digits-random-labels", 40), ("digits-permuted", 4)):
        for task in load_spec(name, settings=["tasks.count=2"]).tasks.draw(0):
            env = make_env(task)
            assert task.length == passes * env.unwrapped.max_steps
