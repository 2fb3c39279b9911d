"""Sweeps on Ray: the same results as on the process pool, whatever is lost on the way."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pliant.runs.folder import RunFolder
from pliant.runs.progress import Report
from pliant.runs.sweep.drive import WHOLE, drive_sweep
from pliant.runs.sweep.engine import carry_out
from pliant.runs.sweep.jobs import Job
from pliant.runs.sweep.mirror import Mirror
from pliant.runs.sweep.on_ray import RayEngine, RayError, _Board, _Line, _wait_until_free
from pliant.runs.sweep.progress import Tally
from pliant.runs.sweep.protocol import Sweep

Begin = Callable[..., Sweep]

SMALL = """
base = "toy.toml"
arms = ["bp", "l2"]
seeds = [0]
"""
LONG = """
base = "toy.toml"
arms = ["bp", "l2"]
seeds = "0-3"
set.tasks = { length = 16384, count = 1 }
set.checkpoints.every = 1024
"""


class Listener:
    """A watch that only counts."""

    def __init__(self, sweep: Sweep) -> None:
        self.tally = Tally(*sweep.expected(), sweep.known_jobs())
        self.reports: list[Report] = []

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, report: Report) -> None:
        self.reports.append(report)

    def ended(self, job: Job, state: Any) -> None:
        self.tally.ended(job, state)


def report(run: str = "a", steps: int = 1) -> Report:
    return Report(run, 1, 1, "task", steps, 10, 1.0, None)


def tensors(path: Path) -> bytes:
    return (RunFolder.open(path).checkpoint_list()[-1] / "tensors.safetensors").read_bytes()


def assert_as_undisturbed(jobs: list[Job], elsewhere: Path) -> None:
    """Every run ended as it does alone, in this process and without interruption."""
    for job in jobs:
        alone = Job(job.spec, elsewhere / job.path.name)
        assert carry_out(alone, "cpu", lambda report: None, lambda: False).status == "complete"
        assert job.state() == "complete"
        assert tensors(job.path) == tensors(alone.path)
        for name in ("episodes.csv", "progress.csv"):
            assert (job.path / name).read_bytes() == (alone.path / name).read_bytes()


def test_a_cluster_s_runs_equal_those_of_this_process(begin: Begin, tmp_path: Path) -> None:
    # The one test of Ray in the default tier: what else there is to see of a cluster is seen here.
    sweep = begin(SMALL)
    listener = Listener(sweep)
    with RayEngine("local", "cpu", listener, retries=1) as engine:
        assert drive_sweep(sweep, engine, listener, lambda: False, WHOLE).whole
        # A run whose folder the node does not see is not begun in a folder of its own.
        lost = Job(sweep.known_jobs()[0].spec, tmp_path / "nowhere" / "runs" / "x")
        engine.submit(lost)
        ended: list[Any] = []
        while not ended:
            ended = engine.poll(1.0)
        assert "does not see" in ended[0].message
        assert ended[0].path == lost.path
        assert not (tmp_path / "nowhere").exists()
        with pytest.raises(RayError, match=r"no node of the Ray cluster has 1 CPUs and 64 GPUs for a run"):
            RayEngine("local", "cpu", listener, retries=1, gpus=64)._check_room()
    assert {told.run for told in listener.reports} == {job.path.name for job in sweep.known_jobs()}
    assert listener.tally.done == 2
    assert_as_undisturbed(sweep.known_jobs(), tmp_path / "alone")


def test_a_cluster_that_is_not_there_is_said_so() -> None:
    engine = RayEngine("127.0.0.1:1", "cpu", print, retries=1)
    with pytest.raises(RayError, match=r"no Ray cluster was found at '127\.0\.0\.1:1': start one with"):
        engine.__enter__()


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RayError, match=r'pip install "pliant\[ray\]"'):
        RayEngine("auto", "cpu", print, retries=1)


def test_after_a_stop_the_board_lets_nobody_begin_and_tells_everybody() -> None:
    board = _Board()
    assert board.may_begin("a")
    assert not board.tell(report("a", 1))
    assert not board.tell(report("a", 2))
    assert board.collect() == [report("a", 2)]
    assert board.collect() == []
    assert board.stop() == ["a"]
    assert not board.may_begin("b")
    assert board.stop() == ["a"]
    assert board.tell(report("a", 3))


def test_a_line_calls_now_and_then_and_always_at_the_end() -> None:
    called: list[int] = []

    def call(told: Report) -> bool:
        called.append(told.steps)
        return told.steps >= 10

    line = _Line(call)
    for steps in (1, 2, 3, 10):
        line.report(report(steps=steps))
    assert called == [1, 10]
    assert line.interrupted()


def test_a_run_that_a_lost_node_still_holds_is_waited_for(begin: Begin, tmp_path: Path) -> None:
    folder = begin(SMALL).known_jobs()[0].open()
    held, give_back = threading.Event(), threading.Event()

    def hold() -> None:
        with folder.locked():
            held.set()
            give_back.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    began = time.monotonic()
    _wait_until_free(folder, patience=0.2)  # gives up, and lets the run itself say who has it
    assert time.monotonic() - began >= 0.2
    threading.Timer(0.3, give_back.set).start()
    _wait_until_free(folder, patience=60.0)
    assert give_back.is_set()
    holder.join()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two nodes of one core each, both on this machine; the driver is on the first."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.second = cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [False, True], ids=["shared folder", "URL"])
def test_a_lost_node_s_runs_go_on_elsewhere_and_end_as_if_it_had_not_been_lost(
    begin: Begin, cluster: Any, tmp_path: Path, mirrored: bool
) -> None:
    sweep = begin(LONG)
    jobs = sweep.known_jobs()
    assert len(jobs) == 8
    mirror = Mirror(f"file://{tmp_path}/far") if mirrored else None
    copies = tmp_path / "far" if mirrored else sweep.folder.path
    listener = Listener(sweep)

    def lose_a_node() -> None:
        """When a run on either node has saved something within its task, and more runs are to come."""
        while len({p.parents[1] for p in copies.glob("runs/*/checkpoints/0*") if int(p.name)}) < 3:
            time.sleep(0.05)
        cluster.remove_node(cluster.second, allow_graceful=False)

    thread = threading.Thread(target=lose_a_node)
    thread.start()
    with RayEngine(cluster.address, "cpu", listener, retries=3, mirror=mirror) as engine:
        result = drive_sweep(sweep, engine, listener, lambda: False, WHOLE)
    thread.join()
    assert result.whole
    assert not result.failed
    assert_as_undisturbed(jobs, tmp_path / "alone")


@pytest.mark.slow
def test_a_worker_that_is_always_lost_and_an_error_that_nobody_foresaw_are_told_apart(begin: Begin) -> None:
    def killed(*_: Any) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("of mine")

    first, second = begin(SMALL).known_jobs()
    ended: dict[Path, str] = {}
    with RayEngine("local", "cpu", print, retries=1) as engine:
        for job, work in ((first, killed), (second, broken)):
            job.open()
            engine._task = engine._ray.remote(work).options(num_cpus=1, max_retries=engine.retries)
            engine.submit(job)
        while len(ended) < 2:
            ended |= {outcome.path: outcome.message for outcome in engine.poll(1.0)}
    assert ended[first.path].startswith("its worker was lost 2 times: ")
    assert ended[second.path] == "an unforeseen error in its worker: ZeroDivisionError: of mine"
    assert first.state() == second.state() == "failed"


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_on_ray_cleanly_and_it_goes_on(begin: Begin, tmp_path: Path) -> None:
    sweep = begin(LONG)
    code = "from pliant.runs.cli import main; main()"
    command = [sys.executable, "-c", code, "sweep", "--resume", str(sweep.folder.path), "--ray", "local"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        deadline = time.monotonic() + 180
        while not any(int(p.name) for p in sweep.folder.runs.glob("*/checkpoints/0*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"go on with: pliant sweep --resume {sweep.folder.path}" in err
    assert "Traceback" not in said + err
    states = [job.state() for job in sweep.known_jobs()]
    assert {"interrupted", "not started"} <= set(states) <= {"interrupted", "not started", "complete"}
    listener = Listener(sweep)
    with RayEngine("local", "cpu", listener, retries=1) as engine:
        assert drive_sweep(sweep, engine, listener, lambda: False, WHOLE).whole
    assert_as_undisturbed(sweep.known_jobs()[:2], tmp_path / "alone")
