"""Whole runs: environment steps per second of the training loop beside stable-baselines3's ``learn``.

Ours writes its run folder: TensorBoard, progress.csv, episodes.csv, checkpoints, and the periodic feature
statistics; SB3's writes TensorBoard. Same process, one thread, taking turns, SB3's settings on both sides.
Snapshots and evaluations are left out and timed by themselves: SB3 has nothing to hold against them.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import minigrid  # noqa: F401 - registers its environments
import stable_baselines3
from minigrid.wrappers import ImgObsWrapper

from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.training import train

from .bench_agents import interleaved, ratio

CASES = {
    "PPO, CartPole-v1": ("ppo", "CartPole-v1", 16_384, 5),
    "PPO, MiniGrid-Empty-8x8-v0": ("ppo", "MiniGrid-Empty-8x8-v0", 8_192, 5),
    "DQN, MiniGrid-Empty-8x8-v0": ("dqn", "MiniGrid-Empty-8x8-v0", 12_000, 5),
    "PPO, Ant-v5": ("ppo", "Ant-v5", 8_192, 5),
}


def peer(algorithm: str, env_id: str, steps: int, out: Path) -> Callable[[], Any]:
    """SB3 as its documentation has it."""

    def work() -> None:
        env = gymnasium.make(env_id)
        if env_id.startswith("MiniGrid"):
            env = ImgObsWrapper(env)
        kwargs = {"policy_kwargs": {"normalize_images": False}} if env_id.startswith("MiniGrid") else {}
        if algorithm == "dqn":
            kwargs |= {"buffer_size": 100_000}
        kind = {"ppo": stable_baselines3.PPO, "dqn": stable_baselines3.DQN}[algorithm]
        kind("MlpPolicy", env, seed=0, device="cpu", tensorboard_log=str(out), **kwargs).learn(steps)

    return work


def ours(algorithm: str, env_id: str, steps: int, out: Path, **changes: Any) -> Callable[[], Any]:
    """The same settings through a spec."""
    table = {
        "name": "bench",
        "tasks": {"env": env_id, "length": steps},
        "agent": {"algorithm": algorithm},
        "diagnostics": {"at": []},
        "evaluation": {"tasks": "none"},
    }

    def work() -> None:
        plan = make_plan(validate({**table, **changes}, source="bench"), "cpu")
        folder = RunFolder.create(out, plan.spec, plan.boundaries)
        train(plan, folder, lambda report: None, lambda: False)

    return work


def main() -> None:
    """Print the table."""
    print(f"{'whole run':34}{'SB3 steps/s':>14}{'pliant steps/s':>16}{'ratio':>8}")
    for name, (algorithm, env_id, steps, repeats) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            mine, theirs = interleaved(
                ours(algorithm, env_id, steps, out / "pliant"),
                peer(algorithm, env_id, steps, out / "sb3"),
                repeats=repeats,
            )
        speeds = [steps / statistics.median(times) for times in (theirs, mine)]
        print(f"{name:34}{speeds[0]:14,.0f}{speeds[1]:16,.0f}{ratio(mine, theirs):8.2f}", flush=True)
