"""Matrices with known spectra, as operators, and a tiny agent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn


class MatrixOperator:
    """A given symmetric matrix (or, from a vector, a diagonal) as an operator that counts its products."""

    def __init__(self, matrix: Any, dtype: torch.dtype = torch.float64) -> None:
        self.matrix = torch.as_tensor(np.asarray(matrix), dtype=dtype)
        self.size, self.dtype, self.device = len(self.matrix), dtype, torch.device("cpu")
        self.products = 0

    def __call__(self, vectors: Tensor) -> Tensor:
        self.products += len(vectors)
        return vectors * self.matrix if self.matrix.dim() == 1 else vectors @ self.matrix


@pytest.fixture
def matrix_operator() -> type[MatrixOperator]:
    return MatrixOperator


@pytest.fixture
def rotated() -> Callable[..., np.ndarray]:
    """Builds a dense symmetric matrix with given eigenvalues in a random eigenbasis."""

    def build(eigenvalues: Any, seed: int = 0) -> np.ndarray:
        values = np.asarray(eigenvalues, dtype=np.float64)
        basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
        matrix = (basis * values) @ basis.T
        return (matrix + matrix.T) / 2

    return build


def network_like(size: int, seed: int) -> np.ndarray:
    """Eigenvalues as a network has them: outliers, a log-normal bulk of both signs, many zeros."""
    rng = np.random.default_rng(seed)
    values = rng.choice([-1, 1], size) * 10 ** rng.normal(-2.5, 1.0, size)
    values[rng.random(size) < 0.3] = 0.0
    values[: size // 50] = 10 ** rng.uniform(-0.5, 1.0, size // 50)
    return values


@pytest.fixture
def network_spectrum() -> Callable[[int, int], np.ndarray]:
    return network_like


class TinyBatch(NamedTuple):
    observations: Tensor
    targets: Tensor
    coefficient: float


@dataclass(frozen=True)
class TinyObjective:
    name: str
    parameters: dict[str, Tensor]
    loss: Callable[[TinyBatch], Tensor]
    outputs: Callable[[TinyBatch], Tensor] | None
    output_loss: Callable[[Tensor, TinyBatch], Tensor] | None
    divergence: bool = False


class TinyAgent:
    """Two separate networks with a squared loss each, and a total that is their sum."""

    def __init__(self, seed: int = 0, dropout: float = 0.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.policy = nn.ModuleDict(
                {
                    name: nn.Sequential(
                        nn.Linear(3, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, outputs)
                    )
                    for name, outputs in (("actor", 2), ("critic", 1))
                }
            ).double()

    def networks(self) -> dict[str, dict[str, Tensor]]:
        return {name: dict(net.named_parameters()) for name, net in self.policy.items()}

    def observations(self, batch: TinyBatch) -> Tensor:
        return batch.observations

    def features(self, observations: Tensor) -> dict[str, Tensor]:
        return {f"{name}/0": net[1](net[0](observations)) for name, net in self.policy.items()}

    def objectives(self, unclipped: bool = False) -> dict[str, TinyObjective]:
        found = {}
        for name, net in self.policy.items():
            columns = slice(0, 2) if name == "actor" else slice(2, 3)

            def output_loss(outputs: Tensor, batch: TinyBatch, columns: slice = columns) -> Tensor:
                return batch.coefficient * ((outputs - batch.targets[:, columns]) ** 2).sum(1).mean()

            def outputs(batch: TinyBatch, net: nn.Module = net) -> Tensor:
                return net(batch.observations)

            def loss(batch: TinyBatch, outputs: Any = outputs, output_loss: Any = output_loss) -> Tensor:
                return output_loss(outputs(batch), batch)

            parameters = {f"{name}.{key}": p for key, p in net.named_parameters()}
            found[name] = TinyObjective(name, parameters, loss, outputs, output_loss)
        actor, critic = found["actor"], found["critic"]
        found["total"] = TinyObjective(
            "total",
            actor.parameters | critic.parameters,
            lambda batch: actor.loss(batch) + critic.loss(batch),
            None,
            None,
        )
        return found


@pytest.fixture
def tiny_agent() -> type[TinyAgent]:
    return TinyAgent


@pytest.fixture
def tiny_batch() -> TinyBatch:
    generator = torch.Generator().manual_seed(5)
    observations = torch.randn((40, 3), generator=generator, dtype=torch.float64)
    targets = torch.randn((40, 3), generator=generator, dtype=torch.float64)
    return TinyBatch(observations, targets, 0.5)


@pytest.fixture
def unchanged_randomness() -> Iterator[None]:
    """Fails the test if it moves the global random state of torch or numpy."""
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    assert torch.equal(before, torch.get_rng_state())
    assert (before_numpy == np.random.get_state()[1]).all()
