"""Run folders with known numbers, what is made of them, and a parser of pages."""

import base64
import csv
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pliant.diagnostics import Snapshot, SnapshotSettings, Spectrum, hessian_spectrum
from pliant.runs.folder import RunFolder
from pliant.runs.presets import validate
from pliant.runs.report.comparison import Comparison, gather
from pliant.runs.report.page import write_report

TASKS, LENGTH = 3, 1000
MakeRun = Callable[..., RunFolder]


def _make_run(
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


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """See `_make_run`."""
    return _make_run


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


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms and fresh agents, three seeds each."""
    out = tmp_path_factory.mktemp("results")
    for arm in ("bp", "er", "reset"):
        for seed in range(3):
            _make_run(out, arm, seed)
    return out


@pytest.fixture(scope="session")
def comparison(results: Path) -> Comparison:
    return gather(sorted(results.iterdir()))[0]


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def parse() -> type[Page]:
    """See `Page`."""
    return Page


@pytest.fixture(scope="session")
def parsed(page: Path) -> Page:
    return Page(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def by_name() -> Callable[[Comparison], dict[str, list[Any]]]:
    """The intervals of every metric, an arm each."""
    return lambda comparison: {
        metric.name: [cell and cell.interval for cell in cells] for metric, cells in comparison.table
    }
