"""A base spec, sweeps over it, and an engine that knows what every run comes to without training it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import pytest

from pliant.runs.execute import Outcome
from pliant.runs.spec import RunSpec
from pliant.runs.sweep.definition import load_definition
from pliant.runs.sweep.drive import WHOLE, Result, Shard, drive_sweep
from pliant.runs.sweep.folder import SweepFolder
from pliant.runs.sweep.jobs import Job, State
from pliant.runs.sweep.protocol import Sweep

BASE = """
[tasks]
env = "CartPole-v1"
length = 256
count = 2
shifts = [{ type = "observation-offset", std = 1.0, seed = { rule = "seed" } }]
[agent]
algorithm = "ppo"
n_envs = 2
n_steps = 64
n_epochs = 1
network = { hidden = [8] }
[diagnostics]
at = []
every = 0
[evaluation]
tasks = "none"
last = "none"
"""

PLAIN = """
base = "toy.toml"
arms = ["bp", "l2"]
seeds = "0-1"
[space]
agent.learning_rate = [1e-3, 1e-2]
"""

TUNED = """
base = "toy.toml"
[space]
agent.learning_rate = { rule = "log-uniform", low = 1e-4, high = 1e-2 }
[arms.bp]
[arms.l2.space]
mitigations.l2.strength = { rule = "log-uniform", low = 1e-6, high = 1e-3 }
[tune]
trials = 4
seeds = [100, 101]
[test]
seeds = "0-2"
"""

Value = float | Literal["fails", "diverges"]


class FakeEngine:
    """Ends one job a call, in the order of submission, with the return that ``value`` gives its spec."""

    def __init__(self, value: Callable[[RunSpec], Value], only: int | None = None) -> None:
        self.value = value
        self.left = only
        """So many jobs, and then a Ctrl-C."""
        self.done: list[str] = []
        self._waiting: deque[Job] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def interrupted(self) -> bool:
        return self.left == 0

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def poll(self, timeout: float) -> list[Outcome]:
        job = self._waiting.popleft()
        assert job.state() not in ("complete", "diverged"), "a run that has ended is never begun again"
        self.done.append(job.path.name)
        if self.left is not None:
            self.left -= 1
        value = self.value(job.spec)
        folder = job.open()
        if isinstance(value, str):
            folder.set_status("failed", error=value, **({"diverged": True} if value == "diverges" else {}))
            return [Outcome(job.path, "failed", value)]
        rows = [f"{(last - 1)},{task},{value},20" for task, last in enumerate(job.spec.boundaries[1:])]
        folder.episodes_file.write_text("\n".join(["env_steps,task,return,length", *rows]) + "\n")
        folder.set_status("complete")
        return [Outcome(job.path, "complete")]

    def stop(self) -> list[Path]:
        forgotten = [job.path for job in self._waiting]
        self._waiting.clear()
        return forgotten


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, report: object) -> None:
        pass

    def ended(self, job: Job, state: State) -> None:
        pass


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a sweep's file beside the base spec; returns its path."""
    (tmp_path / "toy.toml").write_text(BASE, encoding="utf-8")

    def make(text: str, name: str = "sweep.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.fixture
def begin(write: Callable[..., Path], tmp_path: Path) -> Callable[..., Sweep]:
    """A sweep with its folder."""

    def make(
        text: str, *, optuna: bool = False, storage: str | None = None, name: str = "sweep.toml"
    ) -> Sweep:
        definition = load_definition(write(text, name), optuna=optuna)
        return Sweep(definition, SweepFolder.take(tmp_path / "results", definition), storage)

    return make


@pytest.fixture
def plain() -> str:
    """The file of a grid: 2 arms, 2 learning rates, 2 seeds."""
    return PLAIN


@pytest.fixture
def tuned() -> str:
    """The file of a tuning and a test: 2 arms, 4 settings on 2 seeds, and 3 seeds to test on."""
    return TUNED


@pytest.fixture
def fake_engine() -> type[FakeEngine]:
    """See FakeEngine."""
    return FakeEngine


@pytest.fixture
def carry_on() -> Callable[..., Result]:
    """One process of a sweep, with a fake engine."""

    def go_on(sweep: Sweep, engine: FakeEngine, shard: Shard = WHOLE) -> Result:
        return drive_sweep(sweep, engine, Silent(), engine.interrupted, shard)

    return go_on
