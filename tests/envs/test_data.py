"""Data sets: true formats written and read back; damaged and missing files named, with what to do."""

import gzip
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.utils import Bunch

from pliant.envs import DamagedData, InvalidTask, MissingData
from pliant.envs.data import DATA_SETS, load_data
from pliant.envs.data.cifar import CIFAR_DATA
from pliant.envs.data.data_set import split_by_class
from pliant.envs.data.idx import IDX_DATA, read_idx

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    """The IDX format, as the page of MNIST describes it."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, name: str, *, zipped: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """All four files of an IDX data set, 12 and 5 images of 6 x 4."""
    files, ending = IDX_DATA[name], ".gz" if zipped else ""
    written = {}
    for split, part, count in (("train", "train", 12), ("test", files.test, 5)):
        images = RNG.integers(256, size=(count, 6, 4))
        labels = RNG.integers(files.first, files.first + files.classes, size=count)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{files.prefix}{part}-{kind}-ubyte{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
        written[split] = images, labels - files.first
    return written


def write_cifar(folder: Path, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """All files of a CIFAR data set, 3 records each."""
    files = CIFAR_DATA[name]
    folder.mkdir(parents=True)
    written = {}
    for split, parts in (("train", files.train), ("test", files.test)):
        images = RNG.integers(256, size=(3 * len(parts), 3, 32, 32))
        labels = RNG.integers(files.classes, size=3 * len(parts))
        coarse = np.full((3 * len(parts), files.labels - 1), 7)
        records = np.hstack([coarse, labels[:, None], images.reshape(len(images), -1)]).astype(np.uint8)
        for i, part in enumerate(parts):
            records[3 * i : 3 * i + 3].tofile(folder / part)
        written[split] = images, labels
    return written


def everything(data) -> np.ndarray:
    return data.take(np.arange(len(data.labels)))


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("name", sorted(IDX_DATA))
def test_an_idx_data_set_comes_back_as_it_was_written(name, zipped, tmp_path):
    for place in IDX_DATA[name].places:
        written = write_idx(tmp_path / place / place, name, zipped=zipped)
        for split in ("train", "test"):
            images, labels = written[split]
            images = images.transpose(0, 2, 1) if "emnist" in name else images
            data = load_data(name, split, tmp_path / place)
            assert data.shape == (1, *images.shape[1:])
            assert data.classes == IDX_DATA[name].classes
            assert np.array_equal(data.labels, labels)
            assert np.array_equal(everything(data), (images[:, None] / np.float32(255)).astype(np.float32))


@pytest.mark.parametrize("name", sorted(CIFAR_DATA))
def test_a_cifar_data_set_comes_back_as_it_was_written(name, tmp_path):
    written = write_cifar(tmp_path / CIFAR_DATA[name].place, name)
    for split in ("train", "test"):
        images, labels = written[split]
        data = load_data(name, split, tmp_path)
        assert np.array_equal(data.labels, labels)
        assert np.array_equal(everything(data), (images / np.float32(255)).astype(np.float32))
        assert (data.classes, data.shape) == (CIFAR_DATA[name].classes, (3, 32, 32))


@pytest.mark.parametrize("inside", ["", "classes"])
def test_a_folder_of_class_files_comes_back_as_it_was_written(inside, tmp_path):
    folder = tmp_path / "imagenet" / inside
    folder.mkdir(parents=True)
    images = [RNG.integers(256, size=(14 + 7 * (i % 2), 3, 5, 4), dtype=np.uint8) for i in range(11)]
    for i, array in enumerate(images):
        np.save(folder / f"{i}.npy", array)
    train, test = (load_data("folder:imagenet", split, str(tmp_path)) for split in ("train", "test"))
    assert (train.classes, train.shape) == (11, (3, 5, 4))
    for data, parts in (
        (train, [a[: 6 * len(a) // 7] for a in images]),
        (test, [a[6 * len(a) // 7 :] for a in images]),
    ):
        assert np.array_equal(data.labels, np.repeat(np.arange(11), [len(part) for part in parts]))
        assert np.array_equal(everything(data), np.concatenate(parts).astype(np.float32) / np.float32(255))
        shuffled = RNG.permutation(len(data.labels))
        assert np.array_equal(data.take(shuffled), everything(data)[shuffled])


@pytest.mark.parametrize(
    ("array", "shape", "expected"),
    [
        (np.full((7, 4, 5, 3), 51, np.uint8), (3, 4, 5), 0.2),
        (np.full((7, 4, 5), 51, np.uint8), (1, 4, 5), 0.2),
        (np.full((7, 9), 0.2, np.float64), (9,), 0.2),
        (np.full((7, 3, 4, 5), 51.0, np.float32), (3, 4, 5), 0.2),
        (np.asfortranarray(np.full((7, 3, 4, 5), 51, np.int64)), (3, 4, 5), 0.2),
    ],
)
def test_class_files_may_be_of_any_shape_and_type_of_number(array, shape, expected, tmp_path):
    (tmp_path / "x").mkdir()
    for name in ("cat", "dog"):
        np.save(tmp_path / "x" / f"{name}.npy", array)
    data = load_data("folder:x", "train", str(tmp_path))
    assert data.shape == shape
    assert everything(data) == pytest.approx(expected)


def test_the_axes_of_a_picture_with_its_channels_last_are_moved_not_reshaped(tmp_path):
    (tmp_path / "x").mkdir()
    array = RNG.integers(256, size=(7, 4, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "x" / "0.npy", array)
    np.save(tmp_path / "x" / "1.npy", array.transpose(0, 3, 1, 2))
    data = everything(load_data("folder:x", "train", str(tmp_path)))
    assert np.array_equal(data[:6], data[6:])


def test_the_digits_are_scikit_learn_s_and_each_is_in_one_split():
    digits = datasets.load_digits()
    train, test = load_data("digits", "train"), load_data("digits", "test")
    assert (len(train.labels), len(test.labels), train.classes, train.shape) == (1545, 252, 10, (1, 8, 8))
    inputs = np.concatenate([everything(train), everything(test)]).reshape(-1, 64)
    labels = np.concatenate([train.labels, test.labels])
    ours = sorted(zip((inputs * 16).astype(int).tolist(), labels.tolist(), strict=True))
    assert ours == sorted(zip(digits.data.astype(int).tolist(), digits.target.tolist(), strict=True))


def test_the_last_seventh_of_each_class_is_for_tests():
    labels = np.array([0, 1] * 7 + [1] * 7)
    assert split_by_class(labels, "test").tolist() == [12, 19, 20]
    assert sorted([*split_by_class(labels, "train"), *split_by_class(labels, "test")]) == list(range(21))


def test_data_are_loaded_once_in_a_process_and_cannot_be_changed(tmp_path):
    write_cifar(tmp_path / "cifar-100-binary", "cifar100")
    data = load_data("cifar100", "train", str(tmp_path))
    assert load_data("cifar100", "train", str(tmp_path)) is data
    with pytest.raises(ValueError, match="read-only"):
        data.inputs[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 0


def test_the_folder_is_the_given_one_else_the_variable_s_else_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLIANT_DATA", raising=False)
    for place in ("data", "variable", "given"):
        write_idx(tmp_path / place / "mnist", "mnist")
    default = load_data("mnist", "train")
    monkeypatch.setenv("PLIANT_DATA", str(tmp_path / "variable"))
    by_variable, given = load_data("mnist", "train"), load_data("mnist", "train", str(tmp_path / "given"))
    assert np.array_equal(everything(default), everything(load_data("mnist", "train", "data")))
    assert not np.array_equal(everything(default), everything(by_variable))
    assert not np.array_equal(everything(by_variable), everything(given))


MISSING = {
    "mnist": (
        "train-images-idx3-ubyte and train-labels-idx1-ubyte and t10k-images-idx3-ubyte and t10k-labels",
        "mnist/, each as it is or with the ending .gz",
    ),
    "emnist-letters": ("emnist-letters-train-images-idx3-ubyte and", "emnist/, each as it is or with"),
    "cifar10": ("data_batch_1.bin and data_batch_2.bin and", "cifar-10-batches-bin/;"),
    "cifar100": ("train.bin and test.bin", "cifar-100-binary/;"),
    "folder:imagenet": ("one file per class, 0.npy, 1.npy, ...", "imagenet/;"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_data_are_named_file_by_file_with_the_place_to_put_them(name, tmp_path):
    with pytest.raises(MissingData) as refusal:
        load_data(name, "train", str(tmp_path))
    files, place = MISSING[name]
    assert str(refusal.value).startswith(f"the data set {name!r} is not there: put {files}")
    assert f" into {tmp_path}/{place}" in str(refusal.value)
    assert str(refusal.value).endswith(
        f"; or name another folder than {tmp_path}/ with --data DIR or the variable PLIANT_DATA"
    )


def test_only_the_files_that_are_missing_are_named_in_the_place_that_has_the_others(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw", "mnist")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingData, match=f"put t10k-labels-idx1-ubyte into {tmp_path}/MNIST/raw/"):
        load_data("mnist", "train", str(tmp_path))


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(InvalidTask, match=r"unknown data set 'mnsit'\. Did you mean 'mnist'"):
        load_data("mnsit", "train")
    for name in ("folder:", "openml:", "folder", "mnist:"):
        with pytest.raises(InvalidTask, match="unknown data set"):
            load_data(name, "train")


@pytest.mark.parametrize("name", ["folder:/etc", "folder:../x", "folder:x/../../y"])
def test_a_folder_outside_that_of_the_data_sets_is_refused(name, tmp_path):
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "0.npy", np.zeros((7, 2), np.uint8))
    (tmp_path / "data" / "x").mkdir(parents=True)
    with pytest.raises(InvalidTask, match="expected a folder below that of the data sets"):
        load_data(name, "train", str(tmp_path / "data"))


def spoil(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
SPOILED_IDX = {
    "empty": (
        IMAGES,
        lambda b: b"",
        "no IDX file of unsigned bytes in 3 dimension(s): it begins with nothing",
    ),
    "of another format": (
        IMAGES,
        lambda b: b"\x1f\x8b\x08\x00" + b[4:],
        "begins with 1f 8b 08 00, not 00 00 08 03",
    ),
    "labels instead of images": (
        IMAGES,
        lambda b: idx(np.zeros(12)),
        "begins with 00 00 08 01, not 00 00 08 03",
    ),
    "cut in the header": (IMAGES, lambda b: b[:9], "is truncated: it ends within its header"),
    "cut in the images": (IMAGES, lambda b: b[:-1], "is truncated: its header promises 12 x 6 x 4"),
    "too long": (IMAGES, lambda b: b + b"\0", "goes on after the 288 bytes that its header promises"),
    "of a size beyond the file": (IMAGES, lambda b: b[:4] + b"\xff" * 12 + b[16:], "promises 4294967295 x"),
    "an image too few": (IMAGES, lambda b: idx(np.zeros((11, 6, 4))), "has 11 images"),
    "no samples": (IMAGES, lambda b: idx(np.zeros((0, 6, 4))), "has 0 images"),
    "a label too large": (LABELS, lambda b: b[:-1] + b"\x0a", "those of mnist go from 0 to 9"),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("case", SPOILED_IDX)
def test_a_damaged_idx_file_is_named_with_what_is_wrong(case, zipped, tmp_path):
    file, change, message = SPOILED_IDX[case]
    write_idx(tmp_path / "mnist", "mnist", zipped=zipped)
    path = tmp_path / "mnist" / (file + ".gz" * zipped)
    spoil(path, (lambda b: gzip.compress(change(gzip.decompress(b)))) if zipped else change)
    with pytest.raises(DamagedData) as refusal:
        load_data("mnist", "train", str(tmp_path))
    assert message in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[:-9],
        lambda b: b[:30] + b"\xff\xff" + b[32:],
        lambda b: b"not gzip",
        lambda b: b[:-8] + b"\0" * 8,
    ],
)
def test_a_damaged_gzip_is_named(change, tmp_path):
    write_idx(tmp_path / "mnist", "mnist", zipped=True)
    spoil(tmp_path / "mnist" / f"{IMAGES}.gz", change)
    with pytest.raises(DamagedData, match=rf"{IMAGES}\.gz "):
        load_data("mnist", "train", str(tmp_path))


def test_a_gzip_that_promises_more_than_gzip_can_hold_is_refused_before_memory_is_taken(tmp_path):
    write_idx(tmp_path / "mnist", "mnist", zipped=True)
    path = tmp_path / "mnist" / f"{IMAGES}.gz"
    spoil(
        path,
        lambda b: gzip.compress(
            idx(np.zeros((1, 1, 1)))[:4] + (1 << 18).to_bytes(4, "big") * 2 + b"\0\0\0\1"
        ),
    )
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from pliant.envs.data import load_data
from pliant.envs import DamagedData
try:
    load_data("mnist", "train", {str(tmp_path)!r})
except DamagedData as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "is truncated: its header promises 262144 x 262144 x 1" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "no whole number of records of 3,074 bytes"),
        (lambda b: b"", "has 0 bytes"),
        (lambda b: b[:1] + b"\x64" + b[2:], "has the label 100; those of cifar100 end at 99"),
        (lambda b: b"\x80\x04}" + b, "no whole number of records"),  # what a pickle begins with
    ],
)
def test_a_damaged_cifar_file_is_named_with_what_is_wrong(change, message, tmp_path):
    write_cifar(tmp_path / "cifar-100-binary", "cifar100")
    spoil(tmp_path / "cifar-100-binary" / "train.bin", change)
    with pytest.raises(DamagedData, match=message) as refusal:
        load_data("cifar100", "train", str(tmp_path))
    assert "train.bin" in str(refusal.value)


VALID = idx(np.arange(24).reshape(2, 3, 4))


@given(st.binary(max_size=8), st.integers(0, len(VALID)), st.integers(0, 8), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_bytes_a_file_has_it_is_an_array_or_refused(inserted, at, left_out, zipped):
    content = VALID[:at] + inserted + VALID[at + left_out :]
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("x.gz" if zipped else "x")
        path.write_bytes(gzip.compress(content) if zipped else content)
        with suppress(DamagedData):
            assert idx(read_idx(path, 3)) == content


class Bomb:
    """Unpickled, it would leave a trace."""

    def __reduce__(self):
        return open, ("exploded", "w")


def header(descr: str, shape: str) -> bytes:
    """An ``.npy`` file with a header of one's own and eight bytes after it."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 8


