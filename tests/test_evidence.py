"""The numbers of docs/evidence are those of its tables, and its tables are those of its returns."""

import csv
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pliant.runs.report.statistics import Interval, stratified_bootstrap
from pliant.runs.sweep.definition import load_definition

EVIDENCE = Path(__file__).parents[1] / "docs" / "evidence"
SWEEPS = sorted(path.stem for path in EVIDENCE.glob("*.toml"))


@pytest.fixture
def arms(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EVIDENCE))
    return import_module("arms")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EVIDENCE))
    return import_module("tables")


def rows(name: str) -> list[dict[str, str]]:
    with (EVIDENCE / "data" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def shown(row: dict[str, str], column: str) -> str:
    return str(Interval(*(float(row[f"{column}{end}"]) for end in ("", "_low", "_high"))))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_can_be_run_and_is_named_by_make(sweep: str) -> None:
    assert load_definition(EVIDENCE / f"{sweep}.toml").name == sweep
    makefile = (EVIDENCE.parents[1] / "Makefile").read_text(encoding="utf-8")
    assert sweep in re.findall(r"^EVIDENCE := (.*)$", makefile, re.MULTILINE)[0].split()


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_summary_of_the_arms_follows_from_their_returns(sweep: str) -> None:
    runs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(sweep):
        runs[row["arm"]][row["seed"]].append(float(row["return"]))
    for arm in rows(f"{sweep}-arms"):
        returns = np.array(list(runs[arm["arm"]].values()))
        assert len(returns) == int(arm["seeds"])
        found = stratified_bootstrap(returns)
        assert (found.value, found.low, found.high) == pytest.approx(
            tuple(float(arm[f"all_tasks{end}"]) for end in ("", "_low", "_high")), rel=1e-4, abs=2e-5
        )


@pytest.mark.parametrize("sweep", SWEEPS)
def test_what_is_said_of_the_arms_is_made_from_the_rows_alone(
    sweep: str, arms: ModuleType, tmp_path: Path
) -> None:
    found = arms.arms_of(rows(sweep))
    for kind, made in (("arms", arms.summary(found)), ("kept", arms.kept(found))):
        arms.write(tmp_path / f"{kind}.csv", made)
        kept = (EVIDENCE / "data" / f"{sweep}-{kind}.csv").read_text(encoding="utf-8")
        assert (tmp_path / f"{kind}.csv").read_text(encoding="utf-8") == kept


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_arm_of_a_definition_has_been_run(sweep: str) -> None:
    defined = list(load_definition(EVIDENCE / f"{sweep}.toml").arms)
    assert list(dict.fromkeys(row["arm"] for row in rows(sweep))) == defined
    assert {row["arm"] for row in rows(f"{sweep}-arms")} == set(defined)


def test_rows_of_other_arms_stay_when_one_is_run_again(arms: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "sweep.csv"
    before = [{"arm": "l2", "return": 1.0}, {"arm": "gone", "return": 2.0}, {"arm": "bp", "return": 3.0}]
    arms.update(path, before, ["bp", "l2", "gone"])
    arms.update(path, [{"arm": "er", "return": 4.0}, {"arm": "l2", "return": 1 / 3}], ["bp", "er", "l2"])
    assert path.read_text(encoding="utf-8") == "arm,return\nbp,3\ner,4\nl2,0.33333\n"
    arms.update(path, [], ["bp", "er", "l2"])
    assert arms.read(path)[-1] == {"arm": "l2", "return": "0.33333"}


@pytest.mark.parametrize("page", sorted(EVIDENCE.glob("*.md")), ids=lambda path: path.stem)
def test_the_tables_of_a_page_show_what_is_in_the_files(page: Path, tables: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("\n| --- |") == len(tables.PLACE.findall(text)) > 0
    assert tables.filled(text) == text


def test_a_table_is_made_where_its_marker_stands(tables: ModuleType) -> None:
    (sweep,) = SWEEPS[:1]
    page = tables.filled(f"Before.\n\n<!-- arms {sweep} -->\n\nAfter.\n")
    lines = page.splitlines()
    assert (lines[0], lines[-1]) == ("Before.", "After.")
    shown_arms = re.findall(r"^\| `([a-z0-9-]+)` \|", page, re.MULTILINE)
    assert shown_arms == [row["arm"] for row in rows(f"{sweep}-arms")]
    assert tables.filled(page) == page


@pytest.mark.parametrize(
    ("page", "table", "kinds"),
    [
        ("does-collapse-precede-failure", "collapse", ("within", "across", "given_task", "given_fresh")),
        ("does-data-alone-move-the-spectrum", "data-alone", ("training", "data", "both", "later")),
    ],
)
def test_the_intervals_of_a_page_are_in_its_file(page: str, table: str, kinds: tuple[str, ...]) -> None:
    text = (EVIDENCE / f"{page}.md").read_text(encoding="utf-8")
    known = {shown(row, kind) for row in rows(table) for kind in kinds if row[kind]}
    quoted = re.findall(r"−?\d[.\d]* \[−?\d[.\d]*, −?\d[.\d]*\]", text)
    assert len(quoted) > 20
    assert set(quoted) <= known
