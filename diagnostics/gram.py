"""The Gauss-Newton matrix seen from the outputs: loss-weighted Gram matrix and neural tangent kernel.

With the outputs' Jacobian ``J [N K, P]`` and the loss's curvature on the outputs ``L = S S`` (block-diagonal,
one ``[K, K]`` block per sample) the Gauss-Newton matrix is ``J' L J = B' B``, ``B = S J``, and the
loss-weighted Gram matrix ``B B'`` has the same non-zero eigenvalues. It is the smaller of the two where there
are fewer outputs than parameters. Being a sum over parameters, it splits by layer: ``B B' = sum_l B_l B_l'``.
With S = 1 it is the empirical neural tangent kernel.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .errors import InvalidSetting, NotConvex
from .features import effective_rank
from .memory import check_dense
from .operators import GaussNewtonOperator, OutputsAndLoss, Parameters
from .piece import Piece
from .precision import RESOLUTION, resolution
from .spectrum import Spectrum

#: Negative curvature up to this share of the largest is rounding,
CONVEX_TOLERANCE = 1e-6
#: as is what lies below so many last digits of the curvature between zero and the outputs.
ROUNDING = 100


def output_curvature(operator: GaussNewtonOperator) -> Tensor:
    """The loss's Hessian on the outputs of each sample, ``[N, K, K]`` (with the mean's 1/N in it).

    Raises:
        InvalidSetting: outputs are not ``[N, K]``, or the loss is no sum over samples.
    """
    if operator.outputs.dim() != 2:
        raise InvalidSetting(f"outputs must be [samples, K], got shape {tuple(operator.outputs.shape)}")
    n, k = operator.outputs.shape
    ones = torch.eye(k, dtype=operator.dtype, device=operator.device)
    # A loss that is a sum over samples has no curvature between them, so that one product serves all samples.
    blocks = operator.bend(ones[:, None].expand(k, n, k).reshape(k, n * k)).reshape(k, n, k).permute(1, 0, 2)
    signs = torch.ones(n, dtype=operator.dtype, device=operator.device)
    signs[::2] = -1.0
    mixed = operator.bend((signs[:, None] * ones[0]).reshape(1, -1)).reshape(n, k)
    scale = float(blocks.abs().max())
    if float((mixed - signs[:, None] * blocks[:, 0]).abs().max()) > 1e-4 * scale:
        raise InvalidSetting(
            "the loss on the outputs couples samples; it must be a mean of losses of single samples"
        )
    return (blocks + blocks.transpose(1, 2)) / 2


def output_roots(operator: GaussNewtonOperator) -> tuple[Tensor, Tensor]:
    """:func:`curvature_root` of the :func:`output_curvature`, with the rounding that it has there."""
    rounding = ROUNDING * torch.finfo(operator.dtype).eps * operator.secant
    return curvature_root(output_curvature(operator), rounding)


def curvature_root(curvature: Tensor, rounding: float = 0.0) -> tuple[Tensor, Tensor]:
    """Symmetric square roots ``S`` of ``[N, K, K]`` positive semi-definite blocks, and their pseudo-inverses.

    Args:
        curvature: the blocks.
        rounding: curvature of this size says nothing: negative, it is taken for zero, and it is not inverted.
            Nor is what the blocks' precision cannot resolve beside the largest curvature.

    Raises:
        NotConvex: a block has negative curvature beyond rounding.
    """
    values, vectors = torch.linalg.eigh(curvature.double())
    largest = float(values.max())
    if float(values.min()) < -max(CONVEX_TOLERANCE * largest, rounding, 1e-300):
        raise NotConvex(
            f"the loss on the outputs has curvature {float(values.min()):.3g} < 0, so that its Gauss-Newton "
            "matrix has no "
            "Gram form; give a convex loss, for a policy the KL divergence to its frozen self"
        )
    roots = values.clamp(min=0).sqrt()
    floor = max(RESOLUTION[curvature.dtype] * largest, rounding, 1e-300)
    inverse = torch.where(values > floor, 1.0 / roots.clamp(min=1e-150), 0.0)
    root = (vectors * roots[:, None]) @ vectors.transpose(1, 2)
    pseudo = (vectors * inverse[:, None]) @ vectors.transpose(1, 2)
    return root.to(curvature.dtype), pseudo.to(curvature.dtype)


class GramOperator:
    """``S J J' S``, the loss-weighted Gram matrix by its products: rows ``[b, N K] -> [b, N K]``."""

    def __init__(self, closure: OutputsAndLoss, parameters: Parameters) -> None:
        self._inner = GaussNewtonOperator(closure, parameters)
        self.root, self.inverse_root = output_roots(self._inner)
        self.size = self._inner.outputs.numel()
        self.dtype, self.device = self._inner.dtype, self._inner.device

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[b, N K] -> [b, N K]``."""
        return self._weigh(self._inner.push(self._inner.pull(self._weigh(vectors))))

    def _weigh(self, vectors: Tensor) -> Tensor:
        n, k = self._inner.outputs.shape
        return torch.einsum("nij,bnj->bni", self.root, vectors.reshape(-1, n, k)).reshape(-1, n * k)

    @property
    def residual(self) -> Tensor:
        """``S^+ dl/df``, flat ``[N K]``: half its square is what the loss's quadratic model can fall by."""
        return torch.einsum("nij,nj->ni", self.inverse_root, self._inner.slope).reshape(-1)

    @property
    def covered(self) -> float:
        """``|S S^+ dl/df|^2 / |dl/df|^2``: how much of the slope lies where the loss curves; 1 without slope.

        The rest the quadratic model knows nothing of: errors beyond Huber's delta, samples of which a softmax
        is sure and wrong.
        """
        slope = self._inner.slope.double()
        seen = torch.einsum("nij,nj->ni", self.root.double(), self.residual.double().reshape(slope.shape))
        scale = float(slope.abs().max()) or 1.0
        total = float((slope / scale).square().sum())
        return float((seen / scale).square().sum()) / total if total else 1.0


