"""Sweeps: runs per minute with one worker and with two, on the process pool and on Ray.

Efficiency is the rate with two workers over twice that with one. The start of processes and of the cluster is
in the times, as a person waits for it. Runs are small (CartPole, 8,192 environment steps, a few seconds), so
what a sweep adds to each weighs more than it ever will.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pliant.runs.sweep.definition import load_definition
from pliant.runs.sweep.drive import WHOLE, drive_sweep
from pliant.runs.sweep.engine import Engine, ProcessEngine
from pliant.runs.sweep.folder import SweepFolder
from pliant.runs.sweep.on_ray import RayEngine
from pliant.runs.sweep.protocol import Sweep

RUNS = 16
TEXT = f"""
base = "quickstart"
arms = ["bp"]
seeds = "0-{RUNS - 1}"
[set]
tasks = {{ length = 4096, count = 2 }}
diagnostics = {{ at = [], every = 0 }}
evaluation = {{ tasks = "none", last = "none" }}
"""


class _Watch:
    """Shows nothing."""

    def __call__(self, report: object) -> None:
        pass

    def ended(self, job: object, state: object) -> None:
        pass

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def on_processes(workers: int, watch: Any) -> Engine:
    """The default."""
    return ProcessEngine(workers, "cpu", watch, retries=0)


def on_ray(workers: int, watch: Any) -> Engine:
    """A cluster of this machine; so many runs fit on its cores."""
    return RayEngine("local", "cpu", watch, retries=0, cpus=(os.cpu_count() or 1) / workers)


def seconds(make: Callable[[int, Any], Engine], workers: int) -> float:
    """Of the whole sweep."""
    with tempfile.TemporaryDirectory() as out:
        file = Path(out, "bench.toml")
        file.write_text(TEXT, encoding="utf-8")
        definition = load_definition(file)
        sweep = Sweep(definition, SweepFolder.take(Path(out), definition))
        watch = _Watch()
        began = time.perf_counter()
        with make(workers, watch) as engine:
            result = drive_sweep(sweep, engine, watch, lambda: False, WHOLE)
        took = time.perf_counter() - began
        assert result.whole, result.failed
        return took


def main() -> None:
    """Print the table."""
    title = f"{RUNS} runs of 8,192 environment steps"
    print(f"{title:40}{'runs/min, 1':>12}{'runs/min, 2':>12}{'efficiency':>12}")
    for name, make in {"processes": on_processes, "Ray, one node": on_ray}.items():
        one, two = (RUNS * 60 / seconds(make, workers) for workers in (1, 2))
        print(f"{name:40}{one:12.1f}{two:12.1f}{two / (2 * one):12.2f}", flush=True)
