"""Measure the spectrum of a curvature matrix, of any torch model and loss."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .errors import InvalidSetting, UnknownOption
from .gram import jacobian_of
from .lanczos import block_lanczos, random_start
from .memory import check_dense, check_lanczos
from .operators import (
    GaussNewtonOperator,
    HessianOperator,
    Operator,
    Parameters,
    dense,
    fisher_closure,
)
from .piece import Piece
from .precision import full_precision, resolution
from .quadrature import Array, halved, ritz
from .spectrum import Spectrum

OPERATORS = ("hessian", "ggn", "fisher")
METHODS = ("auto", "exact", "lanczos")

#: ``auto`` diagonalises up to this many parameters: one to two seconds for a small network.
EXACT_UP_TO = 2_000


@full_precision()
def hessian_spectrum(
    closure: Callable[[], Any],
    parameters: Parameters,
    operator: str = "hessian",
    method: str = "auto",
    probes: int = 10,
    depth: int = 50,
    seed: int = 0,
) -> Spectrum:
    """The spectrum of a loss's curvature at the present parameters.

    Nothing is changed by it: no parameter, no ``.grad``, no buffer, no global random state (the probes come
    from a generator of their own). For BatchNorm and dropout put the model in ``eval()``, so that the loss is
    a function.

    Args:
        closure: for ``hessian`` returns the scalar loss; for ``ggn`` returns ``(outputs, loss)``, the model's
            outputs with their graph and a scalar function of them, convex and a mean over samples; for
            ``fisher`` returns ``(outputs, law)``, law mapping outputs to a ``torch.distributions``
            distribution.
        parameters: tensors to differentiate with respect to: all of a model, a group of it, one layer; by
            name or in order.
        operator: ``hessian``, ``ggn`` or ``fisher``.
        method: ``exact`` diagonalises the dense matrix, ``lanczos`` uses ``probes x depth`` products,
            ``auto`` is exact for 2,000 parameters or fewer.
        probes: random starting vectors of the Lanczos block. Probe noise falls as ``1 / sqrt(probes * P)``:
            for many parameters spend products on depth.
        depth: block Lanczos steps; what resolves the bulk.
        seed: of the probes.

    Raises:
        MeasurementError: one class per cause, see :mod:`.errors`.

    Example:
        The loss ``x^2 + 3 y^2 / 2`` has the eigenvalues 2 and 3:

        >>> import torch
        >>> from pliant.diagnostics import hessian_spectrum
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        >>> spectrum = hessian_spectrum(lambda: x[0] ** 2 + 1.5 * x[1] ** 2, [x])
        >>> [round(e.value, 9) for e in spectrum.largest(2)]
        [3.0, 2.0]
        >>> spectrum.epsilon_rank(2.5).value
        0.5
    """
    if operator not in OPERATORS:
        raise UnknownOption("operator", operator, OPERATORS)
    build: HessianOperator | GaussNewtonOperator
    if operator == "hessian":
        build = HessianOperator(closure, parameters)
    else:
        build = GaussNewtonOperator(closure if operator == "ggn" else fisher_closure(closure), parameters)
        exact = method == "exact" or (method == "auto" and build.size <= EXACT_UP_TO)
        if exact and build.outputs.dim() == 2 and build.outputs.numel() < build.size:
            began = time.perf_counter()
            found = jacobian_of(build).spectrum(operator=operator)  # the Gram matrix is the smaller one
            return replace(found, seconds=time.perf_counter() - began)
    return operator_spectrum(build, method, probes, depth, seed, name=operator)


@full_precision()
def operator_spectrum(
    operator: Operator,
    method: str = "auto",
    probes: int = 10,
    depth: int = 50,
    seed: int = 0,
    name: str = "hessian",
) -> Spectrum:
    """The spectrum of a symmetric operator, called ``name``; arguments as in :func:`hessian_spectrum`."""
    if method not in METHODS:
        raise UnknownOption("method", method, METHODS)
    for argument, number in (("probes", probes), ("depth", depth)):
        if number < 1:
            raise InvalidSetting(f"{argument}={number}; at least 1 is needed")
    began = time.perf_counter()
    exact = method == "exact" or (method == "auto" and operator.size <= EXACT_UP_TO)
    if exact:
        remedy = "use method='lanczos'"
        check_dense(operator.size, operator.size, 8, torch.device("cpu"), "the dense matrix", remedy)
        piece = _exact(torch.linalg.eigvalsh(dense(operator)).numpy(), operator.dtype)
        products = operator.size
    else:
        check_lanczos(operator.size, probes, depth, operator.dtype, operator.device)
        start = random_start(operator.size, probes, seed, operator.dtype, operator.device)
        krylov = block_lanczos(operator, start, depth)
        form = ritz(krylov)
        products = krylov.products
        if len(form.values) == operator.size:  # the whole space: nothing is left to estimate
            piece = _exact(form.values, operator.dtype)
        else:
            piece = Piece(
                operator.size, form, halved(krylov), resolution(operator.dtype, form.values), exact=False
            )
    return Spectrum(
        (piece,), name, "exact" if piece.exact else "lanczos", products, time.perf_counter() - began
    )


def _exact(values: Array, dtype: torch.dtype) -> Piece:
    return Piece.of_eigenvalues(values, resolution(dtype, values))
