"""Optimisers by the name used in specs; those that torch does not have in the shape that agents need."""

import contextlib
import importlib
import io
import math
import random
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InvalidSetting


def decays_decoupled(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its weight decay can only be decoupled (AdamW's kind), never part of the gradient."""
    return isinstance(optimizer, torch.optim.AdamW | MuonAdam | Kron)


class MuonAdam(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices, AdamW for the rest: biases, kernels, log standard deviations.

    torch's own ``Muon`` takes matrices only. Its steps are scaled to the size of AdamW's (``adjust_lr_fn =
    "match_rms_adamw"``, Liu et al. 2025, arXiv 2502.16982), because one learning rate, with one schedule,
    serves both. Weight decay is decoupled in both. Output layers are matrices, too, and get Muon.

    Args:
        params: parameters, or groups as of another such optimiser.
        lr: learning rate.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of both.
        momentum: of Muon.
        fused: of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        fused: bool | None = None,
    ) -> None:
        given = list(params)
        if given and isinstance(given[0], dict):
            groups = given
        else:
            muon = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
            adam = {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "fused": fused}
            matrices, others = [p for p in given if p.ndim == 2], [p for p in given if p.ndim != 2]
            groups = [_group(torch.optim.Muon, matrices, **muon, adjust_lr_fn="match_rms_adamw")]
            groups += [_group(torch.optim.AdamW, others, **adam)]
        super().__init__([group for group in groups if group["params"]], {})
        self._inner = {
            is_muon: _without_parameters(kind, self.state)
            for is_muon, kind in ((True, torch.optim.Muon), (False, torch.optim.AdamW))
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each on its own groups; their state is this optimiser's."""
        for is_muon, optimizer in self._inner.items():
            optimizer.param_groups = [g for g in self.param_groups if ("momentum" in g) == is_muon]
            optimizer.state = self.state
            optimizer.step()


def _group(
    kind: Callable[..., torch.optim.Optimizer], params: list[Tensor], **options: Any
) -> dict[str, Any]:
    """A parameter group with every option of that optimiser."""
    shape = (1, 1) if kind is torch.optim.Muon else (1,)
    (group,) = kind([nn.Parameter(torch.zeros(shape))], **options).param_groups
    return {**group, "params": params}


def _without_parameters(kind: Callable[..., torch.optim.Optimizer], state: Any) -> torch.optim.Optimizer:
    optimizer = kind([nn.Parameter(torch.zeros(1, 1))])
    optimizer.param_groups, optimizer.state = [], state
    return optimizer


def _kron_module() -> Any:
    """The package's module.

    Raises:
        InvalidSetting: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what torch.compile imports
            return importlib.import_module("kron_torch.kron")
    except ImportError:
        raise InvalidSetting(
            "the optimiser 'kron' needs the package kron-torch, which is not installed: "
            "pip install 'pliant[kron]', or use 'adam', 'adamw', 'sgd' or 'muon'."
        ) from None


class Kron(torch.optim.Optimizer):
    """PSGD with a Kronecker-factored preconditioner (Li 2018), from the package ``kron-torch``.

    It wraps that package's ``Kron`` so that its state can be saved: its preconditioners are tensors of the
    state, its counters options of the groups, and nothing in it hides from a checkpoint. Run without
    ``torch.compile``, of which small networks have no gain, and without its messages. Weight decay is
    decoupled, and of matrices and kernels only.

    The probability with which the preconditioner is updated follows the package's default: 1 for 500 steps,
    then falling as ``exp(-0.001 (step - 500))`` to 0.03. It begins anew when all parameters are forgotten.

    Args:
        params: parameters, or groups as of another such optimiser.
        lr: learning rate.
        b1: of the momentum.
        weight_decay: as above.

    Raises:
        InvalidSetting: the package is not installed.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 3e-4, b1: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        self._module = _kron_module()
        self._inner: Any = None
        defaults = {"lr": lr, "b1": b1, "weight_decay": weight_decay, "steps": 0, "since_update": 0}
        super().__init__(params, defaults)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimiser's."""
        super().load_state_dict(state_dict)
        self._inner = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of the package's optimiser, whose state is held here."""
        if self._inner is None:
            self._inner = self._module.Kron(self.param_groups[0]["params"])
            for parameter, own in self.state.items():
                self._inner.state[parameter] = self._slots(parameter, own)
        inner, first = self._inner, self.param_groups[0]
        if not self.state:  # nothing yet, or all has been forgotten
            first["steps"] = first["since_update"] = 0
        inner.param_groups = [inner.defaults | group for group in self.param_groups]
        probability = min(max(math.exp(-0.001 * (first["steps"] - 500)), 0.03), 1.0)
        inner.param_groups[0]["preconditioner_update_probability"] = probability
        inner._update_counter = torch.tensor(first["since_update"], dtype=torch.int32)
        # It balances its factors about every 100 updates, by chance: by the chance of this very step.
        inner.rng = random.Random(f"{first['steps']}")
        for forgotten in inner.state.keys() - self.state.keys():
            del inner.state[forgotten]
        with torch.compiler.set_stance("force_eager"), contextlib.redirect_stdout(io.StringIO()):
            inner.step()
        for parameter, slots in inner.state.items():
            own = self.state[parameter]
            own |= {f"factor_{i}": factor for i, factor in enumerate(slots["Q"])}
            own["momentum_buffer"], own["step"] = slots["momentum_buffer"], torch.tensor(float(slots["step"]))
        first["steps"], first["since_update"] = first["steps"] + 1, int(inner._update_counter)

    def _slots(self, parameter: Tensor, own: dict[str, Tensor]) -> dict[str, Any]:
        """What the package keeps of a parameter, from what is held here."""
        momentum, defaults = own["momentum_buffer"], self._inner.defaults
        _, expressions = self._module._init_Q_exprs(
            momentum,
            defaults["precond_init_scale"],
            defaults["max_size_triangular"],
            defaults["min_ndim_triangular"],
            defaults["memory_save_mode"],
            dtype=torch.float32,
        )
        slots = {
            "step": int(own["step"]),
            "momentum_buffer": momentum,
            "Q": [own[f"factor_{i}"] for i in range(momentum.ndim)],
            "exprs": expressions,
        }
        return slots if momentum.shape == parameter.shape else {**slots, "merged_shape": [*momentum.shape]}


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "muon": MuonAdam,
    "kron": Kron,
}
