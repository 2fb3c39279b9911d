"""Which layers of an agent's networks lead to which, found by watching one forward pass.

A network is watched rather than read, so that it does not matter where in a policy its layers live; what is
found is checked against the autograd graph, so that no way out of a unit is overlooked.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from .features import as_samples
from .types import Seen
from .units import NORMS, WEIGHTED, UnitLayer, Weighted

if TYPE_CHECKING:
    from .base import Agent

# They move units about without mixing them.
_TRANSPARENT = (
    nn.Flatten,
    nn.Identity,
    nn.Sequential,  # an empty one: those with children are not watched
    nn.Dropout,
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
)


@dataclass(frozen=True, eq=False)
class Wiring:
    """What `trace` found.

    Attributes:
        layers: by name, those whose units can be told apart.
        skipped: by name, why the others cannot.
        weighted: every linear and convolutional layer that was called, by its name in the policy.
        order: for each head the names of the layers that lead to it, in the order of the calls, itself last.
        heads: those whose outputs reach their network's through no other such layer: one per network, or one
            per expert of a mixture and one of its gate. Their outputs are no hidden units.
        normalised: those whose output is taken by a normalisation and by nothing else, by name.
        norms: all normalisations that were called.
        widths: units before each hidden layer's activation.
        pictures: whether what enters it has positions besides channels.
        direct: whether nothing, not even flattening, lies between a layer of ``layers`` and its consumers.
    """

    layers: dict[str, UnitLayer]
    skipped: dict[str, str]
    weighted: dict[str, Weighted]
    order: tuple[tuple[str, ...], ...]
    heads: tuple[Weighted, ...]
    normalised: dict[str, Weighted]
    norms: tuple[nn.Module, ...]
    widths: dict[str, int]
    pictures: dict[str, bool]
    direct: dict[str, bool]

    @property
    def hidden(self) -> dict[str, Weighted]:
        """Every weighted layer but the heads."""
        return {name: layer for name, layer in self.weighted.items() if layer not in self.heads}


def trace(agent: "Agent") -> Wiring:
    """Watch the agent's networks for one forward pass; nothing of it is different afterwards.

    A layer is skipped where its units cannot be told apart: what enters its activation is not the output of
    one linear or convolutional layer (the sum of a residual stream, say), or what leaves it goes through more
    than layers, pooling and flattening.
    """
    activations = agent.hidden_layers()
    passes = _watch(agent)
    calls = {name: [c for one in passes for c in one.of(module)] for name, module in activations.items()}
    layers: dict[str, UnitLayer] = {}
    skipped: dict[str, str] = {}
    for name, activation in activations.items():
        try:
            layers[name] = _merged(
                [_unit_layer(name, activation, one) for one in passes if one.of(activation)]
            )
        except _Unclear as reason:
            skipped[name] = str(reason)
    names = {module: name for name, module in agent.policy.named_modules()}
    trained = [list(dict.fromkeys(one.trained())) for one in passes]
    norms = [call.module for one in passes for call in one.calls if isinstance(call.module, NORMS)]
    return Wiring(
        layers,
        skipped,
        weighted={names[module]: module for modules in trained for module in modules},
        order=tuple(tuple(names[m] for m in one.leading_to(head)) for one in passes for head in one.heads()),
        heads=tuple(dict.fromkeys(head for one in passes for head in one.heads())),
        normalised={
            names[module]: module
            for one, modules in zip(passes, trained, strict=True)
            for module in modules
            if _is_normalised(module, one)
        },
        norms=tuple(dict.fromkeys(norms)),
        widths={name: as_samples(seen[0].input).shape[-1] if seen else 0 for name, seen in calls.items()},
        pictures={name: bool(seen) and seen[0].input.ndim > 2 for name, seen in calls.items()},
        direct={
            name: all(_is_direct(c, one) for one in passes for c in one.of(activations[name]))
            for name in layers
        },
    )


# Watching ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a module: what went in, what came out, and the call that had made what went in."""

    module: nn.Module
    input: Tensor
    output: Tensor  # kept, so that its identity is not given to another tensor
    node: Any  # of the autograd graph; an operation in place may give the tensor another one later
    source: "_Call | None"


@dataclass(frozen=True, eq=False)
class _Pass:
    """The calls of one network's forward pass, in order, and where it ended in the autograd graph."""

    calls: list[_Call]
    end: Any

    def of(self, module: nn.Module) -> list[_Call]:
        return [call for call in self.calls if call.module is module]

    def trained(self, among: set[Any] | None = None) -> Iterator[Weighted]:
        """The layers with weights that training changes, in the order of their calls.

        Args:
            among: nodes of the autograd graph; only calls that made one of them count.
        """
        for call in self.calls if among is None else [c for c in self.calls if c.node in among]:
            if isinstance(call.module, WEIGHTED) and isinstance(call.module.weight, nn.Parameter):
                yield call.module

    def heads(self) -> list[Weighted]:
        """The trained layers that lead to the end through no other layer with weights."""
        weighted = {call.node for call in self.calls if isinstance(call.module, WEIGHTED)}
        return list(dict.fromkeys(self.trained(among=_met(self.end, weighted))))

    def leading_to(self, head: Weighted) -> list[Weighted]:
        """The trained layers on the way to a head, in the order of their calls, itself last."""
        before = set().union(*(_met(call.node) for call in self.of(head)))
        return list(dict.fromkeys(self.trained(among=before)))

    def after(self, call: _Call) -> list[_Call]:
        """The calls that took what ``call`` made.

        Raises:
            _Unclear: something else took it too.
        """
        takers = [taker for taker in self.calls if taker.source is call]
        changing = [taker for taker in takers if taker.node is not call.node]
        if len(changing) == len(takers) and _reaches(self.end, call.node, {t.node for t in changing}):
            raise _Unclear(
                f"the output of its {type(call.module).__name__} goes through an unknown operation"
            )
        return takers


