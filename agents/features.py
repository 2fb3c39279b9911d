"""The hidden layers of a network: its post-activation features, recorded by forward hooks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from .activations import Concatenated
from .mixture import Mixture, weighted_rows


def hidden_activations(
    network: str, modules: Iterable[nn.Module], activation_fn: type[nn.Module]
) -> dict[str, nn.Module]:
    """The activation modules within ``modules``, in the order in which they were built.

    By ``"<network>/<depth>"``; within a `Mixture` the depth is that in each of its parts, whose name goes
    before it (``"actor/expert-0/1"``).

    Args:
        network: its name.
        modules: the parts of one network, from input to output.
        activation_fn: the policy's own activation, so that a custom one is found beside torch's.
    """
    found: dict[str, nn.Module] = {}
    depths: Counter[str] = Counter()
    for path, child in (pair for module in modules for pair in _trained(network, module)):
        if _is_activation(child, activation_fn):
            found[f"{path}/{depths[path]}"] = child
            depths[path] += 1
    return found


def network_of(layer: str) -> str:
    """The network that a hidden layer is of, by the layer's name.

    Example:
        >>> network_of("actor/expert-0/1")
        'actor'
    """
    return layer.split("/")[0]


def _trained(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """As ``module.modules()``, without what is frozen; each with ``path`` and the part of a mixture."""
    if isinstance(module, Mixture):
        for name, part in module.parts():
            yield from _trained(f"{path}/{name}", part)
    elif not isinstance(module, Frozen):
        yield path, module
        for child in module.children():
            yield from _trained(path, child)


def _is_activation(module: nn.Module, activation_fn: type[nn.Module]) -> bool:
    known = (activation_fn, Concatenated)
    return isinstance(module, known) or type(module).__module__ == "torch.nn.modules.activation"


class Frozen(nn.Module):
    """A part of a network that is not trained: it has buffers instead of parameters, and no hidden layers.

    They are saved, loaded and moved to a device with the network, but no optimiser, penalty or norm sees
    them.

    Args:
        body: becomes the frozen part.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        for module in body.modules():
            for name, parameter in list(module._parameters.items()):
                del module._parameters[name]
                module.register_buffer(name, None if parameter is None else parameter.detach())
        self.body = body

    def forward(self, features: Tensor) -> Tensor:
        """What the body says."""
        outputs: Tensor = self.body(features)
        return outputs


@contextmanager
def recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Within the block, a forward pass stores each layer's output under its name, as it is.

    Example:
        >>> import torch
        >>> relu = nn.ReLU()
        >>> with recorded({"q/0": relu}) as features:
        ...     _ = relu(torch.tensor([[-1.0, 2.0]]))
        >>> features["q/0"]
        tensor([[0., 2.]])
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output

    def hook(name: str) -> Any:
        return lambda _module, _inputs, output: keep(name, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class Taps(NamedTuple):
    """Where an agent's features are taken while its networks run.

    Attributes:
        layers: the hidden layers, as `hidden_activations` names them.
        mixtures: the mixtures of experts, by ``"<network>/mixture"``.
    """

    layers: Mapping[str, nn.Module]
    mixtures: Mapping[str, Mixture]

    def open(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Within the block, a forward pass stores what `features` makes features of."""
        return recorded({**self.layers, **{name: mixture.gate for name, mixture in self.mixtures.items()}})

    def features(self, seen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of every hidden layer, as ``[samples, width]``; then, for a mixture, of all experts, weighted."""
        features = {name: as_samples(seen[name]) for name in self.layers}
        for name, mixture in self.mixtures.items():
            network = name.removesuffix("/mixture")
            ends = [self._last(f"{network}/{part}/") for part, _ in mixture.parts() if part != "gate"]
            features[name] = weighted_rows(seen[name], [features[end] for end in ends])
        return features

    def _last(self, prefix: str) -> str:
        return [name for name in self.layers if name.startswith(prefix)][-1]


@contextmanager
def received(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Within the block, a forward pass stores what each of these is given, as it is."""
    inputs: dict[nn.Module, Tensor] = {}

    def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
        inputs[module] = given[0]

    handles = [module.register_forward_pre_hook(hook) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def as_samples(output: Tensor) -> Tensor:
    """A layer's output as a feature matrix: ``[B, D]`` stays, ``[B, C, H, W]`` becomes ``[B H W, C]``."""
    if output.ndim <= 2:
        return output
    return output.movedim(1, -1).flatten(0, -2)
