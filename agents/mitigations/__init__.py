"""Mitigations: ways of keeping an agent able to learn, by the name used in specs."""

from .base import Mitigation
from .c_chain import CChain
from .concatenated import CReLU, DeepFourier
from .continual_backprop import ContinualBackprop
from .effective_rank import EffectiveRank
from .isotropy import Isotropy
from .l2 import L2
from .l2_init import L2Init
from .layer_norm import LayerNorm
from .mixture_of_experts import MixtureOfExperts
from .normalize_and_project import NormalizeAndProject
from .parseval import Parseval
from .plasticity_injection import PlasticityInjection
from .redo import ReDo
from .resets import FullReset, LayerReset
from .shrink_and_perturb import ShrinkAndPerturb
from .spectral import Spectral
from .trac import Trac
from .weight_clipping import WeightClipping

MITIGATIONS: dict[str, type[Mitigation]] = {
    "c-chain": CChain,
    "continual-backprop": ContinualBackprop,
    "crelu": CReLU,
    "deep-fourier": DeepFourier,
    "effective-rank": EffectiveRank,
    "full-reset": FullReset,
    "isotropy": Isotropy,
    "l2": L2,
    "l2-init": L2Init,
    "layer-norm": LayerNorm,
    "layer-reset": LayerReset,
    "mixture-of-experts": MixtureOfExperts,
    "normalize-and-project": NormalizeAndProject,
    "parseval": Parseval,
    "plasticity-injection": PlasticityInjection,
    "redo": ReDo,
    "shrink-and-perturb": ShrinkAndPerturb,
    "spectral": Spectral,
    "trac": Trac,
    "weight-clipping": WeightClipping,
}

__all__ = [
    "L2",
    "MITIGATIONS",
    "CChain",
    "CReLU",
    "ContinualBackprop",
    "DeepFourier",
    "EffectiveRank",
    "FullReset",
    "Isotropy",
    "L2Init",
    "LayerNorm",
    "LayerReset",
    "Mitigation",
    "MixtureOfExperts",
    "NormalizeAndProject",
    "Parseval",
    "PlasticityInjection",
    "ReDo",
    "ShrinkAndPerturb",
    "Spectral",
    "Trac",
    "WeightClipping",
]
