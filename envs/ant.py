"""Slippery Ant: MuJoCo's ant on ground of a given friction. Needs the package mujoco."""

from typing import Any

from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.utils import EzPickle

from .shifts.parameters import set_physics


class SlipperyAnt(AntEnv):
    """``Ant-v5`` with one sliding friction on every geom and, by default, 27 observations: no contact forces.

    The environment of Dohare et al. 2024 (Nature 632, 768), where the friction is redrawn log-uniformly from
    [0.02, 2] at each switch. The reference code of arXiv 2509.22335 (``rlopt/envs``) has it on Brax's ant, in
    the "positional" backend: with the same 27 observations, episodes of 1,000 steps, 0.05 s per step and
    rewards; but Brax (``brax/envs/ant.py``) has no contact cost, and in that backend gears of 200, where
    MuJoCo's ant has 150. ``contact_cost_weight=0`` leaves out the contact cost here too.

    Args:
        friction: Sliding friction of every geom, > 0; 1 is that of ``Ant-v5``.
        include_cfrc_ext_in_observation: Whether to add the contact forces, 105 observations in all.
        **kwargs: As ``Ant-v5``.

    Raises:
        InvalidShift: ``friction`` is no number > 0.
    """

    def __init__(
        self, friction: float = 1.0, include_cfrc_ext_in_observation: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(include_cfrc_ext_in_observation=include_cfrc_ext_in_observation, **kwargs)
        set_physics(self, {"friction": friction})
        # AntEnv has recorded its own arguments, which are not ours: copies would lose the friction.
        EzPickle.__init__(self, friction, include_cfrc_ext_in_observation, **kwargs)
