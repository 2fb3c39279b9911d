"""Evaluation: what is played, that training does not notice, that an interruption loses nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributions import Bernoulli, Categorical, Normal

from pliant.envs import Task, make_env
from pliant.runs.build import build_agent, vector_env
from pliant.runs.errors import RunFolderError, RunInterrupted, SpecError
from pliant.runs.evaluation.acting import sample
from pliant.runs.evaluation.playing import Assignment, play
from pliant.runs.evaluation.recording import Replays
from pliant.runs.evaluation.scheduled import assignments, chosen_tasks, expected_cost, scheduled_tasks
from pliant.runs.evaluation.table import COLUMNS, Row, append_rows, keep_rows_until, read_rows
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import load_spec, preset_names, validate
from pliant.runs.training import train

SHIFT = {"type": "observation-offset", "std": 1.0, "seed": {"rule": "seed"}}
EVALUATE = {"episodes": 2, "policies": ["deterministic", "stochastic"]}
PPO = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 256, "count": 3, "shifts": [SHIFT]},
    "agent": {"algorithm": "ppo", "n_envs": 2, "n_steps": 64, "n_epochs": 2, "network": {"hidden": [8]}},
    "diagnostics": {"at": [], "every": 0},
    "evaluation": EVALUATE,
}
DQN = {
    **PPO,
    "agent": {"algorithm": "dqn", "learning_starts": 32, "buffer_size": 300, "network": {"hidden": [8]}},
}
CLASSIFIER = {
    **PPO,
    "tasks": {
        "env": "pliant/Stream-v0",
        "kwargs": {"samples": 64, "permute_inputs": {"rule": "seed"}},
        "length": 256,
        "count": 3,
    },
    "agent": {"algorithm": "classifier", "batch_size": 16, "network": {"hidden": [8]}},
}
BOTH = pytest.mark.parametrize("table", [PPO, DQN], ids=["ppo", "dqn"])
EVERY = pytest.mark.parametrize("table", [PPO, DQN, CLASSIFIER], ids=["ppo", "dqn", "classifier"])


def run(out: Path, table: dict, *, stop_after: int | None = None, **changes: object) -> RunFolder:
    """Train ``table``; with ``stop_after``, as if Ctrl-C were pressed before that rollout."""
    plan = make_plan(validate({**table, **changes}, source="test"), "cpu")
    folder = RunFolder.create(out, plan.spec, plan.boundaries)
    calls = iter(range(1_000_000))
    train(plan, folder, lambda _: None, lambda: stop_after is not None and next(calls) >= stop_after)
    return folder


def untrained(table: dict):
    plan = make_plan(validate(table, source="test"), "cpu")
    env = vector_env(plan.sequence[0], plan.spec.agent.n_envs, 0)
    return plan, build_agent(plan.spec, env, seed=0, device=plan.device)


def same(one, other) -> bool:
    return (
        one.digest == other.digest
        and np.array_equal(one.actions, other.actions)
        and np.array_equal(one.rewards, other.rewards)
    )


# What is chosen --------------------------------------------------------------------------------------------


def test_the_tasks_chosen_are_those_the_word_says() -> None:
    assert chosen_tasks("all", -1, 3) == [0, 1, 2]
    assert chosen_tasks("seen", -1, 3) == []
    assert chosen_tasks("seen", 1, 3) == [0, 1]
    assert [chosen_tasks("own-and-next", after, 3) for after in (-1, 0, 2)] == [[0], [0, 1], [2]]
    assert chosen_tasks("none", 1, 3) == []


def test_after_the_last_task_the_spec_s_own_choice_holds_and_none_switches_everything_off() -> None:
    spec = validate(PPO, source="test")
    assert [scheduled_tasks(spec, after, 3) for after in (-1, 0, 1, 2)] == [[0], [0, 1], [1, 2], [0, 1, 2]]
    spec = validate({**PPO, "evaluation": {"tasks": "none"}}, source="test")
    assert scheduled_tasks(spec, 2, 3) == []


def test_episodes_have_one_seed_at_every_checkpoint_and_another_per_task_episode_and_run() -> None:
    spec = validate(PPO, source="test")
    first = assignments(spec, [0, 1], 3, ["deterministic", "stochastic"])
    assert first[:3] == assignments(spec, [0], 3, ["deterministic"])
    assert len({one.seed for one in first}) == 6
    other = assignments(validate({**PPO, "seed": 1}, source="test"), [0, 1], 3, ["deterministic"])
    assert not {one.seed for one in first} & {one.seed for one in other}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"tasks": "sen"}, "own-and-next"),
        ({"episodes": 0}, "evaluation.episodes"),
        ({"episode": 1}, "did you mean 'episodes'"),
        ({"policies": ["greedy"]}, "deterministic"),
        ({"policies": []}, "at least 1"),
        ({"max_length": 0}, "evaluation.max_length"),
        ({"replays": "yes"}, "evaluation.replays"),
    ],
)
def test_bad_settings_of_evaluation_are_refused_with_the_remedy(table: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        validate({**PPO, "evaluation": table}, source="test")


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.usefixtures("stand_ins")
def test_the_presets_keep_evaluation_under_a_tenth_of_the_run(name: str) -> None:
    cost = expected_cost(make_plan(load_spec(name), "cpu"))
    assert cost.episodes > 0
    assert cost.share < 0.1


def test_the_expected_cost_counts_episodes_at_their_environment_s_time_limit() -> None:
    cost = expected_cost(make_plan(validate(PPO, source="test"), "cpu"))
    assert cost.episodes == 4 * (1 + 2 + 2 + 3)
    assert cost.env_steps == cost.episodes * 500
    cut = {**EVALUATE, "max_length": 10}
    cost = expected_cost(make_plan(validate({**PPO, "evaluation": cut}, source="test"), "cpu"))
    assert cost.env_steps == cost.episodes * 10
    assert cost.share == pytest.approx(0.4 * 320 / (0.4 * 320 + 768))
    none = expected_cost(make_plan(validate({**PPO, "evaluation": {"tasks": "none"}}, source="test"), "cpu"))
    assert (none.episodes, none.share) == (0, 0.0)


# How it is played ------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("policy", ["deterministic", "stochastic"])
def test_an_episode_does_not_depend_on_those_beside_it(table: dict, policy) -> None:
    plan, agent = untrained(table)
    wanted = [Assignment(on, episode, policy, 7 * on + episode) for on in range(3) for episode in range(30)]
    together = play(agent, plan.sequence.tasks, wanted, max_length=40)
    assert [one.key for one in together] == [one.key for one in wanted]
    for index in (0, 31, 89):
        (alone,) = play(agent, plan.sequence.tasks, [wanted[index]], max_length=40)
        assert same(alone, together[index])


def test_stochastic_episodes_differ_from_deterministic_ones_and_repeat_themselves() -> None:
    plan, agent = untrained(PPO)
    greedy, drawn, again = (
        play(agent, plan.sequence.tasks, [Assignment(0, 0, policy, 5)], max_length=40)[0]
        for policy in ("deterministic", "stochastic", "stochastic")
    )
    assert greedy.seed == drawn.seed
    assert greedy.hashes[0] == drawn.hashes[0]
    assert not same(greedy, drawn)
    assert same(drawn, again)


def test_deterministic_episodes_are_those_that_sb3_s_predict_plays() -> None:
    plan, agent = untrained(PPO)
    task = plan.sequence[1]
    (ours,) = play(agent, plan.sequence.tasks, [Assignment(1, 0, "deterministic", 3)], max_length=1000)
    env = make_env(task)
    observation, _ = env.reset(seed=3)
    rewards, over = [], False
    while not over:
        action, _ = agent.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards.append(reward)
        over = terminated or truncated
    assert ours.length == len(rewards)
    assert ours.total == sum(rewards)
    assert ours.ending == "terminated"


def test_an_episode_without_end_is_cut() -> None:
    plan, agent = untrained(PPO)
    (one,) = play(agent, plan.sequence.tasks, [Assignment(0, 0, "deterministic", 3)], max_length=4)
    assert (one.length, one.ending, one.success) == (4, "cut", None)


def test_a_ramp_is_over_before_an_evaluation_begins() -> None:
    _, agent = untrained({**PPO, "tasks": {"env": "CartPole-v1", "length": 256}})
    offset = {"type": "observation-offset", "std": 1.0, "seed": 4}
    ramped, abrupt = (
        Task(env="CartPole-v1", length=256, shifts=[{**offset, "ramp": ramp}]) for ramp in (200, 0)
    )
    one, other = (
        play(agent, [task], [Assignment(0, 0, "deterministic", 1)], max_length=20)[0]
        for task in (ramped, abrupt)
    )
    assert same(one, other)


def test_minigrid_succeeds_where_something_was_won() -> None:
    table = {**PPO, "tasks": {"env": "MiniGrid-Empty-5x5-v0", "length": 256}}
    plan, agent = untrained(table)
    wanted = [Assignment(0, episode, "stochastic", episode) for episode in range(8)]
    episodes = play(agent, plan.sequence.tasks, wanted, max_length=10_000)
    assert {one.success for one in episodes} == {True, False}
    assert all(one.success == (one.total > 0) for one in episodes)


def test_samples_follow_their_distribution() -> None:
    count = 4000
    generators = [np.random.default_rng(seed) for seed in range(count)]
    probabilities = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).expand(count, 4)
    shares = np.bincount(sample(Categorical(probabilities), count, generators), minlength=4) / count
    np.testing.assert_allclose(shares, [0.2, 0.0, 0.5, 0.3], atol=0.03)
    several = sample([Categorical(probabilities), Categorical(probabilities)], count, generators)
    assert several.shape == (count, 2)
    normal = sample(
        Normal(torch.full((count, 2), 3.0), torch.tensor([0.5, 2.0]).expand(count, 2)), count, generators
    )
    np.testing.assert_allclose(normal.mean(axis=0), [3.0, 3.0], atol=0.15)
    np.testing.assert_allclose(normal.std(axis=0), [0.5, 2.0], rtol=0.05)
    flags = sample(Bernoulli(torch.tensor([[0.1, 0.9]]).expand(count, 2)), count, generators)
    np.testing.assert_allclose(flags.mean(axis=0), [0.1, 0.9], atol=0.02)


# Within a run ----------------------------------------------------------------------------------------------


@EVERY
def test_evaluation_leaves_the_training_as_it_is(tmp_path: Path, table: dict) -> None:
    evaluated = run(tmp_path, table, evaluation={**EVALUATE, "tasks": "all"})
    plain = run(tmp_path, table, evaluation={"tasks": "none"})
    assert [p.name for p in evaluated.checkpoint_list()] == [p.name for p in plain.checkpoint_list()]
    for one, other in zip(evaluated.checkpoint_list(), plain.checkpoint_list(), strict=True):
        first, second = (load_file(path / "tensors.safetensors") for path in (one, other))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        first, second = (json.loads((path / "state.json").read_text()) for path in (one, other))
        assert first["random"] == second["random"]
        assert first["counters"] == second["counters"]
    assert evaluated.episodes_file.read_text() == plain.episodes_file.read_text()
    assert evaluated.progress_file.read_text() == plain.progress_file.read_text()
    assert plain.evaluation_file.read_text() == ",".join(COLUMNS) + "\n"
    assert plain.replay_files() == {}


@EVERY
def test_a_run_writes_a_row_and_a_record_per_episode(tmp_path: Path, table: dict) -> None:
    folder = run(tmp_path, table)
    rows = read_rows(folder.evaluation_file)
    played = {-1: [0], 0: [0, 1], 1: [1, 2], 2: [0, 1, 2]}
    assert [row.key for row in rows] == [
        (after, on, episode, policy)
        for after, tasks in played.items()
        for on in tasks
        for policy in ("deterministic", "stochastic")
        for episode in range(2)
    ]
    assert {(row.after_task, row.env_steps) for row in rows} == {(-1, 0), (0, 256), (1, 512), (2, 768)}
    assert list(folder.replay_files()) == sorted((after, on) for after in played for on in played[after])
    for (after, on), (path,) in folder.replay_files().items():
        replays = Replays.load(path)
        assert replays.task == make_plan(folder.read_spec(), "cpu").sequence[on]
        recorded = {(after, *one.key): (one.total, one.length) for one in replays.episodes}
        assert recorded == {r.key: (r.total, r.length) for r in rows if r.key[:2] == (after, on)}
    assert folder.read_manifest()["evaluation_seconds"] > 0


def test_a_resumed_run_has_the_rows_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", PPO)
    with pytest.raises(RunInterrupted):
        run(tmp_path / "stopped", PPO, stop_after=2)  # at the first switch
    stopped = RunFolder.open(next((tmp_path / "stopped").iterdir()))
    # As if killed: half of an evaluation is written down, and some of what will be done again.
    text = stopped.evaluation_file.read_text().splitlines(keepends=True)
    assert len(text) == 1 + 4 + 8
    last = whole.evaluation_file.read_text().splitlines(keepends=True)[-1]
    stopped.evaluation_file.write_text("".join(text[: 1 + 4 + 3]) + last)
    Replays.load(whole.replay_files()[2, 1][0]).save(stopped.new_replays(2, 1))
    train(make_plan(stopped.read_spec(), "cpu"), stopped, lambda _: None, lambda: False, resume=True)
    assert stopped.evaluation_file.read_text() == whole.evaluation_file.read_text()
    assert list(stopped.replay_files()) == list(whole.replay_files())
    for key, (path,) in whole.replay_files().items():
        ours = [one for path in stopped.replay_files()[key] for one in Replays.load(path).episodes]
        for one in Replays.load(path).episodes:
            assert all(same(one, other) for other in ours if other.key == one.key)
            assert one.key in {other.key for other in ours}


def test_observations_are_kept_if_asked_for_and_replays_only_if_wanted(tmp_path: Path) -> None:
    tasks = {"env": "CartPole-v1", "length": 128}
    folder = run(tmp_path, PPO, tasks=tasks, evaluation={"episodes": 1, "observations": True})
    (one,) = Replays.load(folder.replay_files()[0, 0][0]).episodes
    assert one.observations is not None
    assert one.observations.shape == (one.length + 1, 4)
    without = run(tmp_path, PPO, tasks=tasks, evaluation={"episodes": 1, "replays": False})
    assert not without.replay_files()
    assert len(read_rows(without.evaluation_file)) == 2


# The table -------------------------------------------------------------------------------------------------

ROW = Row(-1, 2, 0, "deterministic", 512, 99, 0.1 + 0.2, 7, None)


def test_rows_come_back_as_they_were_and_never_twice(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.csv"
    won = Row(0, 2, 0, "stochastic", 1024, 99, -3.0, 7, True)
    append_rows(path, [ROW])
    append_rows(path, [ROW, won])
    assert read_rows(path) == [ROW, won]
    assert path.read_text().splitlines()[1] == "-1,2,0,deterministic,512,99,0.30000000000000004,7,"
    keep_rows_until(path, 512)
    assert read_rows(path) == [ROW]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", r"has the columns 'a,b', expected 'after_task,"),
        (",".join(COLUMNS) + "\n1,2,3\n", "damaged in line 2: 3 cells, expected 9"),
        (",".join(COLUMNS) + "\n1,2,3,deterministic,4,5,x,7,\n", "line 2: could not convert string to float"),
        (",".join(COLUMNS) + "\n1,2,3,deterministic,4,5,6,7,yes\n", "success is 'yes'"),
    ],
)
def test_a_damaged_table_is_named_with_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "evaluation.csv"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=said):
        read_rows(path)
