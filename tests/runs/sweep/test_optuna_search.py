"""Search with Optuna: repeatable, resumable, and kept to the tuning seeds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from pliant.runs.spec import RunSpec
from pliant.runs.sweep.drive import Result, Shard
from pliant.runs.sweep.optuna_search import OptunaError
from pliant.runs.sweep.protocol import Sweep
from pliant.runs.sweep.tables import write_tables

Begin = Callable[..., Sweep]
Engine = Callable[..., Any]
CarryOn = Callable[..., Result]

TEXT = """
base = "toy.toml"
[space]
agent.learning_rate = { rule = "log-uniform", low = 1e-5, high = 1e-1 }
agent.network.hidden = [[8], [8, 8]]
agent.n_epochs = { rule = "integer", low = 1, high = 4 }
[arms.bp]
[tune]
method = "optuna"
trials = 6
batch = 2
seeds = [100, 101]
[test]
seeds = [0]
"""


def by_rate(spec: RunSpec) -> float:
    return 100.0 - 20.0 * abs(math.log10(spec.agent.learning_rate) + 3.0) + spec.seed % 100


@pytest.fixture
def search(begin: Begin, tmp_path: Path) -> Begin:
    """As ``begin``, with a journal: quicker to open than a database, a dozen times in a test."""

    def make(text: str, name: str = "sweep.toml") -> Sweep:
        return begin(text, name=name, storage=str(tmp_path / f"{name}.journal"))

    return make


def table(sweep: Sweep) -> list[tuple[int, dict[str, Any], bool]]:
    return [(trial.number, trial.setting, trial.pruned) for trial in sweep.trials("bp")]


def test_a_search_keeps_its_budget_its_seeds_and_its_space(
    begin: Begin, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep, engine = begin(TEXT), fake_engine(by_rate)
    assert sweep.expected() == (6 * 2 + 1, 13 * 512)
    assert carry_on(sweep, engine).whole
    trials = sweep.trials("bp")
    assert [trial.number for trial in trials] == list(range(6))
    for trial in trials:
        assert 1e-5 <= trial.setting["agent.learning_rate"] <= 1e-1
        assert trial.setting["agent.network.hidden"] in ([8], [8, 8])
        assert trial.setting["agent.n_epochs"] in (1, 2, 3, 4)
        assert [job.spec.seed for job in trial.jobs] == [100, 101]
    best = max(trials, key=lambda trial: by_rate(trial.jobs[0].spec))
    assert sweep.choice("bp") == best.setting
    (tested,) = (job.spec for job in sweep.known_jobs() if job.path.parent == sweep.folder.runs)
    assert tested.seed == 0
    assert tested.agent.learning_rate == best.setting["agent.learning_rate"]


def test_more_trials_come_nearer_to_the_best_than_the_first_ones_at_random(
    search: Begin, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep = search(TEXT.replace("trials = 6", "trials = 24").replace("[100, 101]", "[100]"))
    carry_on(sweep, fake_engine(by_rate))
    away = [abs(math.log10(trial.setting["agent.learning_rate"]) + 3.0) for trial in sweep.trials("bp")]
    assert sum(away[14:]) < 0.7 * sum(away[:10])  # the sampler's first ten settings are random


def test_the_same_search_comes_to_the_same_settings_whatever_the_order_in_which_runs_end(
    search: Begin, fake_engine: Engine, carry_on: CarryOn
) -> None:
    class Backwards(fake_engine):  # type: ignore[misc, valid-type]
        def poll(self, timeout: float) -> list[Any]:
            self._waiting.reverse()
            return super().poll(timeout)

    one, other = search(TEXT, name="one.toml"), search(TEXT, name="other.toml")
    carry_on(one, fake_engine(by_rate))
    carry_on(other, Backwards(by_rate))
    assert table(one) == table(other)
    third = search(TEXT.replace("batch = 2", "batch = 2\nsampler_seed = 1"), name="third.toml")
    carry_on(third, fake_engine(by_rate))
    assert table(third) != table(one)


@pytest.mark.parametrize("prune", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 5, 11])
def test_a_search_stopped_anywhere_goes_on_as_if_it_had_not_been(
    search: Begin, fake_engine: Engine, carry_on: CarryOn, cut: int, prune: bool
) -> None:
    text = TEXT.replace("batch = 2", "batch = 3\nprune = true").replace("trials = 6", "trials = 9")
    text = text if prune else TEXT
    whole, stopped = search(text, name="whole.toml"), search(text, name="stopped.toml")
    straight = fake_engine(by_rate)
    carry_on(whole, straight)
    first, second = fake_engine(by_rate, only=cut), fake_engine(by_rate)
    assert carry_on(stopped, first).interrupted
    assert carry_on(search(text, name="stopped.toml"), second).whole
    assert first.done + second.done == straight.done
    assert table(stopped) == table(whole)


def test_a_search_killed_while_it_was_told_results_goes_on_as_if_it_had_not_been(
    search: Begin, fake_engine: Engine, carry_on: CarryOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TEXT.replace("batch = 2", "batch = 3\nprune = true").replace("trials = 6", "trials = 12")
    whole, killed = search(text, name="whole.toml"), search(text, name="killed.toml")
    carry_on(whole, fake_engine(by_rate))
    assert any(pruned for _, _, pruned in table(whole))
    tell, told = optuna.Study.tell, 0

    def dies(study: optuna.Study, *arguments: Any, **named: Any) -> Any:
        nonlocal told
        told += 1
        if told % 2 == 0:
            raise KeyboardInterrupt
        return tell(study, *arguments, **named)

    monkeypatch.setattr(optuna.Study, "tell", dies)
    for _ in range(40):
        try:
            result = carry_on(search(text, name="killed.toml"), fake_engine(by_rate))
        except KeyboardInterrupt:
            continue
        break
    assert result.whole
    assert told > 12  # it did die, several times
    assert table(killed) == table(whole)


def test_a_pruned_setting_is_not_run_to_its_end_and_not_chosen(
    search: Begin, fake_engine: Engine, carry_on: CarryOn
) -> None:
    text = TEXT.replace("batch = 2", "batch = 1\nprune = true").replace("trials = 6", "trials = 12")
    sweep, engine = search(text), fake_engine(by_rate)
    assert carry_on(sweep, engine).whole
    pruned = [trial for trial in sweep.trials("bp") if trial.pruned]
    assert pruned
    assert len(engine.done) == 2 * 12 - len(pruned) + 1
    assert [job.state() for job in pruned[0].jobs] == ["complete", "not started"]
    choice = sweep.folder.read_choice("bp")
    assert choice is not None
    assert choice["trial"] not in [trial.number for trial in pruned]
    assert choice["pruned"] == len(pruned)
    write_tables(sweep)
    assert ",pruned," in sweep.folder.trials_file.read_text()


def test_a_setting_that_diverges_is_told_as_the_worst_there_is(
    search: Begin, fake_engine: Engine, carry_on: CarryOn
) -> None:
    sweep = search(TEXT)
    carry_on(sweep, fake_engine(lambda s: "diverges" if s.agent.learning_rate > 1e-3 else by_rate(s)))
    choice = sweep.folder.read_choice("bp")
    assert choice is not None
    assert choice["setting"]["agent.learning_rate"] <= 1e-3
    assert choice["diverged"] == sum(t.setting["agent.learning_rate"] > 1e-3 for t in sweep.trials("bp"))
    assert choice["diverged"] > 0


def test_an_arm_with_nothing_to_choose_is_tried_once(
    search: Begin, fake_engine: Engine, carry_on: CarryOn
) -> None:
    text = TEXT.replace("[space]", "[arms.bp.space]").replace("[arms.bp]\n", "[arms.reset]\n")
    sweep, engine = search(text.replace("batch = 2", "equal_budget = false")), fake_engine(by_rate)
    assert carry_on(sweep, engine).whole
    assert sweep.choice("reset") == {}
    assert sum(name.startswith("reset") for name in engine.done) == 2 + 1


def test_shards_of_a_search_are_whole_arms(search: Begin, fake_engine: Engine, carry_on: CarryOn) -> None:
    text = TEXT.replace("[arms.bp]", "[arms.bp]\n[arms.l2]\n[arms.er]")
    done = []
    for index in range(2):
        engine = fake_engine(by_rate)
        assert carry_on(search(text), engine, Shard(index, 2)).whole
        done.append({name.split("-")[0] for name in engine.done})
    assert done == [{"bp", "er"}, {"l2"}]


@pytest.mark.parametrize("storage", ["sqlite:///{}/mine.db", "{}/mine.journal"])
def test_trials_can_be_kept_elsewhere_and_another_sweep_s_study_is_refused(
    begin: Begin, fake_engine: Engine, carry_on: CarryOn, tmp_path: Path, storage: str
) -> None:
    storage = storage.format(tmp_path)
    sweep = begin(TEXT, storage=storage)
    assert carry_on(sweep, fake_engine(by_rate)).whole
    assert not (sweep.folder.path / "optuna").exists()
    assert len(sweep.trials("bp")) == 6
    (tmp_path / "results").rename(tmp_path / "before")
    other = begin(TEXT.replace("1e-1", "1.0"), storage=storage)
    result = carry_on(other, fake_engine(by_rate))
    assert len(result.problems) == 1
    assert "has a study 'sweep/bp' of another space" in result.problems[0]


def test_a_storage_that_cannot_be_used_is_said_so(begin: Begin) -> None:
    for storage in ("postgres-of-mine://nowhere/x", "sqlite:////nowhere/at/all/x.db", "/nowhere/at/all/x"):
        with pytest.raises(OptunaError, match="cannot be used"):
            begin(TEXT, storage=storage).trials("bp")


def test_without_optuna_it_is_said_what_to_install(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    sweep = begin(TEXT)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(OptunaError, match=r'pip install "pliant\[optuna\]"'):
        next(sweep.routines()[0])
