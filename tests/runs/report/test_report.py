"""The report, the comparison and the index, from run folders as runs leave them."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from pliant.diagnostics import Snapshot, SnapshotSettings, Spectrum, hessian_spectrum
from pliant.diagnostics.snapshot import SCHEMA
from pliant.runs import index
from pliant.runs.baseline import find_fresh, fresh_spec, with_baselines
from pliant.runs.cli import console
from pliant.runs.errors import Incomparable, RunFolderError
from pliant.runs.folder import RunFolder
from pliant.runs.presets import validate
from pliant.runs.report import records, spectra
from pliant.runs.report.comparison import METRICS, Comparison, compare, gather
from pliant.runs.report.grouping import differences
from pliant.runs.report.page import first_free, render, write_report
from pliant.runs.report.records import read_run

TASKS, LENGTH = 3, 1000


def make_run(
    out: Path,
    arm: str = "bp",
    seed: int = 0,
    count: int = TASKS,
    cycles: int = 1,
    nodes: int = 12,
    **changes: Any,
) -> RunFolder:
    """A run folder with every file that a finished run has, without the training.

    A task's return rises in a line from 0 to `top` over the task, where `top` falls from task to task: slowly
    for the arm er, not at all for fresh agents.
    """
    spec = validate(
        {
            "name": "toy",
            "arm": arm,
            "seed": seed,
            "reset": arm == "reset",
            "mitigations": {"effective-rank": {"step": 1e-3}} if arm == "er" else {},
            "tasks": {
                "env": "CartPole-v1",
                "length": LENGTH,
                "count": count,
                "cycles": cycles,
                "shifts": [{"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}}],
            },
            "agent": {"algorithm": "ppo", "n_steps": LENGTH, "batch_size": 50},
            **changes,
        },
        source="test",
    )
    tasks = count * cycles
    boundaries = [LENGTH * task for task in range(tasks + 1)]
    folder = RunFolder.create(out, spec, boundaries)
    loss = {"bp": 0.5, "er": 0.8, "reset": 1.0}.get(arm, 0.7)
    tops = [400.0 * loss**task + seed for task in range(tasks)]
    rows = [
        (step, task, top * (step - LENGTH * task) / LENGTH, 20)
        for task, top in enumerate(tops)
        for step in range(LENGTH * task + 20, LENGTH * (task + 1) + 1, 20)
    ]
    write_csv(folder.episodes_file, ("env_steps", "task", "return", "length"), rows)
    write_csv(
        folder.evaluation_file,
        ("after_task", "on_task", "episode", "policy", "env_steps", "seed", "return", "length", "success"),
        [
            (after, on, episode, "deterministic", LENGTH * (after + 1), episode, value + episode, 9, "")
            for after in range(-1, tasks)
            for on in range(tasks)
            for value in [20.0 if after < on else tops[on] * 0.9 ** (after - on)]
            for episode in range(2)
        ],
    )
    folder.snapshots.mkdir()
    settings = SnapshotSettings(epsilons=(0.01, 0.1), relative_epsilons=(0.01,))
    for task, top in enumerate(tops):
        spectra = {
            part: diagonal(np.linspace(-0.02, 1.0, nodes) * top / 400 * scale)
            for part, scale in (("actor", 1.0), ("critic", 50.0))
        }
        features = {f"{part}/0": {"effective_rank": 5 * top / 400, "dead": 1 - top / 401} for part in spectra}
        values = {f"plasticity/{part}/weight_norm": 10.0 + task for part in spectra}
        for moment in ("init", "end"):
            Snapshot(moment, settings, 64, spectra, features, values, seconds={"total": 2.0}).save(
                folder.snapshot_at(task, moment)
            )
    folder.set_status("complete")
    return folder


def diagonal(eigenvalues: np.ndarray[Any, Any]) -> Spectrum:
    """The spectrum of the quadratic that has these curvatures."""
    parameters = torch.ones(len(eigenvalues), dtype=torch.float64, requires_grad=True)
    curvatures = torch.from_numpy(eigenvalues)
    return hessian_spectrum(lambda: 0.5 * (curvatures * parameters**2).sum(), [parameters])


def write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms and fresh agents, three seeds each."""
    out = tmp_path_factory.mktemp("results")
    for arm in ("bp", "er", "reset"):
        for seed in range(3):
            make_run(out, arm, seed)
    return out


