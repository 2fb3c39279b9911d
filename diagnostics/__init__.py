"""The instruments: what the curvature, the features and the gradients say about the ability to learn.

They see an agent only through :mod:`.protocol`, and most of them need no agent at all: a closure and its
parameters will do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .comparison import what_changed
from .curvature import hessian_spectrum, operator_spectrum
from .errors import MeasurementError
from .estimate import Estimate
from .features import measure_features
from .measure import take_snapshot
from .settings import SnapshotSettings
from .snapshot import Snapshot
from .spectrum import Spectrum

if TYPE_CHECKING:
    from .callback import SnapshotCallback
    from .figures import covariance_figure, epsilon_rank_figure, feature_figure, spectrum_figure

# These bring stable-baselines3 and matplotlib with them, and are loaded when first asked for.
_HEAVY = {
    "SnapshotCallback": ".callback",
    "covariance_figure": ".figures",
    "epsilon_rank_figure": ".figures",
    "feature_figure": ".figures",
    "spectrum_figure": ".figures",
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
    if name not in _HEAVY:
        raise AttributeError(f"module 'pliant.diagnostics' has no attribute {name!r}")
    return getattr(import_module(_HEAVY[name], __name__), name)
