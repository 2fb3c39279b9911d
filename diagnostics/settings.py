"""What a snapshot is to hold."""

from dataclasses import dataclass

from .curvature import METHODS
from .errors import InvalidSetting, UnknownOption
from .spectrum import BRACKETS

OPERATORS = ("hessian", "ggn", "kfac", "gram")
COMPATIBLE = ("", "lop-jax")


@dataclass(frozen=True)
class SnapshotSettings:
    """What a snapshot holds.

    Attributes:
        parts: what to measure: objectives (``critic``), or some parameters of one (``actor/log_std``,
            ``critic/mlp_extractor.value_net.0``: a network, a layer, any beginning of parameters' names up to
            a dot). All of the agent's objectives if empty.
        operators: any of ``hessian``; ``ggn`` (for a policy's KL the Fisher matrix); ``kfac`` (its Kronecker
            approximation, by layer and whole); ``gram`` (the Gauss-Newton matrix and the neural tangent
            kernel, by layer, on ``gram_samples`` samples). None measures no spectrum.
        method: ``auto``, ``exact`` or ``lanczos``, for ``hessian`` and ``ggn``.
        probes: starting vectors of the Lanczos block. Networks have so many parameters that two probes
            already say more than the depth resolves; two, so that repeated eigenvalues are told from single
            ones.
        depth: Lanczos steps; 100 resolve ranks at 1e-2 of the norm. Products are ``probes x depth``.
        seed: of the probes and minibatches, the same at every snapshot, so that two snapshots differ by what
            they measure.
        epsilons: absolute thresholds of the epsilon-rank, fixed in advance.
        relative_epsilons: thresholds in units of the spectral norm.
        bracket: ``block`` or ``probe``.
        micro_batch: at most this many samples in a graph at once; 0 for the whole batch.
        unclipped: measure the loss without clipping, for data of another policy.
        features: measure the layers' features.
        minibatches: how many minibatch gradients to compare; 0 for no gradient probe.
        minibatch_size: samples in each of them (128 of 4 in arXiv 2605.09044).
        gram_samples: samples behind ``gram``, which costs a backward pass for each of their outputs.
        learning_rate: of the task's training; with ``updates`` it sets the epsilon of :mod:`.trainability`.
        updates: gradient updates planned for the task; 0 for no verdict.
        compat: ``lop-jax`` also logs the ranks as the paper's reference code computes them.
    """

    parts: tuple[str, ...] = ()
    operators: tuple[str, ...] = ("hessian",)
    method: str = "auto"
    probes: int = 2
    depth: int = 100
    seed: int = 0
    epsilons: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    relative_epsilons: tuple[float, ...] = (1e-3, 1e-2)
    bracket: str = "block"
    micro_batch: int = 0
    unclipped: bool = False
    features: bool = True
    minibatches: int = 64
    minibatch_size: int = 4
    gram_samples: int = 128
    learning_rate: float = 0.0
    updates: int = 0
    compat: str = ""

    def __post_init__(self) -> None:
        for argument, values, known in (
            ("operators", self.operators, OPERATORS),
            ("method", (self.method,), METHODS),
            ("bracket", (self.bracket,), BRACKETS),
            ("compat", (self.compat,), COMPATIBLE),
        ):
            for value in values:
                if value not in known:
                    raise UnknownOption(argument, value, known)
        for argument, least in (
            ("probes", 1),
            ("depth", 1),
            ("micro_batch", 0),
            ("minibatches", 0),
            ("minibatch_size", 1),
            ("gram_samples", 1),
            ("updates", 0),
        ):
            if getattr(self, argument) < least:
                raise InvalidSetting(f"{argument}={getattr(self, argument)} must be at least {least}")
        if any(not epsilon > 0 for epsilon in (*self.epsilons, *self.relative_epsilons)):
            raise InvalidSetting(f"epsilons {self.epsilons} and {self.relative_epsilons} must be positive")
        if self.updates and not self.learning_rate > 0:
            raise InvalidSetting(
                f"updates={self.updates} needs a positive learning_rate, got {self.learning_rate}"
            )
