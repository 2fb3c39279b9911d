"""Mitigations: ways of keeping an agent able to learn, by the name used in specs."""

from .base import Mitigation
from .effective_rank import EffectiveRank
from .l2 import L2

MITIGATIONS: dict[str, type[Mitigation]] = {
    "effective-rank": EffectiveRank,
    "l2": L2,
}

__all__ = ["L2", "MITIGATIONS", "EffectiveRank", "Mitigation"]