SPOILED_NPY = {
    "truncated": (lambda b: b[:-1], "not a readable .npy file"),
    "too long": (lambda b: b + b"\0", "its header promises"),
    "empty": (lambda b: b"", "not a readable .npy file"),
    "text": (lambda b: b"images", "not a readable .npy file"),
    "absurd in its size": (lambda b: header("'|u1'", "(1 << 40, 3, 2, 2)"), "not a readable .npy file"),
    "as large as a disk": (lambda b: header("'|u1'", f"({1 << 40}, 3, 2, 2)"), "not a readable .npy file"),
    "of negative size": (lambda b: header("'|u1'", "(-7, 3, 2, 2)"), "not a readable .npy file"),
    "of words": (lambda b: header("'<U1'", "(2,)"), "expected numbers of shape"),
    "of one axis": (lambda b: header("'|u1'", "(8,)"), "expected numbers of shape"),
    "of complex numbers": (lambda b: header("'<c8'", "(1, 1)"), "expected numbers of shape"),
    "of another shape": (lambda b: header("'|u1'", "(2, 4)"), "has inputs of shape"),
}


def class_files(folder: Path, *arrays: np.ndarray) -> None:
    (folder / "x").mkdir(parents=True)
    for number, array in enumerate(arrays):
        np.save(folder / "x" / f"{number}.npy", array)


