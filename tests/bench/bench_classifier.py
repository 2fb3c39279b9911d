"""Supervised learning: samples per second of the classifier beside a plain torch loop.

The same network, minibatches, optimiser (Adam, fused and not) and number of updates on both sides, in
turns, on one thread. The loop is what anybody would write: a permutation per pass, indexing, cross-entropy,
backward, step; it counts no right answers, looks for no NaN and calls nobody back.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from pliant.agents import L2, Classifier, EffectiveRank, LabelledSamples, Mitigation
from pliant.agents.resnet import ResNet18

from .bench_agents import interleaved, ratio

ARMS: dict[str, Callable[[], Sequence[Mitigation]]] = {
    "bp": lambda: [],
    "l2": lambda: [L2(1e-4)],
    "er": lambda: [EffectiveRank(1e-3)],
    "l2-er": lambda: [EffectiveRank(1e-3), L2(1e-4)],
    "l2-er, over 400": lambda: [EffectiveRank(1e-3, samples=400), L2(1e-4)],
}


class Data(gymnasium.Env):
    """Random inputs of a shape with random labels."""

    def __init__(self, shape: tuple[int, ...], count: int) -> None:
        generator = np.random.default_rng(0)
        self.observation_space = spaces.Box(-np.inf, np.inf, shape)
        self.action_space = spaces.Discrete(10)
        self.samples = LabelledSamples(
            generator.standard_normal((count, *shape), np.float32), generator.integers(0, 10, count)
        )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """The first sample."""
        super().reset(seed=seed)
        return self.samples.inputs[0], {}


def mlp(inputs: int, hidden: Sequence[int]) -> nn.Module:
    """ReLU layers and a linear one for ten classes."""
    widths = [inputs, *hidden]
    layers = [part for a, b in zip(widths, hidden, strict=False) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def resnet18(shape: tuple[int, ...]) -> nn.Module:
    """The classifier's own network, as a module: batch norm as torch has it."""
    extractor = ResNet18(spaces.Box(-np.inf, np.inf, shape))
    return nn.Sequential(extractor, nn.Linear(extractor.features_dim, 10))


def loop(net: nn.Module, data: Data, batch: int, samples: int, fused: bool) -> Callable[[], None]:
    """The plain loop over ``samples`` samples; goes on training at each call."""
    inputs, labels = torch.from_numpy(data.samples.inputs), torch.from_numpy(data.samples.labels)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
    net.train()

    def work() -> None:
        shown = 0
        while shown < samples:
            for index in torch.randperm(len(inputs)).split(batch):
                optimizer.zero_grad()
                F.cross_entropy(net(inputs[index]), labels[index]).backward()
                optimizer.step()
                shown += len(index)

    return work


def learner(
    data: Data, batch: int, samples: int, policy: dict[str, Any], mitigations: Sequence[Mitigation]
) -> Callable[[], Any]:
    """A classifier that goes on training ``samples`` samples at each call."""
    policy = {**policy, "optimizer_kwargs": {"fused": True}}
    agent = Classifier(
        "MlpPolicy",
        data,
        batch_size=batch,
        policy_kwargs=policy,
        mitigations=mitigations,
        seed=0,
        device="cpu",
    )
    agent.learn(0)
    return lambda: agent.learn(samples, reset_num_timesteps=False)


def case(
    name: str,
    shape: tuple[int, ...],
    count: int,
    batch: int,
    passes: int,
    net: Callable[[], nn.Module],
    **policy: Any,
) -> None:
    """Print one row for each arm; the steps of ER come every 10 updates, over the minibatch unless said."""
    data, samples = Data(shape, count), count * passes
    works = [loop(net(), data, batch, samples, fused) for fused in (False, True)]
    works += [learner(data, batch, samples, policy, make()) for make in ARMS.values()]
    default, fused, *arms = interleaved(*works, repeats=5)
    bp = arms[0]
    print(f"| {name} | plain loop | {samples / statistics.median(default):,.0f} | | | |")
    print(f"| {name} | plain loop, fused Adam | {samples / statistics.median(fused):,.0f} | | | |")
    for arm, times in zip(ARMS, arms, strict=True):
        speed = samples / statistics.median(times)
        relative = f"{ratio(times, fused):.2f} | {ratio(times, default):.2f} | {1 / ratio(times, bp):.2f}"
        print(f"| {name} | {arm} | {speed:,.0f} | {relative} |", flush=True)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| network, batch | arm | samples/s | of the fused loop's | of the plain loop's | time over bp's |")
    print("|---|---|---|---|---|---|")
    small, large = [100] * 3, [1000] * 3
    case("MLP 3x100, 32", (64,), 400, 32, 40, lambda: mlp(64, small), net_arch=small)
    case("MLP 3x1000, 16", (784,), 800, 16, 1, lambda: mlp(784, large), net_arch=large)
    picture = (3, 32, 32)
    resnet = {"features_extractor_class": "resnet-18", "net_arch": []}
    case("ResNet-18, 32", picture, 64, 32, 1, lambda: resnet18(picture), **resnet)


if __name__ == "__main__":
    main()
