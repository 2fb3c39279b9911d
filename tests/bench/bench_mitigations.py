"""What every mitigation and optimiser adds to the training time, in percent of it.

``python -m tests.bench mitigations`` on an idle machine. PPO on Ant-v5, rollouts of 2048, minibatches of 64,
10 epochs, two layers of 256 for actor and critic, fused Adam, one thread; rollouts and updates together.
Each mitigation at its defaults takes turns with the plain agent; medians of the per-round ratios. Ones that
act at switches alone are measured after one, so that what remains of them is seen.
"""

import statistics
from importlib.util import find_spec
from typing import Any

from pliant.agents import MITIGATIONS, OPTIMIZERS, PPO

from .bench_agents import ant, interleaved, seconds

REPEATS = 5
STEPS = 2048
NETWORK = {"net_arch": [256, 256], "activation_fn": "relu"}
FUSED = {"optimizer_kwargs": {"fused": True, "eps": 1e-5}}
SETTINGS: dict[str, dict[str, Any]] = {"l2": {"strength": 1e-5}}
SWITCHES = ("full-reset", "layer-reset", "plasticity-injection")


def agent(mitigations: list[Any], **policy_kwargs: Any) -> PPO:
    """One that has seen a rollout and a switch."""
    kwargs = {**NETWORK, **(policy_kwargs or FUSED)}
    made = PPO("MlpPolicy", ant(), mitigations=mitigations, policy_kwargs=kwargs, seed=0, device="cpu")
    made.start_task(0)
    made.learn(STEPS)
    made.start_task(1)
    return made


def overhead(one: PPO, plain: PPO) -> float:
    """Percent of the plain agent's time that the other one takes more."""
    times, peer = interleaved(
        *(lambda a=a: a.learn(STEPS, reset_num_timesteps=False) for a in (one, plain)), repeats=REPEATS
    )
    return 100 * (statistics.median(t / p for t, p in zip(times, peer, strict=True)) - 1)


def acting(name: str) -> str:
    """How long one action of a mitigation that acts at switches takes."""
    one = agent([MITIGATIONS[name](**SETTINGS.get(name, {}))])
    tasks = range(2, 2 + REPEATS)
    if name == "plasticity-injection":
        one = agent([MITIGATIONS[name](tasks=tuple(tasks))])
    return f"{1e3 * statistics.median(seconds(lambda t=t: one.start_task(t)) for t in tasks):.0f} ms a switch"


def main() -> None:
    """Print the tables."""
    plain = agent([])
    print(f"{'mitigation':26}{'more time, %':>14}")
    for name, kind in MITIGATIONS.items():
        more = overhead(agent([kind(**SETTINGS.get(name, {}))]), plain)
        note = f"   {acting(name)}" if name in SWITCHES else ""
        print(f"{name:26}{more:14.1f}{note}", flush=True)
    print(f"\n{'optimiser':26}{'more time, %':>14}")
    for name, optimizer in OPTIMIZERS.items():
        if name == "kron" and find_spec("kron_torch") is None:
            continue
        fused = {} if name == "kron" else {"optimizer_kwargs": {"fused": True}}
        more = overhead(agent([], optimizer_class=optimizer, **fused), plain)
        print(f"{name:26}{more:14.1f}", flush=True)
