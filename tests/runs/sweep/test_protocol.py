"""The protocols of a sweep, carried out by an engine whose results are known beforehand."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pliant.runs.cli import console
from pliant.runs.cli.sweep import _print_choices
from pliant.runs.spec import RunSpec
from pliant.runs.sweep.drive import Result, Shard
from pliant.runs.sweep.protocol import Sweep
from pliant.runs.sweep.tables import chosen_rows, write_tables

Begin = Callable[..., Sweep]
Engine = Callable[..., Any]
CarryOn = Callable[..., Result]


def by_rate(spec: RunSpec) -> float:
    """100 at a learning rate of 1e-3, less with every decade away from it; seeds differ a little."""
    return 100.0 - 20.0 * abs(math.log10(spec.agent.learning_rate) + 3.0) + spec.seed % 100


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_plain_sweep_is_every_arm_setting_and_seed_once(
    begin: Begin, plain: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep, engine = begin(plain), fake_engine(by_rate)
    assert sweep.left() == (8, 8 * 512)
    result = carry_on(sweep, engine)
    assert result.whole
    assert sweep.left() == (0, 0)
    assert not result.failed
    done = {(job.spec.arm, job.spec.agent.learning_rate, job.spec.seed) for job in sweep.known_jobs()}
    assert done == {(arm, rate, seed) for arm in ("bp", "l2") for rate in (1e-3, 1e-2) for seed in (0, 1)}
    assert sorted(engine.done) == sorted(path.name for path in sweep.folder.runs.iterdir())
    assert len(engine.done) == 8
    assert sweep.expected() == (8, 8 * 512)


def test_a_sweep_that_is_carried_out_again_does_nothing(
    begin: Begin, plain: str, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    for text, name in ((plain, "plain.toml"), (tuned, "tuned.toml")):
        carry_on(begin(text, name=name), fake_engine(by_rate))
        again = fake_engine(by_rate)
        assert carry_on(begin(text, name=name), again).whole
        assert again.done == []


def test_settings_that_come_to_the_same_spec_are_one_run(
    begin: Begin, fake_engine: Engine, carry_on: CarryOn
) -> None:
    text = """
    base = "toy.toml"
    seeds = [0]
    draws = 20
    space.agent.gamma = { rule = "choice", values = [0.9, 0.99] }
    """
    sweep, engine = begin(text), fake_engine(by_rate)
    assert carry_on(sweep, engine).whole
    assert len(engine.done) == 2
    assert sweep.expected()[0] == 2


def test_every_arm_is_tested_with_the_best_of_its_own_settings(
    begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep, engine = begin(tuned), fake_engine(by_rate)
    assert carry_on(sweep, engine).whole
    assert len(engine.done) == 2 * 4 * 2 + 2 * 3
    for arm in ("bp", "l2"):
        trials = sweep.trials(arm)
        rates = [trial.setting["agent.learning_rate"] for trial in trials]
        nearest = min(range(4), key=lambda number: abs(math.log10(rates[number]) + 3.0))
        choice = sweep.folder.read_choice(arm)
        assert choice is not None
        assert (choice["trial"], choice["setting"]) == (nearest, trials[nearest].setting)
        tested = [job.spec for job in sweep.known_jobs() if job.path.parent == sweep.folder.runs]
        own = [spec for spec in tested if spec.arm == arm]
        assert [spec.seed for spec in own] == [0, 1, 2]
        assert {spec.agent.learning_rate for spec in own} == {rates[nearest]}
    assert {path.name for path in sweep.folder.runs.iterdir()}.isdisjoint(
        path.name for path in sweep.folder.tuning.iterdir()
    )


def test_the_first_of_equals_is_chosen_and_the_tie_is_told(
    begin: Begin,
    tuned: str,
    fake_engine: Engine,
    carry_on: CarryOn,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = begin(tuned)
    carry_on(sweep, fake_engine(lambda spec: 50.0))
    assert [row["equals"] for row in chosen_rows(sweep)] == [3, 3]
    monkeypatch.setattr(console.out, "width", 200)
    _print_choices(sweep)
    assert capsys.readouterr().out.count("4 settings, the first of 4 with this score") == 2
    choice = sweep.folder.read_choice("bp")
    assert choice is not None
    assert choice["trial"] == 0
    assert choice["score"] == pytest.approx(0.1)  # CartPole's returns, as a share of 500


def test_what_is_less_when_better_is_chosen_the_other_way_round(
    begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pliant.runs.report.comparison import METRICS, Metric
    from pliant.runs.sweep import objective

    regret = Metric(
        "regret", "less", "what is missing to 500", lambda c, run: 1.0 - METRICS[0].values(c, run)
    )
    monkeypatch.setattr(objective, "METRICS", (*METRICS, regret))
    more = begin(tuned, name="more.toml")
    less = begin(tuned.replace("trials = 4", 'trials = 4\nmetric = "regret"'), name="less.toml")
    for sweep in (more, less):
        carry_on(sweep, fake_engine(by_rate))
    assert more.choice("bp") == less.choice("bp")


@pytest.mark.parametrize("text", ["plain", "tuned"])
@pytest.mark.parametrize("cut", [1, 3, 9, 17])
def test_a_sweep_stopped_anywhere_and_gone_on_with_is_as_if_it_had_not_been(
    begin: Begin,
    fake_engine: Engine,
    carry_on: CarryOn,
    request: pytest.FixtureRequest,
    text: str,
    cut: int,
) -> None:
    toml = request.getfixturevalue(text)
    whole, stopped = begin(toml, name="whole.toml"), begin(toml, name="stopped.toml")
    straight = fake_engine(by_rate)
    carry_on(whole, straight)
    first, second = fake_engine(by_rate, only=cut), fake_engine(by_rate)
    result = carry_on(stopped, first)
    if len(straight.done) > cut:
        assert result.interrupted
        assert not result.whole
    assert carry_on(begin(toml, name="stopped.toml"), second).whole
    assert sorted(first.done + second.done) == sorted(straight.done)
    for sweep in (whole, stopped):
        write_tables(sweep)
    assert whole.folder.runs_file.read_text() == stopped.folder.runs_file.read_text()
    if text == "tuned":
        assert whole.folder.trials_file.read_text() == stopped.folder.trials_file.read_text()


def test_a_run_that_fails_holds_up_its_own_arm_alone_and_is_tried_again(
    begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep = begin(tuned)
    victim = sweep.trials("l2")[1].jobs[0]
    result = carry_on(sweep, fake_engine(lambda s: "fails" if s == victim.spec else by_rate(s)))
    assert list(result.failed) == [victim.path]
    assert not result.whole
    assert sweep.choice("bp") is not None
    assert sweep.choice("l2") is None  # nothing is chosen before everything has been tried
    again = fake_engine(by_rate)
    assert carry_on(sweep, again).whole
    assert again.done[0] == victim.path.name
    assert len(again.done) == 1 + 3


def test_a_setting_that_diverges_is_not_run_again_and_never_chosen(
    begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep = begin(tuned)
    best = max(sweep.trials("bp"), key=lambda trial: by_rate(trial.jobs[0].spec))
    engine = fake_engine(lambda spec: "diverges" if spec == best.jobs[1].spec else by_rate(spec))
    result = carry_on(sweep, engine)
    assert result.whole
    assert list(result.diverged) == [best.jobs[1].path]
    choice = sweep.folder.read_choice("bp")
    assert choice is not None
    assert choice["trial"] != best.number
    assert choice["diverged"] == 1
    again = fake_engine(by_rate)
    assert carry_on(sweep, again).whole
    assert again.done == []


def test_when_everything_diverges_nothing_is_chosen_and_it_is_said(
    begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep = begin(tuned)
    result = carry_on(sweep, fake_engine(lambda spec: "diverges" if spec.arm == "l2" else by_rate(spec)))
    assert result.problems == ["every setting of 'l2' diverged; give it another space"]
    assert sweep.choice("l2") is None
    assert sweep.choice("bp") is not None


def test_a_run_without_the_metric_stops_the_choice_and_says_what_to_do(
    begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep = begin(tuned.replace("trials = 4", 'trials = 4\nmetric = "average performance"'))
    result = carry_on(sweep, fake_engine(by_rate))
    assert len(result.problems) == 2
    assert "has no 'average performance'" in result.problems[0]
    assert "another tune.metric" in result.problems[0]
    # The runs are there, so another metric may judge them as long as nothing has been chosen.
    engine = fake_engine(by_rate)
    assert carry_on(begin(tuned), engine).whole
    assert len(engine.done) == 2 * 3


def test_a_choice_once_made_stands(begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn) -> None:
    sweep = begin(tuned)
    carry_on(sweep, fake_engine(by_rate))
    first = sweep.folder.read_choice("bp")
    assert first is not None
    sweep.folder.write_choice("bp", {**first, "trial": 99})
    assert sweep.folder.read_choice("bp") == first


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_shards_together_do_everything_and_nothing_twice(
    begin: Begin, plain: str, tuned: str, fake_engine: Engine, carry_on: CarryOn, count: int
) -> None:
    for text, name, rounds in ((plain, "plain.toml", 1), (tuned, "tuned.toml", 2)):
        whole = fake_engine(by_rate)
        carry_on(begin(text, name=f"whole-{name}"), whole)
        done: list[str] = []
        shares = []
        for _ in range(rounds):  # the test runs can be known when all the tuning is done
            for index in range(count):
                engine = fake_engine(by_rate)
                carry_on(begin(text, name=name), engine, Shard(index, count))
                done += engine.done
                shares.append(len(engine.done))
        assert sorted(done) == sorted(whole.done)
        assert carry_on(begin(text, name=name), fake_engine(by_rate)).whole
        if rounds == 1:
            assert max(shares) - min(shares) <= 1


def test_a_shard_says_that_others_are_not_done(
    begin: Begin, plain: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    result = carry_on(begin(plain), fake_engine(by_rate), Shard(0, 2))
    assert not result.whole
    assert result.unfinished == 4
    assert not result.failed


def test_a_sweep_grows_by_seeds_and_arms_and_runs_only_what_is_new(
    begin: Begin, plain: str, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    carry_on(begin(plain, name="plain.toml"), fake_engine(by_rate))
    grown = plain.replace('"0-1"', '"0-2"').replace('"l2"]', '"l2", "er"]')
    engine = fake_engine(by_rate)
    sweep = begin(grown, name="plain.toml")
    assert carry_on(sweep, engine).whole
    assert len(engine.done) == 3 * 2 * 3 - 8
    assert (sweep.folder.path / "sweep-1.toml").exists()
    carry_on(begin(tuned, name="tuned.toml"), fake_engine(by_rate))
    engine = fake_engine(by_rate)
    assert carry_on(begin(tuned.replace('"0-2"', '"0-4"'), name="tuned.toml"), engine).whole
    assert len(engine.done) == 2 * 2


def test_the_tables_hold_every_trial_every_choice_and_every_run(
    begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep = begin(tuned)
    carry_on(sweep, fake_engine(by_rate))
    write_tables(sweep)
    trials, chosen, runs = (
        rows(path) for path in (sweep.folder.trials_file, sweep.folder.chosen_file, sweep.folder.runs_file)
    )
    assert len(trials) == 16
    metric = "return at the end of a task"
    for arm in ("bp", "l2"):
        own = [row for row in trials if row["arm"] == arm]
        assert [(row["trial"], row["seed"]) for row in own] == [
            (str(trial), str(seed)) for trial in range(4) for seed in (100, 101)
        ]
        means = [
            sum(float(row[metric]) for row in own if row["trial"] == str(trial)) / 2 for trial in range(4)
        ]
        (row,) = (row for row in chosen if row["arm"] == arm)
        assert float(row["score"]) == max(means) == means[int(row["trial"])]
        rate = row["agent.learning_rate"]
        assert {row["agent.learning_rate"] for row in runs if row["arm"] == arm} == {rate}
        assert sum(row["arm"] == arm for row in runs) == 3
    strengths = [row["mitigations.l2.strength"] for row in trials]
    assert strengths[:8] == [""] * 8
    assert all(strengths[8:])
    assert {row["state"] for row in trials + runs} == {"complete"}


def test_tables_can_be_written_before_anything_is_done(begin: Begin, tuned: str, plain: str) -> None:
    for text, name in ((plain, "plain.toml"), (tuned, "tuned.toml")):
        sweep = begin(text, name=name)
        write_tables(sweep)
        assert len(rows(sweep.folder.runs_file)) == (8 if text == plain else 0)


def test_the_record_of_a_choice_says_what_it_was_chosen_from(
    begin: Begin, tuned: str, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep = begin(tuned)
    carry_on(sweep, fake_engine(by_rate))
    record = json.loads((sweep.folder.path / "chosen" / "l2.json").read_text())
    assert record["tuning_seeds"] == [100, 101]
    assert record["trials"] == 4
    assert record["equals"] == 0
    assert record["metric"] == "return at the end of a task"
