"""Every shipped preset, all its tasks, shortened."""

from pathlib import Path

import pytest

from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import load_spec, preset_names
from pliant.runs.training import train

SHORT = (
    "tasks.length=2000",
    "diagnostics.samples=256",
    "diagnostics.spectrum.depth=4",
    "evaluation.episodes=1",
    "evaluation.max_length=50",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_runs_two_thousand_steps_of_each_task(name: str, tmp_path: Path) -> None:
    plan = make_plan(load_spec(name, settings=SHORT), "cpu")
    folder = RunFolder.create(tmp_path, plan.spec, plan.boundaries)
    train(plan, folder, lambda report: None, lambda: False)
    assert folder.read_manifest()["status"] == "complete"
    assert plan.boundaries[-1] >= 2000 * len(plan.sequence)
    assert len(list(folder.snapshots.glob("*.npz"))) == 2 * len(plan.sequence)
