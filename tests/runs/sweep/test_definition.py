"""A sweep's file: what it may say, and what is said of what it may not."""

import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pliant.runs.errors import SpecError
from pliant.runs.sweep.definition import dump_definition, load_definition
from pliant.runs.sweep.folder import SweepFolder
from pliant.runs.sweep.jobs import make_job
from pliant.runs.sweep.protocol import Sweep

Write = Callable[..., Path]


def test_a_definition_comes_back_from_its_own_toml_without_any_other_file(
    write: Write, tuned: str, tmp_path: Path
) -> None:
    definition = load_definition(write(tuned))
    alone = tmp_path / "elsewhere.toml"
    alone.write_text(dump_definition(definition), encoding="utf-8")
    (tmp_path / "toy.toml").unlink()
    assert load_definition(alone) == definition


def test_a_definition_comes_back_with_infinite_numbers(write: Write, tmp_path: Path) -> None:
    text = 'base = "slippery-ant"\nseeds = [0]\nset.evaluation.max_length = 10\n'
    definition = load_definition(write(text + 'arms = ["bp"]\n[space]\nagent.max_grad_norm = [0.5, inf]'))
    assert definition.base["agent"]["max_grad_norm"] == math.inf
    alone = tmp_path / "alone.toml"
    alone.write_text(dump_definition(definition), encoding="utf-8")
    assert load_definition(alone) == definition


