"""What the instruments need of an agent, and nothing else of it.

Any object with these methods can be measured. A *batch* is a tuple (a ``NamedTuple`` in practice) of tensors,
or dicts of tensors, whose first axis is the sample, and of plain numbers that hold for all samples.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = Any


class Objective(Protocol):
    """One loss that training descends, and the parameters that it moves."""

    @property
    def name(self) -> str:
        """``actor``, ``critic``, ``total``, ``q``."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """What the loss is differentiated with respect to, by name."""

    @property
    def loss(self) -> Callable[[Batch], Tensor]:
        """The scalar loss, a mean over the samples of a batch, pure in parameters and batch."""

    @property
    def outputs(self) -> Callable[[Batch], Tensor] | None:
        """The network's outputs ``[N, K]``."""

    @property
    def output_loss(self) -> Callable[[Tensor, Batch], Tensor] | None:
        """A convex loss on outputs, a mean over samples, for the Gauss-Newton matrix, if there is one."""

    @property
    def divergence(self) -> bool:
        """Whether that is a divergence from the present outputs: it curves there, but has no slope."""


class Measurable(Protocol):
    """An agent as the instruments see it."""

    @property
    def policy(self) -> nn.Module:
        """All networks, to put them in evaluation mode and to find their layers."""

    def objectives(self, unclipped: bool = False) -> Mapping[str, Objective]:
        """The losses by name; ``unclipped`` where the policy is not the one that gathered the data."""

    def observations(self, batch: Batch) -> Any:
        """The observations of a batch."""

    def features(self, observations: Any) -> Mapping[str, Tensor]:
        """Post-activation hidden layers ``[B, width]`` by name, ``network/layer``."""

    def networks(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Parameters by network and name."""


@runtime_checkable
class HasRatios(Protocol):
    """An agent whose loss weighs samples by the ratio of present to gathering probability."""

    def ratios(self, batch: Batch) -> Tensor:
        """``pi(a | s) / pi_gathered(a | s)`` ``[N]``, one where the policy is unchanged."""
