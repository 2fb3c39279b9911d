"""What the pages of docs/ say can be done, can be done, and what they list is all that there is."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import gymnasium
import pytest
import typer
from pydantic import BaseModel

from pliant.diagnostics import Snapshot, features, gradients
from pliant.envs.rules import RULES
from pliant.runs import cli
from pliant.runs.checkpoints.sb3 import export_sb3
from pliant.runs.folder import RunFolder
from pliant.runs.plan import make_plan
from pliant.runs.presets import load_spec
from pliant.runs.report.comparison import METRICS
from pliant.runs.spec import RunSpec
from pliant.runs.training import train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["environments", "mitigations", "reports", "run-folders", "settings", "shifts", "snapshots", "sweeps"]
LINKING = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
TEXTS = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in PAGES}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", TEXTS[page], flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[tuple[str, list[str]]]:
    """All calls of ``program``, each with its page."""
    found = []
    for page in PAGES:
        console = re.sub(r"\\\n\s*", " ", "".join(blocks(page, "console")))  # a line may go on in the next
        lines = re.findall(r"^ *\$ (.*)$", console, flags=re.MULTILINE)
        parts = [part for line in lines for part in line.split(" && ")]
        found += [
            (page, words) for part in parts if (words := shlex.split(part, comments=True))[0] == program
        ]
    return found


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short quickstart under ``results/``, and its agent as a file of stable-baselines3."""
    short = ["tasks.length=256", "tasks.count=2", "agent.n_steps=64", "agent.n_epochs=1"]
    quick = ["diagnostics.samples=64", "diagnostics.spectrum.depth=4", "diagnostics.figures=false"]
    all_operators = 'diagnostics.spectrum.operators=["hessian", "ggn", "kfac", "gram"]'
    plan = make_plan(load_spec("quickstart", settings=[*short, *quick, all_operators]), "cpu")
    here = tmp_path_factory.mktemp("quickstart")
    run = RunFolder.create(here / "results", plan.spec, plan.boundaries)
    train(plan, run, lambda _: None, lambda: False)
    export_sb3(run, here / "model.zip")
    return here


@pytest.fixture(autouse=True)
def _what_pages_register_and_import_is_forgotten() -> Iterator[None]:
    before = set(gymnasium.registry)
    yield
    for name in set(gymnasium.registry) - before:
        del gymnasium.registry[name]
    for name in re.findall(r"^# (\w+)\.py$", "".join(TEXTS.values()), flags=re.MULTILINE):
        sys.modules.pop(name, None)


def prepare(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the files of the page, blocks whose first line is their name, and set its variables."""
    for assignment in [words[1] for at, words in commands("export") if at == page]:
        name, _, value = assignment.partition("=")
        monkeypatch.setenv(name, value)
        if name == "PYTHONPATH":
            monkeypatch.syspath_prepend(Path(value).absolute())
    for language in ("python", "toml"):
        for text in blocks(page, language):
            if named := re.match(r"# (\w+\.(py|toml))\n", text):
                Path(named[1]).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("page", "words"), commands("train-agent"), ids=lambda part: "".join(part)[:60])
def test_the_commands_that_train_are_understood(
    page: str, words: list[str], quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(quickstart, tmp_path / "here"))
    prepare(page, monkeypatch)
    monkeypatch.setattr("sys.argv", [*words, "--dry-run"])
    with pytest.raises(SystemExit) as exit_:
        cli.train_agent()
    assert not exit_.value.code


@pytest.mark.parametrize(("page", "words"), commands("pliant"), ids=lambda part: "".join(part)[:60])
def test_the_verbs_and_options_exist(page: str, words: list[str]) -> None:
    _, verb, *arguments = words
    typer.main.get_command(cli.app).commands[verb].make_context(verb, list(arguments))  # runs nothing


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(quickstart, tmp_path / "here"))
    prepare(page, monkeypatch)
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, f"{page}.md", "exec"), names)


@pytest.mark.parametrize("page", LINKING, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not heading or heading in anchors(linked), target


def anchors(path: Path) -> list[str]:
    """Of a page's headings, as they are linked to."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


# reports.md ----------------------------------------------------------------------------------------------


def test_every_metric_has_its_row_with_its_direction() -> None:
    _, _, table = TEXTS["reports"].partition("| metric | formula | better |")
    rows = [line.strip("| ").split(" | ") for line in table.partition("\n\n")[0].splitlines()[2:]]
    assert [(name, better.split(";")[0]) for name, _, better, *_ in rows] == [
        (metric.name, metric.better) for metric in METRICS
    ]


# settings.md ---------------------------------------------------------------------------------------------


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return import_module("settings")


def test_the_tables_of_settings_are_those_of_the_code(settings: ModuleType) -> None:
    page = TEXTS["settings"]
    assert settings.filled(page) == page, "run python docs/settings.py"


def test_every_table_of_a_spec_and_every_rule_has_its_place(settings: ModuleType) -> None:
    def tables(model: type[BaseModel]) -> set[type[BaseModel]]:
        below = {one for field in model.model_fields.values() for one in settings.tables_in(field.annotation)}
        return {model}.union(*map(tables, below))

    assert tables(RunSpec) <= set(settings.TABLES.values())
    assert list(settings.EXAMPLES) == list(RULES)
    for name in [*settings.TABLES, "rules", "names"]:
        assert TEXTS["settings"].count(f"<!-- table: {name} -->") == 1
    assert "| `gae_lambda` | `0.95` |" in TEXTS["settings"]  # the tables are there


# snapshots.md --------------------------------------------------------------------------------------------


def test_every_number_of_a_snapshot_is_explained(quickstart: Path) -> None:
    (run,) = (quickstart / "results").iterdir()
    tags = {tag for path in (run / "snapshots").iterdir() for tag in Snapshot.load(path).scalars()}
    names = {re.sub(r"(inactive)/.*|_(low|high)$", r"\1", tag).rpartition("/")[2] for tag in tags}
    ranks = {name for name in names if re.search(r"_rank_[\d.]+$", name)}
    assert {"inactive", "update_norm", "weight_change", "ntk_effective_rank", "distance"} <= names
    for name in names - ranks:
        assert re.search(rf"[`/]{name}[`/]", TEXTS["snapshots"]), name
    assert {re.sub("[\\d.]+$", "", name) for name in ranks} == {
        *("epsilon_rank_", "relative_rank_", "data_change_epsilon_rank_", "data_change_relative_rank_")
    }


def test_the_thresholds_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `plasticity/<\w+>/(\w+)\S* \| (.*) \|$", TEXTS["snapshots"], re.MULTILINE))
    assert f"{features.DORMANT_SHARE}" in rows["dormant"]
    assert f"{features.SATURATION}" in rows["saturated"]
    assert f"{1 - features.SRANK_DELTA}" in rows["srank"]
    assert f"{gradients.INACTIVE_SHARE}" in rows["inactive"]
