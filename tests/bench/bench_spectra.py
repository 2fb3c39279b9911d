"""Epsilon-ranks beside the peers': error, products and seconds, one thread; and what a snapshot costs.

``python -m tests.bench spectra`` prints the tables of ``docs/spectra-benchmark.md``, in six to eight minutes
on an idle core. Every method sees the same network, batch and loss; seconds are of CPU time, which other
processes disturb less. Peers: the algorithm of PyHessian's git head (independent single-vector runs from
Rademacher probes, reorthogonalised in one pass; its release calls ``torch.eig``, which torch has removed) on
our products, and curvlinops' ``fast_lanczos`` (not reorthogonalised) on its own products. The peers' nodes
are counted whole; the smoothed densities that they print are not looked at.

The truth is the dense matrix's where that can be had, scipy's ``eigsh`` (ARPACK) where few eigenvalues lie
beyond the thresholds, and else one long run of a textbook Lanczos written here, with its own count of nodes.
The last two use curvlinops' products and share no code with ours.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from pliant.agents import DQN, PPO
from pliant.diagnostics import operator_spectrum, take_snapshot
from pliant.diagnostics.operators import HessianOperator, dense
from pliant.envs import Task, make_env

RELATIVE_EPSILONS = (1e-3, 3e-3, 1e-2, 3e-2)
TOLERANCE = 0.1
BATCH, PICTURES = 2048, 512
TRUTH_STEPS = 800
OUTLIERS = 300

OURS = "pliant, block of 2"
HESSIAN, HESSIAN_DEEP = "PyHessian's algorithm, 100 steps", "PyHessian's algorithm, one run"
CURVLINOPS, CURVLINOPS_DEEP = "curvlinops fast_lanczos, 100 steps", "curvlinops fast_lanczos, one run"


@dataclass(frozen=True)
class Case:
    """One network with its batch and loss, and how much of each method is run.

    ``model(x)`` are the outputs, ``loss(outputs)`` the scalar. Budgets: depths of our block of two; probes of
    PyHessian and of curvlinops at 100 steps; steps of
    their single runs.
    """

    name: str
    model: nn.Module
    x: Tensor
    loss: Callable[[Tensor], Tensor]
    truth: str
    seeds: int
    ours: tuple[int, ...]
    probes: tuple[int, ...]
    peer_probes: tuple[int, ...]
    deep: tuple[int, ...]
    peer_deep: tuple[int, ...]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def operator(self) -> HessianOperator:
        return HessianOperator(lambda: self.loss(self.model(self.x)), self.parameters)

    def peer_operator(self) -> Any:
        from curvlinops import HessianLinearOperator

        data = [(self.x, self.x)]
        return HessianLinearOperator(
            self.model, _Loss(self.loss), self.parameters, data, check_deterministic=False
        )


class _Loss(nn.Module):
    """A loss in the form that curvlinops asks for."""

    reduction = "mean"

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = lambda outputs, _: loss(outputs)


def ppo_actor(*widths: int, **budgets: Any) -> Case:
    """A Gaussian policy with tanh layers, and PPO's clipped surrogate where every ratio is one."""
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

    def loss(means: Tensor) -> Tensor:
        ratio = torch.exp(-0.5 * ((actions - means) ** 2).sum(1) - old)
        return -torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()

    name = f"PPO loss, {'-'.join(map(str, widths))} tanh, batch {BATCH}"
    return Case(name, model, x, loss, **budgets)


def convolutional_dqn(**budgets: Any) -> Case:
    """DQN's TD loss after a little training on MiniGrid's 7x7x3 pictures, small-cnn and a layer of 64."""
    task = Task(env="MiniGrid-Empty-Random-6x6-v0", length=1)
    agent = DQN(
        "MlpPolicy",
        make_env(task, seed=0),
        policy_kwargs={
            "features_extractor_class": "small-cnn",
            "features_extractor_kwargs": {"features_dim": 32},
            "net_arch": [64],
        },
        buffer_size=4_000,
        learning_starts=500,
        learning_rate=1e-3,
        target_update_interval=500,
        seed=0,
        device="cpu",
    )
    agent.learn(4_000)
    batch = agent.gather(make_env(task, seed=1), PICTURES, seed=1)
    objective = agent.objectives()["q"]
    name = f"TD loss, convolutional DQN (small-cnn, ReLU) on 7x7x3 pictures, batch {PICTURES}"

    def loss(values: Tensor) -> Tensor:
        return objective.output_loss(values, batch)

    return Case(name, agent.q_net, batch.observations, loss, **budgets)


