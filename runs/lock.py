"""One writer per run folder: a lock of the operating system, which ends with the process that holds it."""

from __future__ import annotations

import errno
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import FolderInUse, RunFolderError

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_PATIENCE = 0.2
"""Seconds: whoever asks :func:`is_abandoned` holds the lock for a moment, and must turn nobody away."""


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of the file at ``path`` within the block; do not wait for another to give it back.

    The file stays when the lock is given back: were it removed, two processes could each hold a lock.

    Args:
        path: of the lock's file; made if it is not there.
        what: it guards, for the error's text.

    Raises:
        FolderInUse: another process has it, or another thread of this one.
        RunFolderError: the file cannot be made.

    Warns:
        RuntimeWarning: the file system knows no locks; the block is entered without one.
    """
    # A soft lock, which is nothing but the file's existence, would outlive a process that is killed.
    lock = FileLock(path, timeout=_PATIENCE, fallback_to_soft=False)
    try:
        lock.acquire(poll_interval=_PATIENCE / 4)
    except Timeout:
        raise FolderInUse(
            f"{what} is in use by {_holder(path)}, and two would write to the same files; wait until it is "
            "done, or stop it"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise RunFolderError(
                f"{what} cannot be locked, so nothing was written: {error.strerror or error}; make it "
                "writable"
            ) from None
        text = f"{what} is on a file system without locks: see to it that no other process writes there"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        yield
        return
    try:
        with suppress(OSError):  # a full disk: then nobody is named
            path.write_text(f"process {os.getpid()}{_here()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def is_abandoned(path: Path) -> bool:
    """Whether a process of this machine once held the lock at ``path``, and none does now.

    False where it cannot be told: the file is not there or may not be opened, another machine wrote it (its
    locks may not be seen from here), or the file system knows no locks.
    """
    if not _holder(path).endswith(_here()):
        return False
    try:
        with FileLock(path, blocking=False, fallback_to_soft=False):
            return True
    except (Timeout, OSError):
        return False


def _here() -> str:
    return f" on {platform.node()}"


def _holder(path: Path) -> str:
    """Who holds the lock, as it wrote there; where a locked file cannot be read (Windows), somebody."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(200) or "another process"
    except OSError:
        return "another process"
