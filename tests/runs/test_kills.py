"""``train-agent``, killed with SIGKILL at random moments and gone on with, ends as if nobody had."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.runs.folder import RunFolder

pytestmark = pytest.mark.slow

KILLS = 10
"""Of each case; there are three."""
LIVES = 5
"""At most so many processes of one run are killed before it may finish."""

MEASURE = ("diagnostics.samples=128", "diagnostics.every=500", "diagnostics.spectrum.depth=6")
CASES = {
    "ppo-cartpole": (
        "cartpole-offset",
        "tasks.count=2",
        "tasks.length=3000",
        "agent.n_steps=256",
        "checkpoints.every=1000",
        "diagnostics.updates=30",
        'evaluation.policies=["deterministic", "stochastic"]',
        *MEASURE,
    ),
    "ppo-ant": (
        "slippery-ant",
        "tasks.count=2",
        "tasks.kwargs.friction.values=[0.3, 0.04]",
        "tasks.length=768",
        "agent.n_steps=128",
        "agent.n_epochs=5",
        "agent.network.hidden=[32]",
        "evaluation.episodes=1",
        "evaluation.max_length=100",
        "checkpoints.every=256",
        *MEASURE,
    ),
    "dqn-minigrid": (
        "minigrid-dqn",
        "tasks.length=2000",
        "agent.buffer_size=1500",
        "agent.learning_starts=200",
        "agent.n_step_returns=3",
        "evaluation.episodes=2",
        "checkpoints.every=700",
        "diagnostics.figures=false",
        *MEASURE,
    ),
}

# What train-agent is, and a way for the test to learn where it was when it died.
PROGRAM = """
import faulthandler, signal, sys
faulthandler.register(signal.SIGUSR1, file=open(sys.argv.pop(1), "w"), all_threads=False)
from pliant.runs.cli import train_agent
train_agent()
"""


def start(trace: Path, *arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(trace), *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def new_run(out: Path, case: tuple[str, ...], trace: Path) -> tuple[subprocess.Popen[bytes], RunFolder]:
    """A run that has just begun: its folder is there."""
    preset, *settings = case
    process = start(trace, preset, "--out", out, *(word for s in settings for word in ("--set", s)))
    wait_for(process, lambda: list(out.glob("*/manifest.json")))
    return process, RunFolder(next(out.iterdir()))


def resumed(folder: RunFolder, trace: Path) -> subprocess.Popen[bytes]:
    """The run's next process, once it has said that it goes on."""
    manifest = folder.path / "manifest.json"
    before = manifest.stat().st_mtime_ns
    process = start(trace, "--resume", folder.path)
    wait_for(process, lambda: manifest.stat().st_mtime_ns != before)
    return process


def wait_for(process: subprocess.Popen[bytes], condition: Callable[[], object]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


def kill(process: subprocess.Popen[bytes], after: float, trace: Path) -> str:
    """SIGKILL after so many seconds, unless it has finished before; returns where that met it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=after)
    process.send_signal(signal.SIGUSR1)
    patience = time.monotonic() + 0.2
    while not trace.stat().st_size and time.monotonic() < patience:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return where(trace.read_text())


WHERE = {
    "a checkpoint": r"in (_save|save_checkpoint)\b",
    "a snapshot": r"in _take\b",
    "an evaluation": r"in _evaluate\b",
    "an update": r"in train$.*?in learn",
    "a rollout": r"in collect_rollouts",
    "a log": r"in dump_logs",
    "between": r"in _train_task",
}


def where(trace: str) -> str:
    names = re.sub(r'File ".*?", line \d+ ', "", trace)
    return next(
        (name for name, pattern in WHERE.items() if re.search(pattern, names, re.M | re.S)), "the start"
    )


@pytest.mark.parametrize("name", CASES)
def test_ten_kills_at_random_moments_change_nothing(
    tmp_path: Path, assert_equal_runs: Callable[[RunFolder, RunFolder], None], name: str
) -> None:
    trace = tmp_path / "trace"
    process, whole = new_run(tmp_path / "whole", CASES[name], trace)
    began = time.monotonic()
    finish(process)
    duration = time.monotonic() - began

    chance, met, runs = random.Random(name), Counter[str](), 0
    while met.total() < KILLS:
        runs += 1
        process, folder = new_run(tmp_path / f"run-{runs}", CASES[name], trace)
        for _ in range(min(LIVES, KILLS - met.total())):
            place = kill(process, chance.uniform(0, 0.4 * duration), trace)
            if folder.read_manifest()["status"] == "complete":
                break
            met[place] += 1
            process = resumed(folder, trace)
        else:
            finish(process)
        assert_equal_runs(whole, folder)
    told = ", ".join(f"{count} in {place}" for place, count in met.most_common())
    print(f"{name}: {KILLS} kills in {runs} runs of {duration:.0f} s: {told}")


def test_a_second_process_is_refused_and_the_first_does_not_notice(
    tmp_path: Path, assert_equal_runs: Callable[[RunFolder, RunFolder], None]
) -> None:
    trace, runs = tmp_path / "trace", []
    for name in ("alone", "disturbed"):
        process, folder = new_run(tmp_path / name, CASES["dqn-minigrid"], trace)
        if name == "disturbed":
            second = start(tmp_path / "other trace", "--resume", folder.path)
            _, errors = second.communicate(timeout=120)
            assert second.returncode == 1
            assert f"is in use by process {process.pid} on " in " ".join(errors.decode().split())
            assert process.poll() is None
        finish(process)
        runs.append(folder)
    assert_equal_runs(*runs)
