"""The report: seconds and bytes for ten runs of twenty switches, from run folders of the usual size.

Two arms of five seeds. The snapshots hold spectra of 200 nodes, as those of the presets do; the episodes and
evaluations are made up. The command also pays for its imports, and is what a person waits for.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pliant.runs.report.comparison import gather
from pliant.runs.report.page import render

from ..runs.test_report import make_run

RUNS, TASKS = 10, 20
COMMAND = "from pliant.runs.cli import main; main()"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        results = Path(name) / "results"
        for number in range(RUNS):
            arm = "bp" if number < RUNS // 2 else "er"
            make_run(results, arm, number % (RUNS // 2), count=TASKS, nodes=200)
        paths = sorted(results.iterdir())
        page = Path(name) / "report.html"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", COMMAND, "report", *paths, "--out", page], check=True)
        whole = time.perf_counter() - start
        start = time.perf_counter()
        comparison, _ = gather(paths)
        middle = time.perf_counter()
        render(comparison)
        end = time.perf_counter()
        print(f"{RUNS} runs x {TASKS} switches: {'pliant report, as a command':32}{whole:7.1f} s")
        print(f"{'':27} {'reading and comparing':32}{middle - start:7.1f} s")
        print(f"{'':27} {'drawing and writing':32}{end - middle:7.1f} s")
        print(f"{'':27} {'size of the page':32}{page.stat().st_size / 1e6:7.1f} MB")
