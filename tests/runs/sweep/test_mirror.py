"""Run folders at a URL: copied in an order that can be cut off anywhere, taken up again elsewhere."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pliant.runs.folder import RunFolder
from pliant.runs.progress import Report
from pliant.runs.sweep.engine import carry_out
from pliant.runs.sweep.jobs import Job
from pliant.runs.sweep.mirror import Mirror, MirrorError, carry_out_mirrored
from pliant.runs.sweep.protocol import Sweep

Begin = Callable[..., Sweep]

TEXT = """
base = "toy.toml"
seeds = [0]
set.tasks = { length = 1024, count = 1 }
set.checkpoints.every = 128
"""


@pytest.fixture
def url() -> str:
    """A place in memory that every test has for itself."""
    return f"memory://{uuid.uuid4()}"


@pytest.fixture
def job(begin: Begin) -> Job:
    return begin(TEXT).known_jobs()[0]


def files(folder: Path) -> dict[str, bytes]:
    """Of a run, without its lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def silent(report: Report) -> None:
    pass


def test_a_run_comes_back_as_it_went(job: Job, url: str, tmp_path: Path) -> None:
    carry_out(job, "cpu", silent, lambda: False)
    Mirror(url).push(job.path)
    back = tmp_path / "elsewhere" / "runs" / job.path.name
    Mirror(url).fetch(back)
    assert files(back) == files(job.path)
    assert RunFolder.open(back).read_spec() == job.spec


def test_what_the_run_removes_is_removed_there_and_what_is_there_no_more_is_removed_here(
    url: str, tmp_path: Path
) -> None:
    here, there = tmp_path / "here" / "runs" / "x", tmp_path / "there" / "runs" / "x"
    (here / "checkpoints" / "01").mkdir(parents=True)
    for name in ("manifest.json", "episodes.csv", "checkpoints/01/state.json"):
        (here / name).write_text(name)
    mirror = Mirror(url)
    mirror.push(here)
    Mirror(url).fetch(there)
    (here / "checkpoints" / "01" / "state.json").unlink()
    (here / "checkpoints" / "01").rmdir()
    (here / "checkpoints" / "02").mkdir()
    (here / "checkpoints" / "02" / "state.json").write_text("second")
    mirror.push(here)
    Mirror(url).fetch(there)
    assert files(there) == files(here)
    assert [path.name for path in (there / "checkpoints").iterdir()] == ["02"]


def test_only_what_changed_is_copied_again_the_logs_first_and_the_manifest_last(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    put, order = MemoryFileSystem.put_file, []

    def watched(system: Any, here: str, there: str, **named: Any) -> Any:
        order.append(there.split("/x/")[1])
        return put(system, here, there, **named)

    monkeypatch.setattr(MemoryFileSystem, "put_file", watched)
    folder = tmp_path / "runs" / "x"
    (folder / "checkpoints" / "01").mkdir(parents=True)
    for name in ("manifest.json", "run.toml", "episodes.csv", "checkpoints/01/state.json", ".lock"):
        (folder / name).write_text(name)
    mirror = Mirror(url)
    mirror.push(folder)
    assert order == ["episodes.csv", "run.toml", "checkpoints/01/state.json", "manifest.json"]
    (folder / "episodes.csv").write_text("longer than before")
    mirror.push(folder)
    assert order[4:] == ["episodes.csv"]


def test_what_has_no_manifest_there_is_no_run(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    (folder / "episodes.csv").write_text("begun")
    Mirror(url).push(folder)
    with pytest.raises(FileNotFoundError):
        Mirror(url).fetch(tmp_path / "elsewhere" / "runs" / "x")
    assert not (tmp_path / "elsewhere").exists()


class Killed(BaseException):
    """The node is gone."""


@pytest.mark.parametrize("after", [1, 3, 7])
def test_a_run_whose_node_is_lost_goes_on_elsewhere_from_what_was_copied(
    job: Job, url: str, tmp_path: Path, after: int
) -> None:
    reported: list[int] = []

    def lost(report: Report) -> None:
        reported.append(report.steps)
        if len(reported) > after:
            raise Killed

    # Every rollout reports: the run is slowed down to that by the clock that reports are limited by.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pliant.runs.callbacks._REPORT_EVERY", 0.0)
        with pytest.raises(Killed):
            carry_out_mirrored(job, Mirror(url), "cpu", lost, lambda: False)
        assert not job.path.exists()
        again: list[Report] = []
        outcome = carry_out_mirrored(job, Mirror(url), "cpu", again.append, lambda: False)
    assert outcome.status == "complete"
    Mirror(url).fetch(job.path)
    alone = Job(job.spec, tmp_path / "alone" / "runs" / job.path.name)
    carry_out(alone, "cpu", silent, lambda: False)
    for name in ("episodes.csv", "progress.csv"):
        assert (job.path / name).read_bytes() == (alone.path / name).read_bytes()
    newest, expected = (RunFolder.open(one.path).checkpoint_list()[-1] for one in (job, alone))
    assert (newest / "tensors.safetensors").read_bytes() == (expected / "tensors.safetensors").read_bytes()
    if after == 7:
        assert again[0].steps > 0  # it did go on, and did not begin anew


def test_a_run_that_is_complete_there_is_not_begun_again(job: Job, url: str) -> None:
    carry_out_mirrored(job, Mirror(url), "cpu", silent, lambda: False)
    told: list[Report] = []
    assert carry_out_mirrored(job, Mirror(url), "cpu", told.append, lambda: False).status == "complete"
    assert told == []


def test_a_network_that_is_away_for_a_while_holds_nobody_up_but_must_be_there_at_the_end(
    job: Job, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, push = 0, Mirror.push

    def flaky(mirror: Mirror, folder: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 1 or broken:
            raise ConnectionError("the network is away")
        push(mirror, folder)

    monkeypatch.setattr(Mirror, "push", flaky)
    broken = False
    assert carry_out_mirrored(job, Mirror(url), "cpu", silent, lambda: False).status == "complete"
    assert calls >= 2
    other, broken = f"{url}-other", True
    outcome = carry_out_mirrored(job, Mirror(other), "cpu", silent, lambda: False)
    assert outcome.status == "failed"
    assert "could not be copied" in outcome.message
    assert "the network is away" in outcome.message


def test_a_url_that_cannot_be_used_is_said_so() -> None:
    for url in ("nosuchthing://bucket", "file:///proc/nowhere"):
        with pytest.raises(MirrorError, match="cannot be written to"):
            Mirror(url).check()


def test_a_name_that_leads_out_of_the_folder_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, root = fsspec.core.url_to_fs(f"{url}/runs/x")
    monkeypatch.setattr(type(system), "find", lambda *_: [f"{root}/manifest.json", f"{root}/../../evil"])
    with pytest.raises(MirrorError, match="leads out of it"):
        Mirror(url).fetch(tmp_path / "runs" / "x")
    assert list(tmp_path.iterdir()) == []
