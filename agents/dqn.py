"""DQN: stable-baselines3's, with a named loss, mitigations and windows for the instruments."""

import copy
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from torch import Tensor, nn

from .base import Agent, scalars
from .errors import UnsupportedSpace
from .features import hidden_activations
from .losses import td_loss
from .types import DQNBatch, Loss, Objective, Observations, Update


class DQN(Agent, stable_baselines3.DQN):
    """Deep Q-network with mitigations.

    Takes the arguments of ``stable_baselines3.DQN`` and those of `Agent`. Without mitigations, parameters and
    logged scalars equal stable-baselines3's bit for bit; the one scalar more is ``plasticity/gradient_norm``.

    Raises:
        UnsupportedSpace: the environment's actions are not Discrete.

    Example:
        >>> from pliant.agents import DQN, EffectiveRank
        >>> agent = DQN("MlpPolicy", "CartPole-v1", buffer_size=1000, mitigations=[EffectiveRank(every=10)])
        >>> agent.learn(10_000)  # doctest: +SKIP
    """

    name: ClassVar[str] = "dqn"
    action_space: spaces.Discrete

    def __init__(self, policy: Any, env: Any, *args: Any, **kwargs: Any) -> None:
        actions = getattr(env, "action_space", None)
        if actions is not None and not isinstance(actions, spaces.Discrete):
            raise UnsupportedSpace(
                f"DQN chooses among Discrete actions, but the environment's are {actions}. "
                "Use PPO, or an environment with discrete actions."
            )
        self._made_at = 0
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.q_net_target.load_state_dict(self.q_net.state_dict())  # the initialisation redrew only q_net

    def _remodel(self) -> None:
        self._create_aliases()  # of the policy of a fresh twin
        super()._remodel()
        if any(mitigation.overrides("remodel") for mitigation in self.mitigations):
            self.policy.q_net_target = copy.deepcopy(self.policy.q_net)
            self.policy.q_net_target.set_training_mode(False)
            self._create_aliases()
            self.batch_norm_stats = get_parameters_by_name(self.q_net, ["running_"])
            self.batch_norm_stats_target = get_parameters_by_name(self.q_net_target, ["running_"])

    def count_from(self, env_steps: int) -> None:
        """As `Agent.count_from`: it explores for ``learning_starts`` steps of its own before it learns."""
        self.learning_starts += env_steps - self._made_at
        self._made_at = env_steps

    def follow(self) -> None:
        """The target network becomes a copy of the online one."""
        self.q_net_target.load_state_dict(self.q_net.state_dict())

    # The loss ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, samples: ReplayBufferSamples) -> DQNBatch:
        """Replay samples -> the constants of the loss.

        TD targets are ``r + discount (1 - done) max_a Q_target(s', a)`` at the present target network. The
        discount is ``gamma``, or what an n-step replay buffer says for each sample.
        """
        discounts = self.gamma if samples.discounts is None else samples.discounts
        next_q_values = self.q_net_target(samples.next_observations).max(dim=1).values.reshape(-1, 1)
        targets = samples.rewards + (1 - samples.dones) * discounts * next_q_values
        return DQNBatch(samples.observations, samples.actions.long(), targets)

    def loss(self, batch: DQNBatch) -> Loss:
        """The Huber loss of the TD error (see `losses.td_loss`)."""
        total = td_loss(self.q_net(batch.observations), batch.actions, batch.targets)
        return Loss(total, {"td_loss": total}, {})

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take ``gradient_steps`` optimiser steps, each on ``batch_size`` fresh samples of the replay buffer.

        Raises:
            NonFiniteLoss: before the optimiser step that a NaN or infinite loss or gradient would spoil.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        assert self.replay_buffer is not None
        parameters, taps = list(self.q_net.parameters()), self._taps_for_penalties()
        losses, gradient_norms = [], []

        for _ in range(gradient_steps):
            samples = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            update = Update(self.gradient_updates, samples.observations)
            for mitigation in self.mitigations:
                mitigation.before_update(self, update)

            batch = self.prepare(samples)
            loss, penalties = self._loss_and_penalties(batch, taps)
            numbers = scalars({**loss.parts, **penalties})
            self._require_finite(numbers, numbers)
            losses.append(numbers["td_loss"])

            gradient_norms.append(self._descend(sum(penalties.values(), start=loss.total), parameters))
            for mitigation in self.mitigations:
                mitigation.after_update(self, update)

        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))
        self.logger.record("plasticity/gradient_norm", fmean(gradient_norms))

    def schedule_over(self, start: int, end: int) -> None:
        """As `Agent.schedule_over`; the exploration rate follows at once, not after the next step."""
        super().schedule_over(start, end)
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)

    def cut_episodes(self) -> None:
        """As `Agent.cut_episodes`: no n-step return goes on into the episode that is next in the buffer."""
        buffer = self.replay_buffer
        if buffer is not None and (buffer.full or buffer.pos):
            last = buffer.pos - 1  # -1: the end of a buffer that has just become full
            buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], np.logical_not(buffer.dones[last]))

    # Windows for the instruments --------------------------------------------------------------------------

    def objectives(self, unclipped: bool = False) -> dict[str, Objective]:
        """``q``: the TD loss at fixed targets, as a function of the Q-values ``[B, actions]``.

        Args:
            unclipped: without effect; there is nothing clipped here.
        """

        def outputs(batch: DQNBatch) -> Tensor:
            q_values: Tensor = self.q_net(batch.observations)
            return q_values

        q = Objective(
            "q",
            self.networks()["q"],
            loss=lambda batch: self.loss(batch).total,
            outputs=outputs,
            output_loss=lambda q_values, batch: td_loss(q_values, batch.actions, batch.targets),
        )
        return {"q": q}

    def recent_observations(self, samples: int) -> Observations:
        """The last ones put into the replay buffer. See `Agent`."""
        buffer = self.replay_buffer
        assert buffer is not None
        filled = buffer.buffer_size if buffer.full else buffer.pos
        rows = np.arange(
            buffer.pos - min(-(-samples // buffer.n_envs), filled), buffer.pos
        )  # below 0: the end

        def last(array: np.ndarray) -> np.ndarray:
            return array[rows].reshape(-1, *array.shape[2:])  # [rows, n_envs, ...] -> [rows n_envs, ...]

        stored = buffer.observations
        recent = {k: last(v) for k, v in stored.items()} if isinstance(stored, dict) else last(stored)
        return self.policy.obs_to_tensor(recent)[0]

    def gather(self, env: GymEnv, samples: int, seed: int, epsilon: float | None = None) -> DQNBatch:
        """Transitions of ``env`` under the epsilon-greedy policy, with TD targets, of the present networks.

        Each comes once, or with several copies of the environment each time step comes once per copy, with
        the copy drawn at random. Parameters, optimiser, replay buffer, training environment, logger,
        training mode and all global random states are afterwards what they were.

        Args:
            env: a separate environment of the task to look at, with one or more copies; it is reset.
            samples: size of the batch.
            seed: of the environment and of the actions.
            epsilon: share of random actions; by default ``exploration_final_eps``.

        Raises:
            AgentError: ``env`` is the training environment.
        """
        venv = self._separate(env)
        with self._undisturbed(seed):
            steps = -(-samples // venv.num_envs)
            buffer = self._explore(
                venv, steps, seed, self.exploration_final_eps if epsilon is None else epsilon
            )
            chosen = np.resize(np.random.permutation(steps), samples)
            return self.prepare(buffer._get_samples(chosen, env=unwrap_vec_normalize(venv)))

    def _explore(self, env: VecEnv, steps: int, seed: int, epsilon: float) -> ReplayBuffer:
        """``steps`` steps of each copy of ``env``, from a reset, in a replay buffer of their own."""
        stand_in = copy.copy(self)  # _store_transition moves its last observation, not ours
        stand_in._vec_normalize_env = unwrap_vec_normalize(env)
        env.seed(seed)
        stand_in._last_obs = env.reset()  # type: ignore[assignment]
        if stand_in._vec_normalize_env is not None:
            stand_in._last_original_obs = stand_in._vec_normalize_env.get_original_obs()
        assert self.replay_buffer_class is not None
        buffer = self.replay_buffer_class(
            (steps + 1) * env.num_envs,  # one to spare: it must not wrap around
            self.observation_space,
            self.action_space,
            device=self.device,
            n_envs=env.num_envs,
            optimize_memory_usage=self.optimize_memory_usage,
            **self.replay_buffer_kwargs,
        )
        for _ in range(steps):
            greedy, _ = self.policy.predict(stand_in._last_obs, deterministic=True)  # type: ignore[arg-type]
            # Not action_space.sample(): that generator is the agent's
            random = np.random.randint(self.action_space.n, size=env.num_envs)
            actions = np.where(np.random.random(env.num_envs) < epsilon, random, greedy)
            new_obs, rewards, dones, infos = env.step(actions)
            stand_in._store_transition(buffer, actions, new_obs, rewards, dones, infos)  # type: ignore[arg-type]
        return buffer

    def sample_observations(self, samples: int) -> Observations:
        """Of the replay buffer."""
        assert self.replay_buffer is not None
        observations: Observations = self.replay_buffer.sample(
            samples, env=self._vec_normalize_env
        ).observations
        return observations

    def hidden_layers(self) -> dict[str, nn.Module]:
        """``q/<depth>``, the features extractor's layers first."""
        q_net = self.q_net
        return hidden_activations("q", [q_net.features_extractor, q_net.q_net], q_net.activation_fn)

    def deciding(self) -> tuple[str, tuple[nn.Module, ...]]:
        """``q``: the online network without its extractor."""
        return "q", (self.q_net.q_net,)

    def networks(self) -> dict[str, dict[str, nn.Parameter]]:
        """``q``: the online network."""
        trained = {name: p for name, p in self.policy.named_parameters() if name.startswith("q_net.")}
        return {"q": trained}

    def _forward_hidden(self, observations: Observations) -> None:
        self.q_net(observations)
