"""Files made by an enemy, or by a broken disk: refused by name, executed never, small in memory always.

Whoever changes a checkpoint can also compute its checksums anew (``reseal``), so these are no defence here.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pliant.diagnostics import Snapshot
from pliant.diagnostics.errors import UnreadableFile
from pliant.runs.build import build_agent, vector_env
from pliant.runs.checkpoints.checkpoint import Position, load_checkpoint, load_networks, save_checkpoint
from pliant.runs.errors import DamagedFile, RunError, RunFolderError, SpecError
from pliant.runs.evaluation.recording import Replays
from pliant.runs.evaluation.table import read_rows as read_evaluation
from pliant.runs.folder import RunFolder
from pliant.runs.index import entries
from pliant.runs.presets import load_spec, validate
from pliant.runs.report.comparison import gather
from pliant.runs.report.page import write_report

DATA = Path(__file__).parents[1] / "data"
TABLE = {
    "name": "toy",
    "tasks": {"env": "CartPole-v1", "length": 64, "count": 2},
    "agent": {"algorithm": "dqn", "learning_starts": 8, "buffer_size": 50, "network": {"hidden": [4]}},
}


def fresh_agent():
    spec = validate(TABLE, source="test")
    env = vector_env(spec.tasks.build(0)[0], 1, seed=0)
    return build_agent(spec, env, seed=0, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = fresh_agent()
    agent.learn(64)
    path = tmp_path_factory.mktemp("checkpoints") / f"{64:012d}"
    save_checkpoint(path, agent, Position(1, 0, 64))
    return path


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "checkpoints" / original.name)


def reseal(path: Path) -> None:
    """Make the checksums fit whatever is there now."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in path.iterdir()
        if file.name != "checksums.json" and file.stat().st_size < 2**24
    }
    (path / "checksums.json").write_text(json.dumps({"schema_version": 2, "files": files}))


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def npz_of(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_claiming(shape: tuple[int, ...], descr: str = "<f8", content: bytes = b"") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    text += b" " * (118 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


# Tensors -----------------------------------------------------------------------------------------------


def safetensors_with(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


WEIGHT = "policy/q_net.q_net.0.weight"
ABSURD_TENSORS = {
    "a header of 2^62 bytes": struct.pack("<Q", 2**62) + b"{}",
    "no header": b"",
    "a header that is no JSON": safetensors_with(b"\xff" * 100),
    "a header nested deep": safetensors_with(b"[" * 100_000),
    "a shape of 10 GB": safetensors_with(
        {WEIGHT: {"dtype": "F32", "shape": [50_000, 50_000], "data_offsets": [0, 10**10]}}
    ),
    "offsets beyond the end": safetensors_with(
        {WEIGHT: {"dtype": "F32", "shape": [4, 4], "data_offsets": [2**60, 2**60 + 64]}}, bytes(64)
    ),
    "offsets of negative length": safetensors_with(
        {WEIGHT: {"dtype": "F32", "shape": [4, 4], "data_offsets": [64, 0]}}, bytes(64)
    ),
    "an unknown type": safetensors_with(
        {WEIGHT: {"dtype": "PICKLE", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)
    ),
}


@pytest.mark.parametrize("name", ABSURD_TENSORS)
@pytest.mark.parametrize("load", [load_checkpoint, load_networks])
def test_absurd_tensors_are_refused(checkpoint: Path, name: str, load: Callable) -> None:
    (checkpoint / "tensors.safetensors").write_bytes(ABSURD_TENSORS[name])
    reseal(checkpoint)
    with pytest.raises(RunFolderError, match=str(checkpoint)):
        load(checkpoint, fresh_agent())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({WEIGHT: torch.zeros(4, 5)}, r"of shape \(4, 5\) is not of this agent"),
        ({WEIGHT: torch.zeros(4, 4, dtype=torch.float64)}, "is not of this agent"),
        ({"policy/more": torch.zeros(1)}, "'policy/more' of shape .* is not of this agent"),
        ({"elsewhere": torch.zeros(1)}, "'elsewhere' of shape .* is not of this agent"),
        ({"optimizer/99/exp_avg": torch.zeros(1)}, "'optimizer/99/exp_avg' of shape .* is not of this agent"),
        ({"optimizer/0/exp_avg": None}, "it has no 'optimizer/0/exp_avg'"),
        ({"random/cpu": torch.zeros(10, dtype=torch.uint8)}, "'random/cpu' of shape .* is not of this agent"),
        ({WEIGHT: None}, f"it has no {WEIGHT!r}"),
    ],
)
def test_tensors_that_the_agent_has_not_are_refused(
    checkpoint: Path, change: dict[str, torch.Tensor | None], reason: str
) -> None:
    file = checkpoint / "tensors.safetensors"
    changed = {name: value for name, value in (load_file(file) | change).items() if value is not None}
    save_file(changed, file)
    reseal(checkpoint)
    agent = fresh_agent()
    before = [p.clone() for p in agent.policy.parameters()]
    with pytest.raises(RunFolderError, match=reason):
        load_checkpoint(checkpoint, agent)
    assert all(torch.equal(p, q) for p, q in zip(before, agent.policy.parameters(), strict=True))


# State -------------------------------------------------------------------------------------------------


def _set(*path: str | int, to: object) -> Callable[[dict], None]:
    def change(state: dict) -> None:
        place = state
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


ABSURD_STATES = {
    "an unknown version": _set("schema_version", to=3),
    "a key too many": _set("__class__", to="os"),
    "a task below 0": _set("position", "task", to=-1),
    "steps beyond counting": _set("position", "env_steps", to=10**30),
    "a position that is a fraction": _set("position", "task_steps", to=0.5),
    "a counter that is none": _set("counters", "replay_buffer", to=1),
    "a counter that is a text": _set("counters", "num_timesteps", to="64"),
    "a counter that is not a number": _set("counters", "exploration_rate", to=float("nan")),
    "too few words of randomness": _set("random", "python", 1, to=[1, 2, 3]),
    "words of randomness too large": _set("random", "numpy", 1, to=[2**40] * 624),
    "a place beyond the words": _set("random", "numpy", 2, to=10**6),
    "another generator": _set("random", "action_space", "bit_generator", to="Philox"),
    "a state wider than the generator's": _set("random", "action_space", "state", "state", to=2**200),
    "an option that is a text": _set("optimizer_groups", 0, "lr", to="fast"),
    "an option that is a table": _set("optimizer_groups", 0, "betas", to={"a": 1}),
    "other parameters": _set("optimizer_groups", 0, "params", to=[0, 1]),
    "a group too many": lambda state: state["optimizer_groups"].append(state["optimizer_groups"][0]),
    "a mitigation too many": _set("mitigations", to=[{}]),
    "an episode that is a list": _set("episodes", to=[[1, 2]]),
}


@pytest.mark.parametrize("name", ABSURD_STATES)
def test_absurd_states_are_refused(checkpoint: Path, name: str) -> None:
    file = checkpoint / "state.json"
    state = json.loads(file.read_text())
    ABSURD_STATES[name](state)
    file.write_text(json.dumps(state))
    reseal(checkpoint)
    with pytest.raises(RunFolderError, match=str(checkpoint)):
        load_checkpoint(checkpoint, fresh_agent())


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 10**6, '{"a":' * 10**5, "9" * 10**6, '"\\ud800"'])
@pytest.mark.parametrize("name", ["state.json", "checksums.json"])
def test_texts_that_are_no_record_are_refused(checkpoint: Path, name: str, text: str) -> None:
    (checkpoint / name).write_text(text)
    if name == "state.json":
        reseal(checkpoint)
    with pytest.raises(DamagedFile, match=str(checkpoint)):
        load_checkpoint(checkpoint, fresh_agent())


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "replay.npz"])
@pytest.mark.parametrize("seed", range(2))
def test_random_damage_is_refused_or_read_and_never_anything_else(
    checkpoint: Path, name: str, seed: int
) -> None:
    file, rng, agent = checkpoint / name, np.random.default_rng(seed), fresh_agent()
    whole = file.read_bytes()
    for _ in range(60):
        broken = bytearray(whole[: rng.integers(1, len(whole)) if rng.random() < 0.3 else None])
        for place in rng.integers(0, len(broken), rng.integers(1, 20)):
            broken[place] = rng.integers(256)
        file.write_bytes(broken)
        reseal(checkpoint)
        try:
            load_checkpoint(checkpoint, agent)
        except RunFolderError:
            continue


