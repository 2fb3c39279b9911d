"""Old files are read for ever; damaged and hostile ones are refused: nothing is executed or inflated."""

import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pliant.diagnostics import Snapshot, SnapshotSettings, Spectrum, errors, take_snapshot

DATA = Path(__file__).parents[1] / "data"
#: What the committed files held when they were written.
EXPECTED = {
    "plasticity/actor/0/effective_rank": 4.363027135957084,
    "plasticity/critic/0/dead": 0.0,
    "plasticity/critic/weight_norm": 1.637716502321787,
    "plasticity/critic/gradient_norm": 0.3957853746691301,
    "spectrum/actor/largest": 1.9795036206401846,
    "spectrum/critic/trace": 2.160219021912234,
    "spectrum/critic/epsilon_rank_0.01": 0.7520670163529374,
    "spectrum/critic/epsilon_rank_0.01_low": 0.22580645161290322,
    "spectrum/critic/epsilon_rank_0.01_high": 1.0,
    "spectrum/total/relative_rank_0.01": 0.7368546867552047,
}
RANK = [0.7520670163529374, 0.22580645161290322, 1.0]

LOADERS = {"snapshot": Snapshot.load, "spectrum": Spectrum.load}


@pytest.fixture
def written(tmp_path, tiny_agent, tiny_batch):
    """One good file of each kind."""
    settings = SnapshotSettings(method="lanczos", probes=2, depth=3, minibatches=4)
    snapshot = take_snapshot(tiny_agent(), tiny_batch, settings, label="init", strict=True)
    return {
        "snapshot": snapshot.save(tmp_path / "snapshot.npz"),
        "spectrum": snapshot.spectra["critic"].save(tmp_path / "spectrum.npz"),
    }


