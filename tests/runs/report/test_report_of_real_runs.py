"""A report of real runs, two arms of three seeds with a film, opened in a browser."""

import csv
import re
import sys
from pathlib import Path
from statistics import fmean

import pytest

from pliant.runs import cli
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import load_spec
from pliant.runs.training import train

TASKS = 3
SHORT = (
    "tasks.length=2048",
    f"tasks.count={TASKS}",
    "diagnostics.samples=128",
    "diagnostics.spectrum.depth=6",
    "diagnostics.spectrum.minibatches=4",
    "evaluation.episodes=1",
)

pytestmark = pytest.mark.slow


def call(*arguments: str | Path) -> None:
    """One call of the program, in this process."""
    before, sys.argv = sys.argv, ["pliant", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
    assert not ended.value.code


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """cartpole-offset, shortened."""
    out = tmp_path_factory.mktemp("results")
    for arm in ("bp", "l2-er"):
        for seed in range(3):
            plan = make_plan(load_spec("cartpole-offset", arm=arm, seed=seed, settings=SHORT), "cpu")
            train(plan, RunFolder.create(out, plan.spec, plan.boundaries), lambda report: None, lambda: False)
    paths = sorted(out.iterdir())
    film = paths[0] / "replays" / "task-0.mp4"
    call("replay", paths[0], "--after-task", "2", "--on-task", "0", "--episode", "0", "--video", film)
    return paths


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    path = runs[0].parent / "report.html"
    call("report", *runs, "--out", path)
    return path


def test_the_page_names_every_run_and_needs_no_network(runs: list[Path], page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "2 arms" in text
    assert "6 runs" in text
    for run in runs:
        assert run.name in text
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)


def test_the_film_plays_the_slider_moves_and_the_tables_are_the_files(
    runs: list[Path], page: Path, browse, tmp_path: Path
) -> None:
    probe = """<script>
        const slider = document.getElementById("switch");
        slider.value = 2;
        slider.dispatchEvent(new Event("input"));
        const film = document.querySelector("video");
        film.muted = true;
        film.addEventListener("timeupdate", () => { if (film.currentTime > 0) document.title = "it plays"; });
        film.play();
    </script></body>"""
    path = tmp_path / "probe.html"
    path.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    shown, said = browse(
        path.as_uri(),
        *("--autoplay-policy=no-user-gesture-required", "--timeout=20000", "--virtual-time-budget=10000"),
    )
    assert not [line for line in said.splitlines() if "CONSOLE" in line]
    assert 'data-shown="2"' in shown
    assert "<title>it plays</title>" in shown
    for arm in ("bp", "l2-er"):
        table = re.search(rf'data-picture="evaluation-{arm}">(.*?)</table>', shown, flags=re.DOTALL)
        assert table is not None
        cells = [None if cell == "–" else float(cell) for cell in re.findall(r"<td>(.*?)</td>", table[1])]
        means = mean_returns([run for run in runs if f"-{arm}-s" in run.name])
        expected = [means.get((after, on)) for after in range(-1, TASKS) for on in range(TASKS)]
        assert cells == [value if value is None else pytest.approx(value, rel=0.005) for value in expected]


def mean_returns(runs: list[Path]) -> dict[tuple[int, int], float]:
    """By (after task, on task): the mean over runs and episodes of the returns in evaluation.csv."""
    returns: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        with (run / "evaluation.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                key = int(row["after_task"]), int(row["on_task"])
                returns.setdefault(key, []).append(float(row["return"]))
    return {key: fmean(values) for key, values in returns.items()}