def test_the_base_is_looked_for_beside_the_sweep_s_file(
    write: Write, plain: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = write(plain)
    monkeypatch.chdir("/")
    assert load_definition(path).base["name"] == "toy"


def test_a_list_of_arms_is_short_for_their_tables_and_seeds_may_be_a_range(write: Write) -> None:
    short = load_definition(write('base = "toy.toml"\narms = ["bp", "l2"]\nseeds = "0-2"', "x.toml"))
    long = load_definition(write('base = "toy.toml"\nseeds = [0, 1, 1, 2]\n[arms.bp]\n[arms.l2]', "x.toml"))
    assert short == long


def test_without_arms_it_is_the_base_s_own_arm(write: Write) -> None:
    definition = load_definition(write('base = "cartpole-offset"\nseeds = [0]'))
    assert list(definition.arms) == ["l2-er"]
    assert list(definition.base["arms"]) == ["l2-er"]  # no other arm can change what this sweep is


def test_what_is_set_is_laid_over_the_base_then_the_tuning_s_then_the_arm_s_then_the_setting(
    write: Write,
) -> None:
    text = """
    base = "toy.toml"
    set = { agent = { gamma = 0.9, gae_lambda = 0.9 }, "tasks.count" = 3 }
    space = { agent.ent_coef = [0.1, 0.2] }
    [arms.strong]
    arm = "l2"
    set = { agent.gamma = 0.8, mitigations.l2.strength = 1e-2 }
    space = { agent.vf_coef = [1.0] }
    [tune]
    trials = 2
    seeds = [9]
    set = { tasks.count = 1, agent.gae_lambda = 0.7 }
    [test]
    seeds = [0]
    """
    definition = load_definition(write(text))
    setting = {"agent.ent_coef": 0.2, "agent.vf_coef": 1.0}
    tuning = make_job(definition, "strong", setting, 9, Path("x"), tuning=True).spec
    test = make_job(definition, "strong", setting, 0, Path("x"), tuning=False).spec
    for spec in (tuning, test):
        assert (spec.arm, spec.mitigations) == ("strong", {"l2": {"strength": 1e-2}})
        assert (spec.agent.gamma, spec.agent.ent_coef, spec.agent.vf_coef) == (0.8, 0.2, 1.0)
    assert (tuning.seed, tuning.tasks.count, tuning.agent.gae_lambda) == (9, 1, 0.7)
    assert (test.seed, test.tasks.count, test.agent.gae_lambda) == (0, 3, 0.9)


def test_an_arm_that_sets_a_key_of_the_common_space_is_not_varied_in_it(write: Write) -> None:
    text = """
    base = "toy.toml"
    seeds = [0]
    space = { agent.gamma = [0.9, 0.99] }
    [arms.bp]
    [arms.l2]
    set = { agent.gamma = 0.5 }
    """
    definition = load_definition(write(text))
    assert definition.space_of("bp") == {"agent.gamma": [0.9, 0.99]}
    assert definition.space_of("l2") == {}


TUNE = "[tune]\ntrials = 2\nseeds = [9]\n[test]\nseeds = [0]\n"
UNEQUAL = (
    'base = "toy.toml"\nspace.agent.gamma = [0.9, 0.99]\n[arms.bp]\n[arms.l2]\nset.agent.gamma = 1.0\n' + TUNE
)
REFUSED = {
    "no base": ("seeds = [0]", ["base: missing"]),
    "an unknown base": ('base = "tyo"\nseeds = [0]', ["there is no preset 'tyo'"]),
    "a missing file": ('base = "nowhere.toml"\nseeds = [0]', ["there is no file", "nowhere.toml"]),
    "a base that is a number": ("base = 3\nseeds = [0]\narms = ['bp']", ["base: ", "name of a preset"]),
    "an unknown key": ('base = "toy.toml"\nseed = [0]', ["seed: unknown key", "'seeds'"]),
    "an unknown key of an arm": (
        'base = "toy.toml"\nseeds = [0]\n[arms.l2]\nspaec = {}',
        ["arms.l2.spaec: unknown key", "'space'"],
    ),
    "an unknown arm": ('base = "toy.toml"\nseeds = [0]\narms = ["l2", "el2"]', ["no arm 'el2'", "'l2'"]),
    "arms of another kind": ('base = "toy.toml"\nseeds = [0]\narms = [3]', ["arms: "]),
    "no arms": ('base = "toy.toml"\nseeds = [0]\narms = []', ["arms: "]),
    "an arm that leads out of the folder": (
        'base = "toy.toml"\nseeds = [0]\n[arms."../x"]\narm = "l2"',
        ["'../x' cannot be a folder's name"],
    ),
    "a name that leads out of the folder": (
        'base = "toy.toml"\nname = ".."\nseeds = [0]',
        ["'..' cannot be a folder's name"],
    ),
    "no seeds": ('base = "toy.toml"', ["expected seeds, or both [tune] and [test]"]),
    "an empty list of seeds": ('base = "toy.toml"\nseeds = []', ["seeds: "]),
    "negative seeds": ('base = "toy.toml"\nseeds = [-1]', ["seeds.0: ", "-1"]),
    "seeds that are none": ('base = "toy.toml"\nseeds = "a-b"', ["seeds: ", "0-4 or 0,3,7"]),
    "seeds beside tuning": (f'base = "toy.toml"\nseeds = [0]\n{TUNE}', ["seeds is for a plain sweep"]),
    "tuning without test": ('base = "toy.toml"\n[tune]\ntrials = 1\nseeds = [9]', ["both [tune] and [test]"]),
    "seeds both tuned and tested on": (
        'base = "toy.toml"\n[tune]\ntrials = 1\nseeds = "5-9"\n[test]\nseeds = "0-6"',
        ["the seeds 5, 6 are both tuned on and tested on"],
    ),
    "a seed among the settings": (
        'base = "toy.toml"\nseeds = [0]\nset.seed = 3',
        ["set: seed cannot be changed here", "tune.seeds"],
    ),
    "a name among the settings": (
        'base = "toy.toml"\nseeds = [0]\nset.name = "x"',
        ["name cannot be changed"],
    ),
    "tasks that differ between arms": (
        f'base = "toy.toml"\n[arms.bp]\nset.tasks.count = 3\n{TUNE}',
        ["arms.bp.set: tasks.count cannot be changed here", "the same tasks"],
    ),
    "tasks in a space that is tuned": (
        f'base = "toy.toml"\nspace.tasks.count = [1, 2]\n{TUNE}',
        ["space: tasks.count cannot be changed here"],
    ),
    "a space that is none": (
        'base = "toy.toml"\nseeds = [0]\nspace.agent.gamma = 0.9',
        ["space: agent.gamma: expected a list of values"],
    ),
    "a key both set and varied": (
        'base = "toy.toml"\nseeds = [0]\n[arms.bp]\nset.agent.gamma = 0.9\nspace.agent.gamma = [0.9]',
        ["arms.bp: agent.gamma stands both in set and in space"],
    ),
    "a rule without draws": (
        'base = "toy.toml"\nseeds = [0]\nspace.agent.gamma = { rule = "uniform", low = 0.9, high = 1.0 }',
        ["agent.gamma is drawn by a rule; say how often: draws = 10"],
    ),
    "draws without a rule": ('base = "toy.toml"\nseeds = [0]\ndraws = 3', ["no key of a space is a rule"]),
    "draws beside tuning": (f'base = "toy.toml"\ndraws = 2\n{TUNE}', ["tune.trials is the budget"]),
    "an arm with a smaller budget": (
        UNEQUAL,
        ["the arm 'l2' has 1 setting in its space and tune.trials is 2", "equal_budget = false"],
    ),
    "an arm with a larger budget": (
        f'base = "toy.toml"\nspace.agent.gamma = [0.9, 0.99, 1.0]\n{TUNE}',
        ["has 3 settings in its space and tune.trials is 2"],
    ),
    "draws that do not come out even": (
        f'base = "toy.toml"\nspace.agent.gamma = [0.9, 0.99, 1.0]\n'
        f'space.agent.ent_coef = {{ rule = "uniform", low = 0.0, high = 0.1 }}\n{TUNE}',
        ["has 3 combinations of lists", "tune.trials = 2 is no multiple"],
    ),
    "an unknown metric": (
        'base = "toy.toml"\n[tune]\ntrials = 1\nseeds = [9]\nmetric = "averge performance"\n'
        "[test]\nseeds = [0]",
        ["tune.metric: there is no metric 'averge performance'", "'average performance'"],
    ),
    "a part of a metric's name": (
        'base = "toy.toml"\n[tune]\ntrials = 1\nseeds = [9]\nmetric = "return"\n[test]\nseeds = [0]',
        ["there is no metric 'return'; did you mean 'return at the end of a task'?"],
    ),
    "a metric that needs more than a run": (
        'base = "toy.toml"\n[tune]\ntrials = 1\nseeds = [9]\nmetric = "plasticity gap"\n[test]\nseeds = [0]',
        ["held against fresh agents"],
    ),
    "an unknown method": (
        'base = "toy.toml"\n[tune]\ntrials = 1\nseeds = [9]\nmethod = "grid"\n[test]\nseeds = [0]',
        ["tune.method: ", "'optuna'"],
    ),
    "more runs than can be": (
        'base = "toy.toml"\nseeds = "0-99999"\narms = ["bp", "l2"]',
        ["these are 200,000 runs; at most 100,000"],
    ),
    "a grid without end": (
        'base = "toy.toml"\nseeds = [0]\n[space]\n'
        + "\n".join(f"agent.x{i} = {list(range(100))}" for i in range(12)),
        ["runs; at most 100,000"],
    ),
    "seeds without end": ('base = "toy.toml"\nseeds = "0-999999999999"', ["at most 100,000 at a time"]),
    "no TOML": ("base = = 3", ["not valid TOML", "line 1"]),
    "nested beyond measure": ("base = " + "[" * 100_000, ["is not valid TOML", "nested"]),
    "a base whose arms are no tables": ("seeds = [0]\n[base]\narms = 3", ["expected tables such as"]),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_by_name(write: Write, text: str, said: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        load_definition(write(text))
    for words in said:
        assert words in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no file"):
        load_definition(tmp_path / "nowhere.toml")


def test_a_budget_may_be_unequal_when_the_file_says_so(write: Write) -> None:
    definition = load_definition(write(UNEQUAL.replace("trials = 2", "trials = 2\nequal_budget = false")))
    assert [definition.draws_of(arm) for arm in definition.arms] == [1, 1]


def test_optuna_without_anything_to_tune_is_refused(write: Write, plain: str, tuned: str) -> None:
    with pytest.raises(SpecError, match=r"--optuna: .* has no \[tune\]"):
        load_definition(write(plain), optuna=True)
    tune = load_definition(write(tuned), optuna=True).tune
    assert tune is not None
    assert tune.method == "optuna"


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["", "bp", "toy.toml", "0-3", "uniform", "optuna", "\x00", "../x"])
)
keys = st.sampled_from(
    [
        *("base", "name", "arms", "set", "space", "draws", "seeds", "tune", "test", "trials", "method"),
        *("metric", "rule", "low", "high", "agent", "gamma", "l2", "bp", "x"),
    ]
)
tables = st.recursive(
    leaves,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(keys, tables, max_size=6), st.booleans())
def test_whatever_stands_in_a_file_is_read_or_refused_in_words(
    write: Write, table: dict[str, object], optuna: bool
) -> None:
    import tomli_w

    def without_none(value: object) -> object:
        if isinstance(value, dict):
            return {key: without_none(below) for key, below in value.items() if below is not None}
        return (
            [without_none(below) for below in value if below is not None]
            if isinstance(value, list)
            else value
        )

    text = tomli_w.dumps(without_none({"base": "toy.toml", "seeds": [0], **table}))
    path = write(text)
    try:
        definition = load_definition(path, optuna=optuna)
    except SpecError:  # anything else is a traceback, and fails this test
        return
    assert tomllib.loads(dump_definition(definition))["name"] == definition.name


EXAMPLES = sorted((Path(__file__).parents[3] / "docs" / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_the_documentation_are_what_they_say(path: Path) -> None:
    definition = load_definition(path)
    sweep = Sweep(definition, SweepFolder(Path("nowhere")))
    runs, _ = sweep.expected()
    assert set(definition.arms) == {"bp", "l2", "er", "l2-er", "reset"}
    assert runs == {"five-arms": 5 * 5, "five-arms-tuned": 5 * 12 * 3 + 5 * 10}[path.stem]
    for job in sweep.known_jobs():
        assert job.spec.name == "cartpole-offset"
        assert job.total_steps == 20_480 * (8 if job.path.parent.name == "tuning" else 20)


def test_the_toml_of_the_documentation_is_understood(write: Write) -> None:
    text = (EXAMPLES[0].parents[1] / "sweeps.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert [load_definition(write(block)).tune is None for block in blocks] == [True, False]
