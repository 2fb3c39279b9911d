"""Speed of the agents, always as a ratio to a named peer in the same process, interleaved.

``python tests/bench/bench_agents.py`` prints the tables; ``make bench`` calls `main` too. One thread, because
small networks gain nothing from two. Absolute figures depend on the machine; the ratios much less.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from pliant.agents import DQN, L2, PPO, EffectiveRank, effective_rank

REPEATS = 7


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(*works: Callable[[], Any], repeats: int = REPEATS) -> list[list[float]]:
    """Times of each work, the works taking turns after one unmeasured round."""
    for work in works:
        work()
    rounds = [[seconds(work) for work in works] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds, strict=True)]


def ratio(times: list[float], peer: list[float]) -> float:
    """Median of the per-round speed-ups of ``times`` over ``peer``: above 1 is faster."""
    return statistics.median(theirs / ours for ours, theirs in zip(times, peer, strict=True))


def learner(
    algorithm: type[BaseAlgorithm], env: Callable[[], Any], steps: int, **kwargs: Any
) -> Callable[[], Any]:
    """An agent that goes on training ``steps`` environment steps at each call."""
    agent = algorithm("MlpPolicy", env(), seed=0, device="cpu", **kwargs)
    agent.learn(0)
    return lambda: agent.learn(steps, reset_num_timesteps=False)


def cartpole() -> gymnasium.Env:
    """CartPole-v1."""
    return gymnasium.make("CartPole-v1")


def minigrid() -> gymnasium.Env:
    """MiniGrid's empty room, the image alone."""
    from minigrid.wrappers import ImgObsWrapper

    return ImgObsWrapper(gymnasium.make("MiniGrid-Empty-5x5-v0"))


def ant() -> gymnasium.Env:
    """Ant-v5 with 27 observations, as in the paper."""
    return gymnasium.make("Ant-v5", include_cfrc_ext_in_observation=False)


def training_speed() -> list[tuple[str, float, float, float]]:
    """Environment steps per second against SB3 at SB3's default settings, nothing switched on.

    Returns:
        Rows of (work, pliant's steps/s, ratio to SB3, the same with fused Adam).
    """
    fused_ppo = {"policy_kwargs": {"optimizer_kwargs": {"fused": True, "eps": 1e-5}}}
    fused_dqn = {"policy_kwargs": {"optimizer_kwargs": {"fused": True}}}
    replay = {"buffer_size": 50_000}
    works = [
        ("PPO CartPole-v1", PPO, stable_baselines3.PPO, cartpole, 2048, {}, fused_ppo),
        ("PPO MiniGrid-Empty-5x5-v0", PPO, stable_baselines3.PPO, minigrid, 2048, {}, fused_ppo),
        ("PPO Ant-v5", PPO, stable_baselines3.PPO, ant, 2048, {}, fused_ppo),
        ("DQN CartPole-v1", DQN, stable_baselines3.DQN, cartpole, 4000, replay, fused_dqn),
        ("DQN MiniGrid-Empty-5x5-v0", DQN, stable_baselines3.DQN, minigrid, 4000, replay, fused_dqn),
    ]
    rows = []
    for name, ours, theirs, env, steps, settings, fused in works:
        peer, plain, fast = interleaved(
            learner(theirs, env, steps, **settings),
            learner(ours, env, steps, **settings),
            learner(ours, env, steps, **settings, **fused),
        )
        rows.append((name, steps / statistics.median(plain), ratio(plain, peer), ratio(fast, peer)))
    return rows


