"""The metrics of a comparison, from run folders whose numbers are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pliant.runs.errors import Incomparable
from pliant.runs.folder import RunFolder
from pliant.runs.report.comparison import METRICS, Comparison, compare, gather
from pliant.runs.report.grouping import differences
from pliant.runs.report.page import render
from pliant.runs.report.ranks import correlations
from pliant.runs.report.records import read_run

MakeRun = Callable[..., RunFolder]
ByName = Callable[[Comparison], dict[str, list[Any]]]
Parse = Callable[[str], Any]


def test_the_metrics_of_known_runs_are_those_worked_out_by_hand(
    comparison: Comparison, by_name: ByName
) -> None:
    assert [arm.label for arm in comparison.arms] == ["bp", "er", "reset"]  # fresh agents come last
    table = by_name(comparison)
    # The last tenth of a task has the episodes at 92, 94, ... 100 % of it: 0.96 of the top, a mean over seeds
    # adds 1; CartPole's range is 500.
    tops = {arm: [400 * loss**task + 1 for task in range(3)] for arm, loss in (("bp", 0.5), ("reset", 1.0))}
    final = {arm: 0.96 * np.array(values) / 500 for arm, values in tops.items()}
    assert table["return at the end of a task"][0].value == pytest.approx(final["bp"].mean())
    assert table["plasticity gap"][0].value == pytest.approx((final["reset"] - final["bp"])[1:].mean())
    assert table["plasticity gap"][2] is None
    first, second, last = (np.array(tops["bp"]) + 0.5) / 500  # two evaluation episodes, one of them 1 better
    first_kept, second_kept = (401 * 0.81 + 0.5) / 500, (201 * 0.9 + 0.5) / 500
    forgetting = ((first - first_kept) + (second - second_kept)) / 3
    assert table["forgetting"][0].value == pytest.approx(forgetting)
    assert table["backward transfer"][0].value == pytest.approx(-1.5 * forgetting)
    assert table["average performance"][0].value == pytest.approx((first_kept + second_kept + last) / 3)
    assert table["zero-shot transfer"][0].value == pytest.approx(0.0)
    # Areas under lines from 0 to the top are half of it; episodes end at the end of their span: 0.505.
    areas = {arm: 0.505 * np.array(values) / 500 for arm, values in tops.items()}
    transfer = (areas["bp"] - areas["reset"]) / (1 - areas["reset"])
    assert table["forward transfer"][0].value == pytest.approx(transfer[1:].mean(), rel=1e-4)
    assert "repeated-task plasticity loss" not in table  # no task comes back


def test_intervals_lie_within_the_seeds_and_the_better_arm_surely_wins(comparison: Comparison) -> None:
    for metric in METRICS:
        for arm in comparison.arms:
            values, cell = comparison.per_run(metric, arm), comparison.summary(metric, arm)
            if cell:
                interval = cell.interval
                ends = [min(values), interval.low, interval.value, interval.high, max(values)]
                assert cell.runs == len(values)
                assert ends == pytest.approx(sorted(ends), rel=1e-12)
    better, other, chance = comparison.improvements[0]
    # On the first task the arms are equal (1/2), on the other two er always wins.
    assert (better.label, other.label, chance.value) == ("er", "bp", pytest.approx(5 / 6))


def test_a_run_that_did_not_finish_is_in_no_number_and_in_no_count(
    results: Path, tmp_path: Path, make_run: MakeRun
) -> None:
    young = make_run(tmp_path, "bp", 7)
    keep = [row for row in young.episodes_file.read_text().splitlines()[1:] if row.split(",")[1] == "0"]
    young.episodes_file.write_text("\n".join(["env_steps,task,return,length", *keep]) + "\n")
    young.set_status("interrupted")
    comparison, _ = gather([*(path for path in results.iterdir() if "-bp-" in path.name), young.path])
    assert len(comparison.runs) == 4
    assert {cell.runs for _, cells in comparison.table for cell in cells if cell} == {3}
    page = render(comparison)
    assert ">3 seeds<" in page
    assert ">4 seeds<" not in page
    assert "mean over 4 seeds" in page  # it was evaluated, and is in the matrix


def test_one_task_is_not_forgotten_and_two_seeds_make_no_interval(
    tmp_path: Path, make_run: MakeRun, by_name: ByName, parse: Parse
) -> None:
    comparison, _ = gather([make_run(tmp_path, "bp", seed, count=1).path for seed in range(2)])
    assert by_name(comparison).keys() == {"return at the end of a task", "average performance"}
    interval = by_name(comparison)["return at the end of a task"][0]
    assert np.isfinite(interval.value)
    assert np.isnan(interval.low)
    texts = " ".join(" ".join(parse(render(comparison)).texts).split())
    assert "less is. One task cannot be forgotten yet, nor be transferred to another. No interval" in texts
    assert "No correlation from fewer than 3 seeds" in texts


def test_two_seeds_of_two_arms_say_neither_which_is_better_nor_what_correlates(
    tmp_path: Path, make_run: MakeRun
) -> None:
    paths = [make_run(tmp_path, arm, seed).path for arm in ("bp", "er") for seed in range(3)]
    three, two = gather(paths)[0], gather([path for path in paths if "-s2-" not in path.name])[0]
    assert [len(arm.runs) for arm in two.arms] == [2, 2]
    assert correlations(three)
    assert three.improvements
    assert not correlations(two)
    assert not two.improvements


def test_tasks_that_every_run_finished_are_counted_in_words(
    tmp_path: Path, make_run: MakeRun, parse: Parse
) -> None:
    run = make_run(tmp_path, "bp")
    rows = [row for row in run.episodes_file.read_text().splitlines()[1:] if row.split(",")[1] == "0"]
    run.episodes_file.write_text("\n".join(["env_steps,task,return,length", *rows]) + "\n")
    run.set_status("interrupted")
    texts = " ".join(" ".join(parse(render(gather([run.path])[0])).texts).split())
    assert "less is. Over the one task that every run finished. One task" in texts


def test_the_time_that_a_run_waited_for_a_core_is_not_its_wall_time(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run = make_run(tmp_path, "bp")
    manifest = run.read_manifest()
    manifest |= {"created": "2026-01-01T00:00:00+00:00", "updated": "2026-01-01T00:05:00+00:00"}
    run.write_manifest(manifest)
    assert read_run(run.path).wall_seconds == 300.0
    run.write_manifest({**manifest, "started": "2026-01-01T00:04:00+00:00"})
    assert read_run(run.path).wall_seconds == 60.0


def test_a_run_is_stamped_when_it_starts_and_keeps_the_stamp_when_it_goes_on(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run = make_run(tmp_path, "bp")
    assert "started" not in run.read_manifest()
    run.set_status("running")
    started = run.read_manifest()["started"]
    assert started == run.read_manifest()["updated"]
    run.set_status("running")
    assert run.read_manifest()["started"] == started


def test_a_task_that_comes_back_is_measured_against_its_first_time(
    tmp_path: Path, make_run: MakeRun, by_name: ByName
) -> None:
    comparison, _ = gather([make_run(tmp_path, "bp", 0, count=2, cycles=2).path])
    # The tops of bp are 400, 200 and then, for the same tasks, 100 and 50: a quarter.
    assert by_name(comparison)["repeated-task plasticity loss"][0].value == pytest.approx(0.75)


def test_what_differs_between_arms_is_listed_and_the_seed_is_not(comparison: Comparison) -> None:
    found = dict(differences(comparison.arms))
    assert found == {
        "arm": ["bp", "er", "reset"],
        "mitigations.effective-rank.step": [None, 1e-3, None],
        "reset": [False, False, True],
    }


def test_arms_of_one_name_are_told_apart_by_what_differs(tmp_path: Path, make_run: MakeRun) -> None:
    slow = {"agent": {"algorithm": "ppo", "n_steps": 1000, "batch_size": 50, "learning_rate": 1e-5}}
    runs = [read_run(make_run(tmp_path, "bp").path), read_run(make_run(tmp_path, "bp", **slow).path)]
    assert [arm.label for arm in compare(runs).arms] == [
        "bp (learning_rate=0.0003)",
        "bp (learning_rate=1e-05)",
    ]


def test_runs_that_were_only_measured_differently_are_one_arm(tmp_path: Path, make_run: MakeRun) -> None:
    others = {"diagnostics": {"at": []}, "evaluation": {"episodes": 2}}
    runs = [read_run(make_run(tmp_path, "bp", seed, **(others if seed else {})).path) for seed in range(2)]
    assert [arm.label for arm in compare(runs).arms] == ["bp"]


@pytest.mark.parametrize("kind", ["data", "environments"])
def test_runs_of_other_data_or_environments_are_not_compared_and_one_that_noted_none_is(
    tmp_path: Path, make_run: MakeRun, kind: str
) -> None:
    folders = [make_run(tmp_path, "bp", seed) for seed in range(3)]
    for folder, checksum in zip(folders, ("sha256 aa", "sha256 bb"), strict=False):
        inputs = {kind: {"x": checksum}, "mitigations": {}}
        folder.write_manifest({**folder.read_manifest(), "inputs": inputs})
    first, other, older = (read_run(folder.path) for folder in folders)
    with pytest.raises(Incomparable, match=f"{kind}: x is sha256 aa against sha256 bb"):
        compare([first, other])
    (arm,) = compare([first, older]).arms
    assert len(arm.runs) == 2


def test_the_same_experiment_twice_counts_once_and_says_so(tmp_path: Path, make_run: MakeRun) -> None:
    runs = [read_run(make_run(tmp_path, "bp").path) for _ in range(2)]
    comparison = compare([*runs, runs[0]])
    assert len(comparison.runs) == 1
    assert "is the same experiment as" in comparison.notes[0]


def test_runs_are_held_against_the_fresh_agents_of_their_own_settings(
    tmp_path: Path, make_run: MakeRun
) -> None:
    agents = [{"algorithm": "ppo", "n_steps": 1000, "batch_size": size} for size in (50, 100, 200)]
    fresh = [make_run(tmp_path, "reset", agent=agent) for agent in agents[:2]]
    mine = [make_run(tmp_path, "er", agent=agent) for agent in agents]
    comparison, _ = gather([folder.path for folder in (*fresh, *mine)])
    found = {run.folder.path: comparison.fresh_for(run) for run in comparison.runs}
    held_against = [found[folder.path] for folder in mine]
    assert [one and one.folder.path for one in held_against] == [fresh[0].path, fresh[1].path, fresh[0].path]
