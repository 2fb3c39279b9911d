"""MinAtar's games under one observation and one action space. Needs the package minatar."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from .errors import InvalidTask, unknown
from .shifts.base import Reset, Step, real

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
CHANNELS = 10
"""Of Seaquest, the game that has most."""
SIDE = 10
_PIXELS = 32
"""Of a drawn cell."""


class MinAtar(gymnasium.Env[NDArray[np.uint8], Any]):
    """One of MinAtar's games (Young & Tian 2019, arXiv 1903.03176).

    Observations are ``[10, 10, 10]`` bytes, 0 or 1: the game's 4 to 10 channels of 10 x 10 cells and, after
    them, channels of zeros, so that one network can play all of them; channels come first, for no axis is the
    smallest. There are always all 6 actions: nothing, left, up, right, down, fire.

    The game is the package's. Its own gymnasium environments draw from a generator that gymnasium's seed does
    not reach, and the action that may stick at an episode's start is the last of the episode before; here all
    that is random comes from ``reset(seed=...)``, and an episode begins with "nothing". There is no time
    limit but Freeway's own of 2,500 environment steps.

    Args:
        game: One of ``GAMES``.
        sticky_action_prob: Probability that the last action is executed instead of the agent's.
        difficulty_ramping: Whether the games that can grow harder within an episode do.
        render_mode: None or ``"rgb_array"``.

    Raises:
        InvalidTask: There is no such game.
        InvalidShift: ``sticky_action_prob`` is no probability.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (gymnasium's own form)
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }

    def __init__(
        self,
        game: str = "breakout",
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if game not in GAMES:
            raise InvalidTask(unknown("game", str(game), GAMES))
        from minatar import Environment

        sticky = real("sticky_action_prob", sticky_action_prob, low=0, high=1)
        self.game = Environment(game, sticky_action_prob=sticky, difficulty_ramping=difficulty_ramping)
        self.render_mode = render_mode
        self.observation_space = Box(0, 1, (CHANNELS, SIDE, SIDE), np.uint8)
        self.action_space = Discrete(self.game.num_actions())

    def _observe(self) -> NDArray[np.uint8]:
        observation = np.zeros((CHANNELS, SIDE, SIDE), np.uint8)
        state = self.game.state()  # [10, 10, channels], bool
        observation[: state.shape[2]] = np.moveaxis(state, 2, 0)
        return observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        """Begin an episode, with a generator of its own that is seeded from the environment's."""
        super().reset(seed=seed)
        self.game.seed(int(self.np_random.integers(2**32)))
        self.game.last_action = 0
        self.game.reset()
        return self._observe(), {}

    def step(self, action: Any) -> Step:
        """Execute an action, or the one before it."""
        reward, terminal = self.game.act(int(action))
        return self._observe(), float(reward), bool(terminal), False, {}

    def render(self) -> Any:
        """A picture of 320 x 320 pixels: each channel its own colour, a later one over an earlier."""
        if self.render_mode is None:
            return None
        from matplotlib import colormaps

        state = self.game.state()
        channels = state.shape[2]
        colours = colormaps["cubehelix"](np.linspace(0, 1, channels + 2)[1:-1])[:, :3]
        palette = np.vstack([np.zeros(3), colours])
        top = (state * (np.arange(channels) + 1)).max(axis=2)  # [10, 10]
        cells = np.round(255 * palette[top]).astype(np.uint8)
        return cells.repeat(_PIXELS, axis=0).repeat(_PIXELS, axis=1)