@pytest.fixture(scope="module")
def comparison(results: Path) -> Comparison:
    return gather(sorted(results.iterdir()))[0]


@pytest.fixture(scope="module")
def page(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    replays = min(results.iterdir()) / "replays"
    replays.mkdir()
    gif = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
    (replays / "after-000-on-000.gif").write_bytes(gif)
    return write_report(sorted(results.iterdir()), tmp_path_factory.mktemp("report") / "report.html")


class Page(HTMLParser):
    """Elements of a page, checked to be closed in order."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


@pytest.fixture(scope="module")
def parsed(page: Path) -> Page:
    return Page(page.read_text(encoding="utf-8"))


def csv_of(parsed: Page, name: str) -> list[dict[str, str]]:
    """The rows behind the download link of a picture."""
    (link,) = [a["href"] for tag, a in parsed.elements if tag == "a" and a.get("download") == f"{name}.csv"]
    assert link is not None
    return list(csv.DictReader(io.StringIO(unquote(link.split(",", 1)[1]))))


# The numbers -----------------------------------------------------------------------------------------------


def by_name(comparison: Comparison) -> dict[str, list[Any]]:
    return {metric.name: [cell and cell.interval for cell in cells] for metric, cells in comparison.table}


def test_the_metrics_of_known_runs_are_those_worked_out_by_hand(comparison: Comparison) -> None:
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


def test_a_run_that_did_not_finish_is_in_no_number_and_in_no_count(results: Path, tmp_path: Path) -> None:
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


def test_one_task_is_not_forgotten_and_two_seeds_make_no_interval(tmp_path: Path) -> None:
    comparison, _ = gather([make_run(tmp_path, "bp", seed, count=1).path for seed in range(2)])
    assert by_name(comparison).keys() == {"return at the end of a task", "average performance"}
    interval = by_name(comparison)["return at the end of a task"][0]
    assert np.isfinite(interval.value)
    assert np.isnan(interval.low)
    texts = " ".join(" ".join(Page(render(comparison)).texts).split())
    assert "less is. One task cannot be forgotten yet, nor be transferred to another. No interval" in texts
    assert "No correlation from fewer than 3 runs" in texts


def test_tasks_that_every_run_finished_are_counted_in_words(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bp")
    rows = [row for row in run.episodes_file.read_text().splitlines()[1:] if row.split(",")[1] == "0"]
    run.episodes_file.write_text("\n".join(["env_steps,task,return,length", *rows]) + "\n")
    run.set_status("interrupted")
    texts = " ".join(" ".join(Page(render(gather([run.path])[0])).texts).split())
    assert "less is. Over the one task that every run finished. One task" in texts


def test_the_time_that_a_run_waited_for_a_core_is_not_its_wall_time(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bp")
    manifest = run.read_manifest()
    manifest |= {"created": "2026-01-01T00:00:00+00:00", "updated": "2026-01-01T00:05:00+00:00"}
    run.write_manifest(manifest)
    assert read_run(run.path).wall_seconds == 300.0
    run.write_manifest({**manifest, "started": "2026-01-01T00:04:00+00:00"})
    assert read_run(run.path).wall_seconds == 60.0


def test_a_run_is_stamped_when_it_starts_and_keeps_the_stamp_when_it_goes_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, "bp")
    assert "started" not in run.read_manifest()
    run.set_status("running")
    started = run.read_manifest()["started"]
    assert started == run.read_manifest()["updated"]
    run.set_status("running")
    assert run.read_manifest()["started"] == started


def test_a_task_that_comes_back_is_measured_against_its_first_time(tmp_path: Path) -> None:
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


def test_arms_of_one_name_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    slow = {"agent": {"algorithm": "ppo", "n_steps": LENGTH, "batch_size": 50, "learning_rate": 1e-5}}
    runs = [read_run(make_run(tmp_path, "bp").path), read_run(make_run(tmp_path, "bp", **slow).path)]
    assert [arm.label for arm in compare(runs).arms] == [
        "bp (agent.learning_rate=0.0003)",
        "bp (agent.learning_rate=1e-05)",
    ]


def test_the_same_experiment_twice_counts_once_and_says_so(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path, "bp").path) for _ in range(2)]
    comparison = compare([*runs, runs[0]])
    assert len(comparison.runs) == 1
    assert "is the same experiment as" in comparison.notes[0]


# The page --------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(page: Path, parsed: Page) -> None:
    for _, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    text = page.read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert all(address.startswith("http://www.w3.org/") for address in addresses)  # names of XML, not places


def test_ids_are_unique_and_every_reference_has_its_target(page: Path, parsed: Page) -> None:
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for _, a in parsed.elements if (a.get("href") or "").startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page.read_text(encoding="utf-8")))
    wanted |= {a["for"] for tag, a in parsed.elements if "for" in a}
    assert wanted <= set(ids)


def test_every_picture_is_svg_with_a_name_and_can_be_saved(page: Path, parsed: Page) -> None:
    pictures = re.findall(r"<svg role=.*?</svg>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(pictures) >= 15
    for picture in pictures:
        root = ElementTree.fromstring(picture)  # well-formed as XML, too
        assert root.get("aria-label")
        assert root.get("data-size")
    links = [a for tag, a in parsed.elements if tag == "a" and "download" in a]
    for kind in ("svg", "pdf", "csv"):
        assert len([a for a in links if a["download"].endswith(kind)]) == len(pictures)
    for link in links:
        if link["download"].endswith("pdf"):
            file = base64.b64decode(link["href"].split(",")[1])
            assert file.startswith(b"%PDF")
            changes = link["download"].startswith(("spectrum-", "epsilon-rank-"))
            assert file.count(b"/Type /Page ") == (TASKS if changes else 1)


def test_the_curve_behind_the_picture_is_that_of_the_episodes(parsed: Page, results: Path) -> None:
    rows = [
        row for row in csv_of(parsed, "return") if (row["arm"], row["seed"], row["task"]) == ("bp", "2", "1")
    ]
    run = next(path for path in results.iterdir() if path.name.startswith("toy-bp-s2"))
    with (run / "episodes.csv").open() as file:
        episodes = [
            (int(e["env_steps"]), float(e["return"])) for e in csv.DictReader(file) if e["task"] == "1"
        ]
    assert len(rows) == 20
    for row in rows:
        end = int(row["env_steps"])
        mean = np.mean([value for step, value in episodes if end - 50 < step <= end])
        assert float(row["return"]) == pytest.approx(mean)


def test_the_evaluation_table_and_its_csv_are_the_files_means(
    page: Path, parsed: Page, results: Path
) -> None:
    expected: dict[tuple[int, int], list[float]] = {}
    for run in results.glob("toy-er-*"):
        with (run / "evaluation.csv").open() as file:
            for row in csv.DictReader(file):
                expected.setdefault((int(row["after_task"]), int(row["on_task"])), []).append(
                    float(row["return"])
                )
    rows = csv_of(parsed, "evaluation-er")
    assert len(rows) == (TASKS + 1) * TASKS
    for row in rows:
        mean = np.mean(expected[int(row["after_task"]), int(row["on_task"])])
        assert float(row["return"]) == pytest.approx(mean)
    text = page.read_text(encoding="utf-8")
    table = re.search(r'data-picture="evaluation-er">(.*?)</table>', text, flags=re.DOTALL)
    assert table is not None
    cells = [float(cell) for cell in re.findall(r"<td>([\d.]+)</td>", table[1])]
    assert cells == pytest.approx([float(row["return"]) for row in rows], rel=0.005)


def test_spectra_have_a_frame_for_every_switch_and_only_the_last_is_seen(parsed: Page) -> None:
    frames = [a for tag, a in parsed.elements if tag == "g" and "data-switch" in a]
    assert {a["data-switch"] for a in frames} == {"0", "1", "2"}
    for frame in frames:
        assert (frame.get("style") == "display:none") == (frame["data-switch"] != "2")
    (slider,) = [a for tag, a in parsed.elements if tag == "input"]
    assert slider["value"] == slider["max"] == "2"
    rows = csv_of(parsed, "epsilon-rank-actor")
    beyond = {
        float(r["epsilon"]): float(r["share_beyond"]) for r in rows if (r["task"], r["arm"]) == ("0", "bp")
    }
    # Twelve eigenvalues of which eleven are above 0.05 (the smallest are -0.02 and 0.073).
    near = min(beyond, key=lambda epsilon: abs(epsilon - 0.04))
    assert beyond[near] == pytest.approx(11 / 12, abs=1 / 12)


def test_a_replay_in_the_run_folder_is_embedded(parsed: Page) -> None:
    (film,) = [a for tag, a in parsed.elements if tag == "img"]
    assert film["src"].startswith("data:image/gif;base64,")


def test_the_same_runs_make_the_same_page_but_for_its_date(results: Path) -> None:
    pages = [render(*gather([min(results.iterdir())])) for _ in range(2)]
    pages = [re.sub(r"made \d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page) for page in pages]
    assert pages[0] == pages[1]


HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def test_a_hostile_run_is_text_and_nothing_else(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "er", description=HOSTILE)
    evil = folder.path.with_name("run<img src=x onerror=alert(1)>&quot;")
    folder.path.rename(evil)
    manifest = json.loads((evil / "manifest.json").read_text())
    manifest |= {"arm": HOSTILE, "preset": HOSTILE, "versions": {HOSTILE: HOSTILE}, "status": HOSTILE}
    (evil / "manifest.json").write_text(json.dumps(manifest))
    spec = (evil / "run.toml").read_text().replace('arm = "er"', f"arm = '{HOSTILE}'")
    (evil / "run.toml").write_text(spec)
    with (evil / "evaluation.csv").open("a") as file:
        file.write(f"{HOSTILE},0,0\n")
    text = render(*gather([evil]))
    parsed = Page(text)
    assert len([tag for tag, _ in parsed.elements if tag == "script"]) == 1
    assert not [tag for tag, _ in parsed.elements if tag == "img"]
    assert not [a for _, a in parsed.elements if any(name.startswith("on") for name in a)]
    assert any(HOSTILE in piece for piece in parsed.texts) or HOSTILE in "".join(parsed.texts)


# What is not as it should be -------------------------------------------------------------------------------


def test_an_interrupted_run_is_reported_as_far_as_it_went_and_says_so(tmp_path: Path) -> None:
    whole, part = make_run(tmp_path, "bp", 0), make_run(tmp_path, "bp", 1)
    rows = [r.split(",") for r in part.episodes_file.read_text().splitlines()[1:]]
    rows = [tuple(r) for r in rows if int(r[0]) <= 1500]
    write_csv(part.episodes_file, ("env_steps", "task", "return", "length"), rows)
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


def test_a_run_that_has_only_begun_makes_a_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for path in (folder.episodes_file, folder.evaluation_file):
        path.unlink()
    shutil.rmtree(folder.snapshots)
    folder.set_status("running")
    comparison, problems = gather([folder.path])
    assert "episodes.csv' is missing" in problems[0]
    assert "0 of 3 tasks finished" in render(comparison, problems)


def test_damaged_files_are_named_and_the_rest_is_reported(tmp_path: Path) -> None:
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


def test_a_spec_that_cannot_be_read_leaves_the_curves(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    folder.spec_file.write_text("not TOML", encoding="utf-8")
    comparison, problems = gather([folder.path])
    assert "run.toml" in problems[0]
    assert comparison.unit == "return"  # without the tasks nothing is known of their range
    assert "run.toml" in render(comparison, problems)


def test_another_schema_version_is_refused_with_the_reason(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    folder.write_manifest({**folder.read_manifest(), "schema_version": 99})
    with pytest.raises(RunFolderError, match="schema version 99, this pliant reads 1"):
        gather([folder.path])


def test_a_newer_snapshot_is_left_out_with_the_reason(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    path = folder.snapshot_at(0, "init")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    record = json.loads(str(arrays["snapshot"])) | {"schema": SCHEMA + 1}
    np.savez(path, **(arrays | {"snapshot": np.array(json.dumps(record))}))
    _, problems = gather([folder.path])
    assert f"format {SCHEMA + 1}, this pliant reads up to {SCHEMA}" in problems[0]
    assert records.SNAPSHOT_SCHEMA == SCHEMA


def test_runs_of_different_tasks_are_not_compared_and_the_difference_is_named(tmp_path: Path) -> None:
    with pytest.raises(Incomparable, match=r"tasks\.count is 3 against 2; give them reports of their own"):
        gather([make_run(tmp_path, "bp").path, make_run(tmp_path, "er", count=2).path])


def test_of_a_folder_with_several_experiments_it_is_said_how_to_name_each(command, tmp_path: Path) -> None:
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


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        gather([tmp_path])


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(RunFolderError, match="is there already and is left as it is"):
        write_report([make_run(tmp_path / "results").path], out)
    assert out.read_text() == "mine"
    assert first_free(out).name == "report-2.html"


# Fresh agents ----------------------------------------------------------------------------------------------


def test_a_fresh_run_beside_is_found_by_spec_and_seed(results: Path, tmp_path: Path) -> None:
    bp = next(path for path in results.iterdir() if path.name.startswith("toy-bp-s1"))
    found = find_fresh(bp)
    assert found is not None
    assert found.name.startswith("toy-reset-s1")
    assert with_baselines([bp]) == ([found], [])
    assert with_baselines([bp, found]) == ([], [])  # it was given already
    lonely = make_run(tmp_path, "er", 1).path
    make_run(tmp_path, "reset", 2)
    assert find_fresh(lonely) is None
    assert with_baselines([lonely, make_run(tmp_path, "bp", 1).path]) == ([], [lonely])  # one serves both


def test_fresh_agents_have_the_runs_spec_without_its_mitigations(tmp_path: Path) -> None:
    spec = make_run(tmp_path, "er", 3).read_spec()
    fresh = fresh_spec(spec)
    assert fresh.reset
    assert fresh.mitigations == {}
    assert fresh == make_run(tmp_path, "reset", 3).read_spec()


# The command line ------------------------------------------------------------------------------------------


def test_report_writes_the_page_and_says_where(command, results: Path, tmp_path: Path) -> None:
    run = min(results.iterdir())
    code, out, err = command("report", run, "--out", tmp_path / "a.html")
    assert (code, err) == (0, "")
    assert "a.html" in out
    assert (tmp_path / "a.html").exists()
    code, _, err = command("report", run, "--out", tmp_path / "a.html")
    assert code == console.BAD_INPUT
    assert "is there already" in err


def test_compare_prints_the_metrics_of_every_arm(command, results: Path, comparison: Comparison) -> None:
    code, out, _ = command("compare", *sorted(results.iterdir()))
    assert code == 0
    for arm in comparison.arms:
        assert arm.label in out
    for metric, cells in comparison.table:
        assert metric.name in out
        assert all(f"{cell.interval} (3)" in out for cell in cells if cell)
    assert "er beats bp with probability 0.833" in out


def test_compare_with_a_baseline_uses_the_one_that_is_there(command, results: Path) -> None:
    bp = [path for path in results.iterdir() if "-bp-" in path.name]
    code, out, _ = command("compare", *bp, "--baseline", "fresh")
    assert code == 0
    assert "plasticity gap" in out
    assert "reset" in out.splitlines()[0]


def test_a_missing_baseline_is_trained_beside_the_run_once(command, tmp_path: Path) -> None:
    agent = {
        "algorithm": "ppo",
        "n_steps": LENGTH,
        "batch_size": 500,
        "n_epochs": 1,
        "network": {"hidden": [4]},
    }
    run = make_run(tmp_path, "bp", count=2, agent=agent, diagnostics={"at": []}).path
    code, out, _ = command("compare", run, "--baseline", "fresh")
    assert code == 0
    assert "training fresh agents in" in out
    assert "plasticity gap" in out
    assert len(list(tmp_path.iterdir())) == 2
    code, out, _ = command("compare", run, "--baseline", "fresh")
    assert code == 0
    assert "training fresh agents" not in out
    assert len(list(tmp_path.iterdir())) == 2


def test_list_names_every_run_and_says_what_is_damaged(command, tmp_path: Path) -> None:
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


def test_the_axis_of_a_spectrum_ends_where_the_data_do(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[float, float]] = {}
    picture = spectra.picture

    def look(figure: Any, name: str, *others: Any, **more: Any) -> Any:
        seen[name] = figure.axes[0].get_xlim()
        return picture(figure, name, *others, **more)

    monkeypatch.setattr(spectra, "picture", look)
    spectra._densities(comparison, "critic")
    low, high = seen["spectrum-critic"]
    assert -1.0 > low > -4.0  # the eigenvalues run from -1 to 50, and a margin on the scale of the axis
    assert 50.0 < high < 150.0


def test_a_run_whose_process_was_killed_is_told_from_one_that_runs_or_waits(tmp_path: Path) -> None:
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
    command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


# A browser -------------------------------------------------------------------------------------------------


def test_in_a_browser_the_slider_moves_and_the_console_is_silent(page: Path, browse) -> None:
    dom, log = browse(f"{page.as_uri()}#switch=2")
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
    parsed = Page(dom.removeprefix("<!DOCTYPE html>"))
    (html,) = [a for tag, a in parsed.elements if tag == "html"]
    assert html["data-shown"] == "2"
    frames = [a for tag, a in parsed.elements if tag == "g" and "data-switch" in a]
    assert frames
    for frame in frames:
        hidden = "none" in (frame.get("style") or "")
        assert hidden == (frame["data-switch"] != "2")
    assert "to task 2: CartPole-v1" in "".join(parsed.texts)


def test_in_a_browser_moving_the_slider_by_hand_changes_the_picture_that_is_saved(
    page: Path, browse, tmp_path: Path
) -> None:
    hand = """<script>
        const slider = document.getElementById("switch");
        slider.value = 1;
        slider.dispatchEvent(new Event("input"));
        const link = document.querySelector("#spectrum-actor a.svg");
        link.addEventListener("click", async (event) => {
            event.preventDefault();
            const svg = await (await fetch(link.href)).text();
            document.title = [...new Set(svg.match(/data-switch="\\d+"/g))].join() + svg.slice(0, 4)
                + svg.match(/actor: density[^<]*/)[0] + " in " + link.download;
        });
        link.click();
    </script></body>"""
    moved = tmp_path / "moved.html"
    moved.write_text(page.read_text(encoding="utf-8").replace("</body>", hand), encoding="utf-8")
    dom, log = browse(moved.as_uri(), "--virtual-time-budget=3000")
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
    assert 'data-shown="1"' in dom
    name = "actor: density at the switch to task 1 in spectrum-actor-switch-1.svg"
    assert f'<title>data-switch="1"&lt;svg{name}</title>' in dom


def test_in_a_browser_the_page_is_no_wider_than_a_phone(page: Path, browse, tmp_path: Path) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(
        f"<iframe id=f style='width:390px;height:800px' src='{page.as_uri()}'></iframe>"
        "<script>onload = () => { const d = document.getElementById('f').contentDocument.documentElement; "
        "document.title = `${d.scrollWidth} of ${d.clientWidth}`; }</script>"
    )
    dom, _ = browse(probe.as_uri(), "--allow-file-access-from-files")
    found = re.search(r"<title>(\d+) of (\d+)</title>", dom)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= 390