# Replay buffers ----------------------------------------------------------------------------------------


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    "change",
    [
        {"observations/": npy_claiming((10**6, 10**6))},
        {"observations/": npy_claiming((64, 1, 4), "|O", b"\x80\x04.")},
        {"observations/": npy(np.zeros((50, 1, 4), np.float64))},
        {"observations/": npy_claiming((50, 1, 4), "<f4", bytes(10))},
        {"observations/": npy_claiming((50, 1, 4), "<f4", bytes(10**6))},
        {"position": npy(np.array([10**12, 0]))},
        {"position": npy(np.array([-1, 0]))},
        {"position": npy(np.array([0, 7]))},
        {"position": npy(np.array([1.5, 0.0]))},
        {"apart/": npy(np.ones(50, bool))},
        {"rewards/": b""},
        {"rewards/": b"\x93NUMPY\x01\x00\xff\xff{"},
    ],
)
def test_replay_buffers_that_are_not_the_agents_are_refused(
    checkpoint: Path, change: dict[str, bytes]
) -> None:
    file = checkpoint / "replay.npz"
    file.write_bytes(npz_of(**members_of(file) | change))
    reseal(checkpoint)
    with pytest.raises(DamagedFile, match="is not a replay buffer of this agent, or damaged"):
        load_checkpoint(checkpoint, fresh_agent())


