"""A run in an environment of one's own goes on in that very environment."""

import sys
from pathlib import Path

import gymnasium
import pytest

from pliant.runs.errors import RunFolderError
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.training import train

MODULE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Cart(CartPoleEnv):
    pass

gymnasium.register("Cart-v0", Cart, max_episode_steps=50)
"""
SPEC = {
    "name": "own",
    "tasks": {"env": "my_cart:Cart-v0", "length": 64, "count": 1},
    "agent": {"algorithm": "ppo", "n_steps": 64, "network": {"hidden": [8]}},
    "diagnostics": {"at": [], "every": 0},
    "evaluation": {"tasks": "none", "last": "none"},
}


def go_on(folder: RunFolder) -> None:
    train(make_plan(folder.read_spec(), "cpu"), folder, lambda _: None, lambda: False, resume=True)


def test_a_run_does_not_go_on_with_another_version_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "my_cart.py"
    module.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PLIANT_ENV_MODULES", "my_cart")
    try:
        plan = make_plan(validate(SPEC, source="test"), "cpu")
        folder = RunFolder.create(tmp_path / "results", plan.spec, plan.boundaries)
        train(plan, folder, lambda _: None, lambda: False)
        (noted,) = folder.read_manifest()["inputs"]["environments"].items()
        assert noted[0] == "my_cart"
        go_on(folder)
        module.write_text(MODULE + "# changed")
        with pytest.raises(RunFolderError, match=r"my_cart is not what .* was begun with"):
            go_on(folder)
    finally:
        sys.modules.pop("my_cart", None)
        gymnasium.registry.pop("Cart-v0", None)
