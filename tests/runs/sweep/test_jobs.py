"""Jobs: which run is which, and how one stands."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.runs.errors import RunFolderError, SpecError
from pliant.runs.folder import RunFolder
from pliant.runs.presets import load_spec, validate
from pliant.runs.sweep.definition import SweepDefinition, load_definition
from pliant.runs.sweep.jobs import Job, identity, make_job


@pytest.fixture
def definition(write: Callable[..., Path], plain: str) -> SweepDefinition:
    return load_definition(write(plain))


def test_what_changes_a_run_changes_its_identity_and_a_description_does_not() -> None:
    spec = load_spec("quickstart")
    same = [spec, load_spec("quickstart"), spec.model_copy(update={"description": "another"})]
    others = [
        load_spec("quickstart", seed=1),
        load_spec("quickstart", arm="bp"),
        load_spec("quickstart", settings=["agent.gamma=0.98"]),
        load_spec("quickstart", settings=["mitigations.l2.strength=2e-5"]),
        load_spec("quickstart", settings=["tasks.shifts.0.std=0.5"]),
    ]
    assert len({identity(one) for one in same}) == 1
    assert len({identity(one) for one in [spec, *others]}) == 6


def test_a_value_equal_to_the_default_changes_nothing() -> None:
    explicit = load_spec("quickstart", settings=["schedule=per-task", "agent.gae_lambda=0.95"])
    assert identity(explicit) == identity(load_spec("quickstart"))


def test_identities_stay_as_they_are() -> None:
    # Sweeps made before a change of the code must find their runs again: keys added to the spec since, with
    # defaults that change nothing, must not count.
    tasks = {"env": "CartPole-v1", "length": 100, "shifts": [{"type": "reward-scale", "scale": 0.5}]}
    agent = {"algorithm": "ppo", "n_steps": 64, "max_grad_norm": float("inf"), "network": {"hidden": [8]}}
    table = {
        "name": "x",
        "arm": "l2",
        "tasks": tasks,
        "agent": agent,
        "mitigations": {"l2": {"strength": 0.1}},
    }
    assert identity(validate(table, source="test")) == "c130e8f487c2"


def test_the_folder_s_name_can_be_read(definition: SweepDefinition) -> None:
    setting = {"agent.learning_rate": 0.00123456, "agent.network.hidden": [8, 8]}
    job = make_job(definition, "l2", setting, 7, Path("runs"), tuning=False)
    assert re.fullmatch(r"l2-learning_rate=0\.00123-hidden=_8_8-s7-[0-9a-f]{12}", job.path.name)


def test_names_stay_within_bounds_and_hold_no_separators(definition: SweepDefinition) -> None:
    setting = {"tasks.env": "../../etc", "tasks.name": "x" * 500}
    name = make_job(definition, "bp", setting, 0, Path("runs"), tuning=False).path.name
    assert len(name) < 150
    assert "/" not in name


def test_a_setting_that_no_spec_has_is_refused_with_the_arm(definition: SweepDefinition) -> None:
    with pytest.raises(SpecError, match=r"(?s)l2 of sweep.*agent\.gama.*'gamma'"):
        make_job(definition, "l2", {"agent.gama": 0.9}, 0, Path("runs"), tuning=False)
    with pytest.raises(SpecError, match="l2 of sweep: tasks"):
        make_job(definition, "l2", {"tasks.shifts.0.std": {"rule": "nrmal"}}, 0, Path("x"), tuning=False)


def test_a_job_tells_how_its_folder_stands(definition: SweepDefinition, tmp_path: Path) -> None:
    job = make_job(definition, "bp", {}, 0, tmp_path, tuning=False)
    assert job.state() == "not started"
    folder = job.open()
    assert folder.path == job.path
    assert folder.read_manifest()["boundaries"] == [0, 256, 512]
    for status in ("running", "interrupted", "failed", "complete"):
        folder.set_status(status)
        assert job.state() == status
    folder.set_status("failed", diverged=True)
    assert job.state() == "diverged"
    assert job.open().path == folder.path  # found again, not made again


def test_a_folder_of_another_spec_is_refused_and_left_alone(
    definition: SweepDefinition, tmp_path: Path
) -> None:
    job = make_job(definition, "bp", {}, 0, tmp_path, tuning=False)
    other = make_job(definition, "bp", {}, 1, tmp_path, tuning=False)
    RunFolder.create(tmp_path, other.spec, other.spec.boundaries, name=job.path.name)
    before = (job.path / "manifest.json").read_bytes()
    for ask in (job.state, job.open):
        with pytest.raises(RunFolderError, match="is the run of another spec"):
            ask()
    assert (job.path / "manifest.json").read_bytes() == before


def test_a_spec_travels_to_another_process(definition: SweepDefinition) -> None:
    import pickle

    job = make_job(definition, "l2", {"agent.learning_rate": 0.5}, 0, Path("runs"), tuning=False)
    there = pickle.loads(pickle.dumps(job))
    assert (there.spec, there.path) == (job.spec, job.path)
    assert isinstance(there, Job)
    assert identity(there.spec) == identity(job.spec)
