"""Can gradient descent learn this task from here? The epsilon that decides, and the verdict.

In the linearised network, K steps of gradient descent at learning rate eta leave the fraction
``(1 - eta lambda)^K`` of the residual in an eigen-direction of curvature lambda. It falls to gamma only if

    lambda >= epsilon(K, gamma) = -log(gamma) / (eta K),

so the share of the initial residual that lies in faster directions bounds how far training can get (the
epsilon-rank condition of arXiv 2509.22335, version 3). The residual is that of the loss's quadratic model on
the outputs, ``w = S^+ dl/df``, its directions those of the loss-weighted Gram matrix ``S J J' S``; one
Lanczos run from w gives the share with rigorous Gauss-Radau bounds and no random probe. Where the loss slopes
without curving there is no such model: TD errors beyond Huber's delta, samples of which a softmax is sure and
wrong. With too many of them there is no verdict. The condition is that of plain gradient descent: for Adam,
whose steps are rescaled, it is an indication.
"""

import math
from dataclasses import dataclass

import numpy as np

from .errors import InvalidSetting, NoVerdict
from .estimate import Estimate
from .gram import GramOperator
from .lanczos import block_lanczos
from .operators import OutputsAndLoss, Parameters
from .precision import resolution
from .quadrature import Ritz, mass_beyond, ritz
from .spectrum import Spectrum

#: Directions count as learnt when a tenth of their residual is left.
REMAINING = 0.1
#: A task counts as learnable when directions with nine tenths of its residual can be.
REQUIRED_SHARE = 0.9
#: The quadratic model speaks for the loss if it knows of so much of the squared slope on the outputs.
COVERED = 0.9


def principled_epsilon(learning_rate: float, updates: int, remaining: float = REMAINING) -> float:
    """``-log(gamma) / (eta K)``: the least curvature that K gradient updates reduce to a fraction gamma.

    >>> round(principled_epsilon(1e-2, 1000, remaining=0.1), 6)
    0.230259
    """
    if not (learning_rate > 0 and updates > 0 and 0 < remaining < 1):
        raise InvalidSetting(
            f"learning_rate={learning_rate}, updates={updates} and remaining={remaining} must be positive, "
            "remaining below 1"
        )
    return -math.log(remaining) / (learning_rate * updates)


@dataclass(frozen=True)
class Trainability:
    """The verdict on one objective at one moment.

    Attributes:
        epsilon: curvature that training can use, from learning rate and number of updates.
        covered: share of the squared slope on the outputs that the quadratic model knows of.
        share: of the initial residual, in directions of more curvature than epsilon; bracket without
            randomness.
        required: curvature of the slowest direction that the required share needs, with its bracket; 0 where
            no curvature above rounding has that share.
        rank: epsilon-rank of the Gauss-Newton matrix at epsilon, as measured; None without a spectrum.
        required_rank: its rank at ``required``, what the task asks for; None without a spectrum.
        verdict: ``trainable`` or ``untrainable`` where the bracket of the share lies on one side of what is
            required, else ``undecided``.
    """

    epsilon: float
    covered: float
    share: Estimate
    required: Estimate
    rank: Estimate | None
    required_rank: Estimate | None
    verdict: str

    def scalars(self, prefix: str) -> dict[str, float]:
        """Numbers by tag; the verdict as 1 (trainable), 0 (untrainable) or one half (undecided)."""
        numbers = {
            "epsilon": self.epsilon,
            "covered": self.covered,
            "verdict": {"trainable": 1.0, "untrainable": 0.0}.get(self.verdict, 0.5),
        }
        for name in ("share", "required", "rank", "required_rank"):
            estimate = getattr(self, name)
            if estimate is not None:
                numbers |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return {f"{prefix}/{name}": value for name, value in numbers.items()}


