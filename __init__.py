"""pliant: reinforcement-learning agents that keep their ability to learn, and the instruments that show why.

The names below are loaded on first use, so that ``import pliant`` (and ``train-agent --help``) need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agents import DQN, L2, PPO, Classifier, EffectiveRank
    from .diagnostics import Spectrum, hessian_spectrum
    from .envs import Task, TaskSequence, make_env

__version__ = "0.1.0"

_HOME = {
    "PPO": ".agents",
    "DQN": ".agents",
    "Classifier": ".agents",
    "EffectiveRank": ".agents",
    "L2": ".agents",
    "Spectrum": ".diagnostics",
    "hessian_spectrum": ".diagnostics",
    "Task": ".envs",
    "TaskSequence": ".envs",
    "make_env": ".envs",
}

__all__ = [
    "DQN",
    "L2",
    "PPO",
    "Classifier",
    "EffectiveRank",
    "Spectrum",
    "Task",
    "TaskSequence",
    "__version__",
    "hessian_spectrum",
    "make_env",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds ``name`` when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'pliant' has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
