"""Mitigations: ways of keeping an agent able to learn, by the name used in specs."""

from .base import Mitigation
from .c_chain import CChain
from .effective_rank import EffectiveRank
from .isotropy import Isotropy
from .l2 import L2
from .l2_init import L2Init
from .parseval import Parseval
from .spectral import Spectral

MITIGATIONS: dict[str, type[Mitigation]] = {
    "c-chain": CChain,
    "effective-rank": EffectiveRank,
    "isotropy": Isotropy,
    "l2": L2,
    "l2-init": L2Init,
    "parseval": Parseval,
    "spectral": Spectral,
}

__all__ = [
    "L2",
    "MITIGATIONS",
    "CChain",
    "EffectiveRank",
    "Isotropy",
    "L2Init",
    "Mitigation",
    "Parseval",
    "Spectral",
]
