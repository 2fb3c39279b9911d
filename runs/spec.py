"""RunSpec: the whole of one experiment, typed, validated and frozen.

A preset (``runs/specs/*.toml``) holds only what differs from the defaults written here. Every default that is
not explained is the one of stable-baselines3.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from ..envs import SequenceSpec

NAME = r"^[^\W_][\w .,+=()-]*$"
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=80)]
"""Part of the name of a run folder: letters, digits and what else is no path."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Settings(BaseModel):
    """Base of every table of a spec: unknown keys refused, types not converted, nothing changes later."""

    # An infinite max_grad_norm stays one where a table is dumped whose values have no type of their own.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=True, ser_json_inf_nan="constants"
    )


class NetworkSpec(Settings):
    """The networks. PPO has one trunk for the actor and another for the critic, as in the paper."""

    hidden: tuple[PositiveInt, ...] = (64, 64)
    """Widths of the hidden layers (of each trunk)."""
    activation: str | None = None
    """A name of ``pliant.agents.ACTIVATIONS``; None is tanh for PPO (as SB3 has it), ReLU for the others."""
    initialisation: str = "sb3"
    """``sb3`` (orthogonal for PPO, else torch's) or another of ``pliant.agents.INITIALISATIONS``."""
    extractor: str = "flatten"
    """What turns observations into the trunks' input: a name of ``pliant.agents.FEATURES_EXTRACTORS``."""
    extractor_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Its own settings, besides the space: ``{ base = 16 }`` makes ``resnet-18`` a quarter as wide."""
    shared_extractor: bool = False
    """Whether actor and critic share the extractor; separate ones keep the Hessian block-diagonal."""
    log_std_init: float = 0.0
    """Initial logarithm of the standard deviation of continuous actions."""


class OptimizerSpec(Settings):
    """The optimiser of the loss. Strengths of L2 belong to the mitigation of that name."""

    name: Literal["adam", "adamw", "sgd", "muon", "kron"] = "adam"
    """``muon`` is torch's Muon for matrices and AdamW for the rest; ``kron`` needs the extra of that name."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Of Adam and AdamW, in Muon too; the first of Kron."""
    eps: PositiveFloat | None = None
    """Of Adam and AdamW; None is 1e-5 for PPO (as SB3 has it), 1e-8 for the others."""
    momentum: Fraction | None = None
    """Of SGD, 0 if None, and of Muon, 0.95 if None."""
    weight_decay: NonNegativeFloat | None = None
    """Of AdamW, Muon and Kron, decoupled; None is torch's (0.01, 0.1) and Kron's (0). The mitigation ``l2``
    (with ``decoupled = true``) takes its place."""
    fused: bool = True
    """One kernel for all parameters: measured 1.4 times faster than SB3's default Adam on small networks."""

    @model_validator(mode="after")
    def _decay_has_one_home(self) -> OptimizerSpec:
        if self.weight_decay is not None and self.name in ("adam", "sgd"):
            raise ValueError(
                f"weight_decay is an option of adamw, muon and kron; with {self.name} say "
                f"mitigations.l2.strength = {self.weight_decay} instead"
            )
        return self


class AgentSettings(Settings):
    """What all algorithms have."""

    n_envs: Annotated[int, Field(gt=0, le=10_000)] = 1
    """Copies of the environment, stepped one after the other in this process."""
    learning_rate: PositiveFloat = 3e-4
    """Of the optimiser; DQN and the classifier have defaults of their own."""
    learning_rate_end: NonNegativeFloat | None = None
    """When given, the learning rate falls linearly to it over the window that ``schedule`` names."""
    max_grad_norm: PositiveFloat = 0.5
    """The gradient is scaled down to this norm where it is longer; ``inf`` switches that off."""
    network: NetworkSpec = NetworkSpec()
    optimizer: OptimizerSpec = OptimizerSpec()


