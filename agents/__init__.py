"""The learners: stable-baselines3's PPO and DQN, and a classifier, with a named loss and mitigations."""

from .base import Agent
from .classifier import Classifier
from .dqn import DQN
from .effective_rank import effective_rank
from .errors import AgentError, InvalidSetting, NonFiniteLoss, UnsupportedSpace
from .mitigations import (
    L2,
    MITIGATIONS,
    CChain,
    ContinualBackprop,
    CReLU,
    DeepFourier,
    EffectiveRank,
    FullReset,
    Isotropy,
    L2Init,
    LayerNorm,
    LayerReset,
    Mitigation,
    MixtureOfExperts,
    NormalizeAndProject,
    Parseval,
    PlasticityInjection,
    ReDo,
    ShrinkAndPerturb,
    Spectral,
    Trac,
    WeightClipping,
)
from .networks import ACTIVATIONS, FEATURES_EXTRACTORS, INITIALISATIONS, ScaledFlatten, SmallCNN
from .optimizers import OPTIMIZERS
from .ppo import PPO
from .types import ClassifierBatch, DQNBatch, LabelledSamples, Loss, Objective, PPOBatch, Update

AGENTS: dict[str, type[Agent]] = {"ppo": PPO, "dqn": DQN, "classifier": Classifier}

__all__ = [
    "ACTIVATIONS",
    "AGENTS",
    "DQN",
    "FEATURES_EXTRACTORS",
    "INITIALISATIONS",
    "L2",
    "MITIGATIONS",
    "OPTIMIZERS",
    "PPO",
    "Agent",
    "AgentError",
    "CChain",
    "CReLU",
    "Classifier",
    "ClassifierBatch",
    "ContinualBackprop",
    "DQNBatch",
    "DeepFourier",
    "EffectiveRank",
    "FullReset",
    "InvalidSetting",
    "Isotropy",
    "L2Init",
    "LabelledSamples",
    "LayerNorm",
    "LayerReset",
    "Loss",
    "Mitigation",
    "MixtureOfExperts",
    "NonFiniteLoss",
    "NormalizeAndProject",
    "Objective",
    "PPOBatch",
    "Parseval",
    "PlasticityInjection",
    "ReDo",
    "ScaledFlatten",
    "ShrinkAndPerturb",
    "SmallCNN",
    "Spectral",
    "Trac",
    "UnsupportedSpace",
    "Update",
    "WeightClipping",
    "effective_rank",
]
