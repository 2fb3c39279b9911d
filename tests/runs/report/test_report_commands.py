"""`pliant report`, `compare` and `list` as they are called."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pliant.runs import index
from pliant.runs.cli import console
from pliant.runs.folder import RunFolder
from pliant.runs.report.comparison import Comparison, gather

MakeRun = Callable[..., RunFolder]


def test_report_writes_the_page_and_says_where(command, results: Path, tmp_path: Path) -> None:
    run = min(results.iterdir())
    code, out, err = command("report", run, "--out", tmp_path / "a.html")
    assert (code, err) == (0, "")
    assert "a.html" in out
    assert (tmp_path / "a.html").exists()
    code, _, err = command("report", run, "--out", tmp_path / "a.html")
    assert code == console.BAD_INPUT
    assert "is there already" in err


def test_of_a_folder_with_several_experiments_it_is_said_how_to_name_each(
    command, tmp_path: Path, make_run: MakeRun
) -> None:
    for seed in range(2):
        make_run(tmp_path, "bp", seed)
    other = make_run(tmp_path, "bp", name="other", count=2).path
    third = make_run(tmp_path, "er", name="other", count=1).path
    code, _, err = command("report", tmp_path)
    assert code == console.BAD_INPUT
    assert err.splitlines()[1:] == [
        f"  {other} (1 run of this kind)",  # other-* would be both
        f"  {third} (1 run of this kind)",
        f"  {tmp_path}/toy-* (2 runs)",
    ]


def test_compare_prints_the_metrics_of_every_arm(command, results: Path, comparison: Comparison) -> None:
    code, out, _ = command("compare", *sorted(results.iterdir()))
    assert code == 0
    for arm in comparison.arms:
        assert arm.label in out
    for metric, cells in comparison.table:
        assert metric.name in out
        assert all(f"{cell.interval} (3)" in out for cell in cells if cell)
    assert "er beats bp with probability 0.833" in out


def test_list_names_every_run_and_says_what_is_damaged(command, tmp_path: Path, make_run: MakeRun) -> None:
    folders = [make_run(tmp_path, "bp", seed) for seed in range(2)]
    (folders[1].path / "manifest.json").write_text("[]")
    code, out, err = command("list", tmp_path)
    assert code == 0
    assert folders[0].path.name in out
    assert "unreadable" in out
    assert "is damaged" in err
    (entry,) = [entry for entry in index.entries(tmp_path) if not entry.note]
    # The last 20 of 50 episodes of the last task, whose return rises to 100.
    assert entry.last_return == pytest.approx(100 * np.mean(np.arange(31, 51)) / 50)
    assert entry.age.endswith(" s")
    code, _, err = command("list", tmp_path / "nowhere")
    assert code == console.BAD_INPUT
    assert "there is no folder" in err


def test_a_run_whose_process_was_killed_is_told_from_one_that_runs_or_waits(
    tmp_path: Path, make_run: MakeRun
) -> None:
    def status() -> str:
        (entry,) = index.entries(tmp_path)
        (arm,) = gather([folder.path])[0].arms
        assert arm.runs[0].status == entry.status
        return entry.status

    folder = make_run(tmp_path)
    folder.write_manifest({**folder.read_manifest(), "status": "running"})
    assert status() == "not started"
    folder.set_status("running")  # stamps the start
    assert status() == "running"  # nobody of this machine has held the lock: who knows
    with folder.locked():
        assert status() == "running"
    assert status() == "killed"
    (folder.path / ".lock").write_text("process 1 on another machine")
    assert status() == "running"
    folder.set_status("complete")
    assert status() == "complete"


def test_a_narrow_terminal_lists_runs_without_what_their_names_say(
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: MakeRun
) -> None:
    from pliant.runs.cli.list import list_runs

    run = make_run(tmp_path, "bp").path.name
    shown = {}
    for width in (200, 66, 10):
        monkeypatch.setattr(console.out, "width", width)
        with console.out.capture() as capture:
            list_runs(tmp_path)
        shown[width] = capture.get()
    head, row, *_ = shown[200].splitlines()
    assert head.split() == ["run", "spec", "arm", "seed", "status", "last", "return", "age"]
    assert row.startswith(run)
    head, row, *_ = shown[66].splitlines()
    assert row.startswith(run)
    assert "status" in head
    assert "age" in head
    assert "spec" not in head
    assert "spec" not in shown[10]
    assert "seed" not in shown[10]


def test_comparing_and_listing_need_no_torch(results: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom pliant.runs.report.comparison import gather\n"
        "from pliant.runs.report.page import render\n"
        "from pliant.runs.index import entries\n"
        f"paths = sorted(Path({str(results)!r}).iterdir())\nrender(*gather(paths[:1]))\n"
        f"entries(Path({str(results)!r}))\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
