"""The page of mitigations names all of them, with the defaults that they have."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

from pliant.agents import MITIGATIONS, OPTIMIZERS
from pliant.runs.presets import arm_names

PAGE = (Path(__file__).parents[1] / "docs" / "mitigations.md").read_text(encoding="utf-8")
ROWS = {
    cells[1].strip("` "): cells
    for line in PAGE.splitlines()
    if line.startswith("| `") and len(cells := line.strip("|").split(" | ")) == 5
}


def test_every_mitigation_has_its_row_and_every_arm_is_named() -> None:
    assert ROWS.keys() == MITIGATIONS.keys()
    assert set(arm_names("quickstart")) <= set(re.findall(r"`([\w-]+)`", PAGE))
    assert set(OPTIMIZERS) - {"adam"} <= set(re.findall(r"`([\w-]+)`", PAGE))


@pytest.mark.parametrize("name", MITIGATIONS)
def test_the_defaults_are_those_of_the_code(name: str) -> None:
    stated = tomllib.loads("\n".join(re.findall(r"`(\w+ = [^`]+)`", ROWS[name][2])))
    parameters = inspect.signature(MITIGATIONS[name]).parameters
    assert stated.keys() <= parameters.keys()
    for setting, value in stated.items():
        default = parameters[setting].default
        assert (list(default) if isinstance(default, tuple) else default) == value
    unstated = {p.name for p in parameters.values() if p.default not in (None, inspect.Parameter.empty)}
    assert unstated - stated.keys() <= {"betas"}  # TRAC's six discounts


@pytest.mark.parametrize("name", MITIGATIONS)
def test_the_paper_is_the_one_of_the_docstring(name: str) -> None:
    paper = re.search(r"(\d{4}\.\d{5}|forum\?id=\w+)", ROWS[name][4])
    assert paper is not None
    assert paper.group(1) in (MITIGATIONS[name].__doc__ or "")