@pytest.mark.parametrize("case", SPOILED_NPY)
def test_a_damaged_class_file_is_named_with_what_is_wrong(case, tmp_path):
    change, message = SPOILED_NPY[case]
    (tmp_path / "x").mkdir()
    for i in range(3):
        np.save(tmp_path / "x" / f"{i}.npy", np.zeros((7, 3, 2, 2), np.uint8))
    spoil(tmp_path / "x" / "1.npy", change)
    with pytest.raises(DamagedData, match=message) as refusal:
        load_data("folder:x", "train", str(tmp_path))
    assert "1.npy" in str(refusal.value)


def test_a_class_file_of_objects_is_refused_and_nothing_in_it_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "0.npy", np.array([Bomb()], object), allow_pickle=True)
    with pytest.raises(DamagedData, match=r"holds Python objects, which are never loaded.*Save an array"):
        load_data("folder:x", "train", str(tmp_path))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("value", [-1.0, 300.0, np.nan, np.inf])
def test_a_class_file_with_numbers_that_are_no_pixels_is_named(value, tmp_path):
    class_files(tmp_path, np.zeros((7, 4), np.float32), np.full((7, 4), value, np.float32))
    with pytest.raises(DamagedData, match=r"1\.npy has numbers from .*; expected 0 to 1, or 0 to 255"):
        load_data("folder:x", "train", str(tmp_path))


