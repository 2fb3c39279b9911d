"""What a run is said to take is what it takes; what does not fit is refused before anything is written."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from pliant.runs import resources, sizes
from pliant.runs.errors import TooLarge
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import validate
from pliant.runs.resources import check_disk, check_memory, expected_needs
from pliant.runs.sizes import in_words
from pliant.runs.sweep.expectation import usual_needs
from pliant.runs.training import train

GRID = {
    "name": "grid",
    "tasks": {"env": "MiniGrid-Empty-5x5-v0", "length": 400, "count": 2},
    "agent": {
        "algorithm": "dqn",
        "learning_starts": 100,
        "buffer_size": 300,
        "network": {"hidden": [32, 32]},
    },
    "diagnostics": {"samples": 64, "spectrum": {"depth": 10, "minibatches": 4}},
    "evaluation": {"episodes": 1},
}
CARTPOLE = {
    "name": "cartpole",
    "tasks": {"env": "CartPole-v1", "length": 512, "count": 3},
    "agent": {"algorithm": "ppo", "n_steps": 128, "n_epochs": 1, "network": {"hidden": [64, 64]}},
    "diagnostics": {"samples": 64, "spectrum": {"depth": 50}},
    "evaluation": {"episodes": 1},
}


def planned(table: dict, **changes: object):
    return make_plan(validate({**table, **changes}, source="test"), "cpu")


@pytest.mark.parametrize("table", [GRID, CARTPOLE], ids=["grid", "cartpole"])
def test_the_disk_that_a_run_took_lies_between_half_the_estimate_and_its_most(
    tmp_path: Path, table: dict
) -> None:
    plan = planned(table)
    needs = expected_needs(plan)
    folder = RunFolder.create(tmp_path, plan.spec, plan.boundaries)
    train(plan, folder, lambda _: None, lambda: False)
    taken = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
    about = sum(needs.disk.values())
    assert about / 2 < taken < about + sum(needs.more_disk.values())
    tensors = sum(path.stat().st_size for path in folder.checkpoints.rglob("tensors.safetensors"))
    assert tensors == pytest.approx(needs.disk["checkpoints"], rel=0.5)


def test_the_usual_needs_of_several_plans_are_the_largest_memory_and_their_share_of_the_disk() -> None:
    plans = [planned(GRID), planned(CARTPOLE)]
    grid, cartpole = map(expected_needs, plans)
    both = usual_needs(plans, sum(plan.boundaries[-1] for plan in plans))
    assert both.memory == max(grid.memory, cartpole.memory, key=lambda memory: sum(memory.values()))
    assert both.disk == {name: grid.disk.get(name, 0) + cartpole.disk.get(name, 0) for name in both.disk}
    assert both.disk.keys() == grid.disk.keys() | cartpole.disk.keys()
    assert sum(both.more_disk.values()) == sum(grid.more_disk.values()) + sum(cartpole.more_disk.values())
    half = usual_needs(plans[1:], plans[1].boundaries[-1] // 2)
    assert half.disk == {name: size // 2 for name, size in cartpole.disk.items()}


def test_the_replay_buffer_is_counted_to_the_byte() -> None:
    # 7 x 7 x 3 bytes twice, an int64 action, and three float32 numbers
    assert expected_needs(planned(GRID)).memory["replay buffer"] == 300 * (2 * 147 + 8 + 12)
    # what a shorter run never fills is never taken
    short = planned({**GRID, "tasks": {**GRID["tasks"], "length": 100, "count": 1}})
    assert expected_needs(short).memory["replay buffer"] == 100 * (2 * 147 + 8 + 12)


def test_the_networks_are_counted_to_the_number() -> None:
    weights = 147 * 32 + 32 + 32 * 32 + 32 + 32 * 7 + 7
    assert planned(GRID).parameters == (weights, weights)  # the other is the target network
    trunk = 4 * 64 + 64 + 64 * 64 + 64
    assert planned(CARTPOLE).parameters == (2 * trunk + 64 * 2 + 2 + 64 + 1, 0)


def test_more_memory_than_there_is_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = expected_needs(planned(GRID))
    total = sum(needs.memory.values())
    monkeypatch.setattr(resources, "available_memory", lambda: total)
    check_memory(needs)
    with pytest.raises(TooLarge, match=r"2 runs need .* together, each .*, or take fewer at a time"):
        check_memory(needs, runs=2)
    monkeypatch.setattr(resources, "available_memory", lambda: total - 1)
    with pytest.raises(TooLarge, match=r"the run needs .* of memory, of which .* are free; lower"):
        check_memory(needs)


def test_more_disk_than_there_is_is_refused_and_what_may_not_fit_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = expected_needs(planned(GRID))
    about, most = sum(needs.disk.values()), sum(needs.disk.values()) + sum(needs.more_disk.values())
    free = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    out = tmp_path / "not" / "there" / "yet"
    with pytest.raises(TooLarge, match=r"of the disk of '.*yet', of which 0 B are free"):
        check_disk(needs, out)
    free = about
    assert "may get full" in (check_disk(needs, out) or "")
    free = most
    assert check_disk(needs, out) is None
    free = 2 * most - 1
    assert "may get full" in (check_disk(needs, out, runs=2) or "")


@pytest.mark.parametrize(
    ("agent", "remedy"),
    [
        ({**GRID["agent"], "buffer_size": 10**12}, r"replay buffer 171 TB.*lower agent\.buffer_size"),
        (
            {**GRID["agent"], "network": {"hidden": [10**6, 10**6]}},
            r"networks and optimiser 8 TB.*the widths",
        ),
        ({"algorithm": "ppo", "n_steps": 10**12, "batch_size": 10**12}, r"rollout 171 TB.*agent\.n_steps"),
    ],
)
def test_an_agent_that_no_machine_holds_is_refused_before_it_is_built(agent: dict, remedy: str) -> None:
    with pytest.raises(TooLarge, match=remedy):
        planned(GRID, agent=agent)


def test_the_experts_of_a_mixture_are_counted_too() -> None:
    wide = {**GRID["agent"], "network": {"hidden": [10**5, 10**4]}}
    with pytest.raises(TooLarge, match=r"networks and optimiser 4 TB"):
        planned(GRID, agent=wide, mitigations={"mixture-of-experts": {"experts": 999}})


def test_a_million_million_tasks_are_refused_before_they_are_drawn() -> None:
    from pliant.envs import InvalidTask

    with pytest.raises(InvalidTask, match="make 1,000,000,000,000 tasks, at most 1,000,000"):
        planned(GRID, tasks={**GRID["tasks"], "cycles": 10**12, "count": 1})


def test_a_dry_run_says_what_the_run_will_take(call_program) -> None:
    from pliant.runs import cli

    code, out, _ = call_program(cli.train_agent, "minigrid-dqn", "--dry-run")
    assert code == 0
    assert "replay buffer 12.6 MB" in out  # 40,000 transitions of 314 bytes
    assert "memory: about" in out
    assert "disk: about" in out


def test_what_does_not_fit_is_refused_before_a_folder_is_made(
    call_program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pliant.runs import cli

    monkeypatch.setattr(resources, "available_memory", lambda: 10**6)
    code, _, err = call_program(cli.train_agent, "minigrid-dqn", "--out", tmp_path / "results")
    assert code == cli.console.BAD_INPUT
    assert "error: the run needs" in err
    assert not (tmp_path / "results").exists()


def test_sizes_are_told_in_three_digits() -> None:
    assert [in_words(size) for size in (0, 999, 1_234, 10**6, 171 * 10**12, 10**24)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "1 MB",
        "171 TB",
        "1,000,000 EB",
    ]
    assert sizes.item_bytes(planned(GRID).sequence.observation_space) == 147