class PPOSpec(AgentSettings):
    """Proximal policy optimisation; names and defaults of stable-baselines3."""

    algorithm: Literal["ppo"]
    gamma: Fraction = 0.99
    """Discount per environment step."""
    n_steps: PositiveInt = 2048
    """Environment steps per environment and rollout."""
    batch_size: PositiveInt = 64
    """Environment steps of a minibatch, of which each gives one gradient update; a divisor of a rollout."""
    n_epochs: PositiveInt = 10
    """Passes over each rollout."""
    gae_lambda: Fraction = 0.95
    """Of generalised advantage estimation: 0 is the one-step TD error, 1 the whole return."""
    clip_range: PositiveFloat = 0.2
    """A ratio of new to old probability gains nothing beyond 1 - this and 1 + this."""
    clip_range_vf: PositiveFloat | None = None
    """The same for the change of the critic's values, in their own units; None: no clipping."""
    normalize_advantage: bool = True
    """Whether the advantages of each minibatch are brought to mean 0 and standard deviation 1."""
    ent_coef: NonNegativeFloat = 0.0
    """Weight of the policy's entropy in the loss."""
    vf_coef: NonNegativeFloat = 0.5
    """Weight of the critic's loss in the loss."""
    use_sde: bool = False
    """Whether exploration depends on the state (gSDE); for continuous actions."""
    sde_sample_freq: int = -1
    """Environment steps after which gSDE draws a new noise matrix; -1: once a rollout."""
    target_kl: PositiveFloat | None = None
    """Updates on a rollout end where the KL to the old policy, estimated, exceeds 1.5 times this."""

    @model_validator(mode="after")
    def _batch_fits_the_rollout(self) -> PPOSpec:
        rollout = self.n_steps * self.n_envs
        if self.batch_size > rollout or (self.normalize_advantage and self.batch_size < 2):
            raise ValueError(
                f"batch_size is {self.batch_size}; it must lie between 2 and a rollout's "
                f"n_steps * n_envs = {rollout} environment steps"
            )
        if rollout % self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide a rollout of n_steps * n_envs = {rollout} "
                "environment steps; choose a divisor, so that every minibatch has the same size"
            )
        return self


class DQNSpec(AgentSettings):
    """Deep Q-learning; names and defaults of stable-baselines3, but a replay buffer that fits a laptop."""

    algorithm: Literal["dqn"]
    gamma: Fraction = 0.99
    """Discount per environment step."""
    learning_rate: PositiveFloat = 1e-4
    """Of the optimiser."""
    buffer_size: PositiveInt = 100_000
    """Transitions in the replay buffer; stable-baselines3 has 1,000,000."""
    learning_starts: NonNegativeInt = 100
    """Environment steps of an agent before its first gradient update, with random actions."""
    batch_size: PositiveInt = 32
    """Transitions of a gradient update."""
    tau: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """How far the target network moves towards the trained one at each of its updates; 1: a copy."""
    train_freq: PositiveInt = 4
    """Environment steps per environment between two trainings."""
    gradient_steps: PositiveInt = 1
    """Gradient updates of a training."""
    n_step_returns: PositiveInt = 1
    """Rewards that a target sums before it bootstraps."""
    target_update_interval: PositiveInt = 10_000
    """Environment steps between two updates of the target network."""
    exploration_fraction: Fraction = 0.1
    """Share of the window that ``schedule`` names over which the rate of random actions falls."""
    exploration_initial_eps: Fraction = 1.0
    """Rate of random actions at its start."""
    exploration_final_eps: Fraction = 0.05
    """Rate of random actions from then on."""
    max_grad_norm: PositiveFloat = 10.0
    """The gradient is scaled down to this norm where it is longer; ``inf`` switches that off."""


class ClassifierSpec(AgentSettings):
    """Supervised learning on an environment's labelled samples; see ``pliant.agents.Classifier``."""

    algorithm: Literal["classifier"]
    n_envs: Literal[1] = 1
    """Always one: the samples are the environment's."""
    learning_rate: PositiveFloat = 1e-3
    """Of the optimiser."""
    batch_size: PositiveInt = 32
    """Samples of a gradient update; the last of a pass over the samples may have fewer."""
    updates_per_rollout: PositiveInt = 100
    """Gradient updates between two points at which training may stop, and between two rows of the log."""
    new_head: Literal["keep", "zero", "redraw"] = "keep"
    """What becomes of the last layer at each task's start; ``zero`` is Continual ImageNet's protocol."""
    present_classes_only: bool = False
    """Tell samples apart only among the classes that the task holds: incremental CIFAR's protocol."""
    max_grad_norm: PositiveFloat = float("inf")
    """``inf``: no clipping."""


