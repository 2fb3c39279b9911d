"""A closure as a function of its parameters, and linear maps that take many vectors at once.

``torch.func`` differentiates functions, while a closure reads its parameters from a model. Here every torch
call that the closure makes on a parameter is given a stand-in instead, so that any closure becomes a function
of their values. Products are then batched over vectors by ``vmap`` of one retained ``vjp``: on a GPU
the fastest of the ways we measured for multilayer perceptrons (0.15 ms a product against 1.19 ms
one by one and 0.21 ms with ``is_grads_batched``; 75,000 parameters, batch 2048, H200) and 2.3 times faster
than either for a convolutional one. On a CPU batching gains nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

T = TypeVar("T")
Values = tuple[Tensor, ...]
Rows = Callable[[Tensor], Tensor]


class _StandIns(TorchFunctionMode):
    """Inside, torch functions see other tensors in place of some."""

    def __init__(self, stand_ins: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._stand_ins = stand_ins

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(self._replace, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _replace(self, value: Any) -> Any:
        return self._stand_ins.get(id(value), value) if isinstance(value, Tensor) else value


def as_function(closure: Callable[[], T], parameters: Mapping[str, Tensor]) -> Callable[[Values], T]:
    """The closure's result as a function of the parameters' values, given in their order."""
    tensors = list(parameters.values())

    def function(values: Values) -> T:
        with _StandIns({id(p): value for p, value in zip(tensors, values, strict=True)}):
            return closure()

    return function


def values_of(parameters: Mapping[str, Tensor]) -> Values:
    """The parameters' values, without their graph."""
    return tuple(p.detach() for p in parameters.values())


def pullback(function: Callable[[Values], Tensor], values: Values) -> tuple[Tensor, Rows]:
    """A function's output at some values, and ``u -> u' J`` for many ``u`` at once.

    The map takes ``[b, *output.shape]`` or ``[b, output.numel()]`` and returns ``[b, P]``.
    """
    output: Tensor
    output, pull = torch.func.vjp(function, values)  # type: ignore[misc]

    def one(cotangent: Tensor) -> Tensor:
        (parts,) = pull(cotangent.reshape(output.shape))
        return torch.cat([part.reshape(-1) for part in parts])

    return output, torch.func.vmap(one)


def flat_gradient(function: Callable[[Values], Tensor]) -> Callable[[Values], Tensor]:
    """The flat gradient ``[P]`` of a scalar function of tensors, as a function of them."""
    slopes = torch.func.grad(lambda values: function(values).reshape(()))
    return lambda values: torch.cat([part.reshape(-1) for part in slopes(values)])