@dataclass(frozen=True)
class Jacobian:
    """``B = S J`` (or ``J`` itself) with its columns by parameter.

    Attributes:
        rows: ``[N K, P]``.
        sizes: number of columns of each parameter, in order.
    """

    rows: Tensor
    sizes: Mapping[str, int]

    def columns(self, names: Iterable[str] | None = None) -> Tensor:
        """The columns of some parameters (all by default) ``[N K, p]``."""
        if names is None:
            return self.rows
        chosen = set(names)
        unknown = chosen - set(self.sizes)
        if unknown:
            raise InvalidSetting(
                f"parameters {sorted(unknown)} are unknown; known are {', '.join(self.sizes)}"
            )
        blocks = torch.split(self.rows, list(self.sizes.values()), dim=1)
        return torch.cat(
            [block for name, block in zip(self.sizes, blocks, strict=True) if name in chosen], dim=1
        )

    def gram(self, names: Iterable[str] | None = None) -> Tensor:
        """``B B'`` over some parameters, float64 ``[N K, N K]``; the layers' sum is the network's."""
        columns = self.columns(names).double()
        return columns @ columns.T

    def spectrum(self, names: Iterable[str] | None = None, operator: str = "ggn") -> Spectrum:
        """All eigenvalues of ``B' B``, from whichever of the two products is smaller."""
        columns = self.columns(names).double()
        rows, size = columns.shape
        small = columns @ columns.T if rows < size else columns.T @ columns
        found = torch.linalg.eigvalsh(small).clamp(min=0).cpu().numpy()
        values = np.concatenate([np.zeros(size - len(found)), found])
        return Spectrum(
            (Piece.of_eigenvalues(values, resolution(self.rows.dtype, values)),), operator, "exact", rows
        )


def jacobian(closure: OutputsAndLoss, parameters: Parameters, weighted: bool = True) -> Jacobian:
    """``B = S J`` (``J`` if not ``weighted``) row by row.

    Raises:
        NotConvex, NotEnoughMemory: by cause.
    """
    return jacobian_of(GaussNewtonOperator(closure, parameters), weighted)


def jacobian_of(operator: GaussNewtonOperator, weighted: bool = True) -> Jacobian:
    """As :func:`jacobian`, for an operator that exists already."""
    if operator.outputs.dim() != 2:
        raise InvalidSetting(f"outputs must be [samples, K], got shape {tuple(operator.outputs.shape)}")
    n, k = operator.outputs.shape
    remedy = "use fewer samples, or Lanczos on the Gauss-Newton matrix"
    check_dense(
        n * k, operator.size, operator.dtype.itemsize, operator.device, "the outputs' Jacobian", remedy
    )
    identity = torch.eye(k, dtype=operator.dtype, device=operator.device)
    root = output_roots(operator)[0] if weighted else identity.expand(n, k, k)
    rows = torch.empty((n * k, operator.size), dtype=operator.dtype, device=operator.device)
    for sample in range(n):
        cotangents = torch.zeros((k, n, k), dtype=operator.dtype, device=operator.device)
        cotangents[:, sample] = root[sample]
        rows[sample * k : (sample + 1) * k] = operator.pull(cotangents.reshape(k, n * k))
    return Jacobian(rows, operator.sizes)


def ntk_effective_rank(plain: Jacobian, names: Iterable[str] | None = None) -> float:
    """Effective rank of the empirical neural tangent kernel ``J J'``, from its eigenvalues (1 to ``N K``)."""
    return effective_rank(torch.linalg.eigvalsh(plain.gram(names)).clamp(min=0))


def by_layer(names: Iterable[str]) -> dict[str, list[str]]:
    """Parameter names by the layer they belong to: what stands before the last dot."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers


__all__ = [
    "GramOperator",
    "Jacobian",
    "by_layer",
    "curvature_root",
    "jacobian",
    "ntk_effective_rank",
    "output_curvature",
]
