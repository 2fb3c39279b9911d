"""Every rule, changed by a sign or a term: its tests must notice. Slow: each change is a run of them."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MUTATIONS = tomllib.loads(Path(__file__).with_name("mutations.toml").read_text(encoding="utf-8"))
CASES = [
    pytest.param(module, before, after, id=f"{module}: {before} -> {after}")
    for module, table in MUTATIONS.items()
    for before, after in table["changes"]
]


def source(module: str) -> str:
    return (ROOT / "agents" / f"{module}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MUTATIONS)
def test_what_is_to_be_changed_stands_there_once(module: str) -> None:
    for before, after in MUTATIONS[module]["changes"]:
        assert source(module).count(before) == 1, before
        assert before != after


def test_every_mitigation_is_changed_somewhere() -> None:
    files = {path.stem for path in (ROOT / "agents" / "mitigations").glob("*.py")}
    changed = {module.split("/")[1] for module in MUTATIONS if "/" in module}
    assert files - changed == {"__init__", "base", "checks", "layer_norm"}  # its rule is in remodel


@pytest.fixture(scope="session")
def pytest_in_a_fork() -> Iterator[Callable[..., int]]:
    """``pytest_in_a_fork(folder=, path=, arguments=, output=)`` -> its exit status; see forks.py."""
    program = [sys.executable, str(Path(__file__).with_name("forks.py"))]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def run(**order: object) -> int:
            print(json.dumps(order), file=server.stdin, flush=True)
            return int(server.stdout.readline())

        yield run
        server.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize(("module", "before", "after"), CASES)
def test_a_change_of_the_rule_makes_its_tests_fail(
    module: str, before: str, after: str, tmp_path: Path, pytest_in_a_fork: Callable[..., int]
) -> None:
    package, output = tmp_path / "pliant", tmp_path / "output"
    package.mkdir()
    for entry in ROOT.iterdir():
        if entry.name not in ("agents", "tests") and not entry.name.startswith("."):
            (package / entry.name).symlink_to(entry)
    for folder in ("agents", "tests/agents"):
        shutil.copytree(ROOT / folder, package / folder, ignore=shutil.ignore_patterns("__pycache__"))
    changed = source(module).replace(before, after)
    (package / "agents" / f"{module}.py").write_text(changed, encoding="utf-8")
    own = f"tests/agents/mitigations/test_{module.removeprefix('mitigations/')}.py"
    tests = MUTATIONS[module].get("tests", [own])
    status = pytest_in_a_fork(
        folder=str(package),
        path=str(tmp_path),
        arguments=["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests],
        output=str(output),
    )
    said = output.read_text(encoding="utf-8")
    assert status == 1, said[-2500:]  # 2 and more: nothing was tested
    assert "1 failed" in said
