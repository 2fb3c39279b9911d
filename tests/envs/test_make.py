"""make_env: seeds, render modes, and nothing that costs time."""

import sys
from pathlib import Path

import gymnasium
import pytest

from pliant.envs import EnvError, InvalidTask, MissingPackage, StrangeModule, Task, make_env


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Acrobot-v1", "MiniGrid-DoorKey-5x5-v0", "pliant/SlipperyAnt-v0"]
)
def test_the_first_reset_without_a_seed_equals_one_with_the_seed_of_make_env(env_id):
    task = Task(env=env_id, length=1)
    first, second = make_env(task, seed=5), make_env(task)
    assert first.reset()[0].tolist() == second.reset(seed=5)[0].tolist()
    assert first.reset()[0].tolist() == second.reset()[0].tolist()
    assert first.np_random_seed == second.np_random_seed == 5


def test_the_action_space_is_seeded():
    task = Task(env="CartPole-v1", length=1)
    environments = [make_env(task, seed=seed) for seed in (1, 1, 2)]
    drawn = [[env.action_space.sample() for _ in range(50)] for env in environments]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_render_mode_is_handed_on():
    env = make_env(Task(env="CartPole-v1", length=1), render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (400, 600, 3)
    env.close()


def test_arguments_of_gymnasium_make_may_stand_in_kwargs():
    env = make_env(Task(env="CartPole-v1", kwargs={"max_episode_steps": 3}, length=1))
    env.reset(seed=0)
    assert [env.step(t % 2)[3] for t in range(3)] == [False, False, True]


def test_the_passive_checker_is_left_out():
    env = make_env(Task(env="CartPole-v1", length=1))
    layers = set()
    while isinstance(env, gymnasium.Wrapper):
        layers.add(type(env))
        env = env.env
    assert gymnasium.wrappers.PassiveEnvChecker not in layers


def test_a_render_mode_that_the_environment_lacks_is_refused():
    with pytest.raises(
        InvalidTask, match=r"CartPole-v1: unknown render mode 'text'\. Known: human, human_list, rgb"
    ):
        make_env(Task(env="CartPole-v1", length=1), render_mode="text")


def test_an_environment_whose_own_code_is_broken_is_refused_with_its_own_words():
    gymnasium.register("pliant-test/Broken-v0", "pliant.envs:no_such_name")
    try:
        with pytest.raises(InvalidTask, match="has no attribute 'no_such_name'"):
            make_env(Task(env="pliant-test/Broken-v0", length=1))
    finally:
        del gymnasium.registry["pliant-test/Broken-v0"]


def test_a_module_is_imported_only_if_its_user_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "stranger.py").write_text(
        f"from pathlib import Path\nPath({str(canary)!r}).touch()\nimport gymnasium\n"
        "gymnasium.register('Stranger-v0', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = Task(env="stranger:Stranger-v0", length=1)
    with pytest.raises(StrangeModule, match="say so: PLIANT_ENV_MODULES=stranger"):
        make_env(task)
    for module in ("antigravity", "gymnasium.__main__", "pip.__main__", "."):
        with pytest.raises(EnvError):
            make_env(Task(env=f"{module}:CartPole-v1", length=1))
    assert not canary.exists()
    assert "antigravity" not in sys.modules

    monkeypatch.setenv("PLIANT_ENV_MODULES", "others, stranger")
    try:
        make_env(task).close()
    finally:
        gymnasium.registry.pop("Stranger-v0", None)
    assert canary.exists()


def test_a_file_that_is_not_found_is_told_from_a_package() -> None:
    with pytest.raises(MissingPackage, match="pip install my-envs; if it is a file of your own, have its"):
        make_env(Task(env="my_envs:Line-v0", length=1))


def test_a_package_made_for_gymnasium_may_be_imported() -> None:
    make_env(Task(env="minigrid:MiniGrid-Empty-5x5-v0", length=1)).close()


def test_an_old_model_is_compiled_without_a_word_and_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import mujoco

    monkeypatch.chdir(tmp_path)
    before = mujoco.get_mju_user_warning()
    make_env(Task(env="HalfCheetah-v5", length=1)).close()
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert mujoco.get_mju_user_warning() is before
