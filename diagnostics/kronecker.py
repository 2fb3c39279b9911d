"""K-FAC: a layer's Gauss-Newton block as the Kronecker product of two small matrices, and its spectrum.

For a linear layer with inputs ``a`` (a one appended for the bias) and output gradients ``g`` of the columns
of the loss's root,

    G_l = mean_n  a_n a_n'  (x)  g_n g_n'   ~   A (x) G,     A = mean a a',  G = sum g g',

and the eigenvalues of ``A (x) G`` are all products of one of A's with one of G's: features of low rank starve
the spectrum. A convolution sums over positions t, whose cross terms are dropped: ``A = mean_{n, t} a a'``,
``G = sum_{n, t} g g'`` (Martens & Grosse 2015; Grosse & Martens 2016, "expand"). Exact for a linear layer and
one sample. With a policy's KL as the loss on the outputs this is K-FAC of its Fisher matrix.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import InvalidSetting
from .gram import output_roots
from .memory import check_dense
from .operators import GaussNewtonOperator, OutputsAndLoss, dense, named, outputs_and_loss
from .piece import Piece
from .precision import resolution
from .spectrum import Spectrum


@dataclass(frozen=True)
class Factors:
    """One layer's factors in float64: A ``[in (+ 1), in (+ 1)]`` of inputs, G ``[out, out]`` of outputs."""

    inputs: Tensor
    outputs: Tensor

    def eigenvalues(self) -> np.ndarray:
        """Eigenvalues of the product, ascending: every pair's product."""
        a, g = (torch.linalg.eigvalsh(factor).clamp(min=0) for factor in (self.inputs, self.outputs))
        return np.sort(torch.outer(a, g).reshape(-1).cpu().numpy())


@contextmanager
def _recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Record ``(input, output)`` of each call of the layers."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: calls[name].append((inputs[0], output))

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def layers_of(module: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """The linear and convolutional layers whose weight is among the parameters, by name in the module."""
    chosen = {id(p) for p in parameters.values()}
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and id(layer.weight) in chosen
    }


def kronecker_factors(
    closure: OutputsAndLoss, module: nn.Module, parameters: Mapping[str, Tensor]
) -> dict[str, Factors]:
    """The factors of every linear and convolutional layer whose weight is among the parameters.

    Costs one forward and K backward passes for K outputs.

    Args:
        closure: returns ``(outputs [N, K], loss on them)`` and runs the module's layers.
        module: where to find the layers.
        parameters: those that are measured.

    Raises:
        InvalidSetting: a layer is called more than once or not at all, is grouped, or holds half of its
            parameters.
        NotConvex: the loss on the outputs is not.
    """
    layers = layers_of(module, parameters)
    chosen = {id(p) for p in parameters.values()}
    with torch.enable_grad(), _recorded(layers) as calls:
        weights = [cast(Tensor, layer.weight) for layer in layers.values()]
        outputs, loss = outputs_and_loss(closure)
        for name, layer in layers.items():
            if len(calls[name]) != 1:
                raise InvalidSetting(
                    f"layer {name!r} ran {len(calls[name])} times; K-FAC needs exactly one call"
                )
            if getattr(layer, "groups", 1) != 1:
                raise InvalidSetting(
                    f"layer {name!r} is a grouped convolution, for which there is no K-FAC here"
                )
            if layer.bias is not None and id(layer.bias) not in chosen:
                raise InvalidSetting(
                    f"the bias of layer {name!r} is missing from the parameters; K-FAC takes both"
                )
        root = output_roots(GaussNewtonOperator(lambda: (outputs, loss), weights))[0]  # [N, K, K]
        sites = [calls[name][0][1] for name in layers]
        gradients = [
            torch.autograd.grad(outputs, sites, column, retain_graph=True) for column in root.unbind(1)
        ]
    found = {}
    for index, (name, layer) in enumerate(layers.items()):
        inputs = _patches(layer, calls[name][0][0].detach()).double()  # [N, T, in (+ 1)]
        slopes = [_positions(columns[index]).double() for columns in gradients]  # K times [N, T, out]
        rows = inputs.reshape(-1, inputs.shape[-1])
        found[name] = Factors(
            rows.T @ rows / len(rows), torch.stack([_second_moment(slope) for slope in slopes]).sum(0)
        )
    return found


def _second_moment(slope: Tensor) -> Tensor:
    rows = slope.reshape(-1, slope.shape[-1])
    return rows.T @ rows


def _patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What the layer's weight multiplies, ``[N, T, in]``, with a one for the bias."""
    if isinstance(layer, nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode)  # as its forward pass does
        columns = F.unfold(padded, layer.kernel_size, layer.dilation, stride=layer.stride)
        patches = columns.transpose(1, 2)
    else:
        patches = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    return patches if layer.bias is None else F.pad(patches, (0, 1), value=1.0)


def _positions(gradient: Tensor) -> Tensor:
    """Output gradients as ``[N, T, out]``."""
    if gradient.dim() == 4:
        return gradient.flatten(2).transpose(1, 2)
    return gradient.reshape(len(gradient), -1, gradient.shape[-1])


def kronecker_spectrum(
    closure: OutputsAndLoss, module: nn.Module, parameters: Mapping[str, Tensor]
) -> dict[str, Spectrum]:
    """Spectra of the K-FAC matrix, by layer and whole (``""``).

    Parameters outside linear and convolutional layers (a state-independent log standard deviation) enter the
    whole by their exact Gauss-Newton block, under the name ``other``.
    """
    items = named(parameters)
    factors = kronecker_factors(closure, module, items) if layers_of(module, items) else {}
    dtype = next(iter(items.values())).dtype
    spectra = {}
    covered: set[int] = set()
    layers = layers_of(module, items)
    for name, pair in factors.items():
        values = pair.eigenvalues()
        spectra[name] = Spectrum((Piece.of_eigenvalues(values, resolution(dtype, values)),), "kfac")
        covered |= {id(p) for p in layers[name].parameters()}
    rest = {name: p for name, p in items.items() if id(p) not in covered}
    if rest:
        remaining = GaussNewtonOperator(closure, rest)
        remedy = "measure layers one by one (parts), or use ggn"
        what = "the block of what no layer holds"
        check_dense(remaining.size, remaining.size, 8, torch.device("cpu"), what, remedy)
        block = torch.linalg.eigvalsh(dense(remaining)).numpy()
        spectra["other"] = Spectrum((Piece.of_eigenvalues(block, resolution(dtype, block)),), "ggn")
    return spectra | {"": Spectrum.union(spectra.values())}
