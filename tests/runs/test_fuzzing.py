"""Specs and arguments that nobody meant: whatever they are, the answer is an error that a person can read.

The specs are those of the presets with random changes, as tables and as text. Each becomes a plan, or is
refused by one of the errors that the command line prints; a traceback is a failure here.
"""

import contextlib
import copy
import io
import math
import os
import random
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pliant.agents import AgentError
from pliant.diagnostics import MeasurementError
from pliant.envs import EnvError
from pliant.runs import cli
from pliant.runs.cli import console
from pliant.runs.errors import RunError, SpecError
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import assign, load_spec, merge, preset_names, validate

READABLE = (RunError, AgentError, EnvError, MeasurementError)

STREAM = {
    "name": "stream",
    "tasks": {
        "env": "pliant/Stream-v0",
        "kwargs": {"samples": 60, "permute_inputs": {"rule": "seed"}, "label_noise": 0.1, "classes": [1, 2]},
        "length": 128,
        "count": 2,
    },
    "agent": {"algorithm": "classifier", "batch_size": 8, "network": {"hidden": [4]}},
    "evaluation": {"kwargs": {"split": "test"}},
}
# Small, so that the plans are quick to build; every key is there for the mutations to find.
SMALL = {"agent": {"network": {"hidden": [4]}}, "diagnostics": {"samples": 16}}
TABLES = {
    spec.name: merge(spec.model_dump(mode="json", exclude_none=True), SMALL)
    for spec in (*map(load_spec, preset_names()), validate(STREAM, source="test"))
}


# Derandomised: a change of pliant can break these tests, the day on which they run cannot.
def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


VALUES: list[Any] = [
    *(True, False, 0, 1, -1, 2, 3, 7, 64, 1_000, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 1.0, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan),
    *("", "a", "auto", "ppo", "dqn", "classifier", "CartPole-v1", "MiniGrid-Empty-5x5-v0", "no such-v9"),
    *("../../etc/passwd", "/dev/zero", "os:system", "x" * 5_000, "\0", "\n", "é\u202e", "{{7*7}}", "%s%n"),
    *([], [[]], [1, "a", None], [[1]] * 3, list(range(50)), {}, {"a": {"b": {"c": []}}}),
    *({"rule": "uniform", "low": 0, "high": 1}, {"rule": "seed"}, {"rule": "list", "values": [1, 2]}),
    *({"rule": "uniform"}, {"rule": []}, {"rule": "integer", "low": 5, "high": 2}, {"type": "reward-scale"}),
]


def paths(table: Any, here: tuple = ()) -> Iterator[tuple]:
    """The path of every value below ``table``."""
    for key in list(table) if isinstance(table, dict) else range(len(table)):
        yield (*here, key)
        if isinstance(table[key], (dict, list)):
            yield from paths(table[key], (*here, key))


def places(table: Any) -> Iterator[tuple[Any, Any]]:
    """Every container below ``table``, with every key or index in it."""
    for key in list(table) if isinstance(table, dict) else range(len(table)):
        yield table, key
        if isinstance(table[key], (dict, list)):
            yield from places(table[key])


def mutated(rng: random.Random, original: dict) -> dict:
    """One to four values replaced, exchanged, added, renamed or removed, anywhere."""
    table = copy.deepcopy(original)
    for _ in range(rng.randint(1, 4)):
        found = list(places(table))
        if not found:
            break
        (container, key), (other, another) = rng.choice(found), rng.choice(found)
        alike = [value for value in VALUES if type(value) is type(container[key])]
        value = copy.deepcopy(rng.choice(alike if alike and rng.random() < 0.7 else VALUES))
        match rng.randrange(6):
            case 0 | 1:
                container[key] = value
            case 2:
                container[key] = copy.deepcopy(other[another])
            case 3 if isinstance(container, dict):
                container["".join(rng.choices(string.ascii_lowercase, k=3))] = value
            case 4 if isinstance(container, dict):
                name = list(str(key))
                name[rng.randrange(len(name))] = rng.choice("abc_-.")
                container["".join(name)] = container.pop(key)
            case _:
                del container[key]
    return table