AgentSpec = Annotated[PPOSpec | DQNSpec | ClassifierSpec, Field(discriminator="algorithm")]


class SpectrumSpec(Settings):
    """What a snapshot holds; names, meaning and defaults of ``pliant.diagnostics.SnapshotSettings``."""

    parts: tuple[str, ...] = ()
    """Objectives of the agent (PPO: actor, critic, total; DQN: q; the classifier: classifier), or groups of
    their parameters (``actor/log_std``); all objectives if empty."""
    operators: tuple[Literal["hessian", "ggn", "kfac", "gram"], ...] = ("hessian",)
    """Empty for no spectrum at all. A policy's ``ggn`` is the Fisher matrix."""
    method: Literal["auto", "exact", "lanczos"] = "auto"
    probes: PositiveInt = 2
    """Random vectors per spectrum."""
    depth: PositiveInt = 100
    """Lanczos steps; products = probes * depth."""
    seed: NonNegativeInt = 0
    epsilons: tuple[PositiveFloat, ...] = (1e-3, 1e-2, 1e-1)
    relative_epsilons: tuple[PositiveFloat, ...] = (1e-3, 1e-2)
    bracket: Literal["block", "probe"] = "block"
    micro_batch: NonNegativeInt = 0
    """At most this many samples in a graph at once; 0 for the whole batch."""
    features: bool = True
    minibatches: NonNegativeInt = 64
    minibatch_size: PositiveInt = 4
    gram_samples: PositiveInt = 128
    compat: Literal["", "lop-jax"] = ""


class DiagnosticsSpec(Settings):
    """What is measured, when, and how finely."""

    at: tuple[Literal["init", "end"], ...] = ("init", "end")
    """Moments of each task at which a snapshot is taken; empty for none."""
    samples: PositiveInt = 2048
    """Fresh environment steps per snapshot."""
    updates: NonNegativeInt = 0
    """Another snapshot after this many updates within a task (PPO counts epochs); 0 for none."""
    every: NonNegativeInt = 10_000
    """Environment steps between two rows of feature ranks, dead units and norms; 0 for none."""
    task_interval: PositiveInt = 1
    """Snapshots of every so-manieth task only: 0, ``task_interval``, 2 ``task_interval``, ..."""
    figures: bool = True
    """Draw each snapshot for TensorBoard; where a task lasts a second that takes longer than the task."""
    spectrum: SpectrumSpec = SpectrumSpec()


WhichTasks = Literal["own-and-next", "seen", "all", "none"]


class EvaluationSpec(Settings):
    """Which episodes the agent plays for the record, before training and after each task."""

    tasks: WhichTasks = "own-and-next"
    """``seen``: all up to the one just trained. ``none`` switches evaluation off, after the last task too."""
    last: WhichTasks = "all"
    """The same for after the last task: what forgetting and backward transfer are computed from."""
    episodes: PositiveInt = 5
    """Per task, policy and occasion; their seeds are the same on every occasion."""
    policies: Annotated[tuple[Literal["deterministic", "stochastic"], ...], Field(min_length=1)] = (
        "deterministic",
    )
    """Which actions: the most likely ones, or drawn ones (DQN: random ones at its final rate)."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Laid over the ``kwargs`` of every task: ``{ split = "test" }`` shows a stream's other samples."""
    max_length: PositiveInt = 10_000
    """Environment steps after which an episode is cut, for environments that have no limit of their own."""
    replays: bool = True
    """Record every episode (a few kilobytes), so that it can be replayed, checked and filmed."""
    observations: bool = False
    """Record the observations as well, not only their hashes."""
    videos: NonNegativeInt = 0
    """So many episodes of each occasion, on the task just trained, become moving pictures in TensorBoard."""


