"""The files of rows, and the lines that a person sees."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pliant.runs.logs import STEP, EpisodeCsv, ProgressCsv
from pliant.runs.progress import LiveReporter, PlainReporter, Report, reporter


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_column_that_appears_later_is_added_to_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    writer = ProgressCsv(path, keep_until=0)
    writer.write({"a": 1.5}, {}, step=10)
    writer.write({"a": np.float32(2.0), "b": 3}, {}, step=20)
    writer.close()
    assert rows(path) == [{STEP: "10", "a": "1.5", "b": ""}, {STEP: "20", "a": "2.0", "b": "3"}]


def test_the_clock_and_what_is_no_number_stay_out(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    writer = ProgressCsv(path, keep_until=0)
    writer.write(
        {"time/fps": 100, "time/time_elapsed": 3, "switch/snapshot_seconds": 1.0, "text": "x"}, {}, step=5
    )
    writer.write({"kept": 1.0, "excluded": 2.0}, {"excluded": ("csv",)}, step=6)
    writer.close()
    assert rows(path) == [{STEP: "6", "kept": "1.0"}]


def test_a_continued_file_loses_the_rows_after_the_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    first = ProgressCsv(path, keep_until=0)
    for step in (10, 20, 30):
        first.write({"a": step / 10}, {}, step=step)
    first.close()
    second = ProgressCsv(path, keep_until=20)
    second.write({"a": 9.0}, {}, step=30)
    second.close()
    assert [(row[STEP], row["a"]) for row in rows(path)] == [("10", "1.0"), ("20", "2.0"), ("30", "9.0")]


def test_episodes_are_continued_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    for keep_until, steps in ((0, (5, 15)), (10, (12,))):
        writer = EpisodeCsv(path, keep_until)
        for step in steps:
            writer.write(step, 0, {"r": float(step), "l": step})
        writer.close()
    assert [row["env_steps"] for row in rows(path)] == ["5", "12"]


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
    assert str(report()) == "task 1/2  500/2,000 env steps  10/s  2:30 left  return 21.2"
    assert str(report(steps_per_second=0.0, last_return=None)).endswith("-/s  - left  return -")


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
