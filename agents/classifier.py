"""A continual supervised learner as an agent: cross-entropy on an environment's labelled samples."""

import math
import sys
import time
import warnings
from collections import defaultdict
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from torch import Tensor, nn

from .base import Agent, scalars
from .batch_norm import BatchNorm2d, batch_norms, by_minibatch, learning
from .classifier_policy import ClassifierPolicy
from .errors import AgentError, InvalidSetting, UnsupportedSpace
from .features import hidden_activations
from .losses import correct_predictions, cross_entropy
from .mixture import Mixture
from .networks import initialise
from .passes import Passes, labelled_samples, select
from .types import Classes, ClassifierBatch, LabelledSamples, Loss, Objective, Observations, Update

_HEADS = ("keep", "zero", "redraw")


class Classifier(Agent, BaseAlgorithm):
    """Minibatch gradient descent on the labelled samples of an environment, pass after pass.

    The environment offers its data as the attribute ``samples``, with ``inputs`` ``[N, ...]`` in its
    observation space and ``labels`` ``[N]`` among its actions; it is reset, but never stepped. What is an
    agent's everywhere else is so here:

    - An *environment step* is one sample shown: ``num_timesteps`` advances by the size of each minibatch.
    - An *episode* is one pass over the samples. Its return is the **online accuracy**: the share of samples
      whose class was predicted before the update that they were shown for (Dohare et al. 2024). Its length is
      the number of samples. A pass ends with a smaller minibatch where the size does not divide it.
    - A *rollout* is ``updates_per_rollout`` gradient updates (fewer where ``learn()`` ends): between two of
      them callbacks may stop, log, save; the learning rate follows its schedule from one to the next.
    - A network with batch norm (``"resnet-18"``) normalises minibatches by themselves in training, and in
      `loss` and `features` groups of as many samples, so that what is measured is what is trained; see
      `batch_norm`. It predicts by the running statistics, which only training moves.
    - The order of the samples is a function of the environment's seed: pass after pass
      ``env.np_random.permutation(N)``, from the reset with which ``learn()`` begins after ``set_env()``.

    Args:
        policy: ``"MlpPolicy"``, or a subclass of `ClassifierPolicy`.
        env: as above; Box observations, Discrete actions, one copy.
        learning_rate: of the optimiser, or a schedule of it.
        batch_size: samples of a minibatch, 1 or more.
        updates_per_rollout: as above.
        max_grad_norm: the gradient is clipped to this norm; by default it is not.
        new_head: what becomes of the last layer when a task begins (`start_task`): ``"keep"`` it; set it to
            ``"zero"``, as the protocol of Continual ImageNet does (Dohare et al. 2024); ``"redraw"`` it as at
            the beginning. The mitigations act before that: whatever a reset or noise has made of the head is
            undone, while the optimiser's moments stay as they are, as in their code.
        present_classes_only: let samples be told apart only among the classes that the environment's samples
            hold, in training and prediction, as the protocol of incremental CIFAR does (the same source).
        stats_window_size: episodes behind ``rollout/ep_rew_mean``.
        tensorboard_log: as in stable-baselines3.
        policy_kwargs: for the policy.
        verbose: as in stable-baselines3.
        seed: as in stable-baselines3; also of the environment.
        device: as in stable-baselines3.
        _init_setup_model: as in stable-baselines3.
        **kwargs: those of `Agent`.

    Raises:
        UnsupportedSpace: observations are not Box or actions not Discrete.

    Example:
        >>> agent = Classifier("MlpPolicy", env, mitigations=[L2(1e-4)])  # doctest: +SKIP
        >>> agent.learn(16_000)  # doctest: +SKIP
    """

    name: ClassVar[str] = "classifier"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": ClassifierPolicy}
    policy: ClassifierPolicy
    action_space: spaces.Discrete

    def __init__(
        self,
        policy: str | type[ClassifierPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 32,
        updates_per_rollout: int = 100,
        max_grad_norm: float = math.inf,
        new_head: str = "keep",
        present_classes_only: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            **kwargs,
        )
        for argument, value in (("batch_size", batch_size), ("updates_per_rollout", updates_per_rollout)):
            if not isinstance(value, int) or value < 1:
                raise InvalidSetting(f"Classifier's {argument} must be a positive integer, not {value!r}.")
        if new_head not in _HEADS:
            raise InvalidSetting(f"Classifier's new_head is {new_head!r}. Known: {', '.join(_HEADS)}.")
        self.batch_size = batch_size
        self.updates_per_rollout = updates_per_rollout
        self.max_grad_norm = max_grad_norm
        self.new_head = new_head
        self.present_classes_only = present_classes_only
        self._passes: Passes | None = None
        self._norms: list[BatchNorm2d] = []
        self._correct = 0  # predictions of the pass under way
        if self.env is not None:
            _check_spaces(self.observation_space, self.action_space)
        if _init_setup_model:
            self._setup_model()

    def _remodel(self) -> None:
        super()._remodel()
        self._norms = batch_norms(self.policy)

    def _build(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    # The loss ---------------------------------------------------------------------------------------------

    def prepare(self, samples: LabelledSamples) -> ClassifierBatch:
        """Samples of an environment -> the constants of the loss; on a CPU they share its memory."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor written to
            inputs = torch.from_numpy(samples.inputs).to(self.device)
        labels, classes = samples.labels.astype(np.int64), None
        if self.present_classes_only:
            present = np.unique(labels) if samples.classes is None else samples.classes
            labels = np.searchsorted(present, labels)
            classes = Classes(torch.from_numpy(present.astype(np.int64)).to(self.device))
        return ClassifierBatch(inputs, torch.from_numpy(labels).to(self.device), classes)

    def loss(self, batch: ClassifierBatch) -> Loss:
        """The cross-entropy, a mean over samples (see `losses`); its outputs are the logits.

        It monitors nothing: to count right answers at every update would take 4 % of the time of a small
        network, so `train` counts those of many updates together, from the logits.
        """
        logits = self._logits(batch)
        total = cross_entropy(logits, batch.labels)
        return Loss(total, {"cross_entropy": total}, {}, logits.detach())

    def _logits(self, batch: ClassifierBatch) -> Tensor:
        logits = self._forward(batch.observations)
        return logits if batch.classes is None else logits[:, batch.classes.index]

    def _forward(self, observations: Tensor) -> Tensor:
        """All logits ``[B, classes]``, as training sees them."""
        if not self._norms:
            return self.policy.logits(observations)
        with by_minibatch(self._norms, self.batch_size):
            return self.policy.logits(observations)

    # Training ---------------------------------------------------------------------------------------------

    def _training_loss(self, batch: ClassifierBatch) -> Loss:
        """The loss; running statistics of batch norm follow the minibatch."""
        if not self._norms:
            return self.loss(batch)
        with learning(self._norms):
            return self.loss(batch)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "Classifier",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Show exactly ``total_timesteps`` samples: the last minibatch is cut to what is left.

        Arguments as in stable-baselines3; ``log_interval`` counts rollouts.

        Raises:
            NonFiniteLoss: before the optimiser step that a NaN or infinite loss or gradient would spoil.
            AgentError: the environment offers no samples.
        """
        if reset_num_timesteps or self._last_obs is None:
            self._passes = None  # the environment is about to be reset
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        self._begin_passes()
        callback.on_training_start(locals(), globals())
        iteration = 0
        while self.num_timesteps < total_timesteps:
            if not self.train(total_timesteps, callback):
                break
            iteration += 1
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            if log_interval is not None and iteration % log_interval == 0:
                self.dump_logs(iteration)
        callback.on_training_end()
        return self

    def train(self, until: int, callback: BaseCallback) -> bool:
        """One rollout: ``updates_per_rollout`` gradient updates, fewer where ``until`` samples are shown.

        Returns:
            False if a callback wants the training to end.
        """
        assert self._passes is not None
        policy, passes, mitigations = self.policy, self._passes, self.mitigations
        parameters, taps = list(policy.parameters()), self._taps_for_penalties()
        going, ended = np.array([False]), np.array([True])
        history: dict[str, list[float]] = defaultdict(list)
        tally = _Tally()
        self._update_learning_rate(policy.optimizer)
        callback.on_rollout_start()

        for index in range(self.updates_per_rollout):
            batch = passes.take(until - self.num_timesteps)
            if not policy.training:  # a callback may have evaluated it
                policy.set_training_mode(True)
            if mitigations:
                update = Update(
                    self.gradient_updates, batch.observations, index, self.updates_per_rollout, self._rollout
                )
            for mitigation in mitigations:
                mitigation.before_update(self, update)

            loss, penalties = self._loss_and_penalties(batch, taps)
            numbers = scalars({"loss": loss.total, **penalties})
            self._require_finite(numbers, numbers)
            for quantity, number in numbers.items():
                history[quantity].append(number)

            total = sum(penalties.values(), start=loss.total)
            history["gradient_norm"].append(self._descend(total, parameters))
            for mitigation in mitigations:
                mitigation.after_update(self, update)

            self._n_updates += 1
            self.num_timesteps += len(batch.labels)
            tally.add(loss.outputs, batch.labels)
            del loss, penalties, total
            infos: list[dict[str, Any]] = [{}]
            dones = going
            if passes.over:
                infos, dones = [self._finish_pass(tally.count())], ended
            # Not locals(): who keeps the loss keeps its graph, and the next has to take other memory
            callback.update_locals({"infos": infos, "dones": dones})
            wanted = callback.on_step()
            if not wanted or self.num_timesteps >= until:
                break

        self._correct += tally.count()
        history["accuracy"].append(tally.correct / tally.shown)
        if wanted:
            callback.on_rollout_end()
        self._record(history)
        return wanted

    def _begin_passes(self) -> None:
        """Fetch the samples, unless the pass under way goes on; the environment has been reset."""
        if self._passes is not None:
            return
        assert self.env is not None
        samples = self.prepare(labelled_samples(self.env))
        self._passes = Passes(samples, self.batch_size, self.env.get_attr("np_random")[0])
        self._correct = 0
        if samples.classes is not None:
            self.policy.absent.fill_(True)[samples.classes.index] = False

    def _finish_pass(self, correct: int) -> dict[str, Any]:
        """What SB3's Monitor would say of the episode that ends here, for the callbacks."""
        assert self._passes is not None
        self._correct += correct
        length = len(self._passes.samples.labels)
        seconds = round((time.time_ns() - self.start_time) / 1e9, 6)
        info = {"episode": {"r": self._correct / length, "l": length, "t": seconds}}
        self._correct = 0
        self._episode_num += 1
        self._update_info_buffer([info])
        return info

    def _rollout(self) -> Observations:
        """As many of the latest inputs as a rollout has."""
        return self.recent_observations(self.updates_per_rollout * self.batch_size)

    def _record(self, history: dict[str, list[float]]) -> None:
        """Log means over the rollout's updates."""
        self.logger.record("train/loss", np.mean(history["loss"]))
        self.logger.record("train/accuracy", np.mean(history["accuracy"]))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("plasticity/gradient_norm", np.mean(history["gradient_norm"]))

    def dump_logs(self, iteration: int = 0) -> None:
        """As SB3's on-policy algorithms: episodes' means, speed, and all that has been recorded."""
        self._record_mitigations()
        record, episodes = self.logger.record, self.ep_info_buffer or ()
        seconds = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if iteration > 0:
            record("time/iterations", iteration, exclude="tensorboard")
        if episodes:
            record("rollout/ep_rew_mean", safe_mean([episode["r"] for episode in episodes]))
            record("rollout/ep_len_mean", safe_mean([episode["l"] for episode in episodes]))
        record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        record("time/time_elapsed", int(seconds), exclude="tensorboard")
        record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def start_task(self, task: int) -> None:
        """As `Agent.start_task`; then the network is given the head that ``new_head`` asks for."""
        super().start_task(task)
        if self.new_head == "keep":
            return
        heads = self._heads()
        for head in heads:
            if self.new_head == "zero":
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)
            else:
                head.reset_parameters()
                initialise(head, self.initialisation)
        own = {parameter for head in heads for parameter in head.parameters()}
        self.after_redraw({name: p for name, p in self.policy.named_parameters() if p in own})

    def _heads(self) -> list[nn.Linear]:
        """The layers that put out logits of classes: one, or with a mixture one per expert."""
        head: Any = self.policy.head
        return head.output_layers() if isinstance(head, Mixture) else [head]

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's; training goes on with the samples of ``env``, at the beginning of a pass."""
        super().set_env(env, force_reset)
        self._passes = None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_passes", "_norms"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []

    # Windows for the instruments --------------------------------------------------------------------------

    def objectives(self, unclipped: bool = False) -> dict[str, Objective]:
        """``classifier``: the cross-entropy as a function of the logits ``[B, classes]``.

        It is convex in them, so that the Gauss-Newton matrix is positive semi-definite; it is the Fisher
        matrix of the predicted distribution, too.

        Args:
            unclipped: without effect; there is nothing clipped here.
        """
        objective = Objective(
            "classifier",
            self.networks()["classifier"],
            loss=lambda batch: self.loss(batch).total,
            outputs=self._logits,
            output_loss=lambda logits, batch: cross_entropy(logits, batch.labels),
        )
        return {"classifier": objective}

    def gather(self, env: GymEnv, samples: int, seed: int) -> ClassifierBatch:
        """Samples of ``env`` drawn without replacement: all of them, if it has no more.

        Nothing is stepped or reset, and no random state is touched.

        Args:
            env: a separate environment of the task to look at.
            samples: size of the batch.
            seed: of the draw.

        Raises:
            AgentError: ``env`` is the training environment, or offers no samples.
        """
        everything = self.prepare(labelled_samples(self._separate(env)))
        order = np.random.default_rng(seed).permutation(len(everything.labels))[:samples]
        return select(everything, torch.from_numpy(order).to(self.device))

    def recent_observations(self, samples: int) -> Observations:
        """The inputs shown last. See `Agent`."""
        if self._passes is None:
            raise AgentError(
                "The classifier has been shown no sample of this environment yet; learn() first."
            )
        return self._passes.recent(samples)

    def sample_observations(self, samples: int) -> Observations:
        """Of the environment's inputs, without replacement."""
        if self._passes is None:
            return self.recent_observations(samples)
        inputs = self._passes.samples.observations
        chosen = torch.as_tensor(np.random.permutation(len(inputs))[:samples], device=self.device)
        return inputs[chosen]

    def hidden_layers(self) -> dict[str, nn.Module]:
        """``classifier/<depth>``, the features extractor's layers first."""
        policy = self.policy
        # The head has no activation, unless a mitigation has moved one there.
        parts = [policy.features_extractor, policy.body, policy.head]
        return hidden_activations("classifier", parts, policy.activation_fn)

    def deciding(self) -> tuple[str, tuple[nn.Module, ...]]:
        """``classifier``: its hidden layers after the extractor, and the head."""
        return "classifier", (self.policy.body, self.policy.head)

    def networks(self) -> dict[str, dict[str, nn.Parameter]]:
        """``classifier``: everything."""
        return {"classifier": dict(self.policy.named_parameters())}

    def _forward_hidden(self, observations: Observations) -> None:
        assert isinstance(observations, Tensor)
        self._forward(observations)


class _Tally:
    """Counts right predictions, of many minibatches at once: that takes little longer than of one."""

    def __init__(self) -> None:
        self.correct = self.shown = 0
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor | None, labels: Tensor) -> None:
        assert logits is not None
        self.shown += len(labels)
        self._waiting.append((logits, labels))

    def count(self) -> int:
        """Right predictions since the last count."""
        if not self._waiting:
            return 0
        logits, labels = map(torch.cat, zip(*self._waiting, strict=True))
        self._waiting.clear()
        correct = int(correct_predictions(logits, labels))
        self.correct += correct
        return correct


def _check_spaces(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
    if not isinstance(observations, spaces.Box):
        raise UnsupportedSpace(f"The classifier takes Box observations, not {observations}.")
    if not isinstance(actions, spaces.Discrete) or actions.start != 0:
        raise UnsupportedSpace(
            "The classifier's classes are Discrete actions that start at 0, but those of the environment are "
            f"{actions}."
        )