def trainability(
    closure: OutputsAndLoss,
    parameters: Parameters,
    learning_rate: float,
    updates: int,
    spectrum: Spectrum | None = None,
    remaining: float = REMAINING,
    required_share: float = REQUIRED_SHARE,
    depth: int = 40,
) -> Trainability:
    """Whether the initial residual lies where the planned updates can reach it.

    Args:
        closure: returns ``(outputs [N, K], convex loss on them)``: a value or TD loss with its fixed targets.
        parameters: those that are trained.
        learning_rate: of the task.
        updates: gradient updates planned for the task.
        spectrum: of the Gauss-Newton matrix on the same data, to read the ranks from.
        remaining: gamma, the fraction of a residual that counts as learnt.
        required_share: of the initial residual.
        depth: Lanczos steps.

    Raises:
        InvalidSetting: a number is out of range.
        NoVerdict: more than a tenth of the squared slope lies where the loss does not curve, or there is no
            slope at all (the loss is at its minimum, or is a KL to itself).
    """
    if not 0 < required_share < 1:
        raise InvalidSetting(f"required_share={required_share} must lie between 0 and 1")
    epsilon = principled_epsilon(learning_rate, updates, remaining)
    operator = GramOperator(closure, parameters)
    if not (covered := operator.covered) >= COVERED:
        raise NoVerdict(
            f"only {covered:.0%} of the loss's squared slope lies where it curves, the rest with TD errors "
            "beyond Huber's delta or samples of which a softmax is sure and wrong: without a quadratic model "
            "there is no verdict; look at the size of rewards or logits",
            covered,
        )
    residual = operator.residual.double()
    length = float(residual.norm())
    if not length > 0:
        raise NoVerdict(
            "the loss on the outputs has no slope: nothing is left to learn, or it is a KL to the present "
            "policy",
            covered,
        )
    form = ritz(block_lanczos(operator, (residual / length)[None].to(operator.dtype), depth))
    error = resolution(operator.dtype, form.values)
    share = _share(form, epsilon, error)
    required = _required(form, required_share, error)
    verdict = (
        "trainable"
        if share.low >= required_share
        else "untrainable"
        if share.high < required_share
        else "undecided"
    )
    rank = required_rank = None
    if spectrum is not None and epsilon >= spectrum.floor:
        rank = spectrum.epsilon_rank(epsilon)
    if spectrum is not None and required.low >= spectrum.floor:
        most, least = spectrum.epsilon_rank(required.low), spectrum.epsilon_rank(required.high)
        middle = spectrum.epsilon_rank(required.value)
        required_rank = Estimate(middle.value, middle.sem, least.low, most.high, middle.kind)
    return Trainability(epsilon, covered, share, required, rank, required_rank, verdict)


def _share(form: Ritz, epsilon: float, error: float) -> Estimate:
    """The residual's mass beyond epsilon with its Radau bounds."""
    (low,), (high,) = mass_beyond(form, epsilon, error)
    plain = float((form.first[0] ** 2)[form.values > epsilon].sum())
    low, high = max(float(low), 0.0), min(float(high), 1.0)
    return Estimate(min(max(plain, low), high), 0.0, low, high, "probe-radau")


def _required(form: Ritz, share: float, error: float) -> Estimate:
    """The largest curvature beyond which the residual still has the share: a quantile with its bounds."""

    def quantile(pick: str) -> float:
        near, far = math.log(max(10 * error, 1e-300)), math.log(max(2 * form.norm, 1e-299))
        if getattr(_share(form, math.exp(near), error), pick) < share:
            return 0.0
        while far - near > 1e-9:
            middle = (near + far) / 2
            if getattr(_share(form, math.exp(middle), error), pick) >= share:
                near = middle
            else:
                far = middle
        return math.exp(near)

    low, high = quantile("low"), quantile("high")
    order = np.argsort(form.values)[::-1]
    reached = np.cumsum(form.first[0][order] ** 2) >= share
    plain = float(form.values[order][reached.argmax()]) if reached.any() else 0.0
    return Estimate(min(max(plain, low), high), 0.0, low, high, "probe-radau")