# Links and pipes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "replay.npz", "checksums.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    checkpoint: Path, tmp_path: Path, name: str, kind: str
) -> None:
    moved = (checkpoint / name).rename(tmp_path / name)
    match kind:
        case "link":
            (checkpoint / name).symlink_to(moved)
        case "pipe":
            os.mkfifo(checkpoint / name)
        case "folder":
            (checkpoint / name).mkdir()
    with pytest.raises(DamagedFile, match=r"symbolic link|not a regular file"):
        load_checkpoint(checkpoint, fresh_agent())


def test_a_checkpoint_that_is_a_link_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    checkpoint.rename(tmp_path / "elsewhere")
    checkpoint.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedFile, match="is a symbolic link"):
        load_checkpoint(checkpoint, fresh_agent())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder with a file of every kind that reports read."""
    folder = RunFolder.create(tmp_path / "results", validate(TABLE, source="test"), [0, 64, 128])
    folder.episodes_file.write_text("env_steps,task,return,length\n10,0,10.0,10\n90,1,20.0,20\n")
    folder.evaluation_file.write_text(
        "after_task,on_task,episode,policy,env_steps,seed,return,length,success\n"
        "0,0,0,deterministic,64,1,9.0,9,\n"
    )
    folder.snapshots.mkdir()
    shutil.copy(DATA / "snapshot-schema-1.npz", folder.snapshot_at(0, "init"))
    return folder


@pytest.mark.parametrize(
    "place", ["run.toml", "snapshots/task-001-init.npz", "replays", "tb", "replays/x.gif"]
)
def test_a_run_folder_with_a_link_in_it_is_refused(run: RunFolder, tmp_path: Path, place: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = run.path / place
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(secret)
    with pytest.raises(DamagedFile, match="is a symbolic link, which could lead anywhere"):
        RunFolder.open(run.path)
    with pytest.raises(RunFolderError, match="symbolic link"):
        write_report([run.path], tmp_path / "report.html")
    (entry,) = entries(run.path.parent)
    assert "symbolic link" in entry.note


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/b", "..", "", "x" * 300, "a\0b", "a\nb"])
@pytest.mark.parametrize("field", ["name", "arm"])
def test_a_spec_whose_name_is_a_path_is_refused(field: str, name: str) -> None:
    with pytest.raises(SpecError, match=f"{field}: "):
        validate({**TABLE, field: name}, source="test")


# Arrays ------------------------------------------------------------------------------------------------


def zip64(content: bytes) -> bytes:
    """The same archive with a locator of a directory elsewhere in front of its end."""
    return content[:-22] + b"PK\x06\x07" + bytes(16) + content[-22:]


def compressed_by(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("snapshot.npy", npy(np.zeros(3)))
    return file.getvalue()


HOSTILE_ARCHIVES = {
    "objects": npz_of(snapshot=npy_claiming((1,), "|O", pickle.dumps(1))),
    "terabytes": npz_of(snapshot=npy_claiming((10**12,))),
    "another compression": compressed_by(zipfile.ZIP_LZMA),
    "a directory elsewhere": zip64(npz_of(snapshot=npy(np.zeros(3)))),
    "a comment behind it": npz_of(snapshot=npy(np.zeros(3)))[:-2] + b"\x04\x00junk",
    "a text nested deep": npz_of(snapshot=npy(np.array("[" * 10**5))),
    "a text of numbers": npz_of(snapshot=npy(np.array("9" * 10**5))),
}
READERS = {"snapshot": Snapshot.load, "replays": Replays.load}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", HOSTILE_ARCHIVES)
def test_hostile_archives_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(HOSTILE_ARCHIVES[name].replace(b"snapshot.npy", b"snapshot.npy"))
    with pytest.raises((UnreadableFile, RunFolderError), match=str(path)):
        READERS[kind](path)


@pytest.mark.parametrize("kind", READERS)
def test_a_pipe_in_place_of_an_archive_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "file.npz")
    with pytest.raises((UnreadableFile, RunFolderError), match="not a regular file"):
        READERS[kind](tmp_path / "file.npz")


def test_pickles_are_executed_nowhere(run: RunFolder, checkpoint: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Canary(canary))
    objects = io.BytesIO()
    np.savez(objects, snapshot=np.array([Canary(canary)], dtype=object), about=np.array([Canary(canary)]))
    with io.BytesIO() as file:
        torch.save(Canary(canary), file)
        torches = file.getvalue()
    for content in (bomb, objects.getvalue(), torches):
        for path in (run.snapshot_at(0, "init"), run.snapshot_at(1, "end")):
            path.write_bytes(content)
            with pytest.raises(UnreadableFile):
                Snapshot.load(path)
        (tmp_path / "replays.npz").write_bytes(content)
        with pytest.raises(RunFolderError):
            Replays.load(tmp_path / "replays.npz")
        for name in ("tensors.safetensors", "replay.npz", "state.json", "checksums.json"):
            whole = (checkpoint / name).read_bytes()
            (checkpoint / name).write_bytes(content)
            if name != "checksums.json":
                reseal(checkpoint)
            with pytest.raises(RunFolderError):
                load_checkpoint(checkpoint, fresh_agent())
            (checkpoint / name).write_bytes(whole)
            reseal(checkpoint)
        for name in ("run.toml", "episodes.csv", "evaluation.csv"):
            (run.path / name).write_bytes(content)
        write_report([run.path], tmp_path / f"report-{len(content)}.html")
        with pytest.raises(SpecError):
            run.read_spec()
        with pytest.raises(SpecError):
            load_spec(str(run.spec_file))
        whole = (run.path / "manifest.json").read_bytes()
        (run.path / "manifest.json").write_bytes(content)
        with pytest.raises(DamagedFile):
            RunFolder.open(run.path)
        (run.path / "manifest.json").write_bytes(whole)
    assert not canary.exists()
    pickle.loads(bomb)  # and the bomb is one
    assert canary.exists()


# Texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"boundaries": []}, "boundaries"),
        ({"boundaries": [0, 10**30]}, "boundaries.1"),
        ({"boundaries": [0, 64, 64]}, "do not increase"),
        ({"boundaries": [-5, 64]}, "boundaries.0"),
        ({"boundaries": "0, 64"}, "boundaries"),
        ({"status": ["complete"]}, "status"),
        ({"seed": "0"}, "seed"),
        ({"versions": {"torch": 2}}, "versions.torch"),
        ({"created": 5}, "created"),
        ({"evaluation_seconds": float("nan")}, "evaluation_seconds"),
        ({"evaluation_seconds": "many"}, "evaluation_seconds"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(run: RunFolder, change: dict, reason: str) -> None:
    run.write_manifest(run.read_manifest() | change)
    with pytest.raises(DamagedFile, match=f"manifest.json' is damaged: .*{reason}"):
        RunFolder.open(run.path)


@pytest.mark.parametrize("text", ["", "[" * 10**6, "{" * 10**5, '{"a":' * 10**5, "9" * 10**6, "\0", "\udcff"])
def test_a_manifest_that_is_no_record_is_refused(run: RunFolder, text: str) -> None:
    (run.path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunFolderError, match=r"manifest\.json"):
        RunFolder.open(run.path)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 10**5,
        "a." * 10**5 + "b = 1",
        "[" + ".".join("a" * 60) + "]",
        "a = " + "{a = " * 10**4,
        "a = " + "9" * 10**5,
        "a = 1\n" * 2,
        "\0",
        "\udcff",
        "x" * (2**19 + 1),
        *(f"a = {quote}" + f"{quote}b{quote}. " * 10**4 for quote in "'\""),
    ],
)
def test_a_spec_that_is_no_toml_or_absurd_is_refused(run: RunFolder, text: str) -> None:
    run.spec_file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SpecError, match=r"run\.toml"):
        run.read_spec()
    with pytest.raises(SpecError, match=r"run\.toml"):
        load_spec(str(run.spec_file))


ABSURD_TABLES = {
    "no header": b"",
    "no line end": b"env_steps,task,return" + b"," * 2**21,
    "numbers beyond counting": b"env_steps,task,return,length\n" + b"9" * 400 + b",0,1,1\n",
    "numbers beyond reading": b"env_steps,task,return,length\n" + b"9" * 10_000 + b",0,1,1\n",
    "tasks that are not": b"env_steps,task,return,length\n1,99,1,1\n1,-7,1,1\n1,1e9,1,1\n",
    "a quote that never ends": b'env_steps,task,return,length\n"1,0,1,1\n' + b"1,0,1,1\n" * 10**5,
    "zeros": b"\0" * 1000,
    "no text": bytes(range(256)) * 10,
    "cells without end": b"env_steps,task,return,length\n" + b"1," * 10**5 + b"\n",
    "infinite": b"env_steps,task,return,length\n1,0,inf,1\n2,0,nan,1\n64,0,-inf,1\n",
}


def put_tables(run: RunFolder, name: str) -> None:
    run.episodes_file.write_bytes(ABSURD_TABLES[name])
    header = b"after_task,on_task,episode,policy,env_steps,seed,return,length,success\n"
    absurd = [b"-9,0,0,deterministic,64,1,9,9,", b"0,-9,0,deterministic,64,1,9,9,", b"9" * 400]
    run.evaluation_file.write_bytes(ABSURD_TABLES[name] + header + b"\n".join(absurd))


@pytest.mark.parametrize("name", ABSURD_TABLES)
def test_absurd_tables_become_problems_that_name_the_file(run: RunFolder, name: str) -> None:
    put_tables(run, name)
    _, problems = gather([run.path])
    assert any(str(run.episodes_file) in problem for problem in problems)
    assert entries(run.path.parent)


@pytest.mark.parametrize("name", ABSURD_TABLES)
def test_absurd_evaluations_are_refused(run: RunFolder, name: str) -> None:
    put_tables(run, name)
    with pytest.raises(RunFolderError, match=r"evaluation\.csv"):
        read_evaluation(run.evaluation_file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ABSURD_TABLES)
def test_absurd_tables_become_notes_in_the_report(run: RunFolder, tmp_path: Path, name: str) -> None:
    put_tables(run, name)
    page = write_report([run.path], tmp_path / "report.html").read_text()
    assert run.episodes_file.name in page


def damaged_in_turn(run: RunFolder, seed: int, times: int) -> Iterator[None]:
    """Damage one file of the run after the other, and mend it."""
    rng = np.random.default_rng(seed)
    for path in [path for path in run.path.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for _ in range(times):
            broken = bytearray(whole)
            for place in rng.integers(0, len(whole), rng.integers(1, 6)):
                broken[place] = rng.integers(256)
            path.write_bytes(broken)
            yield
        path.write_bytes(whole)


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_read_as_far_as_they_go_or_refused(run: RunFolder, seed: int) -> None:
    for _ in damaged_in_turn(run, seed, times=30):
        with contextlib.suppress(RunError):
            gather([run.path])
        assert len(entries(run.path.parent)) == 1


@pytest.mark.slow
def test_a_report_of_damaged_files_is_written_or_refused(run: RunFolder, tmp_path: Path) -> None:
    for number, _ in enumerate(damaged_in_turn(run, 0, times=3)):
        with contextlib.suppress(RunError):
            write_report([run.path], tmp_path / f"{number}.html")


# Memory ------------------------------------------------------------------------------------------------

BOMBS = """
import io, resource, sys, zipfile
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
import test_hostile_files as hostile
from pliant.runs.baseline import find_fresh

