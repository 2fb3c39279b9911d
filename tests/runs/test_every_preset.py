"""Every shipped preset, shortened: all tasks, or three of many; stand-ins for what does not ship."""

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


def shortened(name: str) -> list[str]:
    spec = load_spec(name)
    if (
        spec.agent.network.extractor == "resnet-18"
    ):  # a sample takes a thousand times as long as one of digits
        return [*SHORT, "tasks.count=2", "diagnostics.samples=20", "evaluation.tasks=none"]
    return (
        [*SHORT, "tasks.count=3"]
        if spec.agent.algorithm == "classifier" or spec.tasks.count > 20
        else [*SHORT]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_runs_two_thousand_steps_of_each_task(name: str, tmp_path: Path) -> None:
    plan = make_plan(load_spec(name, settings=shortened(name)), "cpu")
    folder = RunFolder.create(tmp_path, plan.spec, plan.boundaries)
    train(plan, folder, lambda report: None, lambda: False)
    assert folder.read_manifest()["status"] == "complete"
    assert plan.boundaries[-1] >= 2000 * len(plan.sequence)
    settings = plan.spec.diagnostics
    measured = -(-len(plan.sequence) // settings.task_interval)
    assert len(list(folder.snapshots.glob("*.npz"))) == len(settings.at) * measured
