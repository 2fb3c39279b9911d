"""Reading arrays that somebody else wrote: nothing is executed, and memory is bounded before it is taken.

A ``.npz`` is a zip of arrays. What could go wrong, by malice or a broken disk: object arrays (pickles, which
execute code when loaded), a header that asks for terabytes, a few kilobytes that inflate to them, a file that
ends early, bytes that are no zip at all. Each of them becomes :class:`.errors.UnreadableFile`.
"""

import math
import zipfile
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy

from .errors import UnreadableFile

#: A file may not hold more than this, unpacked; measurements of 10 million parameters stay below it.
LARGEST = 2 * 2**30


def read_arrays(path: str | Path, what: str) -> dict[str, Any]:
    """All arrays of an ``.npz``, by name.

    Args:
        path: of the file.
        what: should be in it, for the error's text.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: it is no ``.npz`` of plain arrays, is damaged, or unpacks to more than two gibibytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > LARGEST:
                raise ValueError(f"unpacked it would take {size / 2**30:.1f} GiB")
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    _check_header(file, member.file_size)
                with archive.open(member) as file:
                    arrays[member.filename.removesuffix(".npy")] = npy.read_array(file, allow_pickle=False)
            return arrays
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, numpy and tokenize raise a dozen kinds for damaged input
        raise UnreadableFile(f"{path} is not a {what} file ({error or type(error).__name__})") from error


def _check_header(file: IO[bytes], size: int) -> None:
    """See that a member holds no objects, and as many bytes as its header says."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"an array claims shape {shape}, more than its {size} bytes hold")
