"""The folders know one another only in the direction that the design allows."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAY_IMPORT = {
    "envs": set(),
    "agents": set(),
    "diagnostics": set(),
    "runs": {"agents", "envs", "diagnostics"},
}
NEVER = {
    "envs": {"torch", "stable_baselines3"},
    "agents": {"minigrid", "mujoco"},
    "diagnostics": {"gymnasium", "minigrid", "mujoco"},
    "runs": set(),
}
MODULES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Absolute names of everything that the module at ``path`` imports, wherever in it."""
    package = ("pliant", *path.relative_to(ROOT).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_imports_only_what_the_design_allows(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    names = imported(path)
    ours = {name.split(".")[1] for name in names if name.startswith("pliant.")} & MAY_IMPORT.keys()
    assert ours - {folder} <= MAY_IMPORT[folder]
    assert not {name.split(".")[0] for name in names} & NEVER[folder]


def test_the_walk_sees_relative_imports() -> None:
    assert "pliant.envs.SequenceSpec" in imported(ROOT / "runs" / "spec.py")


@pytest.mark.parametrize("module", ["stable_baselines3", "matplotlib"])
def test_in_diagnostics_one_file_alone_knows(module: str) -> None:
    files = [
        path
        for path in MODULES
        if "diagnostics" in path.parts and any(n.split(".")[0] == module for n in imported(path))
    ]
    assert len(files) == 1


def calls(path: Path) -> set[str]:
    return {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    if path.parts[-2] != "cli":
        assert not calls(path) & {"sys.exit", "exit", "quit", "os._exit"}
        # The agents and their callbacks print where SB3 does: if asked to with `verbose`.
        assert "print" not in calls(path) or path.parts[-2] in {"agents", "diagnostics"}
