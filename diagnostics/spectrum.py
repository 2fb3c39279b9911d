"""The spectrum of a curvature matrix: raw nodes and weights, and numbers with brackets.

A count of eigenvalues is taken from nodes and weights, never from a smoothed grid: a Gaussian of any width
moves mass across the threshold, and integrating a grid from which a gap was cut bridges the gap (on released
data of the paper that made 91 % out of 55 %). :meth:`Spectrum.density` is for the eye only.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import EpsilonBelowFloor, InvalidSetting, UnknownOption, UnreadableFile
from .estimate import CONFIDENCE, Estimate
from .files import read_arrays
from .piece import Piece
from .quadrature import Array, Ritz
from .sampling import deviations

#: Version of the file format; a newer file is refused, an older one is read.
SCHEMA = 1

BRACKETS = ("block", "probe")

#: Epsilon may not be below this many times the resolution of the products (1e-5 of the norm in float32).
FLOOR = 10.0

#: A file that asks for more nodes than this is damaged.
MOST_NODES = 2**28

#: More nodes than this are binned before they are smoothed for a picture.
MANY_NODES = 4_000


@dataclass(frozen=True)
class Spectrum:
    """A spectrum as measured; the direct sum of its pieces.

    Attributes:
        pieces: independent diagonal blocks, one for most measurements, several after :meth:`union`.
        operator: what was measured, ``hessian``, ``ggn``, ``fisher`` or a name of your own.
        method: ``exact`` or ``lanczos`` (or ``mixed``).
        products: operator-vector products used.
        seconds: wall time of the measurement.
    """

    pieces: tuple[Piece, ...]
    operator: str = "hessian"
    method: str = "exact"
    products: int = 0
    seconds: float = 0.0

    @staticmethod
    def union(spectra: Iterable["Spectrum"]) -> "Spectrum":
        """The spectrum of the block-diagonal matrix of several: losses that share no parameter, say."""
        parts = list(spectra)
        if not parts:
            raise InvalidSetting("union() needs at least one spectrum")
        methods = {part.method for part in parts}
        operators = dict.fromkeys(part.operator for part in parts)
        return Spectrum(
            pieces=tuple(piece for part in parts for piece in part.pieces),
            operator="+".join(operators),
            method=methods.pop() if len(methods) == 1 else "mixed",
            products=sum(part.products for part in parts),
            seconds=sum(part.seconds for part in parts),
        )

    @property
    def size(self) -> int:
        """Number of parameters, P."""
        return sum(piece.size for piece in self.pieces)

    @property
    def nodes(self) -> Array:
        """Quadrature nodes ``[probes, n]`` (all eigenvalues, in one row, when exact)."""
        return np.concatenate([self._rows(piece.nodes) for piece in self.pieces], axis=1)

    @property
    def weights(self) -> Array:
        """Weights of the nodes ``[probes, n]``; the weights of a probe sum to 1."""
        return np.concatenate([self._rows(p.weights) * (p.size / self.size) for p in self.pieces], axis=1)

    def _rows(self, array: Array) -> Array:
        """Repeat a piece's rows up to the spectrum's number of probes; the mean over rows is unchanged."""
        rows = math.lcm(*(len(piece.form.first) for piece in self.pieces))
        return np.tile(array, (rows // len(array), 1))

    @property
    def norm(self) -> float:
        """Spectral norm, as the largest ``|theta|`` (from below)."""
        return max(piece.form.norm for piece in self.pieces)

    @property
    def floor(self) -> float:
        """The smallest epsilon that the precision of the products can resolve."""
        return FLOOR * max(piece.resolution for piece in self.pieces)

    @property
    def settled(self) -> Array:
        """Eigenvalues known one by one (converged and single), ascending."""
        return np.sort(np.concatenate([piece.form.values[piece.settled] for piece in self.pieces]))

    def epsilon_rank(
        self, epsilon: float, relative: bool = False, bracket: str = "block", confidence: float = CONFIDENCE
    ) -> Estimate:
        """The fraction of eigenvalues with ``|lambda| > epsilon``.

        ``[low, high]`` holds the truth with at least the given probability: the quadrature's bounds, widened
        by the law of the probes, tightened by eigenvalues that are known one by one.

        Args:
            epsilon: threshold, in units of the loss per squared parameter, or of the spectral norm if
                ``relative``. Fix it before looking. Multiplying rewards by c multiplies the critic's Hessian
                by c^2 and absolute ranks with it.
            relative: take epsilon as a multiple of :attr:`norm`.
            bracket: ``block`` uses the trace of the block Radau rule, ``probe`` the bounds that are a theorem
                for each probe and wider (see :mod:`.quadrature`).
            confidence: probability that the bracket allows for the random probes.

        Raises:
            EpsilonBelowFloor: the products cannot resolve it.
            InvalidSetting: epsilon is not positive.
            UnknownOption: the bracket is unknown.
        """
        if bracket not in BRACKETS:
            raise UnknownOption("bracket", bracket, BRACKETS)
        if not (epsilon > 0.0 and math.isfinite(epsilon)):
            raise InvalidSetting(f"epsilon={epsilon}; give a positive, finite threshold")
        threshold = epsilon * self.norm if relative else epsilon
        if threshold == 0.0:  # relative to a matrix of zeros, whose rank is zero
            return Estimate(0.0, 0.0, 0.0, 0.0)
        # The allowance is for the last digit of a product like 1e-5 * norm.
        if threshold < self.floor * (1.0 - 1e-9):
            raise EpsilonBelowFloor(
                f"epsilon={threshold:.3g} is below {self.floor:.3g}, what the precision of the products "
                "resolves for a spectrum "
                f"of norm {self.norm:.3g}; use a larger epsilon, or parameters and data in float64"
            )
        counts = [piece.count_beyond(threshold, bracket, confidence) for piece in self.pieces]
        value, variance, low, high = (float(sum(column)) for column in zip(*counts, strict=True))
        if all(piece.exact for piece in self.pieces):
            kind = "exact"
        else:
            kind = "radau" if bracket == "block" else "probe-radau"
        size = self.size
        return Estimate(value / size, math.sqrt(variance) / size, low / size, high / size, kind)

    def curve(
        self, epsilons: Sequence[float], relative: bool = False, bracket: str = "block"
    ) -> list[Estimate]:
        """Epsilon-ranks over several thresholds."""
        return [self.epsilon_rank(epsilon, relative, bracket) for epsilon in epsilons]

    def trace(self, confidence: float = CONFIDENCE) -> Estimate:
        """Sum of the eigenvalues; the quadrature is exact, so that only the probes are uncertain."""
        return self._smooth(lambda values: values, confidence)

    def frobenius_norm(self, confidence: float = CONFIDENCE) -> Estimate:
        """Square root of the sum of squared eigenvalues; only the probes are uncertain."""
        scale = self.norm or 1.0
        square = self._smooth(lambda values: (values / scale) ** 2, confidence)
        value = math.sqrt(max(square.value, 0.0))
        sem = square.sem / (2 * value) if value else 0.0
        low, high = math.sqrt(max(square.low, 0.0)), math.sqrt(max(square.high, 0.0))
        return Estimate(scale * value, scale * sem, scale * low, scale * high, square.kind)

    def effective_rank(self, confidence: float = CONFIDENCE) -> Estimate:
        """``exp(entropy)`` of ``|lambda_i| / sum |lambda|`` (Roy & Vetterli 2007); 0 for a zero matrix.

        With ``S = sum |lambda|`` and ``E = sum |lambda| log |lambda|`` it is ``exp(log S - E / S)``. Its
        error bar is the probes' (delta method) plus the difference to the first half of the run.
        """
        scale = self.norm
        if scale == 0.0:
            return Estimate(0.0, 0.0, 0.0, 0.0)

        def magnitude(values: Array) -> Array:
            return np.abs(values) / scale

        def log_magnitude(values: Array) -> Array:
            size = magnitude(values)
            return np.where(size > 0, size * np.log(np.maximum(size, 1e-300)), 0.0)

        def rank_of(coarse: bool) -> tuple[float, float, float]:
            sums = [
                [p.total(f, p.coarse if coarse else None)[0] for p in self.pieces]
                for f in (magnitude, log_magnitude)
            ]
            total, logs = sum(sums[0]), sum(sums[1])
            return math.exp(math.log(total) - logs / total), total, logs

        value, total, logs = rank_of(coarse=False)

        def influence(values: Array) -> Array:
            return (magnitude(values) * (1.0 + logs / total) - log_magnitude(values)) / total

        sem = value * math.sqrt(sum(piece.total(influence)[1] for piece in self.pieces))
        margin = deviations(confidence) * sem
        if not all(piece.exact for piece in self.pieces):
            margin += abs(value - rank_of(coarse=True)[0])
        kind = "exact" if all(piece.exact for piece in self.pieces) else "halving"
        return Estimate(value, sem, max(value - margin, 1.0), min(value + margin, float(self.size)), kind)

    def _smooth(self, function: Any, confidence: float) -> Estimate:
        """Sum of a function over the spectrum, with the probes' error bar."""
        sums = [piece.total(function) for piece in self.pieces]
        value = sum(total for total, _ in sums)
        sem = math.sqrt(sum(variance for _, variance in sums))
        margin = deviations(confidence) * sem
        exact = all(piece.exact for piece in self.pieces)
        return Estimate(value, sem, value - margin, value + margin, "exact" if exact else "probes")

    def largest(self, k: int = 1) -> list[Estimate]:
        """The k largest eigenvalues, descending: at least the Ritz value, bounded above by its residual."""
        return self._extreme(k, +1.0)

    def smallest(self, k: int = 1) -> list[Estimate]:
        """The k smallest (most negative) eigenvalues, ascending: each at most its Ritz value."""
        return self._extreme(k, -1.0)

    def _extreme(self, k: int, sign: float) -> list[Estimate]:
        values = np.concatenate([piece.form.values for piece in self.pieces])
        errors = np.concatenate([piece.form.residuals for piece in self.pieces])
        noise = np.concatenate([np.full(len(p.form.values), p.resolution) for p in self.pieces])
        if not 1 <= k <= len(values):
            raise InvalidSetting(
                f"k={k}; this spectrum holds {len(values)} Ritz values, ask for 1 to that many"
            )
        kind = "exact" if all(piece.exact for piece in self.pieces) else "ritz"
        found = []
        for index in np.argsort(-sign * values, kind="stable")[:k]:
            near, far = (
                values[index] - sign * noise[index],
                values[index] + sign * (errors[index] + noise[index]),
            )
            found.append(
                Estimate(float(values[index]), 0.0, float(min(near, far)), float(max(near, far)), kind)
            )
        return found

    def density(self, grid: Array, width: float | None = None) -> Array:
        """The mean over probes of the nodes' Gaussian-smoothed density on a grid, for plots only.

        Args:
            grid: where to evaluate ``[g]``.
            width: standard deviation of the Gaussian, by default a hundredth of the spread of the nodes.
        """
        nodes, weights = self.nodes[0], self.weights.mean(0)
        if width is None:
            width = 0.01 * float(nodes.max() - nodes.min()) or 0.01 * (self.norm or 1.0)
        grid = np.asarray(grid, dtype=np.float64)
        if len(nodes) > MANY_NODES:  # gather them in bins much finer than the Gaussian
            span = (float(nodes.min()), float(nodes.max()))
            bins = min(MANY_NODES, max(1, int(20 * (span[1] - span[0]) / width)))
            weights, edges = np.histogram(nodes, bins=bins, range=span, weights=weights)
            nodes = (edges[1:] + edges[:-1]) / 2
        distance = (grid[:, None] - nodes) / width
        density: Array = np.exp(-0.5 * distance**2) @ weights / (width * math.sqrt(2 * math.pi))
        return density

    def arrays(self) -> dict[str, Any]:
        """Everything, as plain arrays and one JSON text: the contents of a file."""
        pieces = []
        arrays: dict[str, Any] = {"nodes": self.nodes, "weights": self.weights}
        for index, piece in enumerate(self.pieces):
            for part, form in (("form", piece.form), ("coarse", piece.coarse)):
                if form is not None:
                    arrays[f"{index}/{part}/values"] = form.values
                    arrays[f"{index}/{part}/first"] = form.first
                    arrays[f"{index}/{part}/coupling"] = form.coupling
            pieces.append(
                {
                    "size": piece.size,
                    "resolution": piece.resolution,
                    "exact": piece.exact,
                    "steps": piece.form.steps,
                    "coarse_steps": piece.coarse.steps if piece.coarse else None,
                }
            )
        record = {
            "schema": SCHEMA,
            "operator": self.operator,
            "method": self.method,
            "products": self.products,
            "seconds": self.seconds,
            "pieces": pieces,
        }
        return arrays | {"spectrum": np.array(json.dumps(record))}

    @staticmethod
    def from_arrays(arrays: Any) -> "Spectrum":
        """The inverse of :meth:`arrays`.

        Raises:
            UnreadableFile: it holds no spectrum, or one of a newer version.
        """
        try:
            record = json.loads(str(arrays["spectrum"]))
            schema = int(record["schema"])
        except Exception as error:  # whatever a damaged record makes of it
            raise UnreadableFile(
                f"this holds no spectrum ({error}); give a file written by Spectrum.save"
            ) from error
        if schema > SCHEMA:
            raise UnreadableFile(
                f"spectrum written in format {schema}, this version reads up to {SCHEMA}; update pliant"
            )
        try:
            return _rebuilt(record, arrays)
        except Exception as error:  # whatever a damaged record makes of it
            raise UnreadableFile(
                f"this holds a damaged spectrum ({type(error).__name__}: {error})"
            ) from error

    def save(self, path: str | Path) -> Path:
        """Write an ``.npz`` without pickles; ``nodes`` and ``weights`` are readable with numpy alone."""
        path = Path(path)
        with path.open("wb") as file:  # a file object, so that numpy does not append a suffix
            np.savez_compressed(file, **self.arrays())
        return path

    @staticmethod
    def load(path: str | Path) -> "Spectrum":
        """Read what :meth:`save` wrote; nothing in the file is executed.

        Raises:
            UnreadableFile: it is no such file, or one of a newer version.
        """
        arrays = read_arrays(path, "spectrum")
        try:
            return Spectrum.from_arrays(arrays)
        except UnreadableFile as error:
            raise UnreadableFile(f"{path} is not a spectrum file: {error}") from error