class CheckpointSpec(Settings):
    """When everything is saved that a run needs to go on, and what is kept of it.

    A checkpoint is a reset point: the environments begin new episodes there, so that nothing of a simulator
    has to be saved and a run that goes on from it equals one that was never stopped, bit for bit. There is
    one at every switch, and within tasks every so many environment steps; never by the clock, which would
    make two equal runs differ.
    """

    every: NonNegativeInt = 100_000
    """Environment steps of a task from one checkpoint to the next, rounded up to whole rollouts; 0: only at
    switches. A run that is killed does as many again, at 600 to 1,000 environment steps per second (PPO, Ant)
    two to three minutes."""
    keep: PositiveInt = 2
    """So many of the newest checkpoints stay: one to go on from, the others in case that it is damaged.
    (DQN's replay buffer is in the newest two.) Older ones within tasks are removed."""
    keep_switches: PositiveInt = 100
    """Of the checkpoints at switches, which `pliant evaluate` and `pliant measure` look at, at most so many
    stay besides the untrained one: with more tasks, those after every k-th task and after the last. So 1,000
    tasks leave about a hundred checkpoints, of about 3 times the networks' size each (Adam)."""


class RunSpec(Settings):
    """One run: an agent, a sequence of tasks, what keeps the agent plastic, and what is measured."""

    name: Name
    """First part of the run folder's name; if left out, that of the preset or file."""
    description: str = ""
    """One line for people."""
    arm: Name = "bp"
    """The arm that is chosen where ``--arm`` names none; in a resolved spec, the one that was."""
    seed: NonNegativeInt = 0
    """Networks, environments and data of snapshots follow from it, and tasks if ``tasks.seed`` is ``run``."""
    reset: bool = False
    """Whether each task starts with a fresh agent: the ceiling that a plastic agent is held against."""
    schedule: Literal["per-task", "whole-run"] = "per-task"
    """The window over which learning rate, clip range and exploration run from start to end."""
    threads: Annotated[int, Field(gt=0, le=1_024)] = 1
    """torch threads; more than one gains nothing on small networks."""
    tasks: SequenceSpec
    agent: AgentSpec
    mitigations: Mapping[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings by the mitigation's name; one of your own is in a file that ``PLIANT_MITIGATIONS`` names."""
    diagnostics: DiagnosticsSpec = DiagnosticsSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()

    @property
    def rollout_steps(self) -> int:
        """Environment steps between points where training may stop: a rollout, or DQN's ``train_freq``.

        The classifier's are so long at most: they are shorter where a pass or a task ends in between.
        """
        agent = self.agent
        if isinstance(agent, ClassifierSpec):
            return agent.updates_per_rollout * agent.batch_size
        return (agent.n_steps if isinstance(agent, PPOSpec) else agent.train_freq) * agent.n_envs

    def task_steps(self, length: int) -> int:
        """``length`` environment steps rounded up to whole rollouts: what the task really takes.

        The classifier takes as many as it is given.
        """
        if isinstance(self.agent, ClassifierSpec):
            return length
        return -(-length // self.rollout_steps) * self.rollout_steps

    def reset_points(self, steps: int) -> list[int]:
        """After how many environment steps of a task that takes ``steps`` there is a checkpoint.

        The last is the end of the task.
        """
        every = self.task_steps(self.checkpoints.every) or steps
        return [*range(every, steps, every), steps]

    def gradient_updates(self, steps: int) -> int:
        """Gradient updates that training takes over ``steps`` environment steps.

        The classifier takes a few more if its passes end with smaller minibatches.
        """
        agent = self.agent
        if isinstance(agent, ClassifierSpec):
            return -(-steps // agent.batch_size)
        if isinstance(agent, PPOSpec):
            return steps * agent.n_epochs // agent.batch_size
        return steps // self.rollout_steps * agent.gradient_steps

    @property
    def boundaries(self) -> list[int]:
        """Environment steps of the run at the start of each task, and at the end of the last."""
        return [0, *accumulate(self.task_steps(task.length) for task in self.tasks.draw(self.seed))]

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run."""
        return self.boundaries[-1]
