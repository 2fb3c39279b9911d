"""PPO: stable-baselines3's, with a named loss, mitigations and windows for the instruments."""

import copy
import math
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import GymEnv, RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn

from .base import Agent, scalars
from .distributions import distribution_parameters, unchecked_distributions
from .errors import AgentError, InvalidSetting, NonFiniteLoss
from .features import hidden_activations
from .losses import (
    approximate_kl,
    clip_fraction,
    entropy_loss,
    kl_from_present,
    surrogate_loss,
    value_loss,
)
from .networks import INITIALISATIONS
from .optimizers import MuonAdam
from .types import Loss, Objective, Observations, PPOBatch, Update


class PPO(Agent, stable_baselines3.PPO):
    """Proximal policy optimisation with mitigations.

    Takes the arguments of ``stable_baselines3.PPO`` and those of `Agent`. Without mitigations, parameters and
    logged scalars equal stable-baselines3's bit for bit; the one scalar more is
    ``plasticity/gradient_norm``, the mean over updates of the gradient's norm before clipping.

    Example:
        >>> from pliant.agents import L2, PPO, EffectiveRank
        >>> agent = PPO("MlpPolicy", "CartPole-v1", mitigations=[EffectiveRank(1e-3), L2(1e-5)])
        >>> agent.learn(10_000)  # doctest: +SKIP
    """

    name: ClassVar[str] = "ppo"
    has_epochs: ClassVar[bool] = True

    def hidden_scheme(self) -> Callable[[Tensor], None] | None:
        """As `Agent`'s; stable-baselines3 draws PPO's weights orthogonal."""
        ortho_init = self.initialisation == "sb3" and self.policy.ortho_init
        return INITIALISATIONS["orthogonal"] if ortho_init else super().hidden_scheme()

    def _build(self) -> None:
        super()._build()
        if self.use_sde and isinstance(self.policy.optimizer, MuonAdam):
            raise InvalidSetting(
                "Muon takes every matrix for a layer's weights, but gSDE's log standard deviations are one: "
                "use_sde = false, or another optimiser."
            )

    def _new_policy(self) -> Any:
        with self._built_policy_kwargs() as kwargs:
            policy: Any = self.policy_class(
                self.observation_space, self.action_space, self.lr_schedule, use_sde=self.use_sde, **kwargs
            )
        return policy.to(self.device)

    # The loss ---------------------------------------------------------------------------------------------

    def prepare(self, samples: RolloutBufferSamples) -> PPOBatch:
        """Rollout samples -> the constants of the loss.

        Advantages are normalised over these very samples, so prepare the whole batch before splitting it.
        """
        actions, advantages = samples.actions, samples.advantages
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        # One sample has no standard deviation: github.com/DLR-RM/stable-baselines3/issues/325
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        progress = self._current_progress_remaining
        return PPOBatch(
            observations=samples.observations,
            actions=actions,
            advantages=advantages,
            returns=samples.returns,
            old_values=samples.old_values,
            old_log_prob=samples.old_log_prob,
            clip_range=self.clip_range(progress),  # type: ignore[operator]
            clip_range_vf=None if self.clip_range_vf is None else self.clip_range_vf(progress),  # type: ignore[operator]
        )

    @unchecked_distributions()
    def loss(self, batch: PPOBatch) -> Loss:
        """``policy_loss + ent_coef entropy_loss + vf_coef value_loss`` (see `losses`)."""
        values, log_prob, entropy = self.policy.evaluate_actions(batch.observations, batch.actions)
        log_ratio = log_prob - batch.old_log_prob
        ratio = torch.exp(log_ratio)
        parts = {
            "policy_loss": surrogate_loss(ratio, batch.advantages, batch.clip_range),
            "value_loss": value_loss(values.flatten(), batch.returns, batch.old_values, batch.clip_range_vf),
            "entropy_loss": entropy_loss(entropy, log_prob),
        }
        total = (
            parts["policy_loss"] + self.ent_coef * parts["entropy_loss"] + self.vf_coef * parts["value_loss"]
        )
        with torch.no_grad():
            monitors = {
                "approx_kl": approximate_kl(ratio, log_ratio),
                "clip_fraction": clip_fraction(ratio, batch.clip_range),
            }
        return Loss(total, parts, monitors)

    def train(self) -> None:
        """Descend the loss over the rollout: ``n_epochs`` passes in minibatches, stopped at ``target_kl``.

        Raises:
            NonFiniteLoss: before the optimiser step that a NaN or infinite loss or gradient would spoil.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        parameters, taps = list(self.policy.parameters()), self._taps_for_penalties()
        buffer = self.rollout_buffer
        per_epoch = -(-buffer.buffer_size * buffer.n_envs // self.batch_size)  # the last may be smaller
        history: dict[str, list[float]] = defaultdict(list)
        stopped = False

        for epoch in range(self.n_epochs):
            divergences: list[np.float32] = []
            for index, samples in enumerate(buffer.get(self.batch_size)):
                update = Update(
                    self.gradient_updates, samples.observations, index, per_epoch, self._rollout_observations
                )
                for mitigation in self.mitigations:
                    mitigation.before_update(self, update)

                batch = self.prepare(samples)
                loss, penalties = self._loss_and_penalties(batch, taps)
                numbers = scalars({"loss": loss.total, **loss.parts, **penalties, **loss.monitors})
                self._require_finite(numbers, [*loss.parts, *penalties])
                for quantity, number in numbers.items():
                    history[quantity].append(number)

                divergences.append(np.float32(numbers["approx_kl"]))
                if self.target_kl is not None and divergences[-1] > 1.5 * self.target_kl:
                    stopped = True
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {divergences[-1]:.2f}")
                    break

                gradient_norm = self._descend(sum(penalties.values(), start=loss.total), parameters)
                history["gradient_norm"].append(gradient_norm)
                for mitigation in self.mitigations:
                    mitigation.after_update(self, update)

            self._n_updates += 1
            if stopped:
                break

        self._record(history, divergences, batch)

    def _record(
        self, history: dict[str, list[float]], divergences: list[np.float32], batch: PPOBatch
    ) -> None:
        """Log what SB3 logs: means over updates, of the last epoch for the KL, and the last update's loss."""
        buffer, record = self.rollout_buffer, self.logger.record
        record("train/entropy_loss", np.mean(history["entropy_loss"]))
        record("train/policy_gradient_loss", np.mean(history["policy_loss"]))
        record("train/value_loss", np.mean(history["value_loss"]))
        record("train/approx_kl", np.mean(divergences))
        record("train/clip_fraction", np.mean(history["clip_fraction"]))
        record("train/loss", history["loss"][-1])
        record(
            "train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        )
        if hasattr(self.policy, "log_std"):
            record("train/std", torch.exp(self.policy.log_std).mean().item())
        if history["gradient_norm"]:
            record("plasticity/gradient_norm", np.mean(history["gradient_norm"]))
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        record("train/clip_range", batch.clip_range)
        if batch.clip_range_vf is not None:
            record("train/clip_range_vf", batch.clip_range_vf)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """As SB3's.

        Raises:
            NonFiniteLoss: an observation is NaN or infinite and the policy cannot act on it.
        """
        try:
            with unchecked_distributions():
                return super().collect_rollouts(*args, **kwargs)
        except (RuntimeError, ValueError) as error:
            seen = self._last_obs.values() if isinstance(self._last_obs, dict) else [self._last_obs]
            if all(np.isfinite(observation).all() for observation in seen if observation is not None):
                raise
            raise NonFiniteLoss("an observation", self.gradient_updates) from error

    def losses_of_networks(self) -> dict[str, Tensor]:
        """As `Agent`'s: the actor's is policy and entropy loss, the critic's the value loss."""
        losses = super().losses_of_networks()
        assert self.present_loss is not None
        parts = self.present_loss.parts
        losses["actor"] = parts["policy_loss"] + self.ent_coef * parts["entropy_loss"]
        losses["critic"] = self.vf_coef * parts["value_loss"]
        return losses

    def sample_observations(self, samples: int) -> Observations:
        """Of the rollout being learned from, without replacement."""
        stored, to_torch = self.rollout_buffer.observations, self.rollout_buffer.to_torch
        total = len(next(iter(stored.values()))) if isinstance(stored, dict) else len(stored)
        chosen = np.random.permutation(total)[:samples]
        if isinstance(stored, dict):
            return {key: to_torch(array[chosen], copy=False) for key, array in stored.items()}
        return to_torch(stored[chosen], copy=False)

    def _rollout_observations(self) -> Observations:
        """The whole rollout's, ``[n_steps * n_envs, ...]``: drawing minibatches has flattened the buffer."""
        stored, to_torch = self.rollout_buffer.observations, self.rollout_buffer.to_torch
        if isinstance(stored, dict):
            return {key: to_torch(array, copy=False) for key, array in stored.items()}
        return to_torch(stored, copy=False)

    # Windows for the instruments --------------------------------------------------------------------------

    def recent_observations(self, samples: int) -> Observations:
        """Those of the last rollout, evenly spaced. See `Agent`."""
        stored = self.rollout_buffer.observations

        def spaced(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            flat = array.reshape(-1, *shape)  # [n_steps, n_envs, ...] or, once minibatches are drawn, flat
            return flat[:: max(len(flat) // samples, 1)]

        shape: Any = self.rollout_buffer.obs_shape
        if isinstance(stored, dict):
            return self.policy.obs_to_tensor({key: spaced(stored[key], shape[key]) for key in stored})[0]
        return self.policy.obs_to_tensor(spaced(stored, shape))[0]

    def objectives(self, unclipped: bool = False) -> dict[str, Objective]:
        """``actor`` (policy and entropy loss), ``critic`` (``vf_coef`` value loss) and ``total``.

        ``actor`` and ``critic`` each hold the shared features extractor's parameters, if there are any;
        ``actor`` holds the log standard deviation. The outputs are the parameters of the action distribution
        and the values; the output losses are the KL divergence from the present policy, whose Gauss-Newton
        matrix is the Fisher matrix, and the scaled squared error.

        Args:
            unclipped: leave out both clips, for use where the policy is no longer the one that acted.
        """

        def clips(batch: PPOBatch) -> PPOBatch:
            return batch._replace(clip_range=float("inf"), clip_range_vf=None) if unclipped else batch

        networks = self.networks()
        shared = networks.get("shared", {})
        actor = shared | networks["actor"] | networks.get("log_std", {})
        critic = shared | networks["critic"]
        return {
            "actor": Objective(
                "actor",
                actor,
                loss=lambda batch: self._actor_loss(clips(batch)),
                outputs=lambda batch: distribution_parameters(self._distribution(batch)),
                output_loss=lambda outputs, _: kl_from_present(outputs, self.action_space),
                divergence=True,
            ),
            "critic": Objective(
                "critic",
                critic,
                loss=lambda batch: self._critic_loss(clips(batch)),
                outputs=self._values,
                output_loss=lambda values, batch: (
                    self.vf_coef * nn.functional.mse_loss(values, batch.returns[:, None])
                ),
            ),
            "total": Objective(
                "total",
                actor | critic,
                loss=lambda batch: self.loss(clips(batch)).total,
                outputs=lambda batch: torch.cat(
                    [distribution_parameters(self._distribution(batch)), self._values(batch)], dim=1
                ),
                output_loss=None,
            ),
        }

    @unchecked_distributions()
    def ratios(self, batch: PPOBatch) -> Tensor:
        """Probability of each action now over that when it was taken, ``[B]``; 1 in a gathered batch."""
        return torch.exp(self._distribution(batch).log_prob(batch.actions) - batch.old_log_prob)

    @unchecked_distributions()
    def _distribution(self, batch: PPOBatch) -> Distribution:
        return self.policy.get_distribution(batch.observations)

    def _values(self, batch: PPOBatch) -> Tensor:
        return self.policy.predict_values(batch.observations)

    @unchecked_distributions()
    def _actor_loss(self, batch: PPOBatch) -> Tensor:
        distribution = self._distribution(batch)
        log_prob = distribution.log_prob(batch.actions)
        ratio = torch.exp(log_prob - batch.old_log_prob)
        policy_loss = surrogate_loss(ratio, batch.advantages, batch.clip_range)
        return policy_loss + self.ent_coef * entropy_loss(distribution.entropy(), log_prob)

    def _critic_loss(self, batch: PPOBatch) -> Tensor:
        values = self._values(batch).flatten()
        return self.vf_coef * value_loss(values, batch.returns, batch.old_values, batch.clip_range_vf)

    def gather(self, env: GymEnv, samples: int, seed: int) -> PPOBatch:
        """An on-policy batch of ``env``, at which the new policy is the one that acted: every ratio is 1.

        Rolls out from a reset as training does (returns and advantages by GAE, time limits bootstrapped),
        with its own seed, buffer and counters. Parameters, optimiser, training environment, logger, training
        mode, exploration noise and all global random states are afterwards what they were.

        Args:
            env: a separate environment of the task to look at, with one or more copies; it is reset.
            samples: size of the batch, drawn without order from the shortest sufficient rollout.
            seed: of the environment and of the actions.

        Raises:
            AgentError: ``env`` is the training environment, or the policy gives the same action another
                probability each time (dropout in evaluation mode, say).
            NonFiniteLoss: the policy's probabilities are NaN (a standard deviation beyond 1e19, say).
        """
        venv = self._separate(env)
        actions = self.policy.action_dist
        noise = dict(vars(actions))  # gSDE keeps its exploration matrices there
        try:
            with self._undisturbed(seed):
                buffer = self._rollout(venv, steps=-(-samples // venv.num_envs), seed=seed)
                batch = self.prepare(next(buffer.get(samples)))
                # Acting sees one observation at a time, the loss a batch: sums round differently. So take the
                # old probabilities and values from the batch itself, and see that they repeat.
                values, log_prob, _ = self.policy.evaluate_actions(batch.observations, batch.actions)
                batch = batch._replace(old_values=values.flatten(), old_log_prob=log_prob)
                _, again, _ = self.policy.evaluate_actions(batch.observations, batch.actions)
                deviation = (torch.exp(again - log_prob) - 1).abs().max().item()
        finally:
            vars(actions).clear()
            vars(actions).update(noise)
        if math.isnan(deviation):
            raise NonFiniteLoss("the probability of an action", self.gradient_updates)
        if not deviation < 1e-5:
            raise AgentError(
                "The policy gives the same action another probability each time: the ratio of a fresh "
                f"on-policy batch differs from 1 by {deviation:.2g}. Remove noise from its networks."
            )
        return batch

    def _rollout(self, env: Any, steps: int, seed: int) -> RolloutBuffer:
        """``steps`` steps of each copy of ``env``, from a reset, in a buffer of their own."""
        stand_in = copy.copy(self)  # collect_rollouts moves its counters and episodes, not ours
        env.seed(seed)
        stand_in._last_obs = env.reset()
        stand_in._last_episode_starts = np.ones((env.num_envs,), dtype=bool)
        stand_in.ep_info_buffer, stand_in.ep_success_buffer = deque(maxlen=1), deque(maxlen=1)
        assert self.rollout_buffer_class is not None
        buffer = self.rollout_buffer_class(
            steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            n_envs=env.num_envs,
            **self.rollout_buffer_kwargs,
        )
        stand_in.collect_rollouts(env, stand_in._init_callback(None), buffer, n_rollout_steps=steps)
        return buffer

    def hidden_layers(self) -> dict[str, nn.Module]:
        """``actor/<depth>`` and ``critic/<depth>``; ``shared/<depth>`` in a shared features extractor."""
        policy = self.policy
        _, actor = self.deciding()
        # The last linear layers have no activation, unless a mitigation has moved one there.
        critic = (policy.mlp_extractor.value_net, policy.value_net)
        networks: dict[str, list[nn.Module]]
        if policy.share_features_extractor:
            networks = {"shared": [policy.features_extractor], "actor": [*actor], "critic": [*critic]}
        else:
            networks = {
                "actor": [policy.pi_features_extractor, *actor],
                "critic": [policy.vf_features_extractor, *critic],
            }
        return {
            name: layer
            for network, modules in networks.items()
            for name, layer in hidden_activations(network, modules, policy.activation_fn).items()
        }

    def deciding(self) -> tuple[str, tuple[nn.Module, ...]]:
        """``actor``: its hidden layers after the extractor, and the output layer."""
        return "actor", (self.policy.mlp_extractor.policy_net, self.policy.action_net)

    def networks(self) -> dict[str, dict[str, nn.Parameter]]:
        """``actor``, ``critic``, ``log_std`` (Box actions), ``shared`` (parameters of a shared extractor)."""
        policy = self.policy
        shared = "shared" if policy.share_features_extractor else "actor"
        homes = {
            "features_extractor": shared,  # the actor's own where it is not shared
            "vf_features_extractor": "critic",
            "mlp_extractor.policy_net": "actor",
            "mlp_extractor.value_net": "critic",
            "action_net": "actor",
            "value_net": "critic",
            "log_std": "log_std",
        }
        networks: dict[str, dict[str, nn.Parameter]] = {"actor": {}, "critic": {}}
        for name, parameter in policy.named_parameters():
            home = next((home for prefix, home in homes.items() if f"{name}.".startswith(f"{prefix}.")), None)
            if home is None:
                raise AgentError(
                    f"{type(policy).__name__} has a parameter {name!r} that is in none of PPO's networks. "
                    "Override PPO.networks() for this policy."
                )
            networks.setdefault(home, {})[name] = parameter
        return networks

    def _forward_hidden(self, observations: Observations) -> None:
        policy = self.policy
        features = policy.extract_features(observations)
        actor, critic = features if isinstance(features, tuple) else (features, features)
        policy.action_net(policy.mlp_extractor.forward_actor(actor))
        policy.value_net(policy.mlp_extractor.forward_critic(critic))
