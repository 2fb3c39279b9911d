"""A thousand tasks: memory at the end is as at the beginning, and checkpoints are as few as asked for."""

import gc
import os
from collections import Counter
from pathlib import Path

import pytest

from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.progress import Report
from pliant.runs.training import train

TASKS = 1000
SHIFT = {"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}}
TABLE = {
    "name": "long",
    "tasks": {"env": "CartPole-v1", "length": 64, "count": TASKS, "shifts": [SHIFT]},
    "diagnostics": {
        "samples": 16,
        "every": 64,
        "figures": False,
        "spectrum": {"depth": 3, "minibatches": 2, "gram_samples": 8},
    },
    "evaluation": {"episodes": 1, "max_length": 20, "last": "own-and-next"},
    "checkpoints": {"every": 0, "keep": 2, "keep_switches": 50},
}
AGENTS = {
    "ppo": {"algorithm": "ppo", "n_steps": 64, "batch_size": 32, "n_epochs": 1, "network": {"hidden": [8]}},
    "dqn": {"algorithm": "dqn", "learning_starts": 32, "buffer_size": 200, "network": {"hidden": [8]}},
}


def resident() -> float:
    """Memory of this process in MiB, after a collection of garbage."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_a_thousand_tasks_take_no_more_memory_than_a_hundred(tmp_path: Path, name: str) -> None:
    plan = make_plan(validate({**TABLE, "agent": AGENTS[name]}, source="test"), "cpu")
    folder = RunFolder.create(tmp_path, plan.spec, plan.boundaries)
    memory: dict[int, float] = {}
    handles: dict[int, int] = {}

    def watch(report: Report) -> None:
        if report.task % 100 == 0 and report.task not in memory:
            memory[report.task], handles[report.task] = resident(), len(os.listdir("/proc/self/fd"))

    train(plan, folder, watch, lambda: False)
    files = Counter(
        path.relative_to(folder.path).parts[0] for path in folder.path.rglob("*") if path.is_file()
    )
    size = sum(path.stat().st_size for path in folder.path.rglob("*")) / 2**20
    told = "  ".join(f"{task}: {megabytes:.1f}" for task, megabytes in memory.items())
    print(f"\n{name}: MiB after so many tasks: {told}\n{dict(files)}, {size:.0f} MiB in all")
    assert memory[TASKS] - memory[100] < 5  # 5.7 kB for each of 900 tasks; an environment takes more
    assert handles[TASKS] == handles[100]
    per_checkpoint = 3 if name == "ppo" else 4
    assert files["checkpoints"] <= (51 + 2) * per_checkpoint
    assert files["tb"] == files["progress.csv"] == files["episodes.csv"] == 1
    assert files["snapshots"] == 2 * TASKS  # what was asked for; diagnostics.task_interval asks for less
