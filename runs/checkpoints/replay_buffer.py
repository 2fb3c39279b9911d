"""The replay buffer of an agent in a file: the filled part, compressed, restored where it came from.

A transition's next observation is nearly always the observation of the row after it. Only those that are not
(at the ends of episodes, and where the ring of the buffer closes) are written, so that half of the file is
never made. Equal means equal bytes: what is restored is what was there.

The file is a ``.npz`` of plain arrays. zlib's level 1 is the fastest, and
100,000 transitions of MiniGrid, 29 MB, become 0.8 MB.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from stable_baselines3.common.buffers import ReplayBuffer

from ...diagnostics.files import check_archive
from ..errors import DamagedFile

Array = np.ndarray[Any, Any]

_FIELDS = ("observations", "actions", "rewards", "dones", "timeouts")
_CHUNK = 2**20


def filled_rows(buffer: ReplayBuffer) -> int:
    """Rows of the buffer that hold transitions, one of each copy of the environment."""
    return buffer.buffer_size if buffer.full else buffer.pos


def largest_file(buffer: ReplayBuffer) -> int:
    """Bytes that the file of a full buffer can have, if nothing in it can be compressed."""
    size = sum(array.nbytes for _, array in _arrays(buffer))
    size += sum(array.nbytes + len(array) for _, array in _next_observations(buffer))
    return size + size // 1000 + 2**16  # zlib's worst case is far below a thousandth; names and headers


def save_replay_buffer(buffer: ReplayBuffer, path: Path) -> None:
    """Write the filled part of ``buffer``."""
    filled = filled_rows(buffer)
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        _write(archive, "position", np.array([buffer.pos, int(buffer.full)]))
        for name, array in _arrays(buffer):
            _write(archive, name, array[:filled])
        observations = dict(_arrays(buffer))
        for key, following in _next_observations(buffer):
            apart = _rows_apart(observations[f"observations/{key}"][:filled], following[:filled])
            _write(archive, f"apart/{key}", apart)
            _write(archive, f"next_observations/{key}", following[:filled][apart])


def load_replay_buffer(buffer: ReplayBuffer, path: Path) -> None:
    """Put back what :func:`save_replay_buffer` wrote, into the arrays that ``buffer`` has.

    No array is made larger than the buffer's own: what an array of the file claims to be is compared with
    what the buffer needs before a byte of it is unpacked.

    Raises:
        DamagedFile: the file is damaged, or does not fit the buffer.
    """
    try:
        check_archive(path, largest_file(buffer))
        with zipfile.ZipFile(path) as archive:
            position = np.zeros(2, dtype=np.int64)
            _read(archive, "position", position)
            pos, full = position.tolist()
            if full not in (0, 1) or not 0 <= pos < buffer.buffer_size:
                raise ValueError(f"it claims to be at row {pos} of {buffer.buffer_size}")
            filled = buffer.buffer_size if full else pos
            for name, array in _arrays(buffer):
                _read(archive, name, array[:filled])
            observations = dict(_arrays(buffer))
            for key, following in _next_observations(buffer):
                apart = np.zeros(filled, dtype=np.bool_)
                _read(archive, f"apart/{key}", apart)
                rows = np.empty((int(apart.sum()), *following.shape[1:]), dtype=following.dtype)
                _read(archive, f"next_observations/{key}", rows)
                following[:filled] = np.roll(observations[f"observations/{key}"][:filled], -1, axis=0)
                following[:filled][apart] = rows
    except Exception as error:  # zipfile, zlib and numpy fail on damaged files in a dozen ways
        raise DamagedFile(
            f"{str(path)!r} is not a replay buffer of this agent, or damaged: {error}"
        ) from error
    buffer.pos, buffer.full = pos, bool(full)


def _arrays(buffer: ReplayBuffer) -> Iterator[tuple[str, Array]]:
    """The arrays of the buffer but the next observations, by name; of Dict observations one for each key."""
    for name in _FIELDS:
        yield from _parts(name, getattr(buffer, name))


def _next_observations(buffer: ReplayBuffer) -> Iterator[tuple[str, Array]]:
    """By key of a Dict observation; the key is empty where there is one array."""
    for name, array in _parts("next_observations", buffer.next_observations):
        yield name.split("/", 1)[1], array


def _parts(name: str, array: Any) -> Iterator[tuple[str, Array]]:
    if isinstance(array, dict):
        for key, part in array.items():
            yield f"{name}/{key}", part
    else:
        yield f"{name}/", array


def _rows_apart(observations: Array, following: Array) -> Array:
    """Which rows of ``following`` are not, byte for byte, the next row of ``observations``, in a ring."""
    apart = np.zeros(len(observations), dtype=np.bool_)
    if not observations.size:
        return apart
    ours, theirs = (array.reshape(len(array), -1).view(np.uint8) for array in (observations, following))
    apart[:-1] = (ours[1:] != theirs[:-1]).any(axis=1)
    apart[-1] = (ours[0] != theirs[-1]).any()
    return apart


def _write(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    # Opened by its name a member carries no time, so that equal buffers make equal files.
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        array = np.ascontiguousarray(array)
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
        for chunk in _chunks(array):
            file.write(chunk)


def _read(archive: zipfile.ZipFile, name: str, into: Array) -> None:
    """Unpack a member into ``into``, whose shape and type it must have."""
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_DEFLATED:
        raise ValueError(f"{name}: it is compressed in another way than it was written")
    with archive.open(member) as file:
        if npy.read_magic(file) != (1, 0):
            raise ValueError(f"{name}: an unknown version of the format")
        shape, fortran, dtype = npy.read_array_header_1_0(file)
        if (shape, fortran, dtype) != (into.shape, False, into.dtype):
            raise ValueError(
                f"{name}: expected {into.dtype} of shape {into.shape}, got {dtype} of shape {shape}"
            )
        for chunk in _chunks(into):
            _fill(file, chunk)
        if file.read(1):
            raise ValueError(f"{name}: it is longer than it says")


def _fill(file: IO[bytes], chunk: memoryview) -> None:
    while chunk:
        data = file.read(len(chunk))
        if not data:
            raise ValueError("it ends early")
        chunk[: len(data)] = data
        chunk = chunk[len(data) :]


def _chunks(array: Array) -> Iterator[memoryview]:
    """The bytes of a contiguous array, a mebibyte at a time."""
    data = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]
