"""What is said of a plan before it starts: lengths that are rounded up, passes that do not end."""

from typing import Any

import pytest

from pliant.runs import cli
from pliant.runs.notes import notes
from pliant.runs.plan import make_plan
from pliant.runs.presets import merge, validate
from pliant.runs.summary import task_return

PPO = {"algorithm": "ppo", "n_steps": 50, "batch_size": 50, "network": {"hidden": [4]}}
STREAM = {"env": "pliant/Stream-v0", "kwargs": {"samples": 100}, "length": 150, "count": 2}


def said(**changes: Any) -> list[str]:
    table = {"name": "toy", "tasks": STREAM, "agent": PPO}
    return notes(make_plan(validate(merge(table, changes), source="test"), "cpu"))


def test_a_length_that_is_no_multiple_of_a_rollout_is_said_once_with_what_becomes_of_it() -> None:
    assert said() == []
    assert said(tasks={"length": 120}) == [
        "tasks.length: a task takes whole rollouts of 50 environment steps (agent.n_steps * agent.n_envs), "
        "so 120 becomes 150"
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"tasks": {"kwargs": {"samples": 151}}},
            "agent.n_envs = 1 it takes 151 environment steps, and a task",
        ),
        ({"agent": {"n_envs": 3}}, "agent.n_envs = 3 it takes 300 environment steps, and a task has 150"),
        ({"checkpoints": {"every": 50}}, "episodes begin anew (checkpoints.every) after 50"),
    ],
)
def test_a_stream_of_which_no_pass_will_end_is_said(changes: dict[str, Any], why: str) -> None:
    (note,) = said(**changes)
    assert "there will be no return to show" in note
    assert why in note


def test_a_mitigation_that_would_act_at_a_task_that_there_is_not_is_said() -> None:
    assert said(mitigations={"plasticity-injection": {"tasks": [1]}, "l2": {"strength": 1e-3}}) == []
    assert said(mitigations={"plasticity-injection": {"tasks": [1, 2, 7]}}) == [
        "mitigations.plasticity-injection.tasks = [1, 2, 7]: the run has the tasks 0 to 1, so nothing is "
        "injected at 2, 7"
    ]


def test_the_last_episode_stands_for_the_end_where_none_ended_in_the_last_tenth() -> None:
    passes = [(40, 0.25), (80, 0.5)]
    assert task_return(0, passes, 0, 100).last_tenth == 0.5
    assert task_return(0, [*passes, (95, 0.75)], 0, 100).last_tenth == 0.75
    assert task_return(0, passes, 0, 100).first_tenth is None
    assert task_return(0, [], 0, 100).last_tenth is None


def test_notes_are_printed_at_the_start_and_columns_without_numbers_are_not(
    call_program, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = [
        "agent.n_envs=1",
        "agent.n_steps=50",
        "agent.batch_size=50",
        "agent.n_epochs=1",
        "diagnostics.at=[]",
    ]
    changes += [
        "tasks.env='pliant/Stream-v0'",
        "tasks.kwargs={samples=100}",
        "tasks.shifts=[]",
        "tasks.length=120",
    ]
    changes += ["tasks.count=1", "evaluation.tasks='none'", "evaluation.last='none'"]
    settings = [argument for change in changes for argument in ("--set", change)]
    for arguments in (["--dry-run"], []):
        code, out, err = call_program(cli.train_agent, "quickstart", *settings, *arguments)
        assert code == 0
        assert err.count("120 becomes 150") == 1
    assert "first tenth" not in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("0 ")]
    assert row[:2] == ["0", "1"]
