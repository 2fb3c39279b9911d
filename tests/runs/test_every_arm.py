"""Every arm, for three tiny tasks of the quickstart; in the slow tests with every agent, and with L2."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pliant.agents import MITIGATIONS, OPTIMIZERS, AgentError
from pliant.runs.errors import SpecError
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import arm_names, build_spec, with_arms
from pliant.runs.training import train

QUIET = {
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"tasks": "none"},
}
NETWORK = {"hidden": [8, 8], "activation": "relu"}
PICTURES = {"extractor": "small-cnn", "hidden": [8], "activation": "relu"}
AGENTS: dict[str, dict[str, Any]] = {
    "ppo": {"algorithm": "ppo", "n_steps": 32, "batch_size": 16, "n_epochs": 2},
    "dqn": {"algorithm": "dqn", "learning_starts": 16, "buffer_size": 100, "target_update_interval": 20},
    "classifier": {"algorithm": "classifier", "batch_size": 16},
}
OFFSET = {"type": "observation-offset", "std": 1.0}
WORLDS: dict[str, dict[str, Any]] = {
    "cartpole": {"env": "CartPole-v1", "shifts": [{**OFFSET, "seed": {"rule": "seed"}}]},
    "minigrid": {"env": "MiniGrid-Empty-Random-5x5-v0"},
    "digits": {"env": "pliant/Stream-v0", "kwargs": {"data": "digits", "permute_inputs": {"rule": "seed"}}},
    "pictures": {
        "env": "pliant/Stream-v0",
        "kwargs": {"data": "digits", "shape": "image", "shuffle_labels": {"rule": "seed"}},
    },
}
ARMS = [
    pytest.param(
        arm,
        marks=pytest.mark.skipif(
            arm == "kron" and find_spec("kron_torch") is None, reason="kron-torch is for Linux only"
        ),
    )
    for arm in arm_names("quickstart")
]


def tiny(algorithm: str, world: str, network: dict[str, Any]) -> dict[str, Any]:
    """The shipped arms around three tasks of 64 environment steps and an agent of a few units."""
    table = {
        "name": "tiny",
        "tasks": {**WORLDS[world], "length": 64, "count": 3},
        "agent": {**AGENTS[algorithm], "network": network},
        **QUIET,
    }
    return with_arms(table, source="test")


def run(out: Path, table: dict[str, Any], arm: str, **mitigations: Any) -> RunFolder:
    changes = {f"mitigations.{name}": settings for name, settings in mitigations.items()}
    plan = make_plan(build_spec(table, arm=arm, changes=changes, source="test"), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    train(plan, folder, lambda report: None, lambda: False)
    return folder


def assert_complete(folder: RunFolder) -> None:
    assert folder.read_manifest()["status"] == "complete"
    newest = folder.checkpoint_list()[-1]
    assert newest.name == f"{192:012d}"
    tensors = load_file(newest / "tensors.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
    first = load_file(folder.checkpoint_list()[0] / "tensors.safetensors")
    # TRAC may hold the networks where they began: then its own tensors have moved.
    own = [name for name in first if name.startswith(("policy/", "mitigations/"))]
    assert (
        any(not torch.equal(tensors[name], first[name]) for name in own) or folder.read_spec().arm == "trac"
    )


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_every_arm_trains_ppo_and_dqn(algorithm: str, arm: str, tmp_path: Path) -> None:
    assert_complete(run(tmp_path, tiny(algorithm, "cartpole", NETWORK), arm))


def test_every_mitigation_and_every_optimiser_has_an_arm() -> None:
    table = tiny("ppo", "cartpole", NETWORK)
    specs = [build_spec(table, arm=arm, source="test") for arm in table["arms"]]
    assert {name for spec in specs for name in spec.mitigations} == MITIGATIONS.keys()
    assert {spec.agent.optimizer.name for spec in specs} == OPTIMIZERS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    ("algorithm", "world", "network"),
    [
        ("ppo", "minigrid", PICTURES),
        ("dqn", "minigrid", PICTURES),
        ("classifier", "digits", NETWORK),
        ("classifier", "pictures", PICTURES),
    ],
    ids=["ppo-cnn", "dqn-cnn", "classifier-mlp", "classifier-cnn"],
)
def test_every_arm_trains_every_agent_on_pictures_and_streams(
    algorithm: str, world: str, network: dict[str, Any], arm: str, tmp_path: Path
) -> None:
    assert_complete(run(tmp_path, tiny(algorithm, world, network), arm))


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    ("algorithm", "world", "network"),
    [
        ("ppo", "cartpole", NETWORK),
        ("dqn", "cartpole", NETWORK),
        ("classifier", "digits", NETWORK),
        ("ppo", "minigrid", PICTURES),
        ("dqn", "minigrid", PICTURES),
    ],
    ids=["ppo-mlp", "dqn-mlp", "classifier-mlp", "ppo-cnn", "dqn-cnn"],
)
def test_every_arm_trains_with_l2_or_says_why_not(
    algorithm: str, world: str, network: dict[str, Any], arm: str, tmp_path: Path
) -> None:
    table, only_decoupled = tiny(algorithm, world, network), arm in ("adamw", "muon", "kron")
    if only_decoupled:
        with pytest.raises(AgentError, match="give L2 decoupled = true"):
            run(tmp_path, table, arm, l2={"strength": 1e-4})
    assert_complete(run(tmp_path, table, arm, l2={"strength": 1e-4, "decoupled": only_decoupled}))


def test_combinations_that_cannot_work_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    table = tiny("ppo", "cartpole", NETWORK)
    for arm, others, reason in [
        ("crelu", {"deep-fourier": {}}, "CReLU cannot work with DeepFourier: both replace the activation"),
        ("normalize-and-project", {"weight-clipping": {}}, "cannot work with WeightClipping: the projection"),
        ("layer-norm", {"normalize-and-project": {}}, "it brings a layer normalisation of its own"),
        ("redo", {"plasticity-injection": {}}, "what its frozen parts say"),
    ]:
        with pytest.raises(AgentError, match=reason):
            run(tmp_path, table, arm, **others)
    tanh = {**table, "agent": {**table["agent"], "network": {"hidden": [8], "activation": "tanh"}}}
    with pytest.raises(AgentError, match="CReLU replaces the activation"):
        run(tmp_path, tanh, "crelu")
    with pytest.raises(SpecError, match="mitigations: there is no 'crelus'"):
        run(tmp_path, table, "bp", crelus={})
    assert list(tmp_path.iterdir()) == []
