"""Runs that are interrupted, damaged, newer or not comparable: named, and the rest reported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pliant.diagnostics.snapshot import SCHEMA
from pliant.runs.errors import Incomparable, RunFolderError
from pliant.runs.folder import RunFolder
from pliant.runs.report import records
from pliant.runs.report.comparison import METRICS, Comparison, gather
from pliant.runs.report.page import render

MakeRun = Callable[..., RunFolder]
ByName = Callable[[Comparison], dict[str, list[Any]]]


def test_an_interrupted_run_is_reported_as_far_as_it_went_and_says_so(
    tmp_path: Path, make_run: MakeRun, by_name: ByName
) -> None:
    whole, part = make_run(tmp_path, "bp", 0), make_run(tmp_path, "bp", 1)
    head, *rows = part.episodes_file.read_text().splitlines()
    kept = [row for row in rows if int(row.split(",")[0]) <= 1500]
    part.episodes_file.write_text("\n".join([head, *kept]) + "\n")
    part.snapshot_at(2, "init").unlink()
    part.set_status("interrupted")
    comparison, problems = gather([whole.path, part.path])
    assert problems == []
    assert "1,500 of 3,000 environment steps, 1 of 3 tasks finished" in comparison.notes[0]
    assert "in the curves, but not in the metrics" in comparison.notes[0]
    curve = comparison.curve(comparison.runs[1])
    assert np.isfinite(curve[:1]).all()
    assert np.isfinite(curve[1]).sum() == 10
    assert np.isnan(curve[2]).all()
    assert len(comparison.per_run(METRICS[0], comparison.arms[0])) == 1
    assert "1 of 3 tasks finished" in render(comparison)
    alone, _ = gather([part.path])
    assert alone.tasks_compared == 1
    assert by_name(alone)["return at the end of a task"][0].value == pytest.approx(0.96 * 401 / 500)


def test_a_run_that_has_only_begun_makes_a_page(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path)
    for path in (folder.episodes_file, folder.evaluation_file):
        path.unlink()
    shutil.rmtree(folder.snapshots)
    folder.set_status("running")
    comparison, problems = gather([folder.path])
    assert "episodes.csv' is missing" in problems[0]
    assert "0 of 3 tasks finished" in render(comparison, problems)


def test_damaged_files_are_named_and_the_rest_is_reported(tmp_path: Path, make_run: MakeRun) -> None:
    good, bad, lost = (make_run(tmp_path, "bp", seed) for seed in range(3))
    with bad.episodes_file.open("a") as file:
        file.write("2980,2,not-a-number,20\n30")
    bad.snapshot_at(1, "init").write_bytes(b"PK\x03\x04 no archive")
    bad.evaluation_file.write_bytes(b"\xff\xfe\x00garbage\n1,2,3\n")
    (lost.path / "manifest.json").write_text("{", encoding="utf-8")
    comparison, problems = gather([good.path, bad.path, lost.path])
    assert len(comparison.runs) == 2
    said = "\n".join(problems)
    for name in ("episodes.csv", "task-001-init.npz", "evaluation.csv", "manifest.json"):
        assert name in said
    assert "2 of 152 rows cannot be read, the first on line 152" in said
    text = render(comparison, problems)
    assert "Could not be read" in text
    assert len(comparison.per_run(METRICS[0], comparison.arms[0])) == 2


def test_a_spec_that_cannot_be_read_leaves_the_curves(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path)
    folder.spec_file.write_text("not TOML", encoding="utf-8")
    comparison, problems = gather([folder.path])
    assert "run.toml" in problems[0]
    assert comparison.unit == "return"  # without the tasks nothing is known of their range
    assert "run.toml" in render(comparison, problems)


def test_another_schema_version_is_refused_with_the_reason(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path)
    folder.write_manifest({**folder.read_manifest(), "schema_version": 99})
    with pytest.raises(RunFolderError, match="schema version 99, this pliant reads 1"):
        gather([folder.path])


def test_a_newer_snapshot_is_left_out_with_the_reason(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path)
    path = folder.snapshot_at(0, "init")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    record = json.loads(str(arrays["snapshot"])) | {"schema": SCHEMA + 1}
    np.savez(path, **(arrays | {"snapshot": np.array(json.dumps(record))}))
    _, problems = gather([folder.path])
    assert f"format {SCHEMA + 1}, this pliant reads up to {SCHEMA}" in problems[0]
    assert records.SNAPSHOT_SCHEMA == SCHEMA


def test_runs_of_different_tasks_are_not_compared_and_the_difference_is_named(
    tmp_path: Path, make_run: MakeRun
) -> None:
    with pytest.raises(Incomparable, match=r"tasks\.count is 3 against 2; give them reports of their own"):
        gather([make_run(tmp_path, "bp").path, make_run(tmp_path, "er", count=2).path])


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        gather([tmp_path])
