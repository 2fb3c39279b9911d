"""Epsilon-ranks of a PPO loss's Hessian: error, bracket, products, seconds beside the peers', one thread.

``python -m tests.bench spectra`` prints the tables. All methods see the same network, batch and loss. Peers:
PyHessian's algorithm (its git head: independent single-vector runs, reorthogonalised once; its release calls
``torch.eig``, which torch has removed) on our products, and curvlinops' ``fast_lanczos`` (no
reorthogonalisation) on its own. The truth is the dense matrix's.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pliant.diagnostics import operator_spectrum
from pliant.diagnostics.curvature import Spectrum
from pliant.diagnostics.operators import HessianOperator, dense

RELATIVE_EPSILONS = (1e-3, 3e-3, 1e-2, 3e-2)
BATCH = 2048
SEEDS = 3


def ppo_actor(widths: tuple[int, ...]) -> tuple[nn.Module, Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """A Gaussian policy's network, a batch, and the clipped surrogate as a function of the means."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(BATCH, widths[0])
    with torch.no_grad():
        means = model(x)
        actions = means + torch.randn_like(means)
        advantages = torch.randn(BATCH) + 0.5 * (actions * torch.randn(widths[-1])).sum(1)
        advantages = (advantages - advantages.mean()) / advantages.std()
        old = -0.5 * ((actions - means) ** 2).sum(1)

    def loss(means: Tensor, _: Tensor) -> Tensor:
        ratio = torch.exp(-0.5 * ((actions - means) ** 2).sum(1) - old)
        return -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()

    return model, x, loss


class Surrogate(nn.Module):
    """The loss in the form that curvlinops asks for."""

    reduction = "mean"

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = loss


Rule = tuple[np.ndarray, np.ndarray]  # nodes and weights, [probes, n]


def single_vector(operator: HessianOperator, probes: int, depth: int, seed: int) -> Rule:
    """PyHessian's algorithm: Rademacher probes, a run each, one pass of Gram-Schmidt against all vectors."""
    generator = torch.Generator().manual_seed(seed)
    nodes, weights = [], []
    for _ in range(probes):
        v = torch.randint(0, 2, (operator.size,), generator=generator).float() * 2 - 1
        v /= v.norm()
        known, alphas, betas = [v], [], []
        for step in range(depth):
            w = operator(v[None])[0]
            alphas.append(float(w @ v))
            w = w - alphas[-1] * v - (betas[-1] * known[-2] if step else 0.0)
            basis = torch.stack(known)
            w = w - basis.T @ (basis @ w)
            betas.append(float(w.norm()))
            v = w / betas[-1]
            known.append(v)
        tridiagonal = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
        values, vectors = np.linalg.eigh(tridiagonal)
        nodes.append(values)
        weights.append(vectors[0] ** 2)
    return np.array(nodes), np.array(weights)


def curvlinops_lanczos(matrix: Any, probes: int, depth: int, seed: int) -> Rule:
    """The peer's own three-term recurrence, averaged over independent runs."""
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    torch.manual_seed(seed)
    runs = []
    for _ in range(probes):
        values, vectors = fast_lanczos(matrix, depth)
        runs.append((np.asarray(values), np.asarray(vectors)[0] ** 2))
    return np.array([v for v, _ in runs]), np.array([w for _, w in runs])


def ranks(nodes: np.ndarray, weights: np.ndarray, thresholds: list[float]) -> list[float]:
    """Mean over probes of the weight beyond each threshold."""
    return [float((weights * (np.abs(nodes) > t)).sum(1).mean()) for t in thresholds]


def table(widths: tuple[int, ...], exact: bool) -> None:
    """One network: every method's error, bracket, products and seconds."""
    model, x, loss = ppo_actor(widths)
    parameters = list(model.parameters())
    operator = HessianOperator(lambda: loss(model(x), x), parameters)
    if exact:
        values = torch.linalg.eigvalsh(dense(operator)).numpy()
        norm = float(np.abs(values).max())
        truth = [float((np.abs(values) > e * norm).mean()) for e in RELATIVE_EPSILONS]
    else:
        deep = operator_spectrum(operator, "lanczos", probes=2, depth=400, seed=99)
        norm = deep.norm
        truth = [deep.epsilon_rank(e * norm).value for e in RELATIVE_EPSILONS]
    thresholds = [e * norm for e in RELATIVE_EPSILONS]
    kind = "exact" if exact else "a run of 2 x 400"
    print(f"\n{'-'.join(map(str, widths))}, {operator.size:,} parameters, batch {BATCH}; truth from {kind}")
    print(f"relative epsilons {RELATIVE_EPSILONS}, ranks {', '.join(f'{t:.4f}' for t in truth)}")
    print(
        f"{'method':38s} {'products':>8s} {'seconds':>8s}  mean |error| at each epsilon (width of the "
        "bracket)"
    )

    def line(name: str, products: int, run: Callable[[int], Any]) -> None:
        seconds, errors, widths_ = [], [], []
        for seed in range(SEEDS):
            start = time.perf_counter()
            found = run(seed)
            seconds.append(time.perf_counter() - start)
            if isinstance(found, Spectrum):
                estimates = [found.epsilon_rank(t) for t in thresholds]
                errors.append([abs(e.value - t) for e, t in zip(estimates, truth, strict=True)])
                widths_.append([e.high - e.low for e in estimates])
            else:
                errors.append([abs(r - t) for r, t in zip(ranks(*found, thresholds), truth, strict=True)])
        mean, width = np.mean(errors, 0), np.mean(widths_, 0) if widths_ else [None] * len(truth)
        cells = [
            f"{m:.4f}" + (f" ({w:.3f})" if w is not None else "") for m, w in zip(mean, width, strict=True)
        ]
        print(f"{name:38s} {products:8d} {statistics.median(seconds):8.2f}  {'  '.join(cells)}", flush=True)

    for probes, depth in ((10, 20), (2, 100), (10, 50), (2, 250)):
        name = f"pliant, block of {probes}, depth {depth}"
        line(
            name,
            probes * depth,
            lambda seed, p=probes, d=depth: operator_spectrum(operator, "lanczos", p, d, seed),
        )
    for probes, depth in ((2, 100), (10, 100), (20, 100)) if exact else ((2, 100), (10, 100)):
        name = f"PyHessian's algorithm, {probes} x {depth}"
        line(name, probes * depth, lambda seed, p=probes, d=depth: single_vector(operator, p, d, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from curvlinops import HessianLinearOperator
        except ImportError:
            print("curvlinops is not installed: pip install curvlinops-for-pytorch")
            return
        matrix = HessianLinearOperator(
            model, Surrogate(loss), parameters, [(x, x)], check_deterministic=False
        )
        for probes, depth in ((2, 100), (10, 100)):
            name = f"curvlinops fast_lanczos, {probes} x {depth}"
            line(name, probes * depth, lambda seed, p=probes, d=depth: curvlinops_lanczos(matrix, p, d, seed))


def main() -> None:
    """Print the tables."""
    table((17, 64, 64, 6), exact=True)
    table((27, 256, 256, 8), exact=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
