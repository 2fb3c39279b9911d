"""Objectives of an agent as operators, and what must hold before they mean something."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .batches import sample_count, split
from .errors import InvalidSetting, RatioNotOne, UnknownOption
from .gram import by_layer
from .operators import GaussNewtonOperator, HessianOperator, MicroBatched, Operator, OutputsAndLoss
from .protocol import Batch, HasRatios, Measurable, Objective

#: A clipped surrogate is smooth where every ratio is one; beyond this the autograd Hessian misses its kinks.
RATIO_TOLERANCE = 1e-5


def objective_operator(
    objective: Objective, batch: Batch, operator: str = "hessian", micro_batch: int = 0
) -> Operator:
    """The curvature of one objective on a batch, as an operator.

    With ``micro_batch`` the batch is taken in parts, weighted by their sizes: the same matrix, as the
    objective is a mean over samples whose constants (normalised advantages, targets) the batch already holds.

    Raises:
        InvalidSetting: a Gauss-Newton matrix was asked for of an objective without a loss on its outputs.
    """
    parts, weights = split(batch, micro_batch or sample_count(batch))
    builders: list[Callable[[], Operator]] = [
        partial(_one_operator, objective, part, operator) for part in parts
    ]
    return builders[0]() if len(builders) == 1 else MicroBatched(builders, weights)


def _one_operator(objective: Objective, batch: Batch, operator: str) -> Operator:
    if operator == "hessian":
        return HessianOperator(lambda: objective.loss(batch), objective.parameters)
    return GaussNewtonOperator(outputs_closure(objective, batch), objective.parameters)


def outputs_closure(objective: Objective, batch: Batch) -> OutputsAndLoss:
    """``(outputs, loss on them)`` of an objective on a batch, for everything of the Gauss-Newton family.

    Raises:
        InvalidSetting: the objective has no loss on its outputs.
    """
    outputs, loss = objective.outputs, objective.output_loss
    if outputs is None or loss is None:
        raise InvalidSetting(
            f"objective {objective.name!r} has no loss on its outputs, hence no Gauss-Newton matrix"
        )

    def closure() -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return outputs(batch), lambda values: loss(values, batch)

    return closure


@dataclass(frozen=True)
class Group:
    """An objective as a function of some of its parameters, the others held fixed."""

    name: str
    parameters: Mapping[str, Tensor]
    loss: Callable[[Batch], Tensor]
    outputs: Callable[[Batch], Tensor] | None
    output_loss: Callable[[Tensor, Batch], Tensor] | None
    divergence: bool


def resolve(
    part: str, objectives: Mapping[str, Objective], networks: Mapping[str, Mapping[str, Tensor]]
) -> Objective:
    """What a part's name means: ``actor``, or ``actor/<group>`` for some of the actor's parameters.

    A group is a parameter (``log_std``), the beginning of parameters' names up to a dot (a layer,
    ``mlp_extractor.policy_net.0``), or one of the agent's networks. Its curvature is the diagonal block of
    the objective's that belongs to these parameters.

    Raises:
        UnknownOption: there is no such objective or group; the text lists those that there are.
    """
    if part in objectives:
        return objectives[part]
    name, _, group = part.partition("/")
    if name not in objectives:
        raise UnknownOption("parts", part, tuple(objectives))
    objective = objectives[name]
    ours = {id(p) for p in networks.get(group, {}).values()}
    chosen = {
        key: p
        for key, p in objective.parameters.items()
        if key == group or key.startswith(f"{group}.") or id(p) in ours
    }
    if not chosen:
        members = {id(p) for p in objective.parameters.values()}
        known = [key for key, ps in networks.items() if any(id(p) in members for p in ps.values())]
        known += by_layer(objective.parameters)
        raise UnknownOption("parts", part, tuple(f"{name}/{key}" for key in dict.fromkeys(known)))
    return Group(part, chosen, objective.loss, objective.outputs, objective.output_loss, objective.divergence)


def check_ratios(agent: Measurable, batch: Batch) -> float:
    """The largest ``|ratio - 1|`` of the batch, 0 for agents without ratios.

    Raises:
        RatioNotOne: beyond 1e-5: the batch was gathered by another policy.
    """
    if not isinstance(agent, HasRatios):
        return 0.0
    with torch.no_grad():
        off = float((agent.ratios(batch) - 1.0).abs().max())
    if not off <= RATIO_TOLERANCE:
        raise RatioNotOne(
            f"max |ratio - 1| = {off:.3g} > {RATIO_TOLERANCE:g}: another policy gathered this batch, where "
            "the clipped loss has kinks "
            "that its Hessian misses; gather afresh, or set unclipped=True"
        )
    return off


def joinable(objectives: Mapping[str, Objective]) -> dict[str, tuple[str, ...]]:
    """Objectives that are sums over others which share no parameter, so that the spectrum is the union.

    ``total`` is taken for the sum of all others; where it is their direct sum it need not be measured again.
    """
    if "total" not in objectives or len(objectives) < 2:
        return {}
    parts = tuple(name for name in objectives if name != "total")
    members = [id(p) for name in parts for p in objectives[name].parameters.values()]
    whole = {id(p) for p in objectives["total"].parameters.values()}
    return {"total": parts} if len(members) == len(set(members)) and set(members) == whole else {}
