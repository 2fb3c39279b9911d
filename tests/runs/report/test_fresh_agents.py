"""The baseline of fresh agents: found beside a run, or trained there once."""

from collections.abc import Callable
from pathlib import Path

from pliant.runs.baseline import find_fresh, fresh_spec, with_baselines
from pliant.runs.folder import RunFolder

MakeRun = Callable[..., RunFolder]


def test_a_fresh_run_beside_is_found_by_spec_and_seed(
    results: Path, tmp_path: Path, make_run: MakeRun
) -> None:
    bp = next(path for path in results.iterdir() if path.name.startswith("toy-bp-s1"))
    found = find_fresh(bp)
    assert found is not None
    assert found.name.startswith("toy-reset-s1")
    assert with_baselines([bp]) == ([found], [])
    assert with_baselines([bp, found]) == ([], [])  # it was given already
    lonely = make_run(tmp_path, "er", 1).path
    make_run(tmp_path, "reset", 2)
    assert find_fresh(lonely) is None
    assert with_baselines([lonely, make_run(tmp_path, "bp", 1).path]) == ([], [lonely])  # one serves both


def test_fresh_agents_have_the_runs_spec_without_its_mitigations(tmp_path: Path, make_run: MakeRun) -> None:
    spec = make_run(tmp_path, "er", 3).read_spec()
    fresh = fresh_spec(spec)
    assert fresh.reset
    assert fresh.mitigations == {}
    assert fresh == make_run(tmp_path, "reset", 3).read_spec()


def test_compare_with_a_baseline_uses_the_one_that_is_there(command, results: Path) -> None:
    bp = [path for path in results.iterdir() if "-bp-" in path.name]
    code, out, _ = command("compare", *bp, "--baseline", "fresh")
    assert code == 0
    assert "plasticity gap" in out
    assert "reset" in out.splitlines()[0]


def test_nothing_is_trained_for_runs_that_cannot_be_compared(
    command, tmp_path: Path, make_run: MakeRun
) -> None:
    runs = [make_run(tmp_path, "bp").path, make_run(tmp_path, "er", count=2).path]
    code, out, err = command("compare", *runs, "--baseline", "fresh")
    assert code == 2
    assert "their tasks differ" in err
    assert "training fresh agents" not in out
    assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_baseline_is_trained_beside_the_run_once(
    command, tmp_path: Path, make_run: MakeRun
) -> None:
    agent = {
        "algorithm": "ppo",
        "n_steps": 1000,
        "batch_size": 500,
        "n_epochs": 1,
        "network": {"hidden": [4]},
    }
    run = make_run(tmp_path, "bp", count=2, agent=agent, diagnostics={"at": []}).path
    code, out, _ = command("compare", run, "--baseline", "fresh")
    assert code == 0
    assert "training fresh agents in" in out
    assert "plasticity gap" in out
    assert len(list(tmp_path.iterdir())) == 2
    code, out, _ = command("compare", run, "--baseline", "fresh")
    assert code == 0
    assert "training fresh agents" not in out
    assert len(list(tmp_path.iterdir())) == 2
