"""The classifier as a spec builds it: which tasks it takes, how long they are, what its settings become."""

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pliant.agents import Classifier
from pliant.diagnostics import Snapshot
from pliant.runs.build import build_agent, vector_env
from pliant.runs.errors import SpecError
from pliant.runs.evaluation.playing import Assignment, play
from pliant.runs.evaluation.table import read_rows
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.summary import task_returns
from pliant.runs.training import train

TABLE = {
    "name": "toy",
    "tasks": {"env": "pliant/Stream-v0", "kwargs": {"samples": 50}, "length": 130, "count": 2},
    "agent": {"algorithm": "classifier", "batch_size": 16, "network": {"hidden": [8]}},
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"tasks": "none"},
}


def table(agent: dict | None = None, tasks: dict | None = None, **more: object) -> dict:
    return {**TABLE, "agent": TABLE["agent"] | (agent or {}), "tasks": TABLE["tasks"] | (tasks or {}), **more}


def built(**changes: dict) -> Classifier:
    spec = validate(table(**changes), source="test")
    plan = make_plan(spec, "cpu")
    agent = build_agent(spec, vector_env(plan.sequence[0], 1, 0), seed=0, device=plan.device)
    assert isinstance(agent, Classifier)
    return agent


def run(out: Path, **changes: dict) -> RunFolder:
    plan = make_plan(validate(table(**changes), source="test"), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    return folder


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        (
            {"env": "CartPole-v1", "kwargs": {}},
            r"learns from labelled samples, but there are none in tasks\[1\] \(CartPole-v1\); "
            r'use algorithm = "ppo"',
        ),
        (
            {"shifts": [{"type": "observation-noise", "std": 0.1}]},
            r"cannot learn from tasks\[1\]: .*more than one and the same change of every observation",
        ),
        ({"env": "Pendulum-v1", "kwargs": {}}, "classifier needs discrete actions"),
    ],
)
def test_tasks_without_samples_are_refused_with_the_reason(tasks: dict, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        make_plan(validate(table(tasks=tasks), source="test"), "cpu")


def test_a_task_takes_as_many_samples_as_it_is_given(tmp_path: Path) -> None:
    folder = run(tmp_path, agent={"updates_per_rollout": 3})
    assert folder.read_manifest()["boundaries"] == [0, 130, 260]
    assert [path.name for path in folder.checkpoint_list()] == [
        "000000000000",
        "000000000130",
        "000000000260",
    ]
    rows = folder.episodes_file.read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [
        "50",
        "100",
        "180",
        "230",
    ]  # passes of 50, anew in each task
    assert [row.episodes for row in task_returns(folder)] == [2, 2]


def test_one_copy_of_the_environment_is_all_it_can_use() -> None:
    with pytest.raises(SpecError, match=r"agent\.n_envs"):
        validate(table(agent={"n_envs": 2}), source="test")


@pytest.mark.parametrize(
    ("optimizer", "kind", "options"),
    [
        ({"name": "sgd", "momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9, "fused": True}),
        ({"name": "adam", "fused": False}, torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
    ],
)
def test_the_settings_reach_the_agent(optimizer: dict, kind: type, options: dict) -> None:
    agent = built(
        agent={
            "optimizer": optimizer,
            "learning_rate": 0.5,
            "max_grad_norm": 2.0,
            "updates_per_rollout": 7,
            "new_head": "zero",
            "present_classes_only": True,
            "network": {"hidden": [6, 5], "activation": "tanh", "initialisation": "he-uniform"},
        }
    )
    assert type(agent.policy.optimizer) is kind
    assert options.items() <= agent.policy.optimizer.param_groups[0].items()
    assert (agent.batch_size, agent.updates_per_rollout, agent.max_grad_norm) == (16, 7, 2.0)
    assert (agent.new_head, agent.present_classes_only) == ("zero", True)
    assert [layer.out_features for layer in agent.policy.body if hasattr(layer, "out_features")] == [6, 5]
    assert isinstance(agent.policy.body[1], torch.nn.Tanh)
    assert not agent.policy.head.bias.any()


def test_the_gradient_is_not_clipped_unless_so_wished() -> None:
    assert built().max_grad_norm == float("inf")


def test_evaluation_plays_the_classes_that_predict_names() -> None:
    agent = built(agent={"learning_rate": 0.01})
    agent.learn(4000)
    tasks = make_plan(validate(table(), source="test"), "cpu").sequence.tasks
    (episode,) = play(agent, tasks, [Assignment(0, 0, "deterministic", 5)], max_length=1000)
    samples = agent.get_env().get_attr("samples")[0]
    predicted, _ = agent.predict(np.array(samples.inputs), deterministic=True)
    assert episode.length == 50
    assert episode.total == (predicted == samples.labels).sum()
    assert episode.total > 25


def test_a_classifier_that_learns_digits_knows_others_of_them(tmp_path: Path) -> None:
    folder = run(
        tmp_path,
        tasks={"kwargs": {"samples": 500, "reward": "accuracy"}, "length": 5000, "count": 1},
        agent={"network": {"hidden": [64]}},
        evaluation={"episodes": 1, "kwargs": {"split": "test", "test_samples": 100}},
    )
    before, after = (row.total for row in read_rows(folder.evaluation_file))
    assert before < 0.3
    assert after > 0.8


# Pictures ---------------------------------------------------------------------------------------------------


def write_pictures(folder: Path, classes: int, side: int, count: int = 28) -> None:
    """A folder of class files: each class has a stripe of its own on noise."""
    generator = np.random.default_rng(0)
    (folder / "stripes").mkdir()
    for label in range(classes):
        pictures = generator.integers(0, 160, (count, 3, side, side), dtype=np.uint8)
        pictures[:, :, label * side // classes : (label + 1) * side // classes] += 90
        np.save(folder / "stripes" / f"{label}.npy", pictures)


def resnet(folder: Path, base: int, **more: object) -> dict:
    """Two tasks of two classes each, told apart by a ResNet-18."""
    return table(
        tasks={
            "kwargs": {
                "data": "folder:stripes",
                "data_dir": str(folder),
                "shape": "image",
                "relabel": True,
                "classes": {"rule": "window", "of": 4, "size": 2},
                "reward": "accuracy",
            },
            "length": 96,
        },
        agent={
            "batch_size": 8,
            "learning_rate": 0.05,
            "optimizer": {"name": "sgd", "momentum": 0.9},
            "network": {"hidden": [], "extractor": "resnet-18", "extractor_kwargs": {"base": base}},
        },
        **more,
    )


def test_micro_batches_hold_whole_minibatches_where_these_are_normalised(tmp_path: Path) -> None:
    write_pictures(tmp_path, classes=4, side=16)
    for size, fits in ((0, True), (16, True), (12, False)):
        spec = validate(resnet(tmp_path, 2, diagnostics={"spectrum": {"micro_batch": size}}), source="test")
        if fits:
            make_plan(spec, "cpu")
        else:
            with pytest.raises(SpecError, match=r"12 samples must be a multiple of agent.batch_size = 8"):
                make_plan(spec, "cpu")


def test_an_extractor_is_given_its_own_settings_and_no_others(tmp_path: Path) -> None:
    write_pictures(tmp_path, classes=4, side=16)
    plan = make_plan(validate(resnet(tmp_path, 4), source="test"), "cpu")
    agent = build_agent(plan.spec, vector_env(plan.sequence[0], 1, 0), seed=0, device=plan.device)
    assert agent.policy.features_extractor.features_dim == 32
    wrong = resnet(tmp_path, 4)
    wrong["agent"]["network"]["extractor_kwargs"] = {"bass": 4}
    with pytest.raises(SpecError, match=r"extractor_kwargs: there is no 'bass'; did you mean 'base'"):
        make_plan(validate(wrong, source="test"), "cpu")


@pytest.mark.slow
def test_a_whole_resnet_18_trains_and_is_measured_in_micro_batches(tmp_path: Path) -> None:
    """Of 11 million parameters on pictures of 32x32, in a process of its own, whose memory is told."""
    write_pictures(tmp_path, classes=4, side=32)
    measure = {"probes": 2, "depth": 4, "micro_batch": 16, "minibatches": 4, "operators": ["hessian", "ggn"]}
    spec = resnet(
        tmp_path,
        64,
        diagnostics={"samples": 48, "every": 0, "figures": False, "spectrum": measure},
        evaluation={"episodes": 1, "kwargs": {"split": "test"}},
    )
    spec["tasks"]["length"], spec["agent"]["learning_rate"] = 288, 0.01  # running statistics need updates
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        path, peak = pool.submit(_run_and_tell_its_memory, tmp_path, spec).result()
    folder = RunFolder.open(path)
    assert folder.read_manifest()["status"] == "complete"
    snapshots = [Snapshot.load(file) for file in sorted(folder.snapshots.glob("*.npz"))]
    assert len(snapshots) == 4
    for snapshot in snapshots:
        assert not snapshot.failures
        hessian, ggn = snapshot.spectra["classifier"], snapshot.spectra["classifier-ggn"]
        assert hessian.size == ggn.size == 11_173_962 - 8 * 513  # known for ten classes, here two
        assert ggn.nodes.min() > -1e-3 * ggn.norm
    after = [row.total for row in read_rows(folder.evaluation_file) if row.after_task == row.on_task]
    assert np.mean(after) > 0.8
    print(f"peak memory of training and measuring ResNet-18: {peak / 2**30:.2f} GiB")


def _run_and_tell_its_memory(out: Path, spec: dict) -> tuple[Path, int]:
    torch.set_num_threads(1)
    plan = make_plan(validate(spec, source="test"), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    return folder.path, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
