"""Checkpoints: time and size beside SB3's ``save()``, and their share of a run at default settings.

Ours holds more (random states, counters, how long the logs were, checksums) and is synced to the disk
file by file. DQN's has the replay buffer, which SB3 pickles with ``save_replay_buffer()``; that is in
SB3's figures too. Same process, same disk, taking turns. The share is the time of a checkpoint within a run,
the logs synced before it and the environments made anew after it, over that of the environment steps to
the next.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pliant.runs import training
from pliant.runs.checkpoints.checkpoint import Agent, Position, load_checkpoint, save_checkpoint
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import load_spec
from pliant.runs.spec import RunSpec

from .bench_agents import interleaved

REPEATS = 9
CHECKPOINTS = 8
"""Within the run that the share is measured in."""

ALONE = ("diagnostics.at=[]", "diagnostics.every=0", "evaluation.tasks=none")
CASES = {
    "PPO, CartPole, 2x64": ("cartpole-offset", 65_536),
    "PPO, Ant, 1x256": ("slippery-ant", 20_480),
    "PPO, MiniGrid, CNN": ("minigrid-rooms", 16_384),
    "DQN, MiniGrid, 40,000 transitions": ("minigrid-dqn", 42_000),
}


class FirstTaskDone(Exception):
    """The measurement is over."""


def first_task(spec: RunSpec, out: Path) -> tuple[float, list[float], Agent]:
    """Train the first task; seconds in all, those of each checkpoint and of each reset, and the agent."""
    plan = make_plan(spec, "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    pauses: list[float] = []

    def timed(method: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            began = time.perf_counter()
            method(*args, **kwargs)
            pauses.append(time.perf_counter() - began)

        return call

    class Trainer(training._Trainer):
        _save = timed(training._Trainer._save)
        _reset = timed(training._Trainer._reset)

        def _evaluate(self, after_task: int, *, again: bool = False) -> None:
            if after_task == 0:
                raise FirstTaskDone

    trainer = Trainer(plan, folder, lambda report: None, lambda: False)
    began = time.perf_counter()
    with contextlib.suppress(FirstTaskDone):
        trainer.run(resume=False)
    return time.perf_counter() - began, pauses, trainer.agent


def size(*paths: Path) -> float:
    """Kilobytes of files, and of the files in folders."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files) / 1000


def one_checkpoint(agent: Agent, out: Path) -> tuple[list[list[float]], list[float]]:
    """Times of SB3's save, of ours and of loading ours; kilobytes of the first two."""
    path, position = out / "checkpoints" / "one", Position(0, 1, 1)

    def theirs() -> None:
        agent.save(out / "sb3.zip")
        if getattr(agent, "replay_buffer", None) is not None:
            agent.save_replay_buffer(out / "sb3.pkl")

    times = interleaved(
        theirs,
        lambda: save_checkpoint(path, agent, position),
        lambda: load_checkpoint(path, agent),
        repeats=REPEATS,
    )
    return times, [size(*out.glob("sb3.*")), size(path)]


def main() -> None:
    """Print the table."""
    head = f"{'one checkpoint':36}{'SB3 ms':>9}{'kB':>9}{'pliant ms':>11}{'kB':>8}{'to load':>9}"
    print(f"{head}{'env steps/s':>13}{'share of the run':>18}")
    for name, (preset, steps) in CASES.items():
        short = (f"tasks.length={steps}", f"checkpoints.every={steps // CHECKPOINTS}")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            seconds, pauses, agent = first_task(load_spec(preset, settings=(*ALONE, *short)), out)
            times, (their_kb, our_kb) = one_checkpoint(agent, out)
        speed = steps / (seconds - sum(pauses))
        pause = 2 * sum(pauses) / len(pauses)  # a checkpoint and a reset
        share = pause / (pause + load_spec(preset).checkpoints.every / speed)
        theirs, ours, load = (1000 * statistics.median(one) for one in times)
        row = f"{name:36}{theirs:9.1f}{their_kb:9,.0f}{ours:11.1f}{our_kb:8,.0f}{load:9.1f}"
        print(f"{row}{speed:13,.0f}{share:18.3%}", flush=True)
