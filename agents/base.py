"""What every agent adds to stable-baselines3: mitigations, a named loss, and windows for the instruments."""

import copy
import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from . import denormals
from .errors import AgentError, InvalidSetting, NonFiniteLoss
from .features import Taps, received, recorded
from .mitigations.base import Mitigation, check_combination
from .mixture import Mixture
from .networks import INITIALISATIONS, initialise, named, resolve_names
from .norms import total_norm
from .randomness import isolated_randomness
from .types import Loss, Objective, Observations
from .units import Weighted

# Options of the optimiser that mitigations own; see `Agent.set_parameters`.
_DECAY_OPTIONS = ("weight_decay", "decoupled_weight_decay")


class Agent(BaseAlgorithm):
    """Mixed into an SB3 algorithm, in front of it: ``class PPO(Agent, stable_baselines3.PPO)``.

    Takes that algorithm's arguments and these:

    Args:
        mitigations: applied in this order; each object belongs to one agent. With none the agent is
            bit-identical to stable-baselines3.
        initialisation: a name of ``INITIALISATIONS``; redraws the weights once the policy is built.

    In ``policy_kwargs``, ``activation_fn`` and ``features_extractor_class`` may also be names of
    ``ACTIVATIONS`` and ``FEATURES_EXTRACTORS``.
    """

    name: ClassVar[str]
    has_epochs: ClassVar[bool] = False
    """Whether training passes several times over each rollout, so that mitigations count epochs."""
    max_grad_norm: float

    def __init__(
        self,
        *args: Any,
        mitigations: Sequence[Mitigation] = (),
        initialisation: str = "sb3",
        **kwargs: Any,
    ) -> None:
        if isinstance(mitigations, Mitigation):
            raise InvalidSetting(
                f"mitigations must be a list, also of one: mitigations=[{type(mitigations).__name__}(...)]."
            )
        for mitigation in mitigations:
            if not isinstance(mitigation, Mitigation):
                raise InvalidSetting(
                    f"mitigations must hold Mitigation objects, for example L2(1e-3), not {mitigation!r}."
                )
        check_combination(mitigations)
        named(INITIALISATIONS, initialisation, "initialisation")
        self.mitigations = list(mitigations)
        self.initialisation = initialisation
        self.gradient_updates = 0
        self.present_loss: Loss | None = None
        self._present: tuple[Observations, Callable[[], dict[str, Tensor]]] | None = None
        self._schedule_window: tuple[int, int] | None = None
        super().__init__(*args, **kwargs)

    # What each agent defines ------------------------------------------------------------------------------

    @abstractmethod
    def prepare(self, samples: Any) -> Any:
        """SB3's samples -> the constants of the loss, a batch."""

    @abstractmethod
    def loss(self, batch: Any) -> Loss:
        """The loss that training descends: pure in (parameters, batch) and a mean over samples."""

    @abstractmethod
    def objectives(self, unclipped: bool = False) -> dict[str, Objective]:
        """The parts of the loss, each with its parameters, for instruments of curvature."""

    @abstractmethod
    def gather(self, env: GymEnv, samples: int, seed: int) -> Any:
        """A batch of fresh data of ``env`` under the present policy; everything else is left as it was."""

    @abstractmethod
    def recent_observations(self, samples: int) -> Observations:
        """About ``samples`` of the latest observations that training has stored, drawn without randomness."""

    @abstractmethod
    def hidden_layers(self) -> dict[str, nn.Module]:
        """The activation modules, by ``"<network>/<depth>"``; see `features.hidden_activations`."""

    @abstractmethod
    def deciding(self) -> tuple[str, tuple[nn.Module, ...]]:
        """The network whose outputs decide, and its modules after the features extractor, in order."""

    @abstractmethod
    def networks(self) -> dict[str, dict[str, nn.Parameter]]:
        """The trained parameters by network, then by their name in the policy."""

    @abstractmethod
    def _forward_hidden(self, observations: Observations) -> None:
        """Run every hidden layer once."""

    def sample_observations(self, samples: int) -> Observations:
        """So many observations of what is being learned from; at random, if the agent can draw."""
        return self.recent_observations(samples)

    def losses_of_networks(self) -> dict[str, Tensor]:
        """The share of each network in the loss of the present minibatch, for penalties in proportion to it.

        By the names of ``networks``; parameters that several losses move have the whole loss.
        """
        assert self.present_loss is not None, "there is a loss only while penalties are computed"
        return dict.fromkeys(self.networks(), self.present_loss.total)

    # What all agents share --------------------------------------------------------------------------------

    def observations(self, batch: Any) -> Observations:
        """The observations of a batch."""
        observations: Observations = batch.observations
        return observations

    def features(self, observations: Observations) -> dict[str, Tensor]:
        """Post-activation features of every hidden layer, differentiable, from one forward pass.

        Args:
            observations: as in a batch, ``[B, ...]``.

        Returns:
            By ``"<network>/<depth>"`` (``"actor/0"``, ``"q/1"``), ``[B, width]``; convolutional layers with
            space flattened into samples, ``[B H W, C]``. After them, for a mixture of experts,
            ``"<network>/mixture"``: the last features of all experts times their weights, ``[B, E width]``.
            While penalties are computed, those of the minibatch come from the forward pass of its loss, and
            so does their graph; without gradients there is a pass of its own.
        """
        if self._present is not None and observations is self._present[0] and torch.is_grad_enabled():
            return dict(self._present[1]())
        taps = self._taps()
        with taps.open() as seen:
            self._forward_hidden(observations)
        return taps.features(seen)

    def inputs(self, modules: Iterable[nn.Module], observations: Observations) -> dict[nn.Module, Tensor]:
        """What enters modules of the networks, ``[B, ...]`` each, from one forward pass."""
        with received(modules) as inputs:
            self._forward_hidden(observations)
        return inputs

    def mixtures(self) -> dict[str, Mixture]:
        """The mixtures of experts that a mitigation has put in, by ``"<network>/mixture"``."""
        network, parts = self.deciding()
        return {f"{network}/mixture": part for part in parts if isinstance(part, Mixture)}

    def expert_weights(self, observations: Observations) -> dict[str, Tensor]:
        """How much each expert counts for each observation, ``[B, E]``, by the names of `mixtures`."""
        gates = {name: mixture.gate for name, mixture in self.mixtures().items()}
        with recorded(gates) as weights:
            self._forward_hidden(observations)
        return weights

    def fresh(self) -> Self:
        """A twin with networks newly drawn as at construction, from torch's global generator.

        It shares all else with this agent and is good for reading parameters only.
        """
        twin = copy.copy(self)
        twin.present_loss = twin._present = None
        twin.policy = self._new_policy()
        twin._remodel()
        initialise(twin.policy, self.initialisation)
        return twin

    def follow(self) -> None:
        """Let networks that follow the trained ones at a distance (DQN's target) catch up at once."""

    def hidden_scheme(self) -> Callable[[Tensor], None] | None:
        """How the weights of hidden layers were drawn, in place; ``None`` for torch's own way."""
        return INITIALISATIONS[self.initialisation]

    def fresh_units(self, layer: Weighted, count: int) -> tuple[Tensor, Tensor | None]:
        """Incoming weights ``[count, in, ...]`` and biases ``[count]`` for new units of a hidden layer.

        Drawn as the layer was at construction, from torch's global generator on the CPU.
        """
        weight = torch.empty(count, *layer.weight.shape[1:])
        scheme = self.hidden_scheme()
        if scheme is not None:
            scheme(weight)
            return weight, None if layer.bias is None else torch.zeros(count)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as torch's layers do
        bound = 1 / math.sqrt(weight[0].numel())
        return weight, None if layer.bias is None else torch.empty(count).uniform_(-bound, bound)

    def count_from(self, env_steps: int) -> None:
        """This agent was made at environment step ``env_steps`` of a run: those before are not its own."""

    def start_task(self, task: int) -> None:
        """Tell the mitigations that task number ``task`` (from 0) begins."""
        for mitigation in self.mitigations:
            mitigation.on_task_start(self, task)

    def after_redraw(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """These, by name, have begun anew: tell the mitigations, and let networks that follow catch up."""
        self.follow()
        for mitigation in self.mitigations:
            mitigation.on_redraw(self, parameters)

    def cut_episodes(self) -> None:
        """The environments are about to be reset: what comes next does not follow from what came last.

        An agent that remembers transitions marks its latest, as where a time limit cuts an episode.
        """

    def schedule_over(self, start: int, end: int) -> None:
        """Let every schedule (learning rate, clip range, exploration) run from 1 to 0 over a window.

        Without a call, progress runs over each ``learn()``, as in stable-baselines3.

        Args:
            start: environment step, counted as ``num_timesteps``, at which progress remaining is 1.
            end: environment step at which it is 0. Outside the window it stays at the nearer end.
        """
        if end <= start:
            raise InvalidSetting(f"schedule_over needs start < end, not {start} and {end}.")
        self._schedule_window = (start, end)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        if self._schedule_window is None:
            super()._update_current_progress_remaining(num_timesteps, total_timesteps)
            return
        start, end = self._schedule_window
        self._current_progress_remaining = 1.0 - min(max((num_timesteps - start) / (end - start), 0.0), 1.0)

    # Hooks of stable-baselines3 ---------------------------------------------------------------------------

    def _setup_model(self) -> None:
        with self._built_policy_kwargs():
            self._build()
        self._remodel()
        initialise(self.policy, self.initialisation)
        for mitigation in self.mitigations:
            mitigation.attach(self)
            mitigation.restore()
            mitigation.attached = True

    @contextmanager
    def _built_policy_kwargs(self) -> Iterator[dict[str, Any]]:
        """Within the block ``policy_kwargs`` are without names and as the mitigations' ``build`` has them."""
        given = self.policy_kwargs
        built = resolve_names(given)
        for mitigation in self.mitigations:
            built = mitigation.build(built, self.name)
        self.policy_kwargs = built
        try:
            yield built
        finally:
            self.policy_kwargs = given  # what is saved, so that loading builds from it once, not twice

    def _remodel(self) -> None:
        """Let mitigations change the networks of a policy just built; if one did, renew the optimiser."""
        remodelling = [m for m in self.mitigations if m.overrides("remodel")]
        for mitigation in sorted(remodelling, key=lambda mitigation: mitigation.remodel_rank):
            mitigation.remodel(self)
        if remodelling:
            policy = self.policy
            trained = [p for network in self.networks().values() for p in network.values()]
            policy.optimizer = policy.optimizer_class(
                trained,
                lr=self.lr_schedule(1),  # type: ignore[call-arg]
                **policy.optimizer_kwargs,
            )

    def _new_policy(self) -> Any:
        """A policy as the constructor builds it, before mitigations remodel it."""
        with self._built_policy_kwargs() as kwargs:
            policy: Any = self.policy_class(
                self.observation_space, self.action_space, self.lr_schedule, **kwargs
            )
        return policy.to(self.device)

    def _build(self) -> None:
        """Make the policy and whatever else training needs, from ``policy_kwargs`` without names."""
        super()._setup_model()  # type: ignore[safe-super]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """As any object's, but of an agent without mitigations only: theirs would belong to the original.

        Raises:
            AgentError: there are some.
        """
        if self.mitigations:
            raise AgentError(
                "An agent with mitigations cannot be deep-copied: they are tied to its own networks. Save it "
                f"and load the file as a second one: {type(self).__name__}.load(path, env=...)."
            )
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """As SB3's; weight decay stays as the agent's own mitigations set it, whatever the file says."""
        groups = self.policy.optimizer.param_groups
        own = [{key: group[key] for key in _DECAY_OPTIONS if key in group} for group in groups]
        try:
            super().set_parameters(*args, **kwargs)
        except ValueError as error:
            if "group" not in str(error):
                raise
            raise InvalidSetting(
                "The optimiser's parameters are in other groups than those saved: give the agent an L2 with "
                'the same "parameters" (all or weights) as the saved one had, or none where that had none.'
            ) from error
        for group, options in zip(self.policy.optimizer.param_groups, own, strict=True):
            group.update(options)

    def dump_logs(self, *args: Any) -> None:
        """As SB3's, after recording the mitigations' values as ``plasticity/*``."""
        self._record_mitigations()
        super().dump_logs(*args)

    # Helpers for train() and gather() ---------------------------------------------------------------------

    def _record_mitigations(self) -> None:
        for mitigation in self.mitigations:
            for key, value in mitigation.values().items():
                self.logger.record(f"plasticity/{key}", value)

    def _taps(self) -> Taps:
        """Where the networks' features are taken at present."""
        return Taps(self.hidden_layers(), self.mixtures())

    def _taps_for_penalties(self) -> Taps | None:
        """The same, for as long as no network is remodelled; None if no mitigation has a penalty."""
        return self._taps() if any(m.overrides("penalty") for m in self.mitigations) else None

    def _training_loss(self, batch: Any) -> Loss:
        """The loss of a minibatch to learn from."""
        return self.loss(batch)

    def _loss_and_penalties(self, batch: Any, taps: Taps | None) -> tuple[Loss, dict[str, Tensor]]:
        """Of a minibatch to learn from; penalties on features share the forward pass of the loss."""
        if taps is None:
            return self._training_loss(batch), {}
        with taps.open() as seen:
            loss = self._training_loss(batch)
        observations = self.observations(batch)
        # Made when they are first asked for: not every penalty does, and not every network can say
        self.present_loss, self._present = loss, (observations, functools.cache(lambda: taps.features(seen)))
        try:
            penalties = [(m, m.penalty(self, observations)) for m in self.mitigations]
        finally:
            self.present_loss = self._present = None  # they hold on to the graph, and cannot be saved
        found = {}
        for number, (mitigation, penalty) in enumerate(penalties):
            if penalty is not None:
                name = f"the penalty of {type(mitigation).__name__}"
                _check_penalty(name, penalty)
                found[f"{name} (mitigation {number})" if name in found else name] = penalty
        return loss, found

    @denormals.flushed()
    def _descend(self, loss: Tensor, parameters: list[nn.Parameter]) -> float:
        """One optimiser step down ``loss``; returns the norm of the gradient before clipping."""
        for parameter in parameters:
            parameter.grad = None  # as zero_grad() does, which takes ten times as long
        loss.backward()  # type: ignore[no-untyped-call]
        if math.isinf(self.max_grad_norm):
            norm = total_norm([p.grad for p in parameters if p.grad is not None])
        else:
            # foreach: the same arithmetic without a Python loop over parameters
            norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=True).item()
        self._require_finite({"the gradient": norm}, ["the gradient"])
        self.policy.optimizer.step()
        self.gradient_updates += 1
        return norm

    def _require_finite(self, numbers: dict[str, float], quantities: Iterable[str]) -> None:
        for quantity in quantities:
            if not math.isfinite(numbers[quantity]):
                raise NonFiniteLoss(quantity, self.gradient_updates)

    def _separate(self, env: GymEnv) -> VecEnv:
        """``env`` as SB3 would wrap it, checked to fit the agent and not to be the one it trains in."""
        wrapped = self._wrap_env(env, verbose=0)
        check_for_correct_spaces(wrapped, self.observation_space, self.action_space)
        if self.env is not None and wrapped.unwrapped is self.env.unwrapped:
            raise AgentError(
                "gather() was given the training environment and would disturb its episodes; "
                "make a second environment of the same task for it."
            )
        return wrapped

    @contextmanager
    def _undisturbed(self, seed: int) -> Iterator[None]:
        """Seeded randomness and evaluation mode within the block; both as they were after it."""
        modes = [(module, module.training) for module in self.policy.modules()]
        with isolated_randomness(seed), torch.no_grad():
            try:
                self.policy.set_training_mode(False)
                yield
            finally:
                for module, training in modes:
                    module.training = training


def _check_penalty(name: str, penalty: Any) -> None:
    """See that it can be descended: numbers and vectors would be errors later, constants do nothing."""
    if not isinstance(penalty, Tensor):
        was = f"a {type(penalty).__name__}"
    elif penalty.numel() != 1:
        was = f"a tensor of the shape {tuple(penalty.shape)}"
    elif not penalty.requires_grad:
        was = "one without a gradient (was it detached, or computed without gradients?)"
    else:
        return
    raise InvalidSetting(f"{name} must be a differentiable scalar tensor, or None, not {was}.")


def scalars(tensors: dict[str, Tensor]) -> dict[str, float]:
    """Scalar tensors of one device as Python floats; from a GPU in one transfer, which waits for it once."""
    if not next(iter(tensors.values())).is_cuda:
        return {name: tensor.item() for name, tensor in tensors.items()}
    with torch.no_grad():
        return dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))
