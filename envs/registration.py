"""The environments of our own, under ``pliant/`` in gymnasium's registry."""

import gymnasium

# id -> (entry point, environment steps per episode, as the environment of gymnasium that it extends; None for
# what ends by itself: a stream with its data, a game when it is lost)
ENVIRONMENTS: dict[str, tuple[str, int | None]] = {
    "pliant/SlipperyAnt-v0": ("pliant.envs.ant:SlipperyAnt", 1000),
    "pliant/CartPole-v1": ("pliant.envs.classic:CartPole", 500),
    "pliant/Acrobot-v1": ("pliant.envs.classic:Acrobot", 500),
    "pliant/Pendulum-v1": ("pliant.envs.classic:Pendulum", 200),
    "pliant/MinAtar-v0": ("pliant.envs.minatar:MinAtar", None),
    "pliant/MetaWorld-v0": ("pliant.envs.metaworld:MetaWorld", 200),
    "pliant/Stream-v0": ("pliant.envs.streams:Stream", None),
}


def register() -> None:
    """Register what is not yet registered; entry points are strings, imported when first made."""
    for env_id, (entry_point, max_episode_steps) in ENVIRONMENTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(env_id, entry_point, max_episode_steps=max_episode_steps)
