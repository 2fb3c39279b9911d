"""What tests of whole programs share: calling one, a browser, comparing two runs, stand-ins for data."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pliant.runs import cli
from pliant.runs.cli import console
from pliant.runs.folder import RunFolder

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


# Two runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def assert_equal_runs() -> Callable[[RunFolder, RunFolder], None]:
    """Compare two finished runs: equal in everything but names and what the clock says."""
    return _assert_equal_runs


def _assert_equal_runs(one: RunFolder, other: RunFolder) -> None:
    """Checkpoints, rows, snapshots, records and TensorBoard's curves are equal to the last bit."""
    assert one.read_manifest()["status"] == other.read_manifest()["status"] == "complete"
    for name in ("spec_file", "progress_file", "episodes_file", "evaluation_file"):
        assert getattr(one, name).read_text() == getattr(other, name).read_text(), name
    paths = [folder.checkpoint_list() for folder in (one, other)]
    assert _names(paths[0]) == _names(paths[1])
    for pair in zip(*paths, strict=True):
        _assert_equal_checkpoints(*pair)
    for folder in ("snapshots", "replays"):
        files = [sorted(getattr(run, folder).glob("*")) for run in (one, other)]
        assert _names(files[0]) == _names(files[1])
        for pair in zip(*files, strict=True):
            _assert_equal_arrays(*pair)
    assert _scalars(one) == _scalars(other)
    assert _pictures(one) == _pictures(other)


def _assert_equal_checkpoints(one: Path, other: Path) -> None:
    assert _names(sorted(one.iterdir())) == _names(sorted(other.iterdir()))
    tensors = [load_file(path / "tensors.safetensors") for path in (one, other)]
    assert tensors[0].keys() == tensors[1].keys()
    for name in tensors[0]:
        assert torch.equal(tensors[0][name], tensors[1][name]), name
    states = [_state(path) for path in (one, other)]
    assert states[0] == states[1]
    if (one / "replay.npz").exists():
        _assert_equal_arrays(one / "replay.npz", other / "replay.npz")


def _state(path: Path) -> dict[str, Any]:
    state = json.loads((path / "state.json").read_text())
    del state["run"], state["position"]["beside"]["logs"]["board"]  # names, and a file per process
    return state


def _assert_equal_arrays(one: Path, other: Path) -> None:
    with np.load(one, allow_pickle=False) as first, np.load(other, allow_pickle=False) as second:
        assert set(first.files) == set(second.files)
        for name in first.files:
            arrays = [npz[name] for npz in (first, second)]
            if arrays[0].dtype.kind == "U" and arrays[0].shape == ():  # a record; what it took is the clock's
                arrays = [{**json.loads(str(array)), "seconds": None} for array in arrays]
                assert arrays[0] == arrays[1], f"{one.name}: {name}"
            else:
                np.testing.assert_array_equal(*arrays, err_msg=f"{one.name}: {name}")


def _scalars(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves, without those of time."""
    board = EventAccumulator(str(folder.tensorboard), size_guidance={"scalars": 0})
    board.Reload()
    return {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
        if not tag.startswith("time/") and not tag.endswith("seconds")
    }


def _pictures(folder: RunFolder) -> dict[str, list[int]]:
    """At which steps TensorBoard has pictures, and texts."""
    board = EventAccumulator(str(folder.tensorboard), size_guidance={"images": 0, "tensors": 0})
    board.Reload()
    tags = board.Tags()
    found = {tag: [event.step for event in board.Images(tag)] for tag in tags["images"]}
    return found | {tag: [event.step for event in board.Tensors(tag)] for tag in tags["tensors"]}


def _names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def _write_mnist(folder: Path) -> None:
    """As many images as there are, of 2 x 2 pixels."""
    folder.mkdir()
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        labels = np.arange(count) % 10
        images = np.random.default_rng(0).integers(256, size=(count, 2, 2))
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())


def _write_cifar100(folder: Path) -> None:
    """Five black images of each class to train on, and as many for tests as there are."""
    folder.mkdir()
    for part, count in (("train", 5), ("test", 100)):
        records = np.zeros((100 * count, 3074), np.uint8)
        records[:, 1] = np.arange(len(records)) % 100
        records.tofile(folder / f"{part}.bin")


def _write_classes(folder: Path) -> None:
    """As many classes and images as Continual ImageNet has, of 8 x 8 pixels, all the same."""
    folder.mkdir()
    images = np.random.default_rng(0).integers(256, size=(700, 3, 8, 8), dtype=np.uint8)
    np.save(folder / "0.npy", images)
    for label in range(1, 1000):
        os.link(folder / "0.npy", folder / f"{label}.npy")


@pytest.fixture(scope="session")
def _stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    _write_mnist(folder / "mnist")
    _write_cifar100(folder / "cifar-100-binary")
    _write_classes(folder / "imagenet")
    return folder


@pytest.fixture
def stand_ins(_stand_ins: Path, arms: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data sets of the presets, in their formats, where they are looked for; and Meta-World."""
    monkeypatch.setenv("PLIANT_DATA", str(_stand_ins))
    return _stand_ins
