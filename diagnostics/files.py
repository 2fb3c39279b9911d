"""Arrays in files: written whole or not at all; read without executing anything, in bounded memory.

A ``.npz`` is a zip of arrays. What could go wrong, by malice or a broken disk: object arrays (pickles, which
execute code when loaded), a header that asks for terabytes, a few kilobytes that inflate to them, a directory
of a hundred million empty members, a decompressor that wants gigabytes for its dictionary, a pipe that never
ends, a file that ends early, bytes that are no zip at all. Each becomes :class:`.errors.UnreadableFile`.
"""

import math
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from .errors import UnreadableFile

#: A file may not hold more than this, unpacked; measurements of 10 million parameters stay below it.
LARGEST = 2 * 2**30

#: Nor may its directory be larger: enough for ten thousand arrays.
LARGEST_DIRECTORY = 2**20

#: What numpy writes. Others (bzip2, LZMA) take memory that the file asks for before they yield a byte.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_ZIP64_LOCATOR = 20
_END = struct.Struct("<4s4H2LH")
"""The end of a zip: signature, two disks, two counts of members, the directory's size and place, comment."""


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Write a compressed ``.npz`` whole or not at all; it is on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    return temporary.replace(path)


def read_arrays(
    path: str | Path, what: str, wanted: Callable[[str], bool] | None = None, largest: int | None = None
) -> dict[str, Any]:
    """All arrays of an ``.npz``, by name.

    Args:
        path: of the file.
        what: should be in it, for the error's text.
        wanted: says by its name whether an array is read; all are if None.
        largest: bytes that the arrays may come to; ``LARGEST`` if None.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: it is no ``.npz`` of plain arrays, is damaged, or unpacks to more than ``largest``.
    """
    limit = LARGEST if largest is None else largest
    try:
        check_archive(path, limit)
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if wanted is None or wanted(_name(m))]
            size = sum(member.file_size for member in members)
            if size > limit:
                raise ValueError(f"unpacked it would take {size / 2**30:.1f} GiB")
            arrays = {}
            for member in members:
                if member.compress_type not in _COMPRESSIONS:
                    raise ValueError("it is compressed in a way that numpy does not write")
                with archive.open(member) as file:
                    _check_header(file, member.file_size)
                with archive.open(member) as file:
                    arrays[_name(member)] = npy.read_array(file, allow_pickle=False)
            return arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and tokenize raise a dozen kinds for damaged input
        raise UnreadableFile(f"{path} is not a {what} file ({error or type(error).__name__})") from error


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def check_archive(path: str | Path, largest: int) -> None:
    """See that a file ends as numpy's archives do, and that its directory of members is of a sensible size.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > largest:
        raise ValueError(f"it has {status.st_size:,} bytes")
    with open(path, "rb") as file:
        file.seek(max(0, status.st_size - _END.size - _ZIP64_LOCATOR))
        ending = file.read()
    locator, end = ending[: -_END.size], ending[-_END.size :]
    # Numpy writes no comment behind it, and no ZIP64 directory, whose size would stand elsewhere
    if len(end) < _END.size or not end.startswith(b"PK\5\6") or locator.startswith(b"PK\6\7"):
        raise ValueError("it does not end as a zip file of arrays does")
    directory = _END.unpack(end)[5]
    if directory > LARGEST_DIRECTORY:
        raise ValueError(f"its directory of members has {directory:,} bytes")


def _check_header(file: IO[bytes], size: int) -> None:
    """See that a member holds no objects, and as many bytes as its header says."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array claims shape {shape}, more than its {size} bytes hold")
