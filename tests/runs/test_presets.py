"""Specs: what a preset, an arm and --set come to."""

import copy
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.agents import MITIGATIONS
from pliant.diagnostics import SnapshotSettings
from pliant.runs.errors import SpecError
from pliant.runs.plan import make_plan
from pliant.runs.presets import (
    arm_names,
    build_spec,
    dump,
    load_spec,
    load_table,
    merge,
    preset_names,
    validate,
)
from pliant.runs.seeds import parse_seeds
from pliant.runs.spec import DQNSpec, PPOSpec, SpectrumSpec

EVERY = pytest.mark.parametrize("name", preset_names())


@EVERY
def test_every_preset_says_what_it_is_and_has_the_paper_s_arm(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert spec.description
    assert spec.arm == "l2-er"
    assert set(spec.mitigations) == {"l2", "effective-rank"}


@EVERY
def test_every_preset_has_every_arm(name: str) -> None:
    assert {"bp", "l2", "er", "l2-er", "reset", "cbp-l2", "layer-norm-l2", "redo"} <= set(arm_names(name))
    for arm in arm_names(name):
        spec = load_spec(name, arm=arm)
        assert spec.reset == (arm == "reset")
        assert set(spec.mitigations) <= MITIGATIONS.keys()


@EVERY
def test_a_resolved_spec_comes_back_from_its_own_toml(name: str) -> None:
    spec = load_spec(name, seed=3)
    assert validate(tomllib.loads(dump(spec)), source=name) == spec


def test_the_resolved_spec_of_a_run_is_a_preset_that_no_arm_changes_again(tmp_path: Path) -> None:
    spec = load_spec("digits-permuted", arm="l2-er", settings=["mitigations.l2.strength=0.5"])
    renamed = spec.model_copy(update={"arm": "an arm of a sweep"})
    path = tmp_path / "run.toml"
    for resolved in (spec, renamed):
        path.write_text(dump(resolved), encoding="utf-8")
        assert load_spec(str(path)) == resolved
        assert load_spec(str(path), settings=["tasks.count=3"]).tasks.count == 3
        with pytest.raises(SpecError, match=f"there is no arm 'bp' in .*; known: {resolved.arm}"):
            load_spec(str(path), arm="bp")


def test_the_paper_s_ant_has_the_paper_s_settings() -> None:
    spec = load_spec("slippery-ant")
    agent = spec.agent
    assert isinstance(agent, PPOSpec)
    assert (agent.n_steps, agent.batch_size, agent.n_epochs, agent.learning_rate) == (2048, 16, 10, 1e-4)
    assert (agent.vf_coef, agent.ent_coef, agent.max_grad_norm) == (1.0, 0.01, float("inf"))
    assert agent.network.hidden == (256,)
    assert agent.network.initialisation == "lecun-uniform"
    assert load_spec("slippery-ant", arm="bp").agent.optimizer.betas == (0.9, 0.999)
    for arm in ("l2", "er", "l2-er"):
        assert load_spec("slippery-ant", arm=arm).agent.optimizer.betas == (0.99, 0.99)
    assert spec.mitigations["effective-rank"]["step"] == 1e-6
    assert spec.mitigations["effective-rank"]["mode"] == "raw"
    assert spec.mitigations["l2"]["strength"] == 1e-3
    assert load_spec("slippery-ant", arm="er").mitigations["effective-rank"]["step"] == 1e-7
    both = load_spec("slippery-ant", arm="cbp-l2")
    assert both.mitigations["continual-backprop"] == {
        "replacement_rate": 1e-7,
        "maturity": 10_000,
        "decay": 0.99,
    }
    for arm in ("cbp-l2", "layer-norm-l2", "shrink-and-perturb-l2"):
        spec = load_spec("slippery-ant", arm=arm)
        assert spec.agent.optimizer.betas == (0.99, 0.99)
        assert spec.mitigations["l2"]["strength"] == 1e-3


def test_settings_are_laid_over_the_arm_and_typed_by_toml() -> None:
    spec = load_spec(
        "cartpole-offset",
        arm="l2",
        settings=[
            "mitigations.l2.strength=1e-4",
            "schedule=whole-run",
            "agent.network.hidden=[8]",
            "tasks.count=2",
        ],
        seed=7,
    )
    assert spec.mitigations == {"l2": {"strength": 1e-4}}
    assert spec.schedule == "whole-run"
    assert spec.agent.network.hidden == (8,)
    assert spec.seed == 7
    assert len(spec.tasks.build(0)) == 2


def test_a_number_names_a_place_in_a_list() -> None:
    spec = load_spec("minigrid-rooms", settings=["tasks.list.1.env=MiniGrid-DoorKey-6x6-v0"])
    assert spec.tasks.list[1]["env"] == "MiniGrid-DoorKey-6x6-v0"


def test_a_file_of_one_s_own_is_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[tasks]\nenv = "CartPole-v1"\nlength = 100\n[agent]\nalgorithm = "dqn"\n', encoding="utf-8"
    )
    spec = load_spec(str(path))
    assert (spec.name, spec.arm) == ("mine", "bp")
    assert isinstance(spec.agent, DQNSpec)


