"""What each shift does, against values worked out by hand or drawn independently."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from pliant.envs import EnvError, GridImage
from pliant.envs.shifts import (
    ActionDelay,
    ActionRemap,
    Layout,
    ObservationNoise,
    ObservationOffset,
    ObservationPermutation,
    ObservationScale,
    RewardScale,
    StickyAction,
)


class Echo(gymnasium.Env):
    """Observes ``start`` plus the number of steps taken, rewards 1, remembers the actions it was given."""

    def __init__(self, observation_space: Box | None = None, action_space: Any = None) -> None:
        self.observation_space = observation_space or Box(-1, 100, (3,), np.float32)
        self.action_space = action_space or Discrete(4)
        self.start = np.arange(np.prod(self.observation_space.shape)).reshape(self.observation_space.shape)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.actions = []
        return self.start.astype(self.observation_space.dtype), {}

    def step(self, action):
        self.actions.append(action)
        observation = self.start + len(self.actions)
        return observation.astype(self.observation_space.dtype), 1.0, False, False, {}


def executed(env: gymnasium.Env, actions: list[Any]) -> list[Any]:
    env.reset(seed=0)
    for action in actions:
        env.step(action)
    return env.unwrapped.actions


def test_an_offset_is_std_times_standard_normal_draws_from_its_seed():
    env = ObservationOffset(Echo(), std=2.0, seed=5)
    offset = (2.0 * np.random.default_rng(5).standard_normal(3)).astype(np.float32)
    assert np.array_equal(env.reset()[0], np.array([0, 1, 2], np.float32) + offset)
    assert np.array_equal(env.step(0)[0], np.array([1, 2, 3], np.float32) + offset)


def test_half_a_ramp_is_half_an_offset():
    half, full = (ObservationOffset(Echo(), std=2.0, ramp=ramp, elapsed=2) for ramp in (4, 0))
    assert np.allclose(2 * (half.reset()[0] - [0, 1, 2]), full.reset()[0] - [0, 1, 2])


def test_gains_are_exponentials_of_normal_draws_from_their_seed():
    env = ObservationScale(Echo(), std=0.5, seed=5)
    gain = np.exp(0.5 * np.random.default_rng(5).standard_normal(3)).astype(np.float32)
    assert np.array_equal(env.reset()[0], np.array([0, 1, 2], np.float32) * gain)


def test_noise_has_the_standard_deviation_asked_for_and_changes_at_every_step():
    env = ObservationNoise(Echo(), std=0.3)
    env.reset(seed=0)
    noise = np.array([env.step(0)[0] - np.arange(3) - t - 1 for t in range(4000)])
    assert noise.std(axis=0) == pytest.approx([0.3] * 3, rel=0.05)
    assert noise.mean(axis=0) == pytest.approx([0.0] * 3, abs=0.02)
    assert np.abs(np.corrcoef(noise[1:].T, noise[:-1].T) - np.eye(6)).max() < 0.06


def test_noise_comes_from_the_generator_that_reset_seeds():
    env = ObservationNoise(Echo(), std=1.0)
    observation = env.reset(seed=11)[0]
    assert np.array_equal(
        observation,
        np.arange(3, dtype=np.float32) + np.random.default_rng(11).standard_normal(3).astype(np.float32),
    )


def test_a_permutation_moves_entries():
    env = ObservationPermutation(Echo(), permutation=[2, 0, 1])
    assert env.reset()[0].tolist() == [2, 0, 1]
    assert env.step(0)[0].tolist() == [3, 1, 2]


def test_a_drawn_permutation_comes_from_the_seed():
    order = np.random.default_rng(4).permutation(3)
    assert ObservationPermutation(Echo(), seed=4).reset()[0].tolist() == order.tolist()


def test_pictures_are_permuted_as_if_flat_and_keep_shape_dtype_and_bounds():
    space = Box(0, 20, (2, 3), np.uint8)
    env = ObservationPermutation(Echo(space), permutation=[5, 4, 3, 2, 1, 0])
    observation = env.reset()[0]
    assert observation.tolist() == [[5, 4, 3], [2, 1, 0]]
    assert observation.dtype == np.uint8
    assert env.observation_space == space


def test_integers_with_unequal_bounds_are_declared_within_the_widest():
    space = Box(np.array([1, 0]), np.array([5, 9]), dtype=np.int64)
    assert ObservationPermutation(Echo(space)).observation_space == Box(0, 9, (2,), np.int64)


def test_discrete_actions_are_permuted():
    assert executed(ActionRemap(Echo(), permutation=[3, 2, 0, 1]), [0, 1, 2, 3]) == [3, 2, 0, 1]


def test_discrete_actions_may_start_elsewhere_than_at_zero():
    env = ActionRemap(Echo(action_space=Discrete(3, start=5)), permutation=[1, 2, 0])
    assert executed(env, [5, 6, np.int64(7)]) == [6, 7, 5]


def test_continuous_actions_change_place_and_sign():
    env = ActionRemap(Echo(action_space=Box(-1, 1, (3,))), permutation=[1, 2, 0], signs=[1, -1, 1])
    (action,) = executed(env, [np.array([0.1, 0.2, 0.3], np.float32)])
    assert action.tolist() == pytest.approx([0.2, -0.3, 0.1])
    assert action.dtype == np.float32


def test_a_sign_mirrors_at_the_middle_of_the_bounds():
    env = ActionRemap(Echo(action_space=Box(0, 10, (2,))), permutation=[0, 1], signs=[-1, 1])
    assert executed(env, [np.array([1, 2], np.float32)])[0].tolist() == [9, 2]


@pytest.mark.parametrize("seed", range(5))
def test_remapped_actions_stay_in_the_action_space(seed):
    space = Box(-2, 6, (4,), seed=seed)
    env = ActionRemap(Echo(action_space=space), seed=seed)
    assert all(space.contains(action) for action in executed(env, [space.sample() for _ in range(20)]))


def test_a_delay_executes_the_first_action_until_it_is_due():
    assert executed(ActionDelay(Echo(), delay=2), [1, 2, 3, 0, 2]) == [1, 1, 1, 2, 3]


def test_a_delay_forgets_at_reset():
    env = ActionDelay(Echo(), delay=1)
    assert executed(env, [1, 2]) == [1, 1]
    assert executed(env, [3, 0]) == [3, 3]


def test_certain_sticking_repeats_the_first_action_for_ever_and_forgets_at_reset():
    env = StickyAction(Echo(), probability=1.0)
    assert executed(env, [1, 2, 3]) == [1, 1, 1]
    assert executed(env, [2, 3]) == [2, 2]


def test_actions_stick_as_often_as_asked():
    actions = [t % 4 for t in range(4000)]
    repeats = np.diff(executed(StickyAction(Echo(), probability=0.25), actions)) == 0
    assert repeats.mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("scale", [-1.0, 0.1, 0.0, 3.0])
def test_rewards_are_multiplied(scale):
    env = RewardScale(Echo(), scale=scale)
    env.reset()
    assert env.step(0)[1] == scale


def test_rewards_ramp_from_one():
    env = RewardScale(Echo(), scale=-1.0, ramp=4)
    env.reset()
    assert [env.step(0)[1] for _ in range(6)] == [0.5, 0.0, -0.5, -1.0, -1.0, -1.0]


def grid(seeds: list[int]) -> gymnasium.Env:
    import minigrid  # noqa: F401 - registers its environments

    return Layout(GridImage(gymnasium.make("MiniGrid-FourRooms-v0")), seeds=seeds)


def test_a_layout_is_the_same_in_every_episode_and_equal_to_its_seed():
    env = grid([3])
    plain = gymnasium.make("MiniGrid-FourRooms-v0")
    plain.reset(seed=3)
    for seed in (0, None, 1, None):
        env.reset(seed=seed)
        assert env.unwrapped.hash() == plain.unwrapped.hash()


def test_layouts_are_drawn_from_the_whole_set_as_the_seed_of_reset_says():
    def visited() -> list[str]:
        hashes = []
        for episode in range(30):
            env.reset(seed=9 if episode == 0 else None)
            hashes.append(env.unwrapped.hash())
        return hashes

    env = grid([0, 1, 2])
    first = visited()
    assert len(set(first)) == 3
    assert visited() == first


def test_a_fixed_layout_does_not_fix_what_happens_within_the_episode():
    env = ObservationNoise(Layout(Echo(), seeds=[3]), std=1.0)
    first, second = env.reset(seed=0)[0].tolist(), env.reset()[0].tolist()
    assert first != second
    assert env.reset(seed=0)[0].tolist() == first


@pytest.mark.parametrize(
    ("shift", "env", "message"),
    [
        (lambda env: ObservationOffset(env, std=-1), Echo(), "std must be a finite number >= 0, got -1"),
        (lambda env: ObservationOffset(env, std=True), Echo(), "std must be a finite number >= 0, got True"),
        (
            lambda env: ObservationOffset(env, std=1, seed=-3),
            Echo(),
            "seed must be a whole number >= 0, got -3",
        ),
        (
            lambda env: ObservationNoise(env, std=float("inf")),
            Echo(),
            "std must be a finite number >= 0, got inf",
        ),
        (
            lambda env: ObservationScale(env, std="a"),
            Echo(),
            "std must be a finite number >= 0 and <= 10, got 'a'",
        ),
        (
            lambda env: ObservationNoise(env, std=1, ramp=1.5),
            Echo(),
            "ramp must be a whole number >= 0, got 1.5",
        ),
        (
            lambda env: ObservationNoise(env, std=1),
            Echo(Box(0, 9, (2,), np.uint8)),
            "needs observations in a Box of floats, this environment has Box(0, 9, (2,), uint8)",
        ),
        (
            lambda env: ObservationPermutation(env, permutation=[0, 1]),
            Echo(),
            "permutation must hold each of 0, ..., 2 once, got [0, 1]",
        ),
        (
            lambda env: ActionRemap(env, permutation=[0, 1, 1, 2]),
            Echo(),
            "permutation must hold each of 0, ..., 3 once, got [0, 1, 1, 2]",
        ),
        (
            lambda env: ActionRemap(env, signs=[1]),
            Echo(),
            "signs are for Box actions, this environment has Discrete(4)",
        ),
        (
            lambda env: ActionRemap(env, signs=[1, 2]),
            Echo(action_space=Box(-1, 1, (2,))),
            "signs must be 2 entries of 1 or -1, got [1, 2]",
        ),
        (
            ActionRemap,
            Echo(action_space=Box(np.array([-1, 0], np.float32), np.array([1, 1], np.float32))),
            "needs a Box of actions whose entries all have the same finite bounds, "
            "got Box([-1.  0.], 1.0, (2,), float32)",
        ),
        (
            ActionRemap,
            Echo(action_space=gymnasium.spaces.MultiBinary(2)),
            "needs Discrete or Box actions, this environment has MultiBinary(2)",
        ),
        (lambda env: ActionDelay(env, delay=-1), Echo(), "delay must be a whole number >= 0, got -1"),
        (
            lambda env: StickyAction(env, probability=1.5),
            Echo(),
            "probability must be a finite number >= 0 and <= 1, got 1.5",
        ),
        (lambda env: RewardScale(env, scale=float("nan")), Echo(), "scale must be a finite number, got nan"),
        (
            lambda env: Layout(env, seeds=[]),
            Echo(),
            "seeds must be a list of at least one whole number, got []",
        ),
        (lambda env: Layout(env, seeds=[1, -1]), Echo(), "seeds[1] must be a whole number >= 0, got -1"),
    ],
)
def test_a_wrong_parameter_or_environment_is_refused_with_the_reason(shift, env, message):
    with pytest.raises(EnvError) as refusal:
        shift(env)
    assert str(refusal.value) == message