def test_the_inputs_of_all_classes_have_one_scale(tmp_path):
    """Divided file by file, a class whose largest number is above 1 would be told by its scale alone."""
    class_files(tmp_path, np.full((7, 4), 0.5, np.float32), np.full((7, 4), 2.0, np.float32))
    data = everything(load_data("folder:x", "train", str(tmp_path)))
    assert (data[:6] == np.float32(0.5) / np.float32(255)).all()
    assert (data[6:] == np.float32(2.0) / np.float32(255)).all()


def test_bytes_beside_other_numbers_are_refused(tmp_path):
    class_files(tmp_path, np.zeros((7, 4), np.float32), np.zeros((7, 4), np.uint8))
    with pytest.raises(
        DamagedData, match=r"1\.npy or .*0\.npy holds bytes, the other does not: save all with one"
    ):
        load_data("folder:x", "train", str(tmp_path))


def test_a_class_file_that_is_missing_between_others_is_named(tmp_path):
    class_files(tmp_path, *[np.zeros((7, 4), np.uint8)] * 4)
    (tmp_path / "x" / "2.npy").unlink()
    with pytest.raises(DamagedData, match=r"x has no 2\.npy, but the files before and after it"):
        load_data("folder:x", "train", str(tmp_path))


def test_other_data_have_another_fingerprint(tmp_path):
    found = [load_data("digits", split).fingerprint for split in ("train", "test", "train")]
    assert found[0] == found[2] != found[1]
    for name, start in (("one", 0), ("same", 0), ("other", 1)):
        class_files(tmp_path / name, np.arange(start, start + 28, dtype=np.uint8).reshape(7, 4))
    one, same, other = (
        load_data("folder:x", "train", str(tmp_path / name)).fingerprint for name in ("one", "same", "other")
    )
    assert one == same != other