def mitigation_cost() -> list[tuple[str, float, float]]:
    """Percent of training time that L2-ER adds: rollout 2048, width 256, one ER step per epoch.

    Training time is rollouts and updates together, on Ant-v5, against the same agent without mitigations.

    Returns:
        Rows of (work, percent with steps over the whole rollout, percent with steps over 512 of it).
    """
    one, two = ({"net_arch": [256] * depth, "activation_fn": "relu"} for depth in (1, 2))
    fused = {"optimizer_kwargs": {"fused": True, "eps": 1e-5}}
    works: list[tuple[str, dict[str, Any]]] = [
        ("1x256, batch 16 (the paper's)", {"batch_size": 16, "policy_kwargs": one}),
        ("the same, fused Adam", {"batch_size": 16, "policy_kwargs": one | fused}),
        ("2x256, batch 64", {"batch_size": 64, "policy_kwargs": two}),
    ]
    rows = []
    for name, settings in works:
        plain, whole, part = interleaved(
            learner(PPO, ant, 2048, **settings),
            learner(PPO, ant, 2048, mitigations=[EffectiveRank(1e-3), L2(1e-5)], **settings),
            learner(PPO, ant, 2048, mitigations=[EffectiveRank(1e-3, samples=512), L2(1e-5)], **settings),
        )
        rows.append((name, 100 * (1 / ratio(whole, plain) - 1), 100 * (1 / ratio(part, plain) - 1)))
    return rows


def dying_speed() -> list[tuple[str, float, float]]:
    """Milliseconds of an update whose hidden units are dead, for so long that Adam's moments are denormal.

    PPO on CartPole-v1, two layers of 256 for actor and critic, rollouts of 2048, minibatches of 64.

    Returns:
        Rows of (Adam, ours, ratio to SB3).
    """
    rows = []
    for name, options in (("SB3's default Adam", {}), ("fused Adam", {"fused": True})):
        network = {"net_arch": [256, 256], "activation_fn": torch.nn.ReLU, "optimizer_kwargs": options}
        updates = []
        for algorithm in (PPO, stable_baselines3.PPO):
            agent: Any = algorithm("MlpPolicy", cartpole(), policy_kwargs=network, seed=0, device="cpu")
            agent.learn(2048)
            for layer in agent.policy.mlp_extractor.modules():
                if isinstance(layer, torch.nn.Linear):
                    torch.nn.init.constant_(layer.bias, -1e3)
            for state in agent.policy.optimizer.state.values():
                state["exp_avg"].fill_(torch.finfo(torch.float32).smallest_normal / 4)
            updates.append(agent.train)
        ours, theirs = interleaved(*updates)
        rows.append((name, 1e3 * statistics.median(ours) / 320, ratio(ours, theirs)))
    return rows


def rank_cost() -> list[tuple[str, float, float]]:
    """Milliseconds for effective rank of ``[2048, 256]`` ReLU features, value alone and with gradient."""
    features = torch.randn(2048, 256, generator=torch.Generator().manual_seed(0)).relu()
    tracked = features.clone().requires_grad_()

    def by_svd(matrix: torch.Tensor) -> torch.Tensor:
        sigma = torch.linalg.svdvals(matrix)
        p = sigma / sigma.sum()
        return torch.exp(torch.special.entr(p).sum())

    times = interleaved(
        lambda: effective_rank(features),
        lambda: torch.autograd.grad(effective_rank(tracked), tracked),
        lambda: torch.linalg.svdvals(features),
        lambda: torch.autograd.grad(by_svd(tracked), tracked),
        repeats=5 * REPEATS,
    )
    value, gradient, svd_value, svd_gradient = (1e3 * statistics.median(t) for t in times)
    return [("pliant, Gram matrix", value, gradient), ("torch.linalg.svdvals", svd_value, svd_gradient)]


def main() -> None:
    """Print every table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| SB3's default settings | env steps/s | ratio to SB3 | with fused Adam |\n|---|---|---|---|")
    for work, speed, plain, fused in training_speed():
        print(f"| {work} | {speed:,.0f} | {plain:.2f} | {fused:.2f} |")
    print("\n| L2-ER, one step per epoch, rollout 2048 | adds | adds with samples=512 |\n|---|---|---|")
    for work, whole, part in mitigation_cost():
        print(f"| {work} | {whole:.1f} % | {part:.1f} % |")
    print("\n| PPO, 2x256, all hidden units dead | ms an update | ratio to SB3 |\n|---|---|---|")
    for work, update, faster in dying_speed():
        print(f"| {work} | {update:.2f} | {faster:.2f} |")
    print("\n| effective rank of 2048 x 256 | value, ms | with gradient, ms |\n|---|---|---|")
    for work, value, gradient in rank_cost():
        print(f"| {work} | {value:.1f} | {gradient:.1f} |")


if __name__ == "__main__":
    main()