class _Unclear(Exception):
    """Why the units of a layer cannot be told apart."""


def _watch(agent: "Agent") -> list[_Pass]:
    """One forward pass of every network on an arbitrary observation."""
    space = copy.deepcopy(agent.observation_space)
    space.seed(0)
    observations, _ = agent.policy.obs_to_tensor(space.sample())
    objectives = {
        name: o for name, o in agent.objectives().items() if name != "total"
    }  # its parts are enough
    passes = []
    for objective in objectives.values():
        with agent._undisturbed(seed=0), torch.enable_grad(), _calls(agent.policy) as calls:
            end = objective.outputs(Seen(observations))
        passes.append(_Pass(calls, end.grad_fn))
    return passes


@contextmanager
def _calls(policy: nn.Module) -> Iterator[list[_Call]]:
    """Within the block every call of a module without children of its own is listed."""
    calls: list[_Call] = []
    made: dict[int, _Call] = {}

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            calls.append(_Call(module, inputs[0], output, output.grad_fn, made.get(id(inputs[0]))))
            made[id(output)] = calls[-1]

    handles = [m.register_forward_hook(hook) for m in policy.modules() if not any(True for _ in m.children())]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _reaches(start: Any, goal: Any, barriers: set[Any]) -> bool:
    """Whether the autograd graph leads from ``start`` down to ``goal`` around the barriers."""
    return goal in _met(start, {goal, *barriers})


def _met(start: Any, barriers: set[Any] | None = None) -> set[Any]:
    """The barriers that the autograd graph leads to from ``start`` around the others, or all nodes."""
    stack, seen = [start], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if barriers is None or node not in barriers:
                stack += [following for following, _ in node.next_functions]
    return seen if barriers is None else seen & barriers


# Reading what was seen --------------------------------------------------------------------------------------


def _unit_layer(name: str, activation: nn.Module, one: _Pass) -> UnitLayer:
    calls = one.of(activation)
    if len(calls) > 1:
        raise _Unclear("its activation is used more than once")
    call = calls[0]
    norms: list[nn.Module] = []
    source, following = call.source, call
    while source is not None and isinstance(source.module, NORMS):
        _alone(source, following, one)
        norms.insert(0, source.module)
        following, source = source, source.source
    if source is None or not isinstance(source.module, WEIGHTED):
        raise _Unclear("what enters its activation is not the output of one linear or convolutional layer")
    _alone(source, following, one)
    if getattr(source.module, "groups", 1) != 1:
        raise _Unclear("its convolution is grouped")
    width = as_samples(call.input).shape[-1]
    parts, rest = divmod(as_samples(call.output).shape[-1], width)
    if rest or parts < 1:
        raise _Unclear("its activation has not a whole number of outputs per unit")
    return UnitLayer(
        name, source.module, tuple(norms), activation, parts, tuple(_consumers(call, parts * width, one))
    )


def _alone(call: _Call, taker: _Call, one: _Pass) -> None:
    if any(other is not taker for other in one.after(call)):
        raise _Unclear(f"the output of its {type(call.module).__name__} leads to several places")


def _consumers(call: _Call, channels: int, one: _Pass) -> Iterator[Weighted]:
    takers = one.after(call)
    for taker in takers:
        module = taker.module
        if isinstance(module, WEIGHTED):
            inputs = module.weight.shape[1]
            if getattr(module, "groups", 1) != 1 or inputs % channels:
                raise _Unclear(
                    f"its outputs are no whole columns of the {type(module).__name__} they lead to"
                )
            yield module
        elif isinstance(module, _TRANSPARENT):
            yield from _consumers(taker, channels, one)
        else:
            raise _Unclear(f"its output leads into a {type(module).__name__}")
    if not takers:
        raise _Unclear("its output is the network's")


def _is_normalised(module: Weighted, one: _Pass) -> bool:
    try:
        takers = [taker for call in one.of(module) for taker in one.after(call)]
    except _Unclear:
        return False
    return bool(takers) and all(isinstance(taker.module, NORMS) for taker in takers)


def _is_direct(call: _Call, one: _Pass) -> bool:
    return all(isinstance(taker.module, WEIGHTED) for taker in one.after(call))


def _merged(found: list[UnitLayer]) -> UnitLayer:
    """The same layer as several networks use it: a features extractor that actor and critic share."""
    if not found:
        raise _Unclear("no network calls it")
    consumers = dict.fromkeys(consumer for layer in found for consumer in layer.consumers)
    return replace(found[0], consumers=tuple(consumers))