run, checkpoint, work = (Path(argument) for argument in sys.argv[1:])
agent = hostile.fresh_agent()
folder = hostile.RunFolder.open(run)
good = {{path: path.read_bytes() for top in (run, checkpoint) for path in top.rglob("*") if path.is_file()}}

def sparse(path, start=b""):
    "Ten gigabytes that take no room on the disk."
    with path.open("wb") as file:
        file.write(start)
        file.truncate(10 * 2**30)

def inflating():
    "Ten megabytes that become two gigabytes, of which the first array is honest and the others lie."
    file, zeros = io.BytesIO(), bytes(2**24)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("position.npy", hostile.npy(np.array([40, 0])))
        for name, shape, chunks in (("snapshot", (2**28,), 128), ("observations/", (40, 1, 4), 8)):
            with archive.open(name + ".npy", "w", force_zip64=True) as member:
                member.write(hostile.npy_claiming(shape, "<f4" if chunks == 8 else "<f8"))
                for _ in range(chunks):
                    member.write(zeros)
    return file.getvalue()

def attempts():
    for path in good:
        yield path, lambda path=path: sparse(path, good[path])
    header = {{hostile.WEIGHT: {{"dtype": "F32", "shape": [50_000, 50_000], "data_offsets": [0, 10**10]}}}}
    tensors = checkpoint / "tensors.safetensors"
    yield tensors, lambda: sparse(tensors, hostile.safetensors_with(header))
    bomb = inflating()
    for path in good:
        if path.suffix == ".npz":
            yield path, lambda path=path: path.write_bytes(bomb)
    for path in good:
        if path.suffix in (".csv", ".json", ".toml"):
            yield path, lambda path=path: path.write_bytes(b"[" * 2**23)