def rewritten(path, change):
    """The file with its arrays changed in place by ``change(arrays)``."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    change(arrays)
    np.savez_compressed(path, **arrays)
    return path


def edited(path, kind, change):
    """The file with its JSON record changed in place by ``change(record)``."""

    def edit(arrays):
        record = json.loads(str(arrays[kind]))
        change(record)
        arrays[kind] = np.array(json.dumps(record))

    return rewritten(path, edit)


def test_a_snapshot_of_the_first_format_is_read():
    snapshot = Snapshot.load(DATA / "snapshot-schema-1.npz")
    assert (snapshot.label, snapshot.samples) == ("init", 40)
    assert snapshot.about["task"] == 3
    assert (snapshot.settings.probes, snapshot.settings.depth) == (2, 4)
    assert set(snapshot.spectra) == {"actor", "critic", "total"}
    scalars = snapshot.scalars()
    assert {tag: scalars[tag] for tag in EXPECTED} == pytest.approx(EXPECTED, rel=1e-9)
    assert snapshot.arrays["critic/gradient_covariance"].shape == (6, 6)
    assert snapshot.failures == {}
    assert snapshot.seconds["total"] > 0


def test_a_spectrum_of_the_first_format_is_read():
    spectrum = Spectrum.load(DATA / "spectrum-schema-1.npz")
    assert (spectrum.operator, spectrum.method, spectrum.size, spectrum.products) == (
        "hessian",
        "lanczos",
        31,
        8,
    )
    rank = spectrum.epsilon_rank(0.01)
    assert [rank.value, rank.low, rank.high] == pytest.approx(RANK, rel=1e-9)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_that_ends_early_is_refused(written, kind):
    whole = written[kind].read_bytes()
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        written[kind].write_bytes(whole[:length])
        with pytest.raises(errors.UnreadableFile, match=str(written[kind])):
            LOADERS[kind](written[kind])


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("seed", range(4))
def test_a_file_with_changed_bytes_is_refused_or_read(written, kind, seed):
    whole = written[kind].read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(40):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 30)):
            broken[place] = rng.integers(256)
        written[kind].write_bytes(bytes(broken))
        try:
            LOADERS[kind](written[kind])
        except errors.UnreadableFile:
            continue


@pytest.mark.parametrize("kind", LOADERS)
def test_random_bytes_and_other_kinds_of_file_are_refused(tmp_path, kind):
    path = tmp_path / "file.npz"
    rng = np.random.default_rng(0)
    for contents in (
        b"",
        b"PK\x03\x04",
        b"PK\x05\x06" + bytes(18),
        rng.bytes(5_000),
        b"\x93NUMPY" + rng.bytes(99),
    ):
        path.write_bytes(contents)
        with pytest.raises(errors.UnreadableFile, match=f"is not a {kind} file"):
            LOADERS[kind](path)
    np.save(tmp_path / "single.npy", np.ones(3))
    with pytest.raises(errors.UnreadableFile):
        LOADERS[kind](tmp_path / "single.npy")
    with pytest.raises(errors.UnreadableFile):
        LOADERS[kind](tmp_path)
    with pytest.raises(FileNotFoundError):
        LOADERS[kind](tmp_path / "nothing.npz")


class Trap:
    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


@pytest.mark.parametrize("kind", LOADERS)
def test_object_arrays_are_refused_and_not_executed(written, kind):
    def plant(arrays):
        arrays["trap"] = np.array([Trap()], dtype=object)

    rewritten(written[kind], plant)
    with pytest.raises(errors.UnreadableFile, match="Python objects, which are never loaded"):
        LOADERS[kind](written[kind])
    assert not Trap.sprung
    written[kind].write_bytes(pickle.dumps(Trap()))
    with pytest.raises(errors.UnreadableFile):
        LOADERS[kind](written[kind])
    assert not Trap.sprung


def member_with(header):
    """An .npy whose header says ``header``, and which holds sixteen bytes."""
    text = repr(header).encode("latin1")
    text += b" " * (63 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("shape", [(10**12,), (2**40, 2**40), (-1,), (3,)])
def test_a_header_that_claims_more_than_there_is_is_refused_before_memory_is_taken(tmp_path, kind, shape):
    path = tmp_path / "absurd.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("values.npy", member_with({"descr": "<f8", "fortran_order": False, "shape": shape}))
    tracemalloc.start()
    try:
        with pytest.raises(errors.UnreadableFile, match=f"is not a {kind} file"):
            LOADERS[kind](path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_that_inflates_beyond_bounds_is_refused_unopened(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("pliant.diagnostics.files.LARGEST", 2**20)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, zeros=np.zeros(2**18))
    assert path.stat().st_size < 5_000
    with pytest.raises(errors.UnreadableFile, match="unpacked it would take"):
        LOADERS[kind](path)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.update({"0/form/values": np.ones((2, 3))}),
        lambda a: a.update({"0/form/values": np.ones(3)}),
        lambda a: a.update({"0/form/values": a["0/form/values"][::-1]}),
        lambda a: a.update({"0/form/values": a["0/form/values"] * np.nan}),
        lambda a: a.update({"0/form/values": np.array(["a"] * 6)}),
        lambda a: a.update({"0/form/first": a["0/form/first"][:, :2]}),
        lambda a: a.update({"0/form/first": a["0/form/first"][:0]}),
        lambda a: a.update({"0/form/first": a["0/form/first"] * 0}),
        lambda a: a.update({"0/coarse/coupling": np.ones(())}),
        lambda a: a.pop("0/form/coupling"),
        lambda a: a.pop("spectrum"),
        lambda a: a.update(spectrum=np.array("[" * 100_000)),
        lambda a: a.update(spectrum=np.ones(3)),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(written, change):
    with pytest.raises(errors.UnreadableFile, match="is not a spectrum file: this holds"):
        Spectrum.load(rewritten(written["spectrum"], change))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(pieces=[]),
        lambda r: r.update(pieces=5),
        lambda r: r.update(schema="one"),
        lambda r: r.update(products=None),
        lambda r: r["pieces"][0].update(size=10**15, exact=True),
        lambda r: r["pieces"][0].update(size=2),
        lambda r: r["pieces"][0].update(size=float("inf")),
        lambda r: r["pieces"][0].update(steps=None),
        lambda r: r["pieces"][0].update(coarse_steps=None),
        lambda r: r["pieces"][0].update(resolution=float("nan")),
        lambda r: r["pieces"][0].pop("size"),
    ],
)
def test_a_spectrums_record_that_makes_no_sense_is_refused(written, change):
    with pytest.raises(errors.UnreadableFile):
        Spectrum.load(edited(written["spectrum"], "spectrum", change))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("parts"),
        lambda r: r.update(parts=["actor", "nowhere"]),
        lambda r: r.update(settings={"depht": 3}),
        lambda r: r.update(settings={"depth": -3}),
        lambda r: r.update(settings=[]),
        lambda r: r.update(values={"a": "many"}),
        lambda r: r.update(values=[1, 2]),
        lambda r: r.update(features={"actor/0": 3}),
        lambda r: r.update(about="yesterday"),
        lambda r: r.update(samples=None),
    ],
)
def test_a_snapshots_record_that_makes_no_sense_is_refused(written, change):
    with pytest.raises(errors.UnreadableFile, match="is a damaged snapshot"):
        Snapshot.load(edited(written["snapshot"], "snapshot", change))


def test_numbers_that_no_measurement_gives_are_refused(written):
    rng = np.random.default_rng(0)
    whole = written["spectrum"].read_bytes()
    for _ in range(20):
        written["spectrum"].write_bytes(whole)

        def disturb(arrays):
            for name in ("0/form/values", "0/form/first", "0/form/coupling"):
                noise = 10.0 ** rng.uniform(-300, 300, arrays[name].shape)
                arrays[name] = (
                    np.sort(arrays[name] * noise) if name.endswith("values") else arrays[name] * noise
                )

        with pytest.raises(errors.UnreadableFile, match="damaged spectrum"):
            Spectrum.load(rewritten(written["spectrum"], disturb))


def test_the_good_files_are_read(written):
    assert set(Snapshot.load(written["snapshot"]).spectra) == {"actor", "critic", "total"}
    assert Spectrum.load(written["spectrum"]).size == 31