def test_a_preset_may_extend_another(tmp_path: Path) -> None:
    short, whole = load_spec("slippery-ant-short"), load_spec("slippery-ant")
    changed = {"name", "description", "tasks", "evaluation"}
    assert short.model_dump(exclude=changed) == whole.model_dump(exclude=changed)
    assert short.tasks.kwargs == whole.tasks.kwargs
    assert (short.tasks.length, whole.tasks.length) == (40_960, 2_000_000)
    path = tmp_path / "mine.toml"
    path.write_text('extends = "quickstart"\nseed = 4\n', encoding="utf-8")
    assert load_spec(str(path)).seed == 4
    assert arm_names(str(path)) == arm_names("quickstart")
    path.write_text(f'extends = "{path}"\n', encoding="utf-8")
    with pytest.raises(SpecError, match="expected the name of another preset"):
        load_spec(str(path))


def test_a_table_serves_for_many_specs_and_is_left_as_it_was() -> None:
    table = load_table("cartpole-offset")
    before = copy.deepcopy(table)
    changes = {"tasks.shifts.0.std": 1.0, "mitigations.l2.strength": 1e-4, "arm": "l2-strong"}
    spec = build_spec(table, arm="l2", settings=["agent.gamma=0.9"], changes=changes, seed=3, source="test")
    assert spec.tasks.shifts[0]["std"] == 1.0
    assert spec.mitigations == {"l2": {"strength": 1e-4}}
    assert (spec.arm, spec.agent.gamma, spec.seed) == ("l2-strong", 0.9, 3)
    assert table == before
    assert build_spec(table, arm="l2", seed=3, source="test") == load_spec(
        "cartpole-offset", arm="l2", seed=3
    )


def test_seeds_are_numbers_and_ranges_each_once() -> None:
    assert parse_seeds("3, 0-2,1, 7-7") == [3, 0, 1, 2, 7]


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "1.5", "²", "0-99999999999", "9" * 30])
def test_seeds_that_are_none_or_far_too_many_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="seeds "):
        parse_seeds(text)


def test_the_boundaries_of_a_spec_are_those_of_its_plan() -> None:
    spec = load_spec("cartpole-physics", settings=["tasks.length=3000", "tasks.count=3"])
    assert spec.boundaries == [0, 4096, 8192, 12288]
    assert spec.total_steps == 12288
    assert make_plan(spec, "cpu").boundaries == spec.boundaries


def test_a_task_is_rounded_up_to_whole_rollouts() -> None:
    spec = load_spec("cartpole-offset")
    assert spec.rollout_steps == 2048
    assert [spec.task_steps(length) for length in (1, 2048, 2049)] == [2048, 2048, 4096]
    assert load_spec("minigrid-dqn").rollout_steps == 4


def test_a_spec_mirrors_the_settings_of_a_snapshot() -> None:
    mirrored = {name: field.default for name, field in SpectrumSpec.model_fields.items()}
    own = {field.name: field.default for field in fields(SnapshotSettings)}
    assert mirrored == {name: default for name, default in own.items() if name in mirrored}
    assert own.keys() - mirrored.keys() == {
        "learning_rate",
        "updates",
        "unclipped",
    }  # these follow from the rest


def test_the_updates_of_a_task_are_counted_as_training_takes_them() -> None:
    assert (
        load_spec("cartpole-offset").gradient_updates(20_480) == 10 * 5 * 32
    )  # rollouts, epochs, minibatches
    assert load_spec("minigrid-dqn").gradient_updates(40_000) == 10_000


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("abc"), st.integers())
    )
)
def test_merging_with_nothing_changes_nothing(table: dict[str, object]) -> None:
    assert merge(table, {}) == merge({}, table) == merge(table, table) == table


