"""MinAtar: the package's games, in one space, with nothing random that the seed does not govern."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from minatar import Environment

from pliant.envs import EnvError, SequenceSpec, Task, make_env
from pliant.envs.minatar import CHANNELS, GAMES

every_game = pytest.mark.parametrize("game", GAMES)


def make(game: str, **kwargs: Any) -> Any:
    return make_env(Task(env="pliant/MinAtar-v0", kwargs={"game": game, **kwargs}, length=1))


def played(reset: Callable[[], Any], step: Callable[[int], Any], steps: int = 300) -> list[Any]:
    actions = np.random.default_rng(0).integers(6, size=steps)
    return [reset(), *(step(int(action)) for action in actions)]


@every_game
def test_a_game_is_the_packages_with_zeros_for_the_channels_that_it_lacks(game: str) -> None:
    env = make(game).unwrapped
    env.reset(seed=5)
    theirs = Environment(game)
    theirs.seed(
        int(np.random.default_rng(5).integers(2**32))
    )  # what `reset` draws from gymnasium's generator
    theirs.reset()
    count = theirs.state_shape()[2]
    for action in np.random.default_rng(0).integers(6, size=300):
        observation, reward, terminated, truncated, _ = env.step(action)
        expected, over = theirs.act(int(action))
        assert (reward, terminated, truncated) == (expected, over, False)
        assert np.array_equal(observation[:count], np.moveaxis(theirs.state(), 2, 0))
        assert not observation[count:].any()
        if over:
            break


def test_the_games_have_different_channels_and_share_one_space() -> None:
    counts = [Environment(game).state_shape()[2] for game in GAMES]
    assert max(counts) == CHANNELS
    assert len(set(counts)) > 1
    games = {"rule": "list", "values": list(GAMES)}
    sequence = SequenceSpec(env="pliant/MinAtar-v0", kwargs={"game": games}, length=1, count=5).build(0)
    assert sequence.observation_space == Box(0, 1, (10, 10, 10), np.uint8)
    assert sequence.action_space == Discrete(6)


@every_game
def test_an_episode_depends_on_its_seed_alone_not_on_what_was_played_before(game: str) -> None:
    env = make(game)

    def episode(seed: int) -> list[Any]:
        seen: list[Any] = [env.reset(seed=seed)[0].tolist()]
        for action in np.random.default_rng(seed).integers(6, size=200):
            observation, reward, terminated, _, _ = env.step(action)
            seen.append((observation.tolist(), reward))
            if terminated:
                break
        return seen

    first = episode(1)
    assert episode(2) != first
    assert episode(1) == first


def test_actions_stick_as_often_as_they_are_told_to() -> None:
    def places(probability: float) -> int:
        env = make("breakout", sticky_action_prob=probability)
        env.reset(seed=0)
        obeyed = 0
        for t in range(400):
            before = env.unwrapped.game.env.pos
            wanted = 3 if before < 5 else 1  # right, left: the paddle can always move
            _, _, over, _, _ = env.step(wanted)
            obeyed += env.unwrapped.game.env.pos == before + (1 if wanted == 3 else -1)
            if over:
                env.reset(seed=t)
        return obeyed

    assert places(0.0) == 400
    assert 150 < places(0.5) < 350


@every_game
def test_a_game_is_drawn_with_a_colour_for_each_of_its_channels(game: str) -> None:
    env = make_env(Task(env="pliant/MinAtar-v0", kwargs={"game": game}, length=1), render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (320, 320, 3)
    assert frame.dtype == np.uint8
    cells = frame[::32, ::32]
    shown = env.unwrapped.game.state().any(axis=2)
    assert np.array_equal(cells.any(axis=2), shown)
    assert 2 <= len(np.unique(cells.reshape(-1, 3), axis=0)) <= CHANNELS + 1


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(EnvError, match=r"unknown game 'breakuot'. Did you mean 'breakout'"):
        make("breakuot")
    with pytest.raises(EnvError, match="sticky_action_prob must be a finite number >= 0 and <= 1, got 2"):
        make("breakout", sticky_action_prob=2)
