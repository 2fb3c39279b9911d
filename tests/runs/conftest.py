"""What tests of whole programs share: calling one in this process, and looking at a page in a browser."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.runs import cli
from pliant.runs.cli import console

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def call_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call an entry point with arguments; returns exit code, standard output and standard error."""

    def call(entry: Callable[[], object], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [entry.__name__, *map(str, arguments)])
        monkeypatch.setattr(console.out, "width", 200)
        try:
            entry()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def command(call_program):
    """Call ``pliant`` with arguments; see `call_program`."""
    return lambda *arguments: call_program(cli.main, *arguments)


@pytest.fixture
def browse(tmp_path: Path):
    """Open an address in a headless browser; returns the page's elements then, and what the browser said."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")

    def look(address: str, *flags: str) -> tuple[str, str]:
        done = subprocess.run(
            [
                CHROMIUM,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"),
                *(*flags, "--dump-dom", address),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, done.stderr

    return look
