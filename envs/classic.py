"""Gymnasium's classic-control environments with their physical parameters as arguments.

``gymnasium.make("pliant/CartPole-v1", gravity=12.0, length=1.0)``; the names are those of
`pliant.envs.shifts.parameters.PHYSICS`.
"""

from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, PendulumEnv

from .shifts.parameters import set_physics


class CartPole(CartPoleEnv):
    """CartPole with ``gravity``, ``masscart``, ``masspole``, ``length`` and ``force_mag``."""

    def __init__(self, render_mode: str | None = None, **physics: float) -> None:
        super().__init__(render_mode=render_mode)
        set_physics(self, physics)


class Acrobot(AcrobotEnv):
    """Acrobot with ``torque`` and the masses, lengths and inertia ``LINK_*``."""

    def __init__(self, render_mode: str | None = None, **physics: float) -> None:
        super().__init__(render_mode=render_mode)
        set_physics(self, physics)


class Pendulum(PendulumEnv):
    """Pendulum with ``g``, ``m``, ``l`` and ``max_torque``."""

    def __init__(self, render_mode: str | None = None, **physics: float) -> None:
        super().__init__(render_mode=render_mode)
        set_physics(self, physics)
