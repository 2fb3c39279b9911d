"""Curvature matrices as products with blocks of flat vectors.

An operator is symmetric, acts on the concatenation of the parameters in the order given, and takes its
vectors as *rows*: ``operator(V)`` maps ``[b, P] -> [b, P]``, row by row ``v -> A v``. Nothing is ever written
to a parameter, its ``.grad``, a buffer or a random state. The dtype and the device are the parameters'.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .errors import (
    InvalidSetting,
    LossHasNoGraph,
    LossNotScalar,
    MixedParameters,
    NotFinite,
    ParameterNotInGraph,
)

Parameters = Mapping[str, Tensor] | Iterable[Tensor]
Loss = Callable[[], Tensor]
OutputsAndLoss = Callable[[], tuple[Tensor, Callable[[Tensor], Tensor]]]


class Operator(Protocol):
    """A symmetric matrix ``A`` of ``size`` rows, known by its products."""

    size: int
    dtype: torch.dtype
    device: torch.device

    def __call__(self, vectors: Tensor, /) -> Tensor:
        """``[b, P] -> [b, P]``: every row ``v`` becomes ``A v``."""


def named(parameters: Parameters) -> dict[str, Tensor]:
    """The parameters with names (their position where they came without), checked to make one flat vector.

    Raises:
        InvalidSetting: there is none, or one does not require a gradient.
        MixedParameters: they differ in dtype or device, or are neither float32 nor float64.
    """
    items = (
        dict(parameters) if isinstance(parameters, Mapping) else {str(i): p for i, p in enumerate(parameters)}
    )
    if not items:
        raise InvalidSetting("parameters is empty; give at least one tensor that requires a gradient")
    kinds = {(p.dtype, p.device) for p in items.values()}
    if len(kinds) > 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise MixedParameters(
            f"parameters must be all float32 or all float64, on one device, found {found}; convert them"
        )
    frozen = [name for name, p in items.items() if not p.requires_grad]
    if frozen:
        raise InvalidSetting(
            f"parameters {', '.join(frozen)} do not require a gradient; leave them out or unfreeze them"
        )
    return items


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenate tensors of any shapes to one vector ``[P]``."""
    return torch.cat([t.reshape(-1) for t in tensors])