REFUSED = {
    "an unknown preset": (("quickstrat", None, []), ["no preset 'quickstrat'", "'quickstart'"]),
    "a missing file": (("nowhere.toml", None, []), ["no file 'nowhere.toml'", "--list"]),
    "an unknown arm": (("quickstart", "l2er", []), ["no arm 'l2er'", "'l2-er'"]),
    "an unknown key": (
        ("quickstart", None, ["agent.learning_rat=1"]),
        ["agent.learning_rat", "'learning_rate'"],
    ),
    "an unknown table": (("quickstart", None, ["agnet.gamma=1.0"]), ["agnet", "'agent'"]),
    "a wrong type": (("quickstart", None, ["agent.n_steps='many'"]), ["agent.n_steps", "integer", "'many'"]),
    "a float for an integer": (("quickstart", None, ["agent.n_steps=512.0"]), ["agent.n_steps", "512.0"]),
    "a negative number": (
        ("quickstart", None, ["agent.n_steps=-1"]),
        ["agent.n_steps", "greater than 0", "-1"],
    ),
    "not a number": (("quickstart", None, ["agent.learning_rate=nan"]), ["agent.learning_rate"]),
    "a fraction above one": (
        ("quickstart", None, ["agent.gamma=1.5"]),
        ["agent.gamma", "less than or equal to 1"],
    ),
    "an unknown algorithm": (
        ("quickstart", None, ["agent.algorithm=sac"]),
        ["agent.algorithm", "'ppo', 'dqn' or 'classifier'"],
    ),
    "a key of the other algorithm": (
        ("minigrid-dqn", None, ["agent.n_epochs=4"]),
        ["agent.n_epochs", "unknown key"],
    ),
    "weight decay of Adam": (
        ("quickstart", None, ["agent.optimizer.weight_decay=0.1"]),
        ["agent.optimizer", "mitigations.l2.strength = 0.1"],
    ),
    "a batch that does not divide": (
        ("quickstart", None, ["agent.batch_size=100"]),
        ["100", "2048", "divide"],
    ),
    "a batch above the rollout": (("quickstart", None, ["agent.batch_size=4096"]), ["4096", "2048"]),
    "a setting without value": (
        ("quickstart", None, ["agent.gamma"]),
        ["--set 'agent.gamma'", "key.key=value"],
    ),
    "a setting below a value": (("quickstart", None, ["arm.x=1"]), ["'arm' is a value"]),
    "a place beyond a list": (("minigrid-rooms", None, ["tasks.list.9.env=x"]), ["'9'", "list of 6"]),
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_by_name(
    arguments: tuple[str, str | None, list[str]], said: list[str]
) -> None:
    preset, arm, settings = arguments
    with pytest.raises(SpecError) as caught:
        load_spec(preset, arm=arm, settings=settings)
    for text in said:
        assert text in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("arm", ["[1]", "3", "{ a = 1 }"])
def test_an_arm_that_is_no_name_is_refused(tmp_path: Path, arm: str) -> None:
    path = tmp_path / "mine.toml"
    for text in (
        dump(load_spec("quickstart")),
        'arm = "l2-er"\n[tasks]\nenv = "CartPole-v1"\nlength = 100\n',
    ):
        path.write_text(text.replace('arm = "l2-er"', f"arm = {arm}"), encoding="utf-8")
        with pytest.raises(SpecError, match="there is no arm"):
            load_spec(str(path))


@pytest.mark.parametrize("arms", ["redo,l2", "redo, l2", "redo+l2"])
def test_several_arms_at_once_are_told_how_to_combine(arms: str) -> None:
    with pytest.raises(SpecError, match=r"one arm, .* --set mitigations\.l2\.strength=1e-4"):
        load_spec("quickstart", arm=arms)
    assert {*load_spec("quickstart", arm="redo", settings=["mitigations.l2.strength=1e-4"]).mitigations} == {
        "redo",
        "l2",
    }


def test_arms_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for arms in ("arms = 3", "[arms]\nl2 = 3"):
        path.write_text(f'extends = "quickstart"\n{arms}\n', encoding="utf-8")
        with pytest.raises(SpecError, match=r"expected tables such as \[arms"):
            load_spec(str(path))


def test_a_file_that_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("seed = = 1", encoding="utf-8")
    with pytest.raises(SpecError, match=r"not valid TOML.*line 1"):
        load_spec(str(path))
