"""A number with its error bars."""

from dataclasses import dataclass

#: The probability, at least, that a bracket which includes probe noise holds the truth.
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Estimate:
    """A measured number, its standard error and a bracket.

    Attributes:
        value: the estimate.
        sem: standard error from the random probes alone (zero when every eigenvalue is known).
        low: lower end of the bracket.
        high: upper end of the bracket.
        kind: what the bracket is made of: ``exact`` (every eigenvalue known; rounding only), ``radau``
            (Gauss-Radau bounds of each block's mass, widened by the probe noise), ``probe-radau`` (the same
            with the per-probe theorem), ``ritz`` (interlacing below, residual above), ``probes`` (exact
            quadrature; probe noise only) or ``halving`` (probe noise plus the difference to half the depth,
            which is an indication and no bound).
    """

    value: float
    sem: float
    low: float
    high: float
    kind: str = "exact"

    def __contains__(self, truth: float) -> bool:
        return self.low <= truth <= self.high

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"