def look():
    loaders = (
        lambda: hostile.load_checkpoint(checkpoint, agent),
        lambda: hostile.load_networks(checkpoint, agent),
        lambda: hostile.gather([run]),
        lambda: hostile.entries(run.parent),
        lambda: folder.read_spec(),
        lambda: hostile.load_spec(str(folder.spec_file)),
        lambda: hostile.Snapshot.load(folder.snapshot_at(0, "init")),
        lambda: find_fresh(run),
    )
    refused = 0
    for load in loaders:
        try:
            load()
        except (hostile.RunError, hostile.UnreadableFile):
            refused += 1
    return refused

assert look() == 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path, spoil in attempts():
    spoil()
    if path.parent == checkpoint and path.name != "checksums.json":
        hostile.reseal(checkpoint)
    refused = look()
    assert refused or path.suffix == ".csv", path  # of a table, what can be read is read
    for spoiled, content in good.items():
        spoiled.write_bytes(content)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_files_that_claim_or_inflate_to_gigabytes_take_no_memory(
    run: RunFolder, checkpoint: Path, tmp_path: Path
) -> None:
    code = BOMBS.format(tests=str(Path(__file__).parent))
    result = subprocess.run(
        [sys.executable, "-c", code, str(run.path), str(checkpoint), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 200 * 1024  # kibibytes