def test_of_a_thousand_class_files_few_are_open_at_a_time(tmp_path):
    (tmp_path / "x").mkdir()
    for i in range(1000):
        np.save(tmp_path / "x" / f"{i}.npy", np.full((7, 2), i % 256, np.uint8))
    data = load_data("folder:x", "train", str(tmp_path))
    assert data.classes == 1000
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert np.array_equal(
        everything(data)[::6, 0], (np.arange(1000) % 256 / np.float32(255)).astype(np.float32)
    )
    assert len(list(Path("/proc/self/fd").iterdir())) - before < 100


def test_openml_is_fetched_once_by_its_number_and_scaled_to_one(tmp_path, monkeypatch):
    asked = []

    def fetch(**arguments):
        asked.append(arguments)
        names = np.array(["b", "a"] * 7, object)
        return Bunch(data=np.linspace(-1.0, 3.0, 28).reshape(14, 2), target=names)

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    train, test = (load_data("openml:61", split, str(tmp_path)) for split in ("train", "test"))
    assert {(one["data_id"], one["data_home"]) for one in asked} == {(61, str(tmp_path / "openml"))}
    inputs = np.concatenate([everything(train), everything(test)])
    assert (inputs.min(), inputs.max(), train.classes, train.shape) == (0.0, 1.0, 2, (2,))
    assert train.labels.tolist() == [1, 0] * 6
    assert test.labels.tolist() == [1, 0]


def test_openml_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    def fetch(**arguments):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    with pytest.raises(
        MissingData, match=r"'openml:554' cannot be fetched .*openml/: no route to host; where there"
    ):
        load_data("openml:554", "train", str(tmp_path))
    with pytest.raises(InvalidTask, match="expected the number of a data set"):
        load_data("openml:mnist_784", "train", str(tmp_path))


@pytest.mark.parametrize(
    "bunch",
    [
        Bunch(data=np.array([["red"], ["blue"]], object), target=np.array(["a", "b"])),
        Bunch(data=np.array([[1.0], [np.nan]]), target=np.array(["a", "b"])),
        Bunch(data=np.array([[1.0], [2.0]]), target=None),
    ],
    ids=["words", "missing values", "no target"],
)
def test_an_openml_data_set_that_is_no_classification_of_numbers_is_refused(bunch, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "fetch_openml", lambda **arguments: bunch)
    with pytest.raises(
        DamagedData, match=r"'openml:1' (has features that are no|is no classification of finite) n"
    ):
        load_data("openml:1", "train", str(tmp_path))


def test_every_kind_of_data_set_is_tested_here():
    tested = {"digits", *IDX_DATA, *CIFAR_DATA, "folder:", "openml:"}
    assert tested == DATA_SETS.keys()
