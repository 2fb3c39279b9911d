"""Slippery Ant: MuJoCo's ant on ground of a given friction. Needs the package mujoco."""

from typing import Any

from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.utils import EzPickle

from .shifts.parameters import set_physics


class SlipperyAnt(AntEnv):
    """``Ant-v5`` with one sliding friction on every geom and, by default, 27 observations: no contact forces.

    The environment of Dohare et al. 2024 (Nature 632), where the friction is redrawn log-uniformly from
    [0.02, 2] at each switch. In the reference code of arXiv 2509.22335 it is Brax's ant (``rlopt/envs``:
    backend "positional", episodes of 1,000 steps, 27 observations), whose reward has no contact cost. Here
    rewards are ``Ant-v5``'s own, with a contact cost of weight 5e-4; ``contact_cost_weight=0`` leaves it out.

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