def garbled(rng: random.Random, text: str) -> str:
    """A few characters, tokens or lines replaced, inserted, removed or moved."""
    tokens = ["=", "[", "]", "[[", "]]", "{", "}", '"', "'", '"""', ".", ",", "\n", "#", "\\", "\0", "\ud800"]
    tokens += ["1e999", "nan", "0x_", "1979-05-27", "extends = ", "tasks.list", "a.b.c = 1", "true", "\u202e"]
    for _ in range(rng.randint(1, 5)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice([0, 1, 1, 2, 10, 80]))
        insert = rng.choice(["", rng.choice(tokens), text[rng.randrange(len(text) + 1) :][:20]])
        text = text[:start] + insert + text[end:]
    return text


@fuzz(2000)
@given(st.randoms(use_true_random=True), st.sampled_from(sorted(TABLES)))
def test_a_changed_table_is_a_spec_or_refused(rng: random.Random, name: str) -> None:
    with contextlib.suppress(SpecError):
        validate(mutated(rng, TABLES[name]), source="fuzz")


@fuzz(500)
@given(st.randoms(use_true_random=True), st.sampled_from(sorted(TABLES)))
def test_a_garbled_file_is_a_spec_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rng: random.Random, name: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "garbled.toml"
    text = garbled(rng, tomli_w.dumps(TABLES[name]))
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(SpecError):
        load_spec(str(file))


@fuzz(200)
@given(st.randoms(use_true_random=True), st.sampled_from(sorted(TABLES)))
def test_a_changed_table_is_a_plan_or_refused(rng: random.Random, name: str) -> None:
    with contextlib.suppress(*READABLE):
        make_plan(validate(mutated(rng, TABLES[name]), source="fuzz"), "cpu")


@pytest.mark.slow
@settings(fuzz(5000), derandomize=False, print_blob=True)
@given(st.randoms(use_true_random=True), st.sampled_from(sorted(TABLES)))
def test_many_more_changed_tables_are_plans_or_refused(rng: random.Random, name: str) -> None:
    with contextlib.suppress(*READABLE):
        make_plan(validate(mutated(rng, TABLES[name]), source="fuzz"), "cpu")


@fuzz(500)
@given(st.randoms(use_true_random=True), st.sampled_from(sorted(TABLES)))
def test_whatever_is_set_gives_a_spec_or_is_refused(rng: random.Random, name: str) -> None:
    keys = [".".join(map(str, path)) for path in paths(TABLES[name])]
    chosen = [
        f"{garbled(rng, rng.choice(keys)) if rng.random() < 0.3 else rng.choice(keys)}="
        f"{rng.choice(VALUES) if rng.random() < 0.7 else garbled(rng, '[1, 2]')}"
        for _ in range(rng.randint(1, 3))
    ]
    with contextlib.suppress(SpecError):
        validate(assign(copy.deepcopy(TABLES[name]), chosen), source="fuzz")


VERBS = ["train", "sweep", "measure", "evaluate", "replay", "report", "compare", "list"]
WORDS = [
    *(
        "quickstart",
        "quikstart",
        "toy.toml",
        "run",
        "no/such/run",
        "file",
        ".",
        "/",
        "",
        "-",
        "--",
        "-1",
        "0",
    ),
    *("--arm", "--set", "--seed", "--seeds", "--jobs", "--device", "--out", "--resume", "--list", "--help"),
    *("--after-task", "--on-task", "--episodes", "--episode", "--video", "--baseline", "--depth", "--shard"),
    *("--side-by-side", "bp", "a.b=1", "agent.gamma=0.5", "tasks=", "=", "0-3", "3-0", "1e9", "1/2", "fresh"),
    *("nan", "99999999999999999999", "\udcff", "\u202e", "x" * 300, "*", "%s", "[red]", "../.."),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run, a spec and a file to point at, and to be in."""
    folder = tmp_path_factory.mktemp("place")
    spec = validate(TABLES["quickstart"], source="test")
    RunFolder.create(folder, spec, [0, 64], name="run")
    (folder / "toy.toml").write_text(tomli_w.dumps(TABLES["stream"]))
    (folder / "file").write_text("no folder")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@fuzz(150)
@given(st.randoms(use_true_random=True))
def test_whatever_is_typed_is_answered_without_a_traceback(place: Path, rng: random.Random) -> None:
    verb = rng.choice(VERBS)
    # Of those that would train for minutes only what comes before that.
    stop = ["--dry-run"] if verb in ("train", "sweep") else []
    words = [verb, *rng.choices(WORDS, k=rng.randint(0, 5)), *stop]
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["pliant", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code
    assert code in (0, None, console.BAD_INPUT, console.FAILED), words
    assert code != console.BAD_INPUT or out.getvalue() + err.getvalue(), words
