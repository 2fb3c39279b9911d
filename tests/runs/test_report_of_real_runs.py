"""A report of real runs, two arms of three seeds with a film, opened in a browser."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pliant.runs import cli
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import load_spec
from pliant.runs.training import train

SHORT = (
    "tasks.length=2048",
    "tasks.count=3",
    "diagnostics.samples=128",
    "diagnostics.spectrum.depth=6",
    "diagnostics.spectrum.minibatches=4",
    "evaluation.episodes=1",
)

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_the_film_plays_and_the_slider_moves(page: Path, tmp_path: Path) -> None:
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
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--autoplay-policy=no-user-gesture-required", "--enable-logging=stderr", "--timeout=20000"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom"),
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert 'data-shown="2"' in done.stdout
    assert "<title>it plays</title>" in done.stdout
