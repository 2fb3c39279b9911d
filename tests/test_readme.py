"""What the README says can be done, can be done."""

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from pliant.envs import SHIFTS
from pliant.envs.shifts.parameters import PHYSICS
from pliant.runs import cli
from pliant.runs.presets import arm_names, preset_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[list[str]]:
    lines = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]
    parts = [part for line in lines for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))[0] == program]


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_the_python_of_the_readme_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("words", commands("train-agent"), ids=" ".join)
def test_the_commands_of_the_readme_are_understood(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [*words, "--dry-run"])
    with pytest.raises(SystemExit) as exit_:
        cli.train_agent()
    assert not exit_.value.code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", commands("pliant"), ids=" ".join)
def test_the_verbs_and_options_of_the_readme_exist(words: list[str]) -> None:
    _, verb, *arguments = words
    command = typer.main.get_command(cli.app).commands[verb]
    assert command.help
    command.make_context(verb, list(arguments))  # parses, and refuses options that do not exist; runs nothing
    with pytest.raises(SystemExit) as exit_:
        command.main([verb, "--help"], prog_name=f"pliant {verb}")
    assert not exit_.value.code


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert commands("make")
    for _, target in commands("make"):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_table_of_presets_is_complete() -> None:
    cells = re.findall(r"^\| (`[a-z0-9-]+`(?:, `[a-z0-9-]+`)*) \|", README, flags=re.MULTILINE)
    rows = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert sorted(rows) == preset_names()
    for arm in ("bp", "l2", "er", "l2-er", "reset"):  # the others: docs/mitigations.md
        assert f"`{arm}`" in README
        assert arm in arm_names("quickstart")


@pytest.mark.parametrize("text", blocks("toml"), ids=lambda text: text.splitlines()[0])
def test_the_specs_of_the_readme_are_complete(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["train-agent", "mine.toml", "--dry-run"])
    with pytest.raises(SystemExit) as exit_:
        cli.train_agent()
    assert not exit_.value.code


def test_the_table_of_shifts_has_every_shift_with_its_parameters_and_defaults() -> None:
    page = (ROOT / "docs" / "shifts.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \| .* \|$", page, flags=re.MULTILINE))
    assert list(rows) == list(SHIFTS)
    for name, cell in rows.items():
        assert cell == ", ".join(parameters_of(name))


def parameters_of(name: str) -> list[str]:
    """As the table writes them; ``elapsed`` is set by pliant alone."""
    found = inspect.signature(SHIFTS[name]).parameters
    return [
        f"`{key}`"
        if one.default is one.empty or one.default is None
        else f"`{key} = {json.dumps(one.default)}`"
        for key, one in found.items()
        if key not in ("env", "elapsed")
    ]


def test_the_table_of_physics_has_every_environment_with_its_parameters() -> None:
    page = (ROOT / "docs" / "shifts.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+Env) \| (.*) \|$", page, flags=re.MULTILINE))
    assert rows == {env: ", ".join(f"`{name}`" for name in names) for env, names in PHYSICS.items()}