def _rebuilt(record: Any, arrays: Any) -> Spectrum:
    """A spectrum from its record and arrays; anything that does not fit together raises."""

    def form(index: int, part: str, steps: int | None) -> Ritz | None:
        if steps is None:
            return None
        values, first, coupling = (
            np.asarray(arrays[f"{index}/{part}/{name}"], dtype=np.float64)
            for name in ("values", "first", "coupling")
        )
        n = len(values)
        if values.shape != (n,) or first.shape != (len(first), n) or coupling.shape != (len(coupling), n):
            raise ValueError(f"shapes {values.shape}, {first.shape} and {coupling.shape} do not fit")
        # Squares must not overflow; first holds entries of an orthogonal matrix.
        limits = ((values, 1e150), (first, 1.001), (coupling, 1e150))
        if n == 0 or len(first) == 0 or not all((np.abs(a) <= limit).all() for a, limit in limits):
            raise ValueError("nodes are missing, or not finite")
        if (np.diff(values) < 0).any() or not (first**2).sum(1).all():
            raise ValueError("nodes are not in order or have no weight")
        return Ritz(values, first, coupling, int(steps))

    pieces = []
    for index, entry in enumerate(record["pieces"]):
        main, coarse = form(index, "form", entry["steps"]), form(index, "coarse", entry["coarse_steps"])
        size, resolution, exact = int(entry["size"]), float(entry["resolution"]), bool(entry["exact"])
        if main is None or not resolution >= 0.0 or (coarse is None and not exact and main.steps > 1):
            raise ValueError("a part of it is missing")
        if size < len(main.values) or (exact and size != len(main.values)):
            raise ValueError(f"{len(main.values)} nodes for {size} eigenvalues")
        pieces.append(Piece(size, main, coarse, resolution, exact))
    rows = math.lcm(*(len(piece.form.first) for piece in pieces))
    if not pieces or rows * sum(len(piece.form.values) for piece in pieces) > MOST_NODES:
        raise ValueError(f"{len(pieces)} pieces with {rows} probes in common")
    return Spectrum(
        tuple(pieces),
        str(record["operator"]),
        str(record["method"]),
        int(record["products"]),
        float(record["seconds"]),
    )
