"""Measuring a saved run again."""

import pytest
import torch

from pliant.diagnostics import Snapshot
from pliant.runs.errors import RunFolderError, SpecError
from pliant.runs.folder import RunFolder
from pliant.runs.measure import measure
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.training import train

TABLE = {
    "name": "toy",
    "tasks": {
        "env": "CartPole-v1",
        "length": 128,
        "count": 3,
        "shifts": [{"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}}],
    },
    "agent": {"algorithm": "ppo", "n_steps": 64, "n_epochs": 1, "network": {"hidden": [8]}},
    "diagnostics": {"samples": 64, "spectrum": {"depth": 4, "minibatches": 4}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    plan = make_plan(validate(TABLE, source="test"), "cpu")
    folder = RunFolder.create(tmp_path_factory.mktemp("results"), plan.spec, plan.boundaries)
    train(plan, folder, lambda report: None, lambda: False)
    return folder


def test_measuring_again_gives_what_the_run_measured_at_its_switch(folder: RunFolder) -> None:
    again, path = measure(folder, after_task=0, on_task=1)
    during = Snapshot.load(folder.snapshots / "task-001-init.npz")
    # What the new data alone changed is known to the run, which has the moment before at hand.
    own = {tag: value for tag, value in during.scalars().items() if "data_change" not in tag}
    assert len(own) < len(during.scalars())
    assert again.scalars() == own
    assert torch.equal(
        torch.tensor(again.spectra["total"].nodes), torch.tensor(during.spectra["total"].nodes)
    )
    assert Snapshot.load(path).scalars() == again.scalars()


def test_every_measurement_is_kept_in_a_file_of_its_own(folder: RunFolder) -> None:
    paths = [measure(folder, after_task=-1, on_task=2)[1] for _ in range(2)]
    assert len(set(paths)) == 2
    assert all(path.exists() for path in paths)


def test_settings_change_what_is_measured_but_not_the_run(folder: RunFolder) -> None:
    spec = folder.spec_file.read_text()
    snapshot, _ = measure(
        folder, settings=("diagnostics.spectrum.parts=['critic']", "diagnostics.spectrum.depth=2")
    )
    assert set(snapshot.spectra) == {"critic"}
    assert snapshot.settings.depth == 2
    assert snapshot.about["after_task"] == 2
    assert folder.spec_file.read_text() == spec


def test_tasks_and_checkpoints_that_are_not_there_are_named(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="no checkpoint after task 7; it has those after: -1, 0, 1, 2"):
        measure(folder, after_task=7)
    with pytest.raises(SpecError, match="no task 9; the run has the tasks 0 to 2"):
        measure(folder, on_task=9)
