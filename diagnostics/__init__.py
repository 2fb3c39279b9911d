"""The instruments: what the curvature, the features and the gradients say about the ability to learn.

They see an agent only through :mod:`.protocol`, and most of them need no agent at all: a closure and its
parameters will do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callback import SnapshotCallback
    from .comparison import what_changed
    from .curvature import hessian_spectrum, operator_spectrum
    from .errors import MeasurementError
    from .estimate import Estimate
    from .features import measure_features
    from .figures import covariance_figure, epsilon_rank_figure, feature_figure, spectrum_figure
    from .measure import take_snapshot
    from .settings import SnapshotSettings
    from .snapshot import Snapshot
    from .spectrum import Spectrum

# Loaded when first asked for: a report reads arrays with .files and needs no torch, SB3 or matplotlib.
_HOME = {
    "Estimate": ".estimate",
    "MeasurementError": ".errors",
    "Snapshot": ".snapshot",
    "SnapshotCallback": ".callback",
    "SnapshotSettings": ".settings",
    "Spectrum": ".spectrum",
    "covariance_figure": ".figures",
    "epsilon_rank_figure": ".figures",
    "feature_figure": ".figures",
    "hessian_spectrum": ".curvature",
    "measure_features": ".features",
    "operator_spectrum": ".curvature",
    "spectrum_figure": ".figures",
    "take_snapshot": ".measure",
    "what_changed": ".comparison",
}

__all__ = [
    "Estimate",
    "MeasurementError",
    "Snapshot",
    "SnapshotCallback",
    "SnapshotSettings",
    "Spectrum",
    "covariance_figure",
    "epsilon_rank_figure",
    "feature_figure",
    "hessian_spectrum",
    "measure_features",
    "operator_spectrum",
    "spectrum_figure",
    "take_snapshot",
    "what_changed",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pliant.diagnostics' has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
