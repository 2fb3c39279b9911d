"""Runs with mitigations: stopped and resumed they equal those that were never stopped."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pliant.agents import MITIGATIONS, OPTIMIZERS
from pliant.runs.errors import RunInterrupted
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.training import train

SHIFT = {"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}}
TABLE = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 128, "count": 3, "shifts": [SHIFT]},
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"tasks": "none"},
}
NETWORK = {"hidden": [8, 8], "activation": "relu"}
AGENTS = {
    "ppo": {"algorithm": "ppo", "n_envs": 2, "n_steps": 32, "n_epochs": 2, "batch_size": 16},
    "dqn": {"algorithm": "dqn", "learning_starts": 16, "buffer_size": 100, "target_update_interval": 20},
}

# What each mitigation needs to act within a run as short as this one; everything else at its default.
TINY: dict[str, dict] = {
    "l2": {"strength": 1e-3},
    "continual-backprop": {"replacement_rate": 0.02, "maturity": 5},
    "redo": {"threshold": 0.5, "every": 7},
    "mixture-of-experts": {"experts": 3},
}

TOGETHER = [
    ["l2", "l2-init", "parseval", "spectral", "effective-rank", "c-chain"],
    ["mixture-of-experts", "isotropy"],
    ["layer-norm", "l2", "shrink-and-perturb", "weight-clipping", "layer-reset"],
    ["normalize-and-project", "plasticity-injection", "deep-fourier", "trac"],
    ["full-reset", "continual-backprop", "redo", "crelu"],
]


def run(
    out: Path, algorithm: str, names: list[str], optimizer: str, stop_after: int | None = None
) -> RunFolder:
    """Train; with ``stop_after`` as if Ctrl-C had been pressed once so many rollouts were done."""
    table = {
        **TABLE,
        "agent": {**AGENTS[algorithm], "network": NETWORK, "optimizer": {"name": optimizer}},
        "mitigations": {name: TINY.get(name, {}) for name in names},
    }
    plan = make_plan(validate(table, source="test"), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    calls = 0

    def interrupted() -> bool:
        nonlocal calls
        calls += 1
        return stop_after is not None and calls > stop_after

    if stop_after is None:
        train(plan, folder, lambda report: None, interrupted)
        return folder
    with pytest.raises(RunInterrupted):
        train(plan, folder, lambda report: None, interrupted)
    train(plan, folder, lambda report: None, lambda: False, resume=True)
    return folder


def assert_resumed_equals_whole(
    tmp_path: Path, algorithm: str, names: list[str], optimizer: str = "adam"
) -> None:
    rollouts = 2 * 128 // (64 if algorithm == "ppo" else 4)  # two of three tasks: a switch is behind it
    whole = run(tmp_path / "whole", algorithm, names, optimizer)
    resumed = run(tmp_path / "resumed", algorithm, names, optimizer, stop_after=rollouts)
    first, second = (load_file(f.checkpoint_list()[-1] / "tensors.safetensors") for f in (whole, resumed))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert whole.progress_file.read_text() == resumed.progress_file.read_text()


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
@pytest.mark.parametrize("algorithm", AGENTS)
def test_a_run_with_many_mitigations_goes_on_as_if_it_had_not_been_stopped(
    algorithm: str, names: list[str], tmp_path: Path
) -> None:
    assert_resumed_equals_whole(tmp_path, algorithm, names)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name == "kron" and find_spec("kron_torch") is None, reason="kron-torch is for Linux only"
            ),
        )
        for name in OPTIMIZERS
    ],
)
def test_a_run_with_another_optimiser_goes_on_as_if_it_had_not_been_stopped(
    optimizer: str, tmp_path: Path
) -> None:
    assert_resumed_equals_whole(tmp_path, "ppo", ["redo"], optimizer)


def test_every_mitigation_is_in_such_a_run() -> None:
    assert {name for names in TOGETHER for name in names} == MITIGATIONS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", MITIGATIONS)
@pytest.mark.parametrize("algorithm", AGENTS)
def test_a_run_with_one_mitigation_goes_on_as_if_it_had_not_been_stopped(
    algorithm: str, name: str, tmp_path: Path
) -> None:
    assert_resumed_equals_whole(tmp_path, algorithm, [name])