def gradient(loss: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """The flat gradient ``[P]`` of a scalar loss, differentiable once more.

    Raises:
        LossNotScalar, LossHasNoGraph, NotFinite, ParameterNotInGraph: by cause.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise LossNotScalar(
            f"closure() must return a scalar tensor, got {got}; reduce it, for example by .mean()"
        )
    if not loss.requires_grad:
        raise LossHasNoGraph(
            "closure() returned a loss without a graph; compute it outside torch.no_grad() and do not "
            "detach it"
        )
    if not torch.isfinite(loss):
        raise NotFinite(f"the loss is {loss.detach().item()}; its curvature has no meaning")
    # A node that the loss's graph never reaches yields None; the caller's list of parameters is then wrong.
    parts = torch.autograd.grad(
        loss.reshape(()), list(parameters.values()), create_graph=True, allow_unused=True
    )
    unused = [name for name, part in zip(parameters, parts, strict=True) if part is None]
    if unused:
        raise ParameterNotInGraph(f"parameters {', '.join(unused)} do not influence the loss; leave them out")
    return flat(parts)


def vector_jacobian(outputs: Tensor, inputs: Sequence[Tensor], vectors: Tensor, batched: bool) -> Tensor:
    """Rows ``v J`` for every ``v`` of ``vectors`` ``[b, *outputs.shape]`` by a retained graph: ``[b, P]``.

    Inputs that the graph does not reach count as zero (a loss that is linear in a parameter, say).
    """
    if not outputs.requires_grad:
        return vectors.new_zeros((len(vectors), sum(x.numel() for x in inputs)))
    if batched:
        parts = torch.autograd.grad(
            outputs,
            inputs,
            vectors,
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([part.reshape(len(vectors), -1) for part in parts], dim=1)
    rows = [
        flat(
            torch.autograd.grad(
                outputs, inputs, v, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )
        for v in vectors
    ]
    return torch.stack(rows)


class HessianOperator:
    """The Hessian of a scalar loss, by one retained double-backward graph.

    The graph of the gradient is built once; each product is one backward pass through it (Pearlmutter 1994).
    On a CPU the vectors of a block are looped over, on a GPU they are batched (measured faster there, slower
    here).

    Args:
        closure: returns the scalar loss; called once, with gradients enabled.
        parameters: what to differentiate with respect to, by name or in order.
        batched: batch the products of a block; by default on anything but a CPU.
    """

    def __init__(self, closure: Loss, parameters: Parameters, batched: bool | None = None) -> None:
        self._parameters = named(parameters)
        first = next(iter(self._parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        self._batched = first.device.type != "cpu" if batched is None else batched
        with torch.enable_grad():
            self._gradient = gradient(closure(), self._parameters)
        self.size = self._gradient.numel()

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[b, P] -> [b, P]``."""
        return vector_jacobian(self._gradient, list(self._parameters.values()), vectors, self._batched)


class GaussNewtonOperator:
    """The generalised Gauss-Newton matrix ``J' L J``: Jacobian of the outputs, Hessian of the loss on them.

    Positive semi-definite when the loss is convex in the outputs, and equal to the Hessian when the outputs
    are linear in the parameters (Schraudolph 2002). With the loss
    ``KL(frozen present distribution || distribution)`` it is the Fisher matrix. ``J v`` is taken by
    differentiating ``u -> u' J`` once more, so that any graph will do.

    Args:
        closure: returns ``(outputs, loss)``, the outputs with their graph and a function of outputs alone.
        parameters: what to differentiate with respect to, by name or in order.
        batched: batch the products of a block; by default on anything but a CPU.
    """

    def __init__(self, closure: OutputsAndLoss, parameters: Parameters, batched: bool | None = None) -> None:
        self._parameters = named(parameters)
        first = next(iter(self._parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        self._batched = first.device.type != "cpu" if batched is None else batched
        inputs = list(self._parameters.values())
        with torch.enable_grad():
            self._outputs, loss = outputs_and_loss(closure)
            pulled = torch.autograd.grad(self._outputs.sum(), inputs, retain_graph=True, allow_unused=True)
            unused = [name for name, part in zip(self._parameters, pulled, strict=True) if part is None]
            if unused:
                raise ParameterNotInGraph(
                    f"parameters {', '.join(unused)} do not influence the outputs; leave them out"
                )
            self._cotangent = torch.zeros_like(self._outputs, requires_grad=True)
            parts = torch.autograd.grad(self._outputs, inputs, self._cotangent, create_graph=True)
            self._pullback = flat(parts)  # u -> u' J, linear in the cotangent u
            self._leaf = self._outputs.detach().requires_grad_()
            self._slope = gradient(loss(self._leaf), {"outputs": self._leaf})
        self.size = self._pullback.numel()
        self.outputs = self._outputs.detach()

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[b, P] -> [b, P]``."""
        return self.pull(self.bend(self.push(vectors)))

    def push(self, vectors: Tensor) -> Tensor:
        """``v -> J v``, ``[b, P] -> [b, outputs]`` (outputs of all samples in one row)."""
        return vector_jacobian(self._pullback, [self._cotangent], vectors, self._batched)

    def bend(self, tangents: Tensor) -> Tensor:
        """``t -> L t``, ``[b, outputs] -> [b, outputs]``."""
        return vector_jacobian(self._slope, [self._leaf], tangents, self._batched)

    def pull(self, cotangents: Tensor) -> Tensor:
        """``u -> J' u``, ``[b, outputs] -> [b, P]``."""
        shaped = cotangents.reshape(len(cotangents), *self._outputs.shape)
        return vector_jacobian(self._outputs, list(self._parameters.values()), shaped, self._batched)

    @property
    def slope(self) -> Tensor:
        """Gradient of the loss in the outputs, of the outputs' shape."""
        return self._slope.detach().reshape(self._outputs.shape)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of entries of each parameter, in the order of the flat vector."""
        return {name: p.numel() for name, p in self._parameters.items()}


def outputs_and_loss(closure: OutputsAndLoss) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Call a Gauss-Newton closure and check that what it returned is a pair of outputs and a loss on them."""
    pair = closure()
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Tensor) and callable(pair[1])):
        raise LossNotScalar(
            "for this operator closure() must return (outputs, loss), a tensor with its graph and a "
            "function of it, "
            f"got {type(pair).__name__}"
        )
    outputs, loss = pair
    if not outputs.requires_grad:
        raise LossHasNoGraph(
            "the outputs have no graph; compute them outside torch.no_grad() and do not detach them"
        )
    return outputs, loss


def fisher_closure(closure: Callable[[], tuple[Tensor, Callable[[Tensor], object]]]) -> OutputsAndLoss:
    """Turn ``(outputs, outputs -> torch distribution)`` into ``(outputs, KL to the frozen distribution)``.

    The mean over the batch of ``KL(p_frozen || p)`` has zero slope and, as its Hessian, the Fisher
    information of the distribution's parameters; its Gauss-Newton matrix is the Fisher matrix of the network.
    """

    def kl_closure() -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        outputs, distribution = closure()
        frozen = distribution(outputs.detach())

        def loss(values: Tensor) -> Tensor:
            kl = torch.distributions.kl_divergence(frozen, distribution(values))  # type: ignore[arg-type]
            return kl.sum() / len(values)

        return outputs, loss

    return kl_closure


class MicroBatched:
    """A weighted sum of operators of which only one exists at a time, for batches too large for one graph.

    Each block product builds the part, applies it to the whole block and lets it go, so that the cost over
    one big graph is one forward and backward pass per part and block. With the weights ``n_i / N`` of parts
    that are means over their ``n_i`` samples it is the operator of the whole batch.

    Args:
        parts: builds the operator of each micro-batch.
        weights: one factor for each part.
    """

    def __init__(self, parts: Sequence[Callable[[], Operator]], weights: Sequence[float]) -> None:
        if not parts or len(parts) != len(weights):
            raise InvalidSetting(
                f"got {len(parts)} micro-batches and {len(weights)} weights; give as many, at least one"
            )
        self._parts, self._weights = parts, weights
        first = parts[0]()
        self.size, self.dtype, self.device = first.size, first.dtype, first.device

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[b, P] -> [b, P]``."""
        total = torch.zeros_like(vectors)
        for part, weight in zip(self._parts, self._weights, strict=True):
            total.add_(part()(vectors), alpha=weight)
        return total


def dense(operator: Operator, block: int = 64) -> Tensor:
    """The whole matrix ``[P, P]`` in float64 on the CPU, made exactly symmetric."""
    columns = torch.empty((operator.size, operator.size), dtype=torch.float64)
    for start in range(0, operator.size, block):
        stop = min(start + block, operator.size)
        unit = torch.zeros((stop - start, operator.size), dtype=operator.dtype, device=operator.device)
        unit[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        columns[start:stop] = operator(unit)
    if not torch.isfinite(columns).all():
        raise NotFinite("the curvature matrix holds NaN or infinity; look at the loss and the parameters")
    return (columns + columns.T) / 2
