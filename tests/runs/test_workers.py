"""Worker processes: what happens to the work when they are stopped, killed, or left alone."""

import importlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pliant.runs.workers import WorkerDied, Workers

PIECES = '''
import os, signal, time
from pathlib import Path

def double(number, report, interrupted):
    report(f"doubling {number}")
    return 2 * number

def die_until(path, times, report, interrupted):
    """Be killed the first `times` times."""
    tried = Path(path)
    tried.write_text(tried.read_text() + "x" if tried.exists() else "x")
    if len(tried.read_text()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"

def work_until_told(path, report, interrupted):
    Path(path).write_text(str(os.getpid()))
    while not interrupted():
        time.sleep(0.01)
    Path(path).write_text("stopped")
    return "stopped"

def fail(report, interrupted):
    raise ZeroDivisionError("of mine")
'''


@pytest.fixture
def pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module of pieces of work that the workers can import as well."""
    (tmp_path / "pieces_of_work.py").write_text(PIECES, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("pieces_of_work")
    sys.modules.pop("pieces_of_work", None)


def all_of(workers: Workers[Any, Any], count: int) -> dict[Any, Any]:
    ended: dict[Any, Any] = {}
    deadline = time.monotonic() + 60
    while len(ended) < count:
        assert time.monotonic() < deadline, "the work does not end"
        ended |= dict(workers.poll(0.1))
    return ended


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_piece_is_done_once_and_what_it_reports_arrives(pieces: Any) -> None:
    told: list[Any] = []
    with Workers(2, told.append) as workers:
        for number in range(5):
            workers.submit(number, pieces.double, number)
        assert all_of(workers, 5) == {number: 2 * number for number in range(5)}
        wait_for(lambda: workers.poll(0.0) or len(told) == 5)
    assert sorted(told) == [f"doubling {number}" for number in range(5)]


def test_a_process_that_dies_takes_no_other_with_it_and_its_work_is_begun_again(
    pieces: Any, tmp_path: Path
) -> None:
    with Workers(2, print, retries=2) as workers:
        workers.submit("long", pieces.work_until_told, str(tmp_path / "long"))
        wait_for(lambda: workers.poll(0.05) or (tmp_path / "long").exists())
        long = (tmp_path / "long").read_text()
        workers.submit("twice", pieces.die_until, str(tmp_path / "twice"), 2)
        workers.submit("always", pieces.die_until, str(tmp_path / "always"), 99)
        ended = all_of(workers, 2)
        assert ended["twice"] == "done"
        assert isinstance(ended["always"], WorkerDied)
        assert "3 times" in str(ended["always"])
        assert (tmp_path / "long").read_text() == long  # the same process, undisturbed
        workers.stop()
        assert all_of(workers, 1) == {"long": "stopped"}


def test_stopping_asks_the_running_and_forgets_the_waiting(pieces: Any, tmp_path: Path) -> None:
    with Workers(1, print) as workers:
        workers.submit("running", pieces.work_until_told, str(tmp_path / "running"))
        workers.submit("waiting", pieces.double, 1)
        wait_for(lambda: workers.poll(0.05) or (tmp_path / "running").exists())
        assert workers.stop() == ["waiting"]
        assert all_of(workers, 1) == {"running": "stopped"}
        assert workers.poll(0.0) == []


def test_an_error_that_nobody_foresaw_comes_out(pieces: Any) -> None:
    with Workers(1, print) as workers:
        workers.submit("it", pieces.fail)
        with pytest.raises(ZeroDivisionError, match="of mine"):
            all_of(workers, 1)


def test_workers_whose_parent_is_killed_stop_their_work_and_end(pieces: Any, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pieces_of_work\nfrom pliant.runs.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    workers = Workers(1, print)\n"
        "    workers.submit('it', pieces_of_work.work_until_told, sys.argv[1] + '/it')\n"
        "    while True: workers.poll(0.1)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    try:
        wait_for(lambda: (tmp_path / "it").exists() and (tmp_path / "it").read_text())
        child = int((tmp_path / "it").read_text())
        assert alive(child)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: (tmp_path / "it").read_text() == "stopped")
    wait_for(lambda: not alive(child))
