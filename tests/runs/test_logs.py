"""The files of rows, and the lines that a person sees."""

import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pliant.runs.folder import RunFolder
from pliant.runs.logs import STEP, EpisodeCsv, LogMarks, ProgressCsv, RunLogs
from pliant.runs.presets import validate
from pliant.runs.progress import LiveReporter, PlainReporter, Report, reporter

TASKS = {"env": "CartPole-v1", "length": 100}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_column_that_appears_later_is_added_to_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    writer = ProgressCsv(path)
    writer.write({"a": 1.5}, {}, step=10)
    writer.write({"a": np.float32(2.0), "b": 3}, {}, step=20)
    writer.close()
    assert rows(path) == [{STEP: "10", "a": "1.5", "b": ""}, {STEP: "20", "a": "2.0", "b": "3"}]


def test_the_clock_and_what_is_no_number_stay_out(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    writer = ProgressCsv(path)
    writer.write(
        {"time/fps": 100, "time/time_elapsed": 3, "switch/snapshot_seconds": 1.0, "text": "x"}, {}, step=5
    )
    writer.write({"kept": 1.0, "excluded": 2.0}, {"excluded": ("csv",)}, step=6)
    writer.close()
    assert rows(path) == [{STEP: "6", "kept": "1.0"}]


def test_a_continued_file_loses_the_rows_after_the_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    first = ProgressCsv(path)
    for step in (10, 20):
        first.write({"a": step / 10}, {}, step=step)
    kept = first.sync()
    first.write({"a": 3.0, "b": 1.0}, {}, step=20)  # of the same step, and with a column more
    first.close()
    with path.open("a") as file:
        file.write("30,")  # whoever wrote it was killed
    second = ProgressCsv(path, kept)
    second.write({"a": 9.0}, {}, step=30)
    assert second.sync() == 3
    second.close()
    assert [(row[STEP], row["a"]) for row in rows(path)] == [("10", "1.0"), ("20", "2.0"), ("30", "9.0")]


def test_episodes_are_continued_the_same_way_and_read_back_by_task(tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    first = EpisodeCsv(path)
    for step, result in ((5, 0.1 + 0.2), (15, -1.0)):
        first.write(step, step // 10, {"r": result, "l": step})
    first.close()
    second = EpisodeCsv(path, 1)
    second.write(12, 1, {"r": np.float32(0.1), "l": 12})  # whose digits are not those of the float it is
    assert second.returns(0) == [(5, 0.1 + 0.2)]
    assert second.returns(1) == [(12, float(np.float32(0.1)))]
    second.close()
    assert [row["env_steps"] for row in rows(path)] == ["5", "12"]


def test_rows_that_a_checkpoint_knows_of_and_that_are_gone_are_a_warning_with_their_number(
    tmp_path: Path,
) -> None:
    path = tmp_path / "episodes.csv"
    writer = EpisodeCsv(path)
    writer.write(5, 0, {"r": 1.0, "l": 5})
    writer.close()
    with pytest.warns(RuntimeWarning, match="has lost 2 of the 3 rows"):
        EpisodeCsv(path, 3).close()
    path.unlink()
    with pytest.warns(RuntimeWarning, match="has lost 3 of the 3 rows"):
        EpisodeCsv(path, 3).close()
    assert path.read_text() == "env_steps,task,return,length\n"


def test_what_was_recorded_and_not_written_is_written_by_the_one_who_goes_on(tmp_path: Path) -> None:
    spec = validate({"name": "toy", "tasks": TASKS, "agent": {"algorithm": "ppo"}}, source="test")
    written = []
    for name, resume in (("whole", False), ("resumed", True)):
        folder = RunFolder.create(tmp_path / name, spec, [0, 100])
        with RunLogs(folder) as logs:
            logs.logger.record("train/loss", np.float32(0.1))
            logs.logger.record("train/n_updates", 3, exclude="tensorboard")
            logs.logger.record_mean("train/mean", 1.0)
            logs.logger.record_mean("train/mean", 2.0)
            marks = logs.marks()
            if not resume:
                logs.logger.record_mean("train/mean", 6.0)
                logs.logger.dump(10)
        if resume:
            marks = LogMarks.from_json(json.loads(json.dumps(marks.to_json())))
            with RunLogs(folder, marks, 5) as logs:
                logs.logger.record_mean("train/mean", 6.0)
                logs.logger.dump(10)
        written.append((folder.progress_file.read_text(), scalars(folder)))
    assert written[0] == written[1]
    assert written[0][1] == {"train/loss": [(10, np.float32(0.1))], "train/mean": [(10, 3.0)]}


# TensorBoard ------------------------------------------------------------------------------------------------


def scalars(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0})
    board.Reload()
    return {
        tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]
    }


def test_tensorboard_shows_one_curve_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = validate({"name": "toy", "tasks": TASKS, "agent": {"algorithm": "ppo"}}, source="test")
    folder = RunFolder.create(tmp_path, spec, [0, 100])
    marks = None
    # Each process writes two rows beyond its checkpoint, one at the very step of the checkpoint.
    for number, (start, hour) in enumerate(((0, 9), (2, 3), (4, 7))):
        monkeypatch.setattr(time, "time", lambda hour=hour: 3600.0 * hour)
        with RunLogs(folder, marks, start) as logs:
            for step in (start + 1, start + 2):
                logs.logger.record("curve", float(step))
                logs.logger.dump(step)
            marks = logs.marks()
            for step in (start + 2, start + 3):
                logs.logger.record("beyond", -1.0 - number)
                logs.logger.dump(step)
    assert scalars(folder) == {
        "curve": [(step, float(step)) for step in range(1, 7)],
        "beyond": [(6, -3.0), (7, -3.0)],
    }
    assert len(list(folder.tensorboard.iterdir())) == 3


def test_a_run_that_has_no_checkpoint_begins_its_logs_anew(tmp_path: Path) -> None:
    spec = validate({"name": "toy", "tasks": TASKS, "agent": {"algorithm": "ppo"}}, source="test")
    folder = RunFolder.create(tmp_path, spec, [0, 100])
    for value in (1.0, 2.0):
        with RunLogs(folder) as logs:
            logs.logger.record("curve", value)
            logs.logger.dump(1)
    assert scalars(folder) == {"curve": [(1, 2.0)]}
    assert rows(folder.progress_file) == [{STEP: "1", "curve": "2.0"}]


def report(**changes: object) -> Report:
    return Report(
        **{
            "run": "toy",
            "task": 1,
            "tasks": 2,
            "task_name": "first",
            "steps": 500,
            "total_steps": 2000,
            "steps_per_second": 10.0,
            "last_return": 21.25,
            **changes,
        }  # type: ignore[arg-type]
    )


def test_a_report_says_task_steps_speed_time_left_and_return() -> None:
    assert str(report()) == "task 1/2  500/2,000 env steps  10/s  2 min 30 s left  return 21.2"
    assert str(report(steps_per_second=0.0, last_return=None)).endswith("–/s  – left  return –")
    assert str(report(last_return=0.12345)).endswith("return 0.123")  # an accuracy
    assert str(report(last_return=3.0, measuring=True)).endswith("return 3.00  measuring")


def test_plain_lines_come_at_a_new_task_at_the_end_and_seldom_between() -> None:
    stream = io.StringIO()
    with PlainReporter(Console(file=stream, width=200), interval=1e9) as tell:
        for changes in ({}, {"steps": 600}, {"task": 2, "steps": 1000}, {"task": 2, "steps": 2000}):
            tell(report(**changes))
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        f"{n}/2,000 env steps" for n in ("500", "1,000", "2,000")
    ]
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveReporter), (False, PlainReporter)])
def test_a_terminal_gets_a_live_line_anything_else_plain_ones(terminal: bool, kind: type) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)
    assert isinstance(reporter(console), kind)


def test_a_live_line_names_the_run() -> None:
    stream = io.StringIO()
    with LiveReporter(Console(file=stream, force_terminal=True, width=160)) as tell:
        tell(report())
        tell(report(steps=1999))
    assert "toy" in stream.getvalue()
    assert "1,999/2,000 env steps" in stream.getvalue()
