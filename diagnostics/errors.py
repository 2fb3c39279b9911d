"""Everything that can be wrong with a measurement, one class per cause.

All derive from :class:`MeasurementError`, a ``ValueError``, so that one ``except`` catches them and a caller
who cares can tell them apart. The text says which argument, what was expected, what came and what to do.
"""

from collections.abc import Iterable


class MeasurementError(ValueError):
    """A measurement was asked for that has no meaning, or that cannot be made."""


class UnknownOption(MeasurementError):
    """An option's value is not among the known ones."""

    def __init__(self, argument: str, value: object, known: Iterable[object]) -> None:
        super().__init__(f"{argument}={value!r} is unknown; choose one of {', '.join(map(repr, known))}")


class InvalidSetting(MeasurementError):
    """A number is outside the range in which it means something."""


class LossNotScalar(MeasurementError):
    """The closure returned something other than a scalar tensor."""


class LossHasNoGraph(MeasurementError):
    """The loss does not depend on any parameter through autograd."""


class NotFinite(MeasurementError):
    """The loss, or a product with the operator, is NaN or infinite."""


class ParameterNotInGraph(MeasurementError):
    """A parameter that should be differentiated does not influence the loss."""


class MixedParameters(MeasurementError):
    """The parameters are of several dtypes or on several devices, so that they make no one vector."""


class NotConvex(MeasurementError):
    """The loss on the outputs has negative curvature, so that its Gauss-Newton matrix has no square root."""


class NoVerdict(MeasurementError):
    """The loss has no slope, or slopes where it does not curve: nothing says what is left to learn.

    Attributes:
        covered: share of the squared slope on the outputs that lies where the loss curves; 1 without slope.
    """

    def __init__(self, text: str, covered: float) -> None:
        super().__init__(text)
        self.covered = covered


class EpsilonBelowFloor(MeasurementError):
    """Epsilon is smaller than what the precision of the products can resolve."""


class EmptyBatch(MeasurementError):
    """There is no sample to measure on."""


class RatioNotOne(MeasurementError):
    """The policy that is measured is not the policy that gathered the batch."""


class NotEnoughMemory(MeasurementError):
    """The Lanczos basis, or a dense matrix, would not fit into memory."""


class UnreadableFile(MeasurementError):
    """A file is not a measurement, or was written by a newer version."""
