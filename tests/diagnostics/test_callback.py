"""The callback's moments, files and log, and that training is the same with it as without."""

import errno
import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Figure, KVWriter, Logger

from pliant import envs  # noqa: F401 - registers the stream
from pliant.agents import AGENTS, DQN, PPO, Classifier
from pliant.diagnostics import Snapshot, SnapshotCallback, SnapshotSettings, errors, what_changed
from pliant.diagnostics.features import distance, norm

SMALL = SnapshotSettings(probes=2, depth=3)


class Recorder(KVWriter):
    """Keeps what would be logged."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append((step, dict(key_values)))

    def close(self):
        pass


OPTIONS = {
    PPO: {"n_steps": 32, "batch_size": 16, "n_epochs": 2},
    DQN: {"learning_starts": 20, "batch_size": 8},
    Classifier: {"batch_size": 8, "updates_per_rollout": 4},
}


def env_of(kind):
    return gym.make("pliant/Stream-v0", samples=60) if kind is Classifier else gym.make("CartPole-v1")


def agent_of(kind, seed=0, **options):
    options = {"policy_kwargs": {"net_arch": [8]}, **OPTIONS[kind], **options}
    return kind("MlpPolicy", env_of(kind), seed=seed, device="cpu", **options)


def source(agent, samples=48):
    def fresh():
        env = env_of(type(agent))
        try:
            return agent.gather(env, samples, seed=5)
        finally:
            env.close()

    return fresh


@pytest.mark.parametrize("kind", AGENTS.values())
def test_training_is_bit_equal_with_and_without_snapshots(tmp_path, kind):
    def train(snapshots):
        agent = agent_of(kind)
        settings = {"folder": tmp_path, "settings": SMALL, "every": 1}
        agent.learn(128, callback=SnapshotCallback(source(agent), **settings) if snapshots else None)
        return agent, torch.get_rng_state(), np.random.get_state()[1].copy()

    plain, state, numpy_state = train(snapshots=False)
    watched, watched_state, watched_numpy_state = train(snapshots=True)
    assert torch.equal(state, watched_state)
    assert (numpy_state == watched_numpy_state).all()
    for name, value in plain.policy.state_dict().items():
        assert torch.equal(value, watched.policy.state_dict()[name])
    ours, theirs = (agent.policy.optimizer.state_dict()["state"] for agent in (watched, plain))
    assert all(torch.equal(ours[k][m], theirs[k][m]) for k in theirs for m in theirs[k])
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files[0] == "task-000-end.npz"
    assert files[1] == "task-000-init.npz"
    assert len(files) > 4
    assert all(not Snapshot.load(path).failures for path in tmp_path.iterdir())


def test_init_sees_the_parameters_before_and_end_those_after_training(tmp_path):
    agent = agent_of(PPO)
    norms = [norm(agent.networks()["actor"])]
    taken = []
    agent.learn(
        64,
        callback=SnapshotCallback(source(agent), tmp_path, task=3, settings=SMALL, on_snapshot=taken.append),
    )
    norms.append(norm(agent.networks()["actor"]))
    assert [s.label for s in taken] == ["init", "end"]
    assert [s.values["plasticity/actor/weight_norm"] for s in taken] == pytest.approx(norms, rel=1e-6)
    assert [s.about["env_steps"] for s in taken] == [0, 64]
    assert "plasticity/actor/weight_change" not in taken[0].values
    assert taken[1].values["plasticity/actor/weight_change"] > 0
    assert Snapshot.load(tmp_path / "task-003-end.npz").scalars() == taken[1].scalars()


def test_the_update_norm_is_the_length_of_what_train_changes_by_its_updates(tmp_path):
    agent = agent_of(PPO)
    taken, lengths = [], []
    train = agent.train

    def watched():
        before = {k: p.detach().clone() for k, p in agent.networks()["actor"].items()}
        updates = agent.gradient_updates
        train()
        lengths.append((distance(agent.networks()["actor"], before), agent.gradient_updates - updates))

    agent.train = watched
    agent.learn(
        32, callback=SnapshotCallback(source(agent), tmp_path, settings=SMALL, on_snapshot=taken.append)
    )
    ((length, updates),) = lengths
    assert updates == 4  # two epochs of two minibatches
    assert "plasticity/actor/update_norm" not in taken[0].values
    assert taken[1].values["plasticity/actor/update_norm"] == pytest.approx(length / 4)
    assert taken[1].values["plasticity/critic/update_norm"] > 0


@pytest.mark.parametrize(
    ("kind", "network", "options"), [(DQN, "q", {}), (Classifier, "classifier", {"updates_per_rollout": 1})]
)
def test_with_plain_gradient_descent_the_update_norm_is_that_of_a_step(tmp_path, kind, network, options):
    agent = agent_of(
        kind,
        policy_kwargs={"net_arch": [8], "optimizer_class": torch.optim.SGD},
        learning_rate=0.5,
        max_grad_norm=1e-3,  # so that every step is as long as this allows
        **options,
    )
    taken = []
    agent.learn(
        64, callback=SnapshotCallback(source(agent), tmp_path, settings=SMALL, on_snapshot=taken.append)
    )
    assert taken[1].values[f"plasticity/{network}/update_norm"] == pytest.approx(0.5e-3, rel=1e-2)


def test_the_classifiers_update_norm_is_what_a_rollout_changes_by_its_updates(tmp_path):
    agent = agent_of(Classifier)
    taken, before = [], {k: p.detach().clone() for k, p in agent.networks()["classifier"].items()}
    agent.learn(
        32, callback=SnapshotCallback(source(agent), tmp_path, settings=SMALL, on_snapshot=taken.append)
    )
    expected = distance(agent.networks()["classifier"], before) / 4  # one rollout of four updates
    assert taken[1].values["plasticity/classifier/update_norm"] == pytest.approx(expected)


def test_at_a_switch_the_change_due_to_the_data_is_logged(tmp_path):
    agent = agent_of(PPO)
    recorder = Recorder()
    agent.set_logger(Logger(None, [recorder]))
    taken = []
    for task in range(2):
        # The second task is seen through more samples: other data, the same parameters.
        callback = SnapshotCallback(
            source(agent, 48 + 48 * task), tmp_path, task=task, settings=SMALL, on_snapshot=taken.append
        )
        agent.learn(32, callback=callback, reset_num_timesteps=False)
    first, end, init, _ = taken
    tag = "switch/critic/data_change_epsilon_rank_0.01"
    assert not any(name.startswith("switch/") for name in first.values)
    expected = [one.spectra["critic"].epsilon_rank(0.01) for one in (end, init)]
    assert init.values[tag] == expected[1].value - expected[0].value
    assert init.values[f"{tag}_low"] == expected[1].low - expected[0].high
    assert init.values[f"{tag}_high"] == expected[1].high - expected[0].low
    assert any(row.get(tag) == init.values[tag] for _, row in recorder.rows)
    steps = what_changed(taken)
    assert [(s.before, s.after, s.cause) for s in steps if s.quantity == "critic/epsilon_rank_0.01"] == [
        ("task 0, init", "task 0, end", "parameters"),
        ("task 0, end", "task 1, init", "data"),
        ("task 1, init", "task 1, end", "parameters"),
    ]


def test_a_fresh_agent_at_the_switch_has_no_change_due_to_data(tmp_path):
    taken = []
    for task in range(2):
        agent = agent_of(PPO, seed=task)
        callback = SnapshotCallback(
            source(agent), tmp_path, task=task, settings=SMALL, on_snapshot=taken.append
        )
        agent.learn(32, callback=callback)
    assert not any(name.startswith("switch/") for name in taken[2].values)
    assert [s.cause for s in what_changed(taken[1:3])][:1] == ["both"]


def test_a_damaged_file_of_the_task_before_is_a_warning(tmp_path):
    (tmp_path / "task-000-end.npz").write_bytes(b"damaged")
    agent = agent_of(PPO)
    with pytest.warns(RuntimeWarning, match=r"comparison failed, .* is not a snapshot file"):
        agent.learn(
            32,
            callback=SnapshotCallback(source(agent), tmp_path, moments=("init",), task=1, settings=SMALL),
        )
    assert "comparison" in Snapshot.load(tmp_path / "task-001-init.npz").failures


def test_numbers_costs_and_figures_are_logged_at_the_environment_step(tmp_path):
    from stable_baselines3.common.logger import TensorBoardOutputFormat

    recorder = Recorder()
    agent = agent_of(PPO)
    board = TensorBoardOutputFormat(str(tmp_path / "tb"))
    agent.set_logger(Logger(None, [recorder, board]))
    agent.learn(32, callback=SnapshotCallback(source(agent), tmp_path, settings=SMALL))
    step, first = recorder.rows[0]
    assert step == 0
    assert first["switch/snapshot_seconds"] > 0
    assert 0 <= first["spectrum/total/epsilon_rank_0.01"] <= 1
    assert isinstance(first["spectrum/density"], Figure)
    step, last = recorder.rows[-1]
    assert step == 32
    assert "end/plasticity/actor/0/effective_rank" in last


def test_a_failing_source_warns_and_training_goes_on(tmp_path):
    def broken():
        raise OSError("no environment today")

    agent = agent_of(PPO)
    with pytest.warns(
        RuntimeWarning, match=r"snapshot 'init' of task 0: snapshot failed, .* no environment today"
    ):
        agent.learn(32, callback=SnapshotCallback(broken, tmp_path, moments=("init",), settings=SMALL))
    assert agent.num_timesteps == 32
    assert "OSError" in Snapshot.load(tmp_path / "task-000-init.npz").failures["snapshot"]


def test_an_unwritable_folder_warns_and_training_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    agent = agent_of(PPO)
    with warnings.catch_warnings(record=True) as caught:
        agent.learn(
            32, callback=SnapshotCallback(source(agent), tmp_path / "file", moments=("end",), settings=SMALL)
        )
    assert any("record failed" in str(w.message) for w in caught)
    assert agent.num_timesteps == 32


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_a_task_in_two_pieces_in_two_processes_is_measured_like_one_in_one_piece(tmp_path, kind):
    """The environment is the same throughout, so only what the callback remembers could differ."""
    files = {}
    for name, pieces in (("one", [96]), ("two", [32, 64]), ("remembered", [32, 64])):
        agent = agent_of(kind)
        settings = {"folder": tmp_path / name, "settings": SMALL, "every": 10 if kind is DQN else 3}
        callback = SnapshotCallback(source(agent), **settings)
        for index, piece in enumerate(pieces):
            callback.first, callback.last = index == 0, index == len(pieces) - 1
            agent.learn(piece, callback=callback, reset_num_timesteps=False)
            if name == "remembered":
                state = json.loads(json.dumps(callback.state()))
                tensors = {name: tensor.clone() for name, tensor in callback.tensors().items()}
                callback = SnapshotCallback(source(agent), **settings)
                callback.load_state(state, tensors)
        files[name] = {path.name: Snapshot.load(path).scalars() for path in (tmp_path / name).iterdir()}
    assert {"task-000-init.npz", "task-000-end.npz"} < files["one"].keys()
    assert files["two"] == files["one"]
    assert files["remembered"] == files["one"]


def test_parameters_at_the_switch_are_remembered_only_while_something_is_compared_with_them(tmp_path):
    agent = agent_of(PPO)
    callbacks = [
        SnapshotCallback(source(agent), tmp_path, moments=moments, settings=SMALL, every=every)
        for moments, every in ((("init",), 0), (("init",), 1), (("end",), 0))
    ]
    for callback in callbacks:
        callback.last = False
        agent.learn(32, callback=callback)
    kept = [set(callback.tensors()) for callback in callbacks]
    names = {f"{n}/{k}" for n, parameters in agent.networks().items() for k in parameters}
    assert kept == [set(), names, names]


def test_a_full_disk_ends_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    agent = agent_of(PPO)
    monkeypatch.setattr(Snapshot, "save", full)
    with pytest.raises(OSError, match="No space left"):
        agent.learn(32, callback=SnapshotCallback(source(agent), tmp_path, moments=("init",), settings=SMALL))


def test_a_snapshot_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    path = Snapshot("init", SMALL).save(tmp_path / "task-000-init.npz")
    before = path.read_bytes()

    def half(file, **_):
        file.write(b"PK half of it")
        raise OSError("the cable")

    monkeypatch.setattr(np, "savez_compressed", half)
    with pytest.raises(OSError, match="the cable"):
        Snapshot("end", SMALL).save(path)
    assert path.read_bytes() == before


def test_an_unknown_moment_is_named():
    with pytest.raises(
        errors.UnknownOption, match="moments='middle' is unknown; choose one of 'init', 'end'"
    ):
        SnapshotCallback(lambda: None, ".", moments=("middle",))