# The truth ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """The spectral norm, the ranks at each relative epsilon, how far they may be off, and where from."""

    norm: float
    ranks: np.ndarray
    doubt: np.ndarray
    source: str


def truth_of(case: Case, operator: HessianOperator) -> Truth:
    """By the dense matrix; by ARPACK where few eigenvalues count; by one long run otherwise."""
    epsilons = np.array(RELATIVE_EPSILONS)
    if case.truth == "dense":
        values = np.abs(torch.linalg.eigvalsh(dense(operator)).numpy())
        ranks = (values[:, None] > epsilons * values.max()).mean(0)
        return Truth(float(values.max()), ranks, np.zeros(4), "the dense matrix")
    matrix = case.peer_operator()

    def product(v: np.ndarray) -> np.ndarray:
        return (matrix @ torch.from_numpy(v.astype(np.float32))).detach().numpy()

    if case.truth == "eigsh":
        size = (operator.size, operator.size)
        linear = LinearOperator(size, matvec=lambda v: product(v.ravel()), dtype=np.float32)
        values = np.abs(eigsh(linear, OUTLIERS, which="LM", tol=1e-4, return_eigenvectors=False))
        norm = float(values.max())
        ranks = (values[:, None] > epsilons * norm).sum(0) / operator.size
        # Where all that were asked for lie beyond, there are more.
        doubt = np.where(values.min() > epsilons * norm, np.nan, 0.0)
        return Truth(norm, ranks, doubt, f"scipy's eigsh, the {OUTLIERS} largest on curvlinops' products")
    start = np.random.default_rng(99).standard_normal(operator.size).astype(np.float32)
    alphas, betas = textbook_lanczos(product, start, TRUTH_STEPS)
    values, weights = rule(alphas, betas, TRUTH_STEPS)
    norm = float(np.abs(values).max())
    ranks, doubt = [], []
    for epsilon in epsilons * norm:
        beyond = [weights[values > epsilon].sum(), weights[values < -epsilon].sum()]
        # A node's weight is spread to both sides of it: half of those next to the threshold may be beyond.
        edges = [weights[values <= epsilon][-1], weights[values >= -epsilon][0]]
        ranks.append(sum(beyond))
        noise = 2 * np.sqrt(2 * ranks[-1] * (1 - ranks[-1]) / operator.size)
        doubt.append(sum(edges) / 2 + noise)
    source = f"one run of {TRUTH_STEPS} steps on curvlinops' products"
    return Truth(norm, np.array(ranks), np.array(doubt), source)


def textbook_lanczos(
    product: Callable[[np.ndarray], np.ndarray], start: np.ndarray, steps: int
) -> tuple[list[float], list[float]]:
    """Single-vector Lanczos in numpy, orthogonalised twice against all vectors before it."""
    basis = np.empty((steps, len(start)), dtype=start.dtype)
    basis[0] = start / np.linalg.norm(start)
    alphas, betas = [], []
    for step in range(steps):
        image = product(basis[step])
        alphas.append(float(image @ basis[step]))
        for _ in range(2):
            image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
        betas.append(float(np.linalg.norm(image)))
        if step + 1 < steps:
            basis[step + 1] = image / betas[-1]
    return alphas, betas


