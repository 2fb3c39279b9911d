"""Evaluation of a saved run: 20 checkpoints x 20 tasks x 5 episodes of CartPole, on one core and on two.

The peer is stable-baselines3's ``evaluate_policy`` over a vectorised environment of 5 copies per task, on one
checkpoint. Ours also records every episode. The time of processes and of loading is in it, as a person waits
for it; the agents are trained for a moment only, so that most episodes are short, the worst case per step.
"""

import tempfile
import time
from pathlib import Path

from stable_baselines3.common.evaluation import evaluate_policy

from pliant.runs.build import build_agent, vector_env
from pliant.runs.checkpoints.checkpoint import load_networks
from pliant.runs.evaluation.afterwards import evaluate
from pliant.runs.evaluation.table import read_rows
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import load_spec
from pliant.runs.training import train

SETTINGS = ["tasks.length=2048", "evaluation.tasks=none", "diagnostics.at=[]", "diagnostics.every=0"]
EPISODES = 5


def saved_run(out: Path) -> RunFolder:
    """A run of cartpole-offset, short, with a checkpoint after each of its 20 tasks."""
    plan = make_plan(load_spec("cartpole-offset", arm="bp", settings=SETTINGS), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    train(plan, folder, lambda report: None, lambda: False)
    return folder


def peer(folder: RunFolder) -> tuple[float, int]:
    """Seconds and environment steps of ``evaluate_policy`` on all tasks, after the last one."""
    plan = make_plan(folder.read_spec(), "cpu")
    agent = build_agent(plan.spec, vector_env(plan.sequence[0], 1, 0), seed=0, device=plan.device)
    load_networks(folder.checkpoint(plan.boundaries[-1]), agent)
    began, steps = time.perf_counter(), 0
    for task in plan.sequence:
        env = vector_env(task, EPISODES, 0)
        _, lengths = evaluate_policy(agent, env, EPISODES, return_episode_rewards=True)
        steps += sum(lengths)
        env.close()
    return time.perf_counter() - began, steps


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as out:
        folder = saved_run(Path(out))
        afters = list(range(20))
        print(f"{'20 x 20 x 5 episodes of CartPole':44}{'seconds':>10}{'env steps/s':>14}")
        for jobs in (1, 2):
            folder.evaluation_file.unlink(missing_ok=True)
            for paths in folder.replay_files().values():
                for path in paths:
                    path.unlink()
            began = time.perf_counter()
            done = evaluate(folder, after_tasks=afters, episodes=EPISODES, jobs=jobs, device="cpu")
            seconds = time.perf_counter() - began
            assert done.played == 20 * 20 * EPISODES
            steps = sum(row.length for row in read_rows(folder.evaluation_file))
            print(
                f"{f'pliant evaluate, --jobs {jobs}':44}{seconds:10.1f}{steps / seconds:14,.0f}", flush=True
            )
        seconds, steps = peer(folder)
        name = "SB3's evaluate_policy, 1 x 20 x 5, times 20"
        print(f"{name:44}{20 * seconds:10.1f}{steps / seconds:14,.0f}", flush=True)
