"""Curvature matrices as products with blocks of flat vectors.

An operator is symmetric, acts on the concatenation of the parameters in the order given, and takes its
vectors as *rows*: ``operator(V)`` maps ``[b, P] -> [b, P]``, row by row ``v -> A v``. Nothing is ever written
to a parameter, its ``.grad``, a buffer or a random state. The dtype and the device are the parameters'.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from .errors import (
    InvalidSetting,
    LossHasNoGraph,
    LossNotScalar,
    MixedParameters,
    NotFinite,
    ParameterNotInGraph,
)
from .functional import Rows, as_function, flat_gradient, pullback, values_of

Parameters = Mapping[str, Tensor] | Iterable[Tensor]
Loss = Callable[[], Tensor]
OutputsAndLoss = Callable[[], tuple[Tensor, Callable[[Tensor], Tensor]]]


#: Two ways to take a product agree to this share of it; rounding stays far below, a mistake far above.
AGREEMENT = 1e-2


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
        InvalidSetting: there is none, one comes twice, or one does not require a gradient.
        MixedParameters: they differ in dtype or device, or are neither float32 nor float64.
    """
    items = (
        dict(parameters) if isinstance(parameters, Mapping) else {str(i): p for i, p in enumerate(parameters)}
    )
    if not items:
        raise InvalidSetting("parameters is empty; give at least one tensor that requires a gradient")
    if len({id(p) for p in items.values()}) < len(items):
        raise InvalidSetting("parameters holds the same tensor twice; give each once")
    if not sum(p.numel() for p in items.values()):
        raise InvalidSetting("parameters hold no entry; give at least one number to differentiate by")
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
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        got = type(loss).__name__
        if isinstance(loss, Tensor):
            got = f"a {loss.dtype} tensor of shape {tuple(loss.shape)}"
        raise LossNotScalar(
            f"closure() must return a real scalar tensor, got {got}; reduce it, for example by .mean()"
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


def vector_jacobian(outputs: Tensor, inputs: Sequence[Tensor], vectors: Tensor) -> Tensor:
    """Rows ``v J`` for every row ``v`` of ``vectors``, one after the other, by a retained graph: ``[b, P]``.

    Inputs that the graph does not reach count as zero (a loss that is linear in a parameter, say).
    """
    if not outputs.requires_grad:
        return vectors.new_zeros((len(vectors), sum(x.numel() for x in inputs)))
    rows = [
        flat(
            torch.autograd.grad(
                outputs,
                inputs,
                v.reshape(outputs.shape),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        for v in vectors
    ]
    return torch.stack(rows)


class HessianOperator:
    """The Hessian of a scalar loss, by products that share one pass through the loss (Pearlmutter 1994).

    On a CPU the gradient's graph is kept, and a block's vectors go through it one by one. On anything else
    they go together, by ``vmap`` over the gradient's vector-Jacobian product (:mod:`.functional`), if one
    product taken both ways agrees; else one by one there, too.

    Args:
        closure: returns the scalar loss, without side effects; called once with gradients enabled, and once
            more to batch.
        parameters: what to differentiate with respect to, by name or in order.
        batched: take the products of a block together; by default on anything but a CPU.

    Attributes:
        batched: whether they are.
    """

    def __init__(self, closure: Loss, parameters: Parameters, batched: bool | None = None) -> None:
        items = named(parameters)
        first = next(iter(items.values()))
        self.dtype, self.device = first.dtype, first.device
        with torch.enable_grad():
            slope = gradient(closure(), items)
            self.size = slope.numel()
            looped: Rows = partial(vector_jacobian, slope, list(items.values()))

            def together() -> Rows:
                return pullback(flat_gradient(as_function(closure, items)), values_of(items))[1]

            found = _agreed(together, looped, slope) if _wanted(first, batched) else None
        self.batched = found is not None
        self._rows = found or looped

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[b, P] -> [b, P]``."""
        return self._rows(vectors)


class GaussNewtonOperator:
    """The generalised Gauss-Newton matrix ``J' L J``: Jacobian of the outputs, Hessian of the loss on them.

    Positive semi-definite when the loss is convex in the outputs, and equal to the Hessian when the outputs
    are linear in the parameters (Schraudolph 2002). With the loss
    ``KL(frozen present distribution || distribution)`` it is the Fisher matrix. ``J v`` is taken by
    differentiating ``u -> u' J`` once more, so that any graph will do. Products are looped or batched as
    those of :class:`HessianOperator`.

    Args:
        closure: returns ``(outputs, loss)``, the outputs with their graph and a function of outputs alone.
        parameters: what to differentiate with respect to, by name or in order.
        batched: take the products of a block together; by default on anything but a CPU.

    Attributes:
        batched: whether they are.
        outputs: at the present parameters, without their graph.
    """

    def __init__(self, closure: OutputsAndLoss, parameters: Parameters, batched: bool | None = None) -> None:
        self._parameters = items = named(parameters)
        first = next(iter(items.values()))
        self.dtype, self.device = first.dtype, first.device
        self.size = sum(p.numel() for p in items.values())
        with torch.enable_grad():
            outputs, loss = outputs_and_loss(closure)
            _check_reached(outputs, items)
            self.outputs = outputs.detach()
            leaf = outputs.detach().requires_grad_()
            slope = gradient(loss(leaf), {"outputs": leaf})
            self._slope, self._loss = slope.detach(), loss
            inputs = list(items.values())
            cotangent = torch.zeros_like(outputs, requires_grad=True)
            pulled = flat(torch.autograd.grad(outputs, inputs, cotangent, create_graph=True))
            self._push: Rows = partial(vector_jacobian, pulled, [cotangent])  # u -> u' J is linear in u
            self._bend: Rows = partial(vector_jacobian, slope, [leaf])
            self._pull: Rows = partial(vector_jacobian, outputs, inputs)
            self.batched = _wanted(first, batched) and self._batch(closure, loss, pulled)

    def _batch(self, closure: OutputsAndLoss, loss: Callable[[Tensor], Tensor], pulled: Tensor) -> bool:
        """Replace each of the three factors by one that takes its vectors together, if all agree."""
        outputs = self.outputs

        def pull() -> Rows:
            function = as_function(lambda: closure()[0], self._parameters)
            return pullback(function, values_of(self._parameters))[1]

        def push() -> Rows:
            transposed = pull()
            return pullback(lambda values: transposed(values[0][None])[0], (torch.zeros_like(outputs),))[1]

        def bend() -> Rows:
            return pullback(flat_gradient(lambda values: loss(values[0])), (outputs,))[1]

        pushed = _agreed(push, self._push, pulled)
        bent = pushed and _agreed(bend, self._bend, outputs)
        pulling = bent and _agreed(pull, self._pull, outputs)
        if not (pushed and bent and pulling):
            return False
        self._push, self._bend, self._pull = pushed, bent, pulling
        return True

    def __call__(self, vectors: Tensor) -> Tensor:
        """``[b, P] -> [b, P]``."""
        return self.pull(self.bend(self.push(vectors)))

    def push(self, vectors: Tensor) -> Tensor:
        """``v -> J v``, ``[b, P] -> [b, outputs]`` (outputs of all samples in one row)."""
        return self._push(vectors)

    def bend(self, tangents: Tensor) -> Tensor:
        """``t -> L t``, ``[b, outputs] -> [b, outputs]``."""
        return self._bend(tangents)

    def pull(self, cotangents: Tensor) -> Tensor:
        """``u -> J' u``, ``[b, outputs] -> [b, P]``."""
        return self._pull(cotangents)

    @property
    def slope(self) -> Tensor:
        """Gradient of the loss in the outputs, of the outputs' shape."""
        return self._slope.reshape(self.outputs.shape)

    @property
    def secant(self) -> float:
        """Mean curvature between zero and the outputs, ``max |slope(f) - slope(0)| / max |f|``; 0 at zero.

        The scale at which the curvature at the outputs is rounded: a softmax that is sure of every sample has
        none left but the difference of two numbers near 1.
        """
        zero = torch.zeros_like(self.outputs, requires_grad=True)
        with torch.enable_grad():
            there = gradient(self._loss(zero), {"outputs": zero}).detach()
        farthest = float(self.outputs.abs().max())
        return float((self._slope - there).abs().max()) / farthest if farthest > 0.0 else 0.0

    @property
    def sizes(self) -> dict[str, int]:
        """Number of entries of each parameter, in the order of the flat vector."""
        return {name: p.numel() for name, p in self._parameters.items()}


def _check_reached(outputs: Tensor, parameters: Mapping[str, Tensor]) -> None:
    pulled = torch.autograd.grad(
        outputs.sum(), list(parameters.values()), retain_graph=True, allow_unused=True
    )
    unused = [name for name, part in zip(parameters, pulled, strict=True) if part is None]
    if unused:
        raise ParameterNotInGraph(
            f"parameters {', '.join(unused)} do not influence the outputs; leave them out"
        )


def _wanted(parameter: Tensor, batched: bool | None) -> bool:
    return parameter.device.type != "cpu" if batched is None else batched


def _agreed(build: Callable[[], Rows], looped: Rows, like: Tensor) -> Rows | None:
    """The batched map if it can be built and sends some vectors, as long as ``like``, where the looped does.

    ``torch.func`` cannot follow everything (in-place writes, custom functions), and a closure that holds
    views of parameters made outside it escapes the stand-ins.
    """
    some = torch.arange(2 * like.numel(), dtype=like.dtype, device=like.device).cos().reshape(2, -1)
    expected = looped(some)
    try:
        together = build()
        off = float((together(some) - expected).abs().max())
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return None
    return together if off <= AGREEMENT * float(expected.abs().max()) else None


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


def fisher_closure(closure: Callable[[], tuple[Tensor, Callable[[Tensor], Distribution]]]) -> OutputsAndLoss:
    """Turn ``(outputs, outputs -> torch distribution)`` into ``(outputs, KL to the frozen distribution)``.

    The mean over the batch of ``KL(p_frozen || p)`` has zero slope and, as its Hessian, the Fisher
    information of the distribution's parameters; its Gauss-Newton matrix is the Fisher matrix of the network.
    """

    def kl_closure() -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        outputs, distribution = closure()
        frozen = distribution(outputs.detach())

        def loss(values: Tensor) -> Tensor:
            kl = kl_divergence(frozen, distribution(values))
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