def rule(alphas: list[float], betas: list[float], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss nodes and weights of the first ``steps`` of a single-vector run."""
    off = betas[: steps - 1]
    values, vectors = np.linalg.eigh(np.diag(alphas[:steps]) + np.diag(off, 1) + np.diag(off, -1))
    return values, vectors[0] ** 2


# The methods: each yields what it knows after so many products and seconds --------------------------------


@dataclass(frozen=True)
class Reading:
    """One method's ranks at one budget, from one seed."""

    method: str
    products: int
    seconds: float
    ranks: np.ndarray
    widths: np.ndarray | None = None


def pliant(case: Case, operator: HessianOperator, thresholds: np.ndarray, seed: int) -> Iterator[Reading]:
    for depth in case.ours:
        began = time.process_time()
        found = operator_spectrum(operator, "lanczos", 2, depth, seed)
        estimates = [found.epsilon_rank(float(t)) for t in thresholds]
        seconds = time.process_time() - began
        ranks = np.array([e.value for e in estimates])
        yield Reading(OURS, 2 * depth, seconds, ranks, np.array([e.high - e.low for e in estimates]))


def pyhessian(case: Case, operator: HessianOperator, thresholds: np.ndarray, seed: int) -> Iterator[Reading]:
    generator = torch.Generator().manual_seed(seed)
    counts, spent = [], 0.0
    for probe in range(1, max(case.probes) + 1):
        alphas, betas, times = rademacher_run(operator, 100, generator)
        spent += times[-1]
        counts.append(counted(*rule(alphas, betas, 100), thresholds))
        if probe in case.probes:
            yield Reading(HESSIAN, 100 * probe, spent, np.mean(counts, 0))
    alphas, betas, times = rademacher_run(operator, max(case.deep), generator)
    for steps in case.deep:
        ranks = counted(*rule(alphas, betas, steps), thresholds)
        yield Reading(HESSIAN_DEEP, steps, times[steps - 1], ranks)


def rademacher_run(
    operator: HessianOperator, steps: int, generator: torch.Generator
) -> tuple[list[float], list[float], list[float]]:
    """PyHessian's run, with the seconds after each step."""
    began = time.process_time()
    v = torch.randint(0, 2, (operator.size,), generator=generator).float() * 2 - 1
    basis = torch.empty((steps + 1, operator.size))
    basis[0] = v / v.norm()
    alphas, betas, times = [], [], []
    for step in range(steps):
        image = operator(basis[step : step + 1])[0]
        alphas.append(float(image @ basis[step]))
        image = image - alphas[-1] * basis[step] - (betas[-1] * basis[step - 1] if step else 0.0)
        image = image - basis[: step + 1].T @ (basis[: step + 1] @ image)
        betas.append(float(image.norm()))
        basis[step + 1] = image / betas[-1]
        times.append(time.process_time() - began)
    return alphas, betas, times


def curvlinops(case: Case, operator: HessianOperator, thresholds: np.ndarray, seed: int) -> Iterator[Reading]:
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    matrix = case.peer_operator()
    torch.manual_seed(seed)

    def run(steps: int) -> tuple[np.ndarray, float]:
        began = time.process_time()
        values, vectors = fast_lanczos(matrix, steps)
        spent = time.process_time() - began
        return counted(values.numpy(), vectors.numpy()[0] ** 2, thresholds), spent

    runs = [run(100) for _ in range(max(case.peer_probes))]
    for probes in case.peer_probes:
        counts, times = zip(*runs[:probes], strict=True)
        yield Reading(CURVLINOPS, 100 * probes, sum(times), np.mean(counts, 0))
    for steps in case.peer_deep:
        ranks, spent = run(steps)
        yield Reading(CURVLINOPS_DEEP, steps, spent, ranks)


def counted(nodes: np.ndarray, weights: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The weight beyond each threshold."""
    return np.array([weights[np.abs(nodes) > t].sum() for t in thresholds])


# The tables -----------------------------------------------------------------------------------------------


def table(case: Case) -> None:
    """Every method's error at its budgets, and what it takes to come within the tolerance."""
    operator = case.operator()
    truth = truth_of(case, operator)
    thresholds = truth.norm * np.array(RELATIVE_EPSILONS)
    print(f"\n### {case.name}: {operator.size:,} parameters\n")
    print(f"Truth from {truth.source}; mean |error| over {case.seeds} seeds (width of the bracket).\n")
    print(f"| method | products | CPU seconds | {' | '.join(f'{e:g}' for e in RELATIVE_EPSILONS)} |")
    print("|---|---|---|---|---|---|---|")
    doubts = [
        f"{r:.4f} ± {d:.4f}" if d else f"{r:.4f}" for r, d in zip(truth.ranks, truth.doubt, strict=True)
    ]
    print(f"| *truth* | | | {' | '.join(doubts)} |")
    readings: dict[tuple[str, int], list[Reading]] = {}
    for method in (pliant, pyhessian, curvlinops):
        for seed in range(case.seeds):
            for reading in method(case, operator, thresholds, seed):
                readings.setdefault((reading.method, reading.products), []).append(reading)
    errors = {}
    for (name, products), group in readings.items():
        error = np.mean([np.abs(r.ranks - truth.ranks) for r in group], 0)
        seconds = float(np.median([r.seconds for r in group]))
        errors[name, products] = error, seconds
        widths = [r.widths for r in group if r.widths is not None]
        width = [f" ({w:.2g})" for w in np.mean(widths, 0)] if widths else [""] * len(error)
        cells = [f"{e:.2g}{w}" for e, w in zip(error, width, strict=True)]
        print(f"| {name} | {products} | {seconds:.2f} | {' | '.join(cells)} |", flush=True)
    print(f"\nProducts (CPU seconds) from which on the error stays below {TOLERANCE:.0%} of the truth:\n")
    print(f"| method | {' | '.join(f'{e:g}' for e in RELATIVE_EPSILONS)} |")
    print("|---|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in readings):
        budgets = [(products, *errors[name, products]) for method, products in errors if method == name]
        cells = [
            within([(p, s, float(e[i])) for p, e, s in budgets], TOLERANCE * truth.ranks[i])
            for i in range(len(thresholds))
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def within(budgets: list[tuple[int, float, float]], tolerance: float) -> str:
    """The first budget after which every error is below the tolerance."""
    found = ""
    for products, seconds, error in reversed(budgets):
        if error > tolerance:
            break
        found = f"{products} ({seconds:.2f})"
    return found or f"more than {budgets[-1][0]} ({budgets[-1][1]:.1f})"


class Noise(gymnasium.Env):
    """Ant's spaces without its physics: a snapshot's cost does not depend on what is seen."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (27,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (8,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._look(), float(self.np_random.normal()), False, False, {}

    def _look(self) -> np.ndarray:
        return self.np_random.normal(size=27).astype(np.float32)


def snapshot_cost() -> None:
    """Seconds and peak memory of a default snapshot of PPO with two layers of 256 for actor and critic."""
    agent = PPO("MlpPolicy", Noise(), policy_kwargs={"net_arch": [256, 256]}, seed=0, device="cpu")
    batch = agent.gather(Noise(), BATCH, seed=0)
    before = reset_peak()
    began = time.process_time()
    snapshot = take_snapshot(agent, batch, label="init", strict=True)
    spent = time.process_time() - began
    peak = memory("VmHWM") - before
    print("\n### A default snapshot of PPO 27-256-256-8: 2 x 100 products for the actor and for the critic\n")
    print("| instrument | seconds |")
    print("|---|---|")
    for name, seconds in snapshot.seconds.items():
        print(f"| {name} | {seconds:.2f} |")
    print(
        f"\nWall times; {spent:.1f} s of CPU time. "
        f"Peak memory above that of the agent and its batch: {peak / 2**10:.0f} MiB."
    )


def memory(field: str) -> int:
    """A line of /proc/self/status, in KiB (0 where there is none)."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), 0)


def reset_peak() -> int:
    """Start the count of the peak anew (Linux); what is held now, in KiB."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5", encoding="ascii")
    return memory("VmRSS")


def main() -> None:
    """Print the tables."""
    began = time.perf_counter()
    snapshot_cost()
    small = {"ours": (25, 50, 100, 250), "probes": (1, 2, 5, 10, 20), "deep": (200, 500)}
    large = {"ours": (25, 50, 100, 200), "probes": (1, 2, 5), "deep": (200, 400)}
    peer = {"peer_probes": (1, 2), "peer_deep": ()}
    pictures = {"ours": (25, 50, 100), "probes": (1, 2), "deep": (200,)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table(
            ppo_actor(
                17, 64, 64, 6, truth="dense", seeds=3, peer_probes=(1, 2, 5, 10), peer_deep=(500,), **small
            )
        )
        table(ppo_actor(27, 256, 256, 8, truth="long run", seeds=2, **peer, **large))
        table(convolutional_dqn(truth="eigsh", seeds=2, **peer, **pictures))
    print(f"\n{time.perf_counter() - began:.0f} seconds in all.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
