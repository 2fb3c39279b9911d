"""``pliant sweep`` as a person meets it: real runs in other processes, stopped, killed, gone on with."""

import csv
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from pliant.runs import cli, resources
from pliant.runs.cli import console
from pliant.runs.folder import RunFolder, run_folders
from pliant.runs.sweep import engine
from pliant.runs.sweep.definition import load_definition
from pliant.runs.sweep.drive import WHOLE, drive_sweep
from pliant.runs.sweep.engine import carry_out
from pliant.runs.sweep.folder import SweepFolder
from pliant.runs.sweep.jobs import Job
from pliant.runs.sweep.progress import PlainWatch, Tally
from pliant.runs.sweep.protocol import Sweep

Call = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]
Begin = Callable[..., Sweep]
Program = Callable[..., subprocess.Popen[str]]

LONG = """
base = "toy.toml"
arms = ["bp", "l2"]
seeds = [0]
set.tasks = { length = 4096, count = 1 }
set.checkpoints.every = 512
"""


@pytest.fixture
def pliant(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call pliant in this process; returns exit code, standard output and standard error."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pliant", *map(str, arguments)])
        monkeypatch.setattr(console.out, "width", 200)
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """pliant in a process of its own, which ends with the test."""
    code = "from pliant.runs.cli import main; main()"
    begun: list[subprocess.Popen[str]] = []

    def begin(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        pipe = subprocess.PIPE
        begun.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        return begun[-1]

    yield begin
    for process in begun:
        with process:
            process.kill()


def saved_within_a_task(runs: Path) -> int:
    """Runs that have a checkpoint after their first."""
    return len({path.parents[1] for path in runs.glob("*/checkpoints/0*") if int(path.name) > 0})


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def tensors(path: Path) -> bytes:
    """What a run ended with."""
    return (RunFolder.open(path).checkpoint_list()[-1] / "tensors.safetensors").read_bytes()


def undisturbed(job: Job, elsewhere: Path) -> Path:
    """The same run, alone and without interruption."""
    alone = Job(job.spec, elsewhere / job.path.name)
    assert carry_out(alone, "cpu", lambda report: None, lambda: False).status == "complete"
    return alone.path


def jobs_of(path: Path) -> list[Job]:
    folder = SweepFolder.open(path)
    return Sweep(folder.read_definition(), folder).known_jobs()


def test_a_sweep_runs_everything_once_and_its_runs_are_like_any_other(
    pliant: Call, write: Write, plain: str, tmp_path: Path
) -> None:
    file, out = write(plain.replace('"0-1"', "[3]")), tmp_path / "results"
    code, said, err = pliant("sweep", file, "--out", out, "--jobs", "2")
    assert (code, err) == (0, "")
    assert "4 runs, 2,048 environment steps" in said
    assert "4/4 runs done" in said
    jobs = jobs_of(out / "sweep")
    assert [job.state() for job in jobs] == ["complete"] * 4
    for job in (jobs[0], jobs[-1]):
        alone = undisturbed(job, tmp_path / "alone")
        assert tensors(job.path) == tensors(alone)
        assert (job.path / "episodes.csv").read_bytes() == (alone / "episodes.csv").read_bytes()
    with (out / "sweep" / "runs.csv").open(newline="") as table:
        assert [row["run"] for row in csv.DictReader(table)] == [job.path.name for job in jobs]

    before = {path: path.stat().st_mtime_ns for path in (out / "sweep" / "runs").rglob("*")}
    code, said, _ = pliant("sweep", "--resume", out / "sweep")
    assert code == 0
    assert "runs done" not in said
    assert {path: path.stat().st_mtime_ns for path in before} == before

    code, said, _ = pliant("list", out)
    assert code == 0
    assert "4 complete" in said
    code, said, _ = pliant("list", out / "sweep")
    assert all(job.path.name in said for job in jobs)
    code, said, _ = pliant("compare", out / "sweep")
    assert code == 0
    assert "l2 (learning_rate=0.01" in said
    code, said, _ = pliant("report", out / "sweep", "--out", tmp_path / "page.html")
    assert code == 0
    assert jobs[0].path.name in (tmp_path / "page.html").read_text()
    code, said, _ = pliant("sweep", file, "--out", out, "--dry-run")
    assert "4 runs are there already" in said
    assert "going by 4 complete runs" in said


def test_a_tuned_sweep_ends_with_its_tests_and_reports_them_alone(
    pliant: Call, write: Write, tuned: str, tmp_path: Path
) -> None:
    text = tuned.replace("trials = 4", "trials = 2\nset.tasks.count = 1").replace('"0-2"', "[0]")
    text = text.replace("[100, 101]", "[100]")
    file = write("set.tasks.length = 1024\n" + text)
    code, said, err = pliant("sweep", file, "--out", tmp_path / "results")
    assert (code, err) == (0, "")
    assert "agent.learning_rate = 0.0" in said
    folder = SweepFolder.open(tmp_path / "results" / "sweep")
    assert len(run_folders(folder.tuning)) == 4
    tests = run_folders(folder.runs)
    assert {RunFolder.open(path).read_spec().seed for path in tests} == {0}
    code, said, _ = pliant("compare", folder.path)
    assert re.search(r"metric +bp .*l2", said)
    assert said.count("(1)") >= 2  # one test seed each
    code, said, _ = pliant("list", folder.path)
    assert all(path.name in said for path in (*tests, *run_folders(folder.tuning)))


def test_a_dry_run_lists_the_runs_and_writes_nothing(
    pliant: Call, write: Write, tuned: str, tmp_path: Path
) -> None:
    file, out = write(tuned), tmp_path / "results"
    for options, listed in (([], 16), (["--optuna"], 0)):
        code, said, err = pliant("sweep", file, "--dry-run", "--out", out, *options)
        assert (code, err) == (0, "")
        assert said.count("not started") == listed
        assert f"and {22 - listed} runs whose settings are chosen on the way" in said
        assert "22 runs, 11,264 environment steps" in said
        assert re.search(r"disk: about \d.* [kM]B; the time is not known before a run of this sweep", said)
    assert not out.exists()


def test_a_sweep_too_large_for_the_machine_is_refused_before_its_folder_is_made(
    pliant: Call, write: Write, plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = write(plain), tmp_path / "results"
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        for options, runs in (([], 8), (["--shard", "0/3"], 3)):
            code, said, err = pliant("sweep", file, "--out", out, *options)
            assert (code, said) == (2, "")
            assert re.search(
                rf"{runs} runs need .* each .* of the disk of .*sweep', of which 1 kB are free", err
            )
    monkeypatch.setattr(resources, "available_memory", lambda: 1000)
    code, said, err = pliant("sweep", file, "--out", out, "--jobs", 2)
    assert (code, said) == (2, "")
    assert re.search(r"2 runs need .* of memory, of which 1 kB are free.*--jobs", err)
    assert not out.exists()


def test_ctrl_c_ends_a_sweep_cleanly_and_it_goes_on_to_what_it_would_have_been(
    pliant: Call, program: Program, write: Write, tmp_path: Path
) -> None:
    file, out = write(LONG), tmp_path / "results"
    process = program("sweep", file, "--out", out, "--jobs", "1")
    wait_for(lambda: saved_within_a_task(out / "sweep" / "runs") == 1)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=120)
    assert process.returncode == console.INTERRUPTED
    assert f"go on with: pliant sweep --resume {out / 'sweep'}" in err
    assert "Traceback" not in said + err
    assert [job.state() for job in jobs_of(out / "sweep")] == ["interrupted", "not started"]
    assert (out / "sweep" / "runs.csv").exists()
    code, said, _ = pliant("sweep", "--resume", out / "sweep")
    assert code == 0
    jobs = jobs_of(out / "sweep")
    assert [job.state() for job in jobs] == ["complete"] * 2
    assert tensors(jobs[0].path) == tensors(undisturbed(jobs[0], tmp_path / "alone"))


@pytest.mark.slow
def test_a_run_whose_process_is_killed_goes_on_from_its_checkpoint_and_its_neighbour_is_not_disturbed(
    program: Program, write: Write, tmp_path: Path
) -> None:
    file, out = write(LONG), tmp_path / "results"
    process = program("sweep", file, "--out", out, "--jobs", "2")
    wait_for(lambda: saved_within_a_task(out / "sweep" / "runs") == 2)
    victim, neighbour = jobs_of(out / "sweep")
    holder = (neighbour.path / ".lock").read_text()
    os.kill(int((victim.path / ".lock").read_text().split()[1]), signal.SIGKILL)
    _, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert (neighbour.path / ".lock").read_text() == holder
    for job in (victim, neighbour):
        assert job.state() == "complete"
        assert tensors(job.path) == tensors(undisturbed(job, tmp_path / "alone"))


def test_a_run_that_is_always_killed_fails_alone_and_says_how_often_it_was_tried(
    begin: Begin, plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os, signal\n"
        "from pliant.runs.sweep.engine import carry_out\n"
        "def work(job, device, report, interrupted):\n"
        "    job.open()\n"
        "    if job.spec.arm == 'l2':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return carry_out(job, device, report, interrupted)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(engine, "carry_out", importlib.import_module("deadly").work)
    sweep = begin(plain.replace('"0-1"', "[0]"))
    tally = Tally(*sweep.expected(), sweep.known_jobs())
    watch = PlainWatch(Console(quiet=True), tally)
    with engine.ProcessEngine(1, "cpu", watch, retries=1) as processes:
        result = drive_sweep(sweep, processes, watch, lambda: False, WHOLE)
    assert [job.state() for job in sweep.known_jobs()] == ["complete", "complete", "failed", "failed"]
    assert (
        list(result.failed.values()) == ["its process was killed, 2 times; it may have run out of memory"] * 2
    )
    assert (tally.done, tally.failed, tally.steps) == (2, 2, 2 * 512)
    assert str(tally).startswith("runs: 2/4 done, 0 running, 2 failed  1,024/2,048 env steps")
    assert RunFolder(next(iter(result.failed))).read_manifest()["error"].startswith("its process was killed")


BAD = {
    "no file": ((), "name a sweep's file"),
    "a file and a folder": (("sweep.toml", "--resume", "x"), "name a sweep's file"),
    "no such file": (("nowhere.toml",), "there is no file 'nowhere.toml'"),
    "no such folder": (("--resume", "nowhere"), "is not a sweep's folder"),
    "a shard beyond the last": (("sweep.toml", "--shard", "3/3"), "I from 0 to N - 1"),
    "a shard that is none": (("sweep.toml", "--shard", "a/b"), "expected I/N"),
    "optuna without tuning": (("sweep.toml", "--optuna"), "has no [tune]"),
    "a storage without optuna": (("sweep.toml", "--optuna-storage", "sqlite:///x"), "is for a search"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_message_and_leaves_nothing(
    pliant: Call,
    write: Write,
    plain: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    write(plain)
    monkeypatch.chdir(tmp_path)
    code, out, err = pliant("sweep", *arguments)
    assert code == console.BAD_INPUT
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "results").exists()


def test_what_only_torch_can_know_is_found_before_a_file_is_written(
    pliant: Call, write: Write, plain: str, tmp_path: Path
) -> None:
    for space, words in (
        ('agent.network.activation = ["relu", "rleu"]', "activation=rleu"),
        ("mitigations.l2.strength = [1e-4, -1.0]", "strength=-1"),
        ('tasks.env = ["CartPole-v1", "CartPool-v1"]', "env=CartPool-v1"),
    ):
        file = write(plain.replace("agent.learning_rate = [1e-3, 1e-2]", space))
        code, _, err = pliant("sweep", file, "--out", tmp_path / "results")
        assert code == console.BAD_INPUT
        assert words in err
    assert not (tmp_path / "results").exists()


def test_another_sweep_or_anything_else_of_the_same_name_is_left_alone(
    pliant: Call, begin: Begin, write: Write, plain: str, tmp_path: Path
) -> None:
    sweep = begin(plain)
    before = sweep.folder.definition_file.read_bytes()
    out = tmp_path / "results"
    for changed, words in (
        (plain.replace("1e-2", "1e-1"), "space differs"),
        (plain.replace('"0-1"', "[0]"), "seeds lacks 1"),
        (plain.replace(', "l2"', ""), "the arm 'l2' is missing"),
    ):
        for options in ([], ["--dry-run"]):
            code, _, err = pliant("sweep", write(changed), "--out", out, *options)
            assert code == console.BAD_INPUT
            assert "holds another sweep" in err
        assert words in err
    (tmp_path / "toy.toml").write_text((tmp_path / "toy.toml").read_text().replace("1.0", "2.0"))
    (tmp_path / "sweep.toml").write_text(plain)
    code, _, err = pliant("sweep", tmp_path / "sweep.toml", "--out", out)
    assert "its base differs" in err
    assert sweep.folder.definition_file.read_bytes() == before
    (out / "mine").mkdir()
    (out / "mine" / "notes.txt").write_text("keep")
    code, _, err = pliant("sweep", write(plain, "mine.toml"), "--out", out)
    assert code == console.BAD_INPUT
    assert "is no sweep's folder" in err
    assert [path.name for path in (out / "mine").iterdir()] == ["notes.txt"]


def test_a_report_of_a_sweep_without_runs_says_so(pliant: Call, begin: Begin, tuned: str) -> None:
    sweep = begin(tuned)
    code, _, err = pliant("report", sweep.folder.path)
    assert code == console.BAD_INPUT
    assert "has no runs to show yet" in err


def test_a_folder_of_another_schema_is_refused(pliant: Call, begin: Begin, plain: str) -> None:
    folder = begin(plain).folder.path
    manifest = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    code, _, err = pliant("sweep", "--resume", folder)
    assert code == console.BAD_INPUT
    assert "schema version 99" in err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, contextlib\nfrom pliant.runs.cli import main\nsys.argv = ['pliant', 'sweep', '--help']\n"
        "with contextlib.suppress(SystemExit):\n    main()\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_definition_can_be_read_without_torch(write: Write, tuned: str) -> None:
    assert load_definition(write(tuned))
    code = (
        "import sys\nfrom pathlib import Path\nfrom pliant.runs.sweep.definition import load_definition\n"
        "load_definition(Path(sys.argv[1]))\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, write(tuned)], check=True, capture_output=True)
